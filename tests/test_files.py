"""Files are complete or absent, and refusals are one sentence."""

import errno
import os

import pytest

from comir_search.errors import ComirSearchError
from comir_search.files import atomic_path, write_text


def test_file_appears_complete(tmp_path):
    target = tmp_path / "result.csv"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".csv"
        temporary.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert os.listdir(tmp_path) == ["result.csv"]


def test_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "result.csv"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.csv"]


def test_full_disk_is_said(tmp_path):
    target = tmp_path / "result.csv"
    refusal = pytest.raises(ComirSearchError, match=r"result\.csv could not be written: the disk is full")
    with refusal, atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_said(tmp_path):
    with pytest.raises(ComirSearchError, match="its folder does not exist"):
        write_text(tmp_path / "nowhere" / "result.csv", "text")


def test_folder_of_that_name_is_said(tmp_path):
    (tmp_path / "result.csv").mkdir()
    with pytest.raises(ComirSearchError, match="folder of this name"):
        write_text(tmp_path / "result.csv", "text")
    assert os.listdir(tmp_path) == ["result.csv"]
