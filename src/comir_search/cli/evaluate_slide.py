"""Search for queries with known positions and count the hits.

A query is a hit at k if one of its first k candidates is on the right slide and the
candidate's centre is at most a quarter of the query's shorter side away from the true centre.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from comir_search import options
from comir_search.cli import arguments
from comir_search.cli.progress import show
from comir_search.errors import BatchIncomplete
from comir_search.retrieval.options import SearchOptions

HELP = "measure search with queries of known position"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    arguments.add_index(parser)
    parser.add_argument("--queries", type=Path, required=True, metavar="DIR", help="folder of the queries")
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="truth.csv", help="table of their true positions"
    )
    options.add_arguments(parser, SearchOptions)
    arguments.add_device(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate search on slides."""
    from comir_search.evaluation.localisation import evaluate_slide_steps
    from comir_search.index.index import Index

    index = Index.open(args.index, device=args.device)
    how = options.from_arguments(SearchOptions, args)
    job = evaluate_slide_steps(index, args.queries, args.truth, how)
    try:
        _report(show(job), args.json)
    except BatchIncomplete as incomplete:
        _report(incomplete.result, args.json)
        raise
    return 0


def _report(report: dict[str, Any], json_file: Path | None) -> None:
    """Write and print the report."""
    arguments.write_json(json_file, report)
    print(_describe(report))


def _describe(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    found, seconds = report["found"], report["seconds_per_query"]
    rows = [
        ("queries", f"{report['n_queries']}, of which {report['n_absent']} on no slide"),
        *((f"hit at {k}", _number(share)) for k, share in report["hit"].items()),
        *((f"hit at {k}, angle within 5 degrees", _number(share)) for k, share in report["hit_pose"].items()),
        *(
            (f"first stage, {name.replace('_', ' at ')}", _number(value))
            for name, value in report["recall"].items()
        ),
        ("found", found.get("note") or str(found["n"])),
        ("  right among those found", _number(found["precision"])),
        ("  found among those on a slide", _number(found["coverage"])),
        ("  found among those on no slide", _number(found["false_found"])),
        ("median error of the hits", f"{_number(report['median_error_um'])} um"),
        ("median angle error", f"{_number(report['median_angle_error_deg'])} degrees"),
        ("seconds per query, median and longest", f"{_number(seconds['median'])}, {_number(seconds['max'])}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
