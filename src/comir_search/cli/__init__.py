"""The command ``comir-search``: one module for each subcommand, and shared functions.

The module of a subcommand has `HELP`, `add_arguments(parser)` and `run(args)`. It imports
the engine inside `run`, so that help and messages on wrong usage appear at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from comir_search.compute.memory import reuse_large_blocks
from comir_search.errors import ComirSearchError

COMMANDS = (
    "demo",
    "info",
    "index",
    "search",
    "train",
    "import-model",
    "embed",
    "evaluate",
    "evaluate-slide",
    "verify",
    "repair",
    "compact",
)

DONE, STATED_FAILURE = 0, 1  # argparse itself ends with 2 for wrong usage
INTERRUPTED, READER_GONE = 130, 141  # as the shell counts SIGINT and SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, without the program's name; by default the process's own.

    Returns
    -------
    int
        0: done; 1: failed, with one sentence on stderr; 2: wrong usage; 130: stopped
        by Ctrl-C; 141: the program that reads the output has ended.
    """
    _open_closed_streams()
    # This must be set before torch is loaded. Otherwise waiting threads keep their cores busy, and a search next to
    # other busy programs takes several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    reuse_large_blocks()
    parser = _parser()
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            sys.stdout.flush()
            return DONE
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:
        _drop_output()
        return READER_GONE
    try:
        code = args.run(args)
        sys.stdout.flush()
        return int(code)
    except BrokenPipeError:
        _drop_output()
        return READER_GONE
    except KeyboardInterrupt:
        _complain(args.stopped)
        return INTERRUPTED
    except Exception as error:
        if "debug" in args:
            raise
        _complain(describe_failure(error))
        return STATED_FAILURE


def _open_closed_streams() -> None:
    """Open the standard streams that the caller closed (``>&-``), so that their output is discarded.

    Python sets such a stream to None. The system gives its number to the next file that
    is opened, so that the output of a library could be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for the process's life)
    if (
        isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict"
    ):  # a file name may have letters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")


def _complain(sentence: str) -> None:
    """Print a sentence on stderr. Output that can no longer be written is dropped."""
    try:
        print(sentence, file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:  # the disk is full, or the program that reads the output has ended
        _drop_output()


def _drop_output() -> None:
    """Discard the output that is still buffered, so that Python prints no error about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument(  # allowed before and after the subcommand, so neither may reset the other
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error (for a bug report)",
    )
    parser = argparse.ArgumentParser(
        prog="comir-search",
        description="Find where a small image lies on whole-slide images of another modality.",
        parents=[debug],
    )
    parser.add_argument("--version", action=_PrintVersion, help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, module in _command_modules():
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.__doc__, parents=[debug])
        module.add_arguments(subparser)
        stopped = getattr(module, "STOPPED", "Stopped; nothing was left half-written.")
        subparser.set_defaults(run=module.run, stopped=stopped)
    return parser


def _command_modules() -> list[tuple[str, ModuleType]]:
    return [(name, import_module(f"{__name__}.{name.replace('-', '_')}")) for name in COMMANDS]


def describe_failure(error: Exception) -> str:
    """Return a failure in one sentence."""
    if isinstance(error, ComirSearchError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError):
        return "The machine ran out of memory; close other programs or use a machine with more."
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"Unexpected failure ({what}); please report it with what --debug prints."


class _PrintVersion(argparse.Action):
    """``--version``. The version is read only when it is printed, because that takes time."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and exit."""
        import comir_search

        print(f"comir-search {comir_search.__version__}")
        parser.exit()
