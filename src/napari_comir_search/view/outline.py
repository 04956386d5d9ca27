"""The outline of a query that the user draws and turns on an image layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pint

from comir_search.errors import ComirSearchError
from comir_search.geometry import center_to_corner, rectangle_from_corners
from comir_search.records import Candidate
from comir_search.slides.pixel_size import MISSING, PixelSize, believe
from comir_search.study.freshness import sizes_differ
from napari_comir_search.view.layers import KEY

if TYPE_CHECKING:
    from napari.layers import Image, Shapes

OUTLINE = "Query outline"
COLOUR = "#e69f00"  # orange of the palette: seen on pink tissue and on black


def layer_pixel_size(layer: Image) -> PixelSize:
    """Return the pixel size of an image layer, missing where its scale is not a length or is not believed.

    That of a slide of ours was checked when the slide was opened, or given by the user.

    Raises
    ------
    ComirSearchError
        Where pixels are far from square.
    """
    sizes_um = []
    for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True):
        try:
            sizes_um.append(float(abs(scale)) * float((1 * unit).to("um").magnitude))
        except pint.DimensionalityError:
            return MISSING
    own_um = layer.metadata.get(KEY, {}).get("pixel_size_um")
    if own_um is not None and not any(sizes_differ(size_um, own_um) for size_um in sizes_um):
        return PixelSize(own_um, "layer")
    return believe(layer.name, sizes_um[1], sizes_um[0], "layer")


def full_resolution(layer: Image) -> Any:
    """Return a layer's finest level: (height, width) or (height, width, 3)."""
    data = layer.data[0] if layer.multiscale else layer.data
    data = getattr(data, "stored", data)  # not as it is shown
    if data.ndim - int(layer.rgb) != 2:
        raise ComirSearchError(
            f"{layer.name} has more than two dimensions: choose a layer of two dimensions."
        )
    return data


class Outline:
    """The layer in which a query is drawn.

    Parameters
    ----------
    viewer : napari viewer or ViewerModel
    target : Image
        The layer to cut from.
    """

    def __init__(self, viewer: Any, target: Image) -> None:
        full_resolution(target)
        self.viewer = viewer
        self.target = target
        self.layer: Shapes = viewer.add_shapes(
            name=OUTLINE,
            ndim=2,
            scale=target.scale[-2:],
            translate=target.translate[-2:],
            rotate=target.rotate,
            units=target.units[-2:],
            axis_labels=("y", "x"),
            edge_color=COLOUR,
            face_color=[0.0, 0.0, 0.0, 0.0],
            edge_width=2,
            opacity=1.0,
            metadata={KEY: {"role": "outline"}},
        )
        self.layer.current_edge_color = COLOUR
        self.layer.current_edge_width = self._line_px()
        self.layer.mode = "add_rectangle"
        viewer.layers.selection.active = self.layer

    @property
    def has_rectangle(self) -> bool:
        """Whether something has been drawn."""
        return self.layer in self.viewer.layers and len(self.layer.data) > 0

    def keep_last(self) -> None:
        """Leave only the last rectangle, selected, so that it can be moved and turned."""
        if len(self.layer.data) > 1:
            self.layer.selected_data = set(range(len(self.layer.data) - 1))
            self.layer.remove_selected()
        self.layer.mode = "select"
        self.layer.selected_data = {0}

    def close(self) -> None:
        """Remove the layer, and select the image layer again."""
        if self.layer in self.viewer.layers:
            self.viewer.layers.remove(self.layer)
        if self.target in self.viewer.layers:
            self.viewer.layers.selection.active = self.target

    def place(self) -> Candidate:
        """Return the rectangle as a place on the layer, in pixels where the size is not known.

        Raises
        ------
        ComirSearchError
            When nothing has been drawn, or next to nothing.
        """
        if not self.has_rectangle:
            raise ComirSearchError("No rectangle yet: drag a rectangle on the image.")
        corners = center_to_corner(np.asarray(self.layer.data[-1])[:, ::-1])
        corners = upright_first(corners)
        center, width_px, height_px, angle_deg = rectangle_from_corners(corners)
        if min(width_px, height_px) < 8:
            raise ComirSearchError("The rectangle is too small for a search: draw a larger one.")
        size_um = layer_pixel_size(self.target).um or 1.0
        return Candidate(
            rank=0,
            slide=self.target.name,
            center_x_px=float(center[0]),
            center_y_px=float(center[1]),
            pixel_size_um=size_um,
            width_um=width_px * size_um,
            height_um=height_px * size_um,
            angle_deg=angle_deg,
            mirrored=False,
            score=0.0,
            confidence=None,
            fingerprint=self.target.metadata.get(KEY, {}).get("fingerprint", ""),
        )

    def _line_px(self) -> float:
        zoom = max(self.viewer.scene.camera.zoom, 1e-9)
        return float(2 / (zoom * abs(self.target.scale[-1])))


def upright_first(corners: np.ndarray) -> np.ndarray:
    """Order a rectangle's corners clockwise as seen, from the one that is top left when least turned.

    A rectangle may be dragged from any corner; the order must not mirror or
    turn what is cut out of it.
    """
    edge, other = corners[1] - corners[0], corners[2] - corners[1]
    if edge[0] * other[1] - edge[1] * other[0] < 0:
        corners = corners[::-1]
    edges = np.roll(corners, -1, axis=0) - corners
    turns_deg = np.abs(np.rad2deg(np.arctan2(edges[:, 1], edges[:, 0])))
    return np.roll(corners, -int(np.argmin(turns_deg)), axis=0)
