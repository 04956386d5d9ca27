"""A model: two CoMIR networks, the visual vocabulary and the settings of a search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from comir_search.documents import BadDocument, decode
from comir_search.errors import ComirSearchError
from comir_search.files import atomic_path
from comir_search.model.calibration import Calibration
from comir_search.model.intensity import KINDS
from comir_search.model.networks import build_network
from comir_search.model.tensor_file import Shape, TensorFile, open_tensors
from comir_search.model.vocabulary import Vocabulary, VocabularySettings

FORMAT = "comir-search model"
FORMAT_VERSION = 1
CODING = "round(255 * sigmoid(latent))"
DEFAULT_MODEL = Path(__file__).parent.parent / "resources" / "models" / "he_shg.safetensors"
WANTED = "a model file from `comir-search train`"
ADVICE = "train or copy it again"

# Possible pixel sizes of a model; the shipped one works at 2.
PIXEL_SIZE_RANGE_UM = (0.02, 100.0)
ModelPixelSize = Annotated[float, Meta(ge=PIXEL_SIZE_RANGE_UM[0], le=PIXEL_SIZE_RANGE_UM[1])]
ComirChannels = Annotated[int, Meta(ge=1, le=64)]
SideName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]


@dataclass(frozen=True)
class Modality:
    """One of the two modalities of a model.

    Parameters
    ----------
    name : str
        Name on the command line ("bf", "shg").
    channels : int
        1 or 3.
    intensity : {"full_scale", "log_full_scale", "signal"}
        See `comir_search.model.intensity`.
    """

    name: SideName
    channels: int
    intensity: str

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"a modality has 1 or 3 channels, not {self.channels}")
        if self.intensity not in KINDS:
            raise ValueError(f"a modality's intensity is one of {', '.join(KINDS)}, not {self.intensity!r}")


BF = Modality("bf", 3, "full_scale")
SHG = Modality("shg", 1, "signal")


@dataclass(frozen=True)
class _Kind:
    """Format and version in a model file."""

    format: str = ""
    format_version: int = 0


@dataclass(frozen=True)
class _Header:
    """The metadata of a model file."""

    architecture: Literal["compact", "tiramisu", "tiramisu-aerial"]
    comir_channels: ComirChannels
    pixel_size_um: ModelPixelSize
    modalities: tuple[Modality, Modality]
    stride: int | None = None
    coding: str = CODING
    vocabulary: VocabularySettings | None = None
    calibration: dict[str, Any] | None = None
    card: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        names = [side.name for side in self.modalities]
        if len(set(names)) < len(names) or any(hasattr(nn.ModuleDict, name) for name in names):
            raise ValueError(f"its two modalities cannot be named {' and '.join(names)}")
        if self.coding != CODING:
            raise ValueError("this program does not know how its CoMIRs are coded")


class Model:
    """Both networks, ready to embed, with vocabulary and calibration.

    Parameters
    ----------
    networks : nn.ModuleDict
        One network per modality name.
    modalities : tuple of Modality
    architecture : {"compact", "tiramisu", "tiramisu-aerial"}
    comir_channels : int
    pixel_size_um : float
        Pixel size at which images are embedded.
    vocabulary : Vocabulary, optional
        Needed to index slides; a model without one can only embed.
    calibration : Calibration, optional
        Turns measurements of a search into a confidence.
    card : dict, optional
        Training data, seed, metrics, licence note: any JSON values.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        modalities: tuple[Modality, ...],
        *,
        architecture: str,
        comir_channels: int,
        pixel_size_um: float,
        vocabulary: Vocabulary | None = None,
        calibration: Calibration | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.networks = networks.eval().requires_grad_(False)
        self._modalities = {modality.name: modality for modality in modalities}
        self.architecture = architecture
        self.comir_channels = comir_channels
        self.pixel_size_um = pixel_size_um
        self._vocabulary = vocabulary
        self.calibration = calibration
        self.card = dict(card or {})
        first = next(iter(networks.values()))
        self.stride = int(first.stride)
        self.tile_multiple = int(first.tile_multiple)
        self.halo_px = int(first.halo_px)
        self.bytes_per_px = int(first.bytes_per_px)
        self.device = torch.device("cpu")
        self._folded: dict[str, nn.Module] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the two modalities."""
        return tuple(self._modalities)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary that turns CoMIRs into words; None before it was learned."""
        return self._vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: Vocabulary | None) -> None:
        self._vocabulary = vocabulary
        self.__dict__.pop("words_fingerprint", None)

    @property
    def comir_pixel_size_um(self) -> float:
        """Side of a CoMIR pixel."""
        return self.pixel_size_um * self.stride

    @cached_property
    def embedding_fingerprint(self) -> str:
        """Hash of the networks and their coding: if it is the same, slides need not be embedded again."""
        return self._hash({**self._structure(), "vocabulary": None}, "networks.")

    @cached_property
    def words_fingerprint(self) -> str:
        """Hash of networks, coding and vocabulary: an index identifies its model by it."""
        return self._hash(self._structure(), "")

    @property
    def fingerprint(self) -> str:
        """Hash of the whole model with its calibration: answers with the same hash can be compared."""
        whole = json.dumps([self.words_fingerprint, self._calibration()], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def _hash(self, structure: Mapping[str, Any], prefix: str) -> str:
        digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            if name.startswith(prefix):
                digest.update(name.encode())
                digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    def modality(self, name: str) -> Modality:
        """Return the modality with this name.

        Raises
        ------
        ComirSearchError
            If the model has no such modality.
        """
        if name not in self._modalities:
            names = " and ".join(self._modalities)
            raise ComirSearchError(f"The model has the modalities {names}, not {name!r}; choose one of them.")
        return self._modalities[name]

    def channels_of(self, name: str) -> int:
        """Return the number of channels of a modality's images, 1 or 3."""
        return self.modality(name).channels

    def other(self, name: str) -> str:
        """Return the name of the other modality."""
        self.modality(name)
        return next(other for other in self._modalities if other != name)

    def to(self, device: str) -> Model:
        """Move the networks to a device ("auto", "cpu", "cuda"); return the model."""
        self.device = choose_device(device)
        self.networks.to(self.device)
        self._folded.clear()
        return self

    def network(self, name: str) -> nn.Module:
        """Return the network of a modality, with batch normalisation merged into convolutions where possible."""
        self.modality(name)
        if name not in self._folded:
            self._folded[name] = _fold(self.networks[name])
        return self._folded[name]

    def save(self, path: str | Path) -> None:
        """Write the model as safetensors, complete or not at all.

        Raises
        ------
        ComirSearchError
            If a weight is not a number, or the file cannot be written.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        if bad := find_bad_weight(tensors):
            raise ComirSearchError(f"{path} was not written: its weight {bad} is not a number; train again.")
        header = {**self._structure(), "card": self.card, "calibration": self._calibration()}
        payload = save_tensors(tensors, {"model": json.dumps(header, allow_nan=False)})
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(payload)

    def _calibration(self) -> dict[str, Any] | None:
        return self.calibration.to_dict() if self.calibration else None

    def _structure(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture,
            "comir_channels": self.comir_channels,
            "pixel_size_um": self.pixel_size_um,
            "stride": self.stride,
            "coding": CODING,
            "modalities": [asdict(modality) for modality in self._modalities.values()],
            "vocabulary": self.vocabulary.settings() if self.vocabulary else None,
        }

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the model file."""
        weights = self.networks.state_dict()
        if self.architecture == "compact":  # halves the file without a measurable change
            weights = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
        tensors = {f"networks.{name}": tensor for name, tensor in weights.items()}
        if self.vocabulary:
            tensors |= {
                f"vocabulary.{name}": torch.from_numpy(array)
                for name, array in self.vocabulary.arrays().items()
            }
        return tensors


def choose_device(device: str) -> torch.device:
    """Return the torch device for "auto", "cpu" or "cuda".

    Raises
    ------
    ComirSearchError
        If "cuda" is requested but not available.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ComirSearchError(f"There is no device {device!r}; use auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ComirSearchError("No CUDA device is available here; use --device cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def load_model(path: str | Path | None = None, device: str = "auto") -> Model:
    """Load a model.

    Parameters
    ----------
    path : path, optional
        A safetensors file; by default the shipped model.
    device : {"auto", "cpu", "cuda"}

    Raises
    ------
    ComirSearchError
        If the file is missing, not a model, or of a newer format.
    """
    path = DEFAULT_MODEL if path is None else Path(path)
    with open_tensors(path, wanted=WANTED, advice=ADVICE) as file:
        header = _read_header(file)
        model = _assemble(file, header)
    return model.to(device)


def check_pixel_size(pixel_size_um: float) -> float:
    """Return the pixel size if a model can work at it.

    Raises
    ------
    ComirSearchError
        If it is out of range.
    """
    low, high = PIXEL_SIZE_RANGE_UM
    if not low <= pixel_size_um <= high:
        raise ComirSearchError(
            f"A model works at {low:g} to {high:g} um per pixel, not at {pixel_size_um:g}."
        )
    return pixel_size_um


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def find_bad_weight(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None) -> str:
    """Return the name of a weight with impossible values; "" if there is none.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Their values must be finite, and variances not negative.
    expected : mapping of str to Tensor, optional
        Tensors of the same names, with the expected data types.
    """
    for name, tensor in weights.items():
        is_variance = name.endswith(("running_var", "exp_avg_sq"))
        if not bool(torch.isfinite(tensor).all()) or (is_variance and bool((tensor < 0).any())):
            return name
        if expected is not None and tensor.is_floating_point() != expected[name].is_floating_point():
            return name
    return ""


def _read_header(file: TensorFile) -> _Header:
    name, text = str(file.path), file.metadata.get("model")
    kind = _Kind() if text is None else decode(text, _Kind, name=name, advice=ADVICE)
    if kind.format != FORMAT:
        raise ComirSearchError(f"{name} is not a comir-search model; give {WANTED}.")
    if kind.format_version > FORMAT_VERSION:
        raise ComirSearchError(
            f"{name} has model format {kind.format_version}, newer than this program's {FORMAT_VERSION}; update "
            f"napari-comir-search."
        )
    assert text is not None
    return decode(text, _Header, name=name, advice=ADVICE)


def _assemble(file: TensorFile, header: _Header) -> Model:
    name = str(file.path)
    with torch.device("meta"):  # shapes only: no memory is allocated before the file is checked
        networks = nn.ModuleDict(
            {
                side.name: build_network(header.architecture, side.channels, header.comir_channels)
                for side in header.modalities
            }
        )
    expected = networks.state_dict()
    arrays = file.read_group("networks.", shapes_of(expected))
    weights = {key: torch.from_numpy(array) for key, array in arrays.items()}
    if bad := find_bad_weight(weights, expected):
        raise BadDocument(name, f"networks.{bad} contains impossible values", ADVICE)
    networks.load_state_dict(weights, assign=True)
    vocabulary = None
    if header.vocabulary is not None:
        shapes = header.vocabulary.shapes(file.group("vocabulary."))
        vocabulary = Vocabulary.from_arrays(file.read_group("vocabulary.", shapes), header.vocabulary)
        if vocabulary.comir_channels != header.comir_channels:
            raise BadDocument(name, "its vocabulary does not match its CoMIRs", ADVICE)
    calibration = header.calibration
    model = Model(
        networks,
        header.modalities,
        architecture=header.architecture,
        comir_channels=header.comir_channels,
        pixel_size_um=header.pixel_size_um,
        vocabulary=vocabulary,
        calibration=None
        if calibration is None
        else Calibration.from_dict(calibration, name=name, advice=ADVICE),
        card=header.card,
    )
    if header.stride not in (None, model.stride):
        raise BadDocument(name, f"its stride is {model.stride}, not {header.stride}", ADVICE)
    return model


def _fold(network: nn.Module) -> nn.Module:
    """Return a copy with each batch normalisation merged into the convolution before it."""
    import copy

    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            first, second = module[index], module[index + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[index], module[index + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return folded.requires_grad_(False).to(memory_format=torch.channels_last)
