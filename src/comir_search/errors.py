"""Errors that the user can fix. The message says what is wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ComirSearchError(Exception):
    """An error that the user can fix.

    The message is one sentence with the file, the cause and what to do. The command
    prints the message without a traceback and exits with 1; the plugin shows it in
    the window. Every other exception that reaches the user is a bug.
    """


class PixelSizeMissing(ComirSearchError):
    """The file of an image has no pixel size, and the user did not give one."""


@dataclass(frozen=True)
class LeftOut:
    """One file of a batch that failed.

    Parameters
    ----------
    name : str
        The file, as the user named it.
    reason : str
        One sentence with the file, the cause and what to do.
    """

    name: str
    reason: str


class BatchIncomplete(ComirSearchError):
    """Some files of a batch failed.

    It is raised after all other files are done and their results are saved.

    Parameters
    ----------
    result : object
        The result for the files that are done.
    left_out : sequence of LeftOut
        The files that failed; at least one.
    n_members : int
        Number of files in the batch, failed ones included.
    stopped : str, optional
        If the batch ended early, one sentence that says why.
    """

    def __init__(self, result: Any, left_out: tuple[LeftOut, ...], n_members: int, stopped: str = "") -> None:
        self.result, self.left_out, self.n_members = result, tuple(left_out), n_members
        reasons = "\n".join(f"  {each.reason}" for each in self.left_out)
        super().__init__(
            f"{f'{stopped} ' if stopped else ''}{len(self.left_out)} of {n_members} were left out:\n{reasons}"
        )
