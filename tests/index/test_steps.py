"""The index of a slide by a network and a vocabulary of the shipped kind, untrained."""

from __future__ import annotations

import numpy as np
import pytest
import small

torch = pytest.importorskip("torch")

from comir_search.index.build import index_slides  # noqa: E402
from comir_search.index.index import Index  # noqa: E402
from comir_search.index.layout import NO_WORD  # noqa: E402
from comir_search.model.embedding import embed_region, intensity_of  # noqa: E402
from comir_search.model.model import BF, SHG, Model  # noqa: E402
from comir_search.model.networks import build_network  # noqa: E402
from comir_search.model.vocabulary import Vocabulary  # noqa: E402
from comir_search.slides import open_slide  # noqa: E402


def make_model() -> Model:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)

    def draw(*shape: int):
        return rng.normal(size=shape).astype(np.float32)

    vocabulary = Vocabulary(
        8, (16, 32), draw(2, 4 * 64, 8), draw(2, 8), draw(2, 50, 8), np.ones((2, 50), np.float32)
    )
    networks = {side.name: build_network("compact", side.channels, 4) for side in (BF, SHG)}
    return Model(
        torch.nn.ModuleDict(networks),
        (BF, SHG),
        architecture="compact",
        comir_channels=4,
        pixel_size_um=2.0,
        vocabulary=vocabulary,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    file = small.write_slide(folder / "disc.tif", 620)
    model = make_model()
    Index.create(folder / "index", model, "bf", region_px=256)
    index_slides([file], folder / "index", device="cpu")
    return model, file, Index.open(folder / "index", "cpu")


def test_the_model_in_the_index_is_the_same(made):
    model, _, index = made
    assert index.model.fingerprint == model.fingerprint


def test_tiles_agree_with_the_whole_within_a_grey_level(made):
    model, file, index = made
    (slide,) = index.slides
    with open_slide(file) as opened:
        whole = embed_region(model, opened, "bf", intensity_of(model, opened, "bf"), 0, 0, 640, 640)
    chunk = slide.layout.chunk_px
    stored = np.kron(slide.grid.stored, np.ones((chunk, chunk), bool))[:310, :310]
    read = slide.read_comir(0, 0, 0, 310, 310)
    assert np.ptp(read[:, stored]) > 3  # even an untrained network sees something
    difference = read[:, stored].astype(int) - whole[:, :310, :310][:, stored]
    assert np.abs(difference).max() <= 1


def test_words_are_those_of_the_whole(made):
    model, _, index = made
    (slide,) = index.slides
    halo = slide.layout.word_halo_px
    comir = slide.read_comir(0, -halo, -halo, 312 + 2 * halo, 312 + 2 * halo)
    points = halo // 8
    described = model.vocabulary.project(comir.astype(np.float32) / 255)
    expected = model.vocabulary.assign(described)[:, points : points + 39, points : points + 39]
    words = slide.read_words(0, 0, 39, 39)
    given = words != NO_WORD
    assert given.mean() > 0.2
    assert (words[given] == expected[given]).mean() > 0.999  # sums in another order may tip a tie
