"""Slides and candidates on a viewer model: no display needed."""

from __future__ import annotations

import gc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel

from comir_search.pictures.display import Contrast
from comir_search.pictures.palette import VERDICT_COLOURS
from comir_search.progress import finish
from comir_search.records import Candidate, Verdict
from comir_search.slides import open_slide, slide_from_array
from napari_comir_search.jobs.slides import open_slide_steps
from napari_comir_search.manifest import get_project_reader, get_slide_reader, read_project
from napari_comir_search.view.candidates import CandidateLayers, fly_to
from napari_comir_search.view.layers import contrast_of
from napari_comir_search.view.outline import full_resolution
from napari_comir_search.view.slide import slide_layer


def make_candidate(rank: int, x: float, y: float, angle_deg: float = 0.0) -> Candidate:
    return Candidate(rank, "a.tif", x, y, 0.5, 60.0, 40.0, angle_deg, False, 0.5, 0.9, "p")


def test_the_reader_gives_levels_in_um(study) -> None:
    path = str(study.slides / "first.ome.tif")
    (layer,) = get_slide_reader(path)(path)
    viewer = ViewerModel()
    image = viewer.add_image(layer[0], **layer[1])
    assert image.multiscale and [level.shape for level in image.data] == [
        (800, 1000, 3), (400, 500, 3), (200, 250, 3),
    ]  # fmt: skip
    assert image.rgb and tuple(image.scale) == (1.0, 1.0)
    assert [str(unit) for unit in image.units] == ["micrometer", "micrometer"]
    with open_slide(path) as slide:
        np.testing.assert_array_equal(
            np.asarray(image.data[0][400:410, 500:520]), slide.read_level(0, 500, 400, 20, 10)
        )
    del viewer, image, layer
    with warnings.catch_warnings():  # the file is open as long as its layer
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_the_reader_leaves_what_is_not_its_own(tmp_path) -> None:
    (tmp_path / "x.comirindex").mkdir()
    assert get_project_reader(str(tmp_path / "x.comirindex")) is None
    assert get_project_reader(str(tmp_path / "none.comirproj")) is None
    assert get_slide_reader(str(tmp_path / "none.svs")) is None
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("no slide")
    assert (
        get_slide_reader(str(tmp_path / "letters")) is get_project_reader(str(tmp_path / "letters")) is None
    )


def test_a_folder_of_slides_is_no_slide_but_opens_in_the_dock(study) -> None:
    assert get_slide_reader(str(study.slides)) is None
    assert get_project_reader(str(study.slides)) is read_project


