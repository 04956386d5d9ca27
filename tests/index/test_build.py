from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import small
from index_files import assert_same_index, files_of

from comir_search.errors import BatchIncomplete, ComirSearchError, PixelSizeMissing
from comir_search.index import build as indexing
from comir_search.index.build import index_slides, index_slides_steps
from comir_search.index.check import repair_steps
from comir_search.index.index import DamagedChunk, Index
from comir_search.model import embedding
from comir_search.progress import finish
from comir_search.slides import slide_from_array


@pytest.fixture
def empty(model, slide_file, tmp_path) -> Path:
    """An index without slides, in small regions."""
    return Index.create(tmp_path / "index", model, "bf", region_px=256).path


def test_stages_and_regions_are_told(empty, slide_file):
    ticks = []
    index = finish(index_slides_steps([slide_file], empty), ticks.append)
    (slide,) = index.slides
    stages = list(dict.fromkeys(tick.stage for tick in ticks))
    assert stages == ["opening slides", "measuring disc.tif", "embedding disc.tif", "words disc.tif"]
    for stage, cells in (("embedding", slide.grid.regions()), ("words", slide.grid.blocks())):
        told = [(tick.done, tick.total) for tick in ticks if tick.stage.startswith(stage)]
        assert told[0] == (0, len(cells))
        assert told[-1] == (len(cells), len(cells))
        assert told == sorted(told)


def test_region_size_does_not_show(index, slide_file, tmp_path):
    whole = index_slides([slide_file], tmp_path / "large").slides[0]
    assert whole.layout.region_px == 1024
    (slide,) = index.slides
    # Larger chunks take in more glass; what both hold is the same.
    pixels = np.kron(slide.grid.stored, np.ones((slide.layout.chunk_px,) * 2, bool))[:750, :750]
    both = slide.read_comir(0, 0, 0, 750, 750), whole.read_comir(0, 0, 0, 750, 750)
    np.testing.assert_array_equal(both[0][:, pixels], both[1][:, pixels])


def test_indexed_slides_are_skipped_and_new_ones_added(index, slide_file, monkeypatch):
    before = files_of(index.path)
    calls = []
    embed = embedding.embed_region
    monkeypatch.setattr(embedding, "embed_region", lambda *key: calls.append(key[1].name) or embed(*key))
    small.write_slide(slide_file.parent / "more.tif", 700, seed=5)
    copy = Path(shutil.copy(slide_file, slide_file.parent / "copy of disc.tif"))
    ticks = []
    after = finish(index_slides_steps([slide_file.parent], index.path), ticks.append)
    assert set(calls) == {"more.tif"}
    assert [slide.name for slide in after.slides] == ["disc.tif", "more.tif"]
    assert before.items() <= files_of(index.path).items()
    notes = [tick.note for tick in ticks if tick.note]
    assert notes == [f"{copy} was left out: it is an identical copy of {slide_file}."]
    index_slides([copy], index.path)
    assert Index.open(index.path).slides[0].path == slide_file  # which is still there
    slide_file.unlink()
    (slide, _) = index_slides([copy], index.path).slides
    assert (slide.name, slide.path) == ("copy of disc.tif", copy)


def test_where_a_slide_fails_its_copy_is_tried(empty, slide_file, monkeypatch):
    """The bytes of both are the same, but one of them lies on a disk that fails."""
    from comir_search.slides.tiff import TiffSlide

    copy = Path(shutil.copy(slide_file, slide_file.parent / "disc copy.tif"))
    later = Path(shutil.copy(slide_file, slide_file.parent / "disc later.tif"))
    read = TiffSlide.read_scaled

    def fail(self, *arguments):
        if self.info.name == copy.name:
            raise ComirSearchError(f"{copy.name} cannot be read: the disk reports an error.")
        return read(self, *arguments)

    monkeypatch.setattr(TiffSlide, "read_scaled", fail)
    ticks = []
    with pytest.raises(BatchIncomplete) as caught:
        finish(index_slides_steps([copy, slide_file, later], empty), ticks.append)
    assert [slide.name for slide in caught.value.result.slides] == ["disc.tif"]
    assert [each.name for each in caught.value.left_out] == [str(copy)]
    notes = [tick.note for tick in ticks if tick.note]
    assert notes == [f"{later} was left out: it is an identical copy of {slide_file}."]


