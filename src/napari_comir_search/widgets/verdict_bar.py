"""Accept, reject, unsure, undo, and a note."""

from __future__ import annotations

from functools import partial

from qtpy.QtWidgets import QGridLayout, QLineEdit, QPushButton, QWidget

from comir_search.pictures.palette import TEXT_COLOURS, VERDICT_COLOURS
from comir_search.records import Verdict
from napari_comir_search.view.keys import key_of
from napari_comir_search.widgets.actions import Workbench

BUTTONS = (
    (Verdict.ACCEPTED, "Accept", "accept", "This is the right position."),
    (Verdict.REJECTED, "Reject", "reject", "This is not the right position."),
    (Verdict.UNSURE, "Unsure", "unsure", "This may be the right position."),
)


class VerdictBar(QWidget):
    """The verdict on the current candidate; each click is saved at once.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.buttons: dict[Verdict, QPushButton] = {}
        for column, (verdict, text, action, tip) in enumerate(BUTTONS):
            button = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(f"{tip} Saved at once. ({key_of(action)})")
            red, green, blue = VERDICT_COLOURS[verdict]
            text = TEXT_COLOURS[verdict]
            button.setStyleSheet(
                f"QPushButton {{ border-bottom: 3px solid rgb({red}, {green}, {blue}); }}"
                f"QPushButton:checked {{ background: rgb({red}, {green}, {blue}); color: {text}; }}"
                "QPushButton:disabled { border-bottom: 3px solid transparent; }"
            )
            button.clicked.connect(partial(self._judge, verdict))
            self.buttons[verdict] = button
            layout.addWidget(button, 0, column)
        self.undo_button = QPushButton("Undo")
        self.undo_button.setToolTip(
            f"Undo the last verdict, position moved by hand, or removal. ({key_of('undo')})"
        )
        self.undo_button.clicked.connect(workbench.undo)
        layout.addWidget(self.undo_button, 0, 3)
        self.note = QLineEdit()
        self.note.setPlaceholderText("Note")
        self.note.setToolTip(
            "A note that is kept with the verdict. Press Enter or leave the field to save it."
        )
        self.note.editingFinished.connect(self._keep_note)
        layout.addWidget(self.note, 1, 0, 1, 3)
        self.next_button = QPushButton("Next")
        self.next_button.setToolTip(f"Go to the next candidate without a verdict. ({key_of('unverified')})")
        self.next_button.clicked.connect(workbench.step_unverified)
        layout.addWidget(self.next_button, 1, 3)
        events = self.session.events
        for event in (events.candidate, events.judgement, events.result, events.queries, events.slides):
            event.connect(self.refresh)
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session."""
        events = self.session.events
        for event in (events.candidate, events.judgement, events.result, events.queries, events.slides):
            event.disconnect(self.refresh)

    def refresh(self) -> None:
        """Show the verdict on the current candidate."""
        candidate = self.session.candidate
        can_judge = candidate is not None and not self.session.is_refining
        verdict = Verdict.NONE if candidate is None else self.session.verdict(candidate.rank)
        for own, button in self.buttons.items():
            button.setEnabled(can_judge)
            button.setChecked(own is verdict)
        for part in (self.note, self.next_button):
            part.setEnabled(can_judge)
        self.undo_button.setEnabled(self.session.can_undo)
        if not self.note.hasFocus() or not can_judge:
            self.note.setText(self._saved_note())

    def _saved_note(self) -> str:
        candidate = self.session.candidate
        judgement = None if candidate is None else self.session.judgements.get(candidate.rank)
        return "" if judgement is None else judgement.note

    def _judge(self, verdict: Verdict) -> None:
        self.workbench.judge(verdict, self.note.text())
        self.refresh()

    def _keep_note(self) -> None:
        candidate = self.session.candidate
        if candidate is not None and self.note.text() != self._saved_note():
            self.workbench.judge(self.session.verdict(candidate.rank), self.note.text())
