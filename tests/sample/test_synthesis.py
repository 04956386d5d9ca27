"""The synthetic sample: of known place, plausible, and no help to raw correlation."""

import csv

import numpy as np
import pytest
import tifffile

from comir_search.geometry import center_frame_matrix, query_to_slide
from comir_search.opencv import cv2
from comir_search.progress import finish
from comir_search.records import Candidate
from comir_search.sample.synthesis import LABEL, TRUTH_COLUMNS, make_sample_steps
from comir_search.sample.synthetic_tissue import EOSIN, HAEMATOXYLIN, WHITE, simulate_tissue_steps


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return finish(make_sample_steps(tmp_path_factory.mktemp("sample"), seed=1))


@pytest.fixture(scope="module")
def tissue():
    return finish(simulate_tissue_steps(1400, 1200, seed=0))


def truth_rows(sample):
    with sample.truth.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_and_truth(sample):
    rows = truth_rows(sample)
    assert tuple(rows[0]) == TRUTH_COLUMNS
    assert [path.name for path in sample.queries] == [row["query"] for row in rows]
    assert all(path.is_file() for path in (*sample.slides, *sample.queries))
    assert [bool(row["slide"]) for row in rows] == [True] * 5 + [False]
    assert {row["slide"] for row in rows if row["slide"]} <= {path.name for path in sample.slides}


def test_everything_says_that_it_is_synthetic(sample):
    for path in (*sample.slides, *sample.queries):
        assert path.name.startswith("synthetic")
        with tifffile.TiffFile(path) as tiff:
            assert LABEL in tiff.pages[0].description


def test_slides_and_queries_open_with_pixel_size(sample):
    from comir_search.slides import open_slide

    with open_slide(sample.slides[0]) as slide:
        assert (slide.pixel_size_um, slide.channels, len(slide.level_shapes)) == (1.0, 3, 4)
    with open_slide(sample.queries[0]) as query:
        assert (query.pixel_size_um, query.channels, query.dtype) == (0.8, 1, "uint16")


def test_queries_show_the_collagen_at_their_place(sample):
    # Collagen is where eosin is without haematoxylin: cut from the slide at the stated place and
    # turned by the stated angle it must agree with the query, and not when turned otherwise.
    slide = tifffile.imread(sample.slides[0]).astype(np.float32)
    dyes = np.stack([HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN)])
    amounts = -np.log10(np.clip(slide / WHITE, 0.02, 1)) @ np.linalg.inv(dyes)
    pinkness = cv2.GaussianBlur((amounts[..., 1] - amounts[..., 0]).astype(np.float32), (0, 0), 2)
    for row in truth_rows(sample)[:4]:
        query = tifffile.imread(sample.queries[0].with_name(row["query"])).astype(np.float32)
        query = cv2.GaussianBlur(query, (0, 0), 2)
        correlation = {}
        for turn in (0, 90, 180):
            place = Candidate(
                1,
                row["slide"],
                float(row["center_x_px"]),
                float(row["center_y_px"]),
                1.0,
                float(row["side_um"]),
                float(row["side_um"]),
                float(row["angle_deg"]) + turn,
                False,
                1,
                1,
            )
            matrix = center_frame_matrix(query_to_slide(place, query.shape))[:2]
            there = cv2.warpAffine(
                pinkness, matrix, query.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            )
            correlation[turn] = np.corrcoef(there.ravel(), query.ravel())[0, 1]
        assert correlation[0] > 0.35
        assert correlation[0] > max(correlation[90], correlation[180]) + 0.2


def test_same_seed_same_tissue(tissue):
    again, other = (
        finish(simulate_tissue_steps(1400, 1200, seed=0)),
        finish(simulate_tissue_steps(1400, 1200, seed=5)),
    )
    np.testing.assert_array_equal(again.brightfield, tissue.brightfield)
    np.testing.assert_array_equal(again.emission, tissue.emission)
    assert not np.array_equal(other.inside, tissue.inside)


def test_same_picture_same_slide(tissue, tmp_path):
    from comir_search.sample.synthesis import _write_slide

    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        _write_slide(tmp_path / name / "slide.ome.tif", tissue.brightfield)
    first, again = (tmp_path / name / "slide.ome.tif" for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_glass_is_white_and_dark(tissue):
    glass = cv2.erode((~tissue.inside).astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(tissue.brightfield[glass].mean(axis=0) - WHITE).max() < 1.5
    assert tissue.emission[glass].max() < 0.01


def test_grey_value_tells_no_collagen_but_colour_does(tissue):
    inside = cv2.erode(tissue.inside.astype(np.uint8), np.ones((25, 25))) > 0
    picture = cv2.GaussianBlur(tissue.brightfield.astype(np.float32), (0, 0), 2)
    emission = cv2.GaussianBlur(tissue.emission, (0, 0), 2)
    amounts = -np.log10(np.clip(picture / WHITE, 0.02, 1)) @ np.linalg.pinv(np.stack([HAEMATOXYLIN, EOSIN]))

    def correlation(values):
        return np.corrcoef(values[inside], emission[inside])[0, 1]

    assert abs(correlation(picture.mean(axis=2))) < 0.15
    assert correlation(amounts[..., 1]) > 0.35 and correlation(amounts[..., 0]) < -0.1


def shrink(image, pixel_size_um, to_um):
    scale = pixel_size_um / to_um
    return cv2.resize(image.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def best_places(slide, query, angles_deg):
    """Correlate a turned query with a slide; yield the highest and the lowest score and their centres."""
    side = len(query)
    middle = (side - 1) / 2
    y, x = np.mgrid[:side, :side] - middle
    disc = (np.hypot(x, y) < side / 2).astype(np.float32)
    for angle_deg in angles_deg:
        turn = cv2.getRotationMatrix2D((middle, middle), -angle_deg, 1)
        turned = cv2.warpAffine(query, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
        scores = cv2.matchTemplate(slide, turned, cv2.TM_CCOEFF_NORMED, mask=disc)
        scores[~np.isfinite(scores) | (np.abs(scores) > 1.01)] = 0  # empty glass
        for sign in (1, -1):
            row, column = np.unravel_index(np.argmax(sign * scores), scores.shape)
            yield sign, sign * float(scores[row, column]), (column + side / 2, row + side / 2)


def test_raw_correlation_finds_no_query(sample):
    # Grey slide against SHG, at any place and angle, bright on bright or bright on dark.
    size_um = 8.0
    slides = {path.name: shrink(tifffile.imread(path).mean(axis=2), 1.0, size_um) for path in sample.slides}
    for row in truth_rows(sample)[:5]:
        query = shrink(tifffile.imread(sample.queries[0].with_name(row["query"])), 0.8, size_um)
        truth_px = np.array([float(row["center_x_um"]), float(row["center_y_um"])]) / size_um
        angles_deg = [*np.arange(-180, 180, 8.0), float(row["angle_deg"])]
        places = [
            (sign, score, name == row["slide"] and np.hypot(*(truth_px - place)) < len(query) / 4)
            for name, slide in slides.items()
            for sign, score, place in best_places(slide, query, angles_deg)
        ]
        for sign in (1, -1):
            assert not max(place for place in places if place[0] == sign)[2], row["query"]
