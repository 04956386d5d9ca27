"""Malformed and hostile PyTorch checkpoints, in both of PyTorch's formats."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from comir_search.model.checkpoint import import_checkpoint
from fuzzing.case import MEBIBYTE, Attempt, Case, copy_tree, pick
from fuzzing.images import deflate_zeros
from fuzzing.models import use_model
from fuzzing.mutations import SIZES_64, break_bytes

sys.path.insert(0, str(Path(__file__).parents[2] / "model"))
import test_checkpoint as published

MEMORY_BYTES = 1024 * MEBIBYTE
_ZIPPED, _STREAM, _STATES = "zipped.pt", "stream.pt", "states.pt"
_FOLDER = "archive"
# Pickle opcodes with an argument: the letter, and how the argument is packed.
_SIZED = {
    "BINPUT": "<B",
    "LONG_BINPUT": "<I",
    "BINGET": "<B",
    "LONG_BINGET": "<I",
    "BININT": "<i",
    "BININT1": "<B",
    "BININT2": "<H",
    "PROTO": "<B",
    "FRAME": "<Q",
    "BINUNICODE": "<I",
    "SHORT_BINUNICODE": "<B",
    "BINUNICODE8": "<Q",
    "LONG1": "<B",
    "LONG4": "<i",
}


def make_bases(folder: Path) -> None:
    """Save the aerial networks as they were published: whole modules, zipped and as a stream, and their weights."""
    torch.manual_seed(0)
    with _published_classes():
        networks = {
            "modelA": published.enliven(published.ModNet(3, 3, published.Aerial)),
            "modelB": published.enliven(published.ModNet(1, 3, published.Aerial)),
        }
        states = {name: network.state_dict() for name, network in networks.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the source of the classes is not at hand
            _save(networks, folder / _ZIPPED, True)
            _save(networks, folder / _STREAM, False)
            _save(states, folder / _STATES, True)


def copy_bases(bases: Path, folder: Path) -> list[Case]:
    """Return each checkpoint as a case."""
    return [_begin(bases, folder / base.name, base.name) for base in sorted(bases.iterdir())]


def write_case(bases: Path, folder: Path, rng: np.random.Generator) -> Case:
    """Break a checkpoint, or write one that is hostile from the start."""
    name = pick(rng, (_ZIPPED, _STREAM, _STATES))
    case = _begin(bases, folder, name)
    choice = rng.random()
    if choice < 0.2:
        program, note = _hostile_pickle(case, rng)
        content = (
            _zip({"data.pkl": program, "version": b"3\n"}) if rng.random() < 0.6 else _as_stream(program)
        )
    elif choice < 0.3:
        content, note = _hostile_tensors(rng)
    elif choice < 0.4 and name != _STREAM:
        content, note = _break_archive(_unzip(case.target), rng)
    elif choice < 0.85:
        content, note = _break_pickle(case.target, rng)
    else:
        content, note = break_bytes(case.target.read_bytes(), rng)
    case.target.write_bytes(content)
    case.notes += [name, note]
    return case


def act(case: Case, attempt: Attempt) -> None:
    """Convert the checkpoint as `import-model` does, and use what comes of it."""
    model = attempt("import", lambda: import_checkpoint(case.target, pixel_size_um=1.0))
    if model is not None:
        attempt("save", lambda: model.save(case.out / "model.safetensors"))
        use_model(model, attempt)


@contextmanager
def _published_classes() -> Iterator[None]:
    """Let the published classes be where their code had them."""
    layers = (published.DenseLayer, published.DenseBlock, published.TransitionDown, published.TransitionUp)
    modules = {name: ModuleType(name) for name in ("models", "models.tiramisu")}
    known = {name: sys.modules.get(name) for name in modules}
    homes = {layer: layer.__module__ for layer in (*layers, published.ModNet)}
    sys.modules.update(modules)
    main: Any = sys.modules["__main__"]
    for layer in layers:
        layer.__module__ = "models.tiramisu"
        setattr(modules["models.tiramisu"], layer.__name__, layer)
    published.ModNet.__module__, main.ModNet = "__main__", published.ModNet
    try:
        yield
    finally:
        for layer, home in homes.items():
            layer.__module__ = home
        del main.ModNet
        for name, module in known.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _begin(bases: Path, folder: Path, name: str) -> Case:
    case = Case.begin(folder, name)
    copy_tree(bases / name, case.target)
    return case


def _save(content: Any, path: Path, zipped: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped:  # anew, so that the bytes do not depend on the file's name
        path.write_bytes(_zip(_unzip(path)))
    else:
        path.write_bytes(_renumber(path.read_bytes()))


def _renumber(stream: bytes) -> bytes:
    """Give the storages of the older format numbers in place of addresses, which differ each time."""
    keys: dict[bytes, bytes] = {}
    at = 0
    for _ in range(5):
        for opcode, argument, _position in pickletools.genops(stream[at:]):
            text = str(argument).encode()
            if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE") and text.isdigit() and len(text) > 8:
                keys.setdefault(text, str(len(keys)).zfill(len(text)).encode())
        at += _length_of(stream[at:])
    for text, number in keys.items():
        stream = stream.replace(text, number)
    return stream


def _length_of(stream: bytes) -> int:
    """Return how long the pickle at the beginning is."""
    return max(position for _, _, position in pickletools.genops(stream)) + 1


def _unzip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/{name}"), content)
    return buffer.getvalue()


def _as_stream(program: bytes) -> bytes:
    """Return the older format with that object and no storages."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    return head + program + pickle.dumps([], 2)


