"""A label of one line with an ellipsis where there is no room for all of it."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSizePolicy
from superqt import QElidingLabel

PADDING_PX = 4  # that a theme may put around the text


def elided_label(text: str = "") -> QElidingLabel:
    """Return a label that takes the width it gets and leaves out the middle of a longer text."""
    label = QElidingLabel(text)
    label.setElideMode(Qt.TextElideMode.ElideMiddle)
    label.setEllipsesWidth(2 * PADDING_PX)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return label
