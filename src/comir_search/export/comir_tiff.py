"""CoMIRs as OME-TIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comir_search.files import atomic_path


def write_comir(
    path: str | Path, comir: NDArray[np.uint8] | NDArray[np.float32], pixel_size_um: float
) -> None:
    """Write a CoMIR as a tiled OME-TIFF, one page per channel.

    Parameters
    ----------
    path : path
        The file to write, complete or not at all.
    comir : ndarray (channels, rows, columns) uint8 or float32
    pixel_size_um : float
        Size of a CoMIR pixel.

    Raises
    ------
    ComirSearchError
        If the file cannot be written.
    """
    import tifffile

    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": pixel_size_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_size_um,
        "PhysicalSizeYUnit": "µm",
    }
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            comir,
            ome=True,
            bigtiff=comir.nbytes > 2**31,
            photometric="minisblack",
            tile=(256, 256),
            compression="zlib",
            metadata=metadata,
        )
