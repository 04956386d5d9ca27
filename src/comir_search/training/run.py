"""A whole training: from two folders of pairs to a model file, resumable."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.model.calibration import Calibration
from comir_search.model.embedding import code, decode, embed_array
from comir_search.model.model import BF, SHG, Modality, Model, check_pixel_size, choose_device
from comir_search.model.vocabulary import Vocabulary
from comir_search.progress import Job, Tick
from comir_search.slides import open_slide
from comir_search.training.options import TrainOptions
from comir_search.training.pairs import Pair, list_pairs, load_pair
from comir_search.training.paused import require_own_checkpoint
from comir_search.training.run_files import RunFiles
from comir_search.training.trainer import Recipe, Trainer, prefetch
from comir_search.training.validation import Validation
from comir_search.training.vocabulary_learning import learn_vocabulary_steps

STEPS = {"compact": 5400, "tiramisu": 736}
CHECKPOINT_EVERY = 100
MEASUREMENTS = 25  # number of measurements of the hit rate in a whole training
MEAN_STEPS = 20  # steps over which the shown loss is averaged, since single batches vary much


@dataclass(frozen=True)
class TrainingReport:
    """The progress of a training.

    Parameters
    ----------
    step : int
        Steps done.
    loss : float
        Mean over the last steps.
    hit_rates : tuple of (int, float)
        Steps at which patches of the validation set were searched, and the share
        that was found at the right position.
    """

    step: int
    loss: float
    hit_rates: tuple[tuple[int, float], ...] = ()


def train_steps(
    bf: str | Path,
    shg: str | Path,
    out: str | Path,
    options: TrainOptions | None = None,
    *,
    recipe: Recipe | None = None,
    calibration: Calibration | None = None,
    licence: str = "",
    should_stop: Callable[[], bool] | None = None,
    **keywords: Any,
) -> Job[Model]:
    """Train a model on aligned pairs and write it.

    ``OUT.loss.csv`` (step, loss) is written beside the model and, until the end,
    ``OUT.checkpoint``, from which `resume` continues. The checkpoint is also written
    when the job is closed. Batches depend only on the seed and the step, so a resumed
    run uses the same batches as an uninterrupted one.

    Parameters
    ----------
    bf, shg : path
        Folders of equally named, aligned images; any two modalities.
    out : path
        The model file to write.
    options : TrainOptions, optional
    recipe : Recipe, optional
        Replaces the settings from `architecture`, `steps` and `seed`.
    calibration : Calibration, optional
        Turns measurements into a confidence; it must be fitted on searches with
        this model. By default there is none.
    licence : str
        Note for the model's card.
    should_stop : callable, optional
        Called after each step. If it returns True, the training ends early and the
        model is written.
    **keywords
        Single options, by the names of `TrainOptions`.

    Yields
    ------
    Tick
        ``partial`` is a `TrainingReport` during the training.

    Raises
    ------
    BatchIncomplete
        After the model is written, if pairs were left out: damaged, of different
        sizes or too small. Its result is the model; None if no pair remains.
    ComirSearchError
        If an option is out of range, pairs are missing, the training does not
        converge, or the checkpoint is of another run or not a checkpoint.
    TypeError
        If an option name is unknown.
    """
    options = TrainOptions.of(options, keywords)
    out, pixel_size_um = Path(out), check_pixel_size(options.pixel_size_um)
    require_own_checkpoint(out)
    recipe = recipe or _recipe(options.architecture, options.steps, options.seed)
    files = list_pairs(Path(bf), Path(shg), options.names)
    left_out: list[LeftOut] = []
    sides, pairs = yield from _read_pairs_steps(files, pixel_size_um, recipe.crop_px, left_out)
    unread = {each.name for each in left_out}
    validation = [name for name in options.validation if name not in unread]
    kept_back = _keep_back(pairs, validation)
    pairs = [pair for pair in pairs if pair.name not in validation]
    trainer = Trainer(pairs, [side.channels for side in sides], recipe, choose_device(options.device))
    run = RunFiles(out, trainer, data_hash=_hash(pairs), validation=validation, pixel_size_um=pixel_size_um)
    started = time.monotonic()
    if options.resume:
        run.load()

    def measure_steps() -> Job[None]:
        measuring = Validation(kept_back, sides, recipe.crop_px, recipe.seed).hit_rate_steps(
            trainer.networks,
            recipe.architecture,
            recipe.comir_channels,
            Tick("training", trainer.step, recipe.steps),
        )
        run.best.take(trainer.step, (yield from measuring), trainer.networks.state_dict())

    def is_due() -> bool:
        at_end = trainer.step == recipe.steps
        return bool(kept_back) and (at_end or trainer.step % max(recipe.steps // MEASUREMENTS, 1) == 0)

    try:
        if trainer.step and is_due() and trainer.step not in dict(run.best.history):
            yield from measure_steps()  # the earlier run stopped during a measurement
        for batch in _closing(prefetch(trainer.sampler, recipe.batch, trainer.step, recipe.steps)):
            loss = trainer.advance(batch)
            if not np.isfinite(loss):
                raise ComirSearchError(
                    f"The training does not converge: at step {trainer.step} its loss is not a number; check the "
                    f"pairs, or train with another --seed."
                )
            run.losses.append((trainer.step, loss))
            is_last = trainer.step == recipe.steps or (should_stop is not None and should_stop())
            if is_due() or (is_last and kept_back):
                yield from measure_steps()
            if trainer.step % CHECKPOINT_EVERY == 0:
                run.save()
            yield Tick("training", trainer.step, recipe.steps, _report(run))
            if is_last:
                break
    except GeneratorExit:
        run.save()
        raise
    run.save()
    if run.best.weights:
        trainer.networks.load_state_dict(run.best.weights)
    networks = nn.ModuleDict(
        {side.name: network.cpu() for side, network in zip(sides, trainer.networks, strict=True)}
    )
    card: dict[str, Any] = {
        "training": {
            **asdict(recipe),
            "images": [pair.name for pair in pairs],
            "data_sha256": run.data_hash,
            "seconds": round(time.monotonic() - started, 1),
            "final_loss": round(float(np.mean([loss for _, loss in run.losses[-200:]])), 4),
            **({"steps_done": trainer.step} if trainer.step < recipe.steps else {}),
        },
        "licence": licence or "As the licence of the training images allows.",
    }
    if kept_back:
        card["validation"] = {
            "images": sorted(validation),
            "hit_rate": run.best.hit_rate,
            "step": run.best.step,
            "history": run.best.history,
        }
    model = Model(
        networks,
        sides,
        architecture=recipe.architecture,
        comir_channels=recipe.comir_channels,
        pixel_size_um=pixel_size_um,
        calibration=calibration,
        card=card,
    )
    model.vocabulary = yield from learn_model_vocabulary_steps(model, pairs, seed=recipe.seed)
    model.save(out)
    run.finish()
    if left_out:
        raise BatchIncomplete(model, tuple(left_out), len(files))
    return model


def _read_pairs_steps(
    files: Sequence[tuple[str, Path, Path]], pixel_size_um: float, crop_px: int, left_out: list[LeftOut]
) -> Job[tuple[tuple[Modality, Modality], list[Pair]]]:
    """Return both modalities and the pairs; add pairs that cannot be used to `left_out`."""
    colours: dict[str, tuple[bool, bool]] = {}
    pairs = []
    for done, (name, first, second) in enumerate(files):
        yield Tick("looking at pairs", done, len(files))
        try:
            colours[name] = _is_colour(first), _is_colour(second)
        except ComirSearchError as error:
            yield _leave_out(name, error, left_out, files)
    sides = _sides(list(colours.values()))
    for done, (name, first, second) in enumerate(files):
        if name not in colours:
            continue
        yield Tick("reading pairs", done, len(files))
        try:
            pair = load_pair(
                name,
                (first, second),
                modalities=[(side.name, side.channels, side.intensity) for side in sides],
                pixel_size_um=pixel_size_um,
                default_pixel_size_um=pixel_size_um,
            )
            rows, columns = pair.first.shape[:2]
            if min(rows, columns) < crop_px:
                raise ComirSearchError(
                    f"{first} is only {columns} x {rows} px at {pixel_size_um:g} um; training needs at least "
                    f"{crop_px} px on each side."
                )
        except ComirSearchError as error:
            yield _leave_out(name, error, left_out, files)
        else:
            pairs.append(pair)
    if not pairs:
        raise BatchIncomplete(None, tuple(left_out), len(files))
    return sides, pairs


def _leave_out(
    name: str, error: ComirSearchError, left_out: list[LeftOut], files: Sequence[tuple[str, Path, Path]]
) -> Tick:
    """Note that a pair cannot be used, and return a tick that says so; the only pair raises its own error."""
    if len(files) == 1:
        raise error
    left_out.append(LeftOut(name, str(error)))
    return Tick("reading pairs", 0, len(files), note=f"The pair {name} is left out: {error}")


def learn_model_vocabulary_steps(model: Model, pairs: Sequence[Pair], *, seed: int = 0) -> Job[Vocabulary]:
    """Learn a model's vocabulary from the CoMIRs of pairs.

    Parameters
    ----------
    model : Model
        Its networks embed the pairs.
    pairs : sequence of Pair
    seed : int
    """
    comirs = []
    for done, pair in enumerate(pairs):
        yield Tick("embedding pairs", done, len(pairs))
        both = [
            (decode(code(embed_array(model, image, modality))) + np.float32(1)) / np.float32(2)
            for image, modality in zip((pair.first, pair.second), model.modalities, strict=True)
        ]
        comirs.append((both[0], both[1]))
    vocabulary = yield from learn_vocabulary_steps(
        comirs, stride=model.stride, pixel_size_um=model.pixel_size_um, seed=seed
    )
    return vocabulary


def _keep_back(pairs: Sequence[Pair], names: Sequence[str]) -> list[Pair]:
    """Return the pairs of the validation set."""
    known = {pair.name for pair in pairs}
    for name in names:
        if name not in known:
            raise ComirSearchError(
                f"There is no pair named {name!r} for the validation set; check the names."
            )
    kept_back = [pair for pair in pairs if pair.name in names]
    if len(kept_back) == len(pairs):
        raise ComirSearchError("All pairs are in the validation set; leave at least one for training.")
    return kept_back


def _recipe(architecture: str, steps: int | None, seed: int) -> Recipe:
    steps = STEPS[architecture] if steps is None else steps
    if architecture == "tiramisu":
        return Recipe("tiramisu", comir_channels=1, steps=steps, batch=16, crop_px=128, seed=seed)
    return Recipe(steps=steps, seed=seed)


def _sides(colours: Sequence[tuple[bool, bool]]) -> tuple[Modality, Modality]:
    """Return both modalities: in colour if any image is, otherwise a signal."""
    first, second = (
        Modality(default.name, 3, "full_scale")
        if any(pair[number] for pair in colours)
        else Modality(default.name, 1, "signal")
        for number, default in enumerate((BF, SHG))
    )
    return first, second


def _is_colour(file: Path) -> bool:
    with open_slide(file) as slide:
        if slide.channels == 1:
            return False
        image, _ = slide.overview(256)
    values = image.astype(np.float32)
    return bool((values.max(axis=2) > values.min(axis=2)).any())


def _hash(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.name.encode())
        digest.update(pair.first.tobytes())
        digest.update(pair.second.tobytes())
    return digest.hexdigest()


def _closing(batches: Any) -> Any:
    """Iterate batches; stop their thread when the job is closed."""
    try:
        yield from batches
    finally:
        batches.close()


def _report(run: RunFiles) -> TrainingReport:
    """Return the progress of a training."""
    loss = float(np.mean([loss for _, loss in run.losses[-MEAN_STEPS:]]))
    return TrainingReport(run.trainer.step, loss, tuple(run.best.history))
