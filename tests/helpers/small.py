"""A small network in a real model, and small slides: what the index's tests index within a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy.ndimage import uniform_filter

from comir_search.model import model as models
from comir_search.model.embedding import embed_array
from comir_search.model.model import BF, SHG, Model
from comir_search.model.networks import CompactNet
from comir_search.model.vocabulary import Vocabulary

WIDTHS = (8, 12)  # a trained compact network has four, of up to 192 channels
CHANNELS, DIMENSIONS, WORDS = 3, 4, 60


def build_network(architecture: str, in_channels: int, out_channels: int) -> CompactNet:
    """Build the compact network, narrow and shallow."""
    assert architecture == "compact"
    return CompactNet(in_channels, out_channels, WIDTHS)


def install() -> None:
    """Read every model of this process with small networks, for the rest of its life."""
    models.build_network = build_network


def make_model(seed: int = 0) -> Model:
    """Return an untrained model whose CoMIRs use the range of their 8-bit code."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    networks = {side.name: build_network("compact", side.channels, CHANNELS) for side in (BF, SHG)}
    vocabulary = Vocabulary(
        8,
        (16, 32),
        draw(2, CHANNELS * 64, DIMENSIONS),
        draw(2, DIMENSIONS),
        draw(2, WORDS, DIMENSIONS),
        np.ones((2, WORDS), np.float32),
    )
    model = Model(
        torch.nn.ModuleDict(networks),
        (BF, SHG),
        architecture="compact",
        comir_channels=CHANNELS,
        pixel_size_um=2.0,
        vocabulary=vocabulary,
    )
    for side in (BF, SHG):
        latents = embed_array(model, rng.random((128, 128, side.channels), np.float32), side.name)
        head = networks[side.name].head
        scale = torch.from_numpy(1.5 / latents.std(axis=(1, 2)))
        with torch.no_grad():
            head.bias.sub_(torch.from_numpy(latents.mean(axis=(1, 2)))).mul_(scale)
            head.weight.mul_(scale[:, None, None, None])
    return model.to("cpu")


def write_slide(path: Path, side_px: int = 1500, seed: int = 0, pixel_size_um: float | None = 2.0) -> Path:
    """Write a brightfield slide: a disc and a corner of tissue on glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, :side_px] / side_px
    tissue = (np.hypot(x - 0.4, y - 0.45) < 0.27) | ((x > 0.9) & (y > 0.85))
    texture = uniform_filter(rng.normal(size=(side_px, side_px, 3)), (5, 5, 0)) * 60
    image = np.where(tissue[..., None], np.array([180, 100, 160]) + texture, np.array([240, 240, 240]))
    resolution = (
        {} if pixel_size_um is None else {"resolution": (1e4 / pixel_size_um,) * 2, "resolutionunit": 3}
    )
    tifffile.imwrite(
        path, np.clip(image, 0, 255).astype(np.uint8), tile=(256, 256), photometric="rgb", **resolution
    )
    return path
