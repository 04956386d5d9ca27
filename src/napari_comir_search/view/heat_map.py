"""The heat map of the current query over the slide that is shown, as long as it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from comir_search.geometry import corner_to_center
from napari_comir_search.state.session import Session
from napari_comir_search.view.layers import KEY
from napari_comir_search.view.slide import SlideView

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.utils.colormaps import Colormap

    from comir_search.retrieval.heat_map import HeatMap

NAME = "Heat map"
COLOURMAP = "viridis"  # read by people of any colour vision, and in grey
OPACITY = 0.85


def fading_colourmap() -> Colormap:
    """Return the colours of a map through which the slide is seen where the query does not fit."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    shares = np.linspace(0, 1, 64)
    colours = ensure_colormap(COLOURMAP).map(shares)
    colours[:, 3] = shares
    return Colormap(colours, name="fit", display_name="fit")


class HeatMapView:
    """Shows a heat map, and takes it away once it no longer says anything of what is shown.

    Parameters
    ----------
    viewer : napari viewer or ViewerModel
    session : Session
    view : SlideView
        Knows which slide is shown.
    make : callable
        ``make(fingerprint, then)`` computes a map in a thread and calls
        ``then(heat_map)``.
    """

    def __init__(
        self, viewer: Any, session: Session, view: SlideView, make: Callable[[str, Callable[..., None]], None]
    ) -> None:
        self.viewer, self.session, self.view, self._make = viewer, session, view, make
        self.is_wanted = False
        self._shown_for: tuple[object, ...] | None = None  # or being computed for
        session.events.query.connect(self.refresh)
        session.events.result.connect(self.refresh)
        session.events.slides.connect(self.refresh)
        view.slide_shown.connect(self.refresh)

    def close(self) -> None:
        """Disconnect from the viewer."""
        self.session.events.query.disconnect(self.refresh)
        self.session.events.result.disconnect(self.refresh)
        self.session.events.slides.disconnect(self.refresh)
        self.view.slide_shown.disconnect(self.refresh)
        self.clear()

    @property
    def layer(self) -> Image | None:
        """The map, while it is in the viewer."""
        return next(
            (layer for layer in self.viewer.layers if layer.metadata.get(KEY, {}).get("role") == "heat map"),
            None,
        )

    def want(self, is_wanted: bool) -> None:
        """Show the map, or take it away."""
        self.is_wanted = is_wanted
        self.refresh()

    def refresh(self) -> None:
        """Show the map of the current query on the slide shown; compute it if need be."""
        inputs = self._inputs() if self.is_wanted else None
        if inputs == self._shown_for:
            return
        self.clear()
        self._shown_for = inputs
        if inputs is not None and self.view.shown is not None:
            self._make(self.view.shown, partial(self._take, inputs))

    def clear(self) -> None:
        """Remove the map."""
        self._shown_for = None
        if self.layer is not None:
            self.viewer.layers.remove(self.layer)

    def _inputs(self) -> tuple[object, ...] | None:
        """Return what a map depends on, None where none can be made."""
        query, index, fingerprint = self.session.query, self.session.index, self.view.shown
        searchable = {item.fingerprint for item in self.session.searchable}
        if query is None or query.pixel_size_um is None or index is None or fingerprint not in searchable:
            return None
        asked = query.id, query.modality, query.pixel_size_um, self.session.is_mirrored
        return *asked, fingerprint, index.path, index.model_fingerprint

    def _take(self, inputs: tuple[object, ...], heat_map: HeatMap) -> None:
        if inputs != self._shown_for:
            return  # another query or slide has come meanwhile
        slide = None if self.view.shown is None else self.view.layer(self.view.shown)
        if (
            slide is None
            or heat_map.fingerprint != self.session.name_of(self.view.shown or "")
            or not self.is_wanted
        ):
            return
        active = self.viewer.layers.selection.active
        pixel_um = slide.scale[-1]
        first_um = float(corner_to_center(heat_map.first_um / pixel_um)) * pixel_um
        low, high = heat_map.limits
        layer = self.viewer.add_image(
            heat_map.scores,
            name=NAME,
            scale=(heat_map.pixel_um,) * 2,
            translate=(first_um, first_um),
            units=slide.units,
            axis_labels=("y", "x"),
            colormap=fading_colourmap(),
            contrast_limits=(low, high),
            opacity=OPACITY,
            blending="translucent",
            interpolation2d="linear",
            metadata={KEY: {"role": "heat map"}},
        )
        # Above the slide, below what is drawn on it.
        self.viewer.layers.move(self.viewer.layers.index(layer), self.viewer.layers.index(slide) + 1)
        self.viewer.layers.selection.active = active
