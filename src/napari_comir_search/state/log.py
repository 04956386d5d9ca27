"""The log file: what was done and what failed, for whoever helps."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from platformdirs import user_log_path

LOGGER = logging.getLogger("napari_comir_search")
SIZE_BYTES, OLDER_FILES = 1 << 20, 2


def log_path() -> Path:
    """Return where the log file lies."""
    return user_log_path("napari-comir-search") / "napari-comir-search.log"


def open_log() -> None:
    """Write the log to its file from now on; without a place to write there is none."""
    if LOGGER.handlers:
        return
    try:
        log_path().parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(
            log_path(), maxBytes=SIZE_BYTES, backupCount=OLDER_FILES, encoding="utf-8", delay=True
        )
    except OSError:
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)


def close_log() -> None:
    """Close the file."""
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
