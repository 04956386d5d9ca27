"""The slide on the canvas: as a lazy layer, kept in step with a session."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from comir_search.pictures.display import Contrast, display_range
from comir_search.records import Candidate, Verdict
from comir_search.slides import Slide
from napari_comir_search.state.session import Session
from napari_comir_search.view.candidates import CandidateLayers, fly_to
from napari_comir_search.view.display_level import DisplayLevel
from napari_comir_search.view.layers import KEY, fingerprint_of, remove_layers

if TYPE_CHECKING:
    from napari.layers import Image, Layer

LOOK_PX = 512  # of a slide's longer side: enough to see which values it holds
UNITS_KNOWN, UNITS_MISSING = ("um", "um"), ("pixel", "pixel")


def slide_layer(
    slide: Slide, contrast_limits: tuple[float, float] | None = None, key: str = ""
) -> tuple[Any, dict[str, Any], str]:
    """Return a slide as napari's layer data: lazy levels, in um where the pixel size is known.

    Colours of more than 8 bits are shown in 8, `contrast_limits` being black and white.
    `key` is what the slide goes by where that is not its fingerprint.

    Parameters
    ----------
    slide : Slide
        Open; the layer reads from it.
    contrast_limits : (float, float), optional
        Shown black and white, in stored values.
    key : str
        The slide's key in the project, where that is not its fingerprint.
    """
    levels: Sequence[Any] = slide.levels
    if slide.channels == 3 and slide.dtype != np.uint8:
        contrast = Contrast(*(contrast_limits or display_range(slide.overview(LOOK_PX)[0])))
        levels = [DisplayLevel(level, contrast) for level in levels]
    size_um = slide.pixel_size_um
    options: dict[str, Any] = {
        "name": slide.name,
        "multiscale": len(levels) > 1,
        "rgb": slide.channels == 3,
        "scale": (size_um or 1.0,) * 2,
        "units": UNITS_KNOWN if size_um else UNITS_MISSING,
        "axis_labels": ("y", "x"),
        "metadata": {
            KEY: {"fingerprint": key or slide.fingerprint, "path": slide.info.path, "pixel_size_um": size_um}
        },
    }
    if contrast_limits is not None and slide.channels == 1:
        options["contrast_limits"] = contrast_limits
    return levels if len(levels) > 1 else levels[0], options, "image"


class SlideView:
    """What the canvas shows of a session.

    Parameters
    ----------
    viewer : napari viewer or ViewerModel
    session : Session
    open_slide : callable
        ``open_slide(fingerprint, then)`` opens a slide in a thread and
        calls ``then(slide, contrast_limits)``.
    """

    slide_shown = Signal()  # another slide is on the canvas, or none
    contrast_changed = Signal()  # of a slide that was opened here

    def __init__(
        self, viewer: Any, session: Session, open_slide: Callable[[str, Callable[..., None]], None]
    ) -> None:
        self.viewer = viewer
        self.session = session
        self.candidates = CandidateLayers(viewer)
        self.shown: str | None = None  # fingerprint of the slide on the canvas
        self._wanted: str | None = None  # the one asked for last; it may still be opening
        self._open_slide = open_slide
        self._slides: dict[str, Slide] = {}  # open as long as their layer is there
        self._layers: dict[str, Layer] = {}  # of these slides; the user may open the same file beside them
        session.events.result.connect(self.draw)
        session.events.judgement.connect(self._mark)
        session.events.candidate.connect(self.follow)
        viewer.layers.events.removed.connect(self._forget)
        viewer.mouse_drag_callbacks.append(self._pick)

    def close(self) -> None:
        """Disconnect from the viewer."""
        self.session.events.result.disconnect(self.draw)
        self.session.events.judgement.disconnect(self._mark)
        self.session.events.candidate.disconnect(self.follow)
        if self._pick in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._pick)
        self.clear()
        self.viewer.layers.events.removed.disconnect(self._forget)

    def clear(self, others: Sequence[Layer] = ()) -> None:
        """Remove candidates, slides that were opened here, and other layers from the canvas; close the files."""
        slides = [layer for layer in self._layers.values() if layer in self.viewer.layers]
        remove_layers(self.viewer, [*others, *self.candidates.give_up(), *slides])
        selection = self.viewer.layers.selection
        if not selection:
            selection.clear()  # else it holds the layer that was current last

    @property
    def settled(self) -> str | None:
        """Fingerprint of the slide on the canvas, None while another one is being opened."""
        return self.shown if self.shown == self._wanted else None

    def layer(self, fingerprint: str) -> Image | None:
        """Return the layer of a slide, whoever opened it."""
        return next((layer for layer in self.viewer.layers if fingerprint_of(layer) == fingerprint), None)

    def show(self, fingerprint: str, then: Callable[[], None] | None = None) -> None:
        """Put a slide on the canvas, opening it first if need be, and hide the others.

        `then` is called once it is there.
        """
        self._wanted = fingerprint
        layer = self.layer(fingerprint)
        if layer is None:
            self._open_slide(fingerprint, lambda slide, limits: self._add(fingerprint, slide, limits, then))
            return
        is_other = self.shown != fingerprint
        self.shown = fingerprint
        for other in self.viewer.layers:
            if fingerprint_of(other) is not None:
                other.visible = other is layer
        self.viewer.layers.selection.active = layer
        if is_other:
            if then is None:
                self.viewer.reset_view()
            self.draw()
            self.slide_shown.emit()
        if then is not None:
            then()

    def reload(self, fingerprint: str) -> None:
        """Show a slide anew after its pixel size was changed."""
        layer = self.layer(fingerprint)
        if layer is not None:
            self.viewer.layers.remove(layer)
            self.show(fingerprint)

    def follow(self) -> None:
        """Fly to the current candidate, on whichever slide it lies."""
        candidate = self.session.candidate
        item = None if candidate is None else self.session.slide_of(candidate)
        if candidate is None or item is None:
            return
        self.show(item.fingerprint, then=self._land)

    def draw(self) -> None:
        """Draw the candidates that lie on the slide shown."""
        layer = None if self.shown is None else self.layer(self.shown)
        candidates = self._on_slide()
        if layer is None or layer.units[0] == "pixel":
            self.candidates.clear()
            return
        self.candidates.show(candidates, self._verdicts(candidates), self._rank(), layer)

    def _add(
        self,
        key: str,
        slide: Slide,
        limits: tuple[float, float] | None,
        then: Callable[[], None] | None,
    ) -> None:
        if self.layer(key) is not None:
            slide.close()
        else:
            data, options, _ = slide_layer(slide, limits, key)
            active = self.viewer.layers.selection.active
            self._slides[key] = slide
            layer = self.viewer.add_image(data, **options, visible=False)
            self._layers[key] = layer
            layer.events.contrast_limits.connect(self._tell_contrast)
            layer.events.gamma.connect(self._tell_contrast)
            if not layer.rgb:
                self.contrast_changed.emit()
            # Slides lie below whatever is drawn on them.
            self.viewer.layers.move(len(self.viewer.layers) - 1, 0)
            self.viewer.layers.selection.active = active
            self.viewer.canvas.overlays.scale_bar.visible = slide.pixel_size_um is not None
        if self._wanted == key:
            self.show(key, then)

    def _tell_contrast(self, event: Any) -> None:
        self.contrast_changed.emit()

    def _land(self) -> None:
        candidate = self.session.candidate
        if candidate is not None:
            self._mark()
            fly_to(self.viewer, candidate)

    def _mark(self) -> None:
        candidates = self._on_slide()
        self.candidates.mark(candidates, self._verdicts(candidates), self._rank())

    def _on_slide(self) -> list[Candidate]:
        on_slide = []
        for candidate in self.session.candidates:
            item = self.session.slide_of(candidate)
            if item is not None and item.fingerprint == self.shown:
                on_slide.append(candidate)
        return on_slide

    def _verdicts(self, candidates: list[Candidate]) -> list[Verdict]:
        return [self.session.verdict(candidate.rank) for candidate in candidates]

    def _rank(self) -> int | None:
        return None if self.session.candidate is None else self.session.candidate.rank

    def _forget(self, event: Any) -> None:
        fingerprint = fingerprint_of(event.value)
        if fingerprint is None:
            return
        if self._layers.get(fingerprint) is event.value:
            del self._layers[fingerprint]
            self._slides.pop(fingerprint).close()
        if self.shown == fingerprint and self.layer(fingerprint) is None:
            self.shown = None
            self.slide_shown.emit()

    def _pick(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Select the candidate that is clicked; a drag pans as ever."""
        yield
        while event.type == "mouse_move":
            if event.handled:
                return
            yield
            if event.type == "mouse_move":
                return
        rank = self.candidates.rank_at(event.position)
        if rank is not None:
            self.session.select_candidate(rank)
