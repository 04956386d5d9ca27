"""Making queries: from files, from layers, and from a rectangle that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image, Layer
from qtpy.QtCore import QObject, Signal

from comir_search.errors import ComirSearchError
from comir_search.slides.pixel_size import PixelSize
from napari_comir_search.jobs.queries import Cut, OpenedQueries, cut_steps, describe_queries_steps, read_steps
from napari_comir_search.state.items import SlideItem
from napari_comir_search.state.session import Session
from napari_comir_search.view.layers import contrast_of
from napari_comir_search.view.outline import Outline, full_resolution, layer_pixel_size
from napari_comir_search.widgets.worker import JobRunner


class QueryMaker(QObject):
    """Adds queries to a session.

    Parameters
    ----------
    viewer : napari viewer
    session : Session
    runner : JobRunner
        Reads and cuts images.

    Attributes
    ----------
    outline : Outline or None
        The rectangle being drawn.
    drawing_changed : Signal()
        A rectangle is being drawn, has been drawn, or is gone.
    noted : Signal(str)
        A sentence on a query that was added.
    failed : Signal(str)
        What failed and how to fix it.
    """

    drawing_changed = Signal()
    noted = Signal(str)
    failed = Signal(str)

    def __init__(
        self, viewer: Any, session: Session, runner: JobRunner, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.viewer, self.session, self.runner = viewer, session, runner
        self.outline: Outline | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The kinds of image that a query can be."""
        return ("bf", "shg") if self.session.index is None else self.session.index.model.modalities

    def add_files(self, paths: Sequence[str | Path]) -> None:
        """Add queries from their files."""
        if paths:
            job = describe_queries_steps([Path(path) for path in paths])
            self.runner.run("Opening the query", job, self._add_files)

    def add_slide(self, item: SlideItem) -> None:
        """Use an image as a query that was added as a slide, with the pixel size that the user gave it."""
        info = item.info
        sizes_um = {}
        if info.pixel_size_um is not None and info.pixel_size_source == "user":
            sizes_um[info.fingerprint] = info.pixel_size_um
        job = describe_queries_steps([Path(info.path)], sizes_um)
        self.runner.run("Opening the query", job, partial(self._turn_slide, item.fingerprint))

    def _turn_slide(self, fingerprint: str, opened: OpenedQueries) -> None:
        self._add_files(opened)
        if opened.queries:
            self.session.remove_slide(fingerprint)

    def _add_files(self, opened: OpenedQueries) -> None:
        for query in opened.queries:
            info = query.info
            self.session.add_query(
                info.name,
                query.image,
                packed=query.packed,
                path=info.path,
                modality=self._guess_modality(1 if query.is_signal else 3),
                pixel_size_um=info.pixel_size_um,
                source={
                    "pixel size": info.pixel_size_source,
                    "shape": [info.height_px, info.width_px],
                    "notes": list(info.notes),
                },
            )
        for note in opened.notes:
            self.noted.emit(note)
        if opened.problems:
            self.failed.emit(opened.problem)

    def add_layer(self, layer: Image) -> None:
        """Add a whole image layer as a query."""
        try:
            data, size = full_resolution(layer), layer_pixel_size(layer)
        except ComirSearchError as error:
            self.failed.emit(str(error))
            return
        source = _source_of(layer, size)
        self.runner.run(
            f"Reading {layer.name}",
            read_steps(data, layer.name),
            lambda cut: self._add_image(layer.name, cut, size.um, source),
        )

    def draw_on(self, layer: Image) -> None:
        """Begin to draw a query on an image layer."""
        self.stop_drawing()
        try:
            self.outline = Outline(self.viewer, layer)
        except ComirSearchError as error:
            self.failed.emit(str(error))
            return
        self.outline.layer.events.data.connect(self._take_shape)
        self.viewer.layers.events.removed.connect(self._drop_outline)
        self.drawing_changed.emit()

    def _take_shape(self, event: Any) -> None:
        """Once a rectangle is there, let it be moved and turned."""
        if str(event.action) == "added" and self.outline is not None:
            self.outline.keep_last()
        self.drawing_changed.emit()

    def _drop_outline(self, event: Any) -> None:
        """Stop drawing when the user takes the layer, or the one drawn on, away."""
        if self.outline is not None and event.value in (self.outline.layer, self.outline.target):
            self.stop_drawing()

    def stop_drawing(self) -> None:
        """Remove the drawn rectangle."""
        outline = self.outline
        if outline is not None:
            self.give_up()
            outline.close()

    def give_up(self) -> list[Layer]:
        """Stop drawing, and return the layer of the rectangle for the caller to take out of the viewer."""
        outline, self.outline = self.outline, None
        if outline is None:
            return []
        outline.layer.events.data.disconnect(self._take_shape)
        self.viewer.layers.events.removed.disconnect(self._drop_outline)
        self.drawing_changed.emit()
        return [outline.layer] if outline.layer in self.viewer.layers else []

    def cut_drawn(self) -> None:
        """Make the drawn rectangle a query."""
        outline = self.outline
        if outline is None:
            return
        try:
            place = outline.place()
            size = layer_pixel_size(outline.target)
            data = full_resolution(outline.target)
        except ComirSearchError as error:
            self.failed.emit(str(error))
            return
        source = _source_of(outline.target, size) | {"place": asdict(place)}
        name = f"{Path(outline.target.name).stem} cut {len(self.session.queries) + 1}"
        self.stop_drawing()
        self.runner.run(
            f"Cutting {name}",
            cut_steps(data, place, name),
            lambda cut: self._add_image(name, cut, size.um, source),
        )

    def _add_image(self, name: str, cut: Cut, size_um: float | None, source: dict[str, Any]) -> None:
        image = cut.image
        self.session.add_query(
            name,
            image,
            packed=cut.packed,
            modality=self._guess_modality(3 if image.ndim == 3 else 1),
            pixel_size_um=size_um,
            source=source | {"shape": list(image.shape[:2])},
        )
        if cut.note:
            self.noted.emit(cut.note)

    def _guess_modality(self, channels: int) -> str:
        """Return the side that is not indexed if the channels allow it, else the other."""
        index = self.session.index
        if index is None:
            return "bf" if channels == 3 else "shg"
        other = index.model.other(index.modality)
        return other if channels == index.model.channels_of(other) else index.modality


def _source_of(layer: Image, size: PixelSize) -> dict[str, Any]:
    """Return where a query's pixels come from, and the contrast with which they were seen there."""
    contrast = contrast_of(layer)
    doubt = size.doubt.replace("the file", "the layer").removesuffix(": give --pixel-size")
    return {
        "layer": layer.name,
        "pixel size": "layer" if size.um else f"missing: {doubt}" if doubt else "missing",
        "contrast": None if contrast is None else list(astuple(contrast)),
    }
