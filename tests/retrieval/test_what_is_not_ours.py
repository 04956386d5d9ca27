"""Nothing of the user's is deleted or emptied, wherever it lies beside an index."""

import json
import shutil

import pytest

from comir_search.errors import ComirSearchError
from comir_search.retrieval.indexing import index_slides
from comir_search.retrieval.maintenance import compact
from comir_search.retrieval.storage import Storage


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_compact_leaves_what_the_user_keeps_in_the_index_folder(index):
    (index.path / "slides" / "patientA").mkdir()
    (index.path / "slides" / "patientA" / "scan.tif").write_bytes(b"a slide")
    (index.path / "slides" / "img.zarr").mkdir()
    (index.path / "slides" / "img.zarr" / "zarr.json").write_text("{}")
    (index.path / "slides" / ("a" * 32)).mkdir()
    (index.path / "slides" / ("a" * 32) / "scan.tif").write_bytes(b"another slide")
    (index.path / "download.partial").write_bytes(b"half a film")
    (index.path / ".notes.part1").write_bytes(b"notes")
    before = tree(index.path)
    assert compact(index.path).removed == ()
    assert tree(index.path) == before


def test_compact_does_not_follow_links(index, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(index.path / "slides", elsewhere)
    (index.path / "slides").symlink_to(elsewhere)
    (elsewhere / "removed").mkdir()
    (elsewhere / "removed" / "scan.tif").write_bytes(b"a slide")
    before = tree(elsewhere)
    compact(index.path)
    assert tree(elsewhere) == before


@pytest.mark.parametrize("name", ["../victim", "slides/../../victim", "/victim", "slides//x", ""])
def test_names_that_lead_out_are_neither_written_nor_deleted(tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "scan.tif").write_bytes(b"a slide")
    storage = Storage(tmp_path / "index")
    for act in (lambda: storage.delete(name), lambda: storage.write(name, b"x")):
        with pytest.raises(ComirSearchError, match="outside itself"):
            act()
    assert (victim / "scan.tif").read_bytes() == b"a slide"


def test_a_progress_record_that_names_another_folder_is_not_believed(index, slide_file, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "scan.tif").write_bytes(b"a slide")
    (slide,) = index.slides
    folder = index.path / slide.folder
    progress = json.loads((folder / "progress.json").read_text())
    progress["record"]["fingerprint"] = "../../victim"
    (folder / "progress.json").write_text(json.dumps(progress))
    (folder / "slide.json").unlink()
    index_slides([slide_file], index.path)
    assert (victim / "scan.tif").read_bytes() == b"a slide"


def test_a_lock_that_is_a_link_is_refused(index, tmp_path):
    target = tmp_path / "letter.txt"
    target.write_text("keep me")
    (index.path / "writer.lock").unlink(missing_ok=True)
    (index.path / "writer.lock").symlink_to(target)
    with pytest.raises(ComirSearchError):
        compact(index.path)
    assert target.read_text() == "keep me"
