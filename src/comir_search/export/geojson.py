"""Candidates as QuPath annotations (GeoJSON), and back.

QuPath uses polygons in level-0 pixels with (0, 0) at the slide's top-left corner, which
is our frame. Some slides (such as MRXS) give the bounds of their scanned area
(``openslide.bounds-x``). QuPath shows only this area of them, and puts (0, 0) at its
corner. For these slides that origin is subtracted, and the file says so.

QuPath imports a file into the one image that is open, so results on several
slides are also written as one file per slide.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.files import write_text
from comir_search.geometry import candidate_corners_px, normalise_angle_deg, rectangle_from_corners
from comir_search.pictures.palette import VERDICT_COLOURS, VERDICT_LABELS
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.slides import open_slide
from comir_search.study.entries import Judgement


@dataclass(frozen=True)
class Annotation:
    """A candidate that was read from GeoJSON, with its query and verdict."""

    query: str
    candidate: Candidate
    judgement: Judgement


Origin = tuple[float, float]
WHOLE: Origin = (0.0, 0.0)


def qupath_origins_px(paths: Iterable[tuple[str, str | Path]]) -> dict[str, Origin]:
    """Return the position of QuPath's (0, 0) for each slide where it is not the slide's corner.

    Parameters
    ----------
    paths : iterable of (str, path)
        Fingerprint and file of each slide; missing files are left out.

    Returns
    -------
    dict from fingerprint to (x, y)
        In level-0 pixels.
    """
    origins = {}
    for fingerprint, path in paths:
        try:
            with open_slide(path) as slide:
                origin = slide.info.bounds_origin_px
        except ComirSearchError:
            continue
        if origin is not None and any(origin):
            origins[fingerprint] = (float(origin[0]), float(origin[1]))
    return origins


def candidate_to_feature(
    query: str, candidate: Candidate, judgement: Judgement, *, state: str = "", origin_px: Origin = WHOLE
) -> dict[str, Any]:
    """Return one candidate as a GeoJSON feature that QuPath reads as an annotation.

    The polygon starts at the query's top-left corner and follows its top edge, so the
    rotation can be read back from it.

    Parameters
    ----------
    query : str
        Name of the query.
    candidate : Candidate
    judgement : Judgement
        The verdict on the candidate.
    state : str
        Note on the answer, such as that it is out of date and why.
    origin_px : (float, float)
        Position of QuPath's (0, 0) on the slide, level-0 pixels.

    Returns
    -------
    dict
        JSON-ready.
    """
    corners_px = candidate_corners_px(candidate) - origin_px
    corners = [[round(float(x), 3), round(float(y), 3)] for x, y in corners_px]
    name = f"{query} #{candidate.rank}"
    numbers = {
        "Rank": candidate.rank,
        "Confidence": candidate.confidence,
        "Score": None if candidate.by_hand else candidate.score,
        "Angle (deg)": candidate.angle_deg,
        "Mirrored": int(candidate.mirrored),
        "By hand": int(candidate.by_hand),
        "Scale": candidate.scale,
        "Center X (um)": candidate.center_x_um,
        "Center Y (um)": candidate.center_y_um,
        "Width (um)": candidate.width_um,
        "Height (um)": candidate.height_um,
        "Pixel size (um)": candidate.pixel_size_um,
    }
    if origin_px != WHOLE:
        numbers |= {"QuPath origin X (px)": origin_px[0], "QuPath origin Y (px)": origin_px[1]}
    metadata = {
        "query": query,
        "slide": candidate.slide,
        "slide fingerprint": candidate.fingerprint,
        "reviewer": judgement.reviewer,
        "time": judgement.time,
        "note": judgement.note,
        "place": "moved by hand" if candidate.by_hand else "",
        "state": state,
    }
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([name, candidate.slide, corners]))),
        "geometry": {"type": "Polygon", "coordinates": [[*corners, corners[0]]]},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {
                "name": VERDICT_LABELS[judgement.verdict],
                "color": list(VERDICT_COLOURS[judgement.verdict]),
            },
            "isLocked": True,
            "measurements": {key: value for key, value in numbers.items() if value is not None},
            "metadata": {key: value for key, value in metadata.items() if value},
        },
    }


def candidates_to_geojson(
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
    slide: tuple[str, str] | None = None,
    *,
    states: Sequence[str] | None = None,
    origins_px: Mapping[str, Origin] | None = None,
) -> dict[str, Any]:
    """Return candidates as a FeatureCollection.

    Parameters
    ----------
    results, verdicts, states, origins_px
        See `write_geojson`.
    slide : (str, str), optional
        Name and fingerprint of the only slide to include; by default all slides.

    Returns
    -------
    dict
        JSON-ready.
    """
    origins = origins_px or {}
    shown = [
        (result.query, candidate, judged.get(candidate.rank, Judgement(Verdict.NONE)), state)
        for result, judged, state in zip(
            results, verdicts or [{}] * len(results), states or [""] * len(results), strict=True
        )
        for candidate in result.candidates
        if slide is None or (candidate.slide, candidate.fingerprint) == slide
    ]
    features = [
        candidate_to_feature(
            query, candidate, judgement, state=state, origin_px=origins.get(candidate.fingerprint, WHOLE)
        )
        for query, candidate, judgement, state in shown
    ]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    moved = {
        candidate.fingerprint: candidate.slide
        for _, candidate, _, _ in shown
        if candidate.fingerprint in origins
    }
    if moved:
        collection["properties"] = {
            "frame": "Pixels of QuPath, which shows only the scanned part of these slides: "
            "add the origin (x, y) for pixels of the whole slide.",
            "origins_px": [
                {"slide": name, "fingerprint": fingerprint, "origin": list(origins[fingerprint])}
                for fingerprint, name in moved.items()
            ],
        }
    return collection


def write_geojson(
    path: str | Path,
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
    *,
    states: Sequence[str] | None = None,
    origins_px: Mapping[str, Origin] | None = None,
) -> list[Path]:
    """Write candidates for QuPath.

    `path` contains all candidates, each with its slide in the metadata. If they are on
    several slides, one file ``NAME.SLIDE.geojson`` per slide is written beside it, to
    be imported into QuPath.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    results : sequence of SearchResult
        One per query.
    verdicts : sequence of mapping from rank to Judgement, optional
        Verdicts on each result's candidates.
    states : sequence of str, optional
        Note on each answer, such as that it is out of date and why.
    origins_px : mapping from fingerprint to (x, y), optional
        Position of QuPath's (0, 0) on a slide, level-0 pixels; see
        `qupath_origins_px`.

    Returns
    -------
    list of Path
        The files to import into QuPath, one per slide.

    Raises
    ------
    ComirSearchError
        If a file cannot be written.
    """
    path = Path(path)
    more: dict[str, Any] = {"states": states, "origins_px": origins_px}
    write_text(path, json.dumps(candidates_to_geojson(results, verdicts, **more), allow_nan=False))
    slides = sorted({(each.slide, each.fingerprint) for result in results for each in result.candidates})
    if len(slides) < 2:
        return [path]
    names = [_file_name(name) for name, _ in slides]
    paths: list[Path] = []
    for (name, fingerprint), label in zip(slides, names, strict=True):
        if names.count(label) > 1:
            label = f"{label}.{_file_name(fingerprint)[:8]}"
        other = path.with_name(f"{path.stem}.{label}{path.suffix or '.geojson'}")
        while other in paths:
            other = other.with_name(f"{other.stem}+{other.suffix}")
        paths.append(other)
        features = candidates_to_geojson(results, verdicts, (name, fingerprint), **more)
        write_text(paths[-1], json.dumps(features, allow_nan=False))
    return paths


def _file_name(name: str) -> str:
    """Return a slide's name in a form that is safe as a part of a file's name."""
    plain = "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in name)
    return plain[-100:] or "slide"


def read_geojson(path: str | Path) -> list[Annotation]:
    """Read candidates from GeoJSON, also after they were moved or rotated in QuPath.

    Annotations that this program did not write are left out.

    Raises
    ------
    ComirSearchError
        If the file is missing or is not GeoJSON.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        features = document["features"] if isinstance(document, dict) else document
        return [_feature_to_annotation(feature) for feature in features if _is_ours(feature)]
    except OSError as error:
        raise ComirSearchError(
            f"{path} could not be read ({error.strerror}): choose another file."
        ) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ComirSearchError(f"{path} is not a GeoJSON file of candidates: choose another file.") from error


