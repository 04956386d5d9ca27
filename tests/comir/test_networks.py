"""Sizes of the networks, and tiles that agree with the whole."""

import numpy as np
import pytest
import torch

from comir_search.comir.networks import CompactNet, build_network, count_macs
from comir_search.comir.tiramisu import Tiramisu
from comir_search.errors import ComirSearchError


@pytest.mark.parametrize(("channels", "parameters"), [(3, 1_053_820), (1, 1_053_244)])
def test_tiramisu_has_the_published_parameters(channels, parameters):
    assert sum(p.numel() for p in Tiramisu(channels).parameters()) == parameters


def test_tiramisu_costs_what_was_published():
    assert count_macs(Tiramisu(1), 1, 128) == pytest.approx(159e3, rel=0.02)


def test_compact_network_is_cheap():
    assert count_macs(CompactNet(3), 3) < 32e3


def test_unknown_network_is_refused():
    with pytest.raises(ComirSearchError, match="compact"):
        build_network("resnet", 3, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_compact_network_halves_the_size(channels):
    network = CompactNet(channels, 5).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, channels, 64, 96)).shape == (2, 5, 32, 48)


def test_halo_covers_the_receptive_field_of_the_compact_network():
    torch.manual_seed(0)
    network = CompactNet(1, 2).eval()
    for module in network.modules():  # make every activation pass, so that nothing hides the reach
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.uniform_(module.weight, 0.01, 0.1)
    halo, side = network.halo_px, 3 * network.tile_multiple
    image = torch.rand(1, 1, 2 * halo + side + 128, 2 * halo + side + 128)
    changed = image.clone()
    first = 64 - 64 % network.tile_multiple
    inner = slice(first + halo, first + halo + side)
    mask = torch.ones_like(image, dtype=torch.bool)
    mask[..., first : first + 2 * halo + side, first : first + 2 * halo + side] = False
    changed[mask] += 1
    with torch.inference_mode():
        before, after = network(image), network(changed)
    rows = slice(inner.start // 2, inner.stop // 2)
    assert np.array_equal(before[..., rows, rows].numpy(), after[..., rows, rows].numpy())
    assert not np.array_equal(before.numpy(), after.numpy())
