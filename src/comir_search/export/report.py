"""Write a project as one HTML file that contains its pictures and needs no other file.

The template (``report.html.jinja``) escapes all texts: names, notes and reviewers of a
received project are shown and can never run as code.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comir_search.errors import ComirSearchError
from comir_search.files import write_text
from comir_search.geometry import candidate_corners_px
from comir_search.opencv import cv2
from comir_search.pictures.display import to_display
from comir_search.pictures.palette import VERDICT_COLOURS, VERDICT_LABELS, Colour
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, Verdict, format_confidence
from comir_search.slides import Slide, open_slide
from comir_search.slides.crop import extract_candidate
from comir_search.study.entries import Judgement, ProjectQuery, ProjectSlide
from comir_search.study.freshness import describe_state, inputs_of
from comir_search.study.project import Project
from comir_search.version import __version__

TEMPLATE = "report.html.jinja"
PICTURE_PX, OVERVIEW_PX = 360, 900
WORDS = {"top": "candidates", "mirror": "mirrored too"}  # names of the search options in the window
UNJUDGED = Judgement(Verdict.NONE)

Slides = dict[str, "Slide"]
Judged = dict[int, Judgement]


def write_report_steps(
    path: str | Path,
    project: Project,
    queries: Sequence[ProjectQuery] | None = None,
    *,
    top: int = 3,
    states: Sequence[str] | None = None,
    names: Mapping[str, str | None] | None = None,
) -> Job[None]:
    """Write queries, answers and verdicts as one self-contained HTML file.

    The report shows each query beside its accepted and its first candidates, rotated
    to match, then a table of all candidates with their verdicts, then how they were
    found. Pictures of missing slides are left out, and the report says so.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    project : Project
        The project to report.
    queries : sequence of ProjectQuery, optional
        The queries to report; by default all.
    top : int, optional
        Number of candidates shown in pictures, besides the accepted ones.
    states : sequence of str, optional
        Note on each query's answer, such as that it is out of date and why; by
        default it is found from the project alone.
    names : mapping of str to str or None, optional
        Names of the slides in answers (their `fingerprint`), by their keys in the
        project; None if another slide has that name. By default the keys.

    Raises
    ------
    ComirSearchError
        If the file cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    queries = project.queries if queries is None else queries
    if states is None:
        inputs = inputs_of(project)
        states = [describe_state(query, inputs) for query in queries]
    verdicts = [project.verdicts_of(query.id) for query in queries]
    with ExitStack() as stack:
        slides = _open_slides(project, stack, names or {})
        sections = []
        for done, (query, judged, state) in enumerate(zip(queries, verdicts, states, strict=True)):
            yield Tick("writing the report", done, len(queries))
            sections.append(_section(query, _show_query(project, query), judged, slides, top, state))
        yield Tick("writing the report", len(queries), len(queries))
    said = [judgement.verdict for judged in verdicts for judgement in judged.values()]
    template = files("comir_search.export").joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(template)
        .render(
            title=project.path.stem,
            date=f"{datetime.now().astimezone():%d %B %Y, %H:%M}",
            version=__version__,
            n_found=sum(query.result is not None and query.result.found for query in queries),
            counts={verdict.value: said.count(verdict) for verdict in Verdict},
            sections=sections,
            searches=_searches(queries),
            settings=list(_definitions(project.settings)),
            slides=[
                {"name": slide.name, "pixel_size": _pixel_size(slide), "fingerprint": slide.fingerprint}
                for slide in project.slides
            ],
        )
    )
    write_text(path, page)


def _open_slides(project: Project, stack: ExitStack, names: Mapping[str, str | None]) -> dict[str, Slide]:
    """Open the project's slides that exist; return them by their names in answers and by file name."""
    slides: dict[str, Slide] = {}
    for entry in project.slides:
        if not entry.exists:
            continue
        try:
            slide = stack.enter_context(open_slide(entry.path, pixel_size_um=entry.pixel_size_um))
        except ComirSearchError:
            continue  # the report lists this slide without a picture
        slides.setdefault(entry.name, slide)
        key = names.get(entry.fingerprint, entry.fingerprint)
        if key is not None:
            slides[key] = slide
    return slides


