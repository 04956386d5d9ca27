"""Find tissue: not empty glass in brightfield, not dark background in SHG.

The mask leaves out only clearly empty areas, because queries are never found in
areas outside the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.opencv import cv2
from comir_search.slides.slide import Slide

_OVERVIEW_PX = 1024
_BLOCK_PX = 2048
_MARGIN_UM = 40.0  # the mask is widened by this, to include pale borders
_LEAST_CONTRAST = 0.02  # share of the full range; a lower contrast counts as noise
_LEAST_GLASS = 0.002  # share of the slide; a smaller bright smooth area does not count as glass


@dataclass(frozen=True)
class Emptiness:
    """What an empty area looks like on one slide.

    Parameters
    ----------
    bright : bool
        Brightfield (empty is bright) or not (empty is dark).
    level : ndarray (channels,)
        Colour of an empty area; infinite if the slide has none. Then only padding
        is empty.
    tolerance : float
        Largest difference of an empty pixel from that colour, in any channel.
    roughness : float
        Largest local standard deviation of an empty area.
    padding : float
        Value of areas that were never scanned.
    """

    bright: bool
    level: NDArray[np.float32]
    tolerance: float
    roughness: float
    padding: float

    def is_full(self, image: np.ndarray) -> NDArray[np.bool_]:
        """Return where an image (height, width, channels) of float32 is not empty."""
        padded = np.abs(image - self.padding).max(axis=2) == 0
        if not np.isfinite(self.level).all():
            return ~padded
        image = np.where(
            padded[..., None], self.level, image
        )  # otherwise the border of the padding would look rough
        smooth = _smooth(image)
        if self.bright:
            full = np.abs(smooth - self.level).max(axis=2) > self.tolerance
            full |= _roughness(image, smooth) > self.roughness
        else:
            full = (smooth - self.level).max(axis=2) > self.tolerance
        return full & ~padded


def tissue_mask(
    slide: Slide, pixel_size_um: float, modality_is_bright: bool | None = None
) -> NDArray[np.bool_]:
    """Return where a slide is not empty.

    The slide is read block by block, from the pyramid level nearest `pixel_size_um`.

    Parameters
    ----------
    slide : Slide
    pixel_size_um : float
        Pixel size of the mask; 8 to 32 um is suitable.
    modality_is_bright : bool, optional
        Whether empty areas are bright (brightfield) or dark (SHG, fluorescence).
        By default the slide's overview decides.

    Returns
    -------
    ndarray of bool
        Of shape ``slide.scaled_shape(pixel_size_um)``.

    Raises
    ------
    PixelSizeMissing
        If the slide's pixel size is not known.
    """
    height, width = slide.scaled_shape(pixel_size_um)
    empty = find_emptiness(slide, modality_is_bright)
    margin = max(1, round(_MARGIN_UM / pixel_size_um))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    halo = margin + 3
    mask = np.zeros((height, width), bool)
    for y in range(0, height, _BLOCK_PX):
        for x in range(0, width, _BLOCK_PX):
            rows, columns = min(_BLOCK_PX, height - y), min(_BLOCK_PX, width - x)
            block = slide.read_scaled(pixel_size_um, x - halo, y - halo, columns + 2 * halo, rows + 2 * halo)
            full = empty.is_full(_as_channels(block)).astype(np.uint8)
            full = cv2.dilate(full, kernel)
            mask[y : y + rows, x : x + columns] = full[halo : halo + rows, halo : halo + columns] > 0
    return mask


def find_emptiness(slide: Slide, modality_is_bright: bool | None = None) -> Emptiness:
    """Measure on an overview what an empty area looks like."""
    image = _as_channels(slide.overview(_OVERVIEW_PX)[0])
    brightness = image.mean(axis=2)
    scanned = np.abs(image - slide.background).max(axis=2) > 0
    values = brightness[scanned] if scanned.any() else brightness.ravel()
    low, middle, high = np.percentile(values, [0.5, 50, 99.8])
    if modality_is_bright is None:
        modality_is_bright = bool(middle > (0.3 if slide.channels == 3 else 0.5) * high)
    smooth = _smooth(image)
    rough = _roughness(image, smooth)
    if modality_is_bright:
        colourless = smooth.max(axis=2) - smooth.min(axis=2) < 0.15 * high
        candidates = scanned & colourless & (brightness > 0.8 * high) & (rough < 0.02 * high)
        contrast = high
    else:
        # Much of a slide may be signal, but not its darkest 5 %.
        mean = smooth.mean(axis=2)
        candidates = scanned & (mean <= np.percentile(mean[scanned], 5)) if scanned.any() else ~scanned
        contrast = high - low
    if candidates.mean() < _LEAST_GLASS:
        level = np.full(image.shape[2], np.inf, np.float32)
        return Emptiness(modality_is_bright, level, 0.0, 0.0, slide.background)
    sample = smooth[candidates]
    level = np.median(sample, axis=0)
    spread = 1.4826 * float(np.median(np.abs(sample - level), axis=0).max())
    tolerance = max(_LEAST_CONTRAST * float(contrast), 3 * spread)
    roughness = max(_LEAST_CONTRAST * float(contrast), 3 * float(np.median(rough[candidates])))
    return Emptiness(modality_is_bright, level.astype(np.float32), tolerance, roughness, slide.background)


def _as_channels(image: np.ndarray) -> NDArray[np.float32]:
    """Return an image as (height, width, channels) of float32, with 0 for NaN and infinity."""
    channels = (image if image.ndim == 3 else image[..., None]).astype(np.float32)
    return np.nan_to_num(channels, copy=False, posinf=0, neginf=0) if image.dtype.kind == "f" else channels


def _smooth(image: np.ndarray) -> np.ndarray:
    return cv2.blur(image, (3, 3), borderType=cv2.BORDER_REPLICATE).reshape(image.shape)


def _roughness(image: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Return the local standard deviation over 3 x 3 pixels, the largest over the channels."""
    variance = _smooth(image * image) - smooth * smooth
    return np.sqrt(np.maximum(variance, 0)).max(axis=2)
