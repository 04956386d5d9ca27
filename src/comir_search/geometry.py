"""Coordinates: the only module that converts between frames.

The engine's frame is the **corner frame** of the slide's level 0: x right, y down,
(0, 0) at the top-left corner of the top-left pixel. napari and OpenCV put (0, 0) at
the centre of that pixel (the **centre frame**). `corner_to_center` and
`center_to_corner` convert between the two, which differ by half a pixel. Micrometres
are corner-frame pixels times the pixel size.

Angles are in degrees in (-180, 180]: the rotation of the slide's content,
counter-clockwise as seen on screen, that gives the query. Points are arrays (..., 2)
of (x, y).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comir_search.records import Candidate

FloatArray = NDArray[np.float64]


def corner_to_center(points: ArrayLike) -> FloatArray:
    """Convert pixels of the corner frame to pixel-centre indices (napari, OpenCV)."""
    return np.asarray(points, float) - 0.5


def center_to_corner(points: ArrayLike) -> FloatArray:
    """Convert pixel-centre indices (napari, OpenCV) to pixels of the corner frame."""
    return np.asarray(points, float) + 0.5


def normalise_angle_deg(angle_deg: float) -> float:
    """Return the same angle in (-180, 180]."""
    return 180.0 - (180.0 - float(angle_deg)) % 360.0


def angle_difference_deg(first_deg: float, second_deg: float) -> float:
    """Return the absolute difference of two angles, in [0, 180]."""
    return abs(normalise_angle_deg(first_deg - second_deg))


def turn_matrix(angle_deg: float, mirrored: bool = False) -> FloatArray:
    """Return the 2 x 2 matrix that maps an offset on the query to one on the slide.

    dx = cos(a) du - sin(a) dv, dy = sin(a) du + cos(a) dv, with dx negated when
    mirrored.
    """
    angle = np.deg2rad(angle_deg)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix[0] *= -1
    return matrix


def query_to_slide(
    candidate: Candidate, query_shape: tuple[int, int], query_pixel_size_um: float | None = None
) -> FloatArray:
    """Return the 3 x 3 matrix from query pixels to level-0 pixels of the slide.

    Both frames are corner frames.

    Parameters
    ----------
    candidate : Candidate
        The query's position on the slide.
    query_shape : (int, int)
        Height and width of the query image, pixels.
    query_pixel_size_um : float, optional
        Pixel size of the query; by default the candidate's width divided by the
        image's.
    """
    height, width = query_shape
    size_um = candidate.width_um / width if query_pixel_size_um is None else query_pixel_size_um
    matrix = np.eye(3)
    matrix[:2, :2] = turn_matrix(candidate.angle_deg, candidate.mirrored) * (
        size_um / candidate.pixel_size_um
    )
    centre = np.array([candidate.center_x_px, candidate.center_y_px])
    matrix[:2, 2] = centre - matrix[:2, :2] @ [width / 2, height / 2]
    return matrix


def center_frame_matrix(matrix: ArrayLike) -> FloatArray:
    """Convert a 3 x 3 matrix between corner frames to one between centre frames.

    OpenCV's warpAffine and napari's ``affine`` use the centre frame.
    """
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    return np.linalg.inv(half) @ np.asarray(matrix, float) @ half


def cells_at(positions: ArrayLike, cell: float, count: int) -> NDArray[np.intp]:
    """Return the cell of a coarser grid that contains each position; both grids share their first corner.

    `cell` must not be a rounded width: on a large slide the cells would drift away.

    Parameters
    ----------
    positions : array_like
    cell : float
        Width of a cell, in the unit of the positions.
    count : int
        Number of cells; positions beyond the last cell count as in it.
    """
    numbers = np.floor(np.asarray(positions, float) / cell).astype(np.intp)
    return np.clip(numbers, 0, count - 1)


def cells_under(start: float, stop: float, cell: float) -> slice:
    """Return the cells of a coarser grid that the interval [start, stop) touches.

    Parameters
    ----------
    start, stop : float
        The interval.
    cell : float
        Width of a cell, in the same unit; see `cells_at`.
    """
    return slice(int(start // cell), int(-(-stop // cell)))


def transform(matrix: ArrayLike, points: ArrayLike) -> FloatArray:
    """Apply a 3 x 3 matrix to points (..., 2)."""
    matrix, points = np.asarray(matrix, float), np.asarray(points, float)
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def candidate_corners_px(candidate: Candidate) -> FloatArray:
    """Return the candidate's outline on the slide.

    Returns
    -------
    ndarray (4, 2)
        Positions of the query's top-left, top-right, bottom-right and bottom-left
        corners: level-0 pixels, corner frame.
    """
    half = np.array([candidate.width_um, candidate.height_um]) / 2 / candidate.pixel_size_um
    offsets = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turned = offsets @ turn_matrix(candidate.angle_deg, candidate.mirrored).T
    return turned + [candidate.center_x_px, candidate.center_y_px]


def rectangle_from_corners(corners: ArrayLike) -> tuple[FloatArray, float, float, float]:
    """Return the centre, size and rotation of a drawn rectangle.

    Parameters
    ----------
    corners : array_like (4, 2)
        Top-left, top-right, bottom-right, bottom-left of a rectangle, at any rotation.

    Returns
    -------
    center : ndarray (2,)
    width, height : float
        In the unit of the corners.
    angle_deg : float
        Counter-clockwise rotation that makes the content upright.
    """
    corners = np.asarray(corners, float)
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    angle_deg = normalise_angle_deg(np.rad2deg(np.arctan2(across[1], across[0])))
    return corners.mean(axis=0), float(np.hypot(*across)), float(np.hypot(*down)), angle_deg


def place_error_px(candidate: Candidate, x_px: float, y_px: float) -> float:
    """Return the distance between the candidate's centre and a point, level-0 pixels.

    Parameters
    ----------
    candidate : Candidate
    x_px, y_px : float
        The point, level-0 pixels, corner frame.
    """
    return math.hypot(candidate.center_x_px - x_px, candidate.center_y_px - y_px)


def at_pixel_size(candidate: Candidate, pixel_size_um: float) -> Candidate:
    """Return the same candidate in pixels of another size, from the same corner."""
    scale = candidate.pixel_size_um / pixel_size_um
    return replace(
        candidate,
        center_x_px=candidate.center_x_px * scale,
        center_y_px=candidate.center_y_px * scale,
        pixel_size_um=pixel_size_um,
    )


def adjust_candidate(candidate: Candidate, shift_um: tuple[float, float], turn_deg: float) -> Candidate:
    """Return the candidate after the slide's content was rotated and moved in the query's frame.

    Parameters
    ----------
    candidate : Candidate
    shift_um : (float, float)
        Shift of the slide's content to the right and down in the query's view,
        after the rotation.
    turn_deg : float
        Counter-clockwise rotation of the content about the candidate's centre.
    """
    turned = replace(candidate, angle_deg=normalise_angle_deg(candidate.angle_deg + turn_deg))
    # Content that moves to the right was at the left before.
    offset_um = turn_matrix(turned.angle_deg, candidate.mirrored) @ -np.asarray(shift_um, float)
    return replace(
        turned,
        center_x_px=float(candidate.center_x_px + offset_um[0] / candidate.pixel_size_um),
        center_y_px=float(candidate.center_y_px + offset_um[1] / candidate.pixel_size_um),
    )


def turn_about(center: ArrayLike, turn_deg: float, shift: ArrayLike = (0.0, 0.0)) -> FloatArray:
    """Return the 3 x 3 matrix that rotates points about a centre and then shifts them.

    Parameters
    ----------
    center : array_like (2,)
        (x, y).
    turn_deg : float
        Rotation, counter-clockwise as seen on screen.
    shift : array_like (2,)
        (x, y).
    """
    center = np.asarray(center, float)
    matrix = np.eye(3)
    matrix[:2, :2] = turn_matrix(-turn_deg)
    matrix[:2, 2] = center + np.asarray(shift, float) - matrix[:2, :2] @ center
    return matrix


def rows_first(matrix: ArrayLike) -> FloatArray:
    """Convert a 3 x 3 matrix on (x, y) to one on (row, column), or the other way round."""
    order = [1, 0, 2]
    return np.asarray(matrix, float)[np.ix_(order, order)]


def turn_between_deg(center: ArrayLike, start: ArrayLike, end: ArrayLike) -> float:
    """Return the rotation about a centre that moves one point towards another.

    Parameters
    ----------
    center, start, end : array_like (2,)
        (x, y) of the centre and of the two points.

    Returns
    -------
    float
        Degrees, counter-clockwise as seen on screen.
    """
    first, last = np.asarray(start, float) - center, np.asarray(end, float) - center
    angles = np.rad2deg([np.arctan2(-first[1], first[0]), np.arctan2(-last[1], last[0])])
    return normalise_angle_deg(angles[1] - angles[0])
