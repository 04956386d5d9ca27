"""What users get wrong, through the real command: one clear sentence, nothing left half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from comir_search.opencv import cv2

from .conftest import paint_brightfield, paint_signal, write_image


def assert_stated(answer, *words: str) -> None:
    """Check for a stated failure: exit code 1 and one sentence that holds these words."""
    assert answer.code == 1, answer.err
    assert "Traceback" not in answer.err and "Unexpected failure" not in answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.sentence
    assert len(answer.sentence) < 400


def assert_holds_no_slide(index: Path) -> None:
    assert list(index.rglob("slide.json")) == []


def _missing(path: Path) -> None:
    pass


def _empty(path: Path) -> None:
    path.touch()


def _text(path: Path) -> None:
    path.write_text("This is not an image.\n" * 50)


def _truncated(path: Path) -> None:
    image = paint_brightfield(600, 600)
    if path.suffix == ".tif":
        write_image(path, image)
    else:
        cv2.imwrite(str(path), image)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


UNREADABLE = [
    pytest.param(damage, suffix, id=f"{damage.__name__[1:]}{suffix}")
    for damage in (_missing, _empty, _text, _truncated)
    for suffix in (".tif", ".png", ".jpg")
]


@pytest.mark.parametrize(("damage", "suffix"), UNREADABLE)
class TestUnreadableFile:
    def test_info(self, command, tmp_path, damage, suffix):
        path = tmp_path / f"broken{suffix}"
        damage(path)
        # A file cut short may still say what it is; its pixels cannot be read.
        if damage is _truncated and command("info", path).code == 0:
            return
        assert_stated(command("info", path, "--json", tmp_path / "info.json"), path.name)

    def test_index(self, command, tmp_path, damage, suffix):
        path = tmp_path / f"broken{suffix}"
        damage(path)
        answer = command("index", path, "--index", tmp_path / "index", "--pixel-size", 2)
        assert_stated(answer, path.name)
        assert_holds_no_slide(tmp_path / "index")

    def test_query(self, command, tmp_path, index_folder, damage, suffix):
        path = tmp_path / f"broken{suffix}"
        damage(path)
        out = tmp_path / "found.json"
        answer = command("search", path, "--index", index_folder, "--pixel-size", 2, "--json", out)
        assert_stated(answer, path.name)
        assert not out.exists()

    def test_embed(self, command, tmp_path, damage, suffix):
        path, out = tmp_path / f"broken{suffix}", tmp_path / "out" / "comir.tif"
        out.parent.mkdir()
        damage(path)
        answer = command("embed", path, "--modality", "bf", "--pixel-size", 2, "--out", out)
        assert_stated(answer, path.name)
        assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
class TestSlideThatIsNotFinite:
    def image(self, tmp_path, value):
        image = paint_brightfield(300, 300).astype(np.float32)
        image[100:110, 120:125] = value
        return write_image(tmp_path / "slide.ome.tif", image)

    def test_index(self, command, tmp_path, value):
        answer = command("index", self.image(tmp_path, value), "--index", tmp_path / "index")
        assert_stated(answer, "slide.ome.tif", "not numbers", "export it again")
        assert "Warning" not in answer.err
        assert_holds_no_slide(tmp_path / "index")

    def test_embed(self, command, tmp_path, value):
        out = tmp_path / "comir.tif"
        answer = command("embed", self.image(tmp_path, value), "--modality", "bf", "--out", out)
        assert_stated(answer, "slide.ome.tif", "not numbers", "export it again")
        assert not out.exists()


class TestPixelSize:
    def test_a_slide_without_one_asks_for_it(self, command, tmp_path):
        path = write_image(tmp_path / "plain.tif", paint_brightfield(300, 300), pixel_size_um=None)
        assert_stated(command("index", path, "--index", tmp_path / "index"), "plain.tif", "--pixel-size")
        assert_holds_no_slide(tmp_path / "index")
        assert command("index", path, "--index", tmp_path / "index", "--pixel-size", 2).code == 0

    def test_a_query_without_one_asks_for_it(self, command, tmp_path, index_folder):
        path = write_image(tmp_path / "plain.tif", paint_signal(128, 128), pixel_size_um=None)
        assert_stated(command("search", path, "--index", index_folder), "plain.tif", "--pixel-size")

    def test_info_shows_that_it_is_missing(self, command, tmp_path):
        path = write_image(tmp_path / "plain.tif", paint_signal(128, 128), pixel_size_um=None)
        answer = command("info", path, "--json", tmp_path / "info.json")
        assert answer.code == 0
        [info] = json.loads((tmp_path / "info.json").read_text())
        assert (info["pixel_size_um"], info["pixel_size_source"]) == (None, "missing")


class TestQuery:
    @pytest.fixture
    def search(self, command, tmp_path, index_folder):
        def run(image: np.ndarray, pixel_size_um: float = 2.0, **options: object):
            path = write_image(tmp_path / "patch.ome.tif", image, pixel_size_um)
            extra = [part for name, value in options.items() for part in (f"--{name}", value)]
            return command("search", path, "--index", index_folder, *extra)

        return run

    def test_larger_than_every_slide(self, search):
        assert_stated(search(paint_signal(800, 800)), "patch.ome.tif", "largest slide", "--pixel-size")

    def test_print_density_given_by_hand_is_refused_at_once(self, search):
        assert_stated(search(paint_signal(192, 256), 84.67), "patch.ome.tif", "84.67 um", "--pixel-size")

    @pytest.mark.parametrize(("shape", "size_um"), [((31, 100), 2.0), ((100, 20), 2.0), ((100, 100), 0.5)])
    def test_smaller_than_32_px_of_the_model(self, search, shape, size_um):
        assert_stated(search(paint_signal(*shape), size_um), "patch.ome.tif", "32 px")

    @pytest.mark.parametrize("value", [0, 77, 255])
    def test_constant(self, search, value):
        assert_stated(search(np.full((128, 128), value, np.uint8)), "patch.ome.tif", "constant")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, search, value):
        image = paint_signal(128, 128).astype(np.float32)
        image[40:60, 40:60] = value
        assert_stated(search(image), "patch.ome.tif")

    def test_colour_where_grey_is_wanted(self, search):
        assert_stated(search(paint_brightfield(128, 128)), "patch.ome.tif", "colour")

    def test_rgb_of_equal_channels_is_grey(self, search):
        assert search(np.repeat(paint_signal(128, 128)[..., None], 3, axis=2)).code == 0

    @pytest.mark.parametrize("convert", [np.uint8, np.uint16, np.float32], ids=lambda kind: kind.__name__)
    def test_every_type_works(self, search, convert):
        assert search(paint_signal(128, 128).astype(convert)).code == 0

    def test_a_modality_that_the_model_lacks(self, search):
        assert_stated(search(paint_signal(128, 128), modality="x-ray"), "x-ray", "shg")


class TestIndex:
    def test_there_is_none(self, command, tmp_path, query_file):
        assert_stated(command("search", query_file, "--index", tmp_path / "none"), "none")
        assert not (tmp_path / "none").exists()

    def test_it_is_of_a_newer_format(self, command, index_folder, query_file, slide_file):
        header = json.loads((index_folder / "index.json").read_text())
        (index_folder / "index.json").write_text(json.dumps({**header, "format_version": 99}))
        assert_stated(command("search", query_file, "--index", index_folder), "newer", "update")
        assert_stated(command("index", slide_file, "--index", index_folder), "newer", "update")

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "something else"}'])
    def test_its_header_is_damaged(self, command, index_folder, query_file, content):
        (index_folder / "index.json").write_text(content)
        answer = command("search", query_file, "--index", index_folder)
        assert_stated(answer, "index.json", "another folder")
        assert "repair" not in answer.sentence  # it could not
        assert command("repair", "--index", index_folder).sentence == answer.sentence

    def test_its_header_is_lost(self, command, index_folder, slide_file):
        """Which model and modality its slides were made with is not known any more."""
        (index_folder / "index.json").unlink()
        before = _content(index_folder)
        answer = command("index", slide_file, "--index", index_folder)
        assert_stated(answer, "slides", "index.json", "copy", "another folder")
        assert _content(index_folder) == before

    def test_its_place_is_a_file(self, command, tmp_path, slide_file):
        (tmp_path / "index").touch()
        answer = command("index", slide_file, "--index", tmp_path / "index")
        assert_stated(answer, "index", "file, not a folder")

    def test_it_was_made_by_another_model(self, command, tmp_path, index_folder, slide_file):
        from comir_search import load_model

        model = load_model(device="cpu")
        for tensor in model.networks.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.01
        model.save(tmp_path / "other.safetensors")
        before = _content(index_folder)
        answer = command(
            "index", slide_file, "--index", index_folder, "--model", tmp_path / "other.safetensors"
        )
        assert_stated(answer, "another model")
        assert _content(index_folder) == before

    def test_it_holds_the_other_modality(self, command, tmp_path, index_folder):
        path = write_image(tmp_path / "signal.ome.tif", paint_signal(300, 300))
        assert_stated(command("index", path, "--index", index_folder, "--modality", "shg"), "bf", "shg")

    def test_a_chunk_is_damaged(self, command, index_folder, query_file):
        chunks = [path for path in index_folder.glob("slides/*/comir/0/c/**/*") if path.is_file()]
        largest = max(chunks, key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 0xFF
        largest.write_bytes(content)
        assert_stated(command("search", query_file, "--index", index_folder), "slide.ome.tif", "repair")

    def test_a_folder_without_slides(self, command, tmp_path):
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "readme.txt").write_text("no slides here")
        assert_stated(command("index", tmp_path / "notes", "--index", tmp_path / "index"), "notes")
        assert not (tmp_path / "index").exists()

    def test_one_bad_slide_among_good_ones_is_named(self, command, tmp_path, slide_file):
        bad = tmp_path / "bad.tif"
        bad.touch()
        answer = command("index", slide_file, bad, "--index", tmp_path / "index")
        assert answer.code == 1 and "bad.tif is empty" in answer.sentence
        assert "1 slide" in answer.out and slide_file.name in answer.out


class TestModel:
    def test_missing(self, command, tmp_path, slide_file):
        model = tmp_path / "none.safetensors"
        assert_stated(
            command("index", slide_file, "--index", tmp_path / "index", "--model", model), model.name
        )
        assert not (tmp_path / "index").exists()

    def test_a_folder(self, command, tmp_path, slide_file):
        answer = command("index", slide_file, "--index", tmp_path / "index", "--model", tmp_path)
        assert_stated(answer, str(tmp_path), "is a folder")

    @pytest.mark.parametrize(
        "content", [b"", b"not a model", b"\x80\x04\x95pickled.", b"\x02" + b"\0" * 7 + b"{}"]
    )
    def test_not_a_model(self, command, tmp_path, slide_file, content):
        model = tmp_path / "model.safetensors"
        model.write_bytes(content)
        assert_stated(
            command("index", slide_file, "--index", tmp_path / "index", "--model", model), model.name
        )
        assert not (tmp_path / "index").exists()


class TestOutput:
    def test_a_folder_that_does_not_exist(self, command, tmp_path, query_file):
        out = tmp_path / "none" / "comir.tif"
        assert_stated(command("embed", query_file, "--modality", "shg", "--out", out), str(out))

    def test_a_failing_search_leaves_the_old_result(self, command, tmp_path, index_folder):
        out = tmp_path / "found.json"
        out.write_text("old")
        assert command("search", tmp_path / "none.tif", "--index", index_folder, "--json", out).code == 1
        assert out.read_text() == "old"


class TestTraining:
    @pytest.fixture
    def train(self, command, tmp_path):
        def run(*extra: object):
            folders = ["--bf", tmp_path / "bf", "--shg", tmp_path / "shg"]
            return command("train", *folders, "--out", tmp_path / "model.safetensors", "--steps", 2, *extra)

        for folder in ("bf", "shg"):
            (tmp_path / folder).mkdir()
        return run

    def test_no_images(self, train, tmp_path):
        assert_stated(train(), "bf")

    def test_no_common_name(self, train, tmp_path):
        write_image(tmp_path / "bf" / "a.tif", paint_brightfield(300, 300))
        write_image(tmp_path / "shg" / "b.tif", paint_signal(300, 300))
        assert_stated(train(), "name")

    def test_a_name_that_is_not_there(self, train, tmp_path):
        write_image(tmp_path / "bf" / "a.tif", paint_brightfield(300, 300))
        write_image(tmp_path / "shg" / "a.tif", paint_signal(300, 300))
        assert_stated(train("--names", "a", "b"), "'b'")

    def test_sizes_that_differ(self, train, tmp_path):
        write_image(tmp_path / "bf" / "a.tif", paint_brightfield(300, 300))
        write_image(tmp_path / "shg" / "a.tif", paint_signal(300, 400))
        assert_stated(train(), "a.tif", "size")

    def test_an_image_that_cannot_be_read(self, train, tmp_path):
        write_image(tmp_path / "bf" / "a.tif", paint_brightfield(300, 300))
        (tmp_path / "shg" / "a.tif").touch()
        assert_stated(train(), "a.tif", "empty")
        assert not (tmp_path / "model.safetensors").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of a given size, in KiB."""
    mounted = []

    def mount(kib: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        if (
            sys.platform != "linux"
            or os.geteuid() != 0
            or subprocess.run(command, check=False, capture_output=True).returncode
        ):
            pytest.skip("only root on Linux may mount a small disk to fill")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


class TestFullDisk:
    def test_index(self, command, small_disk, slide_file):
        from comir_search.model.model import DEFAULT_MODEL

        disk = small_disk(DEFAULT_MODEL.stat().st_size // 1024 + 100)
        answer = command("index", slide_file, "--index", disk / "index")
        assert_stated(answer, "full")
        assert_holds_no_slide(disk / "index")
        assert [path for path in disk.rglob("*") if "part" in path.name] == []

    def test_index_without_room_for_the_model(self, command, small_disk, slide_file):
        disk = small_disk(64)
        assert_stated(command("index", slide_file, "--index", disk / "index"), "full")
        assert not (disk / "index" / "index.json").exists()

    def test_embed(self, command, small_disk, slide_file):
        disk = small_disk(64)
        answer = command("embed", slide_file, "--modality", "bf", "--out", disk / "comir.tif")
        assert_stated(answer, "comir.tif", "full")
        assert list(disk.iterdir()) == []


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
