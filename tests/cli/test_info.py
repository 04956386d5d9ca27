"""``comir-search info``."""

from __future__ import annotations

import json

import numpy as np
import tifffile


def write(path, **options):
    tifffile.imwrite(path, np.zeros((300, 400, 3), np.uint8), photometric="rgb", tile=(64, 64), **options)
    return path


def test_slides_are_described(tmp_path, command):
    write(tmp_path / "a.tif", resolution=(5000, 5000), resolutionunit="CENTIMETER")
    write(tmp_path / "b.tif")
    answer = command("info", tmp_path, "--json", tmp_path / "info.json")
    assert answer.code == 0
    assert (
        "a.tif" in answer.out and "2 um (TIFF resolution tag)" in answer.out and "0.8 x 0.6 mm" in answer.out
    )
    assert "not known: give --pixel-size" in answer.out
    first, second = json.loads((tmp_path / "info.json").read_text())
    assert (
        first["name"] == "a.tif"
        and first["pixel_size_um"] == 2.0
        and first["level_shapes_px"] == [[300, 400]]
    )
    assert second["pixel_size_um"] is None and second["pixel_size_source"] == "missing"


def test_one_bad_slide_does_not_hide_the_others(tmp_path, command):
    good, bad = write(tmp_path / "good.tif"), tmp_path / "bad.tif"
    bad.write_bytes(b"")
    answer = command("info", bad, good)
    assert answer.code == 1
    assert "good.tif" in answer.out
    assert answer.sentence.strip() == "bad.tif is empty: copy or export it again"


def test_missing_slide(tmp_path, command):
    answer = command("info", tmp_path / "nowhere.svs")
    assert answer.code == 1
    assert "nowhere.svs does not exist" in answer.sentence
