"""`evaluate`: the paper's protocol on aligned pairs, for this program and for the published pipeline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.evaluation.baselines.features import make_extractor
from comir_search.evaluation.protocol import (
    QueryPlan,
    Window,
    accuracy_table,
    cut_query,
    find_side,
    plan_queries,
    rank_of,
    split_windows,
)
from comir_search.evaluation.views import View, Viewer
from comir_search.model.model import Model, load_model
from comir_search.progress import Job, Tick, retitle

PATCH_ROTATION_DEG, PATCH_SHIFT_PX = 30.0, 100.0


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation.

    Parameters
    ----------
    bf, shg : str
        Folders of aligned images: the model's first and second side.
    model : str, optional
        Model file; by default the model that comes with the program.
    preset : {"default", "paper"}
        This program's own search, or the published pipeline.
    query : str, optional
        Modality of the queries; by default the model's second.
    repository : str, optional
        Modality of the repository; by default the other one. It may be that of the
        queries.
    query_size_px : int, optional
        Side of the queries; by default the size of the window.
    repository_size_px : int, optional
        Side of the windows; by default whole images.
    max_rotation_deg, max_shift_px : float, optional
        Rotation and shift of the queries. The defaults are 30 degrees and 100 px for
        queries with a given size, and 0 for full and for transformed queries.
    transformed : str, optional
        Folder of transformed images, from which the queries are cut.
    representation : {"comir", "raw"}, optional
    features : {"surf", "sift", "sift-dense", "resnet", "global"}, optional
    rerank : {"none", "bow", "pose"}, optional
        If one of these three is given, the published pipeline is used. The defaults
        of the others are then CoMIRs, SURF, and the re-ranking of the preset ("bow"
        in "paper", "pose" in "default").
    rerank_top : int
    vocabulary_size : int
        Number of words of all channels together.
    weights : str, optional
        Weights of a ResNet, for the features "resnet" and "global".
    pixel_size_um : float, optional
        For images without a pixel size; by default the model's.
    device : {"auto", "cpu", "cuda"}
    seed : int
        Seed of rotations, shifts and vocabularies.
    """

    bf: str
    shg: str
    model: str | None = None
    preset: str = "default"
    query: str | None = None
    repository: str | None = None
    query_size_px: int | None = None
    repository_size_px: int | None = None
    max_rotation_deg: float | None = None
    max_shift_px: float | None = None
    transformed: str | None = None
    representation: str | None = None
    features: str | None = None
    rerank: str | None = None
    rerank_top: int = 30
    vocabulary_size: int = 20_000
    weights: str | None = None
    pixel_size_um: float | None = None
    device: str = "auto"
    seed: int = 0

    def completed(self, model: Model) -> EvaluationSettings:
        """Return the settings with the defaults that depend on the model and on other settings."""
        values = asdict(self)
        query = self.query or model.modalities[1]
        unturned = self.query_size_px is None or self.transformed is not None
        defaults: dict[str, Any] = {
            "query": query,
            "repository": model.other(query),
            "max_rotation_deg": 0.0 if unturned else PATCH_ROTATION_DEG,
            "max_shift_px": 0.0 if unturned else PATCH_SHIFT_PX,
            "pixel_size_um": model.pixel_size_um,
        }
        if not self.is_product:
            rerank = "none" if self.features == "global" else {"paper": "bow", "default": "pose"}[self.preset]
            defaults |= {"representation": "comir", "features": "surf", "rerank": rerank}
        values |= {name: value for name, value in defaults.items() if values[name] is None}
        return EvaluationSettings(**values)

    @property
    def is_product(self) -> bool:
        """Whether this program's own search is evaluated."""
        return self.preset == "default" and not (self.representation or self.features or self.rerank)


class _Search(Protocol):
    def prepare_steps(self, windows: Sequence[View]) -> Job[None]: ...

    def rank_steps(self, query: View) -> Job[list[int]]: ...


