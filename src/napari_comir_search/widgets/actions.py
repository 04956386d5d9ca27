"""The actions of the dock: each starts a job and gives its result to the session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QImage

from comir_search.errors import ComirSearchError
from comir_search.files import atomic_path
from comir_search.index.options import IndexOptions
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.retrieval.options import SearchOptions
from comir_search.study.freshness import describe_state
from comir_search.study.project import Project
from napari_comir_search.jobs.comparison import compare_steps
from napari_comir_search.jobs.export import export_steps
from napari_comir_search.jobs.index import OpenedIndex, index_steps, open_index_steps
from napari_comir_search.jobs.queries import preview_steps
from napari_comir_search.jobs.sample import sample_steps
from napari_comir_search.jobs.search import heat_map_steps, refit_steps, search_steps
from napari_comir_search.jobs.slides import (
    OpenedSlides,
    describe_slides_steps,
    open_slide_steps,
    restore_slides_steps,
)
from napari_comir_search.jobs.thumbnails import candidate_thumbnails_steps, slide_thumbnails_steps
from napari_comir_search.state.inspection import Face
from napari_comir_search.state.items import SlideItem
from napari_comir_search.state.review import describe_counts
from napari_comir_search.state.session import Session
from napari_comir_search.state.settings import read_preferences
from napari_comir_search.view.heat_map import HeatMapView
from napari_comir_search.view.layers import contrast_of
from napari_comir_search.view.slide import SlideView
from napari_comir_search.widgets.housekeeping import Housekeeper
from napari_comir_search.widgets.query_maker import QueryMaker
from napari_comir_search.widgets.worker import JobRunner

THUMBNAIL_PX = 44
OPENING_INDEX = "Opening the index"


class Workbench(QObject):
    """The actions behind the dock's buttons and keys.

    Parameters
    ----------
    viewer : napari viewer
    session : Session

    Attributes
    ----------
    loading, indexing, searching, opening, cutting, exporting, ... : JobRunner
        One for each kind of work; kinds do not wait for each other.
    asked_for : tuple of JobRunner
        Those that the user starts; the others follow.
    maker : QueryMaker
        Adds queries.
    failed, reported : Signal(str)
        A sentence to show: what failed and how to fix it, or what was done.
    noted : Signal(str)
        A sentence that is shown beside the others, until it is dismissed.
    left : Signal()
        A project is being left: nothing of it is to be kept.
    slides_missed : Signal(list)
        Names of an opened project's slides that are no longer where they were; none if all are.
    query_pictured : Signal(object)
        A `QueryPreview`.
    compared : Signal(object)
        A `Comparison`.
    slide_pictured, candidate_pictured : Signal(object)
        A `Thumbnail`.
    """

    failed = Signal(str)
    reported = Signal(str)
    noted = Signal(str)
    left = Signal()
    slides_missed = Signal(list)
    query_pictured = Signal(object)
    compared = Signal(object)
    slide_pictured = Signal(object)
    candidate_pictured = Signal(object)

    def __init__(self, viewer: Any, session: Session, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.session = session
        self.loading = JobRunner(self)
        self.indexing = JobRunner(self)
        self.searching = JobRunner(self)
        self.opening = JobRunner(self)
        self.cutting = JobRunner(self)
        self.previewing = JobRunner(self)
        self.slide_pictures = JobRunner(self)
        self.pictures = JobRunner(self)
        self.comparing = JobRunner(self)
        self.fitting = JobRunner(self)
        self.exporting = JobRunner(self)
        self.mapping = JobRunner(self)
        self.runners = [child for child in self.children() if isinstance(child, JobRunner)]
        self.asked_for = (self.loading, self.indexing, self.searching, self.fitting, self.exporting)
        for runner in self.runners:
            runner.failed.connect(self._tell_failure)
            runner.noted.connect(self.noted)
        self.housekeeper = Housekeeper(self.runners, viewer)
        self.view = SlideView(viewer, session, self._open_slide)
        self.heat_map = HeatMapView(viewer, session, self.view, self._map_slide)
        self.maker = QueryMaker(viewer, session, self.cutting, self)
        self.maker.failed.connect(self.failed)
        self.maker.noted.connect(self.noted)

    def close(self) -> None:
        """Stop all jobs, disconnect from the viewer and close the project."""
        self.keep_view()
        for runner in self.runners:
            runner.close()
        self.maker.stop_drawing()
        self.heat_map.close()
        self.view.close()
        self.session.close()
        self.housekeeper.close()

    def _tell_failure(self, error: ComirSearchError) -> None:
        damaged = getattr(
            error, "fingerprint", None
        )  # name in the index of the slide that cannot be read there
        if damaged is not None:
            self.session.mark_damaged(damaged)
        self.failed.emit(str(error))

    # Files that are dropped or opened

    def take(self, paths: Sequence[str | Path]) -> None:
        """Open what was dropped: a project, an index, or slides and folders of slides."""
        files = [Path(path) for path in paths]
        if len(files) == 1 and files[0].suffix == ".comirproj":
            self.open_project(files[0])
        elif len(files) == 1 and (files[0] / "index.json").is_file():
            self.open_index(files[0])
        else:
            self.add_slides(files)

    def open_project(self, path: str | Path) -> None:
        """Open a project with its slides and its index; where it cannot be, the present one stays."""
        try:
            project = Project.open(path)
        except ComirSearchError as error:
            self.failed.emit(str(error))
            return
        self._stop_for_project()
        self.session.take_project(project)
        self.loading.run("Opening the project", restore_slides_steps(self.session.project), self._restore)
        self.housekeeper.note_left()

    def new_project(self) -> None:
        """Begin an empty project."""
        self._stop_for_project()
        self.session.new_project()
        self.slides_missed.emit([])
        self.housekeeper.note_left()

    def save_as(self, path: str | Path) -> None:
        """Go on with the project under another name."""
        try:
            self.keep_view()
            self.session.save_as(path)
        except ComirSearchError as error:
            self.failed.emit(str(error))

    def open_sample(self) -> None:
        """Open the synthetic sample: its slides, and a patch of one of them as the query."""
        self.loading.run("Making the sample", sample_steps(), self._take_sample)

    def _take_sample(self, folder: Path) -> None:
        self.maker.add_files(sorted((folder / "queries").iterdir())[:1])
        self.add_slides([folder / "slides"])

    def keep_view(self) -> None:
        """Remember what the canvas shows, to show it again when the project is opened."""
        camera = self.viewer.scene.camera
        self.session.keep_view(slide=self.view.settled, center=list(camera.center), zoom=camera.zoom)

    def relocate(self, folder: str | Path) -> None:
        """Look in a folder for slides of the project that moved."""
        self.loading.run(
            "Searching for moved slides",
            restore_slides_steps(self.session.project, [folder]),
            self._restore,
        )

    def _restore(self, opened: OpenedSlides) -> None:
        self.session.note_missing(opened.missing)
        self.slides_missed.emit([slide.name for slide in opened.missing])
        self._take_slides(opened)  # what it says of spoilt slides comes last: they are listed nowhere
        shown = self.session.slide(self.session.view.slide or "")
        if shown is not None:
            self.view.show(shown.fingerprint, then=self._restore_camera)
        else:
            self.view.follow()

    def _restore_camera(self) -> None:
        view, camera = self.session.view, self.viewer.scene.camera
        if view.center is not None and view.zoom is not None:
            camera.center, camera.zoom = view.center, view.zoom

    def _stop_for_project(self) -> None:
        self.keep_view()
        for runner in self.runners:
            runner.cancel()
        self.view.clear(self.maker.give_up())
        self.left.emit()

    # The repository

    def add_slides(self, paths: Sequence[Path]) -> None:
        """Add slides and folders of slides."""
        job = describe_slides_steps(paths, self.session.project.slides)
        self.loading.run("Opening slides", job, self._take_slides)

    def _take_slides(self, opened: OpenedSlides) -> None:
        new = self.session.add_slides(opened.infos)
        for note in opened.notes:
            self.noted.emit(note)
        if opened.problems:
            self.failed.emit(opened.problem)
        if new and self.view.shown is None:
            self.view.show(new[0].fingerprint)
        if new and self.session.candidates:
            # Pictures of candidates could not be made before their slides were here.
            self.session.events.result.emit()
        self._picture_slides()
        if self.session.index_path is not None:
            self.open_index(self.session.index_path)

    def _picture_slides(self) -> None:
        self.slide_pictures.run(
            "Thumbnails",
            slide_thumbnails_steps(self.session.slides),
            on_partial=self.slide_pictured.emit,
        )

    def _open_slide(self, fingerprint: str, then: Callable[..., None]) -> None:
        item = self.session.slide(fingerprint)
        if item is not None:
            self.opening.run(
                f"Opening {item.info.name}", open_slide_steps(item.info), lambda found: then(*found)
            )

    def set_pixel_size(self, fingerprint: str, pixel_size_um: float) -> None:
        """Correct a slide's pixel size, on the canvas too."""
        self.session.set_pixel_size(fingerprint, pixel_size_um)
        self.view.reload(fingerprint)

    def options(self) -> IndexOptions:
        """Return how slides are indexed."""
        preferences = read_preferences()
        return IndexOptions(model=self.session.model or preferences.model or None, device=preferences.device)

    def use_model(self, path: Path) -> None:
        """Index and search with another model from now on; what was indexed with the old one is kept."""
        if not self.session.slides:
            self.session.set_model(path)
            self.reported.emit(f"{path.name} is used for the slides that you add now.")
            return
        self.session.set_model(path)
        folder = Path(self.session.slides[0].info.path).parent
        self.open_index(folder / f"{path.stem}.comirindex")
        self.reported.emit(f"{path.name} is used from now on: index the slides with it.")

    def open_index(self, path: Path) -> None:
        """Open an index and see which slides are in it."""
        self.loading.run(
            OPENING_INDEX,
            open_index_steps(path, self.session.slides, self.options()),
            self._take_index,
        )

    def index(self, items: Sequence[SlideItem]) -> None:
        """Index slides; what is done already is not done again."""
        path = self.session.index_path
        without = [item.info.name for item in items if item.info.pixel_size_um is None]
        items = [item for item in items if item.info.pixel_size_um is not None]
        if path is not None and items:
            job = index_steps(path, items, self.session.slides, self.options())
            what = items[0].info.name if len(items) == 1 else f"{len(items)} slides"
            self.indexing.run(f"Indexing {what}", job, self._take_index, self._take_index)
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            is_said = self.noted if items else self.failed
            is_said.emit(
                f"The pixel size of {without[0]}{more} is not known, so it is not indexed: click "
                "“pixel size missing” in the list, then index again."
            )

    def _take_index(self, opened: OpenedIndex) -> None:
        self.session.set_index(opened.path, opened.index, opened.states)

    # Search and review

    def preview_query(self) -> None:
        """Show the current query as the network sees it."""
        query = self.session.query
        if query is not None:
            image = self.session.query_image(query.id)
            job = preview_steps(self.session.index, query, image)
            self.previewing.run("Reading the query", job, self.query_pictured.emit)

    def search(self, options: SearchOptions) -> None:
        """Search for the current query; unless `options` names slides, in those that the user has chosen."""
        query, index = self.session.query, self.session.index
        if query is None or index is None:
            return
        self.session.search_options = options
        image = self.session.query_image(query.id)
        if options.slides is None and self.session.scope is not None:
            options = replace(options, slides=tuple(self.session.scope))
        job = search_steps(index, query, image, options)
        self.searching.run(
            f"Searching {query.name}",
            job,
            lambda result: self._end_search(query.id, result),
            lambda result: self.session.show_partial(query.id, result),
        )

    def _end_search(self, query_id: int, result: SearchResult) -> None:
        """Keep an answer, if it is still that to its query."""
        if said := self.session.end_search(query_id, result):
            self.noted.emit(said)

    def drop_partial(self) -> None:
        """Show the earlier answer again, after a search that was stopped or failed."""
        if self.session.is_refining and self.session.query is not None:
            self.session.end_search(self.session.query.id)

    def show_heat_map(self, is_wanted: bool) -> None:
        """Colour the slide by how well the query fits at each place, or stop doing so."""
        if not is_wanted:
            self.mapping.cancel()
        self.heat_map.want(is_wanted)

    def _map_slide(self, fingerprint: str, then: Callable[..., None]) -> None:
        query, index = self.session.query, self.session.index
        name = self.session.name_of(fingerprint)
        if query is not None and index is not None and name is not None:
            image = self.session.query_image(query.id)
            job = heat_map_steps(index, query, image, name, mirror=self.session.is_mirrored)
            self.mapping.run("Making the heat map", job, then)

    def picture_candidates(self) -> None:
        """Make the pictures of the current candidates."""
        pairs = [(candidate, self.session.slide_of(candidate)) for candidate in self.session.candidates]
        known = [(candidate, item.info) for candidate, item in pairs if item is not None]
        self.pictures.run(
            "Thumbnails",
            candidate_thumbnails_steps(known, THUMBNAIL_PX),
            on_partial=self.candidate_pictured.emit,
        )

    def compare(self, candidate: Candidate, item: SlideItem, faces: tuple[Face, Face]) -> None:
        """Read the pictures of the query and of a candidate.

        Parameters
        ----------
        candidate : Candidate
        item : SlideItem
            The candidate's slide.
        faces : (Face, Face)
            What to show of the query and of the slide.
        """
        query = self.session.query
        if query is not None:
            image = self.session.query_image(query.id)
            layer = self.view.layer(item.fingerprint)
            contrast = None if layer is None else contrast_of(layer)
            job = compare_steps(query, image, candidate, item.info, self.session.index, faces, contrast)
            self.comparing.run("Reading pictures", job, self.compared.emit)

    def refit(self, candidate: Candidate, then: Callable[[Candidate], None]) -> None:
        """Look for the best fit close to a place."""
        query, index = self.session.query, self.session.index
        if query is not None and index is not None:
            image = self.session.query_image(query.id)
            self.fitting.run("Fitting", refit_steps(index, query, image, candidate), then)

    def save_picture(self, picture: QImage, path: Path) -> None:
        """Write a picture of the canvas as PNG."""
        try:
            with atomic_path(path) as temporary:
                if not picture.save(str(temporary), "PNG"):
                    raise ComirSearchError(f"{path} could not be written: choose another folder.")
        except ComirSearchError as error:
            self.failed.emit(str(error))
        else:
            self.reported.emit(f"Picture saved as {path.name}.")

    def export(self, kind: str, path: Path, *, all_queries: bool) -> None:
        """Write results: "csv", "geojson" or "html".

        Parameters
        ----------
        kind : {"csv", "geojson", "html"}
        path : Path
            The file; replaced if it exists.
        all_queries : bool
            Write those of all queries, not only of the current one.
        """
        current = self.session.query
        queries = [
            query
            for query in self.session.queries
            if query.result is not None and (all_queries or query == current)
        ]
        inputs = self.session.inputs
        states = [describe_state(query, inputs) for query in queries]
        job = export_steps(kind, path, self.session.project, queries, states, self.session.names)
        self.exporting.run(f"Writing {path.name}", job, self.reported.emit)

    def judge(self, verdict: Verdict, note: str | None = None) -> None:
        """Give a verdict on the current candidate and have it on the disk."""
        self.session.reviewer = read_preferences().reviewer or None
        was_open = self.session.counts[Verdict.NONE]
        try:
            self.session.judge(verdict, note)
        except ComirSearchError as error:
            self.failed.emit(str(error))
            return
        if was_open and not self.session.counts[Verdict.NONE]:
            self.reported.emit(describe_counts(self.session.counts))

    def remove_query(self, query_id: int) -> None:
        """Remove a query from the project; Undo brings it back."""
        query = self.session.project.query(query_id)
        self.session.remove_query(query_id)
        self.reported.emit(f"{query.name} was removed. Undo brings it back.")

    def remove_slide(self, item: SlideItem) -> None:
        """Remove a slide from the project; Undo brings it back."""
        self.session.remove_slide(item.fingerprint)
        self.reported.emit(
            f"{item.info.name} was removed from the project; the file is kept. Undo brings it back."
        )

    def undo(self) -> None:
        """Undo what was done last: a verdict, a place moved by hand, a removal."""
        try:
            step = self.session.undo()
        except ComirSearchError as error:
            self.failed.emit(str(error))
            return
        if step is None:
            self.reported.emit("There is nothing to undo.")
        elif step.said:
            self.reported.emit(step.said)

    def step_unverified(self) -> None:
        """Go to the next candidate without a verdict."""
        if not self.session.step_unverified():
            self.reported.emit(describe_counts(self.session.counts))
