"""Write a slide of any size from real tissue, with cores of known place, never holding it in memory.

    python tests/benchmarks/giant_slide.py --slides ../shared/data/wsi --pairs ../shared/data/he_shg_tma \\
        --out /tmp/giant --gigapixels 10 [--format ome|svs]

The slide is a square at 0.25 um in cells of 1.024 mm. A third of its area is tissue, in a few smooth
islands: patches of the real slides, each turned or flipped otherwise than every other copy of it, and
among them the cores of one split, enlarged from their nominal 2 um. The rest is glass. Tiles are rendered
straight from the sources, one at a time, at every level of the pyramid. SHG queries of the cores and
truth.csv (in the columns that ``comir-search evaluate-slide`` reads) are written beside the slide.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from comir_search.geometry import center_frame_matrix, turn_matrix
from comir_search.opencv import cv2
from comir_search.sample.synthesis import TRUTH_COLUMNS
from comir_search.slides import find_slides, open_slide

PIXEL_UM = 0.25
CORE_PIXEL_UM = 2.0
CELL_UM = 1024.0  # a core's side
UNSTATED_PIXEL_UM = 0.5  # of source slides that state none
TISSUE_SHARE = 1 / 3
ISLAND_CELLS = 3.0  # radius of the smoothing that shapes the islands
LEAST_TISSUE = 0.6  # of a source patch
COLOURED = 18  # channels of a tissue pixel differ by more than this
QUALITY = 80
QUERY_PX = 192  # at CORE_PIXEL_UM
GLASS = (238, 238, 240)


@dataclass(frozen=True)
class Source:
    """An image held in memory, finest level first; each level halves the one before."""

    levels: list[np.ndarray]
    pixel_um: float

    @classmethod
    def make(cls, image: np.ndarray, pixel_um: float) -> Source:
        levels = [np.ascontiguousarray(image)]
        while min(levels[-1].shape[:2]) > 8:
            height, width = levels[-1].shape[:2]
            size = (width // 2, height // 2)
            levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
        return cls(levels, pixel_um)

    def level_for(self, pixel_um: float) -> int:
        """Return the coarsest level that is as fine as asked for, the finest where none is."""
        return min(max(0, math.floor(math.log2(pixel_um / self.pixel_um) + 0.1)), len(self.levels) - 1)


@dataclass(frozen=True)
class Patch:
    """A square of a source, turned by quarter turns and perhaps flipped."""

    source: Source
    center_um: tuple[float, float]
    turns: int = 0
    flipped: bool = False

    def draw(self, tile: np.ndarray, corner_px: tuple[int, int], pixel_um: float) -> None:
        """Fill a part of a tile, whose corner lies so far from the cell's, pixels of the tile."""
        level = self.source.level_for(pixel_um)
        to_um = np.diag([pixel_um, pixel_um, 1.0])
        to_um[:2, 2] = np.array(corner_px) * pixel_um - CELL_UM / 2
        turn = np.eye(3)
        turn[:2, :2] = turn_matrix(90.0 * self.turns, self.flipped)
        turn[:2, 2] = self.center_um
        size_um = self.source.pixel_um * 2**level
        matrix = center_frame_matrix(np.diag([1 / size_um, 1 / size_um, 1.0]) @ turn @ to_um)
        image = self.source.levels[level]
        # warpAffine takes coordinates of 16 bits: only what the tile shows is handed to it.
        height, width = tile.shape[:2]
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ matrix[:2].T
        x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 3, 0)
        x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + 4
        matrix[:2, 2] -= x0, y0
        flags = (cv2.INTER_LINEAR if size_um < pixel_um else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
        part = image[y0:y1, x0:x1]
        tile[:] = cv2.warpAffine(
            part, matrix[:2], (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT
        )


class Canvas:
    """What lies where on the slide.

    Parameters
    ----------
    side_px : int
        Of level 0.
    cells : dict of (int, int) to Patch
        Row and column of the cells that hold tissue; the first begins at `origin_px`.
    origin_px : int
        Negative, so that cells and tiles of the file do not coincide.
    """

    def __init__(self, side_px: int, cells: dict[tuple[int, int], Patch], origin_px: int) -> None:
        self.side_px, self.cells, self.origin_px = side_px, cells, origin_px
        noise = np.random.default_rng(0).normal(0, 1.2, (4, 512, 512, 3))
        self._glass = np.clip(np.rint(noise + GLASS), 0, 255).astype(np.uint8)
        self._encoded: dict[int, bytes] = {}

    def tiles(self, factor: int, tile_px: int) -> Iterator[bytes]:
        """Yield the encoded tiles of the level that is `factor` times coarser, in reading order."""
        count = -(-(self.side_px // factor) // tile_px)
        for row in range(count):
            for column in range(count):
                glass = (row * 7 + column) % len(self._glass)
                tile = self._render(row * tile_px, column * tile_px, factor, tile_px, glass)
                if tile is not None:
                    yield encode(tile)
                    continue
                key = glass * 100_000 + tile_px
                if key not in self._encoded:
                    self._encoded[key] = encode(self._glass[glass, :tile_px, :tile_px])
                yield self._encoded[key]

    def _render(self, y: int, x: int, factor: int, tile_px: int, glass: int) -> np.ndarray | None:
        """Return a tile, None where it is all glass."""
        cell_px, origin = CELL_UM / PIXEL_UM / factor, self.origin_px / factor
        first_row, first_column = int((y - origin) // cell_px), int((x - origin) // cell_px)
        last_row, last_column = (int((at + tile_px - 1 - origin) // cell_px) for at in (y, x))
        here = [
            (row, column)
            for row in range(first_row, last_row + 1)
            for column in range(first_column, last_column + 1)
            if (row, column) in self.cells
        ]
        if not here:
            return None
        tile = self._glass[glass, :tile_px, :tile_px].copy()
        for row, column in here:
            (top, bottom), (left, right) = (
                (round(origin + at * cell_px), round(origin + (at + 1) * cell_px)) for at in (row, column)
            )
            y0, x0 = max(top, y), max(left, x)
            part = tile[y0 - y : bottom - y, x0 - x : right - x]
            if part.size:
                corner = x0 - (origin + column * cell_px), y0 - (origin + row * cell_px)
                self.cells[row, column].draw(part, corner, PIXEL_UM * factor)
        return tile


def encode(tile: np.ndarray) -> bytes:
    """Return a tile as JPEG, as scanners write it."""
    return imagecodecs.jpeg8_encode(
        tile, level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
    )


def tissue_patches(slides: Path, rng: np.random.Generator) -> Iterator[Patch]:
    """Yield patches of real slides that are full of tissue: all of them once, then turned otherwise, and so on.

    No patch is yielded twice in the same position.
    """
    places = []
    for file in find_slides([slides]):
        with open_slide(file) as slide:
            height, width = slide.level_shapes[0]
            image = slide.read_level(0, 0, 0, width, height)
            source = Source.make(image, slide.pixel_size_um or UNSTATED_PIXEL_UM)
        coloured = (image.max(axis=2).astype(int) - image.min(axis=2) > COLOURED).astype(np.float32)
        reach = CELL_UM / source.pixel_um
        for row in range(int(height // reach)):
            for column in range(int(width // reach)):
                y, x = int(row * reach), int(column * reach)
                if coloured[y : int(y + reach), x : int(x + reach)].mean() >= LEAST_TISSUE:
                    center = ((column + 0.5) * CELL_UM, (row + 0.5) * CELL_UM)
                    places.append((source, center, rng.permutation(8)))
    for copy in range(8):
        for number in rng.permutation(len(places)):
            source, center, positions = places[number]
            yield Patch(source, center, int(positions[copy]) % 4, bool(positions[copy] >= 4))
    raise SystemExit(f"{len(places)} patches of tissue are too few for a slide so large; add slides")


def lay_out(
    side_px: int, slides: Path, cores: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[Canvas, dict[str, tuple[float, float]]]:
    """Decide what lies where.

    Returns
    -------
    canvas : Canvas
    corners_um : dict of str to (float, float)
        Where the planted cores' top-left corners lie, x and y.
    """
    cell_px = CELL_UM / PIXEL_UM
    origin_px = -int(rng.integers(cell_px // 4, cell_px // 2) // 16 * 16)
    count = math.ceil((side_px - origin_px) / cell_px)
    noise = gaussian_filter(rng.normal(size=(count, count)), min(ISLAND_CELLS, count / 4), mode="wrap")
    begins = np.maximum(origin_px + np.arange(count) * cell_px, 0)
    inside = np.minimum(origin_px + (np.arange(count) + 1) * cell_px, side_px) - begins
    areas = np.outer(inside, inside)
    wanted = TISSUE_SHARE * side_px**2
    chosen: list[tuple[int, int]] = []
    for number in np.argsort(noise, axis=None)[::-1]:
        if wanted < areas.flat[number] / 2:
            break
        row, column = divmod(int(number), count)
        chosen.append((row, column))
        wanted -= areas[row, column]
    whole = [cell for cell in chosen if areas[cell] == cell_px**2]
    n_cores = min(len(cores), max(1, len(whole) // 2))
    planted = [whole[number] for number in rng.permutation(len(whole))[:n_cores]]
    patches = tissue_patches(slides, rng)
    cells = {cell: next(patches) for cell in chosen if cell not in planted}
    corners_um = {}
    for cell, (name, image) in zip(planted, cores.items(), strict=False):
        cells[cell] = Patch(Source.make(image, CORE_PIXEL_UM), (CELL_UM / 2, CELL_UM / 2))
        corners_um[name] = tuple(origin_px * PIXEL_UM + at * CELL_UM for at in reversed(cell))
    return Canvas(side_px, cells, origin_px), corners_um


def write_slide(path: Path, canvas: Canvas, kind: str) -> None:
    """Write the slide with all its levels; ``kind`` is "ome" or "svs"."""
    side = canvas.side_px
    tile_px = 512 if kind == "ome" else 256
    step = 2 if kind == "ome" else 4
    factors = [1]
    while side // factors[-1] > 2048:
        factors.append(factors[-1] * step)
    options: dict = {"photometric": "ycbcr", "subsampling": (2, 2), "compression": "jpeg", "dtype": np.uint8}
    options["tile"] = (tile_px, tile_px)

    def write(tiff: tifffile.TiffWriter, factor: int, **more: object) -> None:
        shape = (side // factor, side // factor, 3)
        tiff.write(canvas.tiles(factor, tile_px), shape=shape, **options, **more)

    with tifffile.TiffWriter(path, bigtiff=True, ome=kind == "ome") as tiff:
        if kind == "ome":
            sizes = {f"PhysicalSize{axis}": PIXEL_UM for axis in "XY"}
            write(tiff, 1, subifds=len(factors) - 1, metadata={"axes": "YXS", **sizes})
            for factor in factors[1:]:
                write(tiff, factor, subfiletype=1)
            return
        text = f"Aperio Image Library v12.0.15\r\n{side}x{side} [0,0 {side}x{side}] ({tile_px}x{tile_px}) JPEG/RGB"
        write(tiff, 1, description=f"{text} Q={QUALITY}|AppMag = 40|MPP = {PIXEL_UM}", metadata=None)
        thumbnail = np.full((768, 768, 3), GLASS, np.uint8)
        tiff.write(thumbnail, description=text, photometric="rgb", metadata=None)
        for factor in factors[1:]:
            write(tiff, factor, description=text, metadata=None)


def write_queries(
    folder: Path,
    slide: str,
    signals: dict[str, np.ndarray],
    cores: dict[str, np.ndarray],
    corners_um: dict[str, tuple[float, float]],
    per_core: int,
    rng: np.random.Generator,
) -> int:
    """Cut turned queries out of the planted cores' signal, full of tissue; write them and truth.csv."""
    (folder / "queries").mkdir(exist_ok=True)
    scale = round(CORE_PIXEL_UM / PIXEL_UM)
    side, reach = QUERY_PX * scale, QUERY_PX / math.sqrt(2)
    rows = []
    for name, corner_um in corners_um.items():
        image, core = signals[name], cores[name]
        edge = np.concatenate([core[:8].reshape(-1, 3), core[-8:].reshape(-1, 3)])
        full = (np.abs(core.astype(int) - np.median(edge, axis=0)).max(axis=2) > COLOURED).astype(np.uint8)
        full = cv2.morphologyEx(full, cv2.MORPH_CLOSE, np.ones((21, 21), np.uint8))
        places = rng.uniform(reach, np.array(image.shape[::-1]) - reach, (4000, 2))
        half = QUERY_PX // 2
        good = [
            (x, y)
            for x, y in places
            if full[int(y) - half : int(y) + half, int(x) - half : int(x) + half].mean() >= 0.95
            and (image[int(y) - half : int(y) + half, int(x) - half : int(x) + half] > 40).mean() >= 0.02
        ]
        for number, (x, y) in enumerate(good[:per_core]):
            angle = float(rng.uniform(-180, 180))
            matrix = np.eye(3)
            matrix[:2, :2] = turn_matrix(angle) / scale
            matrix[:2, 2] = np.array([x, y]) - matrix[:2, :2] @ [side / 2, side / 2]
            flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            query = cv2.warpAffine(image, center_frame_matrix(matrix)[:2], (side, side), flags=flags)
            file = f"{name}_{number}.tif"
            resolution = (1e4 / PIXEL_UM, 1e4 / PIXEL_UM)
            tifffile.imwrite(
                folder / "queries" / file, query, resolution=resolution, resolutionunit="CENTIMETER"
            )
            center_um = corner_um[0] + x * CORE_PIXEL_UM, corner_um[1] + y * CORE_PIXEL_UM
            row = {"query": file, "slide": slide, "core": name, "angle_deg": round(angle, 2), "mirrored": 0}
            for axis, at in zip("xy", center_um, strict=True):
                row |= {f"center_{axis}_px": round(at / PIXEL_UM, 2), f"center_{axis}_um": round(at, 2)}
            rows.append(row | {"side_um": QUERY_PX * CORE_PIXEL_UM})
    with open(folder / "truth.csv", "w", newline="") as file_:
        writer = csv.DictWriter(file_, TRUTH_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def make_giant_slide(
    slides: Path, pairs: Path, out: Path, gigapixels: float, kind: str, split: str, per_core: int, seed: int
) -> Path:
    """Write slides/, queries/ and truth.csv into a folder; return the slide."""
    rng = np.random.default_rng(seed)
    with open(pairs / "pairs.csv", newline="") as file:
        names = [row["id"] for row in csv.DictReader(file) if row["split"] == split]
    cores = {name: cv2.imread(str(pairs / "he_aligned" / f"{name}.png"))[..., ::-1].copy() for name in names}
    signals = {name: cv2.imread(str(pairs / "shg" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) for name in names}
    side_px = round(math.sqrt(gigapixels * 1e9))
    canvas, corners_um = lay_out(side_px, slides, cores, rng)
    path = out / "slides" / f"giant_{gigapixels:g}.{'ome.tif' if kind == 'ome' else 'svs'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_slide(path, canvas, kind)
    n_queries = write_queries(out, path.name, signals, cores, corners_um, per_core, rng)
    print(
        json.dumps(
            {
                "slide": str(path),
                "side_px": side_px,
                "bytes": path.stat().st_size,
                "tissue_cells": len(canvas.cells),
                "cores": len(corners_um),
                "queries": n_queries,
            }
        )
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=Path, required=True, help="folder of real H&E slides")
    parser.add_argument(
        "--pairs", type=Path, required=True, help="folder with he_aligned/, shg/ and pairs.csv"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gigapixels", type=float, default=10.0)
    parser.add_argument("--format", choices=("ome", "svs"), default="ome")
    parser.add_argument("--split", default="validation", help="cores of this split are planted")
    parser.add_argument("--queries-per-core", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_giant_slide(
        args.slides,
        args.pairs,
        args.out,
        args.gigapixels,
        args.format,
        args.split,
        args.queries_per_core,
        args.seed,
    )


if __name__ == "__main__":
    main()
