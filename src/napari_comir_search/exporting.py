"""Writing results for others: as a job, but for the picture on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comir_search.errors import ComirSearchError
from comir_search.io.atomic import atomic_path
from comir_search.io.entries import ProjectQuery
from comir_search.progress import Job, Tick

if TYPE_CHECKING:
    from qtpy.QtGui import QImage

    from comir_search.io.project import Project


def export_steps(kind: str, path: Path, project: Project, queries: Sequence[ProjectQuery]) -> Job[str]:
    """Write the results of queries with their verdicts.

    Parameters
    ----------
    kind : {"csv", "geojson", "html"}
    path : Path
        The file; replaced if it exists.
    project : Project
    queries : sequence of ProjectQuery
        All with a result.

    Returns
    -------
    str
        What was written, in one sentence.
    """
    yield Tick(f"writing {path.name}", 0, 0)
    results = [query.result for query in queries if query.result is not None]
    verdicts = [project.verdicts_of(query.id) for query in queries]
    count = sum(len(result.candidates) for result in results)
    if kind == "csv":
        from comir_search.io.tables import write_csv

        write_csv(path, results, verdicts)
        return f"{count} candidates written to {path.name}."
    if kind == "geojson":
        from comir_search.io.geojson import write_geojson

        files = write_geojson(path, results, verdicts)
        names = ", ".join(file.name for file in files)
        return f"{count} candidates written; import into QuPath: {names}."
    from comir_search.io.report import write_report_steps

    yield from write_report_steps(path, project, queries)
    return f"Report written to {path.name}."


def write_picture(picture: QImage, path: Path) -> None:
    """Write a picture as PNG.

    Raises
    ------
    ComirSearchError
        Where it cannot be written.
    """
    with atomic_path(path) as temporary:
        if not picture.save(str(temporary), "PNG"):
            raise ComirSearchError(f"{path} could not be written: choose another place.")
