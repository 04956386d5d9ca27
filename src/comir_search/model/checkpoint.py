"""Read PyTorch checkpoints without running any code in them.

The published CoMIR checkpoints are pickled dicts of two whole modules, whose class was
defined in a notebook. Python's own unpickling calls any function that a file names.
`comir_search.model.pickled` instead reads the file as data and accepts only a short
list of names. Both of PyTorch's formats are read: the zip archive and the older stream.
A file never takes more than a few times its own size in memory.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from comir_search.errors import ComirSearchError
from comir_search.model.intensity import LOG_FULL_SCALE
from comir_search.model.model import Modality, Model, check_pixel_size, find_bad_weight, shapes_of
from comir_search.model.pickled import (
    Builder,
    Damaged,
    LimitedFile,
    Refused,
    StandIn,
    StandInClass,
    make_ordered,
    make_set,
    read_pickle,
)
from comir_search.model.tensor_file import find_misfit, quote, require_file
from comir_search.model.tiramisu import SHAPES, Tiramisu

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Classes of the published code, defined in the notebook (__main__) or in its models package.
_PUBLISHED_CLASSES = {
    "ModNet",
    "DenseUNet",
    "BaseModel",
    "DenseBlock",
    "DenseLayer",
    "TransitionDown",
    "TransitionUp",
    "BlurPool2d",
}
_PUBLISHED_MODULES = re.compile(r"__main__|models(\.\w+)*|tiramisu")
_TORCH_LAYERS = {
    "Module",
    "Sequential",
    "ModuleList",
    "ModuleDict",
    "Conv2d",
    "ConvTranspose2d",
    "BatchNorm2d",
    "ReLU",
    "Dropout",
    "Dropout2d",
    "MaxPool2d",
    "AvgPool2d",
    "Upsample",
    "UpsamplingNearest2d",
    "PixelShuffle",
    "Identity",
}
# From names of the published network to ours.
_RENAMES = (
    (r"conv_init\.", "stem."),
    (r"layers_down\.(\d+)\.", r"dense_down.\1."),
    (r"transitions_down\.(\d+)\.", r"down.\1."),
    (r"layers_up\.(\d+)\.", r"dense_up.\1."),
    (r"transitions_up\.(\d+)\.upsampling_layer\.", r"up.\1."),
    (r"final_conv\.", "head."),
)
_LAYER_RENAMES = {"batchnorm": "0", "conv": "2"}


_MAX_NAME = 200  # characters of a weight's name
_MAX_NESTING = 32  # modules inside modules
_MAX_AXES = 8
_MAX_SIDE = 2**31
_MAX_CHANNELS = 64


def find_name(module: str, name: str) -> Any:
    """Return the object that stands for a name in a checkpoint.

    Raises
    ------
    Refused
        If it is not on the list.
    """
    full_name = f"{module}.{name}"
    if full_name in _BUILDERS:
        return _BUILDERS[full_name]
    if module in ("torch", "torch.storage") and name in _STORAGE_TYPES:
        return _STORAGE_TYPES[name]
    published = name in _PUBLISHED_CLASSES and _PUBLISHED_MODULES.fullmatch(module)
    if published or (name in _TORCH_LAYERS and re.fullmatch(r"torch\.nn\.modules\.\w+", module)):
        return StandInClass(name)
    raise Refused(quote(full_name))


def find_tensors(module: StandIn) -> dict[str, Tensor]:
    """Return the tensors of a module and of the modules inside it, named as in a state dict.

    Raises
    ------
    Damaged
        If modules are nested too deeply.
    """
    found: dict[str, Tensor] = {}
    seen = {id(module)}
    waiting: list[tuple[str, int, StandIn]] = [("", 0, module)]
    while waiting:
        prefix, depth, owner = waiting.pop()
        if depth > _MAX_NESTING or len(prefix) > _MAX_NAME:
            raise Damaged("its modules are nested too deeply")
        for group in ("_parameters", "_buffers"):
            for name, value in _items(owner.attributes.get(group)):
                if isinstance(value, Tensor):
                    found[prefix + name] = value
        for name, inner in _items(owner.attributes.get("_modules")):
            if isinstance(inner, StandIn) and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append((f"{prefix}{name}.", depth + 1, inner))
    return found


def _items(group: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(group, dict):
        yield from ((n, v) for n, v in group.items() if isinstance(n, str) and len(n) <= _MAX_NAME)


def _load_persistent(load_storage: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return a function that loads the storage or class of a persistent id."""

    def load(kind: Any, *rest: Any) -> Any:
        if (
            kind == "module" and rest
        ):  # the older stream also contains the source code of classes, which is ignored
            return rest[0]
        if kind != "storage" or len(rest) < 4 or not isinstance(rest[0], torch.dtype):
            raise Refused("a persistent id of an unknown kind")
        dtype, key, _, count, *view = rest
        if not (isinstance(key, str) and _is_count(count)):
            raise Damaged("a storage is of an unknown kind")
        return load_storage(dtype, key, count, *view)

    return load


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _MAX_SIDE


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a tensor on a storage; it must not be larger than the storage."""
    axes = (size, stride)
    if not (isinstance(storage, Tensor) and storage.ndim == 1 and _is_count(offset)):
        raise Damaged("a tensor has no storage")
    if not all(isinstance(a, tuple | list) and len(a) <= _MAX_AXES and all(map(_is_count, a)) for a in axes):
        raise Damaged("a tensor has no shape")
    if len(size) != len(stride):
        raise Damaged("a tensor has no shape")
    count = prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count and (last >= len(storage) or count > len(storage) - offset):
        raise Damaged("a tensor is larger than its data in the file")
    if not count:
        return storage.new_empty([min(length, 1) for length in size])
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Damaged("a parameter has no tensor")
    return data


def _make_size(lengths: Any = ()) -> tuple[Any, ...]:
    return tuple(lengths)


_BUILDERS: dict[str, Any] = {
    "collections.OrderedDict": Builder(make_ordered),
    "builtins.set": Builder(make_set),
    "__builtin__.set": Builder(make_set),
    "torch.Size": Builder(_make_size),
    "torch._utils._rebuild_tensor": Builder(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_rebuild_tensor),
    "torch._utils._rebuild_parameter": Builder(_rebuild_parameter),
}


def read_checkpoint(path: str | Path) -> Any:
    """Read a file of ``torch.save`` without running any code in it.

    Parameters
    ----------
    path : path
        Zip archive or older stream.

    Returns
    -------
    object
        Containers, numbers, strings, tensors, and a `StandIn` for every module.

    Raises
    ------
    ComirSearchError
        If the file is missing, damaged or not a checkpoint, or if it refers to
        anything that a CoMIR network does not need.
    """
    path = Path(path)
    require_file(path, "a checkpoint that torch.save wrote")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file, size) if zipped else _read_stream(LimitedFile(file, size))
    except Refused as refused:
        raise ComirSearchError(
            f"{path} was not opened: it refers to {refused}, which no CoMIR checkpoint needs and which could "
            f"run harmful code; get the file from its publisher."
        ) from None
    except PermissionError as error:
        raise ComirSearchError(f"{path} cannot be read ({error.strerror}).") from error
    except Exception as error:  # a damaged file raises many kinds of errors
        reason = str(error) if isinstance(error, Damaged) else type(error).__name__
        raise ComirSearchError(
            f"{path} is not a PyTorch checkpoint or is damaged ({reason}); download it again."
        ) from error


def _read_zip(file: BinaryIO, size: int) -> Any:
    left = size
    with zipfile.ZipFile(file) as archive:

        def read(name: str) -> bytes:
            nonlocal left
            part = archive.getinfo(name)
            if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                raise Damaged("its parts are compressed, which torch.save never does")
            left -= part.file_size
            if left < 0:
                raise Damaged("its parts are larger than the file")
            return archive.read(name)

        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if not pickles:
            raise Damaged("it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and read(f"{folder}byteorder") != b"little":
            raise Damaged("it is big-endian")
        held: dict[str, bytearray] = {}
        storages: dict[tuple[str, torch.dtype], Tensor] = {}

        def load(dtype: torch.dtype, key: str, count: int) -> Tensor:
            if key not in held:
                held[key] = bytearray(read(f"{folder}data/{key}"))
            if (key, dtype) not in storages:
                if len(held[key]) != count * dtype.itemsize:
                    raise Damaged("a storage has another size")
                storages[key, dtype] = _from_bytes(held[key], dtype)
            return storages[key, dtype]

        data = read(pickles[0])
        return read_pickle(LimitedFile(io.BytesIO(data), len(data)), find_name, _load_persistent(load))


def _read_stream(file: LimitedFile) -> Any:
    """Read magic number, version, system, the object, storage keys, then the storages."""
    if read_pickle(file, find_name) != _LEGACY_MAGIC:
        raise Damaged("it has no magic number")
    for _ in ("version", "system"):
        read_pickle(file, find_name)
    storages: dict[str, Tensor] = {}
    left = file.size

    def load(dtype: torch.dtype, key: str, count: int, view: Any = None) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise Damaged("its storages are larger than the file")
            storages[key] = torch.zeros(count, dtype=dtype)
        storage = storages[key]
        if storage.dtype != dtype or len(storage) != count:
            raise Damaged("a storage has another size")
        if view is None:
            return storage
        if not (isinstance(view, tuple) and len(view) == 3 and _is_count(view[1]) and _is_count(view[2])):
            raise Damaged("a storage is of an unknown kind")
        _, offset, size = view
        return storage[offset : offset + size]

    # The object comes first, its storages last. Its tensors share their memory, which is filled in below.
    content = read_pickle(file, find_name, _load_persistent(load))
    keys = read_pickle(file, find_name)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise Damaged("its storages are not listed")
    for key in keys:
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != len(storage):
            raise Damaged("a storage has another size")
        data = file.read(storage.nbytes)
        if len(data) != storage.nbytes:
            raise Damaged("it ends too early")
        if data:
            storage.copy_(_from_bytes(bytearray(data), storage.dtype))
    return content


def _from_bytes(data: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def import_checkpoint(path: str | Path, *, pixel_size_um: float) -> Model:
    """Convert a published CoMIR checkpoint.

    Parameters
    ----------
    path : path
        A pickled dict with ``modelA`` and ``modelB``, whole modules or state
        dicts: one for grey and one for colour images. In the biomedical ones
        these are SHG and brightfield, in the aerial ones near-infrared and
        colour.
    pixel_size_um : float
        Pixel size of the training images; the file does not contain it.

    Returns
    -------
    Model
        Without a vocabulary. Its modalities are "bf" and "shg", or "colour" and
        "nir". As published, SHG is transformed by ln(1 + x) unless the checkpoint
        says otherwise. The aerial networks take colour in the order of their data
        set: blue, green, red.

    Raises
    ------
    ComirSearchError
        As `read_checkpoint`, or if the networks have another structure.
    """
    check_pixel_size(pixel_size_um)
    content = read_checkpoint(path)
    if not isinstance(content, dict) or not {"modelA", "modelB"} <= content.keys():
        raise ComirSearchError(
            f"{path} contains no CoMIR networks 'modelA' and 'modelB'; give a published checkpoint."
        )
    networks: dict[int, Tiramisu] = {}
    logarithmic, architectures = {}, set()
    for key in ("modelA", "modelB"):
        architecture, network = _to_tiramisu(content[key], f"{key} of {path}")
        channels = network.stem.in_channels
        networks[channels] = network
        architectures.add(architecture)
        logs_grey = channels == 1 and architecture == "tiramisu"
        said = content[key].attributes.get("log_transform") if isinstance(content[key], StandIn) else None
        logarithmic[channels] = said if isinstance(said, bool) else logs_grey
    if set(networks) != {1, 3}:
        raise ComirSearchError(
            f"{path} is not for grey and RGB images; only a pair of one grey and one RGB network can be imported."
        )
    comir_channels = {network.head.out_channels for network in networks.values()}
    if len(comir_channels) > 1 or len(architectures) > 1:
        raise ComirSearchError(
            f"{path} contains two networks that do not belong together; download it again."
        )
    architecture = architectures.pop()
    names = {3: "bf", 1: "shg"} if architecture == "tiramisu" else {3: "colour", 1: "nir"}
    return Model(
        nn.ModuleDict({name: networks[channels] for channels, name in names.items()}),
        tuple(
            Modality(name, channels, LOG_FULL_SCALE if logarithmic[channels] else "full_scale")
            for channels, name in names.items()
        ),
        architecture=architecture,
        comir_channels=comir_channels.pop(),
        pixel_size_um=pixel_size_um,
        card={"imported_from": Path(path).name, "source": "Pielawski, Wetzer et al., NeurIPS 2020 (CoMIR)"},
    )


def _to_tiramisu(module: Any, name: str) -> tuple[str, Tiramisu]:
    """Copy the weights of a published network into ours; return its architecture and our network."""
    tensors = _named_tensors(module, name)
    stem, head = tensors.get("stem.weight"), tensors.get("head.weight")
    if stem is not None and head is not None and stem.ndim == head.ndim == 4:
        in_channels, out_channels = stem.shape[1], head.shape[0]
        for architecture, shape in SHAPES.items() if max(in_channels, out_channels) <= _MAX_CHANNELS else ():
            with torch.device("meta"):
                network = Tiramisu(in_channels, out_channels, shape)
            expected = network.state_dict()
            counters = {key for key in expected if key.endswith("num_batches_tracked")}
            uncounted = {key: torch.zeros((), dtype=torch.long) for key in counters}
            if find_misfit(shapes_of(expected), shapes_of({**tensors, **uncounted})):
                continue
            weights = {key: tensors[key].to(torch.float32, copy=True) for key in expected.keys() - counters}
            if bad := find_bad_weight(weights):
                raise ComirSearchError(
                    f"{name} contains impossible values in {bad}; download the file again."
                )
            network.load_state_dict({**weights, **uncounted}, assign=True)
            return architecture, network.eval()
    raise ComirSearchError(
        f"{name} is not a network of a published configuration (biomedical: 32 filters, six levels of four "
        f"layers; aerial: 16 filters, three levels of two layers; growth 12, batch normalisation)."
    )


def _named_tensors(module: Any, name: str) -> Mapping[str, Tensor]:
    """Return the tensors of a module or a state dict under our names."""
    try:
        tensors = find_tensors(module) if isinstance(module, StandIn) else module
    except Damaged as error:
        raise ComirSearchError(f"{name} is not a network ({error}); give a published checkpoint.") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and len(key) <= _MAX_NAME and isinstance(tensor, Tensor)
        for key, tensor in tensors.items()
    ):
        raise ComirSearchError(f"{name} is not a network; give a published checkpoint.")
    return {_rename(key): tensor for key, tensor in tensors.items()}


def _rename(name: str) -> str:
    for published, ours in _RENAMES:
        name = re.sub(f"^{published}", ours, name)
    return re.sub(r"(?<=\.)(batchnorm|conv)(?=\.\w+$)", lambda match: _LAYER_RENAMES[match.group()], name)