def test_dark_grey_slides_get_contrast(tmp_path) -> None:
    import tifffile

    image = np.random.default_rng(0).integers(0, 4095, (200, 200)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "shg.tif", image, resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    with open_slide(tmp_path / "shg.tif") as slide:
        info = slide.info
    slide, limits = finish(open_slide_steps(info))
    assert limits[0] < 100 and 4000 < limits[1] < 4096
    assert slide_layer(slide, limits)[1]["contrast_limits"] == limits
    slide.close()


def test_12_bit_colours_are_shown_over_the_range_that_they_use(tmp_path) -> None:
    import tifffile

    image = np.random.default_rng(0).integers(0, 4096, (300, 200, 3)).astype(np.uint16)
    image[:150] = 4095  # glass
    options = {"photometric": "rgb", "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image, subifds=1, tile=(64, 64), **options)
        file.write(image[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb")
    with open_slide(tmp_path / "a.tif") as slide:
        info = slide.info
    slide, limits = finish(open_slide_steps(info))
    assert limits == (0, 4095)
    data, options, _ = slide_layer(slide, limits)
    layer = ViewerModel().add_image(data, **options)
    assert layer.rgb and all(level.dtype == np.uint8 for level in layer.data)
    shown = np.asarray(layer.data[0][100:250, 10:20])
    np.testing.assert_array_equal(shown, np.round(image[100:250, 10:20] / 4095 * 255))
    # What is cut out of it as a query is as stored, and so is the contrast.
    np.testing.assert_array_equal(full_resolution(layer)[0:300, 0:200], image)
    assert contrast_of(layer) == Contrast(0, 4095)
    slide.close()


@pytest.fixture
def drawn():
    viewer = ViewerModel()
    slide = slide_from_array(np.zeros((400, 600, 3), np.uint8), pixel_size_um=0.5, name="a.tif")
    data, options, _ = slide_layer(slide)
    image = viewer.add_image(data, **options)
    layers = CandidateLayers(viewer)
    candidates = [make_candidate(1, 300.0, 200.0, 30.0), make_candidate(2, 100.0, 80.0)]
    layers.show(candidates, [Verdict.NONE, Verdict.ACCEPTED], 1, image)
    return SimpleNamespace(viewer=viewer, image=image, layers=layers, candidates=candidates)


def test_rectangles_lie_where_the_candidates_are(drawn) -> None:
    np.testing.assert_allclose(
        drawn.layers.outlines.data[1], [[39.5, 39.5], [39.5, 159.5], [119.5, 159.5], [119.5, 39.5]]
    )
    np.testing.assert_allclose(drawn.layers.outlines.data[0].mean(axis=0), [199.5, 299.5])
    assert tuple(drawn.layers.outlines.scale) == tuple(drawn.image.scale)
    assert drawn.layers.outlines.units == drawn.layers.pins.units == drawn.image.units
    assert list(drawn.layers.pins.text.values) == ["1", "2"]


def test_colours_tell_the_verdict_and_width_the_current_one(drawn) -> None:
    outlines = drawn.layers.outlines
    np.testing.assert_allclose(outlines.edge_color[1][:3] * 255, VERDICT_COLOURS[Verdict.ACCEPTED], atol=0.5)
    assert outlines.edge_width[0] > outlines.edge_width[1]
    drawn.layers.mark(drawn.candidates, [Verdict.REJECTED, Verdict.ACCEPTED], 2)
    np.testing.assert_allclose(outlines.edge_color[0][:3] * 255, VERDICT_COLOURS[Verdict.REJECTED], atol=0.5)
    assert outlines.edge_width[1] > outlines.edge_width[0]
    assert list(outlines.features["verdict"]) == ["rejected", "accepted"]
    np.testing.assert_allclose(drawn.layers.pins.face_color, outlines.edge_color)


def test_another_answer_is_drawn_with_the_same_layers(drawn) -> None:
    """napari takes long to make layers, and a running search answers several times."""
    outlines, pins = drawn.layers.outlines, drawn.layers.pins
    drawn.layers.toggle()
    more = [make_candidate(rank, 50.0 * rank, 200.0, 10.0 * rank) for rank in (1, 2, 3, 4)]
    for candidates in (more, more[2:], more[:3]):
        drawn.layers.show(candidates, [Verdict.REJECTED] * len(candidates), candidates[0].rank, drawn.image)
        assert drawn.layers.outlines is outlines and drawn.layers.pins is pins
        assert len(drawn.viewer.layers) == 3 and not outlines.visible and not pins.visible
        for shape, candidate in zip(outlines.data, candidates, strict=True):
            np.testing.assert_allclose(
                shape.mean(axis=0) + 0.5, [candidate.center_y_px, candidate.center_x_px]
            )
        assert list(outlines.features["rank"]) == list(pins.text.values)
        assert list(pins.text.values) == [str(candidate.rank) for candidate in candidates]
        assert set(outlines.shape_type) == {"polygon"} and not outlines.face_color.any()
        assert set(np.ravel(pins.size)) == {1} and not np.any(pins.border_width)
        assert outlines.edge_width[0] > outlines.edge_width[1]
    assert not outlines.editable and not pins.editable


def test_candidates_follow_the_frame_of_the_slide(drawn) -> None:
    other = drawn.viewer.add_image(np.zeros((400, 600), np.uint8), scale=(0.25, 0.25), units=("um", "um"))
    drawn.layers.show(drawn.candidates, [Verdict.NONE] * 2, 1, other)
    assert tuple(drawn.layers.outlines.scale) == tuple(drawn.layers.pins.scale) == (0.25, 0.25)
    assert len(drawn.viewer.layers) == 4


def test_a_click_finds_the_candidate(drawn) -> None:
    assert drawn.layers.rank_at((100.0, 150.0)) == 1  # um
    assert drawn.layers.rank_at((40.0, 50.0)) == 2
    assert drawn.layers.rank_at((5.0, 280.0)) is None
    drawn.layers.toggle()
    assert drawn.layers.rank_at((40.0, 50.0)) is None
    assert not drawn.layers.pins.visible


def test_drawing_keeps_the_active_layer(drawn) -> None:
    drawn.viewer.layers.selection.active = drawn.image
    drawn.layers.show(drawn.candidates, [Verdict.NONE] * 2, 2, drawn.image)
    assert drawn.viewer.layers.selection.active is drawn.image
    assert len(drawn.viewer.layers) == 3
    drawn.layers.clear()
    assert list(drawn.viewer.layers) == [drawn.image]


def test_fly_to_centres_the_candidate(drawn) -> None:
    fly_to(drawn.viewer, drawn.candidates[1])
    assert drawn.viewer.scene.camera.center[1:] == pytest.approx((39.75, 49.75))


def test_pins_grow_with_the_scaling_of_the_desktop() -> None:
    viewer = ViewerModel()
    slide = viewer.add_image(np.zeros((100, 200), np.uint8), scale=(0.5, 0.5), units=("um", "um"))
    layers = CandidateLayers(viewer)
    layers.pin_px *= 2
    layers.show([make_candidate(1, 60, 50)], [Verdict.NONE], 1, slide)
    assert tuple(layers.pins.canvas_size_limits) == (44, 44)


def test_hidden_candidates_stay_hidden_after_an_empty_answer(drawn) -> None:
    drawn.layers.toggle()
    drawn.layers.show([], [], None, drawn.image)
    drawn.layers.show(drawn.candidates, [Verdict.NONE, Verdict.NONE], 1, drawn.image)
    assert not drawn.layers.outlines.visible and not drawn.layers.pins.visible


def test_a_selected_pin_does_not_outlive_its_answer(drawn) -> None:
    drawn.layers.pins.selected_data = {1}
    drawn.layers.show(drawn.candidates[:1], [Verdict.NONE], 1, drawn.image)
    assert not drawn.layers.pins.selected_data


def test_numbers_are_read_on_their_pins() -> None:
    """Contrast of 3 or more, as WCAG asks of large text."""
    from napari.utils.colormaps.standardize_color import transform_color

    from comir_search.pictures.palette import TEXT_COLOURS

    def light(colour) -> float:
        share = np.asarray(colour[:3], float)
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    for verdict, colour in VERDICT_COLOURS.items():
        pair = light(np.array(colour) / 255), light(transform_color(TEXT_COLOURS[verdict])[0])
        assert max(pair) / min(pair) >= 3, verdict


def test_each_number_has_the_colour_of_its_verdict(study) -> None:
    viewer = ViewerModel()
    with open_slide(study.slides / "first.ome.tif") as slide:
        data, options, _ = slide_layer(slide)
        layer = viewer.add_image(data, **options)
    candidates = CandidateLayers(viewer)
    verdicts = [Verdict.NONE, Verdict.UNSURE]
    candidates.show([make_candidate(1, 50, 50), make_candidate(2, 90, 90)], verdicts, 1, layer)
    colours = candidates.pins.text.color(candidates.pins.features)
    np.testing.assert_array_equal(np.asarray(colours)[:, :3], [[1, 1, 1], [0, 0, 0]])
