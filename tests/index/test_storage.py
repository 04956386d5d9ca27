from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.index.build import index_slides
from comir_search.index.check import compact_steps, repair_steps, verify_steps
from comir_search.index.index import Index
from comir_search.index.storage import Storage, is_url
from comir_search.progress import finish


@dataclass(frozen=True)
class Entry:
    x: list[int | None]


@pytest.fixture(params=["folder", "memory://", "file://"])
def location(request, tmp_path):
    if request.param == "folder":
        return tmp_path / "stored"
    return request.param + (tmp_path / "stored").as_posix()


def test_urls_are_told_from_folders():
    assert all(map(is_url, ("s3://bucket/index", "memory://index", "simplecache::s3://bucket/index")))
    assert not any(map(is_url, ("index", "/data/index", r"C:\data\index", "C:/data/index", "a:b")))


def test_files_are_written_read_listed_and_deleted(location):
    storage = Storage(location)
    assert storage.read("a/b.json") is None
    assert storage.folders("a") == []
    storage.write_document("a/b.json", {"x": [1, None]})
    storage.write("a/c/d", b"123")
    storage.write("a/c/d", b"1234")
    storage.write("a/c/.d.12ab.part", b"half")
    assert storage.read_document("a/b.json", Entry, "fix it") == Entry([1, None])
    assert storage.exists("a/c/d")
    assert not storage.exists("a/c")
    assert storage.folders("a") == ["c"]
    assert storage.sizes("a/c") == {".d.12ab.part": 4, "d": 4}
    assert storage.sizes("")["a/c/d"] == 4
    storage.delete("a/c/d")
    storage.delete("a/nothing")
    assert storage.read("a/c/d") is None
    assert storage.exists("a/b.json")


def test_json_that_is_damaged_is_named(location):
    storage = Storage(location)
    for content in (b'{"x":', b"[1]", b"\xff", b'{"x": 1}', b'{"x": [], "digest": "0"}'):
        storage.write("x.json", content)
        with pytest.raises(ComirSearchError, match=r"x.json is damaged \(.*\); fix it"):
            storage.read_document("x.json", Entry, "fix it")


def test_a_protocol_nobody_knows_is_refused():
    with pytest.raises(ComirSearchError, match="nothing://x cannot be opened"):
        Storage("nothing://x")


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    import pathlib

    def fill(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", fill)
    with pytest.raises(ComirSearchError, match="the disk is full"):
        Storage(tmp_path).write("x", b"1")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("protocol", ["memory://", "file://"])
def test_an_index_behind_a_url_is_like_one_in_a_folder(index, model, slide_file, tmp_path, protocol):
    url = protocol + (tmp_path / "remote").as_posix()
    Index.create(url, model, "bf", region_px=256)
    index_slides([slide_file], url)
    opened = Index.open(url)
    (slide,), (local,) = opened.slides, index.slides
    assert opened.model.fingerprint == model.fingerprint
    assert slide.path == slide_file
    np.testing.assert_array_equal(slide.read_comir(0, 0, 0, 750, 750), local.read_comir(0, 0, 0, 750, 750))
    np.testing.assert_array_equal(slide.read_words(0, 0, 94, 94), local.read_words(0, 0, 94, 94))
    chunk = slide.chunk_file("comir/0", (2, 2))
    opened.storage.write(chunk, opened.storage.read(chunk)[:-1])
    assert [damage.chunk for damage in finish(verify_steps(url))] == [(2, 2)]
    assert len(finish(repair_steps(url))) == 1
    assert finish(verify_steps(url)) == []
    assert finish(compact_steps(url, remove=["disc.tif"])).removed == ("disc.tif",)
    assert Index.open(url).slides == []
