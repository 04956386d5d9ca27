"""Warnings before a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.opencv import cv2
from comir_search.progress import finish
from comir_search.training.pair_check import CheckedPairs, check_pairs_steps, estimate_shift


def paint(seed: int, height: int = 220, width: int = 260) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4.0)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "bf", tmp_path / "shg"
    for folder in made:
        folder.mkdir()
    for seed, name in enumerate("ab"):
        image = paint(seed)
        # Another modality: dark where the first is of middle grey, bright elsewhere.
        other = np.abs(image.astype(np.float32) - 128).astype(np.uint8)
        cv2.imwrite(str(made[0] / f"{name}.png"), image)
        cv2.imwrite(str(made[1] / f"{name}.png"), other)
    return made


def check(folders: tuple[Path, Path]) -> CheckedPairs:
    return finish(check_pairs_steps(*folders))


def test_good_pairs_are_shown_without_a_word(folders) -> None:
    checked = check(folders)
    assert checked.problems == () and checked.usable == ["a", "b"]
    for pair in checked.pairs:
        assert pair.problem == "" and len(pair.pictures) == 2
        assert all(picture.shape == (163, 192, 3) for picture in pair.pictures)


@pytest.mark.parametrize("shift", [(18, 0), (-9, 14)])
def test_a_shift_is_found_across_modalities(shift: tuple[int, int]) -> None:
    image = paint(3)
    other = np.roll(np.abs(image.astype(np.float32) - 128), shift[::-1], axis=(0, 1))
    right, down, gain = estimate_shift(image, other)
    assert (right, down) == shift and gain > 2


def test_images_that_say_nothing_of_each_other_are_not_shifted() -> None:
    rng = np.random.default_rng(0)
    shift = estimate_shift(*(rng.integers(0, 255, (150, 150)).astype(np.uint8) for _ in range(2)))
    assert shift == (0.0, 0.0, 1.0)


def test_misaligned_pairs_are_named_and_can_be_used(folders) -> None:
    image = cv2.imread(str(folders[1] / "b.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(folders[1] / "b.png"), np.roll(image, (0, 20), axis=(0, 1)))
    checked = check(folders)
    assert checked.pairs[0].problem == ""
    assert checked.pairs[1].problem.startswith(
        "b: the two images seem to be shifted by 20 px (+20 right, +0 down)"
    )
    assert checked.usable == ["a", "b"]


def test_different_sizes_small_and_empty_images_cannot_be_used(folders) -> None:
    cv2.imwrite(str(folders[1] / "a.png"), paint(0, 150, 260))
    for folder, value in zip(folders, (0, 9), strict=True):
        cv2.imwrite(str(folder / "small.png"), paint(value, 90, 90))
    for name, image in (("empty", paint(1)), ("empty", np.zeros((220, 260), np.uint8))):
        cv2.imwrite(str(folders[int(image.max() == 0)] / f"{name}.png"), image)
    (folders[0] / "broken.png").write_bytes(b"")
    (folders[1] / "broken.png").write_bytes(b"")
    checked = check(folders)
    problems = {pair.name: pair.problem for pair in checked.pairs}
    assert "differ in size, 260 × 220 and 260 × 150 px" in problems["a"]
    assert "only 90 × 90 px; training needs 160 px" in problems["small"]
    assert problems["empty"] == "empty: one image is empty; check the files."
    assert "broken.png" in problems["broken"]
    assert checked.usable == ["b"]


def test_images_without_a_partner_are_listed(folders) -> None:
    for number in range(5):
        cv2.imwrite(str(folders[0] / f"single {number}.png"), paint(number))
    (sentence,) = check(folders).problems
    assert sentence == (
        "bf: 5 images have no partner of the same name and will not be used (single 0, single 1, single 2 …)."
    )


def test_folders_without_a_common_name_are_refused(folders) -> None:
    for path in folders[1].iterdir():
        path.rename(path.with_name(f"shg_{path.name}"))
    with pytest.raises(ComirSearchError, match="bf and shg share no image name"):
        check(folders)


def test_real_pairs_are_aligned_and_shifted_ones_are_not(shared_data: Path) -> None:
    folder = shared_data / "he_shg_tma"
    checked = finish(check_pairs_steps(folder / "he_aligned", folder / "shg"))
    assert [pair.problem for pair in checked.pairs if pair.problem] == []
    found = 0
    for path in sorted((folder / "shg").glob("*.png")):
        images = [
            cv2.imread(str(folder / side / path.name), cv2.IMREAD_GRAYSCALE) for side in ("he_aligned", "shg")
        ]
        moved = cv2.warpAffine(images[1], np.float32([[1, 0, 30], [0, 1, -20]]), (512, 512), borderMode=2)
        small = [cv2.resize(image, (192, 192), interpolation=cv2.INTER_AREA) for image in (images[0], moved)]
        right, down, gain = estimate_shift(*small)
        found += np.hypot(right * 512 / 192 - 30, down * 512 / 192 + 20) < 12 and gain > 1.25
    assert found >= 22
