"""Malformed slides and queries: TIFF of many makes, PNG, JPEG, OME-Zarr."""

from __future__ import annotations

import argparse
import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image

from comir_search.cli import info
from comir_search.pictures.display import to_display
from comir_search.slides import Slide, open_slide
from fuzzing.case import MEBIBYTE, Attempt, Case, copy_tree, pick
from fuzzing.mutations import NUMBERS, SIZES_64, TEXTS, break_bytes, break_document, break_number
from fuzzing.pixels import paint, write_slide

MEMORY_BYTES = 1024 * MEBIBYTE
_UUID = "8a5c2f60-0000-4000-8000-000000000000"
_HUGE_PX = 30_000
_ZARRS = ("v2.zarr", "v3.zarr")

# Tags that say where pixels are, how many, and of which kind: worth breaking more often than others.
_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 283, 284, 296),
    *(317, 320, 322, 323, 324, 325, 330, 338, 339, 347, 530, 532),
}
_COMPRESSIONS = (
    1,
    2,
    4,
    5,
    6,
    7,
    8,
    32773,
    32946,
    33003,
    33005,
    34712,
    34887,
    34892,
    50000,
    50001,
    50002,
    65535,
)
_LONG = "a" * 1000
# Entities for the head of OME-XML: a file of the machine, and one that unfolds to gigabytes.
_ENTITIES = (
    ('<!ENTITY a SYSTEM "file:///etc/passwd">', "a"),
    (
        f'<!ENTITY a "{_LONG}">'
        + "".join(
            '<!ENTITY {} "{}">'.format(each, f"&{inner};" * 30)
            for inner, each in zip("abcde", "bcdef", strict=True)
        ),
        "f",
    ),
)


def make_bases(folder: Path) -> None:
    """Write one of each format."""
    colour, grey = paint(300, 380), paint(260, 200, 1, "uint16")
    small = [np.ascontiguousarray(colour[::2, ::2]), np.ascontiguousarray(colour[::4, ::4])]
    tile, size = (128, 128), {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "UUID": _UUID}
    write_slide(folder / "plain.tif", colour)
    for name, options in {
        "strips.tif": {"rowsperstrip": 17},
        "lzw.tif": {"compression": "lzw", "predictor": True, "tile": tile},
        "jpeg.tif": {"compression": "jpeg", "tile": tile},
        "jpeg2000.tif": {"compression": "jpeg2000", "tile": tile},
        "big.tif": {"bigtiff": True, "tile": tile, "compression": "deflate"},
        "motorola.tif": {"byteorder": ">", "rowsperstrip": 300},
    }.items():
        tifffile.imwrite(folder / name, colour, photometric="rgb", metadata=None, **options)
    tifffile.imwrite(
        folder / "planes.tif",
        np.ascontiguousarray(colour.transpose(2, 0, 1)),
        photometric="rgb",
        planarconfig="separate",
        metadata=None,
    )
    tifffile.imwrite(folder / "grey.tif", grey, metadata=None)
    tifffile.imwrite(folder / "float.tif", paint(90, 70, 1, "float32"), metadata=None)
    tifffile.imwrite(folder / "bits.tif", paint(90, 70, 1) > 120, metadata=None)
    tifffile.imwrite(
        folder / "imagej.tif", grey, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "um", "axes": "YX"}
    )
    with tifffile.TiffWriter(folder / "pyramid.ome.tif", ome=True) as file:
        common = {"tile": tile, "photometric": "rgb", "compression": "deflate"}
        file.write(colour, subifds=2, metadata={**size, "axes": "YXS"}, **common)
        for level in small:
            file.write(level, subfiletype=1, **common)
    with tifffile.TiffWriter(folder / "aperio.svs") as file:
        common = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "software": False}
        text = "Aperio Image Library v12\r\n380x300 [0,0 380x300] (128x128) JPEG Q=70|AppMag = 20|MPP = 0.5"
        file.write(colour, tile=tile, description=text, **common)
        file.write(small[1], description="Aperio Image Library v12\r\nthumbnail", rowsperstrip=75, **common)
        file.write(small[0], tile=tile, description=text, **common)
    picture = Image.fromarray(colour)
    picture.save(folder / "colour.png", dpi=(50_800, 50_800))
    Image.fromarray(grey).save(folder / "grey.png")
    picture.quantize(16).save(folder / "palette.png")
    picture.save(folder / "colour.jpg", dpi=(50_800, 50_800))
    picture.convert("L").save(folder / "progressive.jpg", progressive=True)
    for name, version in zip(_ZARRS, (2, 3), strict=True):
        _write_zarr(folder / name, [colour, *small], version)
    for path in folder.glob("*.ome.tif"):  # tifffile makes a new identifier each time
        path.write_bytes(
            re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", _UUID.encode(), path.read_bytes())
        )