def _hostile_pickle(case: Case, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return a pickle that runs code, or takes memory or time far beyond its size."""
    mark = str(case.executed).encode()
    size = int(pick(rng, (2**20, 2**26, 2**30, 2**31 - 1)))
    depth = int(pick(rng, (20, 30, 60, 1000)))
    doubled = b"".join(b"q%c(h%ch%ct" % (n % 256, n % 256, n % 256) for n in range(min(depth, 200)))
    programs = {
        "os.system": b"cos\nsystem\n(V touch " + mark + b"\ntR.",
        "posix.system": b"\x80\x02cposix\nsystem\n(X"
        + struct.pack("<I", len(mark) + 6)
        + b"touch "
        + mark
        + b"tR.",
        "eval": b"c__builtin__\neval\n(Vopen(" + repr(str(case.executed)).encode() + b",'w')\ntR.",
        "getattr": b"cbuiltins\ngetattr\n(Vupper\nVx\ntR.",
        "stacked global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "torch.load": b"ctorch.serialization\nload\n(V" + mark + b"\ntR.",
        "inst": b"(Vtouch " + mark + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nVtouch " + mark + b"\no.",
        "build of a class": b"cmodels.tiramisu\nDenseBlock\n)\x81}(V__class__\ncos\nsystem\nV__reduce__\nNub.",
        "newobj_ex": b"\x80\x04cmodels.tiramisu\nDenseBlock\n)}\x92}(V__setstate__\nNub.",
        "setstate": b"cmodels.tiramisu\nDenseBlock\n)\x81}(V__dict__\n}u}(V__len__\nI1\nu\x86b.",
        "class of torch": b"ctorch.nn.modules.conv\nConv2d\n(I1\nI%d\nI9\ntR." % size,
        "extension": b"\x82\x01.",
        "large memo": b"Nr" + struct.pack("<I", size) + b".",
        "doubled tuples": b"N" + doubled + b".",
        "doubled lists": b"]" + b"".join(b"q%c(h%ch%cl" % (n, n, n) for n in range(60)) + b".",
        "list that holds itself": b"]q\0h\0a.",
        "dictionary that holds itself": b"}q\0VmodelA\nh\0sVmodelB\nh\0s.",
        "module that holds itself": (
            b"}VmodelA\ncmodels.tiramisu\nDenseBlock\n)\x81q\0}(V_modules\n}Vx\nh\0suV_parameters\n}ubs"
            b"VmodelB\nh\0s."
        ),
        "modules doubled": _doubled_modules(depth=min(depth, 60)),
        "nested lists": b"(" * 100_000 + b"l" * 100_000 + b".",
        "nested tuples": b")" + b"\x85" * 100_000 + b".",
        "long text": b"X" + struct.pack("<I", size) + b"abc.",
        "long text of 8": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        "long bytes": b"\x80\x05\x96" + struct.pack("<Q", size) + b"abc.",
        "long number": b"\x8b" + struct.pack("<i", size % 2**31) + b"\x01.",
        "long digits": b"I" + b"9" * 200_000 + b"\n.",
        "large set": b"c__builtin__\nset\n(c__builtin__\nset\n)RtR.",
        "set of numbers": b"c__builtin__\nset\n(I%d\ntR." % size,
        "ordered dictionary of itself": b"ccollections\nOrderedDict\n)Rq\0(V_\nh\0u.",
        "tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n(I%d\nt(I0\nttR." % size,
        "size of a number": b"ctorch\nSize\n(I%d\ntR." % size,
        "persistent id": b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQ." % size,
        "persistent id without end": b"(Vmodule\ncos\nsystem\nV\ntQ.",
        "no end": b"N" * 1000,
        "nothing": b".",
        "mark alone": b"(.",
    }
    name = pick(rng, sorted(programs))
    program = programs[name]
    if rng.random() < 0.3:
        program = b"}VmodelA\n" + program[:-1] + b"sVmodelB\nNs."
        name += " as modelA"
    return program, name


def _doubled_modules(depth: int) -> bytes:
    """Return modules each of which holds the next twice: few objects, but 2 ** depth ways through them."""
    program = b"cmodels.tiramisu\nDenseBlock\n)\x81q\x00"
    for number in range(depth):
        inner = bytes([number])
        program += (
            b"cmodels.tiramisu\nDenseBlock\n)\x81}V_modules\n}(Va\nh" + inner + b"Vb\nh" + inner + b"usb"
            b"q" + bytes([number + 1])
        )
    return b"}VmodelA\n" + program + b"sVmodelB\nh" + bytes([depth]) + b"s."


def _hostile_tensors(rng: np.random.Generator) -> tuple[bytes, str]:
    """Return a checkpoint whose tensors are larger, smaller or otherwise than they claim."""
    size = int(pick(rng, (2**20, 2**28, 2**31, 2**33)))
    kind = pick(rng, (torch.float16, torch.float32, torch.uint8, torch.bool))
    wide = torch.zeros(1, dtype=kind).expand(size)
    action = pick(
        rng, ("stride 0", "stride 0 as weights", "negative", "bomb", "bomb as weights", "many", "scalars")
    )
    if action == "stride 0":
        content: Any = {"modelA": {"stem.weight": wide}, "modelB": {"head.weight": wide}}
    elif action == "stride 0 as weights":
        side = int(pick(rng, (64, 4096, 30_000)))
        weights = {
            "conv_init.weight": torch.zeros(1, dtype=kind).expand(side, side, 3, 3),
            "final_conv.weight": torch.zeros(1, dtype=kind).expand(side, side, 1, 1),
        }
        content = {"modelA": weights, "modelB": weights}
    elif action == "many":
        content = {"modelA": {str(number): wide for number in range(300)}, "modelB": {}}
    elif action == "scalars":
        scalar = torch.tensor(1.0)
        content = {
            name: {"conv_init.weight": scalar, "final_conv.weight": scalar} for name in ("modelA", "modelB")
        }
    else:
        content = {"modelA": {"conv_init.weight": torch.zeros(8)}, "modelB": {"a": torch.zeros(3)}}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    if action == "negative":
        members["data.pkl"] = members["data.pkl"].replace(
            b"K\x08", pick(rng, (b"J\xff\xff\xff\xff", b"K\xff", b"K\0"))
        )
    if action.startswith("bomb"):
        return _zip_bomb(members, "data/0" if rng.random() < 0.7 else "data.pkl", size), f"{action} of {size}"
    return _zip(members), f"{action} of {size}"


def _zip_bomb(members: dict[str, bytes], name: str, size: int) -> bytes:
    """Return an archive one of whose members inflates to so many zeros."""
    size = min(size, 3 << 29)
    stream = deflate_zeros(size)[2:-4]
    checksum = 0
    for _ in range(size >> 24):
        checksum = zlib.crc32(bytes(1 << 24), checksum)
    checksum = zlib.crc32(bytes(size % (1 << 24)), checksum)
    plain = _zip({key: b"" if key == name else value for key, value in members.items()})
    full = f"{_FOLDER}/{name}".encode()
    local, central = plain.index(full) - 30, plain.rindex(full) - 46
    fields = struct.pack("<III", checksum, len(stream), size)
    head = bytearray(plain)
    head[local + 8 : local + 10] = head[central + 10 : central + 12] = struct.pack("<H", 8)
    head[local + 14 : local + 26] = head[central + 16 : central + 28] = fields
    at = local + 30 + len(full)
    content = bytes(head[:at]) + stream + bytes(head[at:])
    return _shift_directory(content, at, len(stream))


def _shift_directory(content: bytes, at: int, added: int) -> bytes:
    """Correct the places that an archive's directory names after bytes were put in at one of them."""
    shifted = bytearray(content)
    end = content.rindex(b"PK\x05\x06")
    (count, start) = (
        struct.unpack_from("<H", content, end + 10)[0],
        struct.unpack_from("<I", content, end + 16)[0],
    )
    start += added
    struct.pack_into("<I", shifted, end + 16, start)
    for _ in range(count):
        lengths = struct.unpack_from("<HHH", shifted, start + 28)
        (place,) = struct.unpack_from("<I", shifted, start + 42)
        if place >= at:
            struct.pack_into("<I", shifted, start + 42, place + added)
        start += 46 + sum(lengths)
    return bytes(shifted)


def _break_archive(members: dict[str, bytes], rng: np.random.Generator) -> tuple[bytes, str]:
    """Change which members there are, and their sizes."""
    name = pick(rng, sorted(members))
    action = pick(
        rng, ("removed", "halved", "doubled", "emptied", "renamed", "exchanged", "byteorder", "compressed")
    )
    compression = zipfile.ZIP_STORED
    if action == "removed":
        del members[name]
    elif action == "halved":
        members[name] = members[name][: len(members[name]) // 2]
    elif action == "doubled":
        members[name] *= 2
    elif action == "emptied":
        members[name] = b""
    elif action == "renamed":
        members[pick(rng, ("../../executed", "data.pkl", "x/data.pkl", "data/999", ""))] = members.pop(name)
    elif action == "exchanged":
        other = pick(rng, sorted(members))
        members[name], members[other] = members[other], members[name]
    elif action == "byteorder":
        members["byteorder"] = pick(rng, (b"big", b"", b"\xff"))
    else:
        compression = pick(rng, (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return _zip(members, compression), f"{name} {action}"


def _break_pickle(path: Path, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change opcodes of the pickle inside a checkpoint."""
    if path.name == _STREAM:
        content = path.read_bytes()
        starts = [0]
        for _ in range(4):
            starts.append(starts[-1] + _length_of(content[starts[-1] :]))
        which = int(pick(rng, (0, 1, 2, 3, 3, 3, 3, 4)))
        first = starts[which]
        last = first + _length_of(content[first:])
        broken, note = _break_opcodes(content[first:last], rng)
        return content[:first] + broken + content[last:], f"pickle {which}: {note}"
    members = _unzip(path)
    members["data.pkl"], note = _break_opcodes(members["data.pkl"], rng)
    return _zip(members), note


def _break_opcodes(program: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change, remove, repeat or insert opcodes."""
    ops = [(opcode.name, position) for opcode, _, position in pickletools.genops(program)]
    ends = [position for _, position in ops[1:]] + [len(program)]
    notes, pieces = [], [program[position:end] for (_, position), end in zip(ops, ends, strict=True)]
    names = [name for name, _ in ops]
    for _ in range(int(rng.integers(1, 4))):
        number = int(rng.integers(len(pieces)))
        if rng.random() < 0.3:  # where the numbers are: sizes, strides, offsets
            sized = [each for each, name in enumerate(names) if name in _SIZED]
            number = pick(rng, sized) if sized else number
        action = pick(
            rng, ("argument", "argument", "argument", "removed", "repeated", "moved", "opcode", "inserted")
        )
        if action == "argument" and names[number] in _SIZED and len(pieces[number]) > 1:
            form = _SIZED[names[number]]
            value = int(pick(rng, SIZES_64)) % (1 << 8 * struct.calcsize(form))
            packed = value.to_bytes(struct.calcsize(form), "little")
            pieces[number] = pieces[number][:1] + packed + pieces[number][1 + len(packed) :]
            action = f"= {value}"
        elif action == "removed":
            pieces[number] = b""
        elif action == "repeated":
            pieces[number] *= int(rng.integers(2, 5))
        elif action == "moved":
            other = int(rng.integers(len(pieces)))
            pieces[number], pieces[other] = pieces[other], pieces[number]
        elif action == "inserted":
            pieces[number] += pick(rng, [*(bytes([code]) for code in b"012(NRbQtus]}."), b"\x81", b"\x88"])
        else:
            pieces[number] = rng.bytes(1) + pieces[number][1:]
        notes.append(f"{names[number]} {action}")
    return b"".join(pieces), "; ".join(notes)
