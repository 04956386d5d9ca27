"""Reading PyTorch checkpoints without running anything that they hold.

The published CoMIR checkpoints are pickled dicts of two whole modules, whose
class lived in a notebook. Unpickling calls whatever a file names, so this reader
knows a short list of names, builds tensors and containers itself, and puts inert
stand-ins where classes of the published network were. Everything else is refused
by its name. Both of PyTorch's formats are read: the zip archive and the older
stream.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from comir_search.comir.intensity import LOG_FULL_SCALE
from comir_search.comir.model import Modality, Model
from comir_search.comir.tiramisu import SHAPES, Tiramisu
from comir_search.errors import ComirSearchError

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
# Classes of the published code, wherever it defined them: the notebook (__main__) or its models package.
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


class StandIn:
    """Where a module was: its attributes, and no behaviour."""

    class_name = ""

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of the module and those inside it, as a state dict names them."""
        attributes = vars(self)
        for group in ("_parameters", "_buffers"):
            for name, value in _items(attributes.get(group)):
                if isinstance(value, Tensor):
                    yield prefix + name, value
        for name, module in _items(attributes.get("_modules")):
            if isinstance(module, StandIn):
                yield from StandIn.tensors(module, f"{prefix}{name}.")


def _items(group: Any) -> list[tuple[str, Any]]:
    return list(group.items()) if isinstance(group, dict) else []


class _Refused(pickle.UnpicklingError):
    """The file names something that is not on the list."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that can build tensors, containers and stand-ins, and nothing else."""

    def __init__(self, file: BinaryIO, load_storage: Callable[..., Any] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name may stand for."""
        full_name = f"{module}.{name}"
        if full_name in _BUILDERS:
            return _BUILDERS[full_name]
        if module in ("torch", "torch.storage") and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        published = name in _PUBLISHED_CLASSES and _PUBLISHED_MODULES.fullmatch(module)
        if published or (name in _TORCH_LAYERS and re.fullmatch(r"torch\.nn\.modules\.\w+", module)):
            return type(name, (StandIn,), {"class_name": name})
        raise _Refused(full_name)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage, or the class, that a persistent id names."""
        if self._load_storage is None or not isinstance(pid, tuple) or not pid:
            raise _Refused("a persistent id of an unknown kind")
        if pid[0] == "module":  # the older stream adds the source of classes, which is not looked at
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise _Refused(f"a persistent id of the kind {pid[0]!r}")
        return self._load_storage(*pid[1:])


def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_BUILDERS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}


def read_checkpoint(path: str | Path) -> Any:
    """Read what ``torch.save`` wrote, without running any of it.

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
        If the file is missing, damaged, no checkpoint, or names anything that
        is not needed to describe a CoMIR network.
    """
    path = Path(path)
    if not path.is_file():
        raise ComirSearchError(f"{path} does not exist; give a checkpoint that torch.save wrote.")
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file) if zipped else _read_stream(file)
    except _Refused as refused:
        raise ComirSearchError(
            f"{path} was not opened: it asks for {refused}, which no CoMIR checkpoint needs and which could "
            f"run its author's code; get the file from its publisher."
        ) from None
    except Exception as error:  # a damaged pickle raises anything
        raise ComirSearchError(
            f"{path} is no PyTorch checkpoint or is damaged ({type(error).__name__}); download it again."
        ) from error


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("big-endian")
        storages: dict[str, Tensor] = {}

        def load(dtype: torch.dtype, key: str, _location: str, _count: int) -> Tensor:
            if key not in storages:
                storages[key] = _from_bytes(archive.read(f"{folder}data/{key}"), dtype)
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), load).load()


def _read_stream(file: BinaryIO) -> Any:
    """Read magic number, version, system, the object, storage keys, then the storages."""
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("no magic number")
    _Unpickler(file).load()
    _Unpickler(file).load()
    storages: dict[str, Tensor] = {}
    limit = Path(file.name).stat().st_size

    def load(dtype: torch.dtype, key: str, _location: str, count: int, view: Any = None) -> Tensor:
        if key not in storages:
            if not 0 <= count * dtype.itemsize <= limit:
                raise ValueError("a storage larger than the file")
            storages[key] = torch.zeros(count, dtype=dtype)
        if view is None:
            return storages[key]
        _, offset, size = view
        return storages[key][offset : offset + size]

    # The object comes first and its storages last: tensors share memory with what is filled in below.
    content = _Unpickler(file, load).load()
    for key in _Unpickler(file).load():
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != len(storage):
            raise ValueError("a storage of another size")
        if count:
            storage.copy_(_from_bytes(_read_exactly(file, count * storage.dtype.itemsize), storage.dtype))
    return content


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("truncated")
    return data


def _from_bytes(data: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


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
        Of the images that it was trained on; the file does not say.

    Returns
    -------
    Model
        Without a vocabulary; its sides are "bf" and "shg", or "colour" and
        "nir". SHG enters as ln(1 + x) where the checkpoint does not say
        otherwise, as published. The aerial networks take colour as their data
        set stores it: blue, green, red.

    Raises
    ------
    ComirSearchError
        As `read_checkpoint`, or if the networks are of another structure.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or not {"modelA", "modelB"} <= content.keys():
        raise ComirSearchError(
            f"{path} holds no CoMIR networks 'modelA' and 'modelB'; give a published checkpoint."
        )
    networks: dict[int, Tiramisu] = {}
    logarithmic, architectures = {}, set()
    for key in ("modelA", "modelB"):
        architecture, network = _to_tiramisu(content[key], f"{key} of {path}")
        channels = network.stem.in_channels
        networks[channels] = network
        architectures.add(architecture)
        logs_grey = channels == 1 and architecture == "tiramisu"
        logarithmic[channels] = getattr(content[key], "log_transform", logs_grey)
    if set(networks) != {1, 3}:
        raise ComirSearchError(
            f"{path} is not for grey and RGB images; only networks for one side of each can be imported."
        )
    comir_channels = {network.head.out_channels for network in networks.values()}
    if len(comir_channels) > 1 or len(architectures) > 1:
        raise ComirSearchError(f"{path} holds two networks that do not belong together; download it again.")
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
    """Copy the weights of a published network into ours; return its architecture, too."""
    tensors = dict(StandIn.tensors(module)) if isinstance(module, StandIn) else module
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ComirSearchError(f"{name} is no network; give a published checkpoint.")
    renamed = {_rename(key): tensor.float() for key, tensor in tensors.items()}
    stem, head = renamed.get("stem.weight"), renamed.get("head.weight")
    if stem is not None and head is not None and stem.ndim == head.ndim == 4:
        for architecture, shape in SHAPES.items():
            network = Tiramisu(stem.shape[1], head.shape[0], shape)
            expected = network.state_dict()
            uncounted = {key: expected[key] for key in expected if key.endswith("num_batches_tracked")}
            weights = {**renamed, **uncounted}
            if {key: value.shape for key, value in expected.items()} == {
                key: value.shape for key, value in weights.items()
            }:
                network.load_state_dict(weights)
                return architecture, network.eval()
    raise ComirSearchError(
        f"{name} is no network of a published configuration (biomedical: 32 filters, six levels of four "
        f"layers; aerial: 16 filters, three levels of two layers; growth 12, batch normalisation)."
    )


def _rename(name: str) -> str:
    for published, ours in _RENAMES:
        name = re.sub(f"^{published}", ours, name)
    return re.sub(r"(?<=\.)(batchnorm|conv)(?=\.\w+$)", lambda match: _LAYER_RENAMES[match.group()], name)
