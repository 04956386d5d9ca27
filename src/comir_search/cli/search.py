"""Search an index for patches: say where each of them was taken.

The table goes to stdout. "Not found" is an answer, with its reason, and the
command then ends with 0 too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from comir_search.cli import arguments
from comir_search.cli.progress import show

if TYPE_CHECKING:
    from comir_search.progress import Job
    from comir_search.records import SearchResult
    from comir_search.retrieval.index import Index
    from comir_search.slides import Slide

HELP = "find where patches lie on the slides of an index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("queries", type=Path, nargs="+", metavar="QUERY", help="patches to search for")
    arguments.add_index(parser)
    arguments.add_modality(parser, "the queries' modality (default: the one that is not indexed)")
    arguments.add_pixel_size(parser)
    parser.add_argument(
        "--top",
        type=arguments.positive_int,
        default=10,
        metavar="N",
        help="candidates per query (default: 10)",
    )
    parser.add_argument("--mirror", action="store_true", help="look for flipped patches too")
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
    """Search for all queries, print the tables, write the files asked for."""
    from comir_search.retrieval.index import Index
    from comir_search.slides import open_slide

    index = Index.open(args.index, device=args.device)
    with ExitStack() as stack:
        queries = [
            stack.enter_context(open_slide(path, pixel_size_um=args.pixel_size)) for path in args.queries
        ]
        results = show(
            search_all_steps(
                index,
                queries,
                modality=args.modality,
                top=args.top,
                mirror=args.mirror,
                workers=args.workers,
                scheduler=args.scheduler,
            )
        )
        for result in results:
            print_result(result)
        _write_files(args, results)
        if args.overlay:
            draw_overlay(args.overlay, index, results, queries)
            print(f"Picture: {args.overlay}")
    return 0


def search_all_steps(
    index: Index,
    queries: Sequence[Slide],
    *,
    modality: str | None = None,
    top: int = 10,
    mirror: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Job[list[SearchResult]]:
    """Search for one query after the other; ticks name the query where there are several."""
    from comir_search.progress import Tick
    from comir_search.retrieval.runner import open_search_runner
    from comir_search.retrieval.search import search_steps

    results = []
    if workers or scheduler:
        yield Tick("starting workers", 0, 0)
    with closing(open_search_runner(index, workers=workers, scheduler=scheduler)) as runner:
        for number, query in enumerate(queries, 1):
            job = search_steps(index, query, modality=modality, top=top, mirror=mirror, runner=runner)
            try:
                while True:
                    tick = next(job)
                    who = f"query {number} of {len(queries)}: " if len(queries) > 1 else ""
                    yield Tick(who + tick.stage, tick.done, tick.total, tick.partial)
            except StopIteration as stop:
                results.append(stop.value)
            finally:
                job.close()
    return results


def print_result(result: SearchResult) -> None:
    """Print one answer as a table."""
    print(f"{result.query}: {'found' if result.found else 'not found'}. {result.reason}")
    if result.candidates:
        width = max(len("slide"), *(len(candidate.slide) for candidate in result.candidates))
        print(f"  {'rank':>4}  {'slide':<{width}}  {'x um':>9}  {'y um':>9}  {'angle':>7}  confidence")
        for each in result.candidates:
            mirrored = "  mirrored" if each.mirrored else ""
            print(
                f"  {each.rank:>4}  {each.slide:<{width}}  {each.center_x_um:>9.1f}  {each.center_y_um:>9.1f}"
                f"  {each.angle_deg:>7.1f}  {each.confidence:>10.2f}{mirrored}"
            )
    print()


def draw_overlay(path: Path, index: Index, results: Sequence[SearchResult], queries: Sequence[Slide]) -> None:
    """Draw results on those of the index's slides that can be found."""
    from comir_search.errors import ComirSearchError
    from comir_search.io.overlay import write_overlay
    from comir_search.retrieval.index import find_slide
    from comir_search.slides import open_slide

    wanted = {candidate.fingerprint for result in results for candidate in result.candidates}
    with ExitStack() as stack:
        slides = []
        for slide in index.slides:
            if slide.fingerprint in wanted or len(index.slides) == 1:
                try:
                    file = open_slide(find_slide(slide), pixel_size_um=slide.pixel_size_um)
                except ComirSearchError as error:
                    print(f"Not drawn: {error}", file=sys.stderr)
                    continue
                slides.append(stack.enter_context(file))
        write_overlay(path, results, queries, slides)


def _write_files(args: argparse.Namespace, results: Sequence[SearchResult]) -> None:
    arguments.write_json(args.json, [result.to_dict() for result in results])
    if args.csv:
        from comir_search.io.tables import write_csv

        write_csv(args.csv, results)
    if args.geojson:
        from comir_search.io.geojson import write_geojson

        files = write_geojson(args.geojson, results)
        print(f"For QuPath: {', '.join(str(file) for file in files)}")
