"""The demo's sample: synthetic slides, and SHG queries whose positions are known.

`comir_search.sample.synthetic_tissue` computes the images. They show no real tissue,
and their names and metadata say so. One query is on none of the slides.
"""

from __future__ import annotations

import csv
import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from comir_search.files import atomic_path, writing
from comir_search.geometry import center_frame_matrix, place_error_px, query_to_slide
from comir_search.opencv import cv2
from comir_search.progress import Job, Tick
from comir_search.records import Candidate
from comir_search.sample.synthetic_tissue import PIXEL_SIZE_UM, Tissue, simulate_tissue_steps

SLIDES = {"synthetic_1.ome.tif": ((3000, 2400), 4), "synthetic_2.ome.tif": ((2200, 1800), 1)}
ABSENT_SIZE_UM = (1300, 1100)
QUERY_SIDE_PX, QUERY_PIXEL_SIZE_UM = 480, 0.8
TRUTH_COLUMNS = (
    "query",
    "slide",
    "core",
    "center_x_px",
    "center_y_px",
    "center_x_um",
    "center_y_um",
    "angle_deg",
    "mirrored",
    "side_um",
)
LABEL = "Synthetic: simulated by napari-comir-search, not real tissue"


@dataclass(frozen=True)
class Sample:
    """Files of a sample: slides to index, queries to search for, and the truth."""

    folder: Path
    slides: tuple[Path, ...]
    queries: tuple[Path, ...]
    truth: Path


def make_sample_steps(folder: str | Path, seed: int = 0) -> Job[Sample]:
    """Simulate slides and queries with known positions, step by step.

    This writes two brightfield slides (pyramidal OME-TIFF), six SHG queries (12 bits
    in 16, at another pixel size and any angle) and ``truth.csv`` with the columns that
    `evaluate-slide` reads. The last query is on neither slide. The same seed gives
    the same files.

    Parameters
    ----------
    folder : path
        Where to write; created if needed.
    seed : int, optional
        Seed of the simulated tissue and the queries' positions.

    Raises
    ------
    ComirSearchError
        If the folder cannot be written.
    """
    folder = Path(folder)
    with writing(folder):
        (folder / "slides").mkdir(parents=True, exist_ok=True)
        (folder / "queries").mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    slides: list[Path] = []
    pieces = [(name, *plan) for name, plan in SLIDES.items()] + [("", ABSENT_SIZE_UM, 1)]
    for number, (slide, size_um, n_queries) in enumerate(pieces):
        stage = f"simulating {slide or 'tissue that is on no slide'}"
        tissue = yield from simulate_tissue_steps(*size_um, 1000 * seed + number, stage)
        if slide:
            yield Tick(f"writing {slide}", 0, 1)
            slides.append(folder / "slides" / slide)
            _write_slide(slides[-1], tissue.brightfield)
        for place in _choose_places(tissue, slide, n_queries, rng):
            name = f"synthetic_shg_{len(rows) + 1}.tif"
            _write_query(folder / "queries" / name, _acquire(tissue, place, rng))
            rows.append(_truth_row(name, place))
    truth = folder / "truth.csv"
    with atomic_path(truth) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, TRUTH_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return Sample(folder, tuple(slides), tuple(folder / "queries" / row["query"] for row in rows), truth)


def _choose_places(tissue: Tissue, slide: str, count: int, rng: np.random.Generator) -> list[Candidate]:
    """Choose random positions that are full of tissue, contain some collagen, and do not overlap."""
    side_um = QUERY_SIDE_PX * QUERY_PIXEL_SIZE_UM
    reach = side_um / PIXEL_SIZE_UM / np.sqrt(2)  # keeps queries inside the image
    height, width = tissue.inside.shape
    window = (int(side_um / PIXEL_SIZE_UM),) * 2
    full = cv2.blur(tissue.inside.astype(np.float32), window)
    bright = cv2.blur((tissue.emission > 0.25).astype(np.float32), window)
    x, y = rng.uniform(reach, width - reach, 4000), rng.uniform(reach, height - reach, 4000)
    angle_deg = rng.uniform(-180, 180, 4000)
    here = y.astype(int), x.astype(int)
    lacking = np.clip(0.97 - full[here], 0, None) + np.clip(0.15 - bright[here], 0, None)
    lacking += np.clip(bright[here] - 0.5, 0, None)
    places: list[Candidate] = []
    for number in np.argsort(lacking, kind="stable"):
        center = round(float(x[number]), 2), round(float(y[number]), 2)
        if all(place_error_px(place, *center) > 1.8 * reach for place in places):
            places.append(
                Candidate(
                    rank=1,
                    slide=slide,
                    center_x_px=center[0],
                    center_y_px=center[1],
                    pixel_size_um=PIXEL_SIZE_UM,
                    width_um=side_um,
                    height_um=side_um,
                    angle_deg=round(float(angle_deg[number]), 2),
                    mirrored=False,
                    score=1.0,
                    confidence=1.0,
                )
            )
        if len(places) == count:
            break
    return places


def _acquire(tissue: Tissue, place: Candidate, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Simulate an SHG image of a position: photon shot noise, detector offset, read noise, 12 bits."""
    side = (QUERY_SIDE_PX, QUERY_SIDE_PX)
    matrix = center_frame_matrix(query_to_slide(place, side, QUERY_PIXEL_SIZE_UM))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(tissue.emission, matrix[:2], side, flags=flags)
    photons = rng.poisson(40 * np.clip(expected, 0, None) + 0.3)
    counts = 96 + 70 * photons + rng.normal(0, 12, side)
    return np.clip(np.rint(counts), 0, 4095).astype(np.uint16)


def _truth_row(query: str, place: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(TRUTH_COLUMNS, "")
    row |= {"query": query, "core": "synthetic", "angle_deg": place.angle_deg, "mirrored": 0}
    row["side_um"] = round(place.width_um, 3)
    if place.slide:
        row |= {"slide": place.slide, "center_x_px": place.center_x_px, "center_y_px": place.center_y_px}
        row |= {"center_x_um": round(place.center_x_um, 2), "center_y_um": round(place.center_y_um, 2)}
    return row


def _write_slide(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a tiled OME-TIFF pyramid."""
    levels = [image]
    while max(levels[-1].shape) > 600:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    metadata = {
        "axes": "YXS",
        "Name": path.name.removesuffix(".ome.tif"),
        "Description": LABEL,
        # The same image gets the same UUID each time, so an index recognises the slide.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(image.tobytes()).hexdigest())),
        "PhysicalSizeX": PIXEL_SIZE_UM,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": PIXEL_SIZE_UM,
        "PhysicalSizeYUnit": "µm",
    }
    options: dict[str, Any] = {
        "photometric": "rgb",
        "tile": (256, 256),
        "compression": "jpeg",
        "compressionargs": {"level": 92},
    }
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, ome=True) as tiff:
        tiff.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **options)


def _write_query(path: Path, image: NDArray[np.uint16]) -> None:
    per_cm = 1e4 / QUERY_PIXEL_SIZE_UM
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            photometric="minisblack",
            compression="deflate",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            description=LABEL,
            metadata=None,
        )