def copy_bases(bases: Path, folder: Path) -> list[Case]:
    """Return each sound image as a case."""
    return [_begin(bases, folder / base.name, base.name) for base in sorted(bases.iterdir())]


def write_case(bases: Path, folder: Path, rng: np.random.Generator) -> Case:
    """Break one image."""
    if rng.random() < 0.02:
        return _write_bomb(folder, rng)
    name = pick(rng, [path.name for path in sorted(bases.iterdir())])
    if rng.random() < 0.15:
        name = pick(rng, _ZARRS)
    case = _begin(bases, folder, name)
    if name in _ZARRS:
        for _ in range(int(rng.integers(1, 3))):
            _break_zarr(case, rng)
        return case
    data, notes = case.target.read_bytes(), [name]
    if rng.random() < 0.35:
        data, note = break_bytes(data, rng)
        notes.append(note)
    elif case.target.suffix in (".png", ".jpg"):
        for _ in range(int(rng.integers(1, 4))):
            data, note = (_break_png if case.target.suffix == ".png" else _break_jpeg)(data, rng)
            notes.append(note)
    else:
        layout = _TiffLayout(data)
        for _ in range(int(rng.integers(1, 4))):
            data, note = _break_tiff(data, layout, rng, case)
            notes.append(note)
    case.target.write_bytes(data)
    case.notes += notes
    return case


def act(case: Case, attempt: Attempt) -> None:
    """Describe the image, and look at its overview and at its borders."""
    attempt("info", lambda: info.run(argparse.Namespace(slides=[case.target], json=case.out / "info.json")))
    slide = attempt("open", lambda: open_slide(case.target))
    if slide is None:
        return
    with slide:
        attempt("identity", lambda: slide.identity)
        attempt("overview", lambda: to_display(slide.overview(300)[0]))
        for level in range(min(len(slide.level_shapes), 4)):
            attempt(f"read level {level}", lambda level=level: _read_level(slide, level))
        attempt("lazy level", lambda: np.asarray(slide.levels[-1][:40, :40]))
        if slide.pixel_size_um is not None:
            attempt("scaled", lambda: slide.read_scaled(2 * slide.require_pixel_size(), -5, -5, 60, 60))


