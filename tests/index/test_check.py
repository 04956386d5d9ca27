from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import small
from index_files import assert_same_index

from comir_search.errors import ComirSearchError
from comir_search.index.build import index_slides, index_slides_steps
from comir_search.index.check import compact_steps, repair_steps, verify_steps
from comir_search.index.index import Index
from comir_search.index.lock import writer_lock
from comir_search.index.storage import Storage
from comir_search.model import embedding
from comir_search.progress import finish


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def interrupt(slide_file, index_path, stage="embedding", done=3) -> None:
    job = index_slides_steps([slide_file], index_path)
    for tick in job:
        if tick.stage.startswith(stage) and tick.done >= done:
            break
    job.close()


def test_a_sound_index_has_no_damage_and_every_chunk_is_read(index):
    ticks = []
    assert finish(verify_steps(index.path), ticks.append) == []
    (slide,) = index.slides
    written = [
        path for path in (index.path / slide.folder).rglob("*") if "/c/" in path.as_posix() and path.is_file()
    ]
    assert len([tick for tick in ticks if tick.stage == "verifying disc.tif"]) == len(written)


def test_every_damage_is_named_and_only_that_is_rebuilt(index, finished, monkeypatch):
    (slide,) = index.slides
    folder = index.path / slide.folder
    flip(folder / "comir/0/c/0/2/2")
    (folder / "comir/0/c/0/3/2").unlink()
    (folder / "comir/1/c/0/1/1").write_bytes(b"")
    flip(folder / "words/c/0/0/0")
    flip(folder / "tissue/c/0/0")
    damages = finish(verify_steps(index.path))
    assert [(damage.part, damage.chunk, damage.problem) for damage in damages] == [
        ("tissue", (0, 0), "checksum"),
        ("comir/0", (2, 2), "checksum"),
        ("comir/0", (3, 2), "missing"),
        ("comir/1", (1, 1), "checksum"),
        ("words", (0, 0), "checksum"),
    ]
    assert str(damages[1]) == "disc.tif: comir/0 chunk 2/2: checksum"
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    boxes, embed = [], embedding.embed_region
    monkeypatch.setattr(embedding, "embed_region", lambda *key: boxes.append(key[4:]) or embed(*key))
    assert finish(repair_steps(index.path)) == damages
    rewritten = [path for path, time_ns in times.items() if path.stat().st_mtime_ns != time_ns]
    assert len(rewritten) == 4
    assert len(boxes) == 2
    assert finish(verify_steps(index.path)) == []
    assert_same_index(index.path, finished / "index")


@pytest.mark.parametrize("array", ["words", "comir/0", "tissue"])
def test_descriptions_are_rebuilt_with_the_chunks_behind_them(index, finished, array):
    folder = index.path / index.slides[0].folder
    flip(folder / array / ("c/0/0" if array == "tissue" else "c/0/1/1" if array == "comir/0" else "c/0/0/0"))
    (folder / array / "zarr.json").write_text("{}")
    (damage,) = finish(verify_steps(index.path))
    assert (damage.part, damage.chunk) == (array, None)
    assert len(finish(repair_steps(index.path))) == 2
    assert_same_index(index.path, finished / "index")


def test_a_slide_file_that_is_damaged_is_named_and_rebuilt(index, finished):
    file = index.path / index.slides[0].folder / "slide.json"
    file.write_text('{"name"')
    opened = Index.open(index.path)
    (reason,) = opened.damaged.values()
    assert opened.slides == [] and re.search(
        r"slide.json is damaged \(.*\); run `comir-search repair", reason
    )
    (damage,) = finish(verify_steps(index.path))
    assert (damage.slide, damage.part) == ("disc.tif", "slide.json")
    assert finish(repair_steps(index.path)) == [damage]
    assert_same_index(index.path, finished / "index")


def test_repair_says_what_it_lacks_and_mends_the_rest(index, slide_file, tmp_path):
    other = small.write_slide(tmp_path / "slides" / "other.tif", 600, seed=2)
    index_slides([other], index.path)
    index.refresh()
    for slide in index.slides:
        flip(index.path / slide.chunk_file("comir/0", slide.grid.chunks("comir/0")[0]))
    slide_file.rename(tmp_path / "moved.tif")
    with pytest.raises(ComirSearchError, match=r"disc.tif was not found where it was indexed"):
        finish(repair_steps(index.path))
    assert [damage.slide for damage in finish(verify_steps(index.path))] == ["disc.tif"]
    index_slides([tmp_path / "moved.tif"], index.path)  # tells where it lies now
    assert len(finish(repair_steps(index.path))) == 1


def test_a_lost_model_is_named(index):
    small.make_model(seed=1).save(index.path / "model.safetensors")
    (damage,) = finish(verify_steps(index.path))
    assert damage.part == "model.safetensors"
    with pytest.raises(ComirSearchError, match="model.safetensors .* cannot be rebuilt"):
        finish(repair_steps(index.path))


