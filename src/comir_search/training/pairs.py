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

MAX_SIZE_DIFFERENCE = 0.02  # of a side, by which both sides of a pair may differ
MAX_IMAGE_PX = 64_000_000  # of one image at the model's pixel size, which is read as a whole
SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Pair:
    """One place seen in both modalities, normalised, at the model's pixel size.

    Parameters
    ----------
    name : str
        File stem.
    first : ndarray (rows, columns, channels) float32
        The brightfield side.
    second : ndarray (rows, columns, channels) float32
        The signal side.
    """

    name: str
    first: NDArray[np.float32]
    second: NDArray[np.float32]


def list_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by stem, sorted; hidden files are left out.

    Raises
    ------
    ComirSearchError
        If it is no folder that can be read, or two images have one stem.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        if not folder.is_dir():
            raise ComirSearchError(
                f"{folder} is not a folder; give the folder that holds the images."
            ) from None
        raise ComirSearchError(f"{folder} cannot be read: {find_way_out(error)}.") from error
    images: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise ComirSearchError(
                f"{folder} holds {images[path.stem].name} and {path.name}, so which of them belongs to a pair is "
                f"not known; move one of them away."
            )
        images[path.stem] = path
    return images


def list_pairs(first: Path, second: Path, names: Sequence[str] | None = None) -> list[tuple[str, Path, Path]]:
    """Return (name, first file, second file) for every name that both folders hold.

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
                raise ComirSearchError(f"{folder} holds no image named {name!r}; check --names.")
    if not wanted:
        raise ComirSearchError(f"{first} and {second} share no image name; pairs must be equally named.")
    return [(name, firsts[name], seconds[name]) for name in wanted]


def read_image(
    path: Path, modality: str, channels: int, *, pixel_size_um: float, default_pixel_size_um: float
) -> NDArray[np.generic]:
    """Read a whole image at the model's pixel size.

    Parameters
    ----------
    path : Path
    modality : str
        Of the image, for messages.
    channels : int
        1 or 3, as `as_channels` makes them.
    pixel_size_um : float
        The model's.
    default_pixel_size_um : float
        The image's, where it states none.

    Returns
    -------
    ndarray (rows, columns, channels)
        Of the file's type.

    Raises
    ------
    ComirSearchError
        If it cannot be read, is too large, or has other channels.
    """
    with open_slide(path) as slide:
        size_um = slide.pixel_size_um or default_pixel_size_um
    with open_slide(path, pixel_size_um=size_um) as slide:
        height, width = slide.scaled_shape(pixel_size_um)
        if height * width > MAX_IMAGE_PX:
            raise ComirSearchError(
                f"{path} has {width} x {height} px at the model's {pixel_size_um:g} um, more than the "
                f"{MAX_IMAGE_PX // 10**6} million that are read at once; cut it into smaller images, or check its "
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
        The two sides.
    modalities : sequence of (name, channels, intensity kind)
        Of the two sides.
    pixel_size_um : float
        The model's.
    default_pixel_size_um : float
        That of images which state none.

    Raises
    ------
    ComirSearchError
        If the sides differ in size by more than 2 %: they cannot be aligned.
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
            f"{shapes[1][0]} px); pairs must be aligned."
        )
    rows, columns = shapes.min(axis=0)
    return Pair(name, sides[0][:rows, :columns], sides[1][:rows, :columns])