def test_an_index_among_the_slides_is_not_taken_for_a_slide(model, slide_file):
    folder = slide_file.parent
    for _ in range(2):
        index = index_slides([folder], folder / "index")
        assert [slide.name for slide in index.slides] == ["disc.tif"]
        assert index.slides[0].record.relative_path == "../disc.tif"


def test_a_slide_that_moved_is_known_and_its_place_noted(index, slide_file, tmp_path):
    moved = tmp_path / "moved.tif"
    slide_file.rename(moved)
    (slide,) = index_slides([moved], index.path).slides
    assert (slide.name, slide.path) == ("moved.tif", moved)


def test_another_pixel_size_is_refused_with_the_way_out(index, slide_file):
    with pytest.raises(ComirSearchError, match=r"disc.tif .*2 um per pixel, not 0.5; .*compact .*--remove"):
        index_slides([slide_file], index.path, pixel_size_um=0.5)


def test_a_slide_without_pixel_size_is_named(empty, tmp_path):
    bare = small.write_slide(tmp_path / "bare.tif", 600, pixel_size_um=None)
    with pytest.raises(PixelSizeMissing, match=r"bare.tif .*--pixel-size"):
        index_slides([bare], empty)
    (slide,) = index_slides([bare], empty, pixel_size_um=2.0).slides
    assert (slide.pixel_size_um, slide.record.pixel_size_source) == (2.0, "user")


def test_bad_slides_leave_nothing_behind(model, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ComirSearchError, match="contains no slide"):
        index_slides([tmp_path / "nothing"], tmp_path / "index")
    with pytest.raises(ComirSearchError, match="No slide was given"):
        index_slides([], tmp_path / "index")
    noise = tmp_path / "noise.tif"
    noise.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(ComirSearchError, match=r"noise.tif"):
        index_slides([noise], tmp_path / "index")
    with pytest.raises(BatchIncomplete, match="2 of 2 were left out"):
        index_slides([noise, tmp_path / "typo.tif"], tmp_path / "index")
    good = small.write_slide(tmp_path / "good.tif", 600)
    with pytest.raises(ComirSearchError, match="not 'ihc'"):
        index_slides([good], tmp_path / "index", modality="ihc")
    assert not (tmp_path / "index").exists()


def test_bad_members_of_a_batch_do_not_keep_the_others_out(empty, tmp_path):
    """A stray broken file, one without pixel size, one that breaks off and a typo, among good slides."""
    folder = tmp_path / "batch"
    folder.mkdir()
    for number in range(2):
        small.write_slide(folder / f"good{number}.tif", 600, seed=number)
    (folder / "stray.tif").write_bytes(b"II*\0" + bytes(100))
    small.write_slide(folder / "bare.tif", 600, seed=7, pixel_size_um=None)
    torn = small.write_slide(folder / "torn.tif", 700, seed=8)
    torn.write_bytes(torn.read_bytes()[:-200_000])
    with pytest.raises(BatchIncomplete) as caught:
        index_slides([folder, tmp_path / "typo.tif"], empty)
    assert [slide.name for slide in caught.value.result.slides] == ["good0.tif", "good1.tif"]
    assert caught.value.n_members == 6
    reasons = {Path(each.name).name: each.reason for each in caught.value.left_out}
    assert set(reasons) == {"stray.tif", "bare.tif", "torn.tif", "typo.tif"}
    assert "--pixel-size" in reasons["bare.tif"]
    assert all(name in reason for name, reason in reasons.items())
    assert [slide.name for slide in Index.open(empty).slides] == ["good0.tif", "good1.tif"]


