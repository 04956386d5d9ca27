"""What is open: slides, an index, queries, their answers and what was judged of them.

A session is the model behind the window. It knows neither Qt nor layers; it
tells who listens what has changed, and keeps everything in a project file from
the first moment, so that there is nothing to save. Its methods are quick; slow
work is in `jobs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comir_search.io.entries import ProjectQuery, ProjectSlide
from comir_search.io.project import Project
from comir_search.records import Candidate, SlideInfo
from napari_comir_search.items import IndexState, SlideItem, missing_item
from napari_comir_search.review import Review, SessionEvents

if TYPE_CHECKING:
    from comir_search.retrieval.index import Index


class Session(Review):
    """One study at work.

    Parameters
    ----------
    folder : path
        Where projects lie that have no name yet.
    reviewer : str, optional
        Name kept with each verdict; by default the user who is logged in.
    """

    def __init__(self, folder: str | Path, reviewer: str | None = None) -> None:
        super().__init__()
        self.events = SessionEvents()
        self.reviewer = reviewer
        self._folder = Path(folder)
        self.project = self._new_project()
        self._clear()

    def _clear(self) -> None:
        self._slides: dict[str, SlideItem] = {}
        self._missing: dict[str, SlideItem] = {}
        self.index: Index | None = None
        self._image: tuple[int, np.ndarray | None] | None = None
        Review.__init__(self)

    # The project

    def _new_project(self) -> Project:
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"untitled {datetime.now():%Y-%m-%d %H.%M.%S}"
        path = self._folder / f"{stem}.comirproj"
        number = 1
        while path.exists():
            number += 1
            path = self._folder / f"{stem} ({number}).comirproj"
        return Project.create(path)

    @property
    def is_untitled(self) -> bool:
        """Whether the user has not yet said where the project belongs."""
        return self.project.path.parent == self._folder

    @property
    def is_empty(self) -> bool:
        """Whether the project holds neither slides nor queries."""
        return not self._slides and not self._queries

    def open_project(self, path: str | Path) -> None:
        """Leave the present project and open another.

        Raises
        ------
        ComirSearchError
            When it is missing, damaged or not a project; the present one stays.
        """
        self.take_project(Project.open(path))

    def take_project(self, project: Project) -> None:
        """Leave the present project and go on with one that has just been opened."""
        self._leave_project()
        self.project = project
        self._clear()
        self._queries = project.queries
        chosen = project.view.get("query")
        known = [query.id for query in self._queries]
        self._query_id = chosen if chosen in known else known[-1] if known else None
        self._take_answer(project.view.get("rank"))
        self._tell_all()

    def new_project(self) -> None:
        """Leave the present project and begin an empty one."""
        self._leave_project()
        self.project = self._new_project()
        self._clear()
        self._tell_all()

    def save_as(self, path: str | Path) -> None:
        """Go on under another name, in another place."""
        self._keep_view()
        before, self.project = self.project, self.project.save_as(path)
        untitled = before.path.parent == self._folder
        before.close()
        if untitled:
            before.path.unlink(missing_ok=True)
        self._queries = self.project.queries
        self.events.project.emit()

    def close(self) -> None:
        """Close the project; the session is not used afterwards."""
        self._leave_project()

    def _leave_project(self) -> None:
        self._keep_view()
        unused = self.is_untitled and self.is_empty and not self.project.slides
        self.project.close()
        if unused:
            self.project.path.unlink(missing_ok=True)

    def keep_view(self, **values: Any) -> None:
        """Remember more of how the window looks (JSON-ready)."""
        self.project.view = self.project.view | values

    def _keep_view(self) -> None:
        self.keep_view(query=self._query_id, rank=self._rank)

    def _tell_all(self) -> None:
        for event in (self.events.project, self.events.slides, self.events.queries, self.events.query):
            event.emit()
        self.events.result.emit()
        self.events.candidate.emit()

    # The repository

    @property
    def slides(self) -> list[SlideItem]:
        """The slides whose files are there, in the order they came."""
        return list(self._slides.values())

    @property
    def missing(self) -> list[SlideItem]:
        """The project's slides whose files are not where they were."""
        return list(self._missing.values())

    def note_missing(self, slides: Iterable[ProjectSlide]) -> None:
        """Take note of which of the project's slides were not found."""
        self._missing = {slide.fingerprint: missing_item(slide) for slide in slides}
        self.events.slides.emit()

    def slide(self, fingerprint: str) -> SlideItem | None:
        """Return a slide by its fingerprint."""
        return self._slides.get(fingerprint)

    def slide_of(self, candidate: Candidate) -> SlideItem | None:
        """Return the slide that a candidate lies on."""
        if candidate.fingerprint:
            return self._slides.get(candidate.fingerprint)
        return next((item for item in self.slides if item.info.name == candidate.slide), None)

    def add_slides(self, infos: Iterable[SlideInfo]) -> list[SlideItem]:
        """Add slides, or note their new place; return the ones that are new."""
        before = set(self._slides)
        for info in infos:
            self.project.add_slide(info)
            state = self._slides[info.fingerprint].state if info.fingerprint in before else IndexState.NONE
            self._slides[info.fingerprint] = SlideItem(info, state)
            self._missing.pop(info.fingerprint, None)
        self.events.slides.emit()
        return [item for fingerprint, item in self._slides.items() if fingerprint not in before]

    def remove_slide(self, fingerprint: str) -> None:
        """Take a slide out of the project; neither file nor index are touched."""
        self.project.remove_slide(fingerprint)
        self._slides.pop(fingerprint, None)
        self._missing.pop(fingerprint, None)
        self.events.slides.emit()

    def set_pixel_size(self, fingerprint: str, pixel_size_um: float) -> None:
        """Correct a slide's pixel size."""
        item = self._slides[fingerprint]
        info = replace(item.info, pixel_size_um=float(pixel_size_um), pixel_size_source="user")
        self.project.add_slide(info)
        self._slides[fingerprint] = replace(item, info=info)
        self.events.slides.emit()

    @property
    def index_path(self) -> Path | None:
        """The index folder: the one chosen, else one beside the first slide."""
        chosen = self.project.settings.get("index")
        if chosen:
            path = Path(chosen)
            if self._slides and not path.exists():
                moved = Path(self.slides[0].info.path).parent / path.name
                return moved if (moved / "index.json").is_file() else path  # it moved with its slides
            return path
        if self._slides:
            return Path(self.slides[0].info.path).parent / "repository.comirindex"
        return None

    @property
    def model(self) -> str:
        """The model file chosen for this project, "" where none was."""
        return str(self.project.settings.get("model", ""))

    def set_model(self, path: str | Path) -> None:
        """Choose a model file for this project."""
        self.project.settings = self.project.settings | {"model": str(path)}

    def set_index(
        self, path: str | Path, index: Index | None, states: Mapping[str, IndexState] | None = None
    ) -> None:
        """Take in an index as just opened or written, and how far each slide has come."""
        self.index = index
        self.project.settings = self.project.settings | {"index": str(path)}
        states = states or {}
        self._slides = {
            fingerprint: replace(item, state=states.get(fingerprint, IndexState.NONE))
            for fingerprint, item in self._slides.items()
        }
        self.events.slides.emit()

    def mark_damaged(self, fingerprint: str) -> None:
        """Note that a slide's part of the index cannot be read."""
        item = self._slides.get(fingerprint)
        if item is not None:
            self._slides[fingerprint] = replace(item, state=IndexState.DAMAGED)
            self.events.slides.emit()

    @property
    def searchable(self) -> list[SlideItem]:
        """The slides that can be searched."""
        usable = (IndexState.DONE, IndexState.OTHER_MODEL)
        return [item for item in self.slides if item.state in usable]

    # Queries

    @property
    def queries(self) -> list[ProjectQuery]:
        """The queries, in the order they came."""
        return list(self._queries)

    def add_query(
        self, name: str, image: np.ndarray | None = None, packed: bytes | None = None, **description: Any
    ) -> ProjectQuery:
        """Add a query and make it the current one; see `Project.add_query`.

        `packed` is `image` as the project keeps it, where that was made already.
        """
        key = self.project.add_query(name, image=image if packed is None else packed, **description)
        self._image = (key, image)
        self._queries = self.project.queries
        self.events.queries.emit()
        self.select_query(key)
        return self.project.query(key)

    def query_image(self, query_id: int) -> np.ndarray | None:
        """Return a query's pixels, None where they lie in a file; the last ones asked for are at hand."""
        if self._image is None or self._image[0] != query_id:
            self._image = (query_id, self.project.query_image(query_id))
        return self._image[1]

    def remove_query(self, query_id: int) -> None:
        """Take a query out, with its result and verdicts."""
        self.project.remove_query(query_id)
        self._queries = self.project.queries
        self.events.queries.emit()
        if query_id == self._query_id:
            self.select_query(self._queries[-1].id if self._queries else None)

    def update_query(
        self, query_id: int, *, modality: str | None = None, pixel_size_um: float | None = None
    ) -> None:
        """Correct a query's modality or pixel size."""
        self.project.update_query(query_id, modality=modality, pixel_size_um=pixel_size_um)
        self._queries = self.project.queries
        if query_id == self._query_id:
            self.events.query.emit()
