"""Candidates as layers over their slide.

They stay in level-0 pixels of the slide; the layer's scale is the slide's, so
drawing, search and export share one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from comir_search.geometry import candidate_corners_px, corner_to_center
from comir_search.pictures.palette import TEXT_COLOURS, VERDICT_COLOURS
from comir_search.records import Candidate, Verdict
from napari_comir_search.view.layers import KEY, remove_layers

if TYPE_CHECKING:
    from napari.layers import Image, Layer, Points, Shapes

CANDIDATES, PINS = "Candidates", "Candidate numbers"
PIN_PX = 22
LINE_SHARE = 0.02  # of a candidate's shorter side


def candidate_outlines(candidates: Sequence[Candidate]) -> list[np.ndarray]:
    """Return the outlines as napari takes them: (4, 2) of (row, column), pixel centres."""
    return [corner_to_center(candidate_corners_px(candidate))[:, ::-1] for candidate in candidates]


def verdict_colour(verdict: Verdict) -> tuple[float, float, float, float]:
    """Return a verdict's colour as red, green, blue, alpha in [0, 1]."""
    red, green, blue = VERDICT_COLOURS[verdict]
    return red / 255, green / 255, blue / 255, 1.0


class CandidateLayers:
    """Candidates on one slide: rectangles coloured by verdict, and a numbered pin on each.

    The pins keep their size on the screen, so candidates are found on a whole
    slide too. A pin sits on the corner that is the query's top left.

    Parameters
    ----------
    viewer : napari viewer or ViewerModel

    Attributes
    ----------
    pin_px : float
        Size of a pin, pixels of the screen itself: more where the desktop is scaled.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._outlines: Shapes | None = None
        self._pins: Points | None = None
        self._ranks: list[int] = []
        self._is_visible = True  # those of the last answer were, so the next one's are
        self.pin_px = float(PIN_PX)

    @property
    def outlines(self) -> Shapes | None:
        """The rectangles, while they are in the viewer."""
        return (
            self._outlines if self._outlines is not None and self._outlines in self._viewer.layers else None
        )

    @property
    def pins(self) -> Points | None:
        """The pins, while they are in the viewer."""
        return self._pins if self._pins is not None and self._pins in self._viewer.layers else None

    def show(
        self,
        candidates: Sequence[Candidate],
        verdicts: Sequence[Verdict],
        current: int | None,
        slide_layer: Image,
    ) -> None:
        """Draw candidates over a slide, in place of what was drawn before.

        Parameters
        ----------
        candidates : sequence of Candidate
            All on the slide.
        verdicts : sequence of Verdict
            What was said of each.
        current : int or None
            Rank of the candidate to draw bolder.
        slide_layer : Image
            The slide; scale and units are taken from it.
        """
        if not candidates:
            self.clear()
            return
        if not self._fit(slide_layer):
            self._add(slide_layer)
        self._move(candidates, verdicts)
        self._ranks = [candidate.rank for candidate in candidates]
        self.mark(candidates, verdicts, current)

    def _fit(self, slide_layer: Image) -> bool:
        """Whether the layers are there and lie in the slide's frame."""
        return all(
            layer is not None
            and tuple(layer.scale) == tuple(slide_layer.scale)
            and layer.units == slide_layer.units
            for layer in (self.outlines, self.pins)
        )

    def _add(self, slide_layer: Image) -> None:
        """Put empty layers into the viewer.

        That takes napari long, so it is done once and not for each answer of a running search.
        """
        active = self._viewer.layers.selection.active
        self.clear()
        frame = {
            "ndim": 2,
            "scale": slide_layer.scale,
            "units": slide_layer.units,
            "axis_labels": ("y", "x"),
            "opacity": 1.0,
            "visible": self._is_visible,
            "metadata": {KEY: {"role": "candidates"}},
        }
        self._outlines = self._viewer.add_shapes(
            name=CANDIDATES, face_color=[0.0, 0.0, 0.0, 0.0], edge_width=1, **frame
        )
        self._pins = self._viewer.add_points(
            name=PINS,
            size=1,
            canvas_size_limits=(self.pin_px, self.pin_px),
            border_width=0,
            features={"rank": np.empty(0, str)},
            text={"string": "{rank}", "size": 10, "color": "white", "anchor": "center"},
            **frame,
        )
        if active is not None and active in self._viewer.layers:
            self._viewer.layers.selection.active = active

    def _move(self, candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> None:
        """Put rectangles and pins where the candidates are."""
        outlines, pins = self.outlines, self.pins
        if outlines is None or pins is None:
            return
        corners = candidate_outlines(candidates)
        ranks = [str(candidate.rank) for candidate in candidates]
        outlines.data = [(outline, "polygon") for outline in corners]
        outlines.features = {
            "rank": ranks,
            "confidence": [
                np.nan if candidate.confidence is None else candidate.confidence for candidate in candidates
            ],
            "angle_deg": [candidate.angle_deg for candidate in candidates],
            "slide": [candidate.slide for candidate in candidates],
            "verdict": [verdict.value for verdict in verdicts],
        }
        pins.selected_data = set()
        pins.data = np.array([outline[0] for outline in corners])
        pins.features = {"rank": ranks}
        outlines.editable = pins.editable = False  # napari forgets it with each new data

    def mark(self, candidates: Sequence[Candidate], verdicts: Sequence[Verdict], current: int | None) -> None:
        """Colour rectangles and pins by verdict, and draw the current one bolder.

        Parameters
        ----------
        candidates : sequence of Candidate
            Those that are shown.
        verdicts : sequence of Verdict
            One for each candidate.
        current : int or None
            Rank of the candidate to draw bolder.
        """
        if self.outlines is None or len(self._ranks) != len(candidates):
            return
        colours = [verdict_colour(verdict) for verdict in verdicts]
        self.outlines.edge_color = colours
        self.outlines.edge_width = [
            _line_px(candidate, candidate.rank == current) for candidate in candidates
        ]
        self.outlines.features["verdict"] = [verdict.value for verdict in verdicts]
        self.outlines.refresh()
        if self.pins is not None:
            self.pins.face_color = self.pins.border_color = colours
            self.pins.text.color = [TEXT_COLOURS[verdict] for verdict in verdicts]

    def clear(self) -> None:
        """Remove the layers from the viewer."""
        remove_layers(self._viewer, self.give_up())

    def give_up(self) -> list[Layer]:
        """Forget the layers and return them, for the caller to remove from the viewer."""
        if self.outlines is not None:
            self._is_visible = self.outlines.visible
        layers: list[Layer] = [layer for layer in (self.pins, self.outlines) if layer is not None]
        self._outlines, self._pins, self._ranks = None, None, []
        return layers

    def rank_at(self, position: Sequence[float]) -> int | None:
        """Return the rank of the candidate at a world position, None where there is none."""
        if self.outlines is None or not self.outlines.visible:
            return None
        value = self.outlines.get_value(position, world=True)
        return None if value is None or value[0] is None else self._ranks[value[0]]

    def toggle(self) -> None:
        """Show or hide rectangles and pins."""
        if self.outlines is not None:
            visible = not self.outlines.visible
            for layer in (self.outlines, self.pins):
                if layer is not None:
                    layer.visible = visible


def _line_px(candidate: Candidate, is_current: bool) -> float:
    shorter_px = min(candidate.width_um, candidate.height_um) / candidate.pixel_size_um
    return LINE_SHARE * shorter_px * (2.0 if is_current else 1.0)


def fly_to(viewer: Any, candidate: Candidate, share: float = 0.4) -> None:
    """Put a candidate in the middle of the canvas, filling `share` of it.

    Parameters
    ----------
    viewer : napari viewer or ViewerModel
    candidate : Candidate
    share : float
        Of the shorter side of the canvas that the candidate fills.
    """
    y_um, x_um = corner_to_center([candidate.center_y_px, candidate.center_x_px]) * candidate.pixel_size_um
    extent_um = float(np.hypot(candidate.width_um, candidate.height_um))
    camera = viewer.scene.camera
    camera.center = (0.0, float(y_um), float(x_um))
    camera.zoom = share * min(viewer.canvas.size) / extent_um