def _show_query(project: Project, query: ProjectQuery) -> NDArray[np.uint8] | None:
    """Return a query's picture from its file or the project, None if there is none."""
    image = project.query_image(query.id)
    if image is None and os.path.exists(query.path):
        try:
            with open_slide(query.path, pixel_size_um=query.pixel_size_um) as slide:
                image = slide.overview(2 * PICTURE_PX)[0]
        except ComirSearchError:
            return None
    return None if image is None else to_display(image)


def _section(
    query: ProjectQuery,
    image: NDArray[np.uint8] | None,
    judged: Judged,
    slides: Slides,
    top: int,
    state: str,
) -> dict[str, Any]:
    """Return the content of the page for one query."""
    result = query.result
    section: dict[str, Any] = {"id": query.id, "name": query.name, "answer": "not searched", "reason": ""}
    section |= {"state": state[:1].upper() + state[1:], "best": None, "rows": []}
    if result is None:
        return section
    accepted = [each for each in result.candidates if _verdict(judged, each) is Verdict.ACCEPTED]
    shown = accepted + [each for each in result.candidates[:top] if each not in accepted]
    found = "found" if result.found else "unfinished" if not result.finished else "not found"
    section |= {
        "answer": f"{found}, {state.split(':')[0]}" if state else found,
        "reason": f"{found.capitalize()}: {result.reason}",
        "picture": "" if image is None else _data_url(image),
        "shown": [
            _shown(each, judged.get(each.rank, UNJUDGED), image, _slide_of(each, slides)) for each in shown
        ],
        "maps": list(_maps(result.candidates, judged, slides)),
        "rows": [_row(each, judged.get(each.rank, UNJUDGED)) for each in result.candidates],
    }
    if shown:
        best = _row(shown[0], judged[shown[0].rank] if accepted else UNJUDGED)
        section["best"] = best | {"confidence": format_confidence(shown[0])}
    return section


def _row(candidate: Candidate, judgement: Judgement) -> dict[str, Any]:
    """Return a candidate as a row of the table."""
    return {
        "rank": candidate.rank,
        "slide": candidate.slide,
        "place": _place_text(candidate),
        "turned": f"{candidate.angle_deg:+.1f}°",
        "confidence": format_confidence(candidate, 1),
        "verdict": _badge(judgement.verdict),
        "reviewer": judgement.reviewer,
        "note": judgement.note,
    }


def _shown(
    candidate: Candidate, judgement: Judgement, image: NDArray[np.uint8] | None, slide: Slide | None
) -> dict[str, Any]:
    """Return pictures of the query, the candidate and both blended, and the candidate's properties."""
    pictures = [] if image is None else [("query", _data_url(image))]
    if slide is not None:
        pixel_size_um = max(candidate.width_um, candidate.height_um) / PICTURE_PX
        there = to_display(extract_candidate(slide, candidate, pixel_size_um))
        pictures.append((f"candidate {candidate.rank}, rotated to match", _data_url(there)))
        if image is not None:
            pictures.append(("query drawn into it", _data_url(_blend(image, there))))
    facts = {
        "By": judgement.reviewer,
        "On": _time_text(judgement.time),
        "Note": judgement.note,
        "Slide": candidate.slide,
        "Position": _place_text(candidate),
        "Pixel": f"{candidate.center_x_px:.0f}, {candidate.center_y_px:.0f}",
        "Size": f"{candidate.width_um:.0f} × {candidate.height_um:.0f} µm",
        "Rotation": f"{candidate.angle_deg:+.1f}°{', mirrored' if candidate.mirrored else ''}",
        "Confidence": format_confidence(candidate),
        "Picture": "" if slide is not None else "the slide was not found where it was",
        "Fingerprint": candidate.fingerprint,
    }
    return {
        "pictures": pictures,
        "verdict": _badge(judgement.verdict),
        "facts": [(name, value) for name, value in facts.items() if value],
    }


