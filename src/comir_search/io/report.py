"""A project as one HTML file to hand over: pictures inline, nothing to install or to fetch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import comir_search
from comir_search.errors import ComirSearchError
from comir_search.geometry import candidate_corners_px
from comir_search.io.atomic import write_text
from comir_search.io.entries import Judgement, ProjectQuery, ProjectSlide
from comir_search.io.palette import VERDICT_COLOURS, VERDICT_LABELS, Colour
from comir_search.io.pictures import extract_candidate, to_display
from comir_search.io.project import Project
from comir_search.opencv import cv2
from comir_search.progress import Job, Tick, finish
from comir_search.records import Candidate, Verdict, format_confidence

if TYPE_CHECKING:
    from comir_search.slides import Slide

PICTURE_PX, OVERVIEW_PX = 360, 900
WORDS = {"top": "candidates", "mirror": "mirrored too"}  # as the window calls a search's options

STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #202124; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 48px 0 4px; }
h2 { border-top: 1px solid #d6d9dd; padding-top: 28px; }
.pale { color: #5f6368; } .pale, .reason { margin: 0 0 14px; }
table { border-collapse: collapse; font-size: 14px; margin: 12px 0; }
td, th { text-align: left; padding: 3px 18px 3px 0; vertical-align: top; font-weight: normal; }
th { color: #5f6368; } table.list { width: 100%; }
table.list td, table.list th { border-bottom: 1px solid #e8eaed; }
td.number { font-variant-numeric: tabular-nums; } code { font-size: 13px; overflow-wrap: anywhere; }
.candidate { display: grid; grid-template-columns: repeat(3, 230px) 1fr; gap: 14px; margin: 18px 0;
  align-items: start; }
.candidate { break-inside: avoid; } figure { margin: 0; } figure img { width: 100%; display: block; }
.candidate table { margin: 0; } figcaption { font-size: 13px; color: #5f6368; padding-top: 3px; }
.badge { color: #fff; border-radius: 10px; padding: 1px 10px; font-size: 13px; white-space: nowrap; }
.note { white-space: pre-wrap; overflow-wrap: anywhere; }
.slide { max-width: 640px; width: 100%; height: auto; }
@media (max-width: 900px) { .candidate { grid-template-columns: 1fr 1fr; } }
"""


def write_report(
    path: str | Path, project: Project, queries: Sequence[ProjectQuery] | None = None, *, top: int = 3
) -> None:
    """Write a report; see `write_report_steps`."""
    finish(write_report_steps(path, project, queries, top=top))


def write_report_steps(
    path: str | Path, project: Project, queries: Sequence[ProjectQuery] | None = None, *, top: int = 3
) -> Job[None]:
    """Write what was searched, found and judged as one self-contained HTML file.

    Each query comes with its accepted and its first candidates side by side,
    turned as the query shows them; then all candidates with their verdicts; then
    how they were found. Pictures of slides that are not where they were are left
    out, and the report says so.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    project : Project
        What to report on.
    queries : sequence of ProjectQuery, optional
        Only these; by default all.
    top : int, optional
        Number of candidates shown in pictures, besides those accepted.

    Raises
    ------
    ComirSearchError
        When the file cannot be written.
    """
    queries = project.queries if queries is None else queries
    verdicts = [project.verdicts_of(query.id) for query in queries]
    with ExitStack() as stack:
        slides = _open_slides(project, stack)
        sections = []
        for done, (query, judged) in enumerate(zip(queries, verdicts, strict=True)):
            yield Tick("writing the report", done, len(queries))
            sections.append(_query_section(query, _show_query(project, query), judged, slides, top))
        yield Tick("writing the report", len(queries), len(queries))
        body = [_summary(project, queries, verdicts), *sections, _method(project, queries)]
    write_text(path, _page(f"Report on {project.path.stem}", body))


