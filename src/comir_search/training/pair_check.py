"""Check pairs before training: whether they match in name and size, and whether they are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.opencv import cv2
from comir_search.pictures.display import to_display
from comir_search.progress import Job, Tick
from comir_search.slides import Slide, open_slide
from comir_search.training.pairs import MAX_SIZE_DIFFERENCE, list_images

PICTURE_PX = 192
GREY_LEVELS = 8
REACH_SHARE = 0.15  # of a side: the largest shift that is searched
TOLERANCE_SHARE = 0.025  # of the shorter side
MIN_GAIN = 1.25  # a shift must increase the mutual information by this factor
MIN_INFORMATION = 0.01  # nats; with less mutual information a shift means nothing
LISTED_NAMES = 3


@dataclass(frozen=True)
class CheckedPair:
    """A pair as it is shown to the user, and its problem.

    Parameters
    ----------
    name : str
    pictures : tuple of ndarray
        uint8 (height, width, 3), the first image and the second.
    problem : str
        One sentence, "" if the pair is good.
    is_usable : bool
        False if training would refuse it.
    """

    name: str
    pictures: tuple[NDArray[np.uint8], ...]
    problem: str = ""
    is_usable: bool = True


@dataclass(frozen=True)
class CheckedPairs:
    """The pairs of two folders.

    Parameters
    ----------
    pairs : tuple of CheckedPair
    problems : tuple of str
        Sentences about the folders; those about pairs are in `pairs`.
    """

    pairs: tuple[CheckedPair, ...]
    problems: tuple[str, ...] = ()

    @property
    def usable(self) -> list[str]:
        """Names of the pairs that can be used for training."""
        return [pair.name for pair in self.pairs if pair.is_usable]


def check_pairs_steps(
    first: str | Path, second: str | Path, *, pixel_size_um: float = 2.0, crop_px: int = 160
) -> Job[CheckedPairs]:
    """Check the pairs of two folders.

    Parameters
    ----------
    first, second : path
        Folders of equally named images.
    pixel_size_um : float
        Pixel size of the model, also used for images that give none.
    crop_px : int
        Smallest side that training needs, in pixels of this size.

    Yields
    ------
    Tick
        ``partial`` is a `CheckedPair`.

    Raises
    ------
    ComirSearchError
        If a folder is missing, or no name is in both.
    """
    folders = Path(first), Path(second)
    images = [list_images(folder) for folder in folders]
    names = [name for name in images[0] if name in images[1]]
    if not names:
        raise ComirSearchError(
            f"{folders[0].name} and {folders[1].name} share no image name: give the images of a pair the same name."
        )
    problems = [
        sentence
        for own, other, folder in ((0, 1, folders[0]), (1, 0, folders[1]))
        if (sentence := _describe_single(sorted(set(images[own]) - set(images[other])), folder))
    ]
    checked: list[CheckedPair] = []
    yield Tick("checking pairs", 0, len(names))
    for done, name in enumerate(names, 1):
        checked.append(_check(name, (images[0][name], images[1][name]), pixel_size_um, crop_px))
        yield Tick("checking pairs", done, len(names), checked[-1])
    return CheckedPairs(tuple(checked), tuple(problems))


def estimate_shift(
    first: NDArray[np.generic], second: NDArray[np.generic], reach_share: float = REACH_SHARE
) -> tuple[float, float, float]:
    """Return the shift of the second image against the first, by mutual information.

    Mutual information can compare different modalities: the images need not look
    alike. It is computed by FFT from joint histograms, for every shift by whole
    pixels up to the largest.

    Parameters
    ----------
    first, second : ndarray (rows, columns)
        Two images of the same shape.
    reach_share : float
        Largest shift, as a share of each side.

    Returns
    -------
    right_px, down_px : float
        The point (x, y) of the first image is at (x + right, y + down) in the second.
    gain : float
        Mutual information at this shift divided by that without a shift; 1.0 if the
        images have almost no mutual information.
    """
    rows, columns = first.shape
    shape = (2 * rows, 2 * columns)
    spectra = [
        [np.fft.rfft2((levels == level).astype(np.float32), shape) for level in range(GREY_LEVELS)]
        for levels in (_levels(first), _levels(second))
    ]
    reach_y, reach_x = max(1, round(reach_share * rows)), max(1, round(reach_share * columns))
    down, right = np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1)
    counts = np.empty((GREY_LEVELS, GREY_LEVELS, len(down), len(right)))
    for one in range(GREY_LEVELS):
        for other in range(GREY_LEVELS):
            correlation = np.fft.irfft2(spectra[0][one].conj() * spectra[1][other], shape)
            counts[one, other] = np.maximum(correlation[np.ix_(down, right)], 0)
    joint = counts / counts.sum(axis=(0, 1))
    entropies = [-_times_log(joint.sum(axis=axis)).sum(axis=0) for axis in (1, 0)]
    information = entropies[0] + entropies[1] + _times_log(joint).sum(axis=(0, 1))
    y, x = np.unravel_index(int(information.argmax()), information.shape)
    without = float(information[reach_y, reach_x])
    if float(information[y, x]) < MIN_INFORMATION:
        return 0.0, 0.0, 1.0
    return float(right[x]), float(down[y]), float(information[y, x]) / max(without, 1e-9)


def _check(name: str, files: tuple[Path, Path], pixel_size_um: float, crop_px: int) -> CheckedPair:
    pictures: list[NDArray[np.uint8]] = []
    greys: list[NDArray[np.float32]] = []
    sizes_px: list[tuple[int, int]] = []
    try:
        for file in files:
            with open_slide(file) as slide:
                image, _ = slide.overview(PICTURE_PX)
                sizes_px.append(_size_at(slide, pixel_size_um))
            pictures.append(to_display(image))
            greys.append(pictures[-1].mean(axis=2, dtype=np.float32))
    except ComirSearchError as error:
        return CheckedPair(name, tuple(pictures), str(error), is_usable=False)
    problem, is_usable = _judge(name, sizes_px, greys, crop_px)
    return CheckedPair(name, tuple(pictures), problem, is_usable)


def _judge(
    name: str, sizes_px: Sequence[tuple[int, int]], greys: Sequence[NDArray[np.float32]], crop_px: int
) -> tuple[str, bool]:
    """Return the problem of a pair, and whether training accepts it nevertheless."""
    (width, height), (other_width, other_height) = sizes_px
    if max(abs(width - other_width) / width, abs(height - other_height) / height) > MAX_SIZE_DIFFERENCE:
        sizes = f"{width} × {height} and {other_width} × {other_height} px"
        return f"{name}: the two images differ in size, {sizes}; crop both to the same field.", False
    if min(*sizes_px[0], *sizes_px[1]) < crop_px:
        return f"{name}: only {width} × {height} px; training needs {crop_px} px on each side.", False
    if any(np.ptp(grey) == 0 for grey in greys):
        return f"{name}: one image is empty; check the files.", False
    second = cv2.resize(greys[1], greys[0].shape[::-1], interpolation=cv2.INTER_AREA)
    right, down, gain = estimate_shift(greys[0], second)
    scale = width / greys[0].shape[1]
    if gain > MIN_GAIN and np.hypot(right, down) > TOLERANCE_SHARE * min(greys[0].shape):
        apart_px = f"{np.hypot(right, down) * scale:.0f} px"
        shift_px = f"{right * scale:+.0f} right, {down * scale:+.0f} down"
        return (
            f"{name}: the two images seem to be shifted by {apart_px} ({shift_px}); align them first.",
            True,
        )
    return "", True


def _size_at(slide: Slide, pixel_size_um: float) -> tuple[int, int]:
    """Return (width, height) at a pixel size, which is also assumed for slides that give none."""
    scale = (slide.pixel_size_um or pixel_size_um) / pixel_size_um
    height, width = slide.level_shapes[0]
    return max(1, round(width * scale)), max(1, round(height * scale))


def _describe_single(names: Sequence[str], folder: Path) -> str:
    """Return a sentence that lists the images without a partner, "" if there are none."""
    if not names:
        return ""
    listed = ", ".join(names[:LISTED_NAMES]) + (" …" if len(names) > LISTED_NAMES else "")
    count = "1 image has" if len(names) == 1 else f"{len(names)} images have"
    return f"{folder.name}: {count} no partner of the same name and will not be used ({listed})."


def _levels(image: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return an image of grey levels that each have about the same number of pixels."""
    values = np.asarray(image, np.float32)
    edges = np.quantile(values, np.arange(1, GREY_LEVELS) / GREY_LEVELS)
    return np.searchsorted(edges, values, side="right")


def _times_log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return probabilities * np.log(np.maximum(probabilities, 1e-12))
