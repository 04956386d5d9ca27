"""Train short variants of the recipe and compare what they find: run by hand.

    python tests/benchmarks/bench_ablation.py --shared ../shared [--steps 600] [--seed 0]

Each variant changes one thing in how the shipped model was trained, learns from the cores of the split
``train``, and is judged on those of ``validation``: the share of turned SHG patches of 96 and of 192 px
whose best place by coarse correlation, among all validation cores, is the right one. The first row is the
peer, the recipe unchanged. Steps are few, so small differences say nothing; one seed in one run, repeat
with others.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from comir_search.model import networks
from comir_search.model.model import BF, SHG
from comir_search.model.networks import count_macs
from comir_search.progress import Tick, finish
from comir_search.training import sampling, validation
from comir_search.training import trainer as training
from comir_search.training.pairs import list_pairs, load_pair
from comir_search.training.trainer import Recipe, Trainer, prefetch

QUERY_SIZES_PX = (96, 192)
QUERIES_PER_CORE = 32


def widths(*values: int) -> Callable[[], Any]:
    """Return what gives the compact network these widths."""
    made = networks.CompactNet
    return lambda: patch.object(networks, "CompactNet", lambda n_in, n_out: made(n_in, n_out, values))


def keep_colours(crop: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return crop


# Each: changes of the recipe, and what is replaced in the code meanwhile.
VARIANTS: dict[str, tuple[dict[str, Any], list[Callable[[], Any]]]] = {
    "as shipped": ({}, []),
    "half as wide": ({}, [widths(16, 32, 64, 96)]),
    "three levels": ({}, [widths(32, 64, 128)]),
    "five levels": ({}, [widths(32, 64, 128, 192, 192)]),
    "2 channels": ({"comir_channels": 2}, []),
    "4 channels": ({"comir_channels": 4}, []),
    "16 channels": ({"comir_channels": 16}, []),
    "crops of 128 px": ({"crop_px": 128}, []),
    "batches of 8": ({"batch": 8}, []),
    "no hard negatives": ({}, [lambda: patch.object(sampling, "CROPS_PER_PAIR", 1)]),
    "one template size": ({}, [lambda: patch.object(training, "TEMPLATE_SHARES", (0.42,))]),
    "colours as they are": (
        {},
        [
            lambda: patch.object(sampling, "_recolour_stain", keep_colours),
            lambda: patch.object(sampling, "_recolour_signal", keep_colours),
        ],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parser.parse_args()
    data = args.shared / "data" / "he_shg_tma"
    with open(data / "pairs.csv", newline="") as file:
        split = {row["id"]: row["split"] for row in csv.DictReader(file)}
    train, kept_back = (
        [load(data, name) for name in split if split[name] == part] for part in ("train", "validation")
    )
    with patch.object(validation, "QUERIES_PER_PAIR", QUERIES_PER_CORE):
        judges = {
            size: validation.Validation(kept_back, (BF, SHG), size, args.seed) for size in QUERY_SIZES_PX
        }
    for variant in args.variants:
        changes, replacements = VARIANTS[variant]
        recipe = replace(Recipe(steps=args.steps, seed=args.seed), **changes)
        with ExitStack() as stack:
            for replacement in replacements:
                stack.enter_context(replacement())
            print(json.dumps({"variant": variant, **measure(recipe, train, judges)}), flush=True)


def load(data: Path, name: str) -> Any:
    """Read one pair as the training does."""
    ((_, bf, shg),) = list_pairs(data / "he_aligned", data / "shg", [name])
    return load_pair(
        name,
        (bf, shg),
        modalities=[(side.name, side.channels, side.intensity) for side in (BF, SHG)],
        pixel_size_um=2.0,
        default_pixel_size_um=2.0,
    )


def measure(recipe: Recipe, train: list, judges: dict[int, validation.Validation]) -> dict:
    """Train, then place the patches."""
    import torch

    trainer = Trainer(train, (3, 1), recipe, torch.device("cpu"))
    began = time.process_time()
    for batch in prefetch(trainer.sampler, recipe.batch, 0, recipe.steps):
        trainer.advance(batch)
    trained = time.process_time() - began
    trainer.networks.eval()
    row: dict[str, Any] = {"cpu_s": round(trained), "scale": round(float(trainer.log_scale.exp()), 1)}
    row["kmac_per_px"] = round(count_macs(trainer.networks[0], 3) / 1e3, 1)
    for size, judge in judges.items():
        hits = judge.hit_rate_steps(
            list(trainer.networks), recipe.architecture, recipe.comir_channels, Tick("placing", 0, 1)
        )
        row[f"hit_{size}"] = round(finish(hits), 3)
    return row


if __name__ == "__main__":
    main()
