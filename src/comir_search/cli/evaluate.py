"""Measure with the paper's protocol how often the right window of the repository is found for a query."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from comir_search.cli import arguments
from comir_search.cli.progress import show
from comir_search.errors import BatchIncomplete

HELP = "measure retrieval on aligned pairs, by the paper's protocol"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("--bf", required=True, metavar="DIR", help="brightfield images")
    parser.add_argument("--shg", required=True, metavar="DIR", help="aligned SHG images, with equal names")
    arguments.add_model(parser)
    parser.add_argument(
        "--preset",
        choices=("default", "paper"),
        default="default",
        help="the search of this program, or the published method (default: %(default)s)",
    )
    parser.add_argument("--query", metavar="NAME", help="modality of the queries, shg or bf (default: shg)")
    parser.add_argument(
        "--repository", metavar="NAME", help="modality of the repository (default: the other one)"
    )
    parser.add_argument(
        "--query-size",
        type=_size,
        metavar="PX|full",
        default=None,
        help="side of the queries, in pixels of the model; full: as large as the window (default: full)",
    )
    parser.add_argument(
        "--repository-size",
        type=arguments.positive_int,
        metavar="PX",
        help="side of the windows into which the repository is cut (default: whole images)",
    )
    parser.add_argument(
        "--max-rotation",
        type=_not_negative,
        metavar="DEG",
        help="largest rotation of the queries (default: 30; for full or transformed queries: 0)",
    )
    parser.add_argument(
        "--max-shift",
        type=_not_negative,
        metavar="PX",
        help="largest shift of the queries (default: 100; for full or transformed queries: 0)",
    )
    parser.add_argument(
        "--transformed", metavar="DIR", help="transformed images, from which the queries are cut instead"
    )
    published = parser.add_argument_group(
        "parts of the published method",
        "--representation, --features and --rerank choose this method, even without --preset paper",
    )
    published.add_argument(
        "--representation",
        choices=("comir", "raw"),
        help="what is compared: CoMIRs or the images themselves (default: comir)",
    )
    published.add_argument(
        "--features",
        choices=("surf", "sift", "sift-dense", "resnet", "global"),
        help="features that are compared (default: surf)",
    )
    published.add_argument(
        "--rerank",
        choices=("none", "bow", "pose"),
        help="how the first windows are ranked again: not, by a bag of words, or by correlation "
        "(default: bow with --preset paper, else pose)",
    )
    published.add_argument(
        "--rerank-top",
        type=arguments.positive_int,
        default=30,
        metavar="N",
        help="how many windows are ranked again (default: %(default)s)",
    )
    published.add_argument(
        "--vocabulary-size",
        type=arguments.positive_int,
        default=20_000,
        metavar="N",
        help="number of visual words (default: %(default)s)",
    )
    published.add_argument(
        "--weights", metavar="FILE", help="file of torchvision's ResNet weights, for --features resnet"
    )
    parser.add_argument(
        "--pixel-size",
        type=arguments.positive_float,
        metavar="UM",
        help="um per pixel of images without a pixel size (default: the model's)",
    )
    arguments.add_device(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of rotations, shifts and vocabularies (default: 0)",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    from comir_search.evaluation.evaluate import EvaluationSettings, evaluate_steps

    settings = EvaluationSettings(
        bf=args.bf,
        shg=args.shg,
        model=None if args.model is None else str(args.model),
        preset=args.preset,
        query=args.query,
        repository=args.repository,
        query_size_px=args.query_size or None,
        repository_size_px=args.repository_size,
        max_rotation_deg=args.max_rotation,
        max_shift_px=args.max_shift,
        transformed=args.transformed,
        representation=args.representation,
        features=args.features,
        rerank=args.rerank,
        rerank_top=args.rerank_top,
        vocabulary_size=args.vocabulary_size,
        weights=args.weights,
        pixel_size_um=args.pixel_size,
        device=args.device,
        seed=args.seed,
    )
    try:
        _report(show(evaluate_steps(settings)), args.json)
    except BatchIncomplete as incomplete:
        if incomplete.result is not None:
            _report(incomplete.result, args.json)
        raise
    return 0


def _report(table: dict[str, Any], json_file: Path | None) -> None:
    """Write and print the table."""
    arguments.write_json(json_file, table)
    print(_lines(table))


def _lines(table: dict[str, Any]) -> str:
    """Return the table as text."""
    used = table["settings"]
    search = (
        "the search of this program"
        if used["features"] is None
        else f"{used['features']} on {used['representation']}, re-ranking: {used['rerank']}"
    )
    lines = [
        f"{used['query']} in {used['repository']}, {search}",
        f"{table['n_queries']} queries, {table['n_repository']} windows, {table['seconds']['total']:.0f} s",
        "rank   found   95 % interval    chance",
    ]
    for rank, share in table["acc"].items():
        low, high = table["ci95"][rank]
        lines.append(f"{rank:>4}  {share:6.1%}  {low:6.1%} - {high:6.1%}  {table['chance'][rank]:6.1%}")
    return "\n".join(lines)


def _size(text: str) -> int:
    """Read pixels, or "full" as 0."""
    return 0 if text == "full" else arguments.positive_int(text)


def _not_negative(text: str) -> float:
    """Read a number of zero or more."""
    return 0.0 if text in ("0", "0.0") else arguments.positive_float(text)
