"""Check the size in the header of a compressed picture before it is decoded.

A tile in a TIFF can be a picture with its own header. A damaged header may give a
much larger size than the TIFF does.
"""

from __future__ import annotations

import struct

JPEG = frozenset({6, 7, 34892, 33007})
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
WEBP = frozenset({50001})
PNG = frozenset({34933})
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_STANDALONE = {0x01, *range(0xD0, 0xDA)}
_MOST_SCANS = 200
_SCAN = b"\xff\xda"


def check_picture(
    data: bytes, compression: int, shape: tuple[int, int], *, header: bytes | None = None
) -> None:
    """Raise an error if the header of a compressed tile gives more pixels than a tile has.

    Parameters
    ----------
    data : bytes
        The tile.
    compression : int
        TIFF's number of the compression. Kinds without a header are not checked:
        they are never unpacked beyond the size that the TIFF gives.
    shape : (int, int)
        Height and width of a tile.
    header : bytes, optional
        Header of a JPEG that is stored without it (NDPI).

    Raises
    ------
    ValueError
        With a message for `stated_failures`.
    """
    if compression in JPEG:
        size = jpeg_size((header or b"") + data[: 1 << 16])
        check_scans(data)
    elif compression in JPEG_2000:
        at = data.find(b"\xff\x4f\xff\x51")
        if at < 0:
            raise ValueError("a tile is no JPEG 2000")
        x1, y1, x0, y0 = struct.unpack(">IIII", data[at + 8 : at + 24])
        size = (y1 - y0, x1 - x0)
    elif compression in WEBP:
        size = _webp_size(data)
    elif compression in PNG:
        size = struct.unpack(">II", data[16:24])[::-1]
    else:
        return
    if size is not None and size[0] * size[1] > 2 * shape[0] * shape[1] + (1 << 20):
        raise ValueError(f"a tile contains {size[1]} x {size[0]} pixels instead of {shape[1]} x {shape[0]}")


def check_scans(data: bytes) -> None:
    """Raise an error if a progressive JPEG has absurdly many passes: each one costs time."""
    if data.count(_SCAN) > _MOST_SCANS:
        raise ValueError("a JPEG of more than 200 passes")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the height and width in a JPEG's frame header, None if there is none."""
    at = 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 < len(data):
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        if marker == 0xDA:
            return None
        if marker in (0x00, 0xFF) or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return height & 0x3FFF, width & 0x3FFF
    raise ValueError("a tile is no WebP")