def test_the_space_of_removed_slides_is_given_back(index, slide_file, tmp_path):
    other = small.write_slide(tmp_path / "slides" / "other.tif", 600, seed=2)
    index_slides([other], index.path)
    index.refresh()
    folder = index.path / next(slide.folder for slide in index.slides if slide.name == "disc.tif")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    index.remove(folder.name)
    done = finish(compact_steps(index.path))
    assert done.removed == ("disc.tif",)
    assert done.freed_bytes >= size
    assert not folder.exists()
    assert [slide.name for slide in Index.open(index.path).slides] == ["other.tif"]
    assert finish(compact_steps(index.path)).removed == ()


def test_slides_are_removed_by_name(index, tmp_path):
    with pytest.raises(ComirSearchError, match=r"contains no slide nothing.tif; its slides are: disc.tif"):
        finish(compact_steps(index.path, remove=["nothing.tif"]))
    assert finish(compact_steps(index.path, remove=["disc.tif"])).removed == ("disc.tif",)
    assert Index.open(index.path).slides == []


def test_slides_of_one_name_are_told_apart(index, tmp_path):
    (tmp_path / "more").mkdir()
    index_slides([small.write_slide(tmp_path / "more" / "disc.tif", 600, seed=2)], index.path)
    with pytest.raises(ComirSearchError, match="2 slides named disc.tif; choose one by its fingerprint"):
        finish(compact_steps(index.path, remove=["disc.tif"]))
    assert len(Index.open(index.path).slides) == 2
    finish(compact_steps(index.path, remove=[index.slides[0].fingerprint]))
    assert len(Index.open(index.path).slides) == 1


def test_what_is_finished_of_a_slide_is_kept(model, slide_file, tmp_path, finished):
    path = Index.create(tmp_path / "index", model, "bf", region_px=256).path
    interrupt(slide_file, path)
    left = [".index.0123abcd.part.json", ".model.comir-0123abcd.part.safetensors"]
    for name in left:
        (path / name).write_text("{")
    done = finish(compact_steps(path))
    assert done.interrupted == ("disc.tif",)
    assert done.removed == ()
    assert not any((path / name).exists() for name in left)
    index_slides([slide_file], path)
    assert_same_index(path, finished / "index")
    interrupt_again = tmp_path / "again"
    Index.create(interrupt_again, model, "bf", region_px=256)
    interrupt(slide_file, interrupt_again)
    assert finish(compact_steps(interrupt_again, remove=["disc.tif"])).removed == ("disc.tif",)
    assert list((interrupt_again / "slides").glob("?" * 32)) == []


@pytest.mark.parametrize("last", [1, 9])
def test_a_compaction_that_was_killed_halfway_is_finished_by_the_next(index, monkeypatch, last):
    folder = index.path / index.slides[0].folder
    index.remove(index.slides[0].fingerprint)
    delete, deleted = Storage.delete, []

    def kill(self, name):
        deleted.append(name)
        if len(deleted) > last:
            raise KeyboardInterrupt
        delete(self, name)

    monkeypatch.setattr(Storage, "delete", kill)
    with pytest.raises(KeyboardInterrupt):
        finish(compact_steps(index.path))
    monkeypatch.setattr(Storage, "delete", delete)
    assert len(finish(compact_steps(index.path)).removed) == 1
    assert not folder.exists()


def test_writers_are_kept_apart(index):
    with writer_lock(index.storage):
        for write in (repair_steps, compact_steps):
            with pytest.raises(ComirSearchError, match="is being written by"):
                finish(write(index.path))
        assert finish(verify_steps(index.path)) == []  # readers need no lock


def test_the_commands_say_what_they_did(index, command, tmp_path):
    (slide,) = index.slides
    assert command("verify", "--index", index.path).out == f"{index.path}: sound\n"
    flip(index.path / slide.chunk_file("comir/0", (2, 2)))
    answer = command("verify", "--index", index.path, "--json", tmp_path / "damage.json")
    assert answer.code == 1
    assert answer.out == "disc.tif: comir/0 chunk 2/2: checksum\n"
    assert answer.sentence == (
        f"{index.path}: 1 part damaged; run `comir-search repair --index {index.path}`."
    )
    assert '"part": "comir/0"' in (tmp_path / "damage.json").read_text()
    answer = command("repair", "--index", index.path)
    assert (answer.code, answer.out) == (
        0,
        f"rebuilt disc.tif: comir/0 chunk 2/2: checksum\n{index.path}: sound\n",
    )
    answer = command("compact", "--index", index.path, "--remove", "disc.tif")
    assert answer.code == 0
    assert answer.out.startswith("removed disc.tif\n")
    assert np.float64(answer.out.split()[-3]) > 0.1


def test_commands_refuse_what_is_no_index(command, tmp_path):
    for name in ("verify", "repair", "compact"):
        answer = command(name, "--index", tmp_path)
        assert answer.code == 1
        assert answer.sentence == f"{tmp_path} contains no index; make one with `comir-search index`."
