"""A model without torch: quick, exact, and dependent on the halo as a network is.

It stands in where the tests are about the index and not about what it holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from comir_search.model.intensity import Intensity

REACH_PX = 9
WORD_REACH_PX = 20


class FakeVocabulary:
    """Box sums of two sizes as words."""

    step_px = 8
    halo_px = WORD_REACH_PX
    n_blocks = 2

    def project(self, comir):
        image = np.rint(comir * 255).astype(np.int64).sum(axis=0)
        wide = np.pad(image, WORD_REACH_PX, mode="edge").cumsum(0).cumsum(1)
        maps = []
        for reach in (WORD_REACH_PX, WORD_REACH_PX // 2):
            rows = np.arange(image.shape[0] // 8) * 8 + 4 + WORD_REACH_PX
            columns = np.arange(image.shape[1] // 8) * 8 + 4 + WORD_REACH_PX
            r0, r1, c0, c1 = rows - reach, rows + reach - 1, columns - reach, columns + reach - 1
            maps.append(
                wide[np.ix_(r1, c1)] - wide[np.ix_(r0, c1)] - wide[np.ix_(r1, c0)] + wide[np.ix_(r0, c0)]
            )
        return np.stack(maps)

    def assign(self, projected):
        return (projected % 20011).astype(np.uint16)


class FakeModel:
    """What indexing knows of a `Model`."""

    modalities = ("bf", "shg")
    pixel_size_um = 2.0
    stride = 2
    comir_channels = 3
    tile_multiple = 16
    halo_px = 16
    bytes_per_px = 170
    device = torch.device("cpu")

    def __init__(self, fingerprint: str = "fake"):
        self.fingerprint = self.words_fingerprint = self.embedding_fingerprint = fingerprint
        self.vocabulary = FakeVocabulary()

    def modality(self, name):
        from comir_search.errors import ComirSearchError

        if name not in self.modalities:
            raise ComirSearchError(f"The model knows the modalities bf and shg, not {name!r}.")
        return SimpleNamespace(channels=3, intensity="full_scale")

    def save(self, path):
        Path(path).write_text(json.dumps(self.fingerprint))


def load_model(path=None, device="auto"):
    return FakeModel("fake" if path is None else json.loads(Path(path).read_text()))


def intensity_of(model, slide, modality):
    return Intensity("full_scale", 0.0, 255.0)


def embed_region(model, slide, modality, intensity, x, y, width, height):
    assert not (x % model.tile_multiple or y % model.tile_multiple)
    halo = model.halo_px
    image = slide.read_scaled(model.pixel_size_um, x - halo, y - halo, width + 2 * halo, height + 2 * halo)
    image = image.astype(np.int64)
    reach = 2 * REACH_PX + 1
    wide = np.pad(image.cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    box = wide[reach:, reach:] - wide[:-reach, reach:] - wide[reach:, :-reach] + wide[:-reach, :-reach]
    cut = halo - REACH_PX
    mixed = 128 + image[halo:-halo, halo:-halo] - box[cut : cut + height, cut : cut + width] // reach**2
    pooled = mixed.reshape(height // 2, 2, width // 2, 2, 3).sum(axis=(1, 3)) // 4
    return np.clip(pooled, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def modules() -> dict[str, ModuleType]:
    """Return the engine's modules that the fake stands in for, by name."""
    contents = {
        "comir_search.model.model": {"load_model": load_model},
        "comir_search.model.embedding": {"intensity_of": intensity_of, "embed_region": embed_region},
    }
    made = {}
    for name, functions in contents.items():
        made[name] = ModuleType(name)
        made[name].__dict__.update(functions)
    return made


def install() -> None:
    """Stand in for the rest of a process's life."""
    sys.modules.update(modules())


def write_slide(path: Path, side_px: int = 1500, seed: int = 0, pixel_size_um: float | None = 2.0) -> Path:
    """Write a brightfield slide: a disc and a corner of tissue on glass."""
    import tifffile

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