def _open_slides(project: Project, stack: ExitStack) -> dict[str, Slide]:
    """Open the project's slides that are at hand, by fingerprint and by name."""
    from comir_search.slides import open_slide

    slides: dict[str, Slide] = {}
    for entry in project.slides:
        try:
            slide = stack.enter_context(open_slide(entry.path, pixel_size_um=entry.pixel_size_um))
        except ComirSearchError:
            continue  # the report names slides without a picture
        slides.setdefault(entry.name, slide)
        slides[entry.fingerprint] = slide
    return slides


def _show_query(project: Project, query: ProjectQuery) -> NDArray[np.uint8] | None:
    """Return a query's picture, from its file or the project, or None where there is none."""
    from comir_search.slides import open_slide

    image = project.query_image(query.id)
    if image is None and query.path:
        try:
            with open_slide(query.path, pixel_size_um=query.pixel_size_um) as slide:
                image = slide.overview(2 * PICTURE_PX)[0]
        except ComirSearchError:
            return None
    return None if image is None else to_display(image)


def _summary(
    project: Project, queries: Sequence[ProjectQuery], verdicts: Sequence[dict[int, Judgement]]
) -> str:
    rows = []
    for query, judged in zip(queries, verdicts, strict=True):
        result = query.result
        said = [judgement for judgement in judged.values() if judgement.verdict is not Verdict.NONE]
        best = next((j for j in said if j.verdict is Verdict.ACCEPTED), None)
        place = best.candidate if best else result.candidates[0] if result and result.candidates else None
        answer = "not searched" if result is None else "found" if result.found else "not found"
        rows.append(
            f'<tr><td><a href="#query-{query.id}">{escape(query.name)}</a></td><td>{answer}</td>'
            f"<td>{_badge(best.verdict if best else Verdict.NONE) if place else ''}</td>"
            f"<td>{escape(place.slide) if place else ''}</td>"
            f'<td class="number">{_place_text(place) if place else ""}</td>'
            f'<td class="number">{format_confidence(place.confidence) if place else ""}</td></tr>'
        )
    counts = {
        verdict: sum(judgement.verdict is verdict for judged in verdicts for judgement in judged.values())
        for verdict in (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.UNSURE)
    }
    found = sum(query.result is not None and query.result.found for query in queries)
    return (
        f"<h1>{escape(project.path.stem)}</h1>"
        f'<p class="pale">{datetime.now().astimezone():%d %B %Y, %H:%M} · napari-comir-search '
        f"{escape(comir_search.__version__)}</p>"
        f"<p>{found} of {len(queries)} queries found. Candidates accepted: {counts[Verdict.ACCEPTED]}, "
        f"rejected: {counts[Verdict.REJECTED]}, unsure: {counts[Verdict.UNSURE]}.</p>"
        '<table class="list"><tr><th>Query</th><th>Answer</th><th>Verdict</th><th>Slide</th>'
        f"<th>Place</th><th>Confidence</th></tr>{''.join(rows)}</table>"
    )


def _query_section(
    query: ProjectQuery,
    image: NDArray[np.uint8] | None,
    judged: dict[int, Judgement],
    slides: dict[str, Slide],
    top: int,
) -> str:
    parts = [f'<h2 id="query-{query.id}">{escape(query.name)}</h2>']
    result = query.result
    if result is None:
        return parts[0] + '<p class="reason">Not searched yet.</p>'
    parts.append(f'<p class="reason">{"Found" if result.found else "Not found"}: {escape(result.reason)}</p>')
    if image is not None and not result.candidates:
        parts.append(f'<figure style="width: 230px">{_image(image, "query")}</figure>')
    shown = [
        candidate
        for position, candidate in enumerate(result.candidates)
        if position < top or judged.get(candidate.rank, Judgement(Verdict.NONE)).verdict is Verdict.ACCEPTED
    ]
    accepted = [c for c in shown if c.rank in judged and judged[c.rank].verdict is Verdict.ACCEPTED]
    for candidate in accepted + [candidate for candidate in shown if candidate not in accepted]:
        slide = slides.get(candidate.fingerprint) or slides.get(candidate.slide)
        judgement = judged.get(candidate.rank, Judgement(Verdict.NONE))
        parts.append(_candidate_block(candidate, judgement, image, slide))
    parts.append(_maps(result.candidates, judged, slides))
    parts.append(_candidate_table(result.candidates, judged))
    return "".join(parts)


