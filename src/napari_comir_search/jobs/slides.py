"""Slides are found, described and opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from comir_search.errors import ComirSearchError, LeftOut
from comir_search.pictures.display import display_range
from comir_search.progress import Job, Tick
from comir_search.records import SlideInfo
from comir_search.slides import Slide, find_slides, fingerprint, open_slide
from comir_search.study.entries import ProjectSlide
from comir_search.study.project import Project
from napari_comir_search.jobs.threads import wait_steps
from napari_comir_search.state.log import LOGGER

LOOK_PX = 512  # of an image's longer side: enough to see which values its channels hold


@dataclass
class Opening:
    """What is to be said of files that were opened.

    Parameters
    ----------
    problems : list of str
        A sentence for each file that could not be opened.
    notes : list of str
        Sentences on what was opened, such as a file that was left out because
        it is the same as another.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """The first of the problems, and how many more there are; "" where there is none."""
        if len(self.problems) < 2:
            return "".join(self.problems)
        return f"{self.problems[0]} ({len(self.problems) - 1} more could not be opened.)"


@dataclass
class OpenedSlides(Opening):
    """Slides that were opened, and those of a project whose files are missing."""

    infos: list[SlideInfo] = field(default_factory=list)
    missing: list[ProjectSlide] = field(default_factory=list)


def describe_slides_steps(
    paths: Sequence[Path], known: Sequence[ProjectSlide | SlideInfo] = ()
) -> Job[OpenedSlides]:
    """Find slides in files and folders and describe them.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders; folders are searched whole.
    known : sequence of ProjectSlide or SlideInfo, optional
        The project's slides. One of them that is opened again keeps its key and
        the pixel size that the user gave; a copy of one is left out and noted; a
        different slide of the same fingerprint goes by its identity.
    """
    yield Tick("searching for slides", 0, 0)
    left_out: list[LeftOut] = []
    files = find_slides(paths, left_out)
    opened = OpenedSlides(problems=[each.reason for each in left_out])
    for done, path in enumerate(files):
        yield Tick(f"opening {path.name}", done, len(files))
        try:
            with open_slide(path) as slide:
                info = replace(slide.info, identity=slide.identity)
            match = yield from _find_known_steps(info, [*known, *opened.infos])
        except ComirSearchError as error:
            LOGGER.error("%s", error)
            opened.problems.append(str(error))
            continue
        if match is None:
            opened.infos.append(_named_apart(info, [*known, *opened.infos]))
        elif _is_other_file(match.path, info.path):
            opened.notes.append(
                f"{info.name} is the same image as {match.name}, which is listed already, and was left out."
            )
        else:
            info = replace(info, fingerprint=match.fingerprint)
            if match.pixel_size_source == "user" and match.pixel_size_um is not None:
                info = replace(info, pixel_size_um=match.pixel_size_um, pixel_size_source="user")
            opened.infos.append(info)
    opened.notes += [note for info in opened.infos for note in info.notes]
    return opened


def _find_known_steps(
    info: SlideInfo, known: Sequence[ProjectSlide | SlideInfo]
) -> Job[ProjectSlide | SlideInfo | None]:
    """Return the known slide with the content of a file, None where there is none; whole files are compared."""
    for other in known:
        if info.fingerprint != other.fingerprint and info.identity not in (other.identity, other.fingerprint):
            continue
        if other.identity and info.identity and other.identity != info.identity:
            continue
        if not _is_other_file(other.path, info.path):
            return other
        compare = partial(fingerprint.is_same_content, other.path, info.path)
        is_same = yield from wait_steps(f"comparing {info.name} with {other.name}", compare)
        if is_same:
            return other
    return None


def _named_apart(info: SlideInfo, known: Sequence[ProjectSlide | SlideInfo]) -> SlideInfo:
    """Return a slide under a key that no other has."""
    taken = {other.fingerprint for other in known}
    return replace(info, fingerprint=info.identity) if info.fingerprint in taken else info


def _is_other_file(known: str, path: str) -> bool:
    """Whether both files are there, and are two."""
    try:
        return not os.path.samefile(known, path)
    except (OSError, ValueError):
        return False  # the known one is gone: it moved


def restore_slides_steps(project: Project, places: Sequence[str | Path] = ()) -> Job[OpenedSlides]:
    """Describe a project's slides again; moved slides are searched for in `places` first."""
    yield Tick("searching for slides", 0, 0)
    left_out: list[LeftOut] = []
    if places:
        project.relocate_slides(places, left_out)
    slides = project.slides
    present = [Path(slide.path) for slide in slides if slide.exists]
    opened = (yield from describe_slides_steps(present, slides)) if present else OpenedSlides()
    opened.problems[:0] = [each.reason for each in left_out]
    opened.missing = project.missing_slides()
    return opened


def open_slide_steps(info: SlideInfo) -> Job[tuple[Slide, tuple[float, float] | None]]:
    """Open a slide to look at; return it, open, with contrast limits where it is not 8-bit RGB."""
    with suppress(ImportError):  # napari needs them for its first layers, and the window would wait
        import pandas  # noqa: F401
        import scipy.ndimage  # noqa: F401

    yield Tick(f"opening {info.name}", 0, 0)
    slide = open_slide(info.path, pixel_size_um=info.pixel_size_um)
    try:
        if len(slide.levels) > 1:
            slide.levels[-1][...]  # kept by the level: the window asks for it first, and would wait here
        if slide.channels == 3 and slide.dtype == np.uint8:
            return slide, None
        image, _ = slide.overview(LOOK_PX)
        if slide.channels == 3:
            return slide, display_range(image)
    except BaseException:
        slide.close()
        raise
    low, high = np.percentile(image[np.isfinite(image)], [0.5, 99.8]) if np.isfinite(image).any() else (0, 1)
    return slide, (float(low), float(max(high, low + 1e-6)))
