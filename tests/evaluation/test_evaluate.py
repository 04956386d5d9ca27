"""`evaluate` on made files of the public dataset's layout: every choice, both directions."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from comir_search.errors import BatchIncomplete, ComirSearchError
from comir_search.evaluation.baselines.resnet import ResNet
from comir_search.evaluation.evaluate import EvaluationSettings, evaluate_steps
from comir_search.model.model import BF, SHG, Model
from comir_search.model.networks import build_network
from comir_search.model.vocabulary import Vocabulary
from comir_search.opencv import cv2
from comir_search.progress import finish

IDS = ("1B_B1", "1B_B10", "2B_D1", "2B_D10", "1B_A3", "2B_A30")
SIDE_PX = 120


def evaluate(settings):
    """Run the protocol to its end."""
    return finish(evaluate_steps(settings))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder as Zenodo 3874362 has it: references and twins of both sides, 16-bit SHG among them."""
    folder = tmp_path_factory.mktemp("zenodo")
    random = np.random.default_rng(0)
    for number, name in enumerate(IDS):
        grey = cv2.GaussianBlur(random.random((220, 220), np.float32), (0, 0), 3)
        large = (grey - grey.min())[..., None] / np.ptp(grey) * np.array([1.0, 0.8, 0.6], np.float32)
        turn = cv2.getRotationMatrix2D((109.5, 109.5), 12 - 4 * number, 1)
        for twin, seen in (("R", large), ("T", cv2.warpAffine(large, turn, (220, 220)))):
            bf = np.rint(255 * seen[50 : 50 + SIDE_PX, 50 : 50 + SIDE_PX]).astype(np.uint8)
            shg = np.rint(4095 * (bf[..., 0] / 255.0) ** 2).astype(np.uint16)
            tifffile.imwrite(folder / f"{twin}_{name}_BF.tif", bf)
            tifffile.imwrite(folder / f"{twin}_{name}_SHG.tif", shg)
    return folder