def _maps(candidates: Sequence[Candidate], judged: Judged, slides: Slides) -> Iterator[dict[str, Any]]:
    """Yield each slide's overview with its candidates."""
    for key in dict.fromkeys(candidate.fingerprint or candidate.slide for candidate in candidates):
        here = [each for each in candidates if (each.fingerprint or each.slide) == key]
        slide = _slide_of(here[0], slides)
        if slide is None:
            continue
        marks = []
        for candidate in reversed(here):
            corners = candidate_corners_px(candidate)
            x, y = corners[corners[:, 1].argmin()]
            marks.append(
                {
                    "points": " ".join(f"{x:.0f},{y:.0f}" for x, y in corners),
                    "colour": _css(VERDICT_COLOURS[_verdict(judged, candidate)]),
                    "x": round(float(x)),
                    "y": round(float(y)),
                    "rank": candidate.rank,
                }
            )
        width, height = slide.info.width_px, slide.info.height_px
        yield {
            "name": slide.name,
            "width": width,
            "height": height,
            "unit": max(width, height) / 640,  # size of a pixel on the page
            "picture": _data_url(to_display(slide.overview(OVERVIEW_PX)[0])),
            "marks": marks,
        }


def _slide_of(candidate: Candidate, slides: Slides) -> Slide | None:
    """Return the slide of a candidate, by its fingerprint if it has one, else by its name."""
    return slides.get(candidate.fingerprint or candidate.slide)


def _verdict(judged: Judged, candidate: Candidate) -> Verdict:
    return judged.get(candidate.rank, UNJUDGED).verdict


def _searches(queries: Sequence[ProjectQuery]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return index, model and options of each search, only once if they are the same for all."""
    searched = [(query.name, query.provenance) for query in queries if query.provenance]
    general = {repr({**values, "query": ""}) for _, values in searched}
    if searched and len(general) == 1:
        name, values = searched[0]
        shared = {key: value for key, value in values.items() if key != "query" or len(searched) == 1}
        return [
            ("All queries" if len(searched) > 1 or len(queries) == 1 else name, list(_definitions(shared)))
        ]
    return [(name, list(_definitions(values))) for name, values in searched]


def _definitions(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _definitions(value)
        else:
            yield WORDS.get(str(name), str(name)), _in_words(value)


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "all"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    return str(value)


def _pixel_size(slide: ProjectSlide) -> str:
    if slide.pixel_size_um is None:
        return "pixel size missing"
    return f"{slide.pixel_size_um:g} µm ({slide.pixel_size_source})"


def _blend(query: NDArray[np.uint8], candidate: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the query's bright structures over the candidate, in a colour that is unlike any stain."""
    height, width = candidate.shape[:2]
    signal = cv2.resize(query, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    share = np.clip(signal / 255.0 * 1.2, 0, 0.85)[..., None]
    pale = 0.4 * 255 + 0.6 * candidate.astype(np.float32)
    return np.rint(pale * (1 - share) + np.array([0, 120, 60], np.float32) * share).astype(np.uint8)


def _data_url(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _badge(verdict: Verdict) -> dict[str, str]:
    if verdict is Verdict.NONE:
        return {"label": "", "colour": ""}
    return {"label": VERDICT_LABELS[verdict], "colour": _css(VERDICT_COLOURS[verdict])}


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _place_text(candidate: Candidate) -> str:
    return f"{candidate.center_x_um:.1f}, {candidate.center_y_um:.1f} µm"


def _time_text(time: str) -> str:
    try:
        return f"{datetime.fromisoformat(time).astimezone():%d %B %Y, %H:%M}" if time else ""
    except (ValueError, OverflowError, OSError):  # not a time of this program: show the text unchanged
        return time
