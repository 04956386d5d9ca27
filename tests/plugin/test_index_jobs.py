"""Indexing in the window: slides that sample alike, and what goes wrong on the way. No display needed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile

from comir_search.errors import BatchIncomplete, ComirSearchError
from comir_search.files import CannotWrite
from comir_search.index import build as indexing
from comir_search.index.index import Index
from comir_search.index.lock import writer_lock
from comir_search.index.options import IndexOptions
from comir_search.index.storage import Storage
from comir_search.progress import finish
from comir_search.slides import fingerprint, open_slide
from napari_comir_search.jobs.index import index_steps, open_index_steps
from napari_comir_search.jobs.queries import describe_queries_steps
from napari_comir_search.jobs.slides import describe_slides_steps, restore_slides_steps
from napari_comir_search.state.items import IndexState, SlideItem
from napari_comir_search.state.session import Session

from .conftest import Study, paint_tissue

CPU = IndexOptions(device="cpu")


def write_alike(folder: Path) -> tuple[Path, Path]:
    """Write two slides that differ, but not where the fingerprint looks."""
    image = paint_tissue((500, 600), 5)
    first, second = folder / "a.tif", folder / "b.tif"
    tifffile.imwrite(first, image, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    for row in range(10, 490, 3):
        other = image.copy()
        other[row, 300] = 0
        tifffile.imwrite(second, other, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
        with open_slide(first) as one, open_slide(second) as two:
            if one.fingerprint == two.fingerprint and one.identity != two.identity:
                return first, second
    pytest.fail("the fingerprint looks everywhere")


def take(session: Session, *paths: Path) -> None:
    opened = finish(describe_slides_steps(list(paths), session.project.slides))
    assert not opened.problems
    session.add_slides(opened.infos)


def open_index(session: Session, path: Path) -> None:
    opened = finish(open_index_steps(path, session.slides, CPU))
    session.set_index(opened.path, opened.index, opened.states)


def index(session: Session, study: Study, items: list[SlideItem]) -> None:
    options = IndexOptions(model=str(study.model), modality="bf", device="cpu")
    opened = finish(index_steps(study.folder / "i.comirindex", items, session.slides, options))
    session.set_index(opened.path, opened.index, opened.states)


def test_a_slide_is_found_in_the_index_whichever_of_two_alike_came_first(study: Study, tmp_path) -> None:
    a, b = write_alike(study.folder)
    session = Session(tmp_path / "projects")
    take(session, a)
    index(session, study, session.slides)
    with open_slide(a) as slide:
        name = slide.fingerprint
    session.new_project()
    take(session, b, a)  # in the opposite order: in the project, `b` has the fingerprint for its key
    assert [item.fingerprint == name for item in session.slides] == [True, False]
    open_index(session, study.folder / "i.comirindex")
    assert [item.state for item in session.slides] == [IndexState.NONE, IndexState.DONE]
    index(session, study, session.slides[:1])
    assert [item.state for item in session.slides] == [IndexState.DONE, IndexState.DONE]
    assert session.name_of(session.slides[1].fingerprint) == name
    held = {slide.fingerprint: slide.name for slide in session.index.slides}
    assert held[session.name_of(session.slides[0].fingerprint)] == "b.tif" and len(held) == 2

    # Indexed again with another pixel size, it is this one that is taken out, and none else.
    session.set_pixel_size(session.slides[0].fingerprint, 1.5)
    assert [item.state for item in session.slides] == [IndexState.STALE, IndexState.DONE]
    index(session, study, session.slides[:1])
    assert [item.state for item in session.slides] == [IndexState.DONE, IndexState.DONE]
    assert {slide.name: slide.pixel_size_um for slide in session.index.slides} == {"a.tif": 1, "b.tif": 1.5}
    session.close()


def test_one_missing_path_does_not_keep_the_other_slides_from_being_added(study: Study, tmp_path) -> None:
    gone = tmp_path / "gone"
    opened = finish(describe_slides_steps([gone, study.slides], ()))
    assert [info.name for info in opened.infos] == ["first.ome.tif", "second.ome.tif"]
    assert len(opened.problems) == 1 and "gone does not exist" in opened.problems[0]
    queries = finish(describe_queries_steps([gone, study.slides / "first.ome.tif"]))
    assert len(queries.queries) == 1 and "gone does not exist" in queries.problems[0]
    session = Session(tmp_path / "projects")
    session.add_slides(opened.infos)
    (study.slides / "first.ome.tif").rename(tmp_path / "first.ome.tif")
    found = finish(restore_slides_steps(session.project, [gone, tmp_path / "first.ome.tif"]))
    assert found.missing == [] and "gone does not exist" in found.problems[0]
    session.close()


def infos_of(study: Study) -> list[SlideItem]:
    opened = finish(describe_slides_steps([study.slides], ()))
    return [SlideItem(info) for info in opened.infos]


def test_a_full_disk_stops_the_indexing_of_all_slides(study: Study, monkeypatch) -> None:
    asked = []

    def fill(paths, *_, **__):
        asked.append(paths)
        full = CannotWrite("full")
        full.is_full = True
        raise ComirSearchError("The disk that holds it is full; free some space.") from full
        yield

    monkeypatch.setattr(indexing, "index_slides_steps", fill)
    items = infos_of(study)
    with pytest.raises(ComirSearchError, match="is full") as caught:
        finish(index_steps(study.index, items, items, CPU))
    assert not isinstance(caught.value, BatchIncomplete) and len(asked) == 1


def test_a_held_lock_stops_the_indexing_of_all_slides(study: Study) -> None:
    items = infos_of(study)
    with writer_lock(Storage(study.index)), pytest.raises(ComirSearchError, match="being written") as caught:
        finish(index_steps(study.index, items, items, CPU))
    assert not isinstance(caught.value, BatchIncomplete)


def test_a_slide_that_cannot_be_indexed_again_keeps_its_entry(study: Study) -> None:
    first = infos_of(study)[0]
    broken = replace(first.info, pixel_size_um=1.25, pixel_size_source="user")
    path = Path(first.info.path)
    content = path.read_bytes()
    for there in (b"", content[: len(content) // 3], None):
        path.unlink() if there is None else path.write_bytes(there)
        item = SlideItem(broken, IndexState.STALE, 1.0)
        with pytest.raises(ComirSearchError):
            finish(index_steps(study.index, [item], [item], CPU))
        assert [slide.pixel_size_um for slide in Index.open(study.index, "cpu").slides] == [1.0]


def test_a_comparison_of_whole_slides_is_stopped_at_once(study: Study, monkeypatch) -> None:
    copy = study.folder / "copy.tif"
    copy.write_bytes((study.slides / "first.ome.tif").read_bytes())
    items = infos_of(study)
    released = threading.Event()
    monkeypatch.setattr(fingerprint, "is_same_content", lambda *_: released.wait(60))
    job = describe_slides_steps([copy], [items[0].info])
    started_s = time.monotonic()
    while "comparing" not in next(job).stage:
        pass
    job.close()
    released.set()
    assert time.monotonic() - started_s < 30  # a watchdog: the comparison would take a minute
