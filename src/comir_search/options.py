"""Options classes: each option of a job is defined once, with its type, default, limits and help.

The arguments of the command, the keywords in Python, the forms in the window and the
provenance of a result are all made from these classes.
"""

from __future__ import annotations

import argparse
import math
import operator
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from comir_search.errors import ComirSearchError


def option(default: Any, help: str, **about: Any) -> Any:
    """Return the field of an options class.

    Parameters
    ----------
    default : object
    help : str
        One line; the default is added to it.
    **about
        Other attributes of `Option`.
    """
    return field(default=default, metadata={"help": help, **about})


@dataclass(frozen=True)
class Option:
    """One option of a job.

    Parameters
    ----------
    name : str
        The keyword in Python.
    default : object
        None if the default depends on the data, such as on the file or the model.
    help : str
    kind : type
        bool, int, float, str or Path; by default the type in the field's annotation.
    is_list : bool
        Whether several values may be given.
    choices : tuple of str
        The allowed values, from a `Literal` annotation. Empty if there is no such list.
    otherwise : str
        Description of the default, if the default is None.
    flag : str
        The argument of the command; "" if the command does not have this option.
    metavar : str, optional
        Name of the value in the command's help.
    unit : str
    low, high : float, optional
        The smallest and the largest allowed value.
    above : float, optional
        Values must be larger than this.
    either : str
        The command accepts only one of all options with the same text here.
    """

    name: str
    default: Any
    help: str
    kind: type = str
    is_list: bool = False
    choices: tuple[str, ...] = ()
    otherwise: str = ""
    flag: str = ""
    metavar: str | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    either: str = ""

    @property
    def argument(self) -> str:
        """The name of the command's argument in argparse's namespace."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def label(self) -> str:
        """The name for people to read, without the unit."""
        return self.name.removesuffix(f"_{self.unit}").replace("_", " ")

    @property
    def wanted(self) -> str:
        """The allowed values, in words."""
        if self.choices:
            return " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        if self.is_list:
            return "a list of names"
        words = {bool: "True or False", int: "a whole number", float: "a number", Path: "a file"}
        wanted = words.get(self.kind, "a text")
        if self.above is not None or (self.low, self.kind) == (1, int):
            wanted += f" above {'zero' if not self.above else f'{self.above:g}'}"
        elif self.low is not None:
            wanted += f" from {self.low:g}"
        return wanted if self.high is None else f"{wanted} up to {self.high:g}"

    def check(self, value: Any) -> Any:
        """Return a value, converted to the option's type.

        Raises
        ------
        ComirSearchError
            If it is not allowed.
        """
        if value is None and self.default is None:
            return None
        try:
            if self.is_list:
                return (value,) if isinstance(value, str) else tuple(map(self._convert, value))
            return self._convert(value)
        except (TypeError, ValueError):
            wanted = "one or more" if (self.low, self.kind) == (1, int) else self.wanted
            raise ComirSearchError(
                f"{value!r} is not allowed for the option {self.label}; give {wanted}."
            ) from None

    def _convert(self, value: Any) -> Any:
        if self.kind is bool:
            return bool(value)
        if self.kind is Path:
            return Path(value) if isinstance(value, str) else value
        if self.kind is str and not isinstance(value, str):
            raise TypeError
        if self.kind is int:
            value = operator.index(value)
        if self.kind is float:
            if not isinstance(value, Real):
                raise TypeError
            value = float(value)
        if self.kind in (int, float) and not (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        ):
            raise ValueError
        if self.choices and value not in self.choices:
            raise ValueError
        return value

    def parse(self, text: str) -> Any:
        """Read a value from the command line, for argparse."""
        try:
            if self.kind is int and not text.removeprefix("-").isdecimal():
                raise ValueError
            return self._convert(self.kind(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.wanted}") from None


@dataclass(frozen=True)
class Options:
    """The options of one job; a subclass lists them as fields made by `option`.

    Raises
    ------
    ComirSearchError
        If a value is not allowed.
    TypeError
        If a keyword is not the name of an option.
    """

    def __post_init__(self) -> None:
        for each in list_options(type(self)):
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))

    @classmethod
    def of(cls, options: Self | None, keywords: dict[str, Any]) -> Self:
        """Return the options, or the defaults for None, with the values in `keywords` replaced."""
        return cls(**keywords) if options is None else replace(options, **keywords)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as a dictionary for the provenance, with lists instead of tuples."""
        values = {each.name: getattr(self, each.name) for each in list_options(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


Chosen = TypeVar("Chosen", bound=Options)


def list_options(options: type[Options]) -> tuple[Option, ...]:
    """Return all options of a class."""
    hints = get_type_hints(options)
    return tuple(_read_option(each, hints[each.name]) for each in fields(options))


def _read_option(each: Any, hint: Any) -> Option:
    assert each.default is not MISSING
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    hint = next(member for member in members if member is not type(None))
    read: dict[str, Any] = {"kind": hint}
    if get_origin(hint) is Literal:
        read = {"kind": str, "choices": get_args(hint)}
    elif get_origin(hint) is tuple:
        read = {"kind": get_args(hint)[0], "is_list": True}
    name = each.name
    unit = each.metadata.get("unit", "")
    flag = f"--{name.removesuffix(f'_{unit}').replace('_', '-')}"
    return Option(**{"name": name, "default": each.default, "flag": flag, **read, **each.metadata})


def add_arguments(parser: argparse.ArgumentParser, options: type[Options]) -> None:
    """Add an argument for every option that the command has.

    Parameters
    ----------
    parser : ArgumentParser
    options : type
        A subclass of `Options`.
    """
    groups: dict[str, Any] = {}
    for each in list_options(options):
        if not each.flag:
            continue
        target: Any = parser
        if each.either:
            if each.either not in groups:
                groups[each.either] = parser.add_mutually_exclusive_group()
            target = groups[each.either]
        if each.kind is bool:
            target.add_argument(each.flag, action="store_true", help=each.help)
            continue
        default = each.otherwise if each.default is None else each.default
        target.add_argument(
            each.flag,
            type=None if each.kind is str else each.parse,
            choices=each.choices or None,
            nargs="+" if each.is_list else None,
            default=each.default,
            metavar=each.metavar,
            help=f"{each.help} (default: {default})" if default not in ("", ()) else each.help,
        )


def from_arguments(options: type[Chosen], arguments: argparse.Namespace) -> Chosen:
    """Return the options from the command line; options that the command does not have get their defaults."""
    given = {each.name: each.argument for each in list_options(options) if each.flag}
    return options(**{name: getattr(arguments, argument) for name, argument in given.items()})


def list_form_rows(options: type[Options]) -> list[dict[str, Any]]:
    """Return the arguments of `magicgui.widgets.create_widget` for the form row of each option.

    Options whose default is None are left out, because a row always has a value.

    Returns
    -------
    list of dict
        ``name``, ``label``, ``value``, ``annotation`` and ``options`` (``tooltip``,
        and ``choices``, ``min`` and ``max`` if the option has them).
    """
    rows = []
    for each in list_options(options):
        if each.default is None:
            continue
        low = each.low if each.above is None else math.nextafter(each.above, math.inf)
        bounds = {"min": low, "max": each.high, "choices": each.choices or None}
        rows.append(
            {
                "name": each.name,
                "label": f"{each.label} ({each.unit})" if each.unit else each.label,
                "value": each.default,
                "annotation": tuple[each.kind, ...] if each.is_list else each.kind,  # type: ignore[name-defined]
                "options": {"tooltip": each.help}
                | {key: value for key, value in bounds.items() if value is not None},
            }
        )
    return rows


@dataclass(frozen=True)
class DeviceOptions(Options):
    """Where the networks of a job run."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "where the networks run")


@dataclass(frozen=True)
class PixelSizeOptions(Options):
    """The pixel size of the images of a job."""

    pixel_size_um: float | None = option(
        None,
        "um per pixel",
        otherwise="the pixel size in the file",
        metavar="UM",
        unit="um",
        above=0,
    )


@dataclass(frozen=True)
class WorkerOptions(Options):
    """Where a job runs: by default in this process."""

    workers: int | None = option(
        None,
        "work in N processes on this machine (needs the extra 'distributed')",
        metavar="N",
        low=1,
        either="workers",
    )
    scheduler: str | None = option(
        None,
        "work on the cluster of a dask.distributed scheduler, such as tcp://host:8786",
        metavar="ADDRESS",
        either="workers",
    )
