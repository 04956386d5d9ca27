"""How query and candidate are compared: the mode, image or CoMIR, and a position being adjusted."""

from __future__ import annotations

from enum import Enum

from psygnal import Signal

from comir_search.geometry import adjust_candidate, angle_difference_deg, place_error_px
from comir_search.records import Candidate
from napari_comir_search.state.session import Session

NUDGE_SHARE = 0.005  # of the query's shorter side: about what can be told apart by eye
NUDGE_DEG = 0.5


class Mode(str, Enum):
    """How the two pictures are compared."""

    SIDE_BY_SIDE = "Side by side"
    BLEND = "Blend"
    CHECKERBOARD = "Checkerboard"
    SWIPE = "Swipe"


class Face(str, Enum):
    """What is shown of an image."""

    IMAGE = "Image"
    COMIR = "CoMIR"


class Inspection:
    """How the current candidate is compared with the query.

    Parameters
    ----------
    session : Session
    """

    changed = Signal()  # another picture is wanted
    mode_changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.mode = Mode.SIDE_BY_SIDE
        self.faces = (Face.IMAGE, Face.IMAGE)
        self._adjusted: Candidate | None = None
        session.events.candidate.connect(self._forget)
        session.events.result.connect(self._forget)

    def close(self) -> None:
        """Disconnect from the session."""
        self.session.events.candidate.disconnect(self._forget)
        self.session.events.result.disconnect(self._forget)

    @property
    def candidate(self) -> Candidate | None:
        """The candidate as it is shown: the current one, or where it was moved."""
        return self._adjusted or self.session.candidate

    @property
    def is_adjusted(self) -> bool:
        """Whether the candidate was moved and not yet kept."""
        return self._adjusted is not None

    @property
    def adjustment(self) -> str:
        """By how much the candidate was moved, as shown."""
        found = self.session.candidate
        if found is None or self._adjusted is None:
            return ""
        moved_um = found.pixel_size_um * place_error_px(
            found, self._adjusted.center_x_px, self._adjusted.center_y_px
        )
        turned_deg = angle_difference_deg(found.angle_deg, self._adjusted.angle_deg)
        return f"Moved by {moved_um:.1f} µm, turned by {turned_deg:.1f}°"

    def set_mode(self, mode: Mode) -> None:
        """Compare in another way."""
        if mode is not self.mode:
            self.mode = mode
            self.mode_changed.emit()

    def next_mode(self) -> None:
        """Compare in the next way."""
        modes = list(Mode)
        self.set_mode(modes[(modes.index(self.mode) + 1) % len(modes)])

    def set_faces(self, query: Face, slide: Face) -> None:
        """Show images or CoMIRs."""
        if (query, slide) != self.faces:
            self.faces = (query, slide)
            self.changed.emit()

    def adjust(self, shift_um: tuple[float, float], turn_deg: float) -> None:
        """Move and turn the slide under the query."""
        if self.candidate is not None:
            self.place(adjust_candidate(self.candidate, shift_um, turn_deg))

    def nudge(self, right: int, down: int, turn: int = 0) -> None:
        """Move or turn the slide under the query by so many small steps.

        Parameters
        ----------
        right, down : int
            Steps of the slide to the right and down.
        turn : int
            Steps of rotation, counter-clockwise.
        """
        if self.candidate is not None:
            step_um = NUDGE_SHARE * min(self.candidate.width_um, self.candidate.height_um)
            self.adjust((right * step_um, down * step_um), turn * NUDGE_DEG)

    def place(self, candidate: Candidate) -> None:
        """Show the candidate at another place."""
        self._adjusted = candidate
        self.changed.emit()

    def reset(self) -> None:
        """Go back to the position that was found."""
        if self._adjusted is not None:
            self._adjusted = None
            self.changed.emit()

    def keep(self) -> None:
        """Make the adjusted place the candidate's."""
        if self._adjusted is not None:
            adjusted, self._adjusted = self._adjusted, None
            self.session.replace_candidate(adjusted)

    def _forget(self) -> None:
        self._adjusted = None
        self.changed.emit()
