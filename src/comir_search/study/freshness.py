"""Check whether a stored answer is up to date, and if not, which inputs changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from comir_search.errors import ComirSearchError
from comir_search.records import Provenance
from comir_search.slides import open_slide
from comir_search.study.entries import ProjectQuery
from comir_search.study.project import Project

NOT_KNOWN = "this answer is from an older version, which did not record its inputs"
STOPPED = "the search was stopped before its end, so this is not an answer"
SIZE_TOLERANCE = 1e-6
# Candidates of older versions give the query's pixel size only as exactly as their scale was fitted.
FITTED_TOLERANCE = 0.05
MOST_NAMES = 3


@dataclass(frozen=True)
class Inputs:
    """The present inputs of a search; unknown ones are None and are not compared.

    Parameters
    ----------
    stated_um : mapping of str to float
        Pixel size of each slide of the project, by its key.
    indexed_um : mapping of str to float, optional
        Pixel size with which each slide of the index was indexed.
    chosen : collection of str, optional
        The slides that would be searched; None for all.
    names : mapping of str to str
        Names of the slides.
    options : dict, optional
        ``mirror`` and ``method``.
    embedding, words, model : str, optional
        Fingerprints of the index's model.
    """

    stated_um: Mapping[str, float] = field(default_factory=dict)
    indexed_um: Mapping[str, float] | None = None
    chosen: frozenset[str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    embedding: str | None = None
    words: str | None = None
    model: str | None = None


def inputs_of(project: Project) -> Inputs:
    """Return the inputs of a search that are known from the project alone."""
    slides = project.slides
    return Inputs(
        stated_um={
            slide.fingerprint: slide.pixel_size_um for slide in slides if slide.pixel_size_um is not None
        },
        names={slide.fingerprint: slide.name for slide in slides},
    )


def describe_state(query: ProjectQuery, inputs: Inputs) -> str:
    """Return the state of a query's stored answer in words, "" if it is up to date.

    Parameters
    ----------
    query : ProjectQuery
        With its present pixel size and modality.
    inputs : Inputs
        The other present inputs.
    """
    result = query.result
    if result is None:
        return ""
    if not result.finished:
        return STOPPED
    changes = list(describe_changes(query, inputs))
    if changes:
        return f"out of date: {'; '.join(changes)}"
    return NOT_KNOWN if result.provenance is None else ""


def describe_changes(query: ProjectQuery, inputs: Inputs) -> Iterator[str]:
    """Yield each changed input of a query's stored answer, in words."""
    if query.result is None:
        return
    origin = query.result.provenance
    if origin is None:
        yield from _changes_seen(query, inputs)
        return
    size_um = query.pixel_size_um
    if size_um is not None and sizes_differ(origin.pixel_size_um, size_um):
        yield f"the query's pixel size was {origin.pixel_size_um:g} µm, now {size_um:g} µm"
    if query.modality and query.modality != origin.modality:
        yield f"the query's modality was {origin.modality}, now {query.modality}"
    if query.path and not query.has_image and _fingerprint_now(query.path) not in (None, origin.query):
        yield f"the file of {query.name} contains another image now"
    yield from _option_changes(origin.options, inputs)
    yield from _slide_changes(origin, inputs)
    if inputs.embedding is not None and inputs.embedding != origin.embedding:
        yield "the index has another model now"
    elif inputs.model is not None and inputs.model != origin.model:
        yield "the model of the index was calibrated again"


def _option_changes(then: Mapping[str, Any], inputs: Inputs) -> Iterator[str]:
    now = inputs.options or {}
    if "mirror" in now and "mirror" in then and bool(now["mirror"]) != bool(then["mirror"]):
        yield (
            "mirrored positions are searched now"
            if now["mirror"]
            else "mirrored positions are not searched now"
        )
    method = then.get("method", "auto")  # older versions had no other method
    if "method" in now and now["method"] != method:
        yield f"the search method was {method}, now {now['method']}"


def _slide_changes(origin: Provenance, inputs: Inputs) -> Iterator[str]:
    gone = []
    for key, size_um in origin.slides.items():
        name = inputs.names.get(key, key[:8])
        now_um = inputs.stated_um.get(key)
        if now_um is not None and sizes_differ(size_um, now_um):
            yield f"the pixel size of {name} was {size_um:g} µm, now {now_um:g} µm"
        elif inputs.indexed_um is None:
            continue
        elif key not in inputs.indexed_um:
            gone.append(name)
        elif sizes_differ(size_um, inputs.indexed_um[key]):
            yield f"{name} was indexed with {size_um:g} µm, now with {inputs.indexed_um[key]:g} µm"
    if gone:
        yield f"no longer in the index: {_listed(gone)}"
    added = [
        inputs.names.get(key, key[:8])
        for key in inputs.indexed_um or {}
        if key not in origin.slides and (inputs.chosen is None or key in inputs.chosen)
    ]
    if added:
        was_chosen = (
            origin.options.get("slides") is not None
        )  # it may have been in the index then, but not chosen
        yield f"{'not searched' if was_chosen else 'indexed since, and not searched'}: {_listed(added)}"


def _fingerprint_now(path: str) -> str | None:
    """Return the present fingerprint of a query's file, None if it cannot be opened."""
    try:
        about = os.stat(path)
        if stat.S_ISDIR(about.st_mode):  # a folder's time does not change when a file in it is replaced
            return _read_fingerprint.__wrapped__(path, 0, 0)
        return _read_fingerprint(path, about.st_mtime_ns, about.st_size)
    except (OSError, ValueError, ComirSearchError):
        return None


@lru_cache(maxsize=256)
def _read_fingerprint(path: str, time_ns: int, n_bytes: int) -> str:
    """Return a file's fingerprint, cached as long as its time and size stay the same."""
    with open_slide(path) as slide:
        return slide.fingerprint


def _changes_seen(query: ProjectQuery, inputs: Inputs) -> Iterator[str]:
    """Yield the changes that can be seen from the answer of an older version itself."""
    result = query.result
    assert result is not None
    found = [candidate for candidate in result.candidates if not candidate.by_hand]
    shape = query.source.get("shape")
    if found and shape and shape[1] and query.pixel_size_um is not None:
        then_um = found[0].width_um / shape[1]
        if abs(then_um / query.pixel_size_um - 1) > FITTED_TOLERANCE:
            yield f"the query's pixel size was about {then_um:.3g} µm, now {query.pixel_size_um:g} µm"
    for key, (name, size_um) in {
        each.fingerprint: (each.slide, each.pixel_size_um) for each in found if each.fingerprint
    }.items():
        now_um = inputs.stated_um.get(key)
        if now_um is not None and sizes_differ(size_um, now_um):
            yield f"the pixel size of {name} was {size_um:g} µm, now {now_um:g} µm"
    yield from _option_changes(query.provenance.get("options", {}), inputs)
    model = query.provenance.get("model")
    if model and inputs.words is not None and model != inputs.words:
        yield "the index has another model now"


def sizes_differ(first_um: float, second_um: float) -> bool:
    """Whether two pixel sizes differ; all comparisons use this function."""
    return abs(first_um - second_um) > SIZE_TOLERANCE * second_um


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
