"""Any rectangle of any level, also beyond the borders, is what the reference readers give.

tifffile and zarr decode whole levels; OpenSlide reads rectangles of what it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from comir_search.slides import open_slide
from comir_search.slides.slide import Slide

from .conftest import halve, paint
from .test_ome_zarr import write_zarr

APERIO = "Aperio Image Library v12|AppMag = 20|MPP = 0.499"


def rectangles(height: int, width: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """Return (x, y, width, height) inside, across each border and corner, around everything, and outside."""
    rng = np.random.default_rng(seed)
    inside = [
        (int(x), int(y), int(rng.integers(1, width)), int(rng.integers(1, height)))
        for x, y in zip(rng.integers(-40, width, 12), rng.integers(-40, height, 12), strict=True)
    ]
    around = [(-7, -9, width + 20, height + 31), (width - 1, height - 1, 1, 1), (0, 0, width, height)]
    outside = [(width, 0, 10, 12), (0, height, 8, 3), (-30, -30, 30, 30), (5, -20, 9, 20)]
    return inside + around + outside


def cut(level: np.ndarray, x: int, y: int, width: int, height: int, background: float) -> np.ndarray:
    """Return a rectangle by the plain rule: what is not there is background."""
    rows, columns = np.arange(y, y + height), np.arange(x, x + width)
    known = ((rows >= 0) & (rows < level.shape[0]))[:, None] & ((columns >= 0) & (columns < level.shape[1]))
    values = level[rows.clip(0, level.shape[0] - 1)[:, None], columns.clip(0, level.shape[1] - 1)].copy()
    values[~known] = background
    return values


def check(slide: Slide, levels: list[np.ndarray]) -> None:
    assert slide.level_shapes == tuple(level.shape[:2] for level in levels)
    background = 255 if slide.channels == 3 else 0
    for number, level in enumerate(levels):
        for place in rectangles(*level.shape[:2], seed=number):
            found = slide.read_level(number, *place)
            np.testing.assert_array_equal(found, cut(level, *place, background), err_msg=f"{number} {place}")


def write_aperio(path: Path, image: np.ndarray, **options: object) -> Path:
    options = {"photometric": "rgb", "metadata": None, "description": APERIO, **options}
    bigtiff = bool(options.pop("bigtiff", False))
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for level in (image, halve(halve(image)), halve(halve(halve(halve(image))))):
            tiff.write(level, **options)
    return path


def write_apart(path: Path, image: np.ndarray, **options: object) -> Path:
    """A pyramid as sub-resolutions whose colours lie in planes of their own."""
    options = {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64), **options}
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((image, halve(image), halve(halve(image)))):
            planes = np.ascontiguousarray(level.transpose(2, 0, 1))
            tiff.write(
                planes, metadata=None, subifds=0 if number else 2, subfiletype=min(number, 1), **options
            )
    return path


TIFFS: dict[str, Callable[..., Path]] = {
    "aperio-240": lambda path, image: write_aperio(path, image, tile=(240, 240), compression="jpeg"),
    "aperio-240-jpeg-2000": lambda path, image: write_aperio(path, image, tile=(240, 240), compression="jpeg2000"),
    "wide-tiles": lambda path, image: write_aperio(path, image, tile=(256, 512), compression="lzw"),
    "tall-tiles": lambda path, image: write_aperio(path, image, tile=(512, 256), compression="jpeg"),
    "tiles-larger-than-the-image": lambda path, image: write_aperio(path, image, tile=(1024, 1024), compression="zlib"),
    "big-tiff": lambda path, image: write_aperio(path, image, tile=(240, 240), compression="jpeg", bigtiff=True),
    "colours-apart": lambda path, image: write_apart(path, image, compression="zlib"),
    "colours-apart-uncompressed": lambda path, image: write_apart(path, image),
    "colours-apart-in-one-piece": lambda path, image: write_apart(path, image, tile=None),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff(tmp_path, kind):
    path = TIFFS[kind](tmp_path / "a.svs", paint(1003, 871))
    with tifffile.TiffFile(path) as tiff:
        pages = [tiff.pages[0], *(tiff.pages[0].pages or []), *tiff.pages[1:]]
        levels = [page.asarray() for page in pages]
    assert len(levels) == 3
    levels = [level.transpose(1, 2, 0) if level.shape[0] == 3 else level for level in levels]
    with open_slide(path) as slide:
        check(slide, levels)


@pytest.mark.parametrize("kind", [kind for kind in TIFFS if "apart" not in kind and "jpeg-2000" not in kind])
def test_tiff_as_openslide_reads_it(tmp_path, kind):
    openslide = pytest.importorskip("openslide")
    path = TIFFS[kind](tmp_path / "a.svs", paint(1000, 880))  # whole steps: else OpenSlide interpolates
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        assert other.level_dimensions == tuple((width, height) for height, width in slide.level_shapes)
        for level, (height, width) in enumerate(slide.level_shapes[:2]):
            step = slide.level_downsamples[level]
            for x, y, columns, rows in rectangles(height, width):
                pixels = np.asarray(
                    other.read_region((round(x * step), round(y * step)), level, (columns, rows))
                )
                known = pixels[..., 3] == 255
                found = slide.read_level(level, x, y, columns, rows)
                difference = np.abs(found.astype(int) - pixels[..., :3])[known]
                assert difference.max(initial=0) <= 1  # two JPEG decoders
                assert (found[~known] == 255).all()


@pytest.mark.parametrize("chunks", [(64, 64, 3), (100, 37, 1), (2000, 2000, 3)], ids=str)
@pytest.mark.parametrize("shards", [False, True])
def test_ome_zarr_of_any_chunks(tmp_path, chunks, shards):
    """Chunks cut at the border, wider than the level, one per channel, and several in a file."""
    image = paint(411, 300)
    levels = [image, halve(image)]
    path = write_zarr(tmp_path / "a.zarr", levels)
    group = zarr.open_group(str(path), mode="a")
    for number, level in enumerate(levels):
        inside = {"shards": tuple(2 * side for side in chunks)} if shards else {}
        array = group.create_array(
            str(number), shape=level.shape, dtype=level.dtype, chunks=chunks, overwrite=True, **inside
        )
        array[...] = level
    with open_slide(path) as slide:
        check(slide, levels)


@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4"])
def test_ome_zarr_of_either_byte_order(tmp_path, dtype):
    image = paint(90, 130, 1, np.dtype(dtype).newbyteorder("=").name)
    path = write_zarr(tmp_path / "a.zarr", [image.astype(dtype)], version="0.4", axes="yx")
    with open_slide(path) as slide:
        assert slide.dtype.isnative
        check(slide, [image])


def test_chunks_that_ome_zarr_leaves_out_are_its_fill_value(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [paint(300, 300)])
    (path / "0" / "c" / "1" / "1" / "0").unlink()
    with open_slide(path) as slide:
        check(slide, [np.asarray(zarr.open_array(str(path / "0"), mode="r"))])


def test_ome_zarr_of_odd_steps(tmp_path):
    """Sides rounded up, steps of three."""
    image = paint(1001, 778)
    levels = [image, image[::3, ::3], image[::9, ::9]]
    with open_slide(write_zarr(tmp_path / "a.zarr", levels)) as slide:
        assert slide.level_downsamples == (1, 3, 9)
        check(slide, levels)
