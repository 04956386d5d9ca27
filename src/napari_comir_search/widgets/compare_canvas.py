"""A second canvas on which query and slide lie in one frame."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from napari.qt import QtViewer
from qtpy.QtCore import QSize, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from comir_search.geometry import rows_first, turn_about, turn_between_deg
from napari_comir_search.jobs.comparison import Comparison, Picture, checkerboard, curtain
from napari_comir_search.state.inspection import Mode

CENTER = (0.0, 0.0)
QUERY, SLIDE = "Query", "Slide"
FORGET_DELAY_MS = 150
Adjust = Callable[[tuple[float, float], float], None]


class CompareCanvas(QWidget):
    """Query and slide, side by side or on one another, under one camera.

    With Shift held a drag moves the slide under the query; with Alt it turns it.

    Parameters
    ----------
    adjust : callable
        ``adjust((right_um, down_um), turn_deg)`` is called when a drag ends.
    """

    def __init__(self, adjust: Adjust, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._adjust = adjust
        self.model = ViewerModel(title="Compare")
        self.qt_viewer = QtViewer(self.model, show_welcome_screen=False)
        self.qt_viewer.setToolTip(
            "Scroll to zoom and drag to pan both pictures. Shift+drag moves the slide under the query, Alt+drag "
            "rotates it."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.qt_viewer)
        self.mode, self.amount = Mode.SIDE_BY_SIDE, 0.5
        self._comparison: Comparison | None = None
        self._forgetting = QTimer(self)  # so that the window answers between two removals
        self._forgetting.setSingleShot(True)
        self._forgetting.setInterval(FORGET_DELAY_MS)
        self._forgetting.timeout.connect(self._let_go)
        self.model.mouse_drag_callbacks.append(self._drag)
        self.model.canvas.overlays.scale_bar.visible = True

    def close_down(self) -> None:
        """Close the canvas."""
        self._forgetting.stop()
        self.model.mouse_drag_callbacks.clear()
        self.model.layers.clear()
        self.qt_viewer.close()

    def sizeHint(self) -> QSize:
        """Return a modest size, so that the main canvas keeps its place."""
        return QSize(420, 240)

    def show_comparison(self, comparison: Comparison | None) -> None:
        """Show these pictures; the camera stays while it is the same query."""
        before, self._comparison = self._comparison, comparison
        if comparison is None:
            # Else napari makes a grid for what is seen of no layers, then one for the next, and keeps them all.
            self.model.canvas.grid.enabled = False
            for layer in self.model.layers:  # to remove one, napari collects garbage for a fifth of a second
                layer.visible = False
            return
        self._forgetting.stop()
        is_new = before is None or not self.model.layers or before.query_id != comparison.query_id
        slide, query = self._layer(SLIDE, comparison.slide), self._layer(QUERY, comparison.query)
        slide.affine = np.eye(3)
        slide.visible = query.visible = True
        self._apply()
        if is_new:
            self._fit(comparison)

    def forget(self) -> None:
        """Hide the pictures at once, and remove them soon, unless others come first."""
        self.show_comparison(None)
        self._forgetting.start()

    def _let_go(self) -> None:
        self.model.layers.clear()
        self.model.layers.selection.clear()  # else it holds the layer that was current last

    def set_caption(self, text: str) -> None:
        """Show a line of text over the pictures."""
        caption = self.model.canvas.overlays.text
        caption.text, caption.visible = text, bool(text)

    def set_mode(self, mode: Mode, amount: float) -> None:
        """Compare in another way.

        Parameters
        ----------
        mode : Mode
        amount : float
            In [0, 1]: the query's opacity, the fineness of the board, or where
            the curtain hangs.
        """
        is_other = mode is not self.mode
        self.mode, self.amount = mode, amount
        self._apply()
        if is_other and self._comparison is not None:
            self._fit(self._comparison)

    def _layer(self, name: str, picture: Picture) -> Image:
        """Put a picture into its layer, centred on (0, 0) in um."""
        height, width = picture.image.shape[:2]
        opaque = np.full((height, width, 1), 255, np.uint8)
        data = np.concatenate([picture.image, opaque], axis=-1)
        pixel_um = np.array(picture.pixel_um)
        # napari puts (0, 0) at the first pixel's centre.
        corner = pixel_um / 2 - np.array([picture.height_um, picture.width_um]) / 2
        if name in self.model.layers:
            layer = self.model.layers[name]
            layer.data, layer.scale, layer.translate = data, pixel_um, corner
        else:
            layer = self.model.add_image(
                data, name=name, rgb=True, scale=pixel_um, translate=corner, units=("um", "um")
            )
            layer.interpolation2d = "linear"
        return layer

    def _apply(self) -> None:
        """Show the pictures in the present mode."""
        if not self.model.layers or self._comparison is None:
            return
        query = self.model.layers[QUERY]
        shape = query.data.shape[:2]
        mask = np.ones(shape, bool)
        if self.mode is Mode.CHECKERBOARD:
            mask = checkerboard(shape, tiles=2 + round(14 * self.amount))
        elif self.mode is Mode.SWIPE:
            mask = curtain(shape, self.amount)
        query.data[..., 3] = np.where(mask, 255, 0)
        query.refresh()
        query.opacity = self.amount if self.mode is Mode.BLEND else 1.0
        grid = self.model.canvas.grid
        grid.shape, grid.stride = (1, 2), -1
        grid.enabled = self.mode is Mode.SIDE_BY_SIDE

    def _fit(self, comparison: Comparison) -> None:
        """Show the whole query."""
        camera = self.model.scene.camera
        camera.center = (0.0, *CENTER)
        height, width = (max(side, 50) for side in self.model.canvas.size)
        columns = 2 if self.mode is Mode.SIDE_BY_SIDE else 1
        fits = (height / comparison.query.height_um, width / columns / comparison.query.width_um)
        camera.zoom = 0.9 * min(fits)

    def _drag(self, model: Any, event: Any) -> Generator[None, None, None]:
        """Move or turn the slide under the query while a key is held."""
        is_move, is_turn = "Shift" in event.modifiers, "Alt" in event.modifiers
        if not (is_move or is_turn) or SLIDE not in self.model.layers:
            return
        layer = self.model.layers[SLIDE]
        start = np.array(event.position[-2:][::-1])
        model.scene.camera.mouse_pan = False
        shift, turn_deg = (0.0, 0.0), 0.0
        yield
        while event.type == "mouse_move":
            here = np.array(event.position[-2:][::-1])
            if is_move:
                shift = (float(here[0] - start[0]), float(here[1] - start[1]))
            else:
                turn_deg = turn_between_deg(CENTER, start, here)
            layer.affine = rows_first(turn_about(CENTER, turn_deg, shift))
            yield
        model.scene.camera.mouse_pan = True
        if shift != (0.0, 0.0) or turn_deg:
            self._adjust(shift, turn_deg)
