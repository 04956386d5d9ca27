"""ResNet features from weights that the user gives."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from comir_search.errors import ComirSearchError
from comir_search.evaluation.baselines.features import make_extractor
from comir_search.evaluation.baselines.resnet import ResNet, load_resnet, resnet_maps

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ResNet((1, 1, 1, 1)).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_resnet_takes_weights_of_torchvision(network, image, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    states = {**network.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    save_file(states, path) if suffix == ".safetensors" else torch.save(states, path)
    np.testing.assert_allclose(
        resnet_maps(load_resnet(path, CPU), image), resnet_maps(network, image), atol=1e-5
    )
    extractor = make_extractor("resnet", CPU, path)
    features = extractor.describe(image)
    assert features.shape == (2048, 64)
    np.testing.assert_allclose(extractor.strength(features), features.sum(axis=1))


def test_resnet152_has_the_published_size():
    with torch.device("meta"):
        network = ResNet((3, 8, 36, 3))
    assert sum(p.numel() for p in network.parameters()) == 60_192_808 - 2_049_000  # less the classifier


def test_resnet_without_weights_or_with_wrong_ones_is_refused(tmp_path, network):
    with pytest.raises(ComirSearchError, match="--weights"):
        make_extractor("resnet", CPU)
    with pytest.raises(ComirSearchError, match="does not exist"):
        make_extractor("resnet", CPU, tmp_path / "absent.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ComirSearchError, match="contains no ResNet"):
        make_extractor("resnet", CPU, tmp_path / "other.pth")
    states = {**network.state_dict(), "layer1.0.conv1.weight": torch.zeros(3)}
    torch.save(states, tmp_path / "wrong.pth")
    with pytest.raises(ComirSearchError, match="another network"):
        make_extractor("resnet", CPU, tmp_path / "wrong.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ComirSearchError, match="damaged"):
        make_extractor("resnet", CPU, tmp_path / "broken.safetensors")