def spread(network, channels):
    """Scale an untrained network's output so that its CoMIRs fill their range."""
    noise = torch.from_numpy(np.random.default_rng(1).random((1, channels, 32, 32), np.float32))
    latents = network(nn.functional.interpolate(noise, scale_factor=4, mode="bicubic"))
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3))
    network.head.bias.copy_((network.head.bias - mean) * 2 / deviation)
    network.head.weight.mul_(2 / deviation[:, None, None, None])
    return network


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An untrained model: enough to search one modality."""
    torch.manual_seed(0)
    with torch.no_grad():
        networks = nn.ModuleDict(
            {side: spread(build_network("compact", n, 2).eval(), n) for side, n in (("bf", 3), ("shg", 1))}
        )
    random = np.random.default_rng(0)
    shapes = {"projection": (2, 128, 8), "offset": (2, 8), "words": (2, 50, 8), "idf": (2, 50)}
    arrays = {name: random.random(shape, np.float32) - 0.5 for name, shape in shapes.items()}
    vocabulary = Vocabulary.from_arrays(arrays, {"step_px": 8, "block_px": [16, 32]})
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    sizes = {"architecture": "compact", "comir_channels": 2, "pixel_size_um": 2.0}
    Model(networks, (BF, SHG), vocabulary=vocabulary, **sizes).save(path)
    return str(path)


@pytest.fixture
def settings(dataset, model_path):
    def make(**changes):
        values = {"bf": str(dataset), "shg": str(dataset), "model": model_path, "preset": "paper"}
        values |= {"vocabulary_size": 600, "device": "cpu"}
        return EvaluationSettings(**(values | changes))

    return make


@pytest.mark.parametrize("representation", ["comir", "raw"])
@pytest.mark.parametrize("rerank", ["none", "bow", "pose"])
def test_same_modality_search_is_right(settings, representation, rerank):
    table = evaluate(settings(representation=representation, rerank=rerank, query="shg", repository="shg"))
    assert table["n_queries"] == table["n_repository"] == len(IDS)
    assert table["acc"]["1"] == 1 and table["chance"]["5"] == 5 / 6
    assert table["settings"]["max_rotation_deg"] == 0


@pytest.mark.parametrize("features", ["surf", "sift", "sift-dense", "global"])
@pytest.mark.parametrize("query", ["bf", "shg"])
def test_all_features_run_in_both_directions(settings, features, query):
    table = evaluate(
        settings(
            representation="raw", features=features, query=query, repository_size_px=80, query_size_px=40,
            max_rotation_deg=10, max_shift_px=5, rerank_top=3,
        )
    )  # fmt: skip
    assert table["n_repository"] == 4 * len(IDS) == table["n_queries"]
    assert table["settings"]["repository"] != query
    assert set(table["acc"]) == set(table["ci95"]) == {"1", "5", "10", "15"}


@pytest.mark.parametrize("query", ["bf", "shg"])
def test_sides_that_look_alike_are_matched_raw(settings, query):
    """The made SHG brightens with the made BF."""
    assert evaluate(settings(representation="raw", query=query))["acc"]["1"] == 1


def test_resnet_runs_with_given_weights(settings, tmp_path):
    torch.manual_seed(0)
    torch.save(ResNet((1, 1, 1, 1)).state_dict(), tmp_path / "weights.pth")
    for features in ("resnet", "global"):
        table = evaluate(
            settings(
                features=features,
                weights=str(tmp_path / "weights.pth"),
                representation="raw",
                query="bf",
                repository="bf",
                rerank="none",
            )
        )
        assert table["acc"]["1"] == 1
    with pytest.raises(ComirSearchError, match="--weights"):
        evaluate(settings(features="resnet"))


def test_twins_are_the_queries(settings, dataset):
    table = evaluate(
        settings(representation="raw", query="bf", repository="bf", transformed=str(dataset), rerank="none")
    )
    assert table["acc"]["1"] >= 5 / 6
    patches = evaluate(
        settings(
            representation="raw", query="bf", repository="bf", transformed=str(dataset), query_size_px=64
        )
    )
    assert patches["settings"]["max_rotation_deg"] == 0 and patches["n_queries"] == len(IDS)


def test_seed_decides(settings):
    turned = {"query_size_px": 60, "max_rotation_deg": 20, "max_shift_px": 10, "repository_size_px": 80}
    first, again, other = (evaluate(settings(**turned, seed=seed, rerank="none")) for seed in (1, 1, 2))
    assert first["ranks"] == again["ranks"] != other["ranks"]


def test_default_is_the_products_own_search(settings, dataset, tmp_path):
    for name in IDS[:3]:
        (tmp_path / f"{name}.tif").symlink_to(dataset / f"R_{name}_SHG.tif")
    turned = {"query_size_px": 72, "max_rotation_deg": 20, "max_shift_px": 5}
    table = evaluate(
        settings(preset="default", bf=str(tmp_path), shg=str(tmp_path), repository="shg", **turned)
    )
    assert table["settings"]["features"] is None
    assert table["acc"]["1"] == 1


def test_identical_images_are_refused_by_the_products_own_search(settings, dataset, tmp_path):
    """The index holds one of them alone, and the windows of the other would count as never found."""
    for name in ("a", "b"):
        shutil.copy(dataset / f"R_{IDS[0]}_SHG.tif", tmp_path / f"{name}.tif")
    with pytest.raises(ComirSearchError, match=r"b\.tif is an identical copy of a\.tif"):
        evaluate(settings(preset="default", bf=str(tmp_path), shg=str(tmp_path), repository="shg"))


def test_folders_that_do_not_match_are_refused(settings, tmp_path, dataset):
    with pytest.raises(ComirSearchError, match="not a folder"):
        evaluate(settings(bf=str(tmp_path / "absent")))
    (tmp_path / "other.tif").write_bytes((dataset / "R_1B_A3_BF.tif").read_bytes())
    with pytest.raises(ComirSearchError, match="share no image name"):
        evaluate(settings(bf=str(tmp_path)))
    with pytest.raises(ComirSearchError, match="has the modalities"):
        evaluate(settings(query="ihc"))


def test_command_writes_the_table(command, dataset, model_path, tmp_path):
    answer = command(
        "evaluate", "--bf", dataset, "--shg", dataset, "--model", model_path, "--preset", "paper",
        "--query-size", "full", "--query", "bf", "--repository", "bf", "--rerank", "none",
        "--vocabulary-size", 100, "--device", "cpu", "--json", tmp_path / "table.json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "100.0%" in answer.out and "16.7%" in answer.out
    table = json.loads((tmp_path / "table.json").read_text())
    assert {"n_queries", "n_repository", "chance", "acc", "ci95", "settings", "seconds"} <= set(table)
    assert command("evaluate", "--bf", dataset).code == 2
    assert command("evaluate", "--bf", dataset, "--shg", dataset, "--query-size", "big").code == 2


def test_images_without_keypoints_are_refused(settings, tmp_path):
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((64, 64), 90, np.uint8))
    with pytest.raises(ComirSearchError, match="nothing to describe"):
        evaluate(settings(representation="raw", features="sift", bf=str(tmp_path), shg=str(tmp_path)))


def test_an_image_that_cannot_be_read_is_left_out_by_name(dataset, settings, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(dataset, folder)
    (folder / f"R_{IDS[0]}_SHG.tif").write_bytes(b"no image")
    with pytest.raises(BatchIncomplete) as caught:
        evaluate(settings(bf=str(folder), shg=str(folder), rerank="none"))
    incomplete = caught.value
    assert [each.name for each in incomplete.left_out] == [IDS[0]] and incomplete.n_members == len(IDS)
    assert f"R_{IDS[0]}_SHG.tif" in str(incomplete)
    assert incomplete.result["n_queries"] == incomplete.result["n_repository"] == len(IDS) - 1
