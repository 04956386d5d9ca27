"""The paper's protocol: how queries and repository are cut from the images, and how answers are counted.

The images of the repository are cut into windows, each with an id. There is one query
for each window. It is cut from the aligned image of the other modality, around the
window's centre, with a random rotation and shift. The only right answer is the id of
that window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.geometry import turn_matrix
from comir_search.opencv import cv2
from comir_search.training.pairs import list_images

RANKS = (1, 5, 10, 15)
_NORMAL_95 = 1.959963984540054
_DRAWS = 1000
_FILE_NAME = re.compile(r"(?:(?P<twin>[RT])_)?(?P<id>.+?)(?:_(?P<side>SHG|BF))?", re.IGNORECASE)


@dataclass(frozen=True)
class Window:
    """One entry of the repository: a part of an image.

    Parameters
    ----------
    image : str
        Id of the image.
    number : int
        Number of the window in the image, row by row. Image and number are the
        window's id.
    x, y, width, height : int
        Pixels at the model's pixel size.
    """

    image: str
    number: int
    x: int
    y: int
    width: int
    height: int

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y), where (0, 0) is the corner of the image."""
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True)
class QueryPlan:
    """Where one query is cut from an image.

    Parameters
    ----------
    window : int
        Position of the right answer in the list of windows.
    image : str
        Id of the image from which it is cut.
    center_x, center_y : float
        Centre in pixels at the model's pixel size; (0, 0) is the corner of the image.
    width, height : int
    angle_deg : float
        Rotation of the content, see `comir_search.geometry`.
    """

    window: int
    image: str
    center_x: float
    center_y: float
    width: int
    height: int
    angle_deg: float


def find_side(folder: Path, side: str, *, transformed: bool = False) -> dict[str, Path]:
    """Return the images of one side of a dataset by id.

    The file names of both sides may be equal. The names of the public data set
    (Zenodo 3874362) are supported too: ``R_<id>_SHG.tif`` is the reference and
    ``T_<id>_SHG.tif`` its transformed twin, and ``_BF`` and ``_SHG`` name the side.
    Both sides and the twins may lie in one folder.

    Parameters
    ----------
    folder : Path
    side : str
        "bf" or "shg": the suffix of the files to return, if files have one.
    transformed : bool
        Whether to return the twins, if the folder contains both.
    """
    named = [(path, _FILE_NAME.fullmatch(stem)) for stem, path in list_images(Path(folder)).items()]
    parsed = [(path, match.groupdict()) for path, match in named if match]
    parsed = _prefer(parsed, "side", side)
    parsed = _prefer(parsed, "twin", "T" if transformed else "R")
    return dict(sorted((parts["id"], path) for path, parts in parsed))


def _prefer(
    parsed: list[tuple[Path, dict[str, str]]], part: str, wanted: str
) -> list[tuple[Path, dict[str, str]]]:
    """Keep the files whose name has the wanted part, or all files if none has it."""
    return [entry for entry in parsed if (entry[1][part] or "").upper() == wanted.upper()] or parsed


def split_starts(length: int, size: int) -> list[int]:
    """Return the equally spaced starts of the fewest windows of `size` that cover `length`."""
    if size >= length:
        return [0]
    count = ceil(length / size)
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def split_windows(image: str, shape: tuple[int, int], size: tuple[int, int] | None) -> list[Window]:
    """Cut an image into windows, row by row.

    Parameters
    ----------
    image : str
        Id of the image.
    shape : (int, int)
        Height and width.
    size : (int, int), optional
        Height and width of the windows; by default the whole image.
    """
    height, width = shape if size is None else (min(size[0], shape[0]), min(size[1], shape[1]))
    places = [(y, x) for y in split_starts(shape[0], height) for x in split_starts(shape[1], width)]
    return [Window(image, number, x, y, width, height) for number, (y, x) in enumerate(places)]


