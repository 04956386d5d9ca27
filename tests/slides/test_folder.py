"""Slides are found in folders, companions are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from comir_search.errors import ComirSearchError
from comir_search.slides import find_slides

DICOM = b"\0" * 128 + b"DICM" + b"\x20\x00\x0e\x00UI" + b"\x05\x00" + b"1.2.%d"


def lay_out(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(*paths: Path, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_slides(paths)]


def test_folders_are_searched_and_sorted(tmp_path):
    lay_out(
        tmp_path, "b.svs", "a/c.ome.tif", "a/d/e.PNG", "notes.txt", ".hidden.tif", "a/._d.tif", ".git/x.png"
    )
    assert found(tmp_path, root=tmp_path) == ["a/c.ome.tif", "a/d/e.PNG", "b.svs"]


def test_files_are_taken_as_they_are_and_once(tmp_path):
    lay_out(tmp_path, "b.svs", "a.unknown")
    paths = [tmp_path / "a.unknown", tmp_path, tmp_path / "b.svs"]
    assert found(*paths, root=tmp_path) == ["a.unknown", "b.svs"]


def test_zarr_folder_is_one_slide(tmp_path):
    lay_out(tmp_path, "a.zarr/zarr.json", "a.zarr/0/c/0.png", "old.zarr/.zattrs", "old.zarr/0/0.0")
    assert found(tmp_path, root=tmp_path) == ["a.zarr", "old.zarr"]
    assert found(tmp_path / "a.zarr", root=tmp_path) == ["a.zarr"]


def test_companions_are_left_out(tmp_path):
    lay_out(
        tmp_path,
        "m.mrxs",
        "m/Slidedat.ini",
        "m/thumb.png",
        "v/v_0.jpg",
        "v/v_1.jpg",
        "v/v_macro.jpg",
        "v/own.jpg",
    )
    (tmp_path / "v/v.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=v_0.jpg\nImageFile(1,0)=v_1.jpg\n"
        "NoLayers=1\nMapFile=v_macro.jpg\n"
    )
    assert found(tmp_path, root=tmp_path) == ["m.mrxs", "v/own.jpg", "v/v.vms"]


def test_dicom_series_is_one_slide(tmp_path):
    for name, series in (("1.dcm", 1), ("2.dcm", 1), ("3.dcm", 2)):
        (tmp_path / name).write_bytes(DICOM % series)
    assert found(tmp_path, root=tmp_path) == ["1.dcm", "3.dcm"]


def test_folder_without_slides(tmp_path):
    lay_out(tmp_path, "notes.txt")
    with pytest.raises(ComirSearchError, match="the folder .* contains no slide: choose one with"):
        find_slides([tmp_path])


def test_missing_path(tmp_path):
    with pytest.raises(ComirSearchError, match="nowhere does not exist: check the path"):
        find_slides([tmp_path / "nowhere"])


def test_links_that_lead_in_circles_are_followed_once(tmp_path):
    """Two of them in one folder would be followed two to the power of forty times."""
    lay_out(tmp_path / "in", "a/one.svs", "two.svs")
    lay_out(tmp_path / "elsewhere", "three.svs")
    for name, target in (("again", ".."), ("back", "../../in"), ("other", tmp_path / "elsewhere")):
        (tmp_path / "in" / "a" / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "in" / "self").symlink_to("self")
    (tmp_path / "in" / "gone.svs").symlink_to("nowhere.svs")
    assert found(tmp_path / "in", root=tmp_path) == ["in/a/one.svs", "in/a/other/three.svs", "in/two.svs"]