def _candidate_block(
    candidate: Candidate, judgement: Judgement, image: NDArray[np.uint8] | None, slide: Slide | None
) -> str:
    """Return query, candidate and both blended side by side, and what is known of the place."""
    figures = []
    if image is not None:
        figures.append(f"<figure>{_image(image, 'query')}<figcaption>query</figcaption></figure>")
    if slide is not None:
        pixel_size_um = max(candidate.width_um, candidate.height_um) / PICTURE_PX
        there = to_display(extract_candidate(slide, candidate, pixel_size_um))
        caption = f"candidate {candidate.rank}, turned to match"
        figures.append(f"<figure>{_image(there, caption)}<figcaption>{caption}</figcaption></figure>")
        if image is not None:
            blended = f"<figure>{_image(_blend(image, there), 'both')}"
            figures.append(f"{blended}<figcaption>query drawn into it</figcaption></figure>")
    rows = {
        "Verdict": _badge(judgement.verdict),
        "By": escape(judgement.reviewer),
        "On": escape(_time_text(judgement.time)),
        "Note": f'<span class="note">{escape(judgement.note)}</span>' if judgement.note else "",
        "Slide": escape(candidate.slide),
        "Place": _place_text(candidate),
        "Pixel": f"{candidate.center_x_px:.0f}, {candidate.center_y_px:.0f}",
        "Size": f"{candidate.width_um:.0f} × {candidate.height_um:.0f} µm",
        "Turned": f"{candidate.angle_deg:+.1f}°{', mirrored' if candidate.mirrored else ''}",
        "Confidence": format_confidence(candidate.confidence),
        "Picture": "" if slide is not None else "the slide is not where it was",
    }
    table = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items() if value)
    return f'<div class="candidate">{"".join(figures)}<table>{table}</table></div>'


def _maps(candidates: Sequence[Candidate], judged: dict[int, Judgement], slides: dict[str, Slide]) -> str:
    """Return each slide's overview with the candidates that lie on it."""
    parts = []
    for key in dict.fromkeys(candidate.fingerprint or candidate.slide for candidate in candidates):
        slide = slides.get(key)
        if slide is None:
            continue
        width, height = slide.info.width_px, slide.info.height_px
        unit = max(width, height) / 640  # of a pixel on the page
        marks = []
        for candidate in reversed(candidates):
            if (candidate.fingerprint or candidate.slide) != key:
                continue
            corners = candidate_corners_px(candidate)
            points = " ".join(f"{x:.0f},{y:.0f}" for x, y in corners)
            colour = _css(VERDICT_COLOURS[judged.get(candidate.rank, Judgement(Verdict.NONE)).verdict])
            x, y = corners[corners[:, 1].argmin()]
            marks.append(
                f'<polygon points="{points}" fill="none" stroke="#fff" stroke-width="{5 * unit:.1f}"/>'
                f'<polygon points="{points}" fill="none" stroke="{colour}" stroke-width="{2.5 * unit:.1f}"/>'
                f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{10 * unit:.1f}" fill="{colour}"/>'
                f'<text x="{x:.0f}" y="{y + 4.5 * unit:.0f}" font-size="{13 * unit:.1f}" fill="#fff" '
                f'text-anchor="middle" font-weight="bold">{candidate.rank}</text>'
            )
        overview = _data_url(to_display(slide.overview(OVERVIEW_PX)[0]))
        parts.append(
            f'<figure><svg class="slide" viewBox="0 0 {width} {height}" role="img">'
            f'<image href="{overview}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
            f"{''.join(marks)}</svg><figcaption>{escape(slide.name)}</figcaption></figure>"
        )
    return "".join(parts)


