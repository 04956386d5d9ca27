"""Synthetic tissue, with a brightfield image and an SHG image of the same place.

Structures are placed at random: glands, collagen bundles, muscle, fat, vessels and
immune cells. The collagen fibres follow a map of directions. Two simple physical
models then make the images. In brightfield two dyes absorb light by the Beer-Lambert
law. In SHG only fibrillar collagen emits, more or less with its density, orientation
and depth. Muscle, cytoplasm and blood are stained by eosin like collagen, so that
collagen cannot be found by darkness or redness alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.opencv import cv2
from comir_search.progress import Job, Tick

Field = NDArray[np.floating]
Generator = np.random.Generator

PIXEL_SIZE_UM = 1.0  # of all arrays below
WHITE = np.array([244, 243, 244], np.float32)
# Optical density of the dyes in red, green and blue, scaled to unit length (the reference vectors of
# Macenko et al. 2009, measured on scanned slides).
HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062], np.float32)
EOSIN = np.array([0.2159, 0.8012, 0.5581], np.float32)


@dataclass(frozen=True)
class Tissue:
    """Images of synthetic tissue, with pixels of `PIXEL_SIZE_UM`.

    Parameters
    ----------
    brightfield : ndarray (height, width, 3) uint8
        Scan of the stained slide.
    emission : ndarray (height, width) float32
        SHG signal without noise, about 1 in bright fibres.
    inside : ndarray (height, width) bool
        True where there is tissue.
    """

    brightfield: NDArray[np.uint8]
    emission: Field
    inside: NDArray[np.bool_]


def simulate_tissue_steps(width_um: int, height_um: int, seed: int, stage: str = "simulating") -> Job[Tissue]:
    """Make the images of a piece of tissue with white glass around it.

    Parameters
    ----------
    width_um, height_um : int
        Size of the images; the tissue fills most of it.
    seed : int
        The same seed gives the same tissue.
    stage : str, optional
        Name of the stage in the progress ticks.
    """
    rng = np.random.default_rng(seed)
    shape = (int(height_um / PIXEL_SIZE_UM), int(width_um / PIXEL_SIZE_UM))
    yield Tick(stage, 0, 4)
    layout = _Layout(shape, rng)
    yield Tick(stage, 1, 4)
    collagen, emission = _lay_collagen(layout, rng)
    yield Tick(stage, 2, 4)
    haematoxylin, eosin = _stain(layout, collagen, rng)
    yield Tick(stage, 3, 4)
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    light = cv2.GaussianBlur(WHITE * np.power(np.float32(10), -density), (0, 0), 0.7 / PIXEL_SIZE_UM)
    light += rng.normal(0, 1.5, shape).astype(np.float32)[..., None]
    brightfield = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    yield Tick(stage, 4, 4)
    return Tissue(brightfield, emission, layout.inside > 0.5)


class _Layout:
    """Where each structure lies: arrays of the images' shape, from 0 (outside) to 1 (inside).

    Of other kinds are `director`, the direction of the fibres in radians, `from_nest`,
    the distance to the nearest cell nest in pixels, and `thickness`, about 1.
    """

    def __init__(self, shape: tuple[int, int], rng: Generator) -> None:
        height, width = shape
        y, x = np.mgrid[:height, :width].astype(np.float32)
        radius = np.hypot((x - width / 2) / (0.47 * width), (y - height / 2) / (0.46 * height))
        ragged = (
            0.10 * _noise(shape, 500, rng) + 0.025 * _noise(shape, 90, rng) + 0.006 * _noise(shape, 14, rng)
        )
        self.inside = _ramp(1 - radius + ragged - 0.06, 0.006)

        glandular = _noise(shape, 700, rng)
        nest = _noise(shape, 95, rng) + 0.4 * _noise(shape, 40, rng) + 0.08 * _noise(shape, 12, rng)
        level = 1.0 - 0.45 * glandular
        differentiated = _ramp(_noise(shape, 400, rng) + 0.4, 0.2)
        edge = 0.12 * _noise(shape, 60, rng)
        self.muscle = _ramp(_noise(shape, 420, rng) - 1.6 + edge, 0.08) * _ramp(0.6 - glandular, 0.3)
        fat = _ramp(_noise(shape, 420, rng) - 1.75 - edge, 0.06) * (1 - self.muscle)
        self.nest = _ramp(nest - level, 0.05) * (1 - self.muscle) * (1 - fat) * self.inside
        lumen = _ramp(nest - level - 0.7, 0.05) * differentiated
        self.lumen = lumen * self.nest
        self.vacuole = fat * _vacuoles(shape, rng)
        self.fat = fat
        self.immune = _ramp(_noise(shape, 260, rng) - 1.3, 0.3) * (1 - fat)
        self.stroma = (1 - self.nest) * (1 - self.muscle) * (1 - self.vacuole) * self.inside

        self.from_nest = cv2.distanceTransform((self.nest < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        self.director = self._lay_director(shape, rng)
        self.thickness = 1 + 0.08 * _noise(shape, 300, rng)

    def _lay_director(self, shape: tuple[int, int], rng: Generator) -> Field:
        """Return the direction of the fibres, radians: random, but parallel to the border near cell nests."""
        cos2 = _noise(shape, 380, rng) + 0.35 * _noise(shape, 90, rng)
        sin2 = _noise(shape, 380, rng) + 0.35 * _noise(shape, 90, rng)
        length = np.hypot(cos2, sin2) + 1e-6
        smooth = cv2.GaussianBlur(self.from_nest, (0, 0), 8)
        normal = 2 * np.arctan2(cv2.Sobel(smooth, cv2.CV_32F, 0, 1), cv2.Sobel(smooth, cv2.CV_32F, 1, 0))
        around = 1.2 * np.exp(-self.from_nest / 40)
        cos2, sin2 = cos2 / length - around * np.cos(normal), sin2 / length - around * np.sin(normal)
        cos2, sin2 = cv2.GaussianBlur(cos2, (0, 0), 12), cv2.GaussianBlur(sin2, (0, 0), 12)
        return (0.5 * np.arctan2(sin2, cos2)).astype(np.float32)


def _lay_collagen(layout: _Layout, rng: Generator) -> tuple[Field, Field]:
    """Draw bundles of wavy collagen fibres; return their density and their SHG emission."""
    shape = layout.inside.shape
    dense = _ramp(_noise(shape, 280, rng) + 0.5 * _noise(shape, 110, rng) + 0.35, 0.35)
    dense *= layout.stroma * (0.55 + 0.45 * np.exp(-layout.from_nest / 60)) * (1 - 0.8 * layout.immune)
    loose = layout.stroma * (1 - 0.5 * layout.immune)
    area_um2 = float(layout.stroma.sum()) * PIXEL_SIZE_UM**2
    collagen, source = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    #          where, bundles per mm2, fibres, length um, spread um, blur um, weight
    for where, per_mm2, fibres, length_um, spread_um, blur_um, weight in (
        (dense, 420, 5, 120, 4.0, 0.9, 0.8),
        (dense, 170, 4, 190, 4.5, 1.7, 1.2),
        (loose, 1300, 2, 70, 3.0, 0.8, 0.5),
    ):
        count = max(1, int(per_mm2 * area_um2 / 1e6))
        lines = _trace_bundles(where, layout.director, count, fibres, length_um, spread_um, rng)
        density, signal = _splat(shape, lines, rng)
        spread = blur_um / PIXEL_SIZE_UM
        gain = weight * spread * 2.5
        collagen += gain * cv2.GaussianBlur(density, (0, 0), spread)
        source += gain * cv2.GaussianBlur(signal, (0, 0), spread)
    depth = np.clip(0.85 + 0.35 * _noise(shape, 90, rng), 0.15, None)
    emission = np.power(source, 1.3) / (1 + 0.3 * source) * layout.stroma * depth
    emission = cv2.GaussianBlur(emission, (0, 0), 0.8 / PIXEL_SIZE_UM)
    bright = emission[layout.stroma > 0.5]
    scale = np.quantile(bright, 0.985) if bright.size else 1.0
    return (1 - np.exp(-collagen)) * layout.stroma, (emission / scale).astype(np.float32)


@dataclass(frozen=True)
class _Lines:
    """Points along fibres, as arrays (points, fibres).

    Parameters
    ----------
    x, y : ndarray
        Position, pixels.
    angle : ndarray
        Direction of the fibre, radians.
    weight : ndarray
        Strength of the fibre, from 0 beyond its ends to 1.
    """

    x: Field
    y: Field
    angle: Field
    weight: Field


def _trace_bundles(
    where: Field,
    director: Field,
    count: int,
    fibres: int,
    length_um: float,
    spread_um: float,
    rng: Generator,
) -> _Lines:
    """Trace bundles along the map of directions, and place fibres along each trace.

    Parameters
    ----------
    where : ndarray (height, width)
        Chance that a bundle starts at a pixel, up to a factor.
    director : ndarray (height, width)
        Direction of the fibres, radians.
    count : int
        Number of bundles.
    fibres : int
        Number of fibres in each bundle.
    length_um, spread_um : float
        Length of a bundle, and standard deviation of its fibres' distance from its
        middle line.
    rng : Generator
    """
    height, width = where.shape
    chance = cv2.resize(where, (width // 4, height // 4), interpolation=cv2.INTER_AREA).ravel()
    seeds = rng.choice(chance.size, count, p=chance / chance.sum())
    x = (seeds % (width // 4) * 4 + rng.uniform(0, 4, count)).astype(np.float32)
    y = (seeds // (width // 4) * 4 + rng.uniform(0, 4, count)).astype(np.float32)
    steps = int(length_um)
    heading = _sample(director, x, y) + np.pi * rng.integers(0, 2, count)
    xs, ys, headings = [], [], []
    for _ in range(steps):
        angle = _sample(director, x, y)
        angle = angle + np.pi * np.rint((heading - angle) / np.pi)  # of the two ways along a fibre, go on
        heading = heading + 0.25 * (angle - heading)
        x, y = x + np.cos(heading), y + np.sin(heading)  # a step is 1 um, one pixel
        xs.append(x)
        ys.append(y)
        headings.append(heading)
    along = np.arange(steps, dtype=np.float32)[:, None, None]
    heading = np.stack(headings)[..., None]
    crimp = rng.uniform(0.5, 2.2, (count, 1)) * np.sin(
        2 * np.pi * along / rng.uniform(22, 45, (count, 1)) + rng.uniform(0, 2 * np.pi, (count, 1))
    )
    aside = rng.normal(0, spread_um, (count, fibres)) + rng.normal(0, 0.03, (count, fibres)) * (
        along - steps / 2
    )
    wander = along / rng.uniform(9, 20, (count, fibres)) + rng.uniform(0, 6, (count, fibres))
    aside = aside + crimp + 0.6 * np.sin(wander)
    start = rng.uniform(0, 0.3, (count, fibres)) * steps
    end = rng.uniform(0.6, 1.0, (count, fibres)) * steps
    weight = np.clip(np.minimum(along - start, end - along) / 10, 0, 1)
    flat = (steps, count * fibres)
    return _Lines(
        (np.stack(xs)[..., None] - aside * np.sin(heading)).reshape(flat).astype(np.float32),
        (np.stack(ys)[..., None] + aside * np.cos(heading)).reshape(flat).astype(np.float32),
        np.broadcast_to(heading, (steps, count, fibres)).reshape(flat).astype(np.float32),
        weight.reshape(flat).astype(np.float32),
    )


def _splat(shape: tuple[int, int], lines: _Lines, rng: Generator) -> tuple[Field, Field]:
    """Add points to an image of the density and to one of the SHG emission, with bilinear weights."""
    fibres = lines.x.shape[1]
    activity = np.asarray(rng.lognormal(-0.18, 0.6, fibres), np.float32)
    # Elliptically polarised light excites fibres of one direction more than others.
    polarised = 0.6 + 0.8 * np.cos(lines.angle - 0.4) ** 2
    density, signal = np.zeros(shape[0] * shape[1]), np.zeros(shape[0] * shape[1])
    left, top = np.asarray(np.floor(lines.x), np.int64), np.asarray(np.floor(lines.y), np.int64)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            share = (1 - np.abs(lines.x - column)) * (1 - np.abs(lines.y - row)) * lines.weight
            valid = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
            place = (row * shape[1] + column)[valid]
            density += np.bincount(place, share[valid], density.size)
            signal += np.bincount(place, (share * polarised * activity)[valid], signal.size)
    return density.reshape(shape).astype(np.float32), signal.reshape(shape).astype(np.float32)


def _stain(layout: _Layout, collagen: Field, rng: Generator) -> tuple[Field, Field]:
    """Return the optical density of haematoxylin and of eosin at each pixel."""
    shape = layout.inside.shape
    nuclei = _draw_nuclei(layout, collagen, rng)
    mottle = _noise(shape, 5, rng)
    fine = _noise(shape, 2.2, rng)
    epithelium = layout.nest * (1 - layout.lumen)
    cleft = np.exp(-(((layout.from_nest - 4) / 3.5) ** 2)) * _ramp(_noise(shape, 60, rng) - 0.3, 0.3)
    ground = layout.stroma * (1 - collagen) * np.clip(0.9 + 0.3 * _noise(shape, 22, rng), 0.05, 1.4)
    ground *= 1 - 0.85 * cleft
    fibrous = cv2.GaussianBlur(_streaks(layout.director, rng), (0, 0), 0.8)
    blood = _draw_blood(layout, rng)
    eosin = (
        0.27 * collagen * (1 + 0.10 * mottle)
        + 0.13 * ground * (1 + 0.25 * mottle)
        + 0.15 * epithelium * (1 + 0.16 * mottle)
        + 0.22 * layout.muscle * layout.inside * (1 + 0.22 * fibrous)
        + 0.42 * blood
        + 0.04 * layout.lumen * _ramp(_noise(shape, 35, rng) - 0.6, 0.5)
    )
    haematoxylin = (
        0.60 * nuclei * (1 + 0.18 * fine)
        + 0.115 * epithelium * (1 + 0.20 * mottle)
        + 0.075 * ground * (1 + 0.2 * mottle)
        + 0.085 * layout.muscle * layout.inside
        + 0.012 * collagen
    )
    solid = (1 - layout.vacuole) * layout.inside * layout.thickness
    eosin = np.clip(eosin * (1 - 0.6 * nuclei), 0, None) * solid
    return np.clip(haematoxylin, 0, None) * solid, eosin


def _draw_nuclei(layout: _Layout, collagen: Field, rng: Generator) -> Field:
    """Draw nuclei as ellipses; return their chromatin density in [0, 1]."""
    shape = layout.inside.shape
    canvas = np.zeros(shape, np.uint8)
    epithelium = layout.nest * (1 - layout.lumen)
    between = layout.stroma * (1 - 0.75 * collagen)
    #         where, spacing um, chance, half length um, half width um, along the fibres, darkness
    for where, spacing, chance, long_um, short_um, aligned, darkness in (
        (epithelium, 11.0, 0.85, 4.4, 3.3, False, 0.60),
        (between, 13.0, 0.42, 5.2, 1.5, True, 0.80),
        (layout.immune * between, 7.0, 0.75, 2.9, 2.7, False, 0.95),
        (between * (1 - layout.immune), 26.0, 0.35, 2.9, 2.6, False, 0.95),
        (layout.muscle * layout.inside, 20.0, 0.55, 6.5, 1.4, True, 0.75),
    ):
        x, y = _scatter(where, spacing, chance, rng)
        angle = _sample(layout.director, x, y) if aligned else rng.uniform(0, np.pi, x.size)
        angle = np.rad2deg(angle + rng.normal(0, 0.15, x.size))
        size = rng.lognormal(0, 0.16, (x.size, 2))
        axes = np.stack([long_um * size[:, 0], short_um * size[:, 1]], 1)
        shade = np.clip(255 * darkness * rng.lognormal(0, 0.2, x.size), 0, 255)
        for center, half, turn, grey in zip(np.stack([x, y], 1), axes, angle, shade, strict=True):
            at, radii = np.rint(center * 16).astype(int).tolist(), np.rint(half * 16).astype(int).tolist()
            cv2.ellipse(canvas, at, radii, float(turn), 0, 360, int(grey), -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 0.8) * layout.inside


def _draw_blood(layout: _Layout, rng: Generator) -> Field:
    """Draw red blood cells in capillaries; return their density in [0, 1]."""
    shape = layout.inside.shape
    canvas = np.zeros(shape, np.uint8)
    vessels = _ramp(_noise(shape, 70, rng) - 2.2, 0.1) * layout.stroma
    x, y = _scatter(vessels, 7.0, 0.9, rng)
    for center in np.rint(np.stack([x, y], 1) * 16).astype(int).tolist():
        cv2.circle(canvas, center, int(rng.uniform(2.8, 3.8) * 16), 255, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 0.7)


def _streaks(director: Field, rng: Generator) -> Field:
    """Return noise blurred along the fibres' direction: the myofibrils of muscle, without SHG here."""
    height, width = director.shape
    noise = rng.normal(0, 1, director.shape).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    cos, sin = np.cos(director), np.sin(director)
    smeared = np.zeros(director.shape, np.float32)
    for offset in range(-12, 13, 2):
        smeared += cv2.remap(noise, x + offset * cos, y + offset * sin, cv2.INTER_LINEAR)
    return smeared / smeared.std()


