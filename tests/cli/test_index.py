from __future__ import annotations

from comir_search import Index

from .conftest import paint_brightfield, write_image


def test_a_folder_is_indexed_and_named(command, tmp_path):
    write_image(tmp_path / "slides" / "a.ome.tif", paint_brightfield(300, 260, seed=1))
    write_image(tmp_path / "slides" / "deeper" / "b.ome.tif", paint_brightfield(260, 300, seed=2))
    answer = command("index", tmp_path / "slides", "--index", tmp_path / "index", "--device", "cpu")
    assert answer.code == 0
    assert "2 slides, bf" in answer.out
    assert "a.ome.tif  260 x 300 px  2 um/px" in answer.out
    assert "embedding a.ome.tif" in answer.err
    assert [slide.name for slide in Index.open(tmp_path / "index").slides] == ["a.ome.tif", "b.ome.tif"]


def test_a_slide_is_added_and_the_first_is_not_embedded_again(command, tmp_path, slide_file, index_folder):
    second = write_image(tmp_path / "second.ome.tif", paint_brightfield(256, 256, seed=3))
    answer = command("index", slide_file, second, "--index", index_folder)
    assert answer.code == 0
    assert "embedding second.ome.tif" in answer.err and "embedding slide.ome.tif" not in answer.err
    assert [slide.name for slide in Index.open(index_folder).slides] == ["second.ome.tif", "slide.ome.tif"]


def test_a_given_pixel_size_overrides_the_files(command, tmp_path, slide_file):
    assert command("index", slide_file, "--index", tmp_path / "index", "--pixel-size", "1.5").code == 0
    [slide] = Index.open(tmp_path / "index").slides
    assert slide.pixel_size_um == 1.5


def test_the_other_modality_can_be_indexed(command, tmp_path, query_file):
    answer = command("index", query_file, "--index", tmp_path / "index", "--modality", "shg")
    assert answer.code == 0
    assert "1 slide, shg" in answer.out