def _candidate_table(candidates: Sequence[Candidate], judged: dict[int, Judgement]) -> str:
    rows = []
    for candidate in candidates:
        judgement = judged.get(candidate.rank, Judgement(Verdict.NONE))
        rows.append(
            f'<tr><td class="number">{candidate.rank}</td><td>{escape(candidate.slide)}</td>'
            f'<td class="number">{_place_text(candidate)}</td>'
            f'<td class="number">{candidate.angle_deg:+.1f}°</td>'
            f'<td class="number">{format_confidence(candidate.confidence, 1)}</td><td>{_badge(judgement.verdict)}</td>'
            f'<td>{escape(judgement.reviewer)}</td><td class="note">{escape(judgement.note)}</td></tr>'
        )
    if not rows:
        return ""
    return (
        '<table class="list"><tr><th>Rank</th><th>Slide</th><th>Place</th><th>Turned</th><th>Confidence</th>'
        f"<th>Verdict</th><th>By</th><th>Note</th></tr>{''.join(rows)}</table>"
    )


def _method(project: Project, queries: Sequence[ProjectQuery]) -> str:
    """Return how the results came about: slides, settings, index, model, options of each search."""
    slides = "".join(
        f"<tr><td>{escape(slide.name)}</td>"
        f"<td>{_pixel_size(slide)}</td>"
        f"<td><code>{escape(slide.fingerprint)}</code></td></tr>"
        for slide in project.slides
    )
    searched = [(query.name, query.provenance) for query in queries if query.provenance]
    same = len({repr(provenance) for _, provenance in searched}) == 1
    searches = "".join(
        f"<h3>{escape('All queries' if same else name)}</h3>{_definitions(provenance)}"
        for name, provenance in (searched[:1] if same else searched)
    )
    return (
        f"<h2>How this was found</h2>{searches}<h3>Project</h3>{_definitions(project.settings)}"
        f"<h3>Slides</h3><table>{slides}</table>"
        '<p class="pale">Places are in µm from the top-left corner of the slide; "turned" says by how '
        "much its content was turned counter-clockwise to give the query.</p>"
    )


def _pixel_size(slide: ProjectSlide) -> str:
    if slide.pixel_size_um is None:
        return "pixel size missing"
    return f"{slide.pixel_size_um:g} µm ({escape(slide.pixel_size_source)})"


def _definitions(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(WORDS.get(name, name))}</th><td><code>{escape(_in_words(value))}</code></td></tr>"
        for name, value in _flatten(values)
    )
    return f"<table>{rows}</table>"


def _flatten(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value)
        else:
            yield str(name), value


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    return str(value)


def _page(title: str, body: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _blend(query: NDArray[np.uint8], candidate: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the query's bright structures over the candidate, in a colour that no stain has."""
    height, width = candidate.shape[:2]
    signal = cv2.resize(query, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    share = np.clip(signal / 255.0 * 1.2, 0, 0.85)[..., None]
    pale = 0.4 * 255 + 0.6 * candidate.astype(np.float32)
    return np.rint(pale * (1 - share) + np.array([0, 120, 60], np.float32) * share).astype(np.uint8)


def _image(picture: NDArray[np.uint8], alt: str) -> str:
    return f'<img src="{_data_url(picture)}" alt="{escape(alt)}">'


def _data_url(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _badge(verdict: Verdict) -> str:
    if verdict is Verdict.NONE:
        return '<span class="pale">not judged</span>'
    label = VERDICT_LABELS[verdict]
    return f'<span class="badge" style="background: {_css(VERDICT_COLOURS[verdict])}">{label}</span>'


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _place_text(candidate: Candidate) -> str:
    return f"{candidate.center_x_um:.1f}, {candidate.center_y_um:.1f} µm"


def _time_text(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%d %B %Y, %H:%M}" if time else ""
