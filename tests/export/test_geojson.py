"""QuPath annotations: their form, their place, and back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.export.geojson import read_geojson, write_geojson
from comir_search.geometry import candidate_corners_px
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.study.entries import Judgement

BASE = Candidate(1, "a.svs", 1234.56, 789.01, 0.499, 400.0, 250.0, 33.3, False, 0.61, 0.97, "f1")


def result(*candidates):
    return SearchResult("q.tif", True, "", {}, candidates)


def test_feature_is_what_qupath_reads(tmp_path):
    path = tmp_path / "out.geojson"
    judged = {1: Judgement(Verdict.ACCEPTED, "clear", "Ada", "2025-01-01T00:00:00+00:00")}
    assert write_geojson(path, [result(BASE)], [judged]) == [path]
    document = json.loads(path.read_text())
    assert document["type"] == "FeatureCollection"
    (feature,) = document["features"]
    assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
    (ring,) = feature["geometry"]["coordinates"]
    assert len(ring) == 5 and ring[0] == ring[-1]
    np.testing.assert_allclose(ring[:4], candidate_corners_px(BASE), atol=0.001)
    properties = feature["properties"]
    assert properties["objectType"] == "annotation" and properties["isLocked"] is True
    assert properties["name"] == "q.tif #1"
    assert properties["classification"] == {"name": "Accepted match", "color": [0, 158, 115]}
    assert all(isinstance(value, int | float) for value in properties["measurements"].values())
    assert all(isinstance(value, str) for value in properties["metadata"].values())
    assert properties["metadata"]["slide"] == "a.svs" and properties["metadata"]["note"] == "clear"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [-179.0, -90.0, -10.5, 0.0, 45.0, 135.0, 180.0])
def test_round_trip(tmp_path, angle_deg, mirrored):
    path = tmp_path / "out.geojson"
    there = replace(BASE, angle_deg=angle_deg, mirrored=mirrored)
    write_geojson(path, [result(there)], [{1: Judgement(Verdict.UNSURE)}])
    (annotation,) = read_geojson(path)
    back = annotation.candidate
    np.testing.assert_allclose(candidate_corners_px(back), candidate_corners_px(there), atol=0.01)
    assert abs((back.angle_deg - angle_deg + 180) % 360 - 180) < 0.01
    assert back.mirrored is mirrored and back.fingerprint == "f1" and back.rank == 1
    assert annotation.query == "q.tif" and annotation.judgement.verdict is Verdict.UNSURE


def test_each_slide_gets_its_file(tmp_path):
    elsewhere = replace(BASE, rank=2, slide="b.svs")
    paths = write_geojson(tmp_path / "out.geojson", [result(BASE, elsewhere)])
    assert [path.name for path in paths] == ["out.a.svs.geojson", "out.b.svs.geojson"]
    assert [annotation.candidate.slide for annotation in read_geojson(paths[1])] == ["b.svs"]
    assert len(read_geojson(tmp_path / "out.geojson")) == 2


def test_slides_of_the_same_name_are_kept_apart(tmp_path):
    other = replace(BASE, rank=2, fingerprint="0123456789")
    paths = write_geojson(tmp_path / "out.geojson", [result(BASE, other)])
    assert [path.name for path in paths] == ["out.a.svs.01234567.geojson", "out.a.svs.f1.geojson"]
    assert [len(read_geojson(path)) for path in paths] == [1, 1]


def test_no_candidate_is_an_empty_collection(tmp_path):
    write_geojson(tmp_path / "out.geojson", [result()])
    assert json.loads((tmp_path / "out.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_annotations_of_others_are_left_out(tmp_path):
    path = tmp_path / "out.geojson"
    write_geojson(path, [result(BASE)])
    document = json.loads(path.read_text())
    document["features"].append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}})
    path.write_text(json.dumps(document))
    assert len(read_geojson(path)) == 1


@pytest.mark.parametrize("text", ["", "[1]", '{"features": 3}', '{"a": 1}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "out.geojson"
    path.write_text(text)
    with pytest.raises(ComirSearchError, match="is not a GeoJSON file"):
        read_geojson(path)


def test_frame_of_a_slide_that_qupath_crops(tmp_path):
    other = replace(BASE, rank=2, slide="b.svs", fingerprint="f2")
    paths = write_geojson(tmp_path / "out.geojson", [result(BASE, other)], origins_px={"f1": (1000.0, 500.0)})
    cropped, whole = (json.loads(path.read_text()) for path in paths)
    (ring,) = cropped["features"][0]["geometry"]["coordinates"]
    np.testing.assert_allclose(ring[:4], candidate_corners_px(BASE) - [1000, 500], atol=0.001)
    (ring,) = whole["features"][0]["geometry"]["coordinates"]
    np.testing.assert_allclose(ring[:4], candidate_corners_px(other), atol=0.001)
    assert cropped["properties"]["origins_px"] == [
        {"slide": "a.svs", "fingerprint": "f1", "origin": [1000.0, 500.0]}
    ]
    assert "add the origin" in cropped["properties"]["frame"] and "properties" not in whole
    back = read_geojson(paths[0])[0].candidate  # in the slide's own frame again
    assert (back.center_x_px, back.center_y_px) == pytest.approx((1234.56, 789.01), abs=0.01)


def test_a_place_moved_by_hand_and_an_answer_out_of_date_say_so(tmp_path):
    moved = replace(BASE, by_hand=True, confidence=None, scale=1.02)
    write_geojson(tmp_path / "out.geojson", [result(moved)], states=["out of date: its pixel size"])
    properties = json.loads((tmp_path / "out.geojson").read_text())["features"][0]["properties"]
    assert "Confidence" not in properties["measurements"] and "Score" not in properties["measurements"]
    assert properties["metadata"]["place"] == "moved by hand"
    assert properties["metadata"]["state"] == "out of date: its pixel size"
    back = read_geojson(tmp_path / "out.geojson")[0].candidate
    assert back.by_hand and back.confidence is None and back.scale == 1.02


def test_names_of_slides_cannot_leave_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    evil = [
        replace(BASE, rank=rank, slide=name)
        for rank, name in enumerate(("../../x", "a/../../y", "..", ""), 1)
    ]
    paths = write_geojson(tmp_path / "out" / "o.geojson", [result(*evil)])
    assert len(set(paths)) == 4 and all(path.parent == tmp_path / "out" and path.exists() for path in paths)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "feature",
    [
        {"type": "Feature", "geometry": None, "properties": {}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []}, "properties": None},
        {"geometry": {"type": "Polygon", "coordinates": [[[1], [2], [3], [4], [5]]]},
         "properties": {"measurements": {"Pixel size (um)": 1}}},
        {"geometry": {"type": "Polygon", "coordinates": [[["a", "b"]] * 5]},
         "properties": {"measurements": {"Pixel size (um)": 1, "Mirrored": 0, "Rank": 1}}},
    ],
)  # fmt: skip
def test_spoilt_files_are_refused(tmp_path, feature):
    path = tmp_path / "out.geojson"
    path.write_text(json.dumps({"features": [feature]}))
    with pytest.raises(ComirSearchError, match="is not a GeoJSON file"):
        read_geojson(path)
