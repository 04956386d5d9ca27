"""Search: from a query to ranked, verified candidates.

A coarse correlation looks over the slides; its best places are correlated again
at finer levels until place and angle are known; the scores become confidences.
Unless the first is sure, a sliding bag of words looks over the slides too, and a
finer correlation, as far as is affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.index.index import Index, IndexedSlide
from comir_search.index.slide_record import PROGRESS_FILE, REMOVED_FILE, SLIDE_FILE, SLIDES
from comir_search.matching.places import Place, count_places, keep_distinct
from comir_search.matching.query import Query
from comir_search.progress import Job, Tick, finish
from comir_search.records import Provenance, SearchResult
from comir_search.retrieval import scan, words
from comir_search.retrieval.query import check_fits, check_query, prepare_query
from comir_search.retrieval.report import Clock, Coverage, Reporter
from comir_search.retrieval.verification import Verifier
from comir_search.retrieval.workers import LocalSearchRunner, SearchRunner, open_search_runner
from comir_search.slides import Slide, open_slide
from comir_search.version import find_version

SURE = 0.95  # confidence of the first place from which nothing else is looked at
CLOSE_TILES = 256  # of the finer scan, those with the best places so far first
CORRELATION_LENGTH_UM = 18.0  # how far CoMIRs may be off and still agree
BOW_ANGLES = 16
DISTINCT_SHARE = 0.2  # of the shorter side: places closer than this are one
# Places of the coarse scan for each candidate that is asked for: some of them turn out to be one, at
# most about fifty (those of a small query, within reach of the poses), and then it is scanned again.
SPARE, SPARE_IN_TILE, SPARE_AT_MOST = 4, 8, 64
NAMES_LISTED = 5


def search_steps(
    index: Index,
    query: Slide | str | Path,
    *,
    modality: str | None = None,
    pixel_size_um: float | None = None,
    top: int = 10,
    mirror: bool = False,
    slides: Sequence[str] | None = None,
    first_stage: bool = False,
    runner: SearchRunner | None = None,
) -> Job[SearchResult]:
    """Search an index for a query; see `search`.

    Parameters
    ----------
    runner : SearchRunner, optional
        Who looks through the slides, from `open_search_runner`; by default this
        process. It stays open, for the next query.

    Yields
    ------
    Tick
        From the first places on, ``partial`` is the result so far, now and then.
    """
    runner = runner or LocalSearchRunner()
    if isinstance(query, Slide):
        result = yield from _search(index, query, modality, top, mirror, slides, first_stage, runner)
        return result
    with open_slide(query, pixel_size_um=pixel_size_um) as opened:
        result = yield from _search(index, opened, modality, top, mirror, slides, first_stage, runner)
    return result


def search(
    query: Slide | str | Path,
    index: Index,
    *,
    modality: str | None = None,
    pixel_size_um: float | None = None,
    top: int = 10,
    mirror: bool = False,
    slides: Sequence[str] | None = None,
    first_stage: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> SearchResult:
    """Find where a query was taken.

    Parameters
    ----------
    query : Slide or path
        The patch.
    index : Index
        The slides to look through.
    modality : str, optional
        The query's; by default the one that is not indexed.
    pixel_size_um : float, optional
        The query's, where its file states none or a wrong one.
    top : int
        Distinct candidates to return; fewer, said in the reason, where there are no more.
    mirror : bool
        Look for the flipped query too.
    slides : sequence of str, optional
        Look only in slides of these names or fingerprints; several slides may have one name.
        What is not found is then said to be so on these.
    first_stage : bool
        Return the first stages' places too, for evaluation: those by words also
        where the search needs none, whose time does not count then; the fused ones
        are those that were verified.
    workers : int, optional
        Work in so many processes on this machine, instead of in this one.
    scheduler : str, optional
        Work on the cluster of the `dask.distributed` scheduler at this address,
        whose workers see the index under the same name.

    Returns
    -------
    SearchResult
        With its `Provenance`.

    Raises
    ------
    ComirSearchError
        If the query cannot be searched for, or the index holds no slide, or none of a
        name that is asked for.
    """
    with closing(open_search_runner(index, workers=workers, scheduler=scheduler)) as runner:
        job = search_steps(
            index,
            query,
            modality=modality,
            pixel_size_um=pixel_size_um,
            top=top,
            mirror=mirror,
            slides=slides,
            first_stage=first_stage,
            runner=runner,
        )
        return finish(job)


def _search(
    index: Index,
    image: Slide,
    modality: str | None,
    top: int,
    mirror: bool,
    names: Sequence[str] | None,
    first_stage: bool,
    runner: SearchRunner,
) -> Job[SearchResult]:
    clock = Clock()
    if top < 1:
        raise ComirSearchError(f"{top} candidates cannot be found; ask for one or more.")
    model = index.model
    modality = modality or model.other(index.modality)
    chosen = choose_slides(index, names)
    everything = index.slides
    check_query(model, image, modality)
    check_fits(image, [slide.size_um for _, slide in chosen])
    yield Tick("embedding the query", 0, 1)
    queries = [
        prepare_query(model, image, modality, mirrored=flipped) for flipped in (False, True)[: 1 + mirror]
    ]
    provenance = _provenance(index, image, modality, top, mirror, names, chosen)
    n_damaged = len(index.damaged)
    coverage = Coverage(
        len(chosen),
        len(everything) + n_damaged + _count_unfinished(index),
        n_damaged,
        f"`comir-search repair --index {index.path}`",
    )
    report = Reporter(index, queries[0], everything, top, coverage, provenance)
    radius_px = DISTINCT_SHARE * queries[0].short_side_px
    clock.lap("query")

    n_places = max(count_places(min(queries[0].height_um, queries[0].width_um)), SPARE * top)
    per_tile = max(scan.PLACES_PER_TILE, SPARE_IN_TILE * top)
    step_deg = _angle_step_deg(queries[0], model.comir_pixel_size_um)
    coarse_level, close_level = scan.choose_scan_levels(queries[0])

    def correlate_steps(
        stage: str, level: int, n_places: int, per_tile: int, **nearest_first: Any
    ) -> Job[list[Place]]:
        kept: list[Place] = []
        for query in queries:
            scanner = scan.Scanner(query, level, round(360 / step_deg))
            scanning = scan.scan_slides(
                scanner, chosen, n_places, radius_px, runner, per_tile=per_tile, **nearest_first
            )
            for done, total, places in scanning:
                places = [*kept, *places] if places else []  # a few after the first tiles, all at the end
                if not nearest_first:
                    places = keep_distinct(places, radius_px, n_places)
                yield Tick(stage, done, total, None if nearest_first else report.partial(places, clock))
            kept = places or kept
        return kept

    def show(places: Sequence[Place]) -> SearchResult | None:
        return report.partial(places, clock)

    by_correlation = yield from correlate_steps("coarse correlation", coarse_level, n_places, per_tile)
    clock.lap("correlation")
    finest_level = scan.choose_finest_level(queries[0])
    verifier = Verifier(queries, everything, step_deg, radius_px, top, runner, finest_level)
    verified, fused = yield from verifier.verify_steps(by_correlation, show, wanted=top)
    clock.lap("pose")
    result = report.result(verified, clock)
    is_sure = bool(result.candidates) and (result.candidates[0].confidence or 0.0) >= SURE
    by_words: list[Place] = []
    if first_stage or not is_sure:
        yield Tick("looking again", 0, 1, report.partial(verified, clock))
        by_words = yield from _bag_of_words_steps(index, queries, chosen, n_places, radius_px, runner)
        clock.lap("bag_of_words")
    if not is_sure:
        closer: list[Place] = []
        if close_level is not None:
            closer = yield from correlate_steps(
                "looking closer",
                close_level,
                n_places,
                per_tile,
                near=[*by_correlation, *by_words],
                tile_limit=CLOSE_TILES,
            )
        again = yield from verifier.verify_steps([*by_words, *closer])
        verified = keep_distinct([*verified, *again[0]], radius_px, verifier.count)
        fused = keep_distinct([*fused, *again[1]], radius_px, n_places)
        clock.lap("closer")
        result = report.result(verified, clock)
    if len(verified) < top and len(by_correlation) >= min(n_places, per_tile // SPARE_IN_TILE):
        # There may be more places than the scan has handed out.
        many = SPARE_AT_MOST * top
        places = yield from correlate_steps("looking for more places", coarse_level, many, many)
        seen = set(by_correlation)
        again = yield from verifier.verify_steps([each for each in places if each not in seen], wanted=top)
        verified = keep_distinct([*verified, *again[0]], radius_px, verifier.count)
        clock.lap("more")
        result = report.result(verified, clock)
    if first_stage:
        stages = {"bow": by_words, "correlation": by_correlation, "fused": fused}
        result = replace(
            result, first_stage={stage: report.ranked(places) for stage, places in stages.items()}
        )
    return result


def choose_slides(index: Index, names: Sequence[str] | None) -> list[tuple[int, IndexedSlide]]:
    """Return the slides of these names or fingerprints, each with its position in the index; all for None.

    Raises
    ------
    ComirSearchError
        If the index holds no finished slide, only damaged ones, or none of a name.
    """
    slides = list(enumerate(index.slides))
    if not slides and index.damaged:
        n_damaged = len(index.damaged)
        raise ComirSearchError(
            f"The index {index.path} holds no slide that can be searched: "
            f"{f'all its {n_damaged} slides are' if n_damaged > 1 else 'its only slide is'} damaged; run "
            f"`comir-search repair --index {index.path}`."
        )
    if not slides:
        raise ComirSearchError(
            f"The index {index.path} holds no finished slide to search; run comir-search index."
        )
    if names is None:
        return slides
    known = {name for _, slide in slides for name in (slide.name, slide.fingerprint)}
    there = sorted({slide.name for _, slide in slides})
    more = f" and {len(there) - NAMES_LISTED} more" if len(there) > NAMES_LISTED else ""
    holds = f"it holds {', '.join(there[:NAMES_LISTED])}{more}"
    for name in names:
        if name not in known:
            raise ComirSearchError(f"The index {index.path} holds no slide {name!r}; {holds}.")
    if not names:
        raise ComirSearchError(f"No slide of the index {index.path} was chosen to be searched; {holds}.")
    return [(number, slide) for number, slide in slides if slide.name in names or slide.fingerprint in names]


def _count_unfinished(index: Index) -> int:
    """Return how many slides an indexing has begun and not finished."""

    def holds(folder: str, file: str) -> bool:
        return index.storage.exists(f"{SLIDES}/{folder}/{file}")

    finished = {slide.fingerprint for slide in index.slides}
    return sum(
        holds(folder, PROGRESS_FILE) and not holds(folder, SLIDE_FILE) and not holds(folder, REMOVED_FILE)
        for folder in index.storage.folders(SLIDES)
        if folder not in finished
    )


def _provenance(
    index: Index,
    image: Slide,
    modality: str,
    top: int,
    mirror: bool,
    names: Sequence[str] | None,
    chosen: Sequence[tuple[int, IndexedSlide]],
) -> Provenance:
    return Provenance(
        query=image.fingerprint,
        pixel_size_um=image.require_pixel_size(),
        modality=modality,
        options={"top": top, "mirror": bool(mirror), "slides": None if names is None else list(names)},
        slides={slide.fingerprint: slide.pixel_size_um for _, slide in chosen},
        index=str(index.path),
        embedding=index.model.embedding_fingerprint,
        model=index.model.fingerprint,
        version=find_version(),
    )


def _bag_of_words_steps(
    index: Index,
    queries: Sequence[Query],
    chosen: list[tuple[int, IndexedSlide]],
    n_places: int,
    radius_px: float,
    runner: SearchRunner,
) -> Job[list[Place]]:
    if queries[0].level > 0:
        return []  # words are made of the finest CoMIR, of which so large a query keeps none
    vocabulary = index.model.vocabulary
    assert vocabulary is not None  # an index cannot be made without one
    uncounted = [slide for _, slide in chosen if slide.word_counts is None]
    counts: list[np.ndarray | None] = []
    work = [(slide, vocabulary.n_words) for slide in uncounted]
    for done, counts in runner.run(IndexedSlide.count_words, work):
        yield Tick("counting words", done, len(uncounted))
    for slide, counted in zip(uncounted, counts, strict=True):
        slide.word_counts = counted
    frequencies = words.word_frequencies(vocabulary, [slide for _, slide in chosen])
    kept: list[Place] = []
    for query in queries:
        bag = words.BagOfWords(query, vocabulary, frequencies)
        for done, total in bag.describe(BOW_ANGLES):
            yield Tick("describing the query", done, total)
        for done, total, places in words.scan_slides(bag, chosen, n_places, radius_px, runner):
            yield Tick("bag of words", done, total)
        kept = keep_distinct([*kept, *places], radius_px, n_places)
    return kept


def _angle_step_deg(query: Query, comir_pixel_size_um: float) -> float:
    """Return the step at which the query's ends move by the correlation length, a divisor of 90."""
    reach_um = max(query.size_px) * comir_pixel_size_um / 2
    step = np.rad2deg(CORRELATION_LENGTH_UM / reach_um)
    return float(90 / np.ceil(90 / np.clip(step, 4.0, 15.0)))
