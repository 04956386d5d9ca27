"""Results are written for others: tables, QuPath annotations, a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from comir_search.export.geojson import qupath_origins_px, write_geojson
from comir_search.export.report import write_report_steps
from comir_search.export.tables import write_csv
from comir_search.progress import Job, Tick
from comir_search.study.entries import ProjectQuery
from comir_search.study.project import Project


def export_steps(
    kind: str,
    path: Path,
    project: Project,
    queries: Sequence[ProjectQuery],
    states: Sequence[str],
    names: Mapping[str, str | None],
) -> Job[str]:
    """Write the results of queries with their verdicts.

    Parameters
    ----------
    kind : {"csv", "geojson", "html"}
    path : Path
        The file; replaced if it exists.
    project : Project
    queries : sequence of ProjectQuery
        All with a result.
    states : sequence of str
        What is to be said of each answer, such as that it is out of date and why.
    names : mapping of str to str or None
        What the project's slides are called in answers, by their keys.

    Returns
    -------
    str
        What was written, in one sentence.
    """
    yield Tick(f"writing {path.name}", 0, 0)
    results = [query.result for query in queries if query.result is not None]
    verdicts = [project.verdicts_of(query.id) for query in queries]
    stale = sum(state.startswith("out of date") for state in states)
    warning = f" {stale} of {len(queries)} answers are out of date, as written there." if stale else ""
    count = sum(len(result.candidates) for result in results)
    if kind == "csv":
        write_csv(path, results, verdicts, states)
        return f"{count} candidates written to {path.name}.{warning}"
    if kind == "geojson":
        hit = {candidate.fingerprint for result in results for candidate in result.candidates}
        named = [(names.get(slide.fingerprint) or "", slide) for slide in project.slides]
        origins = qupath_origins_px(
            (name, slide.path) for name, slide in named if name in hit and slide.exists
        )
        files = write_geojson(path, results, verdicts, states=states, origins_px=origins)
        written = ", ".join(file.name for file in files)
        return f"{count} candidates written; import into QuPath: {written}.{warning}"
    yield from write_report_steps(path, project, queries, states=states, names=names)
    return f"Report written to {path.name}.{warning}"
