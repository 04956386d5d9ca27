"""Call ``make_tma_slide.py``, which writes a slide of cores and queries of known place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def make_tma_slide(
    shared: Path,
    sides: tuple[Path, Path],
    out: Path,
    names: Sequence[str],
    options: Sequence[object],
) -> Path:
    """Make slides/, queries/ and truth.csv of images in two folders.

    Parameters
    ----------
    shared : path
        Holds ``tools/make_tma_slide.py``.
    sides : (path, path)
        Folders of the slide's and the queries' images.
    out : path
    names : sequence of str
        Images to use.
    options : sequence
        Further ones of the script.

    Returns
    -------
    path
        `out`.
    """
    command = [sys.executable, shared / "tools" / "make_tma_slide.py", "--bf", sides[0], "--shg", sides[1]]
    command += ["--out", out, "--names", *names, *options]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return out