def evaluate_steps(settings: EvaluationSettings) -> Job[dict[str, Any]]:
    """Run the protocol.

    Returns
    -------
    dict
        ``n_queries``, ``n_repository``, ``chance``, ``acc`` and ``ci95`` (Wilson)
        at ranks 1, 5, 10 and 15, ``ranks`` of the right answers (None if it is
        missing), ``settings`` and ``seconds``.

    Raises
    ------
    BatchIncomplete
        At the end, if one side of some pairs cannot be read. Its result is the table
        for the others, or None if there are none.
    ComirSearchError
        If folders, model or weights are missing or do not fit together.
    """
    started = time.perf_counter()
    model = load_model(settings.model, settings.device)
    settings = settings.completed(model)
    assert settings.query and settings.repository and settings.pixel_size_um
    viewer = Viewer(model, settings.representation or "raw", settings.pixel_size_um)
    files, query_files = _find_files(settings, model)

    images: dict[str, View] = {}
    query_images = {}
    left_out: list[LeftOut] = []
    for number, image in enumerate(files):
        yield Tick("reading images", number, len(files))
        try:
            pixels = viewer.read(files[image], settings.repository)
            query_pixels = viewer.read(query_files[image], settings.query)
        except ComirSearchError as error:
            if len(files) == 1:
                raise
            left_out.append(LeftOut(image, str(error)))
            yield Tick("reading images", number, len(files), note=f"{image} is left out: {error}")
            continue
        query_images[image] = query_pixels
        images[image] = viewer.view(pixels, settings.repository)
    n_members, files = len(files), {image: files[image] for image in images}
    if not files:
        raise BatchIncomplete(None, tuple(left_out), n_members)
    size = settings.repository_size_px
    windows = [
        window
        for image, view in images.items()
        for window in split_windows(image, view.shape, None if size is None else (size, size))
    ]
    plans = _plan(settings, windows, {image: pixels.shape[:2] for image, pixels in query_images.items()})

    with tempfile.TemporaryDirectory(prefix="comir-search-") as folder:
        search = _make_search(settings, viewer, files, windows, Path(folder) / "index")
        yield from search.prepare_steps([images[window.image].cut(window) for window in windows])
        prepared = time.perf_counter()
        ranks: list[int | None] = []
        for number, plan in enumerate(plans):
            tick = Tick("searching", number, len(plans))
            yield tick
            query = viewer.view(cut_query(query_images[plan.image], plan), settings.query)
            # The stages of one query are not shown, but its ticks allow the user to cancel.
            ranking = yield from retitle(search.rank_steps(query), instead=tick)
            ranks.append(rank_of(plan.window, ranking))
    finished = time.perf_counter()
    seconds = {
        "total": finished - started,
        "repository": prepared - started,
        "per_query": (finished - prepared) / len(plans),
    }
    table = {
        **accuracy_table(ranks, len(windows)),
        "ranks": ranks,
        "settings": asdict(settings)
        | {"model": settings.model or "shipped", "fingerprint": model.fingerprint},
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
    if left_out:
        raise BatchIncomplete(table, tuple(left_out), n_members)
    return table


def _find_files(settings: EvaluationSettings, model: Model) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the files of the repository and of the queries by id, for the ids that both have."""
    folders = dict(zip(model.modalities, (Path(settings.bf), Path(settings.shg)), strict=True))
    sides = dict(zip(model.modalities, ("bf", "shg"), strict=True))
    for side in (settings.query, settings.repository):
        model.modality(str(side))
    repository, query = str(settings.repository), str(settings.query)
    files = find_side(folders[repository], sides[repository])
    twins = settings.transformed is not None
    query_folder = Path(settings.transformed) if settings.transformed else folders[query]
    query_files = find_side(query_folder, sides[query], transformed=twins)
    shared = [image for image in files if image in query_files]
    if not shared:
        raise ComirSearchError(
            f"{folders[repository]} and {query_folder} share no image name; give both images of a pair "
            f"the same name, apart from the suffixes _BF and _SHG and the prefixes R_ and T_."
        )
    return {image: files[image] for image in shared}, {image: query_files[image] for image in shared}


def _plan(
    settings: EvaluationSettings, windows: Sequence[Window], shapes: dict[str, tuple[int, ...]]
) -> list[QueryPlan]:
    return plan_queries(
        windows,
        {image: (shape[0], shape[1]) for image, shape in shapes.items()},
        size=settings.query_size_px,
        max_rotation_deg=float(np.abs(settings.max_rotation_deg or 0)),
        max_shift_px=float(np.abs(settings.max_shift_px or 0)),
        seed=settings.seed,
    )


def _make_search(
    settings: EvaluationSettings,
    viewer: Viewer,
    files: dict[str, Path],
    windows: Sequence[Window],
    folder: Path,
) -> _Search:
    """Create the search that the settings choose."""
    weights = Path(settings.weights) if settings.weights else None
    if settings.is_product:
        from comir_search.evaluation.default_search import DefaultSearch

        return DefaultSearch(viewer, files, windows, str(settings.repository), folder)
    if settings.features == "global":
        from comir_search.evaluation.baselines.global_vector import GlobalVector

        return GlobalVector(viewer, weights)
    from comir_search.evaluation.published_search import PublishedSearch

    return PublishedSearch(
        make_extractor(str(settings.features), viewer.model.device, weights),
        vocabulary_size=settings.vocabulary_size,
        rerank=str(settings.rerank),
        rerank_top=settings.rerank_top,
        seed=settings.seed,
        device=viewer.model.device,
    )