def plan_queries(
    windows: Sequence[Window],
    shapes: Mapping[str, tuple[int, int]],
    *,
    size: int | None,
    max_rotation_deg: float,
    max_shift_px: float,
    seed: int,
) -> list[QueryPlan]:
    """Draw one query for every window.

    Angle and shift are drawn from uniform distributions. If the query would reach
    beyond the image, another angle and shift are drawn.

    Parameters
    ----------
    windows : sequence of Window
    shapes : mapping of str to (int, int)
        Height and width, by id, of the images from which the queries are cut.
    size : int, optional
        Side of the queries in pixels; by default the size of the window.
    max_rotation_deg, max_shift_px : float
    seed : int

    Raises
    ------
    ComirSearchError
        If a query cannot lie inside its image.
    """
    random = np.random.default_rng(seed)
    plans = []
    for index, window in enumerate(windows):
        rows, columns = shapes[window.image]
        height, width = (window.height, window.width) if size is None else (size, size)
        if max_rotation_deg == max_shift_px == 0 and size is None:
            # The two sides of a pair may differ by a pixel or two.
            height, width = min(height, rows - window.y), min(width, columns - window.x)
            x, y = window.x + width / 2, window.y + height / 2
            plans.append(QueryPlan(index, window.image, x, y, width, height, 0.0))
            continue
        for _ in range(_DRAWS):
            angle_deg = random.uniform(-max_rotation_deg, max_rotation_deg)
            shift_x, shift_y = random.uniform(-max_shift_px, max_shift_px, 2)
            reach_x, reach_y = np.abs(turn_matrix(angle_deg)) @ [width / 2, height / 2]
            x, y = window.center[0] + shift_x, window.center[1] + shift_y
            if reach_x <= x <= columns - reach_x and reach_y <= y <= rows - reach_y:
                break
        else:
            raise ComirSearchError(
                f"Queries of {width} x {height} px, rotated by up to {max_rotation_deg:g} degrees and shifted "
                f"by up to {max_shift_px:g} px, do not fit into {window.image} ({columns} x {rows} px); "
                f"lower --query-size, --max-rotation or --max-shift, or give transformed images with --transformed."
            )
        plans.append(QueryPlan(index, window.image, x, y, width, height, angle_deg))
    return plans


def cut_query(image: NDArray[Any], plan: QueryPlan) -> NDArray[Any]:
    """Cut a query out of its image. Without rotation, the pixels are copied without resampling.

    Parameters
    ----------
    image : ndarray (rows, columns[, channels])
    plan : QueryPlan

    Returns
    -------
    ndarray (plan.height, plan.width[, channels]), the image's dtype
    """
    if plan.angle_deg == 0:
        x, y = round(plan.center_x - plan.width / 2), round(plan.center_y - plan.height / 2)
        return image[y : y + plan.height, x : x + plan.width]
    matrix = np.empty((2, 3))
    matrix[:, :2] = turn_matrix(plan.angle_deg)
    # For OpenCV (0, 0) is the centre of the first pixel, so half a pixel is subtracted.
    middle = np.array([plan.width - 1, plan.height - 1]) / 2
    matrix[:, 2] = np.array([plan.center_x, plan.center_y]) - 0.5 - matrix[:, :2] @ middle
    return cv2.warpAffine(
        image,
        matrix,
        (plan.width, plan.height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def rank_of(answer: int, ranking: Sequence[int]) -> int | None:
    """Return the rank (from 1) of the right answer, or None if it is missing."""
    return list(ranking).index(answer) + 1 if answer in ranking else None


def accuracy_table(ranks: Sequence[int | None], n_repository: int) -> dict[str, Any]:
    """Return Acc@k with Wilson's 95 % intervals and the chance level, as in the file of `evaluate --json`."""
    n = len(ranks)
    hits = {str(k): sum(rank is not None and rank <= k for rank in ranks) for k in RANKS}
    return {
        "n_queries": n,
        "n_repository": n_repository,
        "chance": {str(k): min(1.0, k / n_repository) for k in RANKS},
        "acc": {k: count / n for k, count in hits.items()},
        "ci95": {k: list(wilson_interval(count, n)) for k, count in hits.items()},
    }


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the share of successes."""
    share, z2 = successes / n, _NORMAL_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _NORMAL_95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
