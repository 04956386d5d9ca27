"""The subcommand search, on a real index of an untrained model.

An untrained network embeds the same pixels alike, so upright brightfield patches
are found on brightfield slides: enough to test everything but the learning.
"""

import csv
import dataclasses
import errno
import json
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

import comir_search
from comir_search.export.geojson import read_geojson
from comir_search.progress import finish
from comir_search.records import Candidate
from comir_search.slides.crop import extract_candidate

TRUTH = Candidate(1, "", 352.0, 296.0, 1.0, 256.0, 256.0, 0.0, False, 1.0, 1.0)
KEYS = (
    "rank",
    "slide",
    "fingerprint",
    "center_x_px",
    "center_y_px",
    "center_x_um",
    "center_y_um",
    "width_um",
    "height_um",
    "angle_deg",
    "mirrored",
    "scale",
    "score",
    "confidence",
    "by_hand",
)


def write_image(path, pixels, pixel_size_um):
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    per_cm = 1e4 / pixel_size_um
    tifffile.imwrite(path, pixels, photometric=kind, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two slides, their index, and patches: one of the first slide, one of nowhere, one dark."""
    import torch
    from torch import nn

    from comir_search.index.build import index_slides
    from comir_search.model.calibration import Calibration
    from comir_search.model.model import BF, SHG, Model
    from comir_search.model.networks import build_network
    from comir_search.model.vocabulary import Vocabulary
    from comir_search.sample.synthetic_tissue import simulate_tissue_steps
    from comir_search.slides import open_slide

    folder = tmp_path_factory.mktemp("search")
    (folder / "slides").mkdir()
    for seed, name in enumerate(("one.tif", "two.tif", "nowhere.tif")):
        place = folder / ("slides" if seed < 2 else "") / name
        write_image(place, finish(simulate_tissue_steps(700, 600, seed)).brightfield, 1.0)
    for source, name in (("slides/one.tif", "patch.tif"), ("nowhere.tif", "absent.tif")):
        with open_slide(folder / source) as slide:
            write_image(folder / name, extract_candidate(slide, TRUTH, 1.0), 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = nn.ModuleDict(
            {"bf": build_network("compact", 3, 4), "shg": build_network("compact", 1, 4)}
        )
    with torch.no_grad(), open_slide(folder / "nowhere.tif") as slide:
        # Untrained latents are nearly constant: spread them over the tissue.
        tissue = slide.read_scaled(2.0, 50, 50, 256, 192).astype(np.float32) / 255
        network = networks["bf"].eval()
        latents = network(torch.from_numpy(tissue).permute(2, 0, 1)[None])
        spread, mean = latents.std((0, 2, 3)) / 2, latents.mean((0, 2, 3))
        network.head.bias.copy_((network.head.bias - mean) / spread)
        network.head.weight.div_(spread[:, None, None, None])
    rng = np.random.default_rng(0)
    blocks = (32, 64, 96, 128)
    vocabulary = Vocabulary(
        8,
        blocks,
        rng.normal(0, 0.1, (4, 256, 16)).astype(np.float32),
        np.zeros((4, 16), np.float32),
        rng.normal(0, 0.2, (4, 200, 16)).astype(np.float32),
        np.ones((4, 200), np.float32),
    )
    model = Model(
        networks,
        (BF, SHG),
        architecture="compact",
        comir_channels=4,
        pixel_size_um=2.0,
        vocabulary=vocabulary,
        calibration=Calibration((12.0, 25.0, 0.0, 0.0, -6.0), 0.9),
    )
    index_slides([folder / "slides"], folder / "index", model=model, modality="bf", device="cpu")
    return folder


@pytest.fixture(scope="module")
def answer(folder):
    """One run over both patches, with everything it prints and writes."""
    from comir_search.cli import main

    files = {kind: folder / f"out.{kind}" for kind in ("json", "csv", "geojson", "png")}
    arguments = ["search", folder / "patch.tif", folder / "absent.tif", "--index", folder / "index"]
    arguments += ["--modality", "bf", "--device", "cpu", "--top", 4, "--json", files["json"]]
    arguments += ["--csv", files["csv"], "--geojson", files["geojson"], "--overlay", files["png"]]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    assert code == 0, err.getvalue()
    return SimpleNamespace(out=out.getvalue(), err=err.getvalue(), **files)


@pytest.fixture
def search(folder, command):
    def run(*arguments):
        options = ("--index", folder / "index", "--modality", "bf", "--device", "cpu")
        return command("search", *arguments, *options)

    return run


def test_json(answer):
    results = json.loads(answer.json.read_text())
    assert [result["query"] for result in results] == ["patch.tif", "absent.tif"]
    for result in results:
        assert set(result) == {
            *("query", "found", "reason", "seconds"),
            *("options", "pixel_size_um", "modality", "provenance", "candidates"),
        }
        assert (result["pixel_size_um"], result["modality"]) == (1.0, "bf")
        assert result["options"] == {
            "top": 4,
            "mirror": False,
            "slides": None,
            "modality": "bf",
            "pixel_size_um": None,
            "method": "auto",
        }
        origin = result["provenance"]
        assert sorted(origin["slides"].values()) == [1.0, 1.0] and origin["index"].endswith("index")
        assert all(len(origin[key]) > 10 for key in ("query", "embedding", "model"))
        assert origin["version"] == comir_search.__version__
        assert len(result["reason"]) > 20 and result["seconds"]["total"] > 0
        candidates = result["candidates"]
        assert 1 <= len(candidates) <= 4 and all(tuple(each) == KEYS for each in candidates)
        assert [each["rank"] for each in candidates] == list(range(1, len(candidates) + 1))
        confidences = [each["confidence"] for each in candidates]
        assert confidences == sorted(confidences, reverse=True)
    first = results[0]["candidates"][0]
    assert first["slide"] == "one.tif" and first["mirrored"] is False and abs(first["angle_deg"]) < 2
    assert np.hypot(first["center_x_um"] - 352, first["center_y_um"] - 296) < 6
    assert first["score"] > results[1]["candidates"][0]["score"] + 0.1


def test_not_found_is_an_answer(answer):
    result = json.loads(answer.json.read_text())[1]
    assert result["found"] is False
    assert f"absent.tif: not found. {result['reason']}" in answer.out.splitlines()


def test_looks_closer_before_it_says_not_found(answer):
    found, absent = json.loads(answer.json.read_text())
    assert found["found"] and "closer" not in found["seconds"]
    assert absent["seconds"]["closer"] > 0


def test_words_are_asked_where_no_place_can_be_trusted(answer):
    found, absent = json.loads(answer.json.read_text())
    assert "bag_of_words" not in found["seconds"]
    assert absent["seconds"]["bag_of_words"] > 0


def test_looks_again_where_a_found_place_is_not_sure(folder, monkeypatch):
    import importlib

    from comir_search.index.index import Index

    module = importlib.import_module("comir_search.retrieval.search")
    index = Index.open(folder / "index", "cpu")
    sure = module.search(folder / "patch.tif", index, modality="bf")
    monkeypatch.setattr(module, "SURE", np.nextafter(sure.candidates[0].confidence, 2))
    unsure = module.search(folder / "patch.tif", index, modality="bf")
    assert sure.found and set(sure.seconds) == {"query", "correlation", "pose", "total"}
    assert unsure.found and {"bag_of_words", "closer"} < set(unsure.seconds)
    assert unsure.candidates[0] == sure.candidates[0]


def test_a_place_that_only_words_point_at_is_verified(folder, monkeypatch):
    from comir_search.index.index import Index
    from comir_search.matching.places import Place
    from comir_search.retrieval import scan, words
    from comir_search.retrieval.search import search

    index = Index.open(folder / "index", "cpu")
    number = [slide.name for slide in index.slides].index("one.tif")
    size_um = index.model.comir_pixel_size_um
    near = Place(number, 364 / size_um, 288 / size_um, 4.0, 1.0)
    monkeypatch.setattr(scan, "scan_slides", lambda *_, **__: iter([(1, 1, [])]))
    monkeypatch.setattr(words, "scan_slides", lambda *_, **__: iter([(1, 1, [near])]))
    result = search(folder / "patch.tif", index, modality="bf")
    first = result.candidates[0]
    assert result.found and first.slide == "one.tif"
    assert np.hypot(first.center_x_um - 352, first.center_y_um - 296) < 6


def test_a_closer_look_keeps_both_handednesses_of_one_place(folder, monkeypatch, tmp_path):
    from comir_search.index.index import Index
    from comir_search.matching.places import Place
    from comir_search.retrieval import scan, words
    from comir_search.retrieval.search import search

    index = Index.open(folder / "index", "cpu")
    number = [slide.name for slide in index.slides].index("one.tif")
    size_um = index.model.comir_pixel_size_um
    write_image(tmp_path / "flipped.tif", tifffile.imread(folder / "patch.tif")[:, ::-1], 1.0)

    def see_both_closer(scanner, *arguments, **options):
        flipped = scanner.query.mirrored
        place = Place(number, 352 / size_um, 296 / size_um, 0.0, 0.5 if flipped else 1.0, mirrored=flipped)
        yield 1, 1, [place] if scanner.level < scan.FIRST_LEVEL else []

    monkeypatch.setattr(scan, "scan_slides", see_both_closer)
    monkeypatch.setattr(words, "scan_slides", lambda *_, **__: iter([(1, 1, [])]))
    result = search(tmp_path / "flipped.tif", index, modality="bf", mirror=True)
    first = result.candidates[0]
    assert result.found and first.mirrored
    assert np.hypot(first.center_x_um - 352, first.center_y_um - 296) < 6


def test_what_both_first_stages_miss_is_found_closer(folder, monkeypatch):
    from comir_search.evaluation.stages import search_stages_steps
    from comir_search.index.index import Index
    from comir_search.progress import finish
    from comir_search.retrieval import scan, words
    from comir_search.retrieval.options import SearchOptions
    from comir_search.slides import open_slide

    scan_slides = scan.scan_slides

    def miss_coarsely(scanner, *arguments, **options):
        for done, total, places in scan_slides(scanner, *arguments, **options):
            yield done, total, places if scanner.level < scan.FIRST_LEVEL else []

    monkeypatch.setattr(scan, "scan_slides", miss_coarsely)
    monkeypatch.setattr(words, "scan_slides", lambda *_, **__: iter([(1, 1, [])]))
    with open_slide(folder / "patch.tif") as query:
        index = Index.open(folder / "index", "cpu")
        result = finish(search_stages_steps(index, query, SearchOptions(modality="bf")))
    first = result.candidates[0]
    assert result.found and first.slide == "one.tif"
    assert np.hypot(first.center_x_um - 352, first.center_y_um - 296) < 6
    assert not result.first_stage["correlation"] and result.first_stage["fused"][0].slide == "one.tif"


def watch(folder, monkeypatch, query="patch.tif", **options):
    """Search, and return the answer, the ticks and which stages looked over the slides."""
    from comir_search.index.index import Index
    from comir_search.progress import finish
    from comir_search.retrieval import scan, words
    from comir_search.retrieval.search import search_steps

    asked, ticks = [], []
    for stage, module in (("correlation", scan), ("words", words)):

        def note(*arguments, stage=stage, scan_slides=module.scan_slides, **keywords):
            asked.append(stage)
            return scan_slides(*arguments, **keywords)

        monkeypatch.setattr(module, "scan_slides", note)
    job = search_steps(Index.open(folder / "index", "cpu"), folder / query, modality="bf", **options)
    return finish(job, ticks.append), ticks, set(asked)


@pytest.mark.parametrize("method", ["auto", "correlation", "words"])
def test_each_method_shows_its_first_places_and_says_which_it_was(folder, monkeypatch, method):
    result, ticks, asked = watch(folder, monkeypatch, method=method)
    assert result.found == (method != "words")  # this model's words are random
    assert all(each.confidence is not None for each in result.candidates)
    assert result.provenance.options["method"] == method
    assert asked == {"words" if method == "words" else "correlation"}
    first_stage = {"words": "bag of words"}.get(method, "coarse correlation")
    partials = [tick.stage for tick in ticks if tick.partial is not None]
    assert partials[0] == first_stage
    assert method == "words" or "pose, level 0" in partials  # so few places of random words need no showing
    assert all(not tick.partial.finished for tick in ticks if tick.partial is not None)


@pytest.mark.parametrize(
    ("method", "stages"),
    [("auto", {"correlation", "words"}), ("correlation", {"correlation"}), ("words", {"words"})],
)
def test_a_method_asks_no_other_stage_where_it_finds_nothing(folder, monkeypatch, method, stages):
    result, _, asked = watch(folder, monkeypatch, "absent.tif", method=method)
    assert not result.found and result.candidates and asked == stages
    assert ("bag_of_words" in result.seconds) == ("words" in stages)
    assert ("closer" in result.seconds) == ("correlation" in stages)


def test_of_a_query_too_large_for_words_is_said_what_to_choose(folder, monkeypatch, search):
    from comir_search.retrieval import query

    monkeypatch.setattr(query, "LONGEST_COMIR_PX", 64)
    answer = search(folder / "patch.tif", "--method", "words")
    assert answer.code == 1 and "patch.tif is too large" in answer.sentence
    assert "auto or correlation" in answer.sentence


def test_the_command_takes_the_method(folder, search, tmp_path):
    answer = search(folder / "patch.tif", "--method", "words", "--json", tmp_path / "out.json")
    assert answer.code == 0 and "bag of words" in answer.err and "coarse correlation" not in answer.err
    [result] = json.loads((tmp_path / "out.json").read_text())
    assert result["options"]["method"] == "words" and "correlation" not in result["seconds"]


def test_single_options_replace_those_that_are_given(folder):
    from comir_search import Index, SearchOptions
    from comir_search.retrieval.search import search

    index = Index.open(folder / "index", "cpu")
    options = SearchOptions(modality="bf", top=2, method="correlation")
    result = search(folder / "patch.tif", index, options, top=1)
    assert len(result.candidates) == 1 and result.provenance.options == options.to_dict() | {"top": 1}
    with pytest.raises(TypeError, match="tops"):
        search(folder / "patch.tif", index, tops=5)


def test_table(answer):
    first = json.loads(answer.json.read_text())[0]["candidates"][0]
    table = answer.out.splitlines()
    assert table[0].startswith("patch.tif: ")
    assert table[1].split() == ["rank", "slide", "x", "um", "y", "um", "angle", "confidence"]
    assert table[2].split()[:2] == ["1", "one.tif"]
    assert float(table[2].split()[2]) == pytest.approx(first["center_x_um"], abs=0.06)
    assert "query 2 of 2: " in answer.err


def test_files_agree(answer):
    candidates = [each for result in json.loads(answer.json.read_text()) for each in result["candidates"]]
    with answer.csv.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide"] for row in rows] == [each["slide"] for each in candidates]
    annotations = read_geojson(answer.geojson)
    for annotation, row, each in zip(annotations, rows, candidates, strict=True):
        assert annotation.candidate.center_x_px == pytest.approx(each["center_x_px"], abs=0.1)
        assert float(row["center_y_px"]) == pytest.approx(each["center_y_px"], abs=0.1)
    with Image.open(answer.png) as picture:
        assert picture.width > 600 and np.asarray(picture).std() > 10


def test_slides_that_moved_are_not_drawn_but_found(search, folder, tmp_path):
    moved = folder / "slides" / "one.tif"
    moved.rename(folder / "elsewhere.tif")
    try:
        answer = search(folder / "patch.tif", "--overlay", tmp_path / "out.png")
    finally:
        (folder / "elsewhere.tif").rename(moved)
    assert answer.code == 0 and "Not drawn: one.tif was not found where it was indexed" in answer.err
    assert (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("query", "sentence"),
    [("missing.tif", "missing.tif"), ("empty.tif", "empty.tif"), ("text.tif", "text.tif")],
)
def test_bad_queries_are_one_sentence(search, tmp_path, query, sentence):
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("no image")
    answer = search(tmp_path / query, "--json", tmp_path / "out.json")
    assert answer.code == 1 and answer.out == "" and sentence in answer.sentence
    assert "Traceback" not in answer.err and not (tmp_path / "out.json").exists()


def test_unwritable_file_is_one_sentence(search, folder, tmp_path):
    answer = search(folder / "patch.tif", "--csv", tmp_path / "none" / "out.csv")
    assert answer.code == 1 and "its folder does not exist" in answer.sentence


def test_missing_index_is_one_sentence(command, folder, tmp_path):
    answer = command("search", folder / "patch.tif", "--index", tmp_path / "none")
    assert answer.code == 1 and "none" in answer.sentence and "Traceback" not in answer.err


@pytest.mark.parametrize("option", [("--top", 0), ("--top", "x"), ("--pixel-size", -1), ("--nonsense",)])
def test_wrong_usage(search, folder, option):
    assert search(folder / "patch.tif", *option).code == 2


class TestBatch:
    """One bad query never stops the others."""

    @pytest.fixture
    def mixed(self, folder, tmp_path):
        """A folder with two good patches, one that is no image, one without a pixel size."""
        queries = tmp_path / "queries"
        (queries / "deeper").mkdir(parents=True)
        shutil.copy(folder / "absent.tif", queries / "deeper" / "absent.tif")
        shutil.copy(folder / "patch.tif", queries / "patch.tif")
        (queries / "broken.tif").write_text("no image")
        tifffile.imwrite(queries / "plain.tif", np.full((200, 200), 7, np.uint8), metadata=None)
        return queries

    def test_the_others_are_printed_and_written(self, search, mixed, tmp_path):
        files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "geojson", "png")}
        options = [f"--{kind}" for kind in ("json", "csv", "geojson")] + ["--overlay"]
        wanted = [part for pair in zip(options, files.values(), strict=True) for part in pair]
        answer = search(mixed, tmp_path / "missing.tif", *wanted)
        assert answer.code == 1 and "Traceback" not in answer.err
        assert "patch.tif: found" in answer.out and "absent.tif: not found" in answer.out
        assert [result["query"] for result in json.loads(files["json"].read_text())] == [
            "absent.tif",
            "patch.tif",
        ]
        assert all(file.stat().st_size > 100 for file in files.values())
        told = answer.err[answer.err.index("3 of 5 were left out:") :].splitlines()[1:]
        assert len(told) == 3
        for words in (("broken.tif",), ("missing.tif", "not exist"), ("plain.tif", "--pixel-size")):
            assert sum(all(word in line for word in words) for line in told) == 1

    def test_where_none_is_left_nothing_is_written(self, search, tmp_path):
        for name in ("a.tif", "b.tif"):
            (tmp_path / name).write_text("no image")
        answer = search(tmp_path, "--json", tmp_path / "out.json")
        assert answer.code == 1 and "2 of 2 were left out:" in answer.err and answer.out == ""
        assert not (tmp_path / "out.json").exists()

    def test_an_unreadable_folder_does_not_hide_the_queries_beside_it(self, search, mixed, monkeypatch):
        iterdir = type(mixed).iterdir

        def refuse(self):
            if self.name == "deeper":
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return iterdir(self)

        monkeypatch.setattr(type(mixed), "iterdir", refuse)
        answer = search(mixed)
        assert answer.code == 1 and "patch.tif: found" in answer.out
        assert "3 of 4 were left out:" in answer.err and "deeper cannot be read" in answer.err

    @pytest.mark.parametrize("number", [1, 2])
    def test_a_failing_index_is_not_the_fault_of_the_queries(
        self, search, folder, tmp_path, monkeypatch, number
    ):
        from importlib import import_module

        from comir_search.index.indexed_slide import DamagedChunk

        module = import_module("comir_search.retrieval.search")
        steps, begun = module.search_steps, []

        def fail(index, query, *arguments, **options):
            begun.append(query.name)
            if len(begun) == number:
                raise DamagedChunk("one.tif", "f" * 32, "comir/0", (0, 0), "it is gone", "index")
            return (yield from steps(index, query, *arguments, **options))

        monkeypatch.setattr(module, "search_steps", fail)
        queries = [shutil.copy(folder / "patch.tif", tmp_path / f"{name}.tif") for name in "abc"]
        answer = search(*queries, "--json", tmp_path / "out.json")
        assert answer.code == 1 and len(begun) == number and "comir-search repair" in answer.err
        assert (tmp_path / "out.json").exists() == (number == 2)
        if number == 2:
            assert [each["query"] for each in json.loads((tmp_path / "out.json").read_text())] == ["a.tif"]
            assert "The index of one.tif is damaged" in answer.err
            assert "2 of 3 were left out:" in answer.err and "c.tif was not searched for" in answer.err

    def test_a_folder_without_images_is_one_sentence(self, search, tmp_path):
        (tmp_path / "empty").mkdir()
        answer = search(tmp_path / "empty")
        assert answer.code == 1 and "empty" in answer.sentence

    @pytest.mark.skipif(os.name == "nt", reason="Windows counts open files otherwise")
    def test_more_queries_than_files_may_be_open(self, folder, tmp_path, run_python):
        for number in range(60):
            os.link(folder / "patch.tif", tmp_path / f"{number}.tif")
        code = f"""
import resource
from comir_search.cli.search import search_all_steps
from comir_search.index.index import Index
import comir_search.retrieval.search as module
index = Index.open({str(folder / "index")!r}, "cpu")
index.model
first, n = module.search_steps, 0
def search_steps(*arguments, **options):  # the first is searched, the others are opened
    global n
    n += 1
    if n == 1:
        return (yield from first(*arguments, **options))
module.search_steps = search_steps
import os, pathlib, comir_search.slides.tiff
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, 4096))
from comir_search.progress import finish
paths = [pathlib.Path({str(tmp_path)!r})]
print(len(finish(search_all_steps(index, paths, modality="bf"))))
"""
        assert run_python(code) == "60\n"


def test_a_slide_that_is_not_there_is_named_with_those_that_are(folder):
    from comir_search.errors import ComirSearchError
    from comir_search.index.index import Index
    from comir_search.retrieval.search import search

    index = Index.open(folder / "index", "cpu")
    for names in (["typo"], ["one.tif", "typo"]):
        with pytest.raises(ComirSearchError, match=r"no slide 'typo'; it contains one\.tif, two\.tif"):
            search(folder / "patch.tif", index, modality="bf", slides=names)
    with pytest.raises(ComirSearchError, match=r"one\.tif, two\.tif"):
        search(folder / "patch.tif", index, modality="bf", slides=[])


def test_what_is_not_found_on_some_slides_says_how_many(folder, tmp_path):
    from comir_search.index.index import Index
    from comir_search.retrieval.search import search

    index = Index.open(folder / "index", "cpu")
    whole = search(folder / "absent.tif", index, modality="bf")
    assert not whole.found and "slides were searched" not in whole.reason
    result = search(folder / "patch.tif", index, modality="bf", slides=["two.tif"])
    assert not result.found and "only 1 of 2 slides were searched" in result.reason
    shutil.copytree(folder / "index", tmp_path / "index")
    begun = tmp_path / "index" / "slides" / ("e" * 32)
    begun.mkdir()
    (begun / "progress.json").write_text("{}")
    result = search(folder / "absent.tif", Index.open(tmp_path / "index", "cpu"), modality="bf")
    assert not result.found and "only 2 of 3 slides were searched" in result.reason


def test_an_answer_says_what_it_was_computed_from(folder):
    from comir_search.index.index import Index
    from comir_search.progress import finish
    from comir_search.retrieval.options import SearchOptions
    from comir_search.retrieval.search import search_steps
    from comir_search.slides import open_slide

    index = Index.open(folder / "index", "cpu")
    partials = []
    job = search_steps(index, folder / "patch.tif", modality="bf", top=3, slides=["one.tif"])
    result = finish(job, lambda tick: partials.append(tick.partial) if tick.partial else None)
    with open_slide(folder / "patch.tif") as query:
        fingerprint = query.fingerprint
    (slide,) = [slide for slide in index.slides if slide.name == "one.tif"]
    origin = result.provenance
    assert (origin.query, origin.pixel_size_um, origin.modality) == (fingerprint, 1.0, "bf")
    assert origin.options == SearchOptions(modality="bf", top=3, slides=["one.tif"]).to_dict()
    assert {"top": 3, "mirror": False, "slides": ["one.tif"]}.items() <= origin.options.items()
    assert origin.slides == {slide.fingerprint: 1.0} and origin.index == str(folder / "index")
    assert (origin.embedding, origin.model) == (index.model.embedding_fingerprint, index.model.fingerprint)
    assert origin.version == comir_search.__version__
    assert result.finished and partials
    for partial in partials:
        assert not partial.finished and partial.provenance is None
        assert {each.confidence for each in partial.candidates} == {None}


def test_a_model_that_was_never_calibrated_finds_nothing(folder, monkeypatch, capsys):
    from comir_search.cli.search import print_result
    from comir_search.index.index import Index
    from comir_search.retrieval.search import search

    index = Index.open(folder / "index", "cpu")
    calibrated = search(folder / "patch.tif", index, modality="bf")
    monkeypatch.setattr(index.model, "calibration", None)
    result = search(folder / "patch.tif", index, modality="bf")
    assert calibrated.found and not result.found and "never calibrated" in result.reason
    assert (result.candidates[0].slide, result.candidates[0].confidence) == ("one.tif", None)
    scores = [each.score for each in result.candidates]
    assert scores == sorted(scores, reverse=True)
    print_result(result)
    assert capsys.readouterr().out.splitlines()[2].split()[-1] == "none"
    assert json.loads(json.dumps(result.to_dict()))["candidates"][0]["confidence"] is None


@pytest.mark.parametrize("top", [1, 25, 60])
def test_top_gives_as_many_distinct_places(folder, top):
    from comir_search.index.index import Index
    from comir_search.retrieval.search import DISTINCT_SHARE, search
    from comir_search.slides import open_slide, slide_from_array

    index = Index.open(folder / "index", "cpu")
    with open_slide(folder / "patch.tif") as whole:
        patch = slide_from_array(
            np.asarray(whole.read_level(0, 90, 90, 80, 80)), pixel_size_um=1.0, name="small"
        )
    result = search(patch, index, modality="bf", top=top)
    assert [each.rank for each in result.candidates] == list(range(1, top + 1))
    for number, one in enumerate(result.candidates):
        for other in result.candidates[:number]:
            apart = np.hypot(one.center_x_um - other.center_x_um, one.center_y_um - other.center_y_um)
            assert one.slide != other.slide or apart >= DISTINCT_SHARE * 80 - 1e-6
    assert "distinct places" not in result.reason
    with pytest.raises(comir_search.ComirSearchError, match="give one or more"):
        search(patch, index, modality="bf", top=0)


def test_fewer_than_asked_for_is_said(search, folder):
    answer = search(folder / "patch.tif", "--top", 5000)
    assert answer.code == 0
    rows = len(answer.out.strip().splitlines()) - 2
    assert 10 < rows < 5000 and f"no more than {rows} distinct places" in answer.out


def test_notes_on_a_query_are_shown(folder, monkeypatch, search):
    from comir_search.slides import slide

    first = slide.Slide.__init__

    def init(self, **options):
        first(self, **options)
        self.info = dataclasses.replace(self.info, notes=(f"{self.info.name}: image 1 of 2 was taken.",))

    monkeypatch.setattr(slide.Slide, "__init__", init)
    answer = search(folder / "patch.tif")
    assert answer.code == 0 and "patch.tif: image 1 of 2 was taken." in answer.err.splitlines()


def test_files_name_slides_as_the_index_does(folder, tmp_path, monkeypatch, capsys):
    """A slide may be called by its identity, and QuPath may count from within it: picture and GeoJSON know both."""
    from comir_search.cli import main
    from comir_search.export import overlay
    from comir_search.index.index import Index
    from comir_search.index.storage import Storage
    from comir_search.slides import slide as slide_module

    shutil.copytree(folder / "index", tmp_path / "index")
    name = "1" * 32
    (slide,) = [slide for slide in Index.open(tmp_path / "index", "cpu").slides if slide.name == "one.tif"]
    (tmp_path / "index" / slide.folder).rename(tmp_path / "index" / "slides" / name)
    record = dataclasses.replace(
        slide.record, fingerprint=name, absolute_path=str(folder / "slides" / "one.tif")
    )
    Storage(tmp_path / "index").write_document(f"slides/{name}/slide.json", record.to_dict())
    init = slide_module.Slide.__init__

    def init_cut(self, **options):
        init(self, **options)
        self.info = dataclasses.replace(self.info, bounds_origin_px=(30, 40))

    monkeypatch.setattr(slide_module.Slide, "__init__", init_cut)
    drawn = []
    write = overlay.write_overlay
    monkeypatch.setattr(overlay, "write_overlay", lambda *given: drawn.append(given[3]) or write(*given))
    files = [
        "--geojson",
        tmp_path / "out.geojson",
        "--overlay",
        tmp_path / "out.png",
        "--json",
        tmp_path / "out.json",
    ]
    call = [
        "search",
        folder / "patch.tif",
        "--index",
        tmp_path / "index",
        "--modality",
        "bf",
        "--top",
        1,
        *files,
    ]
    assert main([str(each) for each in call]) == 0, capsys.readouterr().err
    (candidate,) = json.loads((tmp_path / "out.json").read_text())[0]["candidates"]
    assert candidate["fingerprint"] == name and list(drawn[0]) == [name]
    corners = np.array(
        json.loads((tmp_path / "out.geojson").read_text())["features"][0]["geometry"]["coordinates"][0]
    )
    middle = corners[:4].mean(axis=0)
    assert middle == pytest.approx([candidate["center_x_px"] - 30, candidate["center_y_px"] - 40], abs=0.1)


def test_a_damaged_slide_is_left_out_and_named(folder, tmp_path):
    from comir_search.errors import ComirSearchError
    from comir_search.index.index import Index
    from comir_search.retrieval.search import search

    shutil.copytree(folder / "index", tmp_path / "index")
    for each in Index.open(tmp_path / "index", "cpu").slides:
        if each.name == "two.tif":
            (tmp_path / "index" / each.folder / "slide.json").write_text("{")
    result = search(folder / "patch.tif", Index.open(tmp_path / "index", "cpu"), modality="bf")
    assert (
        result.found
        and "only 1 of 2 slides were searched; 1 is damaged: run `comir-search repair" in result.reason
    )
    for file in (tmp_path / "index").rglob("slide.json"):
        file.write_text("{")
    with pytest.raises(ComirSearchError, match=r"all its 2 slides are damaged; run `comir-search repair"):
        search(folder / "patch.tif", Index.open(tmp_path / "index", "cpu"), modality="bf")
