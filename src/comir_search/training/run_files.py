"""The files of a running training, from which it can be resumed."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from comir_search.documents import BadDocument
from comir_search.errors import ComirSearchError
from comir_search.files import atomic_path
from comir_search.model.model import find_bad_weight, shapes_of
from comir_search.model.tensor_file import open_tensors
from comir_search.training.paused import ADVICE, WANTED, checkpoint_of, read_state
from comir_search.training.trainer import Trainer
from comir_search.training.validation import Best

_STATE = ("exp_avg", "exp_avg_sq", "step")


class RunFiles:
    """The files of a run beside its model: checkpoint and loss curve.

    Parameters
    ----------
    out : Path
        The model file.
    trainer : Trainer
        Its state is saved and restored.
    data_hash : str
        Hash of the training pairs.
    validation : sequence of str
        Names of the validation set.
    pixel_size_um : float
        Pixel size of the model.
    """

    def __init__(
        self, out: Path, trainer: Trainer, data_hash: str, validation: Sequence[str], pixel_size_um: float
    ) -> None:
        self.checkpoint = checkpoint_of(out)
        self.pixel_size_um = pixel_size_um
        self.curve = out.with_name(out.name + ".loss.csv")
        self.trainer, self.data_hash, self.validation = trainer, data_hash, sorted(validation)
        self.losses: list[tuple[int, float]] = []
        self.best = Best()

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": asdict(self.trainer.recipe),
            "data_sha256": self.data_hash,
            "validation": self.validation,
        }

    def save(self) -> None:
        """Write the checkpoint and the loss curve, each complete or not at all."""
        if self.trainer.step == 0:
            return
        tensors = {f"networks.{name}": tensor for name, tensor in self.trainer.networks.state_dict().items()}
        tensors["log_scale"] = self.trainer.log_scale.detach()
        for number, parameter in enumerate(self.trainer.parameters):
            for name in _STATE:
                tensors[f"optimiser.{number}.{name}"] = self.trainer.optimiser.state[parameter][name]
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
        state = {
            "step": self.trainer.step,
            "losses": self.losses,
            "hit_rates": self.best.history,
            "pixel_size_um": self.pixel_size_um,
        }
        header = {"run": json.dumps({**self._identity(), **state})}
        payload = save_tensors({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, header)
        with atomic_path(self.checkpoint) as temporary:
            temporary.write_bytes(payload)
        with atomic_path(self.curve) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss"])
            writer.writerows((step, f"{loss:.5f}") for step, loss in self.losses)

    def load(self) -> None:
        """Continue from the checkpoint, if there is one.

        Raises
        ------
        ComirSearchError
            If it is damaged or belongs to another run.
        """
        if not self.checkpoint.is_file():
            return
        with open_tensors(self.checkpoint, wanted=WANTED, advice=ADVICE) as file:
            state = read_state(file)
            kept = {
                "recipe": state.recipe,
                "data_sha256": state.data_sha256,
                "validation": list(state.validation),
            }
            if kept != json.loads(json.dumps(self._identity())):
                raise ComirSearchError(
                    f"{self.checkpoint} belongs to a run with other images, steps or validation set; use the same "
                    f"ones to continue it, or move it away to start anew."
                )
            expected = self._expected(has_best=bool(state.hit_rates))
            arrays = file.read_group("", shapes_of(expected))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if bad := find_bad_weight(tensors, expected):
            raise BadDocument(str(self.checkpoint), f"{bad} contains impossible values", ADVICE)
        self._take(tensors)
        self.trainer.step = state.step
        self.losses = list(state.losses)
        best = _group(tensors, "best.")
        for step, hit_rate in state.hit_rates:
            self.best.take(step, hit_rate, best)

    def _expected(self, *, has_best: bool) -> dict[str, Tensor]:
        """Return tensors with the shapes and types of a checkpoint of this run."""
        networks = self.trainer.networks.state_dict()
        expected = {f"networks.{name}": tensor for name, tensor in networks.items()}
        expected["log_scale"] = self.trainer.log_scale
        for number, parameter in enumerate(self.trainer.parameters):
            for name in _STATE:
                expected[f"optimiser.{number}.{name}"] = torch.zeros(()) if name == "step" else parameter
        if has_best:
            expected |= {f"best.{name}": tensor for name, tensor in networks.items()}
        return expected

    def _take(self, tensors: dict[str, Tensor]) -> None:
        """Set networks and optimiser to the values of a checkpoint."""
        trainer = self.trainer
        trainer.networks.load_state_dict(_group(tensors, "networks."))
        with torch.no_grad():
            trainer.log_scale.copy_(tensors["log_scale"])
        for number, parameter in enumerate(self.trainer.parameters):
            trainer.optimiser.state[parameter] = {
                name: tensor if name == "step" else tensor.to(parameter.device)
                for name, tensor in _group(tensors, f"optimiser.{number}.").items()
            }

    def finish(self) -> None:
        """Remove the checkpoint after the model was written."""
        self.checkpoint.unlink(missing_ok=True)


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
