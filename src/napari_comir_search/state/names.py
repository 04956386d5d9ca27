"""What the slides of a project are called in an index.

A project and an index both call a slide by its fingerprint, or by its identity
where another slide of that fingerprint came first: so the two names may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from comir_search.index.slide_record import SlideRecord
from comir_search.records import SlideInfo
from comir_search.slides import Slide


def find_record(records: Iterable[SlideRecord], info: SlideInfo) -> SlideRecord | None:
    """Return what an index remembers of a slide: by identity where both are known, else by fingerprint."""
    slide = cast(Slide, info)  # which has both as well
    held = [record for record in records if record.is_of(slide)]
    return min(held, key=lambda record: record.identity == "", default=None)


def names_in(records: Sequence[SlideRecord], infos: Iterable[SlideInfo]) -> dict[str, str]:
    """Return the name in an index of each slide that it holds, by the slide's key in the project."""
    found = {info.fingerprint: find_record(records, info) for info in infos}
    return {key: record.fingerprint for key, record in found.items() if record is not None}
