"""The published CoMIR network: a fully convolutional DenseNet ("Tiramisu").

Source: Jegou et al. 2017 and the configuration of Pielawski, Wetzer et al.,
NeurIPS 2020: first convolution 32 filters, growth 12, six down and six up
blocks of four layers, compression 0.75, dropout 0.2. Sizes must be multiples of
`tile_multiple`; `comir_search.comir.embedding` pads for that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROWTH = 12
LAYERS = 4
DEPTH = 6
DROPOUT = 0.2
COMPRESSION = 0.75
FIRST_CHANNELS = 32


class DenseLayer(nn.Sequential):
    """BatchNorm, ReLU, 3 x 3 convolution to `GROWTH` channels, dropout."""

    def __init__(self, n_in: int) -> None:
        super().__init__(
            nn.BatchNorm2d(n_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_in, GROWTH, 3, padding=1),
            nn.Dropout(DROPOUT),
        )


class DenseBlock(nn.Module):
    """Four dense layers, each fed with the block's input and all earlier outputs.

    Parameters
    ----------
    n_in : int
        Input channels.
    keep_input : bool
        Whether the output starts with the input.
    """

    def __init__(self, n_in: int, keep_input: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(n_in + i * GROWTH) for i in range(LAYERS))
        self.keep_input = keep_input
        self.out_channels = LAYERS * GROWTH + (n_in if keep_input else 0)

    def forward(self, features: Tensor) -> Tensor:
        """Return the new features, behind the input where it is kept."""
        collected = [features]
        for layer in self.layers:
            collected.append(layer(torch.cat(collected, 1)))
        return torch.cat(collected if self.keep_input else collected[1:], 1)


class TransitionDown(nn.Sequential):
    """BatchNorm, ReLU, 1 x 1 compression, channel dropout, 2 x 2 max pooling."""

    def __init__(self, n_in: int) -> None:
        self.out_channels = int(COMPRESSION * n_in)
        super().__init__(
            nn.BatchNorm2d(n_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_in, self.out_channels, 1),
            nn.Dropout2d(DROPOUT),
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
    """

    stride = 1
    tile_multiple = 2**DEPTH
    # The receptive field exceeds 1024 px; within this halo lies all but a
    # fraction of a grey level of its influence (measured in the tests).
    halo_px = 256

    def __init__(self, in_channels: int, out_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, FIRST_CHANNELS, 3, padding=1)
        self.dense_down, self.down = nn.ModuleList(), nn.ModuleList()
        self.up, self.dense_up = nn.ModuleList(), nn.ModuleList()
        channels, skips = FIRST_CHANNELS, []
        for _ in range(DEPTH):
            block = DenseBlock(channels, keep_input=True)
            self.dense_down.append(block)
            skips.append(block.out_channels)
            transition = TransitionDown(block.out_channels)
            self.down.append(transition)
            channels = transition.out_channels
        self.bottleneck = DenseBlock(channels, keep_input=False)
        channels = self.bottleneck.out_channels
        for level in range(DEPTH):
            self.up.append(TransitionUp(channels))
            block = DenseBlock(channels + skips.pop(), keep_input=level == DEPTH - 1)
            self.dense_up.append(block)
            channels = block.out_channels
        self.head = nn.Conv2d(channels, out_channels, 1, bias=False)

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
