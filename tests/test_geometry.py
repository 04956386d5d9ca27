"""Coordinates: the convention of the design, and round trips."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comir_search import geometry
from comir_search.opencv import cv2
from comir_search.records import Candidate

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("steady")

angles = st.floats(-720, 720, allow_nan=False)
sizes = st.floats(0.05, 50)
lengths = st.floats(1, 5000)
places = st.floats(-5000, 100_000)


def candidate(x=1000.0, y=2000.0, width_um=96.0, height_um=64.0, angle_deg=0.0, mirrored=False, size_um=0.5):
    return Candidate(
        rank=1, slide="a.tif", center_x_px=x, center_y_px=y, pixel_size_um=size_um, width_um=width_um,
        height_um=height_um, angle_deg=angle_deg, mirrored=mirrored, score=1.0, confidence=1.0,
    )  # fmt: skip


candidates = st.builds(
    candidate,
    x=places,
    y=places,
    width_um=lengths,
    height_um=lengths,
    angle_deg=angles,
    mirrored=st.booleans(),
    size_um=sizes,
)


@given(angles)
def test_angles_are_normalised(angle_deg):
    normal = geometry.normalise_angle_deg(angle_deg)
    assert -180 < normal <= 180
    assert math.isclose(math.cos(math.radians(normal - angle_deg)), 1, abs_tol=1e-9)


def test_half_a_turn_is_positive():
    assert [geometry.normalise_angle_deg(angle) for angle in (180, -180, 540, 0, 360, -190)] == [
        180,
        180,
        180,
        0,
        0,
        170,
    ]


@given(angles, angles)
def test_difference_of_angles(first, second):
    difference = geometry.angle_difference_deg(first, second)
    assert 0 <= difference <= 180
    assert difference == pytest.approx(geometry.angle_difference_deg(second, first), abs=1e-9)
    assert difference == pytest.approx(geometry.angle_difference_deg(first + 360, second), abs=1e-6)


@given(st.lists(st.tuples(places, places), min_size=1, max_size=5))
def test_frames_are_half_a_pixel_apart(points):
    np.testing.assert_allclose(
        geometry.center_to_corner(geometry.corner_to_center(points)), points, atol=1e-9
    )
    np.testing.assert_allclose(geometry.corner_to_center([[0.5, 0.5]]), [[0, 0]])  # the first pixel's centre


@given(candidates, st.tuples(lengths, lengths))
def test_offsets_follow_the_convention(found, offset_um):
    """dx = cos(a) du - sin(a) dv, dy = sin(a) du + cos(a) dv, dx negated where mirrored."""
    shape = (round(found.height_um / 0.7) + 1, round(found.width_um / 0.7) + 1)
    matrix = geometry.query_to_slide(found, shape, 0.7)
    du, dv = offset_um
    middle = np.array([shape[1], shape[0]]) / 2
    place = geometry.transform(matrix, middle + np.array([du, dv]) / 0.7)
    a = math.radians(found.angle_deg)
    dx, dy = math.cos(a) * du - math.sin(a) * dv, math.sin(a) * du + math.cos(a) * dv
    expected_um = np.array([found.center_x_um + (-dx if found.mirrored else dx), found.center_y_um + dy])
    np.testing.assert_allclose(place * found.pixel_size_um, expected_um, rtol=1e-9, atol=1e-6)


@given(candidates)
def test_corners_are_the_query_s_corners(found):
    shape = (64, round(64 * found.width_um / found.height_um) or 1)
    size_um = found.width_um / shape[1]
    matrix = geometry.query_to_slide(found, shape)
    upper_left, upper_right = geometry.transform(matrix, [[0, 0], [shape[1], 0]])
    corners = geometry.candidate_corners_px(found)
    if abs(shape[0] * size_um - found.height_um) < 1e-9 * found.height_um:
        np.testing.assert_allclose(corners[:2], [upper_left, upper_right], rtol=1e-9, atol=1e-6)
    sides = np.linalg.norm(np.diff(corners, axis=0, append=corners[:1]), axis=1) * found.pixel_size_um
    np.testing.assert_allclose(sides, [found.width_um, found.height_um] * 2, rtol=1e-6)
    np.testing.assert_allclose(corners.mean(axis=0), [found.center_x_px, found.center_y_px], atol=1e-6)


@given(candidates)
def test_rectangles_are_read_back(found):
    found = candidate(**{**vars_of(found), "mirrored": False})
    centre, width, height, angle_deg = geometry.rectangle_from_corners(geometry.candidate_corners_px(found))
    np.testing.assert_allclose(centre, [found.center_x_px, found.center_y_px], atol=1e-6)
    assert width * found.pixel_size_um == pytest.approx(found.width_um, rel=1e-6)
    assert height * found.pixel_size_um == pytest.approx(found.height_um, rel=1e-6)
    assert geometry.angle_difference_deg(angle_deg, found.angle_deg) < 1e-3


def vars_of(found: Candidate) -> dict:
    return {
        "x": found.center_x_px, "y": found.center_y_px, "width_um": found.width_um,
        "height_um": found.height_um, "angle_deg": found.angle_deg, "size_um": found.pixel_size_um,
    }  # fmt: skip


@given(candidates)
def test_frames_of_matrices(found):
    """Mapping pixel-centre indices is mapping their places, half a pixel off at both ends."""
    matrix = geometry.query_to_slide(found, (40, 30), 0.7)
    indices = np.array([[0.0, 0.0], [29.0, 0.0], [7.0, 31.0]])
    through_corners = geometry.corner_to_center(
        geometry.transform(matrix, geometry.center_to_corner(indices))
    )
    through_centres = geometry.transform(geometry.center_frame_matrix(matrix), indices)
    np.testing.assert_allclose(through_centres, through_corners, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [0, 37, 90, -120, 180])
@pytest.mark.parametrize("upsample", [1, 2])
def test_queries_cut_by_rotation_lie_where_the_matrix_says(angle_deg, mirrored, upsample):
    """A query cut as the acceptance tool cuts it: flip, turn counter-clockwise with OpenCV, enlarge."""
    side, centre, width = 60, (71.3, 64.8), 150
    y, x = np.mgrid[0:140, 0:width] + 0.5
    places_of_pixels = np.dstack([x, y]).astype(np.float32)  # each pixel holds its own place
    image = np.ascontiguousarray(places_of_pixels[:, ::-1] if mirrored else places_of_pixels)
    cx, cy = (width - centre[0] if mirrored else centre[0]), centre[1]
    turn = np.vstack([cv2.getRotationMatrix2D((cx, cy), angle_deg, 1.0), [0, 0, 1]])
    turn[:2, 2] += [side / 2 - cx, side / 2 - cy]
    matrix = geometry.center_frame_matrix(np.diag([upsample, upsample, 1.0]) @ turn)
    query = cv2.warpAffine(image, matrix[:2], (side * upsample, side * upsample), flags=cv2.INTER_LINEAR)

    found = candidate(*centre, side * 2.0, side * 2.0, angle_deg, mirrored, size_um=2.0)
    to_slide = geometry.query_to_slide(found, query.shape[:2])
    indices = np.array([[5, 9], [side * upsample - 7, 12], [30, 40]])
    told = geometry.transform(to_slide, geometry.center_to_corner(indices))
    held = query[indices[:, 1], indices[:, 0]]
    np.testing.assert_allclose(told, held, atol=0.1)


def test_place_error():
    assert geometry.place_error_px(candidate(x=3, y=4), 0, 0) == 5


@pytest.mark.parametrize("seed", range(20))
def test_cells_of_a_coarser_grid_never_drift(seed):
    rng = np.random.default_rng(seed)
    cell, count = float(rng.uniform(0.3, 60)), int(rng.integers(1, 5000))
    numbers = np.arange(count)
    middles = (numbers + 0.5) * cell
    assert np.array_equal(geometry.cells_at(middles, cell, count), numbers)
    assert geometry.cells_at([-1.0, cell * (count + 3)], cell, count).tolist() == [0, count - 1]
    first, last = sorted(rng.integers(0, count, 2).tolist())
    assert geometry.cells_under(middles[first], middles[last] + cell / 4, cell) == slice(first, last + 1)
