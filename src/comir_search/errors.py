"""Errors that a user can do something about. Each message is one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ComirSearchError(Exception):
    """An error whose message names the file, the reason and what to do.

    The command prints the message and exits with 1; the plugin shows the message.
    Every other exception is a bug.
    """


class PixelSizeMissing(ComirSearchError):
    """The image file gives no pixel size, and neither did the user."""


@dataclass(frozen=True)
class LeftOut:
    """One file of a batch that could not be processed.

    Parameters
    ----------
    name : str
        The file, as the user named it.
    reason : str
        One sentence: the file, the reason and what to do.
    """

    name: str
    reason: str


class BatchIncomplete(ComirSearchError):
    """Some files of a batch could not be processed.

    It is raised after all other files are processed and saved.

    Parameters
    ----------
    result : object
        What the batch returns for the files that were processed.
    left_out : sequence of LeftOut
        At least one.
    n_members : int
        Number of files in the batch.
    stopped : str, optional
        One sentence that says why the batch ended early, if it did.
    """

    def __init__(self, result: Any, left_out: tuple[LeftOut, ...], n_members: int, stopped: str = "") -> None:
        self.result, self.left_out, self.n_members = result, tuple(left_out), n_members
        reasons = "\n".join(f"  {each.reason}" for each in self.left_out)
        super().__init__(
            f"{f'{stopped} ' if stopped else ''}{len(self.left_out)} of {n_members} were left out:\n{reasons}"
        )
