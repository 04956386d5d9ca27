"""Model files: what they are known by, and what is refused before anything is built of it."""

import copy
import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from comir_search.documents import BadDocument
from comir_search.errors import ComirSearchError
from comir_search.model.calibration import Calibration
from comir_search.model.model import BF, DEFAULT_MODEL, SHG, Modality, Model, load_model
from comir_search.model.networks import build_network
from comir_search.model.vocabulary import Vocabulary

CALIBRATION = Calibration((1.0, 2.0, 3.0, 4.0, -5.0), 0.8)
# What commit 2554524 called the shipped model: the name under which indexes of that time hold it.
SHIPPED_WORDS = "38a3b5921a87931fa952a7445d6a42c0"
WRONG = (None, True, "", "text", -1, 0, 10**30, 1e308, [], {}, [[1]], "1" * 1000)
RAW = ("NaN", "Infinity", "-Infinity", "1e400", "[" * 2000 + "]" * 2000, "1" * 5000)


def make(seed=0, words=5, **changes):
    torch.manual_seed(seed)
    networks = nn.ModuleDict({side.name: build_network("compact", side.channels, 2) for side in (BF, SHG)})
    shapes = {"projection": (2, 128, 3), "offset": (2, 3), "words": (2, words, 3), "idf": (2, words)}
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    vocabulary = Vocabulary.from_arrays(arrays, {"step_px": 8, "block_px": [16, 32]})
    values = {"architecture": "compact", "comir_channels": 2, "pixel_size_um": 2.0, "vocabulary": vocabulary}
    return Model(networks, (BF, SHG), **(values | changes))


@pytest.fixture
def path(tmp_path):
    """A model with everything that one can have."""
    made = tmp_path / "model.safetensors"
    make(calibration=CALIBRATION, card={"training": {"seed": 1}}).save(made)
    return made