def test_another_pixel_size_of_one_slide_leaves_only_that_out(index, slide_file, tmp_path):
    more = small.write_slide(tmp_path / "more.tif", 600, seed=1)
    with pytest.raises(BatchIncomplete, match=r"disc.tif .*2 um per pixel, not 4;") as caught:
        index_slides([slide_file, more], index.path, pixel_size_um=4.0)
    assert [slide.name for slide in caught.value.result.slides] == ["disc.tif", "more.tif"]


def test_a_damaged_slide_does_not_keep_others_out(index, slide_file, tmp_path):
    more = small.write_slide(tmp_path / "more.tif", 600, seed=1)
    (index.path / index.slides[0].folder / "slide.json").write_text("{")
    ticks = []
    after = finish(index_slides_steps([more], index.path), ticks.append)
    assert [slide.name for slide in after.slides] == ["more.tif"] and len(after.damaged) == 1
    (note,) = [tick.note for tick in ticks if tick.note]
    assert "slide.json is damaged" in note and "comir-search repair" in note
    with pytest.raises(ComirSearchError, match=r"slide.json is damaged .*comir-search repair"):
        index_slides([slide_file], index.path)
    finish(repair_steps(index.path))
    assert [slide.name for slide in index_slides([slide_file], index.path).slides] == ["disc.tif", "more.tif"]


def test_an_index_made_otherwise_is_refused(index, slide_file, model):
    with pytest.raises(ComirSearchError, match="was made with another model; leave --model out"):
        index_slides([slide_file], index.path, model=small.make_model(seed=1))
    with pytest.raises(ComirSearchError, match="modality bf, not shg"):
        index_slides([slide_file], index.path, modality="shg")
    index_slides([slide_file], index.path, model=model, modality="bf")


def test_a_slide_of_glass_is_indexed_and_empty(empty, tmp_path):
    import tifffile

    file = tmp_path / "glass.tif"
    image = np.full((700, 700, 3), 240, np.uint8)
    tifffile.imwrite(file, image, photometric="rgb", resolution=(5000, 5000), resolutionunit=3)
    (slide,) = index_slides([file], empty).slides
    assert not slide.tissue.any()
    assert not slide.grid.stored.any()
    assert (slide.read_comir(0, 0, 0, 350, 350) == 128).all()
    assert (slide.read_words(0, 0, 44, 44) == 65535).all()


def test_cancelling_ends_at_once_and_resumes(empty, slide_file, finished, monkeypatch):
    threads, embedded, embed = threading.active_count(), [], embedding.embed_region
    monkeypatch.setattr(embedding, "embed_region", lambda *key: embedded.append(key[4:6]) or embed(*key))
    for stop_at in (("embedding", 3), ("embedding", 12), ("words", 2)):
        job = index_slides_steps([slide_file], empty)
        for tick in job:
            if tick.stage.startswith(stop_at[0]) and tick.done >= stop_at[1]:
                break
        begun = len(embedded)
        job.close()
        assert len(embedded) <= begun + 1
        assert threading.active_count() == threads
        assert Index.open(empty).slides == []
    ticks = []
    finish(index_slides_steps([slide_file], empty), ticks.append)
    first = next(tick for tick in ticks if tick.stage.startswith("words"))
    assert first.done >= 2
    assert_same_index(empty, finished / "index")


@pytest.mark.parametrize("stage", ["measuring", "embedding"])
def test_cancelling_ends_a_read_that_takes_long(empty, slide_file, monkeypatch, stage):
    """Without a pyramid one scaled read is many reads of the file: it ends after the next of them."""
    from comir_search.slides import slide as slide_module
    from comir_search.slides.tiff import TiffSlide

    monkeypatch.setattr(slide_module, "_BLOCK_PX", 2048 * 4)  # four rows at a time
    read, started, go_on = TiffSlide._read_inside, threading.Event(), threading.Event()
    after = []

    def slow_read(self, *box):
        if go_on.is_set():
            after.append(box)
        elif job_stage[0] == stage:
            started.set()
            go_on.wait(60)
        return read(self, *box)

    interrupt = TiffSlide.interrupt
    monkeypatch.setattr(TiffSlide, "_read_inside", slow_read)
    job, job_stage = index_slides_steps([slide_file], empty), [""]
    for tick in job:
        job_stage[0] = tick.stage.split()[0]
        if started.is_set():
            break
    monkeypatch.setattr(TiffSlide, "interrupt", lambda self: (interrupt(self), go_on.set()))
    job.close()
    assert len(after) == 0
    assert Index.open(empty).slides == []


