"""Dense SURF against OpenCV's vectors, and what its maps promise."""

from pathlib import Path

import numpy as np
import pytest
import torch

from comir_search.errors import ComirSearchError
from comir_search.matching.surf import dense_surf, surf_maps

GOLDEN = Path(__file__).parent / "data" / "surf_golden_synthetic.npz"
BLOCKS_PX = (32, 64, 96, 128)


def neighbourhood_correlation(ours, golden):
    """Correlate the pairwise cosines of two sets of descriptors of the same points."""
    pairs = np.triu_indices(len(ours), 1)
    return np.corrcoef((ours @ ours.T)[pairs], (golden @ golden.T)[pairs])[0, 1]


def check_golden(path, least):
    golden = np.load(path)
    image = golden["image"].astype(np.float32) / 255
    features = dense_surf(image)
    for block in BLOCKS_PX:
        of_block = features.block_px == block
        xy = features.xy[of_block]
        np.testing.assert_array_equal(xy, golden["xy"])
        inside = np.all((xy >= block / 2 + 2) & (xy <= image.shape[0] - 3 - block / 2), axis=1)
        descriptors = features.descriptors[of_block]
        correlation = neighbourhood_correlation(
            descriptors[inside], golden[f"d{block}"].astype(np.float32)[inside]
        )
        assert correlation > least, (block, correlation)


def test_neighbourhoods_agree_with_opencv():
    check_golden(GOLDEN, 0.97)


@pytest.mark.parametrize("name", ["bf", "shg"])
def test_neighbourhoods_agree_with_opencv_on_real_images(shared_data, name):
    path = shared_data.parent / "reference" / f"surf_golden_{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    check_golden(path, 0.94)


def test_record_has_the_stated_grid_for_each_block():
    features = dense_surf(np.random.default_rng(0).random((70, 131), np.float32), block_px=(32, 64))
    assert len(features.descriptors) == len(features.xy) == len(features.block_px) == 2 * 8 * 16
    assert features.descriptors.shape[1] == 64 and features.descriptors.dtype == np.float32
    np.testing.assert_array_equal(features.xy[[0, 1, 16]], [[4, 4], [12, 4], [4, 12]])
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)


def test_flat_image_gives_zeros():
    assert not dense_surf(np.full((96, 96), 0.37, np.float32)).descriptors.any()


def test_step_edge_answers_across_it_only():
    image = np.zeros((128, 128), np.float32)
    image[:, 64:] = 1
    dx, dy, abs_dx, abs_dy = surf_maps(image, block_px=(32,))[0, 8, 8].reshape(16, 4).T
    assert not dy.any() and not abs_dy.any()
    np.testing.assert_allclose(dx, abs_dx)
    assert dx.max() > 0.3


@pytest.mark.parametrize(
    ("step", "blocks"), [(4, (16, 32, 48, 64)), (8, (40, 100)), (6, (32, 50)), (8, (16,))]
)
def test_maps_do_not_depend_on_where_the_image_starts(step, blocks):
    """Moving the image by one step moves the maps: all phases share one definition."""
    image = np.random.default_rng(1).random((220, 230), np.float32)
    maps = surf_maps(image, step_px=step, block_px=blocks)
    moved = surf_maps(image[step:, step:], step_px=step, block_px=blocks)
    inner = max(blocks) * 21 // 40 // step + 2
    np.testing.assert_allclose(
        maps[:, 1 + inner : -inner, 1 + inner : -inner], moved[:, inner:-inner, inner:-inner], atol=2e-3
    )


def test_turned_image_gives_turned_maps():
    image = np.random.default_rng(2).random((252, 252), np.float32)  # 36 steps of 7
    maps = surf_maps(image, step_px=7, block_px=(64,))[0].reshape(36, 36, 4, 4, 4)
    turned = surf_maps(np.rot90(image).copy(), step_px=7, block_px=(64,))[0].reshape(36, 36, 4, 4, 4)
    back = np.rot90(np.rot90(turned, -1), -1, axes=(2, 3))
    np.testing.assert_allclose(back[..., 2:], maps[..., [3, 2]], atol=5e-3)
    np.testing.assert_allclose(back[..., 1], -maps[..., 0], atol=5e-3)


def test_batches_and_tensors():
    batch = torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    maps = surf_maps(batch, block_px=(32, 64))
    assert isinstance(maps, torch.Tensor) and maps.shape == (2, 3, 2, 8, 9, 64)
    np.testing.assert_allclose(maps[1, 2], surf_maps(batch[1, 2].numpy(), block_px=(32, 64)), atol=1e-6)


def test_image_smaller_than_the_grid_has_no_points():
    assert surf_maps(np.zeros((7, 64), np.float32)).shape == (4, 0, 8, 64)
    assert dense_surf(np.zeros((7, 64), np.float32)).descriptors.shape == (0, 64)


def test_impossible_grid_is_refused():
    with pytest.raises(ComirSearchError, match="steps of 1 px"):
        surf_maps(np.zeros((64, 64), np.float32), step_px=0)
