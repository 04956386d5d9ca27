"""ResNet features like those of the published comparison, with weights from the user.

The network is that of He et al. 2016 with bottleneck blocks (ResNet-50, -101 or -152).
The parameters have the names of torchvision, so that its weight files can be loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from comir_search.errors import ComirSearchError
from comir_search.evaluation.baselines.extractor import FloatArray
from comir_search.model.checkpoint import read_checkpoint
from comir_search.model.model import find_bad_weight, shapes_of
from comir_search.model.tensor_file import find_misfit, open_tensors

POOLED_PX = 8
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_WIDTHS = (64, 128, 256, 512)
_MOST_BLOCKS = 36  # of one width, as in ResNet-152
_WANTED = "torchvision's weights of ResNet-50, -101 or -152"


class _Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, with a shortcut around them."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or n_in != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum of the convolutions and the shortcut."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.bn1(self.conv1(features)).relu()
        features = self.bn2(self.conv2(features)).relu()
        out: Tensor = (self.bn3(self.conv3(features)) + shortcut).relu()
        return out


class ResNet(nn.Module):
    """A ResNet up to its last convolutional block.

    Parameters
    ----------
    blocks : sequence of int
        Number of bottlenecks in each of the four layers: (3, 8, 36, 3) for ResNet-152.
    """

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        n_in = 64
        for number, (count, width) in enumerate(zip(blocks, _WIDTHS, strict=True)):
            layer = nn.Sequential()
            for index in range(count):
                layer.append(_Bottleneck(n_in, width, 2 if number and not index else 1))
                n_in = 4 * width
            self.add_module(f"layer{number + 1}", layer)

    def forward(self, image: Tensor) -> Tensor:
        """Return features (n, 2048, rows / 32, columns / 32)."""
        features = self.maxpool(self.bn1(self.conv1(image)).relu())
        for number in range(len(_WIDTHS)):
            features = self.get_submodule(f"layer{number + 1}")(features)
        return features


def load_resnet(path: str | Path, device: torch.device) -> ResNet:
    """Load a ResNet of any depth from torchvision's weights.

    Parameters
    ----------
    path : path
        State dict as safetensors or from ``torch.save``. Code in the file is never
        run.
    device : torch.device

    Raises
    ------
    ComirSearchError
        If the file is missing, is damaged or contains another network.
    """
    path = Path(path)
    tensors = _read_tensors(path)
    names = [re.match(r"layer([1-4])\.(\d{1,3})\.", name) for name in tensors]
    numbers = [(int(match[1]), int(match[2])) for match in names if match]
    blocks = tuple(len({block for layer, block in numbers if layer == wanted}) for wanted in (1, 2, 3, 4))
    if not all(1 <= count <= _MOST_BLOCKS for count in blocks):
        raise ComirSearchError(f"{path} contains no ResNet; give {_WANTED}.")
    with torch.device("meta"):
        network = ResNet(blocks)
    expected = network.state_dict()
    if problem := find_misfit(shapes_of(expected), shapes_of(tensors)):
        raise ComirSearchError(f"{path} contains another network ({problem}); give {_WANTED}.")
    weights = {
        name: tensors[name].to(torch.float32 if like.is_floating_point() else torch.long, copy=True)
        for name, like in expected.items()
    }
    if bad := find_bad_weight(weights):
        raise ComirSearchError(f"{path} contains values in {bad} that cannot be weights; download it again.")
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False).to(device)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file by name, without those of the last layer."""
    if path.suffix == ".safetensors":
        with open_tensors(path, wanted=_WANTED, advice="download it again") as file:
            names = [name for name in file.shapes if not name.startswith("fc.")]
            return {name: torch.from_numpy(file.read(name)) for name in names}
    content = read_checkpoint(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ComirSearchError(f"{path} contains no ResNet; give {_WANTED}.")
    return {name: tensor for name, tensor in content.items() if not name.startswith("fc.")}


def resnet_maps(network: ResNet, image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the maps (2048, rows / 32, columns / 32) of the last block for a grey image in [0, 1]."""
    device = network.conv1.weight.device
    grey = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(device).expand(1, 3, -1, -1)
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _DEVIATION))
    with torch.inference_mode():
        maps: NDArray[np.float32] = network((grey - mean) / deviation)[0].cpu().numpy()
    return maps


def pooled_features(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average each map to 8 x 8 pixels: 2048 features of 64 values."""
    pooled = nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), POOLED_PX)
    return pooled.flatten(1).numpy()


class ResnetFeatures:
    """2048 features of 64 values, one for each map of the last block. The strength is the sum of the values."""

    def __init__(self, weights: Path | None, device: torch.device) -> None:
        self._network = load_resnet(require_weights(weights), device)

    def describe(self, image: FloatArray) -> FloatArray:
        """Return features (2048, 64)."""
        return pooled_features(resnet_maps(self._network, image))

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return the sum of the values of each feature."""
        return descriptors.sum(axis=1)


def require_weights(weights: Path | None) -> Path:
    """Return the weights, or raise an error that tells the user to give them."""
    if weights is None:
        raise ComirSearchError(
            "ResNet features need ImageNet weights, which are not part of this package; download "
            "torchvision's ResNet-152 weights and give the file with --weights."
        )
    return weights
