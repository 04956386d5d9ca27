"""What a training leaves on the disk while it runs, and goes on from."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from comir_search.comir.paused import checkpoint_of
from comir_search.comir.training import Trainer
from comir_search.comir.validation import Best
from comir_search.errors import ComirSearchError
from comir_search.io.atomic import atomic_path

_STATE = ("exp_avg", "exp_avg_sq", "step")


class RunFiles:
    """The files of a run beside its model: checkpoint and loss curve.

    Parameters
    ----------
    out : Path
        The model file.
    trainer : Trainer
        What is kept, and what goes on from what was kept.
    data_hash : str
        Of the pairs that are learned from.
    validation : sequence of str
        Images kept back.
    pixel_size_um : float
        At which the model works.
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

    def _parameters(self) -> list[Tensor]:
        return [*self.trainer.networks.parameters(), self.trainer.log_scale]

    def save(self) -> None:
        """Write the checkpoint and the loss curve, each complete or not at all."""
        if self.trainer.step == 0:
            return
        tensors = {f"networks.{name}": tensor for name, tensor in self.trainer.networks.state_dict().items()}
        tensors["log_scale"] = self.trainer.log_scale.detach()
        for number, parameter in enumerate(self._parameters()):
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
        """Go on from the checkpoint, where there is one.

        Raises
        ------
        ComirSearchError
            If it is damaged or of another run.
        """
        if not self.checkpoint.is_file():
            return
        try:
            with safe_open(self.checkpoint, "pt") as file:
                header = json.loads((file.metadata() or {})["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            raise ComirSearchError(
                f"{self.checkpoint} is damaged ({error}); delete it to start anew."
            ) from error
        if {key: header.get(key, []) for key in self._identity()} != json.loads(json.dumps(self._identity())):
            raise ComirSearchError(
                f"{self.checkpoint} belongs to a run with other images, steps or images kept back; train with those "
                f"to go on, or delete it to start anew."
            )
        trainer = self.trainer
        trainer.networks.load_state_dict(
            {name.removeprefix("networks."): t for name, t in tensors.items() if name.startswith("networks.")}
        )
        with torch.no_grad():
            trainer.log_scale.copy_(tensors["log_scale"])
        for number, parameter in enumerate(self._parameters()):
            state = {name: tensors[f"optimiser.{number}.{name}"] for name in _STATE}
            trainer.optimiser.state[parameter] = {
                name: tensor if name == "step" else tensor.to(parameter.device)
                for name, tensor in state.items()
            }
        trainer.step = int(header["step"])
        self.losses = [(int(step), float(loss)) for step, loss in header["losses"]]
        best = {
            name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")
        }
        for step, hit_rate in header.get("hit_rates", []):
            self.best.take(int(step), float(hit_rate), best)

    def finish(self) -> None:
        """Remove the checkpoint: the model is written."""
        self.checkpoint.unlink(missing_ok=True)
