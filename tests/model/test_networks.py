"""Sizes of the networks, and tiles that agree with the whole."""

import pytest
import torch

from comir_search.errors import ComirSearchError
from comir_search.model.networks import CompactNet, build_network, count_macs
from comir_search.model.tiramisu import Tiramisu


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


def reaching(architecture):
    """Return a network whose every activation passes, so that nothing hides its reach."""
    torch.manual_seed(0)
    network = build_network(architecture, 1, 2).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.uniform_(module.weight, 0.01, 0.1)
    return network


@pytest.mark.parametrize("architecture", ["compact", "tiramisu-aerial"])
def test_a_tile_with_its_halo_gives_what_the_whole_image_gives(architecture):
    network = reaching(architecture)
    multiple, halo, stride = network.tile_multiple, network.halo_px, network.stride
    first, side = 4 * multiple, 3 * multiple
    image = torch.rand(1, 1, 2 * first + 2 * halo + side, 2 * first + 2 * halo + side)
    part = slice(first, first + 2 * halo + side)
    inner, within = (slice(start // stride, (start + side) // stride) for start in (first + halo, halo))
    with torch.inference_mode():
        whole, tile = network(image), network(image[..., part, part])
        alone = network(image[..., first + halo :, first + halo :])[..., : side // stride, : side // stride]
    torch.testing.assert_close(tile[..., within, within], whole[..., inner, inner], rtol=1e-5, atol=0)
    assert not torch.allclose(alone, whole[..., inner, inner], rtol=1e-2)


@pytest.mark.parametrize("architecture", ["compact", "tiramisu-aerial"])
@pytest.mark.parametrize("axis", [-1, -2])
def test_the_halo_is_as_wide_as_the_network_reaches_and_no_wider(architecture, axis):
    network = reaching(architecture)
    multiple, halo, stride = network.tile_multiple, network.halo_px, network.stride
    first, side = halo + 2 * multiple, 2 * multiple

    def is_reached(halo):
        """Return whether what lies beyond a halo, not a number, comes through."""
        image = torch.zeros(1, 1, 2 * first + side, 2 * first + side)
        for beyond in (slice(0, first - halo), slice(first + side + halo, None)):
            image.transpose(axis, -1)[..., beyond] = torch.nan
        with torch.inference_mode():
            out = network(image).transpose(axis, -1)
        return bool(out[..., first // stride : (first + side) // stride].isnan().any())

    assert not is_reached(halo)
    assert is_reached(halo - multiple)


def test_the_published_networks_halo_leaves_out_less_than_a_grey_level():
    torch.manual_seed(0)
    network = Tiramisu(1).eval()
    multiple, halo = network.tile_multiple, network.halo_px
    first = 13 * multiple  # beyond what it looks at at all
    image = torch.rand(1, 1, 2 * multiple, 2 * first + multiple)
    with torch.inference_mode():
        whole = network(image)[..., first : first + multiple]
        tile = network(image[..., first - halo : first + multiple + halo])[..., halo : halo + multiple]
    assert (tile - whole).abs().max() < (whole.max() - whole.min()) / 255 / 10