def _read_level(slide: Slide, level: int) -> None:
    height, width = slide.level_shapes[level]
    for x, y in ((-10, -10), (width // 2, height // 2), (width - 20, height - 20), (width - 20, -10)):
        part = slide.read_level(level, x, y, 48, 40)
        if part.shape[:2] != (40, 48):
            raise AssertionError(f"read_level gave {part.shape}")


def _begin(bases: Path, folder: Path, name: str) -> Case:
    case = Case.begin(folder, name)
    copy_tree(bases / name, case.target)
    return case


# TIFF


class _TiffLayout:
    """Where a sound file has its directories and their entries."""

    def __init__(self, data: bytes) -> None:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            self.order, self.large = file.byteorder, file.is_bigtiff
            pages = [part for page in file.pages for part in (page, *(page.pages or ()))]
            self.tags = [tag for page in pages for tag in page.tags]
            self.starts = [page.offset for page in pages]
            self.counts = [len(page.tags) for page in pages]


def _break_tiff(data: bytes, layout: _TiffLayout, rng: np.random.Generator, case: Case) -> tuple[bytes, str]:
    """Change an entry of a directory, the links between them, or the description."""
    order, large, tags, starts = layout.order, layout.large, layout.tags, layout.starts
    likely = [tag for tag in tags if tag.code in _TAGS]
    described = [tag for tag in tags if tag.code == 270 and tag.dtype == 2]
    if described and rng.random() < 0.3:
        tag = pick(rng, described)
        text = _break_description(str(tag.value), rng, case)
        return _put_text(
            data, tag, text.encode("utf-8", "surrogatepass"), order, large
        ), "description changed"
    broken = bytearray(data)
    if rng.random() < 0.1:
        number = int(rng.integers(len(starts)))
        at = starts[number] + (8 if large else 2) + layout.counts[number] * (20 if large else 12)
        target = pick(rng, (starts[0], starts[number], 0, 1, len(data), len(data) - 4, 2**32 - 1, at))
        struct.pack_into(order + ("Q" if large else "I"), broken, at, target)
        return bytes(broken), f"directory {number} is followed by one at {target}"
    tag = pick(rng, likely if likely and rng.random() < 0.8 else tags)
    field = pick(rng, ("value", "value", "value", "value", "count", "type", "code", "offset"))
    if field == "count":
        value = pick(rng, (*SIZES_64, tag.count + 1, tag.count * 2, max(tag.count - 1, 0)))
        form, at = ("Q" if large else "I"), tag.offset + 4
    elif field == "type":
        value, form, at = pick(rng, (*range(19), 129, 65535)), "H", tag.offset + 2
    elif field == "code":
        value, form, at = pick(rng, (*sorted(_TAGS), 0, 65535, 34665, 34853, 50838, 51123)), "H", tag.offset
    elif field == "offset":
        value = pick(rng, (*SIZES_64, len(data) - 3, tag.offset))
        form, at = ("Q" if large else "I"), tag.offset + (12 if large else 8)
    else:
        form = {1: "B", 3: "H", 4: "I", 16: "Q", 11: "f", 12: "d"}.get(int(tag.dtype), "I")
        size = struct.calcsize(form)
        at = tag.valueoffset + size * int(rng.integers(max(1, min(tag.count, 64))))
        values = (*SIZES_64, 3, 4, 8, 16, 24, 32, 64, 1000, 60_000, 100_000)
        value = pick(rng, _COMPRESSIONS if tag.code == 259 else values)
        if form in "fd":
            struct.pack_into(order + form, broken, at, pick(rng, (0.0, -1.0, 1e30, float("nan"))))
            return bytes(broken), f"tag {tag.code} value"
    value %= 1 << 8 * struct.calcsize(form)
    if at + struct.calcsize(form) <= len(broken):
        struct.pack_into(order + form, broken, at, value)
    return bytes(broken), f"tag {tag.code} {field} = {value}"


def _put_text(data: bytes, tag: tifffile.TiffTag, text: bytes, order: str, large: bool) -> bytes:
    """Append a text, and let a tag point to it."""
    data += bytes(len(data) % 2)
    broken = bytearray(data + text + b"\0")
    form = "Q" if large else "I"
    struct.pack_into(order + form, broken, tag.offset + 4, len(text) + 1)
    struct.pack_into(order + form, broken, tag.offset + (12 if large else 8), len(data))
    return bytes(broken)


def _break_description(text: str, rng: np.random.Generator, case: Case) -> str:
    """Return OME-XML, Aperio's or ImageJ's text with something wrong."""
    if "<OME" not in text:
        return pick(rng, (break_number(text, rng), break_number(text, rng), pick(rng, TEXTS), text * 200))
    choice = rng.random()
    if choice < 0.45:
        found = list(re.finditer(r'(\w+)="([^"]*)"', text))
        match = pick(rng, found)
        value = pick(rng, (*NUMBERS, "0,5", "-0.5", "mm", "inch", "furlong", *map(_as_attribute, TEXTS)))
        return text[: match.start(2)] + value + text[match.end(2) :]
    if choice < 0.6:
        return break_number(text, rng)
    if choice < 0.75:
        other = _make_companion(case, rng)
        block = (
            f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{other}">urn:uuid:{_UUID}</UUID></TiffData>'
        )
        return re.sub(r"<TiffData.*?(/>|</TiffData>)", lambda _: block, text, count=1, flags=re.DOTALL)
    if choice < 0.85:
        head, _, rest = text.partition("<OME")
        entities, name = pick(rng, _ENTITIES)
        named = re.sub('Name="[^"]*"', f'Name="&{name};"', rest, count=1)
        return f"{head}<!DOCTYPE OME [{entities}]><OME{named}"
    if choice < 0.92:
        image = re.search(r"<Image .*?</Image>", text, re.DOTALL)
        assert image is not None
        return text.replace(image.group(), pick(rng, ("", image.group() * 2, image.group() * 300)))
    return pick(
        rng, (text[: len(text) // 2], "<a>" * 20_000, text.replace("</OME>", ""), text.upper(), "<OME/>")
    )


def _as_attribute(text: str) -> str:
    return re.sub('[<>&"\0]', "", text)


def _make_companion(case: Case, rng: np.random.Generator) -> str:
    """Put a file beside the image, and return its name as OME-XML may give it."""
    beside = case.folder / "beside.ome.tif"
    if not os.path.lexists(beside):
        made = pick(rng, ("fifo", "link", "copy", "nothing", "folder"))
        if made == "fifo" and hasattr(os, "mkfifo"):
            os.mkfifo(beside)
        elif made == "link":
            beside.symlink_to("/etc/passwd")
        elif made == "copy":
            beside.write_bytes(case.target.read_bytes())
        elif made == "folder":
            beside.mkdir()
    return str(
        pick(rng, (beside.name, beside.name, "../victim.txt", "/etc/passwd", "/dev/zero", "", "missing.tif"))
    )


# PNG and JPEG


def _break_png(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change a chunk, its checksum right or wrong."""
    chunks = _png_chunks(data) or [(b"IHDR", bytes(13))]
    number = 0 if rng.random() < 0.4 else int(rng.integers(len(chunks)))
    kind, content = chunks[number]
    if kind == b"IHDR" and rng.random() < 0.9:
        header = list(struct.unpack(">IIBBBBB", content[:13].ljust(13, b"\0")))
        position = int(rng.integers(7))
        header[position] = int(pick(rng, SIZES_64[:12])) % (1 << (32 if position < 2 else 8))
        chunks[number] = (kind, struct.pack(">IIBBBBB", *header))
        note = f"IHDR {position} = {header[position]}"
    else:
        action = pick(rng, ("content", "removed", "repeated", "renamed", "moved"))
        note = f"{kind.decode('latin-1')} {action}"
        if action == "content":
            chunks[number] = (kind, break_bytes(content, rng)[0])
        elif action == "removed":
            del chunks[number]
        elif action == "repeated":
            chunks[number:number] = [chunks[number]] * int(rng.integers(1, 50))
        elif action == "renamed":
            chunks[number] = (
                pick(rng, (b"IEND", b"pHYs", b"PLTE", b"iCCP", b"tRNS", b"acTL", b"\0\0\0\0")),
                content,
            )
        else:
            chunks.insert(int(rng.integers(len(chunks))), chunks.pop(number))
    return data[:8] + b"".join(_png_chunk(*chunk) for chunk in chunks), note


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _break_jpeg(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change a field of a segment; the frame's, where the sizes are, most often."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if at + 2 + length > len(data) or length < 2:
            break  # broken there already
        segments.append((data[at + 1], at, length))
        if data[at + 1] == 0xDA:
            break
        at += 2 + length
    frames = [segment for segment in segments if segment[0] in (0xC0, 0xC1, 0xC2)]
    if not segments:
        return break_bytes(data, rng)
    marker, at, length = pick(rng, frames if frames and rng.random() < 0.5 else segments)
    broken = bytearray(data)
    if marker in (0xC0, 0xC1, 0xC2) and length >= 8 and rng.random() < 0.6:
        position, side = pick(rng, (5, 7)), pick(rng, (0, 1, 16, 5000, 30_000, 65_500, 65_535))
        struct.pack_into(">H", broken, at + position, side)
        return bytes(broken), f"frame size {side}"
    position = at + 1 + int(rng.integers(length + 1))
    broken[position] = int(pick(rng, (0, 1, 2, 3, 4, 0x11, 0x44, 0x7F, 0xC4, 0xD8, 0xFF)))
    return bytes(broken), f"segment {marker:#x} byte {position - at}"


# OME-Zarr


def _write_zarr(path: Path, levels: list[np.ndarray], version: int) -> None:
    """Write an image as OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3)."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    datasets = []
    for number, level in enumerate(levels):
        planes = np.ascontiguousarray(level.transpose(2, 0, 1))
        options = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if version == 2 else {}
        array = group.create_array(
            str(number), shape=planes.shape, chunks=(3, 64, 64), dtype=planes.dtype, **options
        )
        array[:] = planes
        scale = [1.0, 0.5 * 2**number, 0.5 * 2**number]
        datasets.append(
            {"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    image = {"axes": [{"name": "c", "type": "channel"}, *space], "datasets": datasets, "name": "image"}
    if version == 2:
        group.attrs["multiscales"] = [{**image, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


def _break_zarr(case: Case, rng: np.random.Generator) -> None:
    """Change a document, a chunk, or what lies where one of them should."""
    files = sorted(path for path in case.target.rglob("*") if path.is_file() and not path.is_symlink())
    documents = [path for path in files if path.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
    chunks = [path for path in files if path not in documents]
    choice = rng.random()
    if choice < 0.5 and documents:
        path = pick(rng, documents)
        broken, note = break_document(path.read_text(errors="replace"), rng)
        path.write_bytes(broken.encode("utf-8", "surrogatepass"))
    elif choice < 0.6 and documents:
        path, note = pick(rng, documents), "shape and chunks changed alike"
        side = pick(rng, (0, 1, 1000, 20_000, 60_000, 2**31, 2**40))
        text = path.read_text(errors="replace")
        path.write_text(
            re.sub(
                r'("(?:shape|chunks|chunk_shape)": \[\s*)3,\s*\d+,\s*\d+', rf"\g<1>3, {side}, {side}", text
            )
        )
    elif choice < 0.68 and documents:
        path, note = pick(rng, documents), "another dataset's path"
        names = ("../..", "../victim.txt", "/etc", "..", "", ".", "0/0", "00", "1/../0", "a" * 300, "\\u0000")
        text = path.read_text(errors="replace")
        path.write_text(text.replace('"path": "0"', f'"path": "{pick(rng, names)}"'))
    elif choice < 0.82 and chunks:
        path, (broken_bytes, note) = pick(rng, chunks), break_bytes(pick(rng, chunks).read_bytes(), rng)
        path.write_bytes(broken_bytes)
    else:
        path = pick(rng, files)
        note = pick(
            rng, ("removed", "a fifo", "a folder", "a link", "a link to itself", "a link out", "a device")
        )
        path.unlink()
        if note == "a fifo" and hasattr(os, "mkfifo"):
            os.mkfifo(path)
        elif note == "a folder":
            path.mkdir()
        elif note.startswith("a link"):
            path.symlink_to({"a link": files[0], "a link to itself": path, "a link out": case.victim}[note])
        elif note == "a device":
            path.symlink_to("/dev/zero")
    case.notes.append(f"{path.relative_to(case.folder)}: {note}")


# Sound files that claim, and hold, far more than their size suggests


def _write_bomb(folder: Path, rng: np.random.Generator) -> Case:
    """Write a small file that decodes to gigabytes."""
    name = pick(rng, ("large.png", "large.jpg", "large.tif", "large_strip.tif", "large_tile.tif"))
    case = Case.begin(folder, name)
    side = int(pick(rng, (12_000, 20_000, _HUGE_PX)))
    case.notes.append(f"{side} x {side} pixels of one colour")
    if name == "large.png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        pixels = deflate_zeros((3 * side + 1) * side)
        chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
        case.target.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks))
        return case
    if name == "large.jpg":
        buffer = io.BytesIO()
        Image.new("L", (64, 64)).save(buffer, "JPEG")
        data = bytearray(buffer.getvalue())
        at = data.index(b"\xff\xc0")
        struct.pack_into(">HH", data, at + 5, side, side)
        case.target.write_bytes(bytes(data))
        return case
    small = io.BytesIO()
    options = {"tile": (256, 256)} if name != "large_strip.tif" else {"rowsperstrip": 256}
    tifffile.imwrite(small, np.zeros((256, 256), np.uint8), compression="deflate", metadata=None, **options)
    data = bytearray(small.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = {tag.code: tag for tag in file.pages[0].tags}
    tile_side = 256 if name == "large.tif" else side
    payload = deflate_zeros(tile_side * tile_side)
    for code, value in {256: side, 257: side, 322: tile_side, 323: tile_side, 278: tile_side}.items():
        if code in tags:
            struct.pack_into("<H", data, tags[code].offset + 2, 4)
            struct.pack_into("<II", data, tags[code].offset + 4, 1, value)
    for code, value in {324: len(data), 273: len(data), 325: len(payload), 279: len(payload)}.items():
        if code in tags:
            struct.pack_into("<H", data, tags[code].offset + 2, 4)
            struct.pack_into("<II", data, tags[code].offset + 4, 1, value)
    case.target.write_bytes(bytes(data) + payload)
    return case


def deflate_zeros(size: int) -> bytes:
    """Return a zlib stream that inflates to so many zeros, made without deflating them all."""
    block = 1 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    repeated = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(size % block)) + last.flush()
    adler = (size % 65521) << 16 | 1  # of zeros: a stays 1, b counts them
    return b"\x78\xda" + repeated * (size // block) + rest + adler.to_bytes(4, "big")
