from __future__ import annotations

import json
import pickle
import shutil
import threading

import numpy as np
import pytest
import small
import tifffile

from comir_search.errors import ComirSearchError
from comir_search.index.build import index_slides
from comir_search.index.index import DamagedChunk, Index, find_slide
from comir_search.index.layout import NO_WORD, ZERO_POINT
from comir_search.model.embedding import embed_region, intensity_of
from comir_search.slides import open_slide, tissue_mask


def whole_comir(model, slide_file, shape):
    """Embed a slide in one piece."""
    _, height, width = shape
    side = -(-max(height, width) * 2 // 16) * 16
    with open_slide(slide_file) as slide:
        intensity = intensity_of(model, slide, "bf")
        return embed_region(model, slide, "bf", intensity, 0, 0, side, side)[:, :height, :width]


def stored_pixels(slide, side=750):
    """Return which CoMIR pixels lie in a stored chunk."""
    chunk = slide.layout.chunk_px
    return np.kron(slide.grid.stored, np.ones((chunk, chunk), bool))[:side, :side]


def test_a_slide_is_described(index, slide_file):
    (slide,) = index.slides
    with open_slide(slide_file) as opened:
        assert (slide.name, slide.fingerprint) == ("disc.tif", opened.fingerprint)
    assert (slide.width_px, slide.height_px, slide.pixel_size_um) == (1500, 1500, 2.0)
    assert slide.comir_shape == (3, 750, 750)
    assert slide.words_shape == (2, 94, 94)
    assert slide.intensity == {"kind": "full_scale", "low": 0.0, "high": 255.0}
    assert slide.path == slide_file
    assert index.modality == "bf"


def test_a_signal_is_stretched_by_its_own_content(model, tmp_path):
    """12-bit values in 16-bit files: only what is measured of them fills the network's range."""
    rng = np.random.default_rng(2)
    image = (rng.gamma(2.0, 200.0, (700, 900)) + 50).astype(np.uint16)
    tifffile.imwrite(tmp_path / "shg.tif", image, resolution=(5000, 5000), resolutionunit=3)
    (slide,) = index_slides([tmp_path / "shg.tif"], tmp_path / "index", modality="shg").slides
    low, high = np.percentile(image, (1.0, 99.5))
    assert slide.intensity == {"kind": "signal", "low": pytest.approx(low), "high": pytest.approx(high)}
    assert np.ptp(slide.read_comir(0, 100, 100, 200, 200)) > 100


def test_regions_join_without_a_seam_and_glass_is_zero(index, slide_file, model):
    (slide,) = index.slides
    stored = stored_pixels(slide)
    assert 0.2 < stored.mean() < 0.9
    expected = np.where(stored, whole_comir(model, slide_file, slide.comir_shape), ZERO_POINT)
    np.testing.assert_array_equal(slide.read_comir(0, 0, 0, 750, 750), expected)


def test_tissue_is_inside_what_is_stored(index, slide_file):
    (slide,) = index.slides
    with open_slide(slide_file) as opened:
        np.testing.assert_array_equal(slide.tissue, tissue_mask(opened, slide.tissue_pixel_size_um, True))
    pixels = np.kron(slide.tissue, np.ones((8, 8), bool))[:750, :750]
    assert stored_pixels(slide)[pixels].all()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_levels_are_area_means(index, level):
    (slide,) = index.slides
    factor = 2**level
    side = -(-750 // factor)
    fine = slide.read_comir(0, 0, 0, side * factor, side * factor).astype(float)
    means = fine.reshape(3, side, factor, side, factor).mean(axis=(2, 4))
    np.testing.assert_array_equal(slide.read_comir(level, 0, 0, side, side), np.floor(means + 0.5))


def test_words_are_those_of_the_whole_and_absent_on_glass(index, model):
    (slide,) = index.slides
    halo = slide.layout.word_halo_px
    padded = slide.read_comir(0, -halo, -halo, 752 + 2 * halo, 752 + 2 * halo)
    first = halo // 8
    described = model.vocabulary.project(padded.astype(np.float32) / 255)
    expected = model.vocabulary.assign(described)[:, first : first + 94, first : first + 94]
    words = slide.read_words(0, 0, 94, 94)
    assert slide.tissue.shape == (94, 94)
    np.testing.assert_array_equal(words, np.where(slide.tissue, expected, NO_WORD))
    assert (words != NO_WORD).any()


def test_words_are_counted_once(index, monkeypatch):
    (slide,) = Index.open(index.path).slides
    words = slide.read_words(0, 0, 94, 94)
    expected = [np.bincount(block.ravel(), minlength=65536)[:20011] for block in words]
    np.testing.assert_array_equal(slide.count_words(20011), expected)
    slide._cache.forget()
    monkeypatch.setattr(slide, "read_chunk", None)
    np.testing.assert_array_equal(slide.count_words(20011), expected)


def test_parts_are_cut_from_the_whole_and_reach_beyond_it(index):
    (slide,) = index.slides
    whole = np.full((3, 1000, 1000), ZERO_POINT, np.uint8)
    whole[:, 100:850, 100:850] = slide.read_comir(0, 0, 0, 750, 750)
    rng = np.random.default_rng(1)
    for _ in range(30):
        x, y = rng.integers(-100, 800, 2)
        width, height = rng.integers(1, 100, 2)
        part = slide.read_comir(0, int(x), int(y), int(width), int(height))
        np.testing.assert_array_equal(part, whole[:, y + 100 : y + 100 + height, x + 100 : x + 100 + width])
    assert (slide.read_words(-10, -10, 5, 5) == NO_WORD).all()


def test_glass_chunks_are_absent(index):
    (slide,) = index.slides
    for array in index.layout.arrays:
        chunks = list((index.path / slide.folder / array / "c").rglob("*"))
        assert sum(path.is_file() for path in chunks) == slide.grid.chunk_grid(array).sum()
    assert not slide.grid.chunk_grid("comir/0").all()


def test_slides_are_read_from_threads_within_the_cache(index, tmp_path):
    opened = Index.open(tmp_path / "index", cache_bytes=200_000)
    expected = index.slides[0].read_comir(0, 0, 0, 750, 750)
    failures = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            x, y = rng.integers(0, 600, 2)
            part = opened.slides[0].read_comir(0, int(x), int(y), 150, 150)
            if not np.array_equal(part, expected[:, y : y + 150, x : x + 150]):
                failures.append((x, y))
            if opened.cache.n_bytes > 200_000:
                failures.append(opened.cache.n_bytes)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_only_what_is_asked_for_is_read(index, monkeypatch):
    (slide,) = Index.open(index.path).slides
    chunks = []
    read_chunk = type(slide).read_chunk
    monkeypatch.setattr(
        type(slide), "read_chunk", lambda self, *key: chunks.append(key) or read_chunk(self, *key)
    )
    slide.read_comir(0, 300, 300, 50, 50)
    slide.read_comir(0, 300, 300, 50, 50)
    assert chunks == [("comir/0", (2, 2))]


@pytest.mark.parametrize("array", ["comir/0", "comir/2", "words", "tissue"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing"])
def test_a_damaged_chunk_is_named(index, array, harm):
    (slide,) = Index.open(index.path).slides
    chunk = tuple(int(i) for i in np.argwhere(slide.grid.chunk_grid(array))[0])
    file = index.path / slide.chunk_file(array, chunk)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes({"flip": bytes(content), "cut": bytes(content[:-9]), "empty": b""}[harm])
    with pytest.raises(DamagedChunk) as caught:
        if array == "tissue":
            _ = slide.tissue
        elif array == "words":
            slide.read_words(0, 0, 94, 94)
        else:
            slide.read_comir(int(array[-1]), 0, 0, 750, 750)
    assert caught.value.chunk == chunk and caught.value.fingerprint == slide.fingerprint
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))
    message = str(caught.value)
    assert all(
        part in message
        for part in ("disc.tif", array, f"{chunk[0]}/{chunk[1]}", "comir-search repair --index")
    )
    assert message.count(". ") == 0


def test_a_damaged_description_is_named(index):
    (slide,) = Index.open(index.path).slides
    (index.path / slide.folder / "words" / "zarr.json").write_text("{")
    with pytest.raises(DamagedChunk, match=r"disc.tif is damaged in array words, its description"):
        slide.read_words(0, 0, 94, 94)


def test_a_slide_without_slide_json_is_not_there(index):
    (index.path / index.slides[0].folder / "slide.json").unlink()
    assert Index.open(index.path).slides == []
    index.refresh()
    assert index.slides == []


def test_refresh_finds_new_slides_and_keeps_the_others(index, tmp_path):
    first = index.slides[0]
    index_slides([small.write_slide(tmp_path / "slides" / "more.tif", 600, seed=1)], index.path)
    index.refresh()
    assert [slide.name for slide in index.slides] == ["disc.tif", "more.tif"]
    assert index.slides[0] is first


def test_a_removed_slide_is_gone_and_comes_back(index, slide_file):
    fingerprint = index.slides[0].fingerprint
    index.remove(fingerprint)
    assert index.slides == Index.open(index.path).slides == []
    with pytest.raises(ComirSearchError, match="contains no slide"):
        index.remove(fingerprint)
    index_slides([slide_file], index.path)
    assert [slide.name for slide in Index.open(index.path).slides] == ["disc.tif"]


def test_an_index_is_found_again_with_its_model_and_slides_after_a_move(index, model, slide_file, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(index.path, moved / "index")
    shutil.move(slide_file.parent, moved / "slides")
    opened = Index.open(moved / "index")
    assert opened.slides[0].path == moved / "slides" / "disc.tif"
    assert opened.model.fingerprint == model.fingerprint


def test_a_slide_that_moved_is_found_by_its_fingerprint(index, slide_file, tmp_path):
    (slide,) = index.slides
    assert find_slide(slide) == slide_file
    other = tmp_path / "archive" / "deep"
    other.mkdir(parents=True)
    small.write_slide(other / "a.tif", 300, seed=3)
    renamed = other / "renamed.tif"
    slide_file.rename(renamed)
    small.write_slide(slide_file, 300, seed=4)  # another slide in its place
    with pytest.raises(
        ComirSearchError, match=r"disc.tif was not found where it was indexed .*index it again"
    ):
        find_slide(slide)
    assert find_slide(slide, [tmp_path / "archive"]) == renamed


def test_folders_that_cannot_be_read_do_not_hide_a_slide(index, slide_file, tmp_path, monkeypatch):
    (slide,) = index.slides
    (tmp_path / "archive" / "closed").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    moved = tmp_path / "archive" / "moved.tif"
    slide_file.rename(moved)
    iterdir = type(tmp_path).iterdir

    def refuse(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    assert find_slide(slide, [tmp_path / "none", tmp_path / "empty", tmp_path / "archive"]) == moved


def test_an_index_of_a_newer_format_is_refused(index):
    file = index.path / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    with pytest.raises(ComirSearchError, match=r"index format 99, newer than this program's 1; update"):
        Index.open(index.path)


def test_what_is_no_index_is_refused(tmp_path, index):
    with pytest.raises(ComirSearchError, match="contains no index; make one"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ComirSearchError, match="of another program"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ComirSearchError, match="is damaged"):
        Index.open(tmp_path)


def test_a_model_that_was_swapped_is_refused(index):
    small.make_model(seed=1).save(index.path / "model.safetensors")
    with pytest.raises(ComirSearchError, match="not the one with which the index was made"):
        _ = Index.open(index.path).model


def test_an_index_is_not_made_over_another(index, model):
    with pytest.raises(ComirSearchError, match="already contains an index"):
        Index.create(index.path, model, "bf")


def test_a_model_without_vocabulary_cannot_index(model, tmp_path):
    model.vocabulary = None
    with pytest.raises(ComirSearchError, match="no vocabulary"):
        Index.create(tmp_path / "index", model, "bf")
    assert not (tmp_path / "index").exists()
