"""The options of indexing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comir_search.options import DeviceOptions, PixelSizeOptions, WorkerOptions, option


@dataclass(frozen=True)
class IndexOptions(WorkerOptions, DeviceOptions, PixelSizeOptions):
    """With what slides are indexed, and where the work is done.

    Parameters
    ----------
    pixel_size_um : float, optional
        Level-0 pixel size, instead of what the files give.
    device : {"auto", "cpu", "cuda"}
    workers : int, optional
        Work in so many processes on this machine, instead of in this one.
    scheduler : str, optional
        Work on the cluster of the `dask.distributed` scheduler at this address,
        whose workers see the slides and the index under the same names.
    model : Model or path, optional
        By default that of the index, or the shipped one for a new index. One
        that differs from the index's own in its calibration alone takes its place.
    modality : str, optional
        The slides' side of the model; by default that of the index, or the
        model's first.
    """

    model: Any = option(
        None, "model file", otherwise="the model that comes with the program", metavar="MODEL", kind=Path
    )
    modality: str | None = option(
        None, "the slides' modality in the model", otherwise="the model's first, bf", metavar="NAME"
    )
