"""Fingerprints stay as they were; identities tell slides apart that have the same fingerprint."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr

from comir_search.errors import ComirSearchError
from comir_search.slides import open_slide, slide_from_array
from comir_search.slides.fingerprint import file_fingerprint, identity_of, is_same_content

from .conftest import halve, paint


def write_zarr(path, image):
    """Write a pyramid whose coarsest level, as far as the fingerprint looks, is empty."""
    group = zarr.open_group(str(path), mode="w")
    datasets = []
    for number in range(2):
        array = group.create_array(str(number), shape=image.shape, dtype="uint8", chunks=(256, 256, 3))
        array[...] = image
        datasets.append({"path": str(number)})
        image = halve(image)
    axes = [{"name": "y"}, {"name": "x"}, {"name": "c"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path


def pair_of_zarrs(tmp_path):
    paths = []
    for name, seed in (("a.zarr", 1), ("b.zarr", 2)):
        image = np.full((1600, 1600, 3), 255, np.uint8)
        image[:250, :250] = paint(250, 250, seed=seed)
        paths.append(write_zarr(tmp_path / name, image))
    return paths


def pair_of_tiffs(tmp_path):
    paths = []
    for name, seed in (("a.tif", 1), ("b.tif", 2)):
        image = np.full((2000, 2000, 3), 255, np.uint8)
        image[300:340, 700:1000] = paint(40, 300, seed=seed)
        tifffile.imwrite(tmp_path / name, image, photometric="rgb")
        paths.append(tmp_path / name)
    return paths


@pytest.mark.parametrize("pair", [pair_of_zarrs, pair_of_tiffs])
def test_different_slides_of_one_fingerprint_have_their_own_identities(tmp_path, pair):
    first, second = pair(tmp_path)
    with open_slide(first) as one, open_slide(second) as other:
        assert one.fingerprint == other.fingerprint
        assert one.identity != other.identity
    assert not is_same_content(first, second)


@pytest.mark.parametrize("pair", [pair_of_zarrs, pair_of_tiffs])
def test_a_copy_is_the_same(tmp_path, pair):
    first = pair(tmp_path)[0]
    copy = tmp_path / "elsewhere" / f"other{first.suffix}"
    copy.parent.mkdir()
    (shutil.copytree if first.is_dir() else shutil.copy)(first, copy)
    assert identity_of(copy) == identity_of(first) and len(identity_of(first)) == 32
    assert is_same_content(first, copy) and is_same_content(first, first)


def test_only_the_image_of_a_zarr_counts(tmp_path):
    """Labels that a person draws, and what a file browser leaves, are not the image."""
    first = pair_of_zarrs(tmp_path)[0]
    before = identity_of(first)
    copy = shutil.copytree(first, tmp_path / "copy.zarr")
    labels = zarr.open_group(str(first / "labels"), mode="w")
    labels.create_array("0", shape=(10, 10), dtype="uint8")[...] = 1
    (first / "Thumbs.db").write_bytes(b"x")
    assert identity_of(first) == before and is_same_content(first, copy)
    chunk = max((first / "1").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    chunk.write_bytes(b"x")
    assert identity_of(first) != before and not is_same_content(first, copy)
    (copy / "zarr.json").write_text((copy / "zarr.json").read_text().replace("0.5", "0.5.1"))
    assert identity_of(copy) != before


def test_of_several_images_only_the_one_that_is_read_counts(tmp_path):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(str(path), mode="w", attributes={"ome": {"bioformats2raw.layout": 3}})
    assert group is not None
    for number in range(2):
        write_zarr(path / str(number), paint(300, 300, seed=number))
    before = identity_of(path)
    shutil.rmtree(path / "1" / "1" / "c")
    assert identity_of(path) == before
    shutil.rmtree(path / "0" / "1" / "c")
    assert identity_of(path) != before


def test_few_pieces_are_read_of_a_large_file(tmp_path, monkeypatch):
    """Of a disk that turns, each place that is read costs more than what is read there."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    reads = []
    opened = type(path).open

    def counted(self, *mode):
        file = opened(self, *mode)
        seek = file.seek
        proxy = SimpleNamespace(
            close=file.close, read=file.read, seek=lambda to: reads.append(to) or seek(to)
        )
        return closing(proxy)

    monkeypatch.setattr(type(path), "open", counted)
    identity_of(path)
    assert 16 <= len(reads) <= 64


def test_fingerprint_of_old_indexes_and_projects(tmp_path):
    """Values of the first version: indexes and projects name slides by them."""
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 4000)
    assert file_fingerprint(path) == "a57ebeef5b927e127cc7b5ab90f9dbca"


@pytest.mark.parametrize("size", [0, 1, 4 << 20, (4 << 20) + 1, 50 << 20])
def test_every_byte_counts_in_small_files_and_the_ends_in_all(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    before = identity_of(path)
    places = {0, size // 2, size - 1} if size <= 4 << 20 else {0, size - 1}
    for place in places if size else ():
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        assert identity_of(path) != before
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"\0")
    assert identity_of(path) == before


def test_a_change_anywhere_ends_the_comparison(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(bytes(30 << 20))
    second.write_bytes(bytes(20_000_001) + b"x" + bytes((30 << 20) - 20_000_002))
    tracemalloc.start()
    assert not is_same_content(first, second)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_files_that_a_slide_consists_of_count(tmp_path):
    """An MRXS is a small picture; the slide lies in the folder beside it."""
    for folder, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / folder / "s").mkdir(parents=True)
        (tmp_path / folder / "s.mrxs").write_bytes(b"same")
        (tmp_path / folder / "s" / "Data0000.dat").write_bytes(content)
    paths = [tmp_path / folder / "s.mrxs" for folder in ("one", "two")]
    assert identity_of(paths[0]) != identity_of(paths[1])
    assert not is_same_content(*paths)


def test_companions_elsewhere_are_never_opened(tmp_path):
    """A name that a file states leads to files beside it, nowhere else."""
    (tmp_path / "secret").write_bytes(b"1")
    path = tmp_path / "in" / "a.vms"
    path.parent.mkdir()
    path.write_text("ImageFile=../secret\nMapFile=/etc/hostname\n")
    before = identity_of(path)
    (tmp_path / "secret").write_bytes(b"22")
    assert identity_of(path) == before


def test_pipes_are_not_opened(tmp_path):
    path = pair_of_zarrs(tmp_path)[0]
    os.mkfifo(path / "0" / "c" / "pipe")
    assert len(identity_of(path)) == 32
    assert (
        is_same_content(path, shutil.copytree(path, tmp_path / "c.zarr", ignore=lambda *_: ["pipe"])) is False
    )


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ComirSearchError, match="nowhere.tif does not exist"):
        identity_of(tmp_path / "nowhere.tif")


def test_arrays_that_differ_beside_their_middle():
    image = paint(600, 700)
    other = image.copy()
    other[10:20, 10:20] ^= 255
    slides = [slide_from_array(array, pixel_size_um=1.0) for array in (image, image.copy(), other)]
    assert slides[0].identity == slides[1].identity != slides[2].identity
    large = np.zeros((6000, 5000), np.uint8)
    other = large.copy()
    other[5900:, 4900:] = 1
    assert (
        slide_from_array(large, pixel_size_um=1.0).identity
        != slide_from_array(other, pixel_size_um=1.0).identity
    )
