"""The options of indexing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comir_search.options import DeviceOptions, PixelSizeOptions, WorkerOptions, option


@dataclass(frozen=True)
class IndexOptions(WorkerOptions, DeviceOptions, PixelSizeOptions):
    """How slides are indexed, and where the work is done.

    Parameters
    ----------
    pixel_size_um : float, optional
        Level-0 pixel size, instead of the one in the files.
    device : {"auto", "cpu", "cuda"}
    workers : int, optional
        Work in this many processes on this machine, instead of in this one.
    scheduler : str, optional
        Address of a `dask.distributed` scheduler on whose cluster to work. Its
        workers must see the slides and the index under the same paths.
    model : Model or path, optional
        By default the model of the index, or the shipped one for a new index. A
        model that differs from the index's own only in its calibration replaces it.
    modality : str, optional
        Modality of the slides; by default that of the index, or the model's first.
    """

    model: Any = option(
        None, "model file", otherwise="the model that comes with the program", metavar="MODEL", kind=Path
    )
    modality: str | None = option(
        None, "the slides' modality in the model", otherwise="the model's first, bf", metavar="NAME"
    )
