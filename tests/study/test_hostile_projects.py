"""Whatever a project holds: it opens, or is refused in one sentence."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tracemalloc
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.study.project import Project, pack_image
from comir_search.study.stored import unpack_image

from .hostile_projects import STATEMENTS, make_project, spoil, use


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.comirproj"
    make_project(path)
    return path


def test_the_sound_one_is_usable(sound, tmp_path):
    shutil.copy(sound, tmp_path / "a.comirproj")
    use(tmp_path / "a.comirproj", tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_projects_are_used_or_refused_in_a_sentence(sound, tmp_path, seed):
    refused = 0
    for number in range(50):
        rng = np.random.default_rng([seed, number])
        path = shutil.copy(sound, tmp_path / "a.comirproj")
        said = spoil(Path(path), rng)
        try:
            use(Path(path), tmp_path)
        except ComirSearchError as error:
            refused += 1
            assert "comirproj" in str(error) and len(str(error)) < 3000, said
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} after {said}") from error
    assert refused > 10  # else nothing was tried


@pytest.mark.parametrize("statement", [text for text in STATEMENTS if "TRIGGER" in text or "VIEW" in text])
def test_a_schema_that_could_run_something_is_refused(sound, tmp_path, statement):
    path = Path(shutil.copy(sound, tmp_path / "a.comirproj"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)
    before = path.read_bytes()
    with pytest.raises(ComirSearchError, match="which no project has|not that of a project"):
        Project.open(path)
    assert path.read_bytes() == before


def test_a_pipe_is_refused_at_once(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "a.comirproj")
    with pytest.raises(ComirSearchError, match="is not a project"):
        Project.open(tmp_path / "a.comirproj")


def test_a_linked_project_is_the_project(sound, tmp_path):
    path = Path(shutil.copy(sound, tmp_path / "a.comirproj"))
    (tmp_path / "link.comirproj").symlink_to(path)
    with Project.open(tmp_path / "link.comirproj") as project:
        project.update_query(1, pixel_size_um=3.0)
    with Project.open(path) as project:
        assert project.query(1).pixel_size_um == 3.0
    assert (tmp_path / "link.comirproj").is_symlink()


def bomb(shape: tuple[int, ...], n_bytes: int) -> bytes:
    header = pack_image(np.zeros((1, 1), np.uint8))
    start = zlib.decompress(header)[:128].replace(b"(1, 1)", repr(shape).encode())[:127] + b"\n"
    packer = zlib.compressobj(9)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(2**24)) for _ in range(n_bytes >> 24)]
    return b"".join([*parts, packer.flush()])


@pytest.mark.parametrize(
    "packed",
    [
        bomb((65536, 65536), 2**24),  # says 4 GB
        bomb((64, 64), 2**29),  # is half a GB, of which 4 kB are pixels
        bomb((64, 64), 0),
        b"",
        b"no zlib",
        zlib.compress(b"no numpy"),
        zlib.compress(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
        zlib.compress(b"\x93NUMPY\x01\x00\x14\x00{'descr': '|u1', 'f': (" + b" " * 9),
        pack_image(np.zeros((4, 4), "datetime64[s]")),
        pack_image(np.zeros(4)),
        pack_image(np.zeros((4, 0), np.uint8)),
    ],
)
def test_an_image_that_is_none_is_refused_before_it_takes_memory(packed):
    tracemalloc.start()
    with pytest.raises(ComirSearchError, match="is damaged"):
        unpack_image(packed, "project (query 1)")
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32, bool])
@pytest.mark.parametrize("shape", [(300, 200), (70, 90, 3)])
def test_images_come_back_as_they_were(dtype, shape):
    image = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    for given in (image, np.asfortranarray(image)):
        back = unpack_image(pack_image(given), "q")
        np.testing.assert_array_equal(back, image)
        assert back.dtype == image.dtype and back.flags.writeable
