"""The keys, and binding them to a viewer for as long as the dock is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """A key, the action it calls and what that does."""

    keys: str
    action: str
    meaning: str


# Letters alone belong to napari's layers; none of these does anything in napari.
KEYS: tuple[Key, ...] = (
    Key("Shift-N", "next", "Go to the next candidate"),
    Key("Shift-B", "previous", "Go to the previous candidate"),
    Key("Shift-U", "unverified", "Go to the next candidate without a verdict"),
    Key("Shift-Y", "accept", "Accept the candidate"),
    Key("Shift-X", "reject", "Reject the candidate"),
    Key("Shift-Q", "unsure", "Mark the candidate as unsure"),
    Key("Shift-Z", "undo", "Undo the last verdict, move or removal"),
    Key("Shift-H", "toggle", "Show or hide the rectangles"),
    Key("Shift-M", "mode", "Go to the next mode of comparison"),
    Key("Shift-Left", "left", "Move the slide under the query a little to the left"),
    Key("Shift-Right", "right", "Move it to the right"),
    Key("Shift-Up", "up", "Move it up"),
    Key("Shift-Down", "down", "Move it down"),
    Key("Shift-PageUp", "turn_left", "Rotate it counter-clockwise"),
    Key("Shift-PageDown", "turn_right", "Rotate it clockwise"),
)

# What the mouse does beside napari's own.
MOUSE: tuple[tuple[str, str], ...] = (
    ("Click a rectangle", "Choose that candidate"),
    ("Shift+drag in Compare", "Move the slide under the query"),
    ("Alt+drag in Compare", "Rotate the slide under the query"),
    ("Double-click in the slide list", "Show that slide"),
)


def key_of(action: str) -> str:
    """Return the key of an action as shown to the user: "Shift+Y"."""
    return next(key.keys.replace("-", "+") for key in KEYS if key.action == action)


class Keymap:
    """Our keys on a viewer; `close` takes them off again.

    Parameters
    ----------
    viewer : napari viewer or ViewerModel
    actions : mapping from action name to callable
        One for each of `KEYS`.
    """

    def __init__(self, viewer: Any, actions: Mapping[str, Callable[[], None]]) -> None:
        self._viewer = viewer
        for key in KEYS:
            viewer.bind_key(key.keys, _Press(key, actions[key.action]), overwrite=True)

    def close(self) -> None:
        """Unbind the keys."""
        for key in KEYS:
            self._viewer.bind_key(key.keys, None)


class _Press:
    """Calls an action whatever viewer the key was pressed in."""

    def __init__(self, key: Key, action: Callable[[], None]) -> None:
        self._action = action
        # napari looks keys up by the names of their functions.
        self.__name__, self.__doc__ = key.action, key.meaning

    def __call__(self, viewer: Any) -> None:
        self._action()
