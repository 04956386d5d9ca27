"""The compact network that maps one modality to a CoMIR, and how to build any network.

A CoMIR network takes (batch, channels, rows, columns) and returns
(batch, CoMIR channels, rows / stride, columns / stride), unbounded. At inference it
never normalises across pixels, so a tile with a halo as wide as the receptive field
gives the same result as the whole image.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from comir_search.errors import ComirSearchError
from comir_search.model.reach import Reach

COMPACT_WIDTHS = (32, 64, 128, 192)


class _Conv(nn.Sequential):
    """3 x 3 convolution, batch normalisation (folded at inference), ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out, momentum=0.05),
            nn.ReLU(inplace=True),
        )


class CompactNet(nn.Module):
    """A U-Net that works at half the input's resolution and below.

    The input is folded 2 x 2 into channels, so nothing runs at full resolution. The
    decoder adds its skip connections instead of concatenating them. It needs about
    20 kMAC per input pixel (published network: 159).

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of the CoMIR.
    widths : tuple of int
        Channels at strides 2, 4, 8, ...
    """

    stride = 2
    bytes_per_px = 170  # memory to embed, per input pixel; measured

    def __init__(
        self, in_channels: int, out_channels: int = 8, widths: tuple[int, ...] = COMPACT_WIDTHS
    ) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.lift = nn.ModuleList()
        previous = 4 * in_channels
        for depth, width in enumerate(widths):
            first = _Conv(previous, width, stride=1 if depth == 0 else 2)
            self.down.append(nn.Sequential(first, _Conv(width, width)))
            previous = width
        for fine, coarse in pairwise(widths):
            self.lift.append(nn.Conv2d(coarse, fine, 1))
            self.up.append(_Conv(fine, fine))
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    @property
    def tile_multiple(self) -> int:
        """Tile origins and sizes must be multiples of this many input pixels."""
        return 2 ** len(self.down)

    @property
    def halo_px(self) -> int:
        """Input pixels around a tile on which its CoMIR depends, rounded up to `tile_multiple`."""
        reach, skips = Reach(), []
        for _ in self.up:
            reach = reach.convolution()
            skips.append(reach)
            reach = reach.linear_doubling()
        for _ in self.up:
            reach = reach.convolution().halving_convolution().union(skips.pop())
        return reach.convolution(2).halving().halo_px(self.tile_multiple)

    def forward(self, image: Tensor) -> Tensor:
        """Return the CoMIR, (batch, out_channels, rows / 2, columns / 2)."""
        features = self.fold(image)
        skips = []
        for block in self.down:
            features = block(features)
            skips.append(features)
        for depth in reversed(range(len(self.up))):
            features = nn.functional.interpolate(
                self.lift[depth](features), scale_factor=2.0, mode="bilinear", align_corners=False
            )
            features = self.up[depth](features + skips[depth])
        out: Tensor = self.head(features)
        return out


def build_network(architecture: str, in_channels: int, out_channels: int) -> nn.Module:
    """Build an untrained network by name.

    Parameters
    ----------
    architecture : {"compact", "tiramisu", "tiramisu-aerial"}
    in_channels, out_channels : int

    Raises
    ------
    ComirSearchError
        If no architecture has that name.
    """
    if architecture == "compact":
        return CompactNet(in_channels, out_channels)
    from comir_search.model.tiramisu import SHAPES, Tiramisu

    if architecture in SHAPES:
        return Tiramisu(in_channels, out_channels, SHAPES[architecture])
    raise ComirSearchError(
        f"There is no network named {architecture!r}; use one of compact, {', '.join(SHAPES)}."
    )


def count_macs(network: nn.Module, in_channels: int, side_px: int = 256) -> float:
    """Return the multiply-accumulates of the convolutions per input pixel.

    Parameters
    ----------
    network : Module
    in_channels : int
        Channels of the image.
    side_px : int
        Side of the image on which they are counted.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            total += kernel * module.in_channels // module.groups * output[0].numel()

    handles = [module.register_forward_hook(add) for module in network.modules()]
    was_training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, in_channels, side_px, side_px))
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return total / side_px**2