def _vacuoles(shape: tuple[int, int], rng: Generator) -> Field:
    """Return the round, densely packed vacuoles of fat cells."""
    canvas = np.zeros(shape, np.uint8)
    x, y = _scatter(np.ones(shape, np.float32), 46.0, 1.0, rng)
    for center in np.rint(np.stack([x, y], 1) * 16).astype(int).tolist():
        cv2.circle(canvas, center, int(rng.uniform(17, 25) * 16), 255, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 0.8)


def _scatter(where: Field, spacing: float, chance: float, rng: Generator) -> tuple[Field, Field]:
    """Return random positions (x, y), pixels, at least roughly `spacing` pixels apart.

    They are the points of a grid, each moved a little at random. A point is kept with
    the probability `chance` times the square of `where`.
    """
    height, width = where.shape
    y, x = np.mgrid[0 : height / spacing, 0 : width / spacing]
    x = (x + 0.5 * (y % 2) + rng.uniform(-0.3, 0.3, x.shape)).ravel() * spacing
    y = (y + rng.uniform(-0.3, 0.3, y.shape)).ravel() * spacing
    kept = rng.random(x.size) < chance * np.square(_sample(where, x, y))
    return x[kept].astype(np.float32), y[kept].astype(np.float32)


def _sample(field: Field, x: NDArray[np.floating], y: NDArray[np.floating]) -> Field:
    """Return the values of an array at the pixels nearest to (x, y)."""
    rows = np.clip(np.rint(y).astype(int), 0, field.shape[0] - 1)
    columns = np.clip(np.rint(x).astype(int), 0, field.shape[1] - 1)
    return field[rows, columns]


def _noise(shape: tuple[int, int], scale_um: float, rng: Generator) -> Field:
    """Return smooth random values of unit variance whose spots are about `scale_um` wide."""
    step = max(scale_um / PIXEL_SIZE_UM / 2, 1.0)
    coarse = rng.normal(0, 1, (int(shape[0] / step) + 4, int(shape[1] / step) + 4)).astype(np.float32)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 0.8)
    coarse /= coarse.std() + 1e-6
    height, width = int(coarse.shape[0] * step), int(coarse.shape[1] * step)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]


def _ramp(field: Field, width: float) -> Field:
    """Return 0 below zero and 1 above, with a linear transition of the given width."""
    return np.clip(field / width + 0.5, 0, 1).astype(np.float32)
