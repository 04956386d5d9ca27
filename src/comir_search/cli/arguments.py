"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any


def positive_float(text: str) -> float:
    """Read a finite number above zero, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return value


def positive_int(text: str) -> int:
    """Read a whole number above zero, for argparse."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the networks run (default: auto)",
    )


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
    """Add ``--modality``; its names belong to the model, so any is taken here."""
    parser.add_argument("--modality", metavar="NAME", required=required, help=help)


def add_pixel_size(parser: argparse.ArgumentParser) -> None:
    """Add ``--pixel-size``."""
    parser.add_argument(
        "--pixel-size",
        type=positive_float,
        metavar="UM",
        help="um per pixel, instead of what the image states (default: what it states)",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers`` and ``--scheduler``, of which one may be given."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="work in N processes on this machine (needs the extra 'distributed')",
    )
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="work on the cluster of a dask.distributed scheduler, such as tcp://host:8786",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")


def write_json(path: Path | None, value: Any) -> None:
    """Write `value` as JSON to `path`, whole or not at all; None writes nothing."""
    from comir_search.files import write_text

    if path is not None:
        write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
