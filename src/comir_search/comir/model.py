"""A model: two CoMIR networks, the visual vocabulary and all that a search must agree on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from comir_search.comir.networks import build_network
from comir_search.errors import ComirSearchError
from comir_search.io.atomic import atomic_path
from comir_search.retrieval.confidence import Calibration
from comir_search.retrieval.vocabulary import Vocabulary

FORMAT = "comir-search model"
FORMAT_VERSION = 1
DEFAULT_MODEL = Path(__file__).parent.parent / "resources" / "models" / "he_shg.safetensors"


@dataclass(frozen=True)
class Modality:
    """One side of a model.

    Parameters
    ----------
    name : str
        As the command line knows it ("bf", "shg").
    channels : int
        1 or 3.
    intensity : {"full_scale", "signal"}
        See `comir_search.comir.intensity`.
    """

    name: str
    channels: int
    intensity: str


BF = Modality("bf", 3, "full_scale")
SHG = Modality("shg", 1, "signal")


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
        At which images are embedded.
    vocabulary : Vocabulary, optional
        Needed to index; a model without one only embeds.
    calibration : Calibration, optional
        From scores to confidence.
    card : dict, optional
        Training data, seed, metrics, licence note: whatever JSON holds.
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
        self.vocabulary = vocabulary
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
        """Names of the two sides."""
        return tuple(self._modalities)

    @property
    def comir_pixel_size_um(self) -> float:
        """Size of a CoMIR pixel."""
        return self.pixel_size_um * self.stride

    @cached_property
    def embedding_fingerprint(self) -> str:
        """Hash of the networks and their coding: slides that these embedded need no embedding again."""
        return self._hash({**self._structure(), "vocabulary": None}, "networks.")

    @cached_property
    def words_fingerprint(self) -> str:
        """Hash of networks, coding and vocabulary: the name by which an index knows its model."""
        return self._hash(self._structure(), "")

    @property
    def fingerprint(self) -> str:
        """Hash of the whole, calibration included: answers of one fingerprint can be compared."""
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
        """Return the side of that name.

        Raises
        ------
        ComirSearchError
            If the model has no such side.
        """
        if name not in self._modalities:
            names = " and ".join(self._modalities)
            raise ComirSearchError(f"The model knows the modalities {names}, not {name!r}.")
        return self._modalities[name]

    def channels_of(self, name: str) -> int:
        """Return the channels of a side's images, 1 or 3."""
        return self.modality(name).channels

    def other(self, name: str) -> str:
        """Return the name of the opposite side."""
        self.modality(name)
        return next(other for other in self._modalities if other != name)

    def to(self, device: str) -> Model:
        """Move the networks to a device ("auto", "cpu", "cuda"); return the model."""
        self.device = choose_device(device)
        self.networks.to(self.device)
        self._folded.clear()
        return self

    def network(self, name: str) -> nn.Module:
        """Return the network of a side, batch normalisation folded away where that is exact."""
        self.modality(name)
        if name not in self._folded:
            self._folded[name] = _fold(self.networks[name])
        return self._folded[name]

    def save(self, path: str | Path) -> None:
        """Write the model as safetensors, complete or not at all."""
        header = {
            "model": json.dumps({**self._structure(), "card": self.card, "calibration": self._calibration()})
        }
        payload = save_tensors(
            {name: tensor.contiguous() for name, tensor in self._tensors().items()}, header
        )
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
            "coding": "round(255 * sigmoid(latent))",
            "modalities": [asdict(modality) for modality in self._modalities.values()],
            "vocabulary": self.vocabulary.settings() if self.vocabulary else None,
        }

    def _tensors(self) -> dict[str, Tensor]:
        """Return what a file holds."""
        weights = self.networks.state_dict()
        if self.architecture == "compact":  # half the file, no change that can be measured
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
        If "cuda" is asked for and there is none.
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
        If the file is missing, is no model, or is of a newer format.
    """
    path = DEFAULT_MODEL if path is None else Path(path)
    if path.is_dir():
        raise ComirSearchError(f"{path} is a folder; give a model file that `comir-search train` wrote.")
    if not path.is_file():
        raise ComirSearchError(f"{path} does not exist; give a model that `comir-search train` wrote.")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("model", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, OSError) as error:
        raise ComirSearchError(
            f"{path} is no comir-search model or is damaged ({error}); train or copy it again."
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ComirSearchError(
            f"{path} is no comir-search model; give a file that `comir-search train` wrote."
        )
    if header["format_version"] > FORMAT_VERSION:
        raise ComirSearchError(
            f"{path} has model format {header['format_version']}, newer than this program's {FORMAT_VERSION}; update "
            f"napari-comir-search."
        )
    return _assemble(path, header, tensors).to(device)


def _assemble(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    modalities = tuple(Modality(**modality) for modality in header["modalities"])
    networks = nn.ModuleDict(
        {
            modality.name: build_network(header["architecture"], modality.channels, header["comir_channels"])
            for modality in modalities
        }
    )
    groups: dict[str, dict[str, Tensor]] = {"networks": {}, "vocabulary": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    try:
        networks.load_state_dict(groups["networks"])
    except RuntimeError as error:
        raise ComirSearchError(
            f"{path} lacks weights of its own architecture; train or copy it again."
        ) from error
    vocabulary = header.get("vocabulary")
    calibration = header.get("calibration")
    return Model(
        networks,
        modalities,
        architecture=header["architecture"],
        comir_channels=header["comir_channels"],
        pixel_size_um=header["pixel_size_um"],
        vocabulary=vocabulary
        and Vocabulary.from_arrays({name: t.numpy() for name, t in groups["vocabulary"].items()}, vocabulary),
        calibration=calibration and Calibration.from_dict(calibration),
        card=header.get("card"),
    )


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
