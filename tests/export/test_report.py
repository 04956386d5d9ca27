"""The report: complete, self-contained, and safe whatever names and notes hold."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import tifffile
from PIL import Image

from comir_search.errors import ComirSearchError
from comir_search.export.report import write_report_steps
from comir_search.progress import finish
from comir_search.records import Candidate, Provenance, SearchResult, Verdict
from comir_search.slides import open_slide
from comir_search.study.project import Project


class Outline(HTMLParser):
    """Counts tags and refuses any that is left open."""

    VOID = frozenset({"meta", "img", "image", "polygon", "circle", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.counts, self.text, self.links = [], {}, [], []

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value for name, value in attributes if name in ("src", "href") and value[0] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline_of(path):
    outline = Outline()
    outline.feed(path.read_text(encoding="utf-8"))
    assert outline.open == []
    return outline, " ".join(" ".join(outline.text).split())


@pytest.fixture
def project(tmp_path):
    pixels = np.random.default_rng(0).integers(100, 255, (300, 400, 3), dtype=np.uint8)
    path = tmp_path / "a&b.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    with Project.create(tmp_path / "study.comirproj") as project:
        with open_slide(path) as slide:
            project.add_slide(slide.info)
            fingerprint = slide.fingerprint
        query = project.add_query("<q>.tif", image=pixels[:64, :64, 0], modality="shg")
        candidates = tuple(
            Candidate(rank, "a&b.tif", 60.0 * rank, 150, 1.0, 64, 64, 20.0, False, 0.5, 0.5, fingerprint)
            for rank in range(1, 6)
        )
        result = SearchResult("<q>.tif", True, "Clear & plain.", {"total": 1.0}, candidates)
        project.set_result(query, result, {"model": "m-1234", "index": "i-5678", "top": 5})
        project.set_verdict(query, candidates[4], Verdict.ACCEPTED, note="<script>x</script>", reviewer="Ada")
        project.set_verdict(query, candidates[0], Verdict.REJECTED, reviewer="Grace")
        project.add_query("dark.tif", path=tmp_path / "gone.tif")
        project.settings = {"index": "/data/index"}
        yield project


def test_settings_of_a_search_are_told_in_words(project, tmp_path):
    query = project.queries[0]
    options = {"top": 10, "mirror": False, "slides": []}
    project.set_result(query.id, query.result, {"model": "m-1234", "options": options})
    finish(write_report_steps(tmp_path / "report.html", project))
    _, text = outline_of(tmp_path / "report.html")
    assert "candidates 10 mirrored too no slides all" in text
    assert "{'" not in text and "nan µm" not in text


def test_report_is_complete(project, tmp_path):
    path = tmp_path / "report.html"
    finish(write_report_steps(path, project, top=2))
    outline, text = outline_of(path)
    # The accepted candidate and the first two: query, candidate and both; and one overview.
    assert outline.counts["img"] == 9 and outline.counts["svg"] == 1 and outline.counts["polygon"] == 10
    assert all(link.startswith("data:image/jpeg;base64,") for link in outline.links)
    for link in outline.links:
        with Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) as image:
            image.verify()
    assert "script" not in outline.counts and "<script>x</script>" in text
    for needed in ("<q>.tif", "a&b.tif", "Clear & plain.", "Ada", "Grace", "m-1234", "i-5678", "/data/index"):
        assert needed in text
    assert "1 of 2 queries found. Candidates accepted: 1, rejected: 1, unsure: 0." in text
    assert "Accepted match" in text and "Not searched yet." in text
    assert re.search(r"Position 300\.0, 150\.0 µm", text)
    assert project.slides[0].fingerprint in text


def test_report_without_the_slide_says_so(project, tmp_path):
    (tmp_path / "a&b.tif").unlink()
    finish(write_report_steps(tmp_path / "report.html", project))
    outline, text = outline_of(tmp_path / "report.html")
    assert "the slide was not found where it was" in text and "svg" not in outline.counts


def test_stopped_report_leaves_nothing(project, tmp_path):
    job = write_report_steps(tmp_path / "report.html", project)
    next(job)
    job.close()
    assert not (tmp_path / "report.html").exists()


def test_report_on_some_queries(project, tmp_path):
    finish(write_report_steps(tmp_path / "report.html", project, project.queries[1:]))
    _, text = outline_of(tmp_path / "report.html")
    assert "<q>.tif" not in text and "dark.tif" in text


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_nothing_in_a_project_can_run(project, tmp_path):
    query = project.queries[0]
    first = replace(query.result.candidates[0], slide=EVIL)
    project.set_result(
        query.id,
        replace(query.result, reason=EVIL, candidates=(first,)),
        {EVIL: EVIL, "options": {EVIL: [EVIL]}},
    )
    project.set_verdict(query.id, first, Verdict.ACCEPTED, note=EVIL, reviewer=EVIL)
    project._connection.execute("UPDATE query SET name = ?, modality = ?", (EVIL, EVIL))
    project._connection.execute("UPDATE slide SET name = ?, pixel_size_source = ?", (EVIL, EVIL))
    project._connection.execute("UPDATE verdict SET time = ?", (EVIL,))
    project.settings = {"index": EVIL, EVIL: EVIL}
    path = tmp_path / "report.html"
    finish(write_report_steps(path, project, states=[EVIL, EVIL]))
    outline, text = outline_of(path)
    assert "script" not in outline.counts and "alert(1)" in text
    assert all(link.startswith("data:image/jpeg") for link in outline.links)
    page = path.read_text(encoding="utf-8")
    assert page.index("Content-Security-Policy") < page.index("<title>")
    assert "default-src 'none'" in page and "script-src" not in page


def test_a_rank_that_is_a_script_is_refused(project, tmp_path):
    text = project._connection.execute("SELECT result FROM query WHERE id = 1").fetchone()[0]
    spoilt = text.replace('"rank": 1,', '"rank": "<script>alert(1)</script>",')
    assert spoilt != text
    project._connection.execute("UPDATE query SET result = ? WHERE id = 1", (spoilt,))
    with pytest.raises(ComirSearchError, match="is damaged"):
        finish(write_report_steps(tmp_path / "report.html", project))
    assert not (tmp_path / "report.html").exists()


def test_places_moved_by_hand_and_answers_out_of_date_are_said(project, tmp_path):
    query = project.queries[0]
    moved = replace(query.result.candidates[0], by_hand=True, confidence=None)
    uncalibrated = replace(query.result.candidates[1], confidence=None)
    project.set_result(query.id, replace(query.result, candidates=(moved, uncalibrated)))
    finish(
        write_report_steps(
            tmp_path / "report.html", project, states=["out of date: the query's pixel size was 1", ""]
        )
    )
    _, text = outline_of(tmp_path / "report.html")
    assert "Confidence moved by hand" in text and "Confidence none" in text
    assert "found, out of date" in text and "Out of date: the query's pixel size was 1" in text


def test_the_project_alone_knows_of_corrected_pixel_sizes(project, tmp_path):
    query = project.queries[0]
    origin = Provenance("q", 1.0, "shg", {}, {project.slides[0].fingerprint: 1.0}, "/i", "e", "m", "1")
    project.set_result(query.id, replace(query.result, provenance=origin))
    project.update_query(query.id, pixel_size_um=3.0)
    finish(write_report_steps(tmp_path / "report.html", project))
    _, text = outline_of(tmp_path / "report.html")
    assert "Out of date: the query's pixel size was 1 µm, now 3 µm" in text
