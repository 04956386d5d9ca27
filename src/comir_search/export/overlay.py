"""Draw an answer as one picture: positions on the slides, confidence, query and candidate side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comir_search.files import atomic_path
from comir_search.geometry import candidate_corners_px
from comir_search.pictures.canvas import INK, SUPERSAMPLING, Canvas, shorten, text_width
from comir_search.pictures.display import to_display
from comir_search.pictures.palette import SERIES, Colour
from comir_search.records import Candidate, SearchResult, format_confidence
from comir_search.slides.crop import extract_candidate

if TYPE_CHECKING:
    from comir_search.slides import Slide

SLIDES_WIDTH_PX, SLIDES_HEIGHT_PX, LEGEND_WIDTH_PX, MARGIN_PX, CAPTION_PX = 1100, 880, 470, 24, 44
PALE, LINE = (110, 114, 120), (214, 217, 221)


@dataclass(frozen=True)
class _Entry:
    """A numbered candidate with its query."""

    number: int
    colour: Colour
    result: SearchResult
    query: Slide
    candidate: Candidate | None


def write_overlay(
    path: str | Path,
    results: Sequence[SearchResult],
    queries: Sequence[Slide],
    slides: Mapping[str, Slide],
    top: int = 5,
) -> None:
    """Draw results as PNG.

    For one result, its first candidates are drawn as numbered rectangles on their
    slides; for several results, the first candidate of each. A bar marks the side of
    the rectangle that is the query's top. The query and the candidate, rotated to
    match, are shown beside them.

    Parameters
    ----------
    path : path
        The PNG; replaced if it exists.
    results : sequence of SearchResult
        At least one.
    queries : sequence of Slide
        The queries, in the order of the results.
    slides : mapping of str to Slide
        The slides that can be opened, by the candidates' `fingerprint`. Candidates on
        other slides are only listed.
    top : int, optional
        Number of candidates to draw for a single result.

    Raises
    ------
    ComirSearchError
        If the file cannot be written.
    """
    entries = _number_candidates(results, queries, top)
    legend = Canvas(LEGEND_WIDTH_PX, 4000)
    used_px = _draw_legend(legend, entries, slides, single=len(results) == 1)
    panels = _draw_slides(entries, slides)
    height = max(panels.height // SUPERSAMPLING, math.ceil(used_px)) + 2 * MARGIN_PX
    left = panels.width // SUPERSAMPLING + 2 * MARGIN_PX
    page = Canvas(left + LEGEND_WIDTH_PX + MARGIN_PX, height)
    page.paste(panels, MARGIN_PX, MARGIN_PX)
    page.paste(legend.image, left, MARGIN_PX)
    with atomic_path(path) as temporary:
        page.reduced().save(temporary, format="PNG", optimize=True)


def scale_bar_um(span_um: float) -> float:
    """Return a round length of about a fifth of `span_um`: 1, 2 or 5 times a power of ten."""
    target = span_um / 5
    power = 10.0 ** math.floor(math.log10(target))
    return max(step * power for step in (1, 2, 5) if step * power <= target)


def _number_candidates(results: Sequence[SearchResult], queries: Sequence[Slide], top: int) -> list[_Entry]:
    if len(results) == 1:
        result, query = results[0], queries[0]
        return [
            _Entry(number, SERIES[(number - 1) % len(SERIES)], result, query, candidate)
            for number, candidate in enumerate(result.candidates[:top] or [None], 1)
        ]
    return [
        _Entry(
            number,
            SERIES[(number - 1) % len(SERIES)],
            result,
            query,
            result.candidates[0] if result.found and result.candidates else None,
        )
        for number, (result, query) in enumerate(zip(results, queries, strict=True), 1)
    ]


def _slide_of(candidate: Candidate | None, slides: Mapping[str, Slide]) -> Slide | None:
    """Return the slide of a candidate, by its fingerprint if it has one, else by its name."""
    if candidate is None:
        return None
    if candidate.fingerprint:
        return slides.get(candidate.fingerprint)
    return next((slide for slide in slides.values() if slide.name == candidate.slide), None)


def _draw_slides(entries: Sequence[_Entry], held: Mapping[str, Slide]) -> Image.Image:
    """Draw the slides with their rectangles in the most compact grid; without candidates, draw any slide."""
    entries_on: dict[Slide, list[_Entry]] = {}
    for entry in entries:
        if (slide := _slide_of(entry.candidate, held)) is not None:
            entries_on.setdefault(slide, []).append(entry)
    slides = list(entries_on) or list(held.values())[:1]
    grids = [_Grid.arrange(slides, columns) for columns in range(1, max(len(slides), 1) + 1)]
    grid = max(grids, key=lambda grid: grid.filled)
    canvas = Canvas(math.ceil(grid.width), math.ceil(grid.height))
    for slide, (x, y, scale) in zip(slides, grid.cells, strict=True):
        _draw_slide(canvas, slide, entries_on.get(slide, []), x, y, scale)
    return canvas.image


@dataclass(frozen=True)
class _Grid:
    """Slides in rows: (x, y, final pixels per level-0 pixel) of each, and the size of the grid."""

    cells: tuple[tuple[float, float, float], ...]
    width: float
    height: float
    filled: float

    @classmethod
    def arrange(cls, slides: Sequence[Slide], columns: int) -> _Grid:
        n_rows = math.ceil(len(slides) / columns)
        room_width = (SLIDES_WIDTH_PX - MARGIN_PX * (columns - 1)) / columns
        room_height = SLIDES_HEIGHT_PX / max(n_rows, 1) - CAPTION_PX
        cells, y, width, area = [], 0.0, 1.0, 0.0
        for row in range(n_rows):
            x, row_height = 0.0, 0.0
            for slide in slides[row * columns : (row + 1) * columns]:
                size = slide.info.width_px, slide.info.height_px
                scale = min(room_width / size[0], room_height / size[1])
                cells.append((x, y, scale))
                area += size[0] * size[1] * scale**2
                x += size[0] * scale + MARGIN_PX
                row_height = max(row_height, size[1] * scale)
            y += row_height + CAPTION_PX
            width = max(width, x - MARGIN_PX)
        height = max(y, 1.0)
        return cls(tuple(cells), width, height, area / (width * height))


def _draw_slide(
    canvas: Canvas, slide: Slide, entries: Sequence[_Entry], x: float, y: float, scale: float
) -> None:
    """Draw one slide and the entries on it at `scale` final pixels per level-0 pixel, with caption and scale bar."""
    width, height = slide.info.width_px * scale, slide.info.height_px * scale
    overview, _ = slide.overview(round(max(width, height) * SUPERSAMPLING))
    picture = Image.fromarray(to_display(overview))
    canvas.paste(picture.resize((round(width * SUPERSAMPLING), round(height * SUPERSAMPLING))), x, y)
    edge = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    canvas.line(edge, LINE, 1)
    for entry in reversed(entries):  # the best last, so it is on top
        assert entry.candidate is not None
        corners = [(x + px * scale, y + py * scale) for px, py in candidate_corners_px(entry.candidate)]
        ring = [*corners, corners[0], corners[1]]
        canvas.line(ring, (255, 255, 255), 5.5)
        canvas.line(ring, entry.colour, 2.5)
        canvas.line(corners[:2], entry.colour, 6)
        chip_x, chip_y = min(corners, key=lambda corner: (corner[1], corner[0]))
        canvas.chip(
            str(entry.number),
            min(max(chip_x, x + 14), x + width - 14),
            min(max(chip_y - 6, y + 14), y + height - 14),
            entry.colour,
        )
    canvas.text(slide.name, x, y + height + 10, 13, PALE)
    if slide.pixel_size_um:
        bar_um = scale_bar_um(slide.info.width_px * slide.pixel_size_um)
        bar = bar_um / slide.pixel_size_um * scale
        label = f"{bar_um / 1000:g} mm"
        label_width = text_width(label, 13)
        canvas.box(x + width - bar, y + height + 14, bar, 4, INK)
        canvas.text(label, x + width - bar - label_width - 8, y + height + 8, 13)


def _draw_legend(
    canvas: Canvas, entries: Sequence[_Entry], slides: Mapping[str, Slide], single: bool
) -> float:
    """Draw the legend; return its height."""
    if single:
        return _draw_single_legend(canvas, entries, slides)
    found = sum(entry.candidate is not None for entry in entries)
    canvas.text(f"{found} of {len(entries)} queries found", 0, 0, 20, bold=True)
    canvas.text("query        candidate, rotated to match", 34, 32, 12, PALE)
    y, side = 52.0, 104
    for entry in entries:
        canvas.chip(str(entry.number), 14, y + side / 2, entry.colour if entry.candidate else PALE)
        canvas.fit(_show_query(entry.query), 34, y, side)
        text_x = 34 + 2 * (side + 6) + 8
        canvas.text(shorten(entry.query.name, LEGEND_WIDTH_PX - text_x, 13), text_x, y + 4, 13, bold=True)
        if entry.candidate is None:
            canvas.wrap(
                f"not found: {entry.result.reason}", text_x, y + 24, LEGEND_WIDTH_PX - text_x, 12, PALE
            )
        else:
            picture = _show_candidate(entry, slides)
            if picture is not None:
                canvas.fit(picture, 34 + side + 6, y, side)
            _describe(canvas, entry, text_x, y + 24)
        y += side + 10
    return y


def _draw_single_legend(canvas: Canvas, entries: Sequence[_Entry], slides: Mapping[str, Slide]) -> float:
    best, result = entries[0], entries[0].result
    canvas.text("Found" if result.found else "Not found", 0, 0, 20, bold=True)
    y = canvas.wrap(result.reason, 0, 32, LEGEND_WIDTH_PX, 13, PALE) + 10
    side = (LEGEND_WIDTH_PX - 10) / 2
    canvas.fit(_show_query(best.query), 0, y, side)
    picture = _show_candidate(best, slides)
    if picture is not None:
        canvas.fit(picture, side + 10, y, side)
    canvas.text(shorten(f"query {best.query.name}", side, 12), 0, y + side + 6, 12, PALE)
    if best.candidate is not None:
        canvas.text("candidate 1, rotated to match", side + 10, y + side + 6, 12, PALE)
    y += side + 36
    for entry in entries:
        if entry.candidate is None:
            continue
        small = 74
        canvas.chip(str(entry.number), 14, y + small / 2, entry.colour)
        picture = _show_candidate(entry, slides)
        if picture is not None:
            canvas.fit(picture, 34, y, small)
        _describe(canvas, entry, 34 + small + 14, y + 2)
        y += small + 10
    return y


def _describe(canvas: Canvas, entry: _Entry, x: float, y: float) -> None:
    """Write slide, position, rotation and confidence of a candidate in four lines."""
    candidate = entry.candidate
    assert candidate is not None
    room = LEGEND_WIDTH_PX - x
    canvas.text(shorten(candidate.slide, room, 12), x, y, 12)
    place_mm = f"{candidate.center_x_um / 1000:.3f}, {candidate.center_y_um / 1000:.3f} mm"
    canvas.text(place_mm, x, y + 17, 12)
    mirrored = ", mirrored" if candidate.mirrored else ""
    canvas.text(f"rotated {candidate.angle_deg:+.1f}°{mirrored}", x, y + 34, 12)
    if candidate.by_hand or candidate.confidence is None:
        canvas.text(f"confidence: {format_confidence(candidate)}", x, y + 52, 12, PALE)
        return
    canvas.box(x, y + 56, 90, 7, LINE, 3.5)
    share = min(max(candidate.confidence, 0.0), 1.0)
    if share > 0:
        canvas.box(x, y + 56, max(7, 90 * share), 7, entry.colour, 3.5)
    canvas.text(format_confidence(candidate), x + 98, y + 52, 12, bold=True)


def _show_query(query: Slide) -> NDArray[np.uint8]:
    return to_display(query.overview(600)[0])


def _show_candidate(entry: _Entry, slides: Mapping[str, Slide]) -> NDArray[np.uint8] | None:
    """Return the candidate rotated as its query shows it, None if its slide cannot be opened."""
    candidate, slide = entry.candidate, _slide_of(entry.candidate, slides)
    if candidate is None or slide is None:
        return None
    pixel_size_um = max(candidate.width_um, candidate.height_um) / 600
    return to_display(extract_candidate(slide, candidate, pixel_size_um))
