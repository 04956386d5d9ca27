"""The published CoMIR network: a fully convolutional DenseNet ("Tiramisu").

Source: Jegou et al. 2017 and the configurations of Pielawski, Wetzer et al.,
NeurIPS 2020, for biomedical and for aerial images. Sizes must be multiples of
`tile_multiple`; `comir_search.model.embedding` pads for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comir_search.model.reach import Reach

# The receptive field of the biomedical network is over 800 px wide. Pixels outside this halo
# change the result by less than a grey level (measured in the tests, before training).
LARGEST_HALO_PX = 256


@dataclass(frozen=True)
class TiramisuShape:
    """Sizes of a Tiramisu network, by default those of the published biomedical one.

    Parameters
    ----------
    first_channels : int
        Filters of the first convolution.
    growth : int
        Channels that a dense layer adds.
    layers_down, layers_up : tuple of int
        Dense layers of each block; the number of blocks up and down is the same.
    layers_bottleneck : int
    compression : float
        Share of its channels that a transition down keeps.
    dropout : float
        Dropout rate in training.
    """

    first_channels: int = 32
    growth: int = 12
    layers_down: tuple[int, ...] = (4,) * 6
    layers_bottleneck: int = 4
    layers_up: tuple[int, ...] = (4,) * 6
    compression: float = 0.75
    dropout: float = 0.2


# The published ones, by the name of the architecture.
SHAPES = {
    "tiramisu": TiramisuShape(),
    "tiramisu-aerial": TiramisuShape(
        first_channels=16,
        layers_down=(2, 2, 2),
        layers_bottleneck=3,
        layers_up=(2, 2, 2),
        compression=1.0,
        dropout=0.0,
    ),
}


class DenseLayer(nn.Sequential):
    """BatchNorm, ReLU, 3 x 3 convolution to a few new channels, dropout."""

    def __init__(self, n_in: int, shape: TiramisuShape) -> None:
        super().__init__(
            nn.BatchNorm2d(n_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_in, shape.growth, 3, padding=1),
            nn.Dropout(shape.dropout),
        )


class DenseBlock(nn.Module):
    """Dense layers; each takes the block's input and all earlier outputs.

    Parameters
    ----------
    n_in : int
        Input channels.
    n_layers : int
    shape : TiramisuShape
    keep_input : bool
        Whether the output starts with the input.
    """

    def __init__(self, n_in: int, n_layers: int, shape: TiramisuShape, keep_input: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(n_in + i * shape.growth, shape) for i in range(n_layers))
        self.keep_input = keep_input
        self.out_channels = n_layers * shape.growth + (n_in if keep_input else 0)

    def forward(self, features: Tensor) -> Tensor:
        """Return the new features, after the input if it is kept."""
        collected = [features]
        for layer in self.layers:
            collected.append(layer(torch.cat(collected, 1)))
        return torch.cat(collected if self.keep_input else collected[1:], 1)


class TransitionDown(nn.Sequential):
    """BatchNorm, ReLU, 1 x 1 compression, channel dropout, 2 x 2 max pooling."""

    def __init__(self, n_in: int, shape: TiramisuShape) -> None:
        self.out_channels = int(shape.compression * n_in)
        super().__init__(
            nn.BatchNorm2d(n_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_in, self.out_channels, 1),
            nn.Dropout2d(shape.dropout),
            nn.MaxPool2d(2),
        )


class TransitionUp(nn.Sequential):
    """Nearest upsampling by two, 3 x 3 convolution, ReLU."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(n_channels, n_channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )


class Tiramisu(nn.Module):
    """The published network; the output is linear and unbounded.

    Parameters
    ----------
    in_channels, out_channels : int
        1,053,820 parameters for 3 -> 1 channels, 1,053,244 for 1 -> 1.
    shape : TiramisuShape, optional
        By default the biomedical one.
    """

    stride = 1
    bytes_per_px = 3400  # memory to embed, per input pixel; measured

    def __init__(
        self, in_channels: int, out_channels: int = 1, shape: TiramisuShape = SHAPES["tiramisu"]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.stem = nn.Conv2d(in_channels, shape.first_channels, 3, padding=1)
        self.dense_down, self.down = nn.ModuleList(), nn.ModuleList()
        self.up, self.dense_up = nn.ModuleList(), nn.ModuleList()
        channels, skips = shape.first_channels, []
        for n_layers in shape.layers_down:
            block = DenseBlock(channels, n_layers, shape, keep_input=True)
            self.dense_down.append(block)
            skips.append(block.out_channels)
            transition = TransitionDown(block.out_channels, shape)
            self.down.append(transition)
            channels = transition.out_channels
        self.bottleneck = DenseBlock(channels, shape.layers_bottleneck, shape, keep_input=False)
        channels = self.bottleneck.out_channels
        for n_layers in shape.layers_up:
            self.up.append(TransitionUp(channels))
            channels += skips.pop()
            block = DenseBlock(channels, n_layers, shape, keep_input=not skips)
            self.dense_up.append(block)
            channels = block.out_channels
        self.head = nn.Conv2d(channels, out_channels, 1, bias=False)

    @property
    def tile_multiple(self) -> int:
        """Tile origins and sizes must be multiples of this many pixels."""
        return 2 ** len(self.down)

    @property
    def halo_px(self) -> int:
        """Pixels around a tile on which its CoMIR depends, to within a fraction of a grey level."""
        reach, skips = Reach(), []
        for n_layers in reversed(self.shape.layers_up):
            reach = reach.convolution(n_layers)
            skips.append(reach)
            reach = reach.convolution().nearest_doubling()
        reach = reach.convolution(self.shape.layers_bottleneck)
        for n_layers in reversed(self.shape.layers_down):
            reach = reach.halving().union(skips.pop()).convolution(n_layers)
        return min(reach.convolution().halo_px(self.tile_multiple), LARGEST_HALO_PX)

    def forward(self, image: Tensor) -> Tensor:
        """Return the CoMIR, (batch, out_channels, rows, columns)."""
        features = self.stem(image)
        skips = []
        for dense, down in zip(self.dense_down, self.down, strict=True):
            features = dense(features)
            skips.append(features)
            features = down(features)
        features = self.bottleneck(features)
        for up, dense in zip(self.up, self.dense_up, strict=True):
            features = dense(torch.cat([skips.pop(), up(features)], 1))
        out: Tensor = self.head(features)
        return out
