"""Failures that a user can do something about, each said in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ComirSearchError(Exception):
    """A stated failure: its message names the file, the reason and the way out.

    The command prints the message alone and exits with 1; the plugin shows it
    as one sentence. Anything else that is raised is a bug.
    """


class PixelSizeMissing(ComirSearchError):
    """An image does not say what its pixel size is, and the user did not give one."""


@dataclass(frozen=True)
class LeftOut:
    """One member of a batch that could not be done.

    Parameters
    ----------
    name : str
        The file, as the user named it.
    reason : str
        One sentence that names the file, the reason and the way out.
    """

    name: str
    reason: str


class BatchIncomplete(ComirSearchError):
    """A batch did what it could, and had to leave some members out.

    Raised only once everything else is done and kept.

    Parameters
    ----------
    result : object
        What the batch would have returned: the members that were done.
    left_out : sequence of LeftOut
        At least one.
    n_members : int
        Members of the batch in all.
    stopped : str, optional
        One sentence on what ended the batch early, where something did.
    """

    def __init__(self, result: Any, left_out: tuple[LeftOut, ...], n_members: int, stopped: str = "") -> None:
        self.result, self.left_out, self.n_members = result, tuple(left_out), n_members
        reasons = "\n".join(f"  {each.reason}" for each in self.left_out)
        super().__init__(
            f"{f'{stopped} ' if stopped else ''}{len(self.left_out)} of {n_members} were left out:\n{reasons}"
        )
