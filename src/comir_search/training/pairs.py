"""Aligned image pairs: two folders of equally named images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.files import find_way_out
from comir_search.model.intensity import measure_intensity
from comir_search.slides import open_slide
from comir_search.slides.channels import as_channels

MAX_SIZE_DIFFERENCE = 0.02  # of a side: the largest difference in size between the images of a pair
MAX_IMAGE_PX = 64_000_000  # largest image at the model's pixel size, since it is read as a whole
SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Pair:
    """The same field in both modalities, normalised, at the model's pixel size.

    Parameters
    ----------
    name : str
        File stem.
    first : ndarray (rows, columns, channels) float32
        The brightfield image.
    second : ndarray (rows, columns, channels) float32
        The signal image.
    """

    name: str
    first: NDArray[np.float32]
    second: NDArray[np.float32]


def list_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by stem, sorted; hidden files are left out.

    Raises
    ------
    ComirSearchError
        If it is not a readable folder, or two images have the same stem.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        if not folder.is_dir():
            raise ComirSearchError(f"{folder} is not a folder; give the folder with the images.") from None
        raise ComirSearchError(f"{folder} cannot be read: {find_way_out(error)}.") from error
    images: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise ComirSearchError(
                f"{folder} contains both {images[path.stem].name} and {path.name}, so it is not clear which one "
                f"belongs to a pair; move one of them away."
            )
        images[path.stem] = path
    return images


def list_pairs(first: Path, second: Path, names: Sequence[str] | None = None) -> list[tuple[str, Path, Path]]:
    """Return (name, first file, second file) for every name that is in both folders.

    Parameters
    ----------
    first, second : Path
        Folders of equally named images.
    names : sequence of str, optional
        Use only these stems.

    Raises
    ------
    ComirSearchError
        If a folder or a name is missing, or no name is in both.
    """
    firsts, seconds = list_images(Path(first)), list_images(Path(second))
    wanted = list(names) if names else [name for name in firsts if name in seconds]
    for name in wanted:
        for folder, found in ((first, firsts), (second, seconds)):
            if name not in found:
                raise ComirSearchError(f"{folder} contains no image named {name!r}; check --names.")
    if not wanted:
        raise ComirSearchError(
            f"{first} and {second} share no image name; the two images of a pair must have the same name."
        )
    return [(name, firsts[name], seconds[name]) for name in wanted]


def read_image(
    path: Path, modality: str, channels: int, *, pixel_size_um: float, default_pixel_size_um: float
) -> NDArray[np.generic]:
    """Read a whole image at the model's pixel size.

    Parameters
    ----------
    path : Path
    modality : str
        Modality of the image, for messages.
    channels : int
        Number of channels of the result, 1 or 3.
    pixel_size_um : float
        Pixel size of the model.
    default_pixel_size_um : float
        Pixel size of the image if its file gives none.

    Returns
    -------
    ndarray (rows, columns, channels)
        In the file's data type.

    Raises
    ------
    ComirSearchError
        If it cannot be read, is too large, or has the wrong number of channels.
    """
    with open_slide(path) as slide:
        size_um = slide.pixel_size_um or default_pixel_size_um
    with open_slide(path, pixel_size_um=size_um) as slide:
        height, width = slide.scaled_shape(pixel_size_um)
        if height * width > MAX_IMAGE_PX:
            raise ComirSearchError(
                f"{path} has {width} x {height} px at the model's {pixel_size_um:g} um, more than the "
                f"{MAX_IMAGE_PX // 10**6} million that can be read at once; cut it into smaller images, or check its "
                f"pixel size ({size_um:g} um)."
            )
        image = slide.read_scaled(pixel_size_um, 0, 0, width, height)
    return as_channels(image, channels, str(path), modality)


def load_pair(
    name: str,
    files: tuple[Path, Path],
    *,
    modalities: Sequence[tuple[str, int, str]],
    pixel_size_um: float,
    default_pixel_size_um: float,
) -> Pair:
    """Read a pair at the model's pixel size and normalise it.

    Parameters
    ----------
    name : str
    files : (Path, Path)
        The two images.
    modalities : sequence of (name, channels, intensity kind)
        Modalities of the two images.
    pixel_size_um : float
        Pixel size of the model.
    default_pixel_size_um : float
        Pixel size of images that give none.

    Raises
    ------
    ComirSearchError
        If the images differ in size by more than 2 %: they cannot be aligned.
    """
    sides = []
    for file, (modality, channels, kind) in zip(files, modalities, strict=True):
        image = read_image(
            file,
            modality,
            channels,
            pixel_size_um=pixel_size_um,
            default_pixel_size_um=default_pixel_size_um,
        )
        sides.append(measure_intensity(image, kind, image.dtype).apply(image))
    shapes = np.array([side.shape[:2] for side in sides])
    if (abs(shapes[0] - shapes[1]) > MAX_SIZE_DIFFERENCE * shapes[0]).any():
        raise ComirSearchError(
            f"{files[0]} and {files[1]} differ in size ({shapes[0][1]} x {shapes[0][0]} and {shapes[1][1]} x "
            f"{shapes[1][0]} px); the images of a pair must be aligned, crop both to the same field."
        )
    rows, columns = shapes.min(axis=0)
    return Pair(name, sides[0][:rows, :columns], sides[1][:rows, :columns])
