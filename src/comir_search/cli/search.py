"""Search an index for queries: find the slide, position and rotation of each.

The results are printed as tables. If a query is not found, the reason is printed and the
exit code is still 0. If a query cannot be read, the other queries are still searched; it is
named at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comir_search.cli import arguments, describe_failure
from comir_search.cli.progress import show
from comir_search.options import add_arguments as add_arguments_of
from comir_search.options import from_arguments
from comir_search.records import format_confidence
from comir_search.retrieval.options import SearchOptions

if TYPE_CHECKING:
    from comir_search.index.index import Index, IndexedSlide
    from comir_search.progress import Job
    from comir_search.records import SearchResult
    from comir_search.slides import Slide

HELP = "find where queries lie on the slides of an index"
SINGLE_QUERY_PX, QUERY_PX = 600, 300  # longer side of a query's picture in the overlay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument(
        "queries",
        type=Path,
        nargs="+",
        metavar="QUERY_OR_FOLDER",
        help="images to search for, or folders of them",
    )
    arguments.add_index(parser)
    add_arguments_of(parser, SearchOptions)
    arguments.add_device(parser)
    arguments.add_workers(parser)
    arguments.add_json(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the candidates as a table")
    parser.add_argument(
        "--geojson",
        type=Path,
        metavar="FILE",
        help="also write the candidates as QuPath annotations; where they lie on several slides, "
        "also one file per slide, to import into QuPath",
    )
    parser.add_argument(
        "--overlay", type=Path, metavar="PNG", help="also draw the candidates on their slides"
    )


def run(args: argparse.Namespace) -> int:
    """Search for all queries, print the tables and write the output files."""
    from comir_search.errors import BatchIncomplete
    from comir_search.index.index import Index

    index = Index.open(args.index, device=args.device)
    incomplete: BatchIncomplete | None = None
    try:
        answers = show(
            search_all_steps(
                index,
                args.queries,
                from_arguments(SearchOptions, args),
                workers=args.workers,
                scheduler=args.scheduler,
            )
        )
    except BatchIncomplete as error:
        if not error.result:
            raise
        incomplete, answers = error, error.result
    results = [result for _, result in answers]
    for result in results:
        print_result(result)
    _write_files(args, index, results)
    if args.overlay:
        draw_overlay(args.overlay, index, results, [query for query, _ in answers])
        print(f"Picture: {args.overlay}")
    if incomplete is not None:
        raise incomplete
    return 0


def search_all_steps(
    index: Index,
    paths: Sequence[Path],
    options: SearchOptions | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    **keywords: Any,
) -> Job[list[tuple[Path, SearchResult]]]:
    """Search for one query after the other. If there are several, the ticks name the query.

    Parameters
    ----------
    index : Index
    paths : sequence of Path
        Queries, and folders of queries. Only one query is open at a time.
    options, workers, scheduler, **keywords
        See `comir_search.retrieval.search.search`.

    Returns
    -------
    list of (Path, SearchResult)

    Raises
    ------
    BatchIncomplete
        If some of several queries failed. It contains the results of the others. If the
        index or the workers fail, the remaining queries are not searched.
    ComirSearchError
        If the only query fails, the index contains no slide, or the index or the workers
        fail before the first result.
    """
    from comir_search.compute.cluster import ClusterLost
    from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
    from comir_search.index.indexed_slide import DamagedChunk
    from comir_search.index.storage import CannotRead
    from comir_search.progress import Tick, retitle
    from comir_search.retrieval.search import choose_slides, search_steps
    from comir_search.retrieval.workers import open_search_runner
    from comir_search.slides import open_slide

    options = SearchOptions.of(options, keywords)
    choose_slides(index, None)  # one error if the index has no slide, instead of one for each query
    if workers or scheduler:
        yield Tick("starting workers", 0, 0)
    left_out: list[tuple[str, Exception]] = []
    queries = _list_queries(paths, left_out)
    n_members = len(queries) + len(left_out)
    answers: list[tuple[Path, SearchResult]] = []
    stopped: ComirSearchError | None = None
    with closing(open_search_runner(index, workers=workers, scheduler=scheduler)) as runner:
        for number, path in enumerate(queries, 1):
            who = f"query {number} of {len(queries)}: " if len(queries) > 1 else ""
            try:
                with open_slide(path, pixel_size_um=options.pixel_size_um) as query:
                    for note in query.info.notes:
                        yield Tick(f"{who}reading", 0, 0, note=note)
                    job = search_steps(index, query, options, runner=runner)
                    result = yield from retitle(job, prefix=who)
                    answers.append((path, result))
            except (CannotRead, ClusterLost, DamagedChunk) as error:  # the query is not the cause of these
                if not answers:
                    raise
                rest = queries[number - 1 :]
                left_out += [(str(each), ComirSearchError(f"{each} was not searched for.")) for each in rest]
                stopped = error
                break
            except (ComirSearchError, OSError) as error:
                left_out.append((str(path), error))
    if left_out and n_members == 1:
        raise left_out[0][1]
    if left_out:
        named = tuple(LeftOut(name, describe_failure(error)) for name, error in left_out)
        raise BatchIncomplete(answers, named, n_members, "" if stopped is None else str(stopped)) from stopped
    return answers


def _list_queries(paths: Sequence[Path], left_out: list[tuple[str, Exception]]) -> list[Path]:
    """Return the queries in files and folders, each once. Files that are no images are added to `left_out`."""
    from comir_search.errors import ComirSearchError, LeftOut
    from comir_search.slides import find_slides

    failed: list[LeftOut] = []
    queries = find_slides(paths, failed)
    left_out += [(each.name, ComirSearchError(each.reason)) for each in failed]
    return queries


def print_result(result: SearchResult) -> None:
    """Print one result as a table."""
    print(f"{result.query}: {'found' if result.found else 'not found'}. {result.reason}")
    if result.candidates:
        width = max(len("slide"), *(len(candidate.slide) for candidate in result.candidates))
        print(f"  {'rank':>4}  {'slide':<{width}}  {'x um':>9}  {'y um':>9}  {'angle':>7}  confidence")
        for each in result.candidates:
            mirrored = "  mirrored" if each.mirrored else ""
            print(
                f"  {each.rank:>4}  {each.slide:<{width}}  {each.center_x_um:>9.1f}  {each.center_y_um:>9.1f}"
                f"  {each.angle_deg:>7.1f}  {format_confidence(each):>10}{mirrored}"
            )
    print()


def draw_overlay(path: Path, index: Index, results: Sequence[SearchResult], queries: Sequence[Path]) -> None:
    """Draw results on the slides of the index whose files are found.

    Parameters
    ----------
    path : Path
        The PNG file to write.
    index : Index
    results : sequence of SearchResult
    queries : sequence of Path
        The query file of each result.
    """
    from comir_search.errors import ComirSearchError
    from comir_search.export.overlay import write_overlay
    from comir_search.index.index import find_slide
    from comir_search.slides import open_slide

    side_px = SINGLE_QUERY_PX if len(queries) == 1 else QUERY_PX
    pictures = [_read_picture(query, side_px) for query in queries]
    drawn = _list_hit(index, results) or (index.slides if len(index.slides) == 1 else [])
    with ExitStack() as stack:
        slides = {}
        for slide in drawn:
            try:
                file = open_slide(find_slide(slide), pixel_size_um=slide.pixel_size_um)
            except ComirSearchError as error:
                print(f"Not drawn: {error}", file=sys.stderr)
                continue
            slides[slide.fingerprint] = stack.enter_context(file)
        write_overlay(path, results, pictures, slides)


def _list_hit(index: Index, results: Sequence[SearchResult]) -> list[IndexedSlide]:
    """Return the slides of an index that have candidates."""
    hit = {candidate.fingerprint for result in results for candidate in result.candidates}
    return [slide for slide in index.slides if slide.fingerprint in hit]


def _find_origins_px(index: Index, results: Sequence[SearchResult]) -> dict[str, tuple[float, float]]:
    """Return the position of QuPath's (0, 0) on each slide that has candidates, by fingerprint."""
    from comir_search.errors import ComirSearchError
    from comir_search.export.geojson import qupath_origins_px
    from comir_search.index.index import find_slide

    files = []
    for slide in _list_hit(index, results):
        try:
            files.append((slide.fingerprint, find_slide(slide)))
        except ComirSearchError as error:
            print(f"The origin that QuPath uses on this slide is not known: {error}", file=sys.stderr)
    return qupath_origins_px(files)


def _read_picture(path: Path, side_px: int) -> Slide:
    """Return a small copy of a query in memory. There may be too many queries to keep all files open."""
    from comir_search.slides import open_slide, slide_from_array

    with open_slide(path) as query:
        return slide_from_array(query.overview(side_px)[0], pixel_size_um=None, name=query.name)


def _write_files(args: argparse.Namespace, index: Index, results: Sequence[SearchResult]) -> None:
    arguments.write_json(args.json, [result.to_dict() for result in results])
    if args.csv:
        from comir_search.export.tables import write_csv

        write_csv(args.csv, results)
    if args.geojson:
        from comir_search.export.geojson import write_geojson

        files = write_geojson(args.geojson, results, origins_px=_find_origins_px(index, results))
        print(f"For QuPath: {', '.join(str(file) for file in files)}")
