"""Re-ranking by this program's correlation, over all angles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len

from comir_search.evaluation.views import View
from comir_search.matching.correlation import correlate_window, transform_templates
from comir_search.matching.templates import shrink, turn_templates
from comir_search.model.embedding import decode
from comir_search.progress import Job, Tick

# Half the scale of CoMIRs at stride 2. For windows this is as accurate as the full scale, and much faster.
FACTOR_LEVEL = 2
ANGLE_STEP_DEG = 5


def rerank_by_correlation(query: View, windows: Sequence[View], hits: Sequence[int]) -> Job[list[int]]:
    """Sort hits by the best correlation of the rotated query with any position on them.

    Up to half of the query may lie outside the window.

    Parameters
    ----------
    query : View
    windows : sequence of View
        All windows of the repository.
    hits : sequence of int
        Numbers of the windows to sort.
    """
    factor = 2**FACTOR_LEVEL
    angles = [float(angle) for angle in range(-180, 180, ANGLE_STEP_DEG)]
    rows, columns = query.shape
    templates = turn_templates(decode(query.pixels), (rows, columns), angles, level=FACTOR_LEVEL)
    margin = -(-min(rows, columns) // (2 * factor))
    extents = [-(-extent // factor) for hit in hits for extent in windows[hit].shape]
    size = next_fast_len(max([*extents, templates.side - 2 * margin]) + 2 * margin, real=True)
    spectra = transform_templates(templates, size)
    scores = []
    for number, hit in enumerate(hits):
        yield Tick("re-ranking by correlation", number, len(hits))
        pixels = shrink(decode(windows[hit].pixels), factor)
        canvas = np.zeros((len(pixels), size, size), np.float32)
        canvas[:, margin : margin + pixels.shape[1], margin : margin + pixels.shape[2]] = pixels
        scores.append(float(correlate_window(spectra, torch.from_numpy(canvas)).max()))
    return [hits[number] for number in np.argsort(-np.asarray(scores), kind="stable")]