def test_a_region_whose_chunk_was_lost_is_done_again(empty, slide_file, finished, monkeypatch):
    job = index_slides_steps([slide_file], empty)
    for tick in job:
        if tick.stage.startswith("words") and tick.done >= 2:
            break
    job.close()
    folder = next((empty / "slides").glob("?" * 32))
    for chunk in ("comir/0/c/0/2/3", "comir/2/c/0/0/0"):
        (folder / chunk).write_bytes(b"")  # as a power cut may leave it
    (folder / "comir/0/c/0/2/2").unlink()
    (folder / f"words/c/0/0/0.{'0123abcd' * 4}.partial").write_bytes(b"half")
    index_slides([slide_file], empty)
    assert_same_index(empty, finished / "index")


@pytest.mark.parametrize("harm", ["progress.json", "words/zarr.json", "tissue/c/0/0"])
def test_a_slide_is_begun_again_where_its_beginning_is_damaged(empty, slide_file, finished, harm):
    job = index_slides_steps([slide_file], empty)
    for tick in job:
        if tick.stage.startswith("embedding") and tick.done >= 3:
            break
    job.close()
    (next((empty / "slides").glob("?" * 32)) / harm).write_bytes(b"{")
    index_slides([slide_file], empty)
    assert_same_index(empty, finished / "index")


def test_a_full_disk_is_one_sentence_and_resumes(empty, slide_file, finished, monkeypatch):
    from zarr.storage import LocalStore

    put, written = LocalStore.set, []

    async def fill(self, key, value):
        if "/c/" in key:
            written.append(key)
        if len(written) > 25:
            raise OSError(errno.ENOSPC, "No space left on device", key)
        await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", fill)
    with pytest.raises(
        ComirSearchError, match=r"^The disk with \S+ is full; free some space and run the same"
    ):
        index_slides([slide_file], empty)
    monkeypatch.setattr(LocalStore, "set", put)
    ticks = []
    finish(index_slides_steps([slide_file], empty), ticks.append)
    assert next(tick for tick in ticks if tick.stage.startswith("embedding")).done >= 10
    assert_same_index(empty, finished / "index")


def test_a_failing_slide_is_reported_and_the_threads_end(empty, slide_file, monkeypatch):
    from comir_search.slides.tiff import TiffSlide

    read, threads = TiffSlide.read_scaled, threading.active_count()

    def fail(self, pixel_size_um, x, y, width, height):
        if pixel_size_um == 2.0 and y > 500:
            raise ComirSearchError("disc.tif: a tile cannot be decoded")
        return read(self, pixel_size_um, x, y, width, height)

    monkeypatch.setattr(TiffSlide, "read_scaled", fail)
    with pytest.raises(ComirSearchError, match="cannot be decoded"):
        index_slides([slide_file], empty)
    assert threading.active_count() == threads
    monkeypatch.setattr(TiffSlide, "read_scaled", read)
    assert len(index_slides([slide_file], empty).slides) == 1


KILLS = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
import small
import zarr
from comir_search.model import embedding
small.install()
from comir_search.progress import finish
from comir_search.index.build import index_slides_steps
slide, index, log, kills = sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
embed = embedding.embed_region

def slow_embed(*arguments):
    time.sleep(0.02)
    made = embed(*arguments)
    os.write(logged, f"{arguments[4:6]}\\n".encode())
    return made

