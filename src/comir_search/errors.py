"""Failures that a user can mend, each stated in one sentence."""


class ComirSearchError(Exception):
    """A stated failure: its message names the file, the problem and the mend.

    The command prints the message alone and exits with 1; the plugin shows it
    as one sentence. Anything else that is raised is a bug.
    """


class PixelSizeMissing(ComirSearchError):
    """An image states no pixel size, and nobody gave one."""
