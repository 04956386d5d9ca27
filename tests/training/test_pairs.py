"""Which images make pairs, and how they are read."""

import cv2
import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.training.pairs import list_images, list_pairs, load_pair

SIDES = [("bf", 1, "full_scale"), ("shg", 1, "signal")]


def write(path, side=64, value=0):
    path.parent.mkdir(exist_ok=True)
    image = np.arange(side * side, dtype=np.uint8).reshape(side, side) + value
    cv2.imwrite(str(path), image)
    return path


def test_hidden_files_are_no_images(tmp_path):
    for folder in ("bf", "shg"):
        write(tmp_path / folder / "a.png")
        (tmp_path / folder / "._a.png").write_bytes(b"of another system")
    assert [name for name, *_ in list_pairs(tmp_path / "bf", tmp_path / "shg")] == ["a"]


def test_two_images_of_one_name_are_not_chosen_from_in_silence(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "a.tif")
    with pytest.raises(ComirSearchError, match=r"contains both a\.png and a\.tif"):
        list_images(tmp_path)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(ComirSearchError, match="nowhere is not a folder"):
        list_images(tmp_path / "nowhere")


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path):
    files = (write(tmp_path / "a.png"), write(tmp_path / "b.png"))
    sizes = {"pixel_size_um": 0.001, "default_pixel_size_um": 2.0}
    with pytest.raises(ComirSearchError, match=r"a\.png has 128000 x 128000 px at .*cut it into smaller"):
        load_pair("a", files, modalities=SIDES, **sizes)
