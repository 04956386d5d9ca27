"""Windows, queries, names and intervals of the paper's protocol."""

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.evaluation.protocol import (
    QueryPlan,
    accuracy_table,
    cut_query,
    find_side,
    plan_queries,
    rank_of,
    split_starts,
    split_windows,
    wilson_interval,
)
from comir_search.geometry import turn_matrix


@pytest.mark.parametrize(
    ("length", "size", "starts"),
    [
        (834, 256, [0, 193, 385, 578]),
        (768, 256, [0, 256, 512]),
        (600, 256, [0, 172, 344]),
        (512, 256, [0, 256]),
        (256, 256, [0]),
        (200, 256, [0]),
    ],
)
def test_windows_follow_the_equidistant_rule(length, size, starts):
    assert split_starts(length, size) == starts


def test_windows_are_numbered_row_by_row_and_may_be_rectangular():
    windows = split_windows("core", (100, 150), (60, 50))
    assert [(w.number, w.x, w.y) for w in windows] == [
        (0, 0, 0), (1, 50, 0), (2, 100, 0), (3, 0, 40), (4, 50, 40), (5, 100, 40),
    ]  # fmt: skip
    assert {(w.width, w.height) for w in windows} == {(50, 60)}
    (whole,) = split_windows("core", (100, 150), None)
    assert (whole.width, whole.height) == (150, 100)


def test_queries_lie_inside_their_image_and_within_the_limits():
    windows = split_windows("core", (512, 512), (192, 192))
    plans = plan_queries(
        windows, {"core": (512, 512)}, size=128, max_rotation_deg=30, max_shift_px=20, seed=3
    )
    assert [plan.window for plan in plans] == list(range(9))
    for plan, window in zip(plans, windows, strict=True):
        shift = np.array([plan.center_x, plan.center_y]) - window.center
        assert abs(plan.angle_deg) <= 30 and (abs(shift) <= 20).all()
        corners = np.array([[-64, -64], [64, -64], [64, 64], [-64, 64]]) @ turn_matrix(plan.angle_deg).T
        corners += [plan.center_x, plan.center_y]
        assert corners.min() >= 0 and corners.max() <= 512
    again = plan_queries(
        windows, {"core": (512, 512)}, size=128, max_rotation_deg=30, max_shift_px=20, seed=3
    )
    assert again == plans


def test_full_queries_are_the_windows_themselves():
    windows = split_windows("core", (100, 100), (64, 64))
    image = np.random.default_rng(0).integers(0, 256, (99, 100, 3), np.uint8)
    plans = plan_queries(windows, {"core": (99, 100)}, size=None, max_rotation_deg=0, max_shift_px=0, seed=0)
    for plan, window in zip(plans, windows, strict=True):
        part = image[window.y : window.y + 64, window.x : window.x + 64]
        np.testing.assert_array_equal(cut_query(image, plan), part)


def test_queries_that_cannot_fit_are_refused():
    windows = split_windows("core", (100, 100), None)
    with pytest.raises(ComirSearchError, match="do not fit into core"):
        plan_queries(windows, {"core": (100, 100)}, size=120, max_rotation_deg=0, max_shift_px=0, seed=0)


def test_turned_query_shows_the_content_turned_counter_clockwise():
    image = np.zeros((101, 101), np.uint8)
    image[50, 70:73] = 255  # to the right of the centre
    plan = QueryPlan(0, "core", 50.5, 50.5, 61, 61, 90.0)
    turned = cut_query(image, plan)
    rows, columns = np.nonzero(turned > 128)
    assert set(columns) == {30} and rows.max() < 30  # counter-clockwise: above the centre
    np.testing.assert_array_equal(turned, np.rot90(image[20:81, 20:81]))


def test_names_of_the_public_dataset(tmp_path):
    names = ["R_1B_B1_SHG", "R_1B_B10_SHG", "T_1B_B1_SHG", "R_1B_B1_BF", "T_1B_B10_SHG", "R_1B_B10_BF"]
    for name in names:
        (tmp_path / f"{name}.tif").touch()
    assert {key: path.stem for key, path in find_side(tmp_path, "shg").items()} == {
        "1B_B1": "R_1B_B1_SHG", "1B_B10": "R_1B_B10_SHG",
    }  # fmt: skip
    assert {key: path.stem for key, path in find_side(tmp_path, "shg", transformed=True).items()} == {
        "1B_B1": "T_1B_B1_SHG", "1B_B10": "T_1B_B10_SHG",
    }  # fmt: skip
    assert list(find_side(tmp_path, "bf")) == ["1B_B1", "1B_B10"]


def test_plain_names_stay_as_they_are(tmp_path):
    for name in ("pancreas_16.png", "X01Y15.png", "notes.txt"):
        (tmp_path / name).touch()
    assert list(find_side(tmp_path, "shg")) == ["X01Y15", "pancreas_16"]


def test_accuracy_counts_exact_ids_only():
    table = accuracy_table([1, 3, None, 12], 20)
    assert table["acc"] == {"1": 0.25, "5": 0.5, "10": 0.5, "15": 0.75}
    assert table["chance"]["5"] == 0.25 and accuracy_table([1], 3)["chance"]["15"] == 1
    assert rank_of(7, [3, 7]) == 2 and rank_of(1, [11, 10]) is None


def test_wilson_interval_of_known_values():
    np.testing.assert_allclose(wilson_interval(5, 10), (0.23659, 0.76341), atol=1e-5)
    np.testing.assert_allclose(wilson_interval(0, 20), (0, 0.16113), atol=1e-5)
