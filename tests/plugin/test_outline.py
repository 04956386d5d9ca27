from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from comir_search.errors import ComirSearchError
from comir_search.geometry import candidate_corners_px, corner_to_center
from comir_search.progress import finish
from comir_search.records import Candidate
from napari_comir_search.jobs.queries import cut_steps
from napari_comir_search.view.layers import KEY
from napari_comir_search.view.outline import Outline, layer_pixel_size, upright_first


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_rectangle_reads_the_same_from_any_corner(first: int, is_reversed: bool) -> None:
    corners = np.array([[10, 20], [40, 30], [36, 42], [6, 32.0]])
    turned = np.roll(corners, first, axis=0)
    np.testing.assert_allclose(upright_first(turned[::-1] if is_reversed else turned), corners)


@pytest.mark.parametrize("angle_deg", [0, 37, -30])
def test_a_drawn_rectangle_is_cut_where_it_was_drawn(angle_deg: float) -> None:
    viewer = ViewerModel()
    rows, columns = np.mgrid[:300, :400]
    image = np.stack([rows / 300, columns / 400, np.zeros_like(rows, float)], axis=-1).astype(np.float32)
    target = viewer.add_image(image, rgb=True, scale=(2, 2), translate=(50, -10), units=("um", "um"))
    outline = Outline(viewer, target)
    drawn = Candidate(0, "", 201.0, 151.0, 2.0, 160.0, 120.0, angle_deg, False, 0, 0)
    outline.layer.add_rectangles([corner_to_center(candidate_corners_px(drawn))[:, ::-1]])
    outline.keep_last()
    place = outline.place()
    assert (place.center_x_px, place.center_y_px) == pytest.approx((201, 151))
    assert (place.width_um, place.height_um, place.angle_deg) == pytest.approx((160, 120, angle_deg))
    cut = finish(cut_steps(image, place, "cut")).image
    assert cut.shape == (60, 80, 3)
    # Row and column are coded in red and green: the middle must be where the rectangle's middle was.
    middle = cut[29:31, 39:41].mean(axis=(0, 1))
    assert middle[:2] == pytest.approx([150.5 / 300, 200.5 / 400], abs=0.5 / 300)
    outline.close()
    assert list(viewer.layers) == [target]


def test_nothing_drawn_is_told() -> None:
    viewer = ViewerModel()
    outline = Outline(viewer, viewer.add_image(np.zeros((50, 50)), units=("um", "um")))
    with pytest.raises(ComirSearchError, match="drag a rectangle"):
        outline.place()
    outline.layer.add_rectangles([[[0, 0], [0, 4], [3, 4], [3, 0]]])
    with pytest.raises(ComirSearchError, match="too small"):
        outline.place()


@pytest.mark.parametrize(
    ("units", "scale", "expected"), [("um", 0.5, 0.5), ("nm", 250, 0.25), ("pixel", 1, None)]
)
def test_pixel_size_of_a_layer(units: str, scale: float, expected: float | None) -> None:
    layer = ViewerModel().add_image(np.zeros((9, 9)), scale=(scale, scale), units=(units, units))
    assert layer_pixel_size(layer).um == (None if expected is None else pytest.approx(expected))


def test_a_layer_states_no_pixel_size_that_a_file_would_not_be_believed() -> None:
    def layer(scale: tuple[float, float], **own: float):
        return ViewerModel().add_image(np.zeros((9, 9)), scale=scale, units=("um", "um"), metadata={KEY: own})

    dpi_300 = 25400 / 300
    found = layer_pixel_size(layer((dpi_300,) * 2))
    assert found.um is None and "print density (300 dpi)" in found.doubt
    assert layer_pixel_size(layer((50.0, 50.0))).um is None
    assert layer_pixel_size(layer((50.0, 50.0), pixel_size_um=50.0)).um == 50.0  # which the user gave
    with pytest.raises(ComirSearchError, match="not square"):
        layer_pixel_size(layer((0.5, 0.6)))


def test_volumes_are_refused() -> None:
    viewer = ViewerModel()
    with pytest.raises(ComirSearchError, match="two dimensions"):
        Outline(viewer, viewer.add_image(np.zeros((3, 50, 50))))
