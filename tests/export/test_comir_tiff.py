from __future__ import annotations

import numpy as np
import pytest
import tifffile

from comir_search.export.comir_tiff import write_comir


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_and_pixel_size_come_back(tmp_path, dtype):
    comir = np.random.default_rng(0).normal(128, 40, (3, 70, 50)).clip(0, 255).astype(dtype)
    path = tmp_path / "comir.tif"
    write_comir(path, comir, 4.0)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert 'PhysicalSizeX="4.0"' in tiff.ome_metadata
        np.testing.assert_array_equal(tiff.asarray(), comir)
        assert tiff.series[0].axes == "CYX"
    assert [entry.name for entry in tmp_path.iterdir()] == ["comir.tif"]
