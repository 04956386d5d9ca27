"""Candidates as QuPath annotations (GeoJSON), and back.

QuPath takes polygons in level-0 pixels with (0, 0) at the top-left corner of the
slide, which is our frame. It imports a file into the one image that is open, so
results on several slides are also written as one file per slide.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.geometry import candidate_corners_px, normalise_angle_deg, rectangle_from_corners
from comir_search.io.atomic import write_text
from comir_search.io.entries import Judgement
from comir_search.io.palette import VERDICT_COLOURS, VERDICT_LABELS
from comir_search.records import Candidate, SearchResult, Verdict


@dataclass(frozen=True)
class Annotation:
    """A candidate read back from GeoJSON: the query it answers and what was judged."""

    query: str
    candidate: Candidate
    judgement: Judgement


def candidate_to_feature(query: str, candidate: Candidate, judgement: Judgement) -> dict[str, Any]:
    """Return one candidate as a GeoJSON feature that QuPath reads as an annotation.

    The ring starts where the query's top-left corner lies and follows its top
    edge, so the rectangle's turn can be read back from it.
    """
    corners = [[round(float(x), 3), round(float(y), 3)] for x, y in candidate_corners_px(candidate)]
    name = f"{query} #{candidate.rank}"
    metadata = {
        "query": query,
        "slide": candidate.slide,
        "slide fingerprint": candidate.fingerprint,
        "reviewer": judgement.reviewer,
        "time": judgement.time,
        "note": judgement.note,
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
            "measurements": {
                "Rank": candidate.rank,
                **({} if candidate.confidence is None else {"Confidence": float(candidate.confidence)}),
                "Score": float(candidate.score),
                "Angle (deg)": float(candidate.angle_deg),
                "Mirrored": int(candidate.mirrored),
                "Center X (um)": float(candidate.center_x_um),
                "Center Y (um)": float(candidate.center_y_um),
                "Width (um)": float(candidate.width_um),
                "Height (um)": float(candidate.height_um),
                "Pixel size (um)": float(candidate.pixel_size_um),
            },
            "metadata": {key: value for key, value in metadata.items() if value},
        },
    }


def candidates_to_geojson(
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
    slide: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Return candidates as a FeatureCollection, of all slides or of one (name, fingerprint)."""
    features = [
        candidate_to_feature(result.query, candidate, judged.get(candidate.rank, Judgement(Verdict.NONE)))
        for result, judged in zip(results, verdicts or [{}] * len(results), strict=True)
        for candidate in result.candidates
        if slide is None or (candidate.slide, candidate.fingerprint) == slide
    ]
    return {"type": "FeatureCollection", "features": features}


def write_geojson(
    path: str | Path,
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
) -> list[Path]:
    """Write candidates for QuPath.

    `path` holds all candidates, each with its slide in the metadata. Where they
    lie on several slides, ``NAME.SLIDE.geojson`` beside it holds those of one
    slide each: these are what to import into QuPath.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    results : sequence of SearchResult
        One per query.
    verdicts : sequence of mapping from rank to Judgement, optional
        What was judged of each result's candidates.

    Returns
    -------
    list of Path
        The files to import into QuPath, one per slide.

    Raises
    ------
    ComirSearchError
        When a file cannot be written.
    """
    path = Path(path)
    write_text(path, json.dumps(candidates_to_geojson(results, verdicts), allow_nan=False))
    slides = sorted({(each.slide, each.fingerprint) for result in results for each in result.candidates})
    if len(slides) < 2:
        return [path]
    names = [name for name, _ in slides]
    paths = []
    for name, fingerprint in slides:
        label = Path(name).name if names.count(name) == 1 else f"{Path(name).name}.{fingerprint[:8]}"
        paths.append(path.with_name(f"{path.stem}.{label}{path.suffix or '.geojson'}"))
        features = candidates_to_geojson(results, verdicts, (name, fingerprint))
        write_text(paths[-1], json.dumps(features, allow_nan=False))
    return paths


def read_geojson(path: str | Path) -> list[Annotation]:
    """Read candidates back, also after QuPath moved or turned them.

    Annotations that this program did not write are left out.

    Raises
    ------
    ComirSearchError
        When the file is missing or holds no GeoJSON.
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
        score=float(measured["Score"]),
        confidence=None if "Confidence" not in measured else float(measured["Confidence"]),
        fingerprint=metadata.get("slide fingerprint", ""),
    )
    label = properties.get("classification", {}).get("name", "")
    verdict = next((verdict for verdict, name in VERDICT_LABELS.items() if name == label), Verdict.NONE)
    judgement = Judgement(
        verdict, metadata.get("note", ""), metadata.get("reviewer", ""), metadata.get("time", ""), candidate
    )
    return Annotation(metadata["query"], candidate, judgement)
