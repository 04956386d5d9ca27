"""The options classes: one definition for the command, Python, forms and provenance."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace

import numpy as np
import pytest

from comir_search import ComirSearchError, IndexOptions, SearchOptions, TrainOptions
from comir_search.options import Options, add_arguments, from_arguments, list_form_rows, list_options

CLASSES = (SearchOptions, IndexOptions, TrainOptions)


def parse(options: type[Options], *arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser, options)
    return from_arguments(options, parser.parse_args(arguments))


@pytest.mark.parametrize("options", CLASSES)
def test_the_command_and_python_have_the_same_defaults(options):
    assert parse(options) == options()
    offered = {each.name for each in list_options(options) if each.flag}
    assert {each.name for each in fields(options)} - offered <= {"slides", "validation"}


@pytest.mark.parametrize(
    ("options", "arguments", "keywords"),
    [
        (SearchOptions, "--top 3 --mirror --method words", {"top": 3, "mirror": True, "method": "words"}),
        (SearchOptions, "--pixel-size 0.5 --modality shg", {"pixel_size_um": 0.5, "modality": "shg"}),
        (IndexOptions, "--model m.safetensors --workers 2", {"model": "m.safetensors", "workers": 2}),
        (IndexOptions, "--scheduler tcp://a:1 --device cpu", {"scheduler": "tcp://a:1", "device": "cpu"}),
        (TrainOptions, "--arch tiramisu --names a b", {"architecture": "tiramisu", "names": ["a", "b"]}),
        (TrainOptions, "--seed -3 --steps 9 --resume", {"seed": -3, "steps": 9, "resume": True}),
    ],
)
def test_arguments_are_the_keywords_of_python(options, arguments, keywords):
    assert parse(options, *arguments.split()) == options(**keywords)


@pytest.mark.parametrize(
    ("options", "name", "value", "wanted"),
    [
        (SearchOptions, "top", 0, "one or more"),
        (SearchOptions, "top", 2.5, "one or more"),
        (SearchOptions, "top", None, "one or more"),
        (SearchOptions, "method", "guess", "auto, correlation or words"),
        (SearchOptions, "pixel_size_um", float("nan"), "a number above zero"),
        (SearchOptions, "pixel_size_um", "0.5", "a number above zero"),
        (SearchOptions, "slides", 3, "a list of names"),
        (IndexOptions, "device", "abacus", "auto, cpu or cuda"),
        (IndexOptions, "workers", 0, "one or more"),
        (TrainOptions, "pixel_size_um", -1, "a number above zero"),
        (TrainOptions, "architecture", "large", "compact or tiramisu"),
    ],
)
def test_a_value_that_is_not_possible_is_one_sentence(options, name, value, wanted):
    with pytest.raises(ComirSearchError) as failure:
        options(**{name: value})
    sentence = str(failure.value)
    assert repr(value) in sentence and sentence.endswith(f"give {wanted}.")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "arguments", ["--top 0", "--top 1.5", "--method guess", "--pixel-size 0", "--pixel-size many"]
)
def test_a_value_that_is_not_possible_is_wrong_usage_of_the_command(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(SearchOptions, *arguments.split())
    assert stopped.value.code == 2 and arguments.split()[1] in capsys.readouterr().err


@pytest.mark.parametrize("options", CLASSES)
def test_an_unknown_keyword_is_a_type_error(options):
    with pytest.raises(TypeError, match="colour"):
        options(colour="red")
    with pytest.raises(TypeError, match="colour"):
        options.of(options(), {"colour": "red"})


def test_keywords_replace_what_they_name():
    assert SearchOptions.of(SearchOptions(top=3, mirror=True), {"top": 5}) == SearchOptions(
        top=5, mirror=True
    )
    assert SearchOptions.of(None, {"top": 5}) == SearchOptions(top=5)
    with pytest.raises(ComirSearchError, match="top"):
        replace(SearchOptions(), top=0)


def test_values_are_kept_in_their_own_type_for_json():
    options = SearchOptions(top=np.int64(3), pixel_size_um=np.float32(0.5), slides=["a.tif"], mirror=1)
    assert json.loads(json.dumps(options.to_dict())) == {
        "pixel_size_um": 0.5,
        "modality": None,
        "top": 3,
        "mirror": True,
        "slides": ["a.tif"],
        "method": "auto",
    }
    assert SearchOptions(slides="a.tif").slides == ("a.tif",)


def test_a_form_row_holds_bounds_choices_and_unit():
    rows = {row["name"]: row for row in (*list_form_rows(SearchOptions), *list_form_rows(TrainOptions))}
    assert rows["top"]["options"]["min"] == 1 and rows["top"]["value"] == 10
    assert rows["method"]["options"]["choices"] == ("auto", "correlation", "words")
    assert rows["pixel_size_um"]["label"] == "pixel size (um)"
    assert rows["pixel_size_um"]["options"]["min"] > 0
    assert all("\n" not in row["options"]["tooltip"] for row in rows.values())
