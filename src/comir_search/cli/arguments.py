"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from comir_search.options import DeviceOptions, Option, PixelSizeOptions, WorkerOptions, add_arguments


def positive_float(text: str) -> float:
    """Read a finite number above zero, for argparse."""
    value: float = Option("", 1.0, "", float, above=0).parse(text)
    return value


def positive_int(text: str) -> int:
    """Read a whole number above zero, for argparse."""
    value: int = Option("", 1, "", int, low=1).parse(text)
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    add_arguments(parser, DeviceOptions)


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add ``--index``."""
    parser.add_argument(
        "--index",
        required=True,
        metavar="DIR",
        help="the index: a folder, or an fsspec URL such as s3://bucket/my.index",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="model file (default: the model that comes with the program)",
    )


def add_modality(parser: argparse.ArgumentParser, help: str, *, required: bool = False) -> None:
    """Add ``--modality``. The model defines the names, so each text is accepted here.

    Parameters
    ----------
    parser : ArgumentParser
    help : str
        One line of help.
    required : bool
        Whether it must be given.
    """
    parser.add_argument("--modality", metavar="NAME", required=required, help=help)


def add_pixel_size(parser: argparse.ArgumentParser) -> None:
    """Add ``--pixel-size``."""
    add_arguments(parser, PixelSizeOptions)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers`` and ``--scheduler``; the user may give one of the two."""
    add_arguments(parser, WorkerOptions)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` as JSON to `path`, completely or not at all. If `path` is None, do nothing."""
    from comir_search.files import write_text

    if path is not None:
        write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
