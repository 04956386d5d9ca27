"""OME-Zarr 0.4 and 0.5."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import zarr

from comir_search.errors import ComirSearchError
from comir_search.slides import open_slide

from .conftest import halve, paint


def write_zarr(path, levels, *, version="0.5", axes="yxc", scale=0.5, unit="micrometer", anisotropy=1.0):
    """Write levels, already in the order of the axes, as an OME-Zarr image."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, level in enumerate(levels):
        chunks = tuple(128 if axis in "yx" else 1 for axis in axes)
        array = group.create_array(str(number), shape=level.shape, dtype=level.dtype, chunks=chunks)
        array[...] = level
        steps = {"y": scale * 2**number * anisotropy, "x": scale * 2**number}
        transform = {"type": "scale", "scale": [steps.get(axis, 1.0) for axis in axes]}
        datasets.append({"path": str(number), "coordinateTransformations": [transform]})
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in described:
        if axis["type"] == "space" and unit:
            axis["unit"] = unit
    image = {"axes": described, "datasets": datasets, "name": "picture"}
    if version == "0.4":
        group.attrs["multiscales"] = [image | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("axes", "channels"), [("yx", 1), ("cyx", 1), ("tczyx", 1), ("yxc", 3), ("cyx", 3), ("tczyx", 3)]
)
def test_levels(tmp_path, version, axes, channels):
    image = paint(411, 300, channels)
    levels = [image, halve(image)]
    stored = []
    for level in levels:
        by_axis = level if channels == 3 else level[..., None]
        full = by_axis[None, None].transpose(0, 4, 1, 2, 3)  # t, c, z, y, x
        order = ["tczyx".index(axis) for axis in axes]
        rest = [number for number in range(5) if number not in order]
        stored.append(full.transpose(rest + order).reshape([full.shape[number] for number in order]))
    path = write_zarr(tmp_path / "a.zarr", stored, version=version, axes=axes)
    with open_slide(path) as slide:
        assert slide.info.format == f"OME-Zarr {version}"
        assert slide.channels == channels
        assert (slide.pixel_size_um, slide.info.pixel_size_source) == (0.5, "OME-Zarr scale")
        for number, level in enumerate(levels):
            height, width = level.shape[:2]
            np.testing.assert_array_equal(slide.read_level(number, 0, 0, width, height), level)
            np.testing.assert_array_equal(slide.read_level(number, 100, 90, 40, 50), level[90:140, 100:140])
        assert np.asarray(slide.levels[0]).shape == image.shape


@pytest.mark.parametrize(("unit", "expected"), [("nanometer", 0.25), ("micrometer", None), (None, None)])
def test_units(tmp_path, unit, expected):
    with open_slide(write_zarr(tmp_path / "a.zarr", [paint(50, 60)], scale=250.0, unit=unit)) as slide:
        assert slide.pixel_size_um == (None if expected is None else pytest.approx(expected))


def test_pixels_that_are_not_square(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [paint(50, 60)], anisotropy=1.5)
    with pytest.raises(ComirSearchError, match=r"a.zarr: its pixels are not square \(0.5 x 0.75 um"):
        open_slide(path)
    with open_slide(path, pixel_size_um=0.6) as slide:
        assert slide.info.pixel_size_source == "user"


def test_stack_is_refused(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [np.zeros((5, 30, 40), np.uint8)], axes="zyx")
    with pytest.raises(
        ComirSearchError, match=r"a.zarr contains several planes, 5 \(z\): save the one to use"
    ):
        open_slide(path)


def test_fingerprint_survives_a_move_and_knows_the_content(tmp_path):
    first = write_zarr(tmp_path / "a.zarr", [paint(50, 60)])
    second = write_zarr(tmp_path / "b.zarr", [paint(50, 60, seed=1)])
    moved = shutil.copytree(first, tmp_path / "elsewhere" / "c.zarr")
    prints = []
    for path in (first, second, moved):
        with open_slide(path) as slide:
            prints.append(slide.fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_group_without_ome_metadata(tmp_path):
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    with pytest.raises(ComirSearchError, match="a.zarr is a Zarr folder without OME metadata"):
        open_slide(tmp_path / "a.zarr")


def test_damage(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [paint(300, 300), paint(150, 150)])
    chunk = path / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with open_slide(path) as slide:
        slide.read_level(0, 130, 130, 50, 50)
        with pytest.raises(
            ComirSearchError, match=r"a.zarr: tile \(0, 0\) of level 0 .* the file is damaged"
        ):
            slide.read_level(0, 0, 0, 50, 50)
    metadata = path / "zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()))[:50])
    with pytest.raises(ComirSearchError, match="a.zarr is not a readable OME-Zarr image"):
        open_slide(path)