def read_header(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_metadata(path, text):
    header, data = read_header(path)
    header["__metadata__"]["model"] = text
    write_header(path, header, data)


def read_metadata(path):
    return json.loads(read_header(path)[0]["__metadata__"]["model"])


def rewrite_tensors(path, change):
    tensors, metadata = load_file(path), read_header(path)[0]["__metadata__"]
    change(tensors)
    path.write_bytes(save(tensors, metadata))


def fingerprints(model):
    return model.embedding_fingerprint, model.words_fingerprint, model.fingerprint


def test_fingerprints_change_with_what_they_are_of_alone(path):
    base = fingerprints(make())
    assert fingerprints(make()) == base and len(set(base)) == 3
    calibrated = fingerprints(make(calibration=CALIBRATION))
    assert calibrated[:2] == base[:2] and calibrated[2] != base[2]
    other_words = fingerprints(make(words=6))
    assert other_words[0] == base[0] and other_words[1] != base[1] and other_words[2] != base[2]
    wordless = fingerprints(make(vocabulary=None))
    assert wordless[0] == base[0] and wordless[1] != base[1]
    for changes in ({"seed": 1}, {"pixel_size_um": 1.0}):
        assert not set(fingerprints(make(**changes))) & set(base)
    assert fingerprints(make(card={"note": "any"})) == base
    loaded = load_model(path, "cpu")
    assert fingerprints(loaded) == calibrated and loaded.calibration == CALIBRATION


def test_a_vocabulary_that_is_learned_later_changes_the_fingerprint():
    model, other = make(vocabulary=None), make()
    before = model.words_fingerprint
    model.vocabulary = other.vocabulary
    assert model.words_fingerprint == other.words_fingerprint != before


def test_the_shipped_model_keeps_the_name_that_indexes_know():
    model = load_model(device="cpu")
    assert model.words_fingerprint == SHIPPED_WORDS
    assert model.calibration is not None and model.calibration.threshold == 0.75


def places(value, path=()):
    """Yield the path of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def holder_of(values, place):
    for key in place[:-1]:
        values = values[key]
    return values


def must_load_or_be_refused(path):
    """Return whether a file loads; what is refused is refused in one sentence that names it."""
    try:
        model = load_model(path, "cpu")
    except ComirSearchError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 1000
        return False
    assert all(torch.isfinite(tensor).all() for tensor in model.networks.state_dict().values())
    assert 0 < model.pixel_size_um < 1000 and len(model.modalities) == 2
    return True


# All that a file says of a model, by its kind alone.
FORM = {
    **dict.fromkeys(
        ("format", "format_version", "architecture", "comir_channels", "pixel_size_um", "stride", "coding")
    ),
    "modalities": [{"name": 0, "channels": 0, "intensity": 0}] * 2,
    "vocabulary": {"step_px": 0, "block_px": [0, 0]},
    "calibration": {"weights": [0] * 5, "threshold": 0, "features": [0] * 4},
    "card": {"training": {"seed": 0}},
}


@pytest.mark.parametrize("place", list(places(FORM)), ids=lambda place: ".".join(map(str, place)))
def test_any_value_of_the_metadata_can_be_anything(path, place):
    good = read_metadata(path)
    for wrong in np.random.default_rng(len(place)).permutation(np.array(WRONG, object))[:5]:
        values = copy.deepcopy(good)
        holder_of(values, place)[place[-1]] = wrong
        write_metadata(path, json.dumps(values))
        must_load_or_be_refused(path)
    for raw in RAW[:: 1 + len(place) % 2]:
        values = copy.deepcopy(good)
        holder_of(values, place)[place[-1]] = "@"
        write_metadata(path, json.dumps(values).replace('"@"', raw))
        assert not must_load_or_be_refused(path)
    values = copy.deepcopy(good)
    del holder_of(values, place)[place[-1]]
    write_metadata(path, json.dumps(values))
    must_load_or_be_refused(path)


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("pixel_size_um",), -2.0, "pixel_size_um"),
        (("pixel_size_um",), 1e6, "pixel_size_um"),
        (("comir_channels",), 2**40, "comir_channels"),
        (("comir_channels",), 3, "has the shape"),
        (("architecture",), "tiramisu", "lacks"),
        (("stride",), 4, "stride"),
        (("coding",), "other", "coded"),
        (("modalities", 0, "channels"), 2, "1 or 3 channels"),
        (("modalities", 0, "intensity"), "other", "intensity"),
        (("modalities", 0, "name"), "shg", "named"),
        (("modalities", 0, "name"), "forward", "named"),
        (("modalities", 0, "name"), "a.b", "name"),
        (("vocabulary", "block_px"), [16], "shape"),
        (("vocabulary", "block_px"), [16, 10**6], "block_px"),
        (("vocabulary", "step_px"), 0, "step_px"),
        (("calibration", "weights"), [1.0], "1 weights"),
        (("calibration", "threshold"), 7, "threshold"),
        (("calibration", "features"), ["score"], "measurements"),
        (("format_version",), 2, "newer than this program"),
        (("format",), "other", "is not a comir-search model"),
    ],
)
def test_what_no_model_says_is_refused_by_name(path, place, value, word):
    values = read_metadata(path)
    holder_of(values, place)[place[-1]] = value
    write_metadata(path, json.dumps(values))
    with pytest.raises(ComirSearchError, match=rf"^{path} .*{word}"):
        load_model(path, "cpu")


def test_a_card_of_any_depth_is_refused(path):
    values = read_metadata(path)
    for _ in range(40):
        values["card"] = {"more": values["card"]}
    write_metadata(path, json.dumps(values))
    with pytest.raises(BadDocument, match="nested"):
        load_model(path, "cpu")


WEIGHT = "networks.bf.head.weight"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tensors: tensors.pop(WEIGHT), "lacks bf.head.weight"),
        (lambda tensors: tensors.update({"networks.bf.more": torch.ones(1)}), "also has bf.more"),
        (lambda tensors: tensors.update({WEIGHT: torch.ones(2, 32, 1)}), "shape"),
        (lambda tensors: tensors.update({WEIGHT: torch.ones(2, 32, 1, 1, dtype=torch.int64)}), "impossible values"),
        (lambda tensors: tensors.update({WEIGHT: torch.ones(2, 32, 1, 1, dtype=torch.bool)}), "type BOOL"),
        (lambda tensors: tensors.update({WEIGHT: torch.full((2, 32, 1, 1), torch.nan)}), "not numbers"),
        (lambda tensors: tensors.update({WEIGHT: torch.full((2, 32, 1, 1), torch.inf)}), "not numbers"),
        (
            lambda tensors: tensors.update({WEIGHT: torch.full((2, 32, 1, 1), 1e300, dtype=torch.float64)}),
            "not numbers",
        ),
        (lambda tensors: tensors["networks.bf.down.0.0.1.running_var"].sub_(9), "impossible values"),
        (lambda tensors: tensors.pop("vocabulary.idf"), "lacks idf"),
        (lambda tensors: tensors.update({"vocabulary.idf": torch.ones(2, 4)}), "shape"),
        (lambda tensors: tensors.update({"vocabulary.words": torch.ones(2, 0, 3)}), "shape"),
        (lambda tensors: tensors.update({"vocabulary.offset": torch.ones(())}), "shape"),
        (lambda tensors: tensors.update({"vocabulary.projection": torch.ones(2, 64, 3)}), "match its CoMIRs"),
        (lambda tensors: tensors["vocabulary.words"].fill_(torch.nan), "not numbers"),
    ],
)  # fmt: skip
def test_tensors_of_no_model_are_refused_by_name(path, change, word):
    rewrite_tensors(path, change)
    with pytest.raises(ComirSearchError, match=rf"^{path} .*{word}"):
        load_model(path, "cpu")


def test_broken_bytes_are_refused_in_words(path):
    """A short form of tests/benchmarks/fuzz.py."""
    content, rng = path.read_bytes(), np.random.default_rng(0)
    length = int.from_bytes(content[:8], "little")
    for number in range(150):
        broken = bytearray(content)
        at = int(rng.integers(8 + length if number % 3 else len(content)))
        action = number % 5
        if action == 0:
            broken[at] ^= 1 << int(rng.integers(8))
        elif action == 1:
            del broken[at:]
        elif action == 2:
            del broken[at : at + int(rng.integers(1, 50))]
        elif action == 3:
            broken[at : at + 8] = struct.pack("<Q", (0, 2**31, 2**62, 2**64 - 1)[number // 5 % 4])
        else:
            broken[at:at] = rng.bytes(16)
        path.write_bytes(broken)
        must_load_or_be_refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 64, (2**40).to_bytes(8, "little"), zlib.compress(b"x")]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(ComirSearchError, match=r"other\.safetensors is damaged|not a comir-search model"):
        load_model(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path, words in (
        (pipe, "not a regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "x", "not exist"),
    ):
        with pytest.raises(ComirSearchError, match=words):
            load_model(path)


def test_a_model_of_weights_that_are_no_numbers_is_not_written(tmp_path):
    model = make()
    model.networks["bf"].head.weight[0] = 1e30  # more than half precision holds
    with pytest.raises(ComirSearchError, match=r"was not written: its weight networks\.bf\.head\.weight"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_does_not_depend_on_its_file_any_more(path):
    model = load_model(path, "cpu")
    before = model.words_fingerprint, model.vocabulary.words.copy()
    with open(path, "r+b") as file:
        file.truncate(0)
    model.vocabulary = model.vocabulary
    assert model.words_fingerprint == before[0] and np.array_equal(model.vocabulary.words, before[1])


def test_sides_and_vocabularies_of_wrong_values_cannot_be_made():
    for wrong, words in (
        ({"channels": 2}, "1 or 3 channels"),
        ({"intensity": "other"}, "intensity is one of"),
    ):
        with pytest.raises(ValueError, match=words):
            Modality(**({"name": "bf", "channels": 3, "intensity": "signal"} | wrong))
    arrays = make().vocabulary.arrays()
    for settings in ({}, {"step_px": "8", "block_px": [16, 32]}, {"step_px": 8, "block_px": []}):
        with pytest.raises(BadDocument, match="The vocabulary is damaged"):
            Vocabulary.from_arrays(arrays, settings)
    with pytest.raises(BadDocument, match="float32"):
        Vocabulary.from_arrays(
            {**arrays, "idf": arrays["idf"].astype(float)}, {"step_px": 8, "block_px": [16, 32]}
        )


def test_the_shipped_model_is_where_it_is_looked_for():
    assert DEFAULT_MODEL.is_file()
