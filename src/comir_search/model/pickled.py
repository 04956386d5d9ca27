"""Read pickles as data, without running code: only containers and what the caller allows are built.

Python's own unpickler calls any function that a file names and allocates any memory
that it requests. This one reads the opcodes one by one, accepts the few that describe
data, counts them, and calls only the given builders.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

# A published checkpoint has about 50,000, a ResNet-152 about 40,000. Each makes at most one small object.
MAX_OPCODES = 400_000
MAX_KEY = 2**31

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


class Refused(ValueError):
    """The file refers to something that is not needed to describe data."""


class Damaged(ValueError):
    """The file is damaged."""


@dataclass(frozen=True)
class Builder:
    """A function that may be called for a name in a pickle."""

    build: Callable[..., Any]


@dataclass(eq=False)
class StandIn:
    """In place of an object: the name of its class and its attributes, without behaviour."""

    class_name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StandInClass:
    """In place of the class of an object."""

    name: str


def make_ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    """Build an OrderedDict from [key, value] pairs, the format of Python 2."""
    if not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        raise Damaged("a value is missing")
    return OrderedDict((_key(key), value) for key, value in items)


def make_set(items: Any = ()) -> set[Any]:
    """Build a set."""
    return set(map(_key, items))


class LimitedFile:
    """A file of known size; a read never requests more bytes than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size

    def read(self, count: int) -> bytes:
        """Read `count` bytes, or fewer at the end."""
        return self._file.read(max(0, min(count, self.size - self._file.tell())))

    def readline(self) -> bytes:
        """Read a line, or fewer bytes at the end."""
        return self._file.readline()

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


def read_pickle(
    file: LimitedFile,
    find: Callable[[str, str], Any],
    load_storage: Callable[..., Any] | None = None,
) -> Any:
    """Read one pickle.

    Parameters
    ----------
    file : LimitedFile
        Its position is right after the pickle when this returns.
    find : callable
        Returns a `Builder`, a `StandInClass` or a plain value for (module, name), or
        raises `Refused`.
    load_storage : callable, optional
        Returns the object of a persistent id.

    Returns
    -------
    object
        Containers, numbers, text, `StandIn`s and the results of builders. Keys of
        dicts and members of sets are text, whole numbers, bools or None.

    Raises
    ------
    Refused, Damaged, ValueError
        ValueError also if the file is not a pickle.
    """
    machine = _Machine(find, load_storage)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, file))):
        if number >= MAX_OPCODES:
            raise Damaged(f"it describes more than {MAX_OPCODES:,} objects")
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise Damaged("it ends too early")


class _Machine:
    """The state during the reading of a pickle."""

    def __init__(self, find: Callable[[str, str], Any], load_storage: Callable[..., Any] | None) -> None:
        self._find, self._load_storage = find, load_storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self._steps: Mapping[str, Callable[[Any], Any]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "POP": lambda _: self._drop(),
            "POP_MARK": lambda _: self._pop_marked() and None,
            "DUP": lambda _: self._push(self._top()),
            "TUPLE": lambda _: self._push(tuple(self._pop_marked())),
            "LIST": lambda _: self._push(self._pop_marked()),
            "DICT": lambda _: self._push(_pairs(self._pop_marked())),
            "FROZENSET": lambda _: self._push(frozenset(map(_key, self._pop_marked()))),
            "APPEND": lambda _: self._append([self.pop()]),
            "APPENDS": lambda _: self._append(self._pop_marked()),
            "SETITEM": lambda _: self._set_items([self.pop(), self.pop()][::-1]),
            "SETITEMS": lambda _: self._set_items(self._pop_marked()),
            "ADDITEMS": lambda _: self._add(self._pop_marked()),
            "GLOBAL": lambda argument: self._push(self._find(*argument.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self._push_named(*[self.pop(), self.pop()][::-1]),
            "REDUCE": lambda _: self._call(*[self.pop(), self.pop()][::-1]),
            "NEWOBJ": lambda _: self._call(*[self.pop(), self.pop()][::-1]),
            "BUILD": lambda _: self._set_state(self.pop()),
            "BINPERSID": lambda _: self._push_persistent(self.pop()),
        }

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _LITERALS:
            self._push(argument)
        elif name in _PUTS:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._top()
        elif name in _GETS:
            if argument not in self._memo:
                raise Damaged("it refers to an object that is missing")
            self._push(self._memo[argument])
        elif name in _TUPLES:
            self._push(tuple([self.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in _EMPTY:
            self._push(_EMPTY[name]())
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in self._steps:
            self._steps[name](argument)
        else:
            raise Refused(f"the operation {name}")

    def pop(self) -> Any:
        """Remove and return the object on top of the stack."""
        self._top()
        return self._stack.pop()

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Damaged("an object is missing")
        return self._stack[-1]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self.pop()

    def _pop_marked(self) -> list[Any]:
        if not self._marks:
            raise Damaged("an object is missing")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _append(self, items: list[Any]) -> None:
        self._expect(list).extend(items)

    def _add(self, items: list[Any]) -> None:
        self._expect(set).update(map(_key, items))

    def _set_items(self, items: list[Any]) -> None:
        self._expect(dict).update(_pairs(items))

    def _expect(self, kind: type) -> Any:
        if not isinstance(self._top(), kind):
            raise Damaged(f"a {kind.__name__} is missing")
        return self._top()

    def _push_named(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Damaged("a name is missing")
        self._push(self._find(module, name))

    def _call(self, what: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise Damaged("arguments are missing")
        if isinstance(what, StandInClass):
            self._push(StandIn(what.name))
        elif isinstance(what, Builder):
            self._push(what.build(*map(self._count, arguments)))
        else:
            raise Refused("a call of something that is not a class")

    def _count(self, argument: Any) -> Any:
        """Return an argument. Builders copy containers, so the number of copied objects is limited."""
        if isinstance(argument, list | tuple | dict | set | frozenset):
            self._copied += len(argument)
            if self._copied > MAX_OPCODES:
                raise Damaged(f"it describes more than {MAX_OPCODES:,} objects")
        return argument

    def _set_state(self, state: Any) -> None:
        target = self._top()
        if isinstance(target, StandIn) and isinstance(state, dict):
            self._count(state)
            target.attributes.update((key, value) for key, value in state.items() if isinstance(key, str))
        elif not (isinstance(target, OrderedDict) and isinstance(state, dict)):
            # Attributes that PyTorch adds to its state dicts are not needed here.
            raise Refused("a state for an object that has none")

    def _push_persistent(self, pid: Any) -> None:
        if self._load_storage is None or not isinstance(pid, tuple) or not pid:
            raise Refused("a persistent id of an unknown kind")
        self._push(self._load_storage(*pid))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise Damaged("a value is missing")
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> Any:
    """Return a key if its type is safe: its hashes cannot be made to collide on purpose."""
    if isinstance(key, str) or key is None or (isinstance(key, int) and abs(key) < MAX_KEY):
        return key
    raise Damaged(f"a key of the type {type(key).__name__}")