def _is_ours(feature: dict[str, Any]) -> bool:
    properties = feature.get("properties", {})
    ring = feature["geometry"]["coordinates"][0] if feature["geometry"]["type"] == "Polygon" else []
    return "Pixel size (um)" in properties.get("measurements", {}) and len(ring) == 5


def _feature_to_annotation(feature: dict[str, Any]) -> Annotation:
    properties = feature["properties"]
    measured, metadata = properties["measurements"], properties.get("metadata", {})
    mirrored, pixel_size_um = bool(measured["Mirrored"]), float(measured["Pixel size (um)"])
    corners = np.array(feature["geometry"]["coordinates"][0][:4], float)
    corners += [float(measured.get(f"QuPath origin {axis} (px)", 0.0)) for axis in "XY"]
    center, width_px, height_px, angle_deg = rectangle_from_corners(corners)
    candidate = Candidate(
        rank=int(measured["Rank"]),
        slide=metadata["slide"],
        center_x_px=float(center[0]),
        center_y_px=float(center[1]),
        pixel_size_um=pixel_size_um,
        width_um=width_px * pixel_size_um,
        height_um=height_px * pixel_size_um,
        # A mirrored query's top edge runs from right to left on the slide.
        angle_deg=normalise_angle_deg(180.0 - angle_deg) if mirrored else angle_deg,
        mirrored=mirrored,
        score=float(measured.get("Score", 0.0)),
        confidence=float(measured["Confidence"]) if "Confidence" in measured else None,
        fingerprint=metadata.get("slide fingerprint", ""),
        scale=float(measured.get("Scale", 1.0)),
        by_hand=bool(measured.get("By hand", 0)),
    )
    label = properties.get("classification", {}).get("name", "")
    verdict = next((verdict for verdict, name in VERDICT_LABELS.items() if name == label), Verdict.NONE)
    judgement = Judgement(
        verdict, metadata.get("note", ""), metadata.get("reviewer", ""), metadata.get("time", ""), candidate
    )
    return Annotation(metadata["query"], candidate, judgement)