embedding.embed_region = slow_embed
chance, killed = random.Random(3), 0
while True:
    child = os.fork()
    if child == 0:
        logged = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        finish(index_slides_steps([slide], index))
        os._exit(0)
    if killed < kills:
        time.sleep(chance.uniform(0.02, 0.25))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed += 1
    else:
        assert status == 0, status
        print(killed)
        sys.exit()
"""


def test_twenty_kills_at_any_moment_leave_the_same_index(empty, slide_file, finished, tmp_path):
    log = tmp_path / "embedded"
    done = subprocess.run(
        [sys.executable, "-c", KILLS, Path(small.__file__).parent, slide_file, empty, log, "20"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout)
    assert killed >= 10
    assert_same_index(empty, finished / "index")
    regions = len(Index.open(empty).slides[0].grid.regions())
    embedded = len(log.read_text().splitlines())
    assert regions <= embedded <= regions + killed  # at most one region's work lost a kill


class Expanse:
    """A brightfield slide of any size that is nowhere in memory: stripes of tissue."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, side_px: int):
        self.shape = (side_px, side_px, 3)
        self.size = side_px * side_px * 3

    def __getitem__(self, cut):
        if cut == slice(None):
            cut = (cut, cut)
        if cut[0] is Ellipsis:
            return self
        y, x = (np.arange(*part.indices(side)) for part, side in zip(cut, self.shape[:2], strict=False))
        wave = 128 + 80 * np.sin(y[:, None] / 9) * np.cos(x[None] / 7)
        image = np.where((x // 600 % 2 == 0)[None], wave, 240).astype(np.uint8)
        return np.repeat(image[..., None], 3, axis=2)


def test_memory_does_not_grow_with_the_slide(model, tmp_path):
    peaks = {}
    for side_px in (768, 3072):
        index = Index.create(tmp_path / str(side_px), model, "bf", region_px=256, cache_bytes=1 << 20)
        slide = slide_from_array(Expanse(side_px), pixel_size_um=2.0, name="expanse")
        job = indexing._index_slide_steps(index, slide, tmp_path / "expanse", indexing.LocalRunner(index))
        tracemalloc.start()
        for tick in job:
            if tick.stage.startswith("measuring"):
                tracemalloc.reset_peak()
        peaks[side_px] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        index.refresh()
        assert index.slides[0].grid.stored.mean() > 0.5
    # Sixteen times the area. How many regions are in flight varies, but is bounded.
    assert peaks[3072] < 2 * peaks[768]
    assert peaks[3072] < 3 * 3072**2  # the pixels alone


def test_reading_overlaps_embedding(empty, slide_file, monkeypatch):
    from comir_search.slides.tiff import TiffSlide

    events, read, embed = [], TiffSlide.read_scaled, embedding.embed_region

    def logged_read(self, pixel_size_um, *box):
        if pixel_size_um == 2.0:
            events.append("read")
        return read(self, pixel_size_um, *box)

    def logged_embed(*arguments):
        events.append("embed begins")
        time.sleep(0.02)
        made = embed(*arguments)
        events.append("embed ends")
        return made

    monkeypatch.setattr(TiffSlide, "read_scaled", logged_read)
    monkeypatch.setattr(embedding, "embed_region", logged_embed)
    index_slides([slide_file], empty)
    begins = [number for number, event in enumerate(events) if event == "embed begins"]
    during = [events[number : events.index("embed ends", number)].count("read") for number in begins]
    assert sum(count > 0 for count in during) > len(begins) // 2
    ahead = [events[:number].count("read") - order - 1 for order, number in enumerate(begins)]
    assert max(ahead) <= 3  # bounded


def test_reads_of_an_incomplete_slide_name_what_is_missing(empty, slide_file):
    job = index_slides_steps([slide_file], empty)
    for tick in job:
        if tick.stage.startswith("embedding") and tick.done >= 1:
            break
    job.close()
    index = Index.open(empty)
    progress = index.read_progress(next((empty / "slides").glob("?" * 32)).name)
    with pytest.raises(DamagedChunk, match="missing"):
        progress.target.read_comir(0, 0, 0, 750, 750)
