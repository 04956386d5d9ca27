from __future__ import annotations

import numpy as np
import pytest
import tifffile

from comir_search import load_model


@pytest.mark.parametrize(("flags", "dtype"), [([], np.uint8), (["--float"], np.float32)])
def test_the_comir_is_written_with_its_pixel_size(command, tmp_path, query_file, flags, dtype):
    model = load_model(device="cpu")
    out = tmp_path / "comir.tif"
    answer = command("embed", query_file, "--modality", "shg", "--out", out, "--device", "cpu", *flags)
    assert answer.code == 0
    side = 128 // model.stride
    with tifffile.TiffFile(out) as tiff:
        comir = tiff.asarray()
        assert f'PhysicalSizeX="{model.comir_pixel_size_um}"' in tiff.ome_metadata
    assert (comir.shape, comir.dtype) == ((model.comir_channels, side, side), dtype)
    assert comir.std() > 0
    assert f"{side} x {side} px" in answer.out


def test_colour_where_grey_is_wanted_is_refused(command, tmp_path, slide_file):
    answer = command("embed", slide_file, "--modality", "shg", "--out", tmp_path / "comir.tif")
    assert answer.code == 1
    assert "colour" in answer.sentence
    assert not (tmp_path / "comir.tif").exists()


def test_an_unknown_modality_is_refused(command, tmp_path, slide_file):
    answer = command("embed", slide_file, "--modality", "x-ray", "--out", tmp_path / "comir.tif")
    assert answer.code == 1
    assert "x-ray" in answer.sentence
