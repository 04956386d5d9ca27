"""Search: from a query to ranked, verified candidates.

First the query is correlated with the slides at a coarse level. The best places are
then correlated again at finer levels, which gives their position, rotation and score.
The confidence of each place is computed from its score. If the first place is not
sure, the slides are also searched with a sliding bag of words and with a finer
correlation. With `SearchOptions.method`, the user can choose the correlation alone or
the words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.index.index import Index, IndexedSlide
from comir_search.index.slide_record import PROGRESS_FILE, REMOVED_FILE, SLIDE_FILE, SLIDES
from comir_search.matching.places import Place, count_places, keep_distinct
from comir_search.matching.query import Query
from comir_search.progress import Job, Tick, finish
from comir_search.records import Candidate, Provenance, SearchResult
from comir_search.retrieval import scan, words
from comir_search.retrieval.options import SearchOptions
from comir_search.retrieval.query import check_fits, check_query, prepare_query
from comir_search.retrieval.report import Clock, Coverage, Reporter
from comir_search.retrieval.verification import Verifier
from comir_search.retrieval.workers import LocalSearchRunner, SearchRunner, open_search_runner
from comir_search.slides import Slide, open_slide
from comir_search.version import __version__

SURE = 0.95  # if the first place has this confidence, the search ends
CLOSE_TILES = 256  # number of tiles of the finer scan; it begins with those of the best places
CORRELATION_LENGTH_UM = 18.0  # CoMIRs that are shifted by less than this still correlate
BOW_ANGLES = 16
DISTINCT_SHARE = 0.2  # of the shorter side: places closer than this count as one
# Places of the coarse scan for each wanted candidate. Several places may turn out to be the same one (about fifty
# at most, for a small query); the scan is then repeated with more places.
SPARE, SPARE_IN_TILE, SPARE_AT_MOST = 4, 8, 64
NAMES_LISTED = 5


def search_steps(
    index: Index,
    query: Slide | str | Path,
    options: SearchOptions | None = None,
    *,
    runner: SearchRunner | None = None,
    **keywords: Any,
) -> Job[SearchResult]:
    """Search an index for a query; see `search`.

    Parameters
    ----------
    index : Index
    query : Slide or path
    options : SearchOptions, optional
    runner : SearchRunner, optional
        Where the search runs, from `open_search_runner`; by default in this
        process. It is not closed, so that the next query can use it.
    **keywords
        Single options, by name.

    Yields
    ------
    Tick
        Once there are places, some ticks contain a preliminary result in ``partial``.
    """
    options = SearchOptions.of(options, keywords)
    with open_query(query, options) as image:
        result = yield from QuerySearch(index, image, options, runner).run_steps()
    return result


def search(
    query: Slide | str | Path,
    index: Index,
    options: SearchOptions | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    **keywords: Any,
) -> SearchResult:
    """Find the position of a query on the slides of an index.

    Parameters
    ----------
    query : Slide or path
        The query image.
    index : Index
        The slides to search.
    options : SearchOptions, optional
    workers : int, optional
        Number of worker processes to start on this machine. By default this
        process itself searches.
    scheduler : str, optional
        Address of the `dask.distributed` scheduler of a running cluster, whose
        workers see the index under the same path.
    **keywords
        Single options by the names of `SearchOptions`: `modality`, `pixel_size_um`,
        `top`, `mirror`, `slides`, `method`.

    Returns
    -------
    SearchResult
        It includes its `Provenance`.

    Raises
    ------
    ComirSearchError
        If the value of an option is not allowed, the query cannot be used, or the
        index does not contain a requested slide, or no slide at all.
    TypeError
        If a keyword is not the name of an option.
    """
    options = SearchOptions.of(options, keywords)
    with closing(open_search_runner(index, workers=workers, scheduler=scheduler)) as runner:
        return finish(search_steps(index, query, options, runner=runner))


def open_query(query: Slide | str | Path, options: SearchOptions) -> AbstractContextManager[Slide]:
    """Open a query from its path, and close it at the end. A query that is already open stays open."""
    if isinstance(query, Slide):
        return nullcontext(query)
    return open_slide(query, pixel_size_um=options.pixel_size_um)


class QuerySearch:
    """One search of one query, stage by stage.

    Parameters
    ----------
    index : Index
    image : Slide
        The query, open until the end.
    options : SearchOptions
    runner : SearchRunner, optional
        By default this process.

    Attributes
    ----------
    by_correlation : list of Place or None
        Places that the coarse correlation found, best first; None if it was not used.
    by_words : list of Place or None
        Places that the bag of words found, best first; None if it was not used.
    fused : list of Place
        The places that were verified, after the coarsest round of their verification.

    Raises
    ------
    ComirSearchError
        If the query cannot be searched for, or no slide can be searched.
    """

    def __init__(
        self, index: Index, image: Slide, options: SearchOptions, runner: SearchRunner | None = None
    ) -> None:
        self._clock = Clock()
        self._index, self._image, self._options = index, image, options
        self._runner = runner or LocalSearchRunner()
        self._modality = options.modality or index.model.other(index.modality)
        self._chosen, self._everything = choose_slides(index, options.slides), index.slides
        self.by_correlation: list[Place] | None = None
        self.by_words: list[Place] | None = None
        self.fused: list[Place] = []
        check_query(index.model, image, self._modality)
        check_fits(image, [slide.size_um for _, slide in self._chosen])

    def run_steps(self) -> Job[SearchResult]:
        """Search; see `search_steps`."""
        yield from self._prepare_steps()
        method, top, clock, report = self._options.method, self._options.top, self._clock, self._report
        if method == "words":
            places = yield from self.ask_words_steps()
        else:
            places = yield from self._correlate_steps(
                "coarse correlation", self._coarse_level, self._n_places, self._per_tile
            )
            self.by_correlation = places
            clock.lap("correlation")
        verified, self.fused = yield from self._verifier.verify_steps(places, self._show, wanted=top)
        clock.lap("pose")
        result = report.result(verified, clock)
        is_sure = bool(result.candidates) and (result.candidates[0].confidence or 0.0) >= SURE
        if method != "words" and not is_sure:
            verified = yield from self._look_again_steps(places, verified)
            result = report.result(verified, clock)
        if len(verified) < top and len(places) >= self._most_at_first:
            # The first stage found as many places as it may return, so there may be more.
            verified = yield from self._find_more_steps(places, verified)
            result = report.result(verified, clock)
        return result

    def _prepare_steps(self) -> Job[None]:
        """Embed the query, and choose the levels and the angle step."""
        index, options = self._index, self._options
        yield Tick("embedding the query", 0, 1)
        self._queries = [
            prepare_query(index.model, self._image, self._modality, mirrored=flipped)
            for flipped in (False, True)[: 1 + options.mirror]
        ]
        query = self._queries[0]
        if options.method == "words" and query.level > 0:
            raise ComirSearchError(
                f"{query.name} is too large for the method words, which compares small structures; "
                "choose the method auto or correlation."
            )
        n_damaged = len(index.damaged)
        coverage = Coverage(
            len(self._chosen),
            len(self._everything) + n_damaged + _count_unfinished(index),
            n_damaged,
            f"`comir-search repair --index {index.path}`",
        )
        self._report = Reporter(index, query, self._everything, options.top, coverage, self._provenance())
        self._radius_px = DISTINCT_SHARE * query.short_side_px
        self._clock.lap("query")

        self._n_places = max(count_places(min(query.height_um, query.width_um)), SPARE * options.top)
        self._per_tile = max(scan.PLACES_PER_TILE, SPARE_IN_TILE * options.top)
        self._step_deg = _angle_step_deg(query, index.model.comir_pixel_size_um)
        self._coarse_level, self._close_level = scan.choose_scan_levels(query)
        self._verifier = Verifier(
            self._queries,
            self._everything,
            self._step_deg,
            self._radius_px,
            options.top,
            self._runner,
            scan.choose_finest_level(query),
        )

    @property
    def _most_at_first(self) -> int:
        """The number of places from which on the first stage may have left some out."""
        by_words = self._options.method == "words"
        return self._n_places if by_words else min(self._n_places, self._per_tile // SPARE_IN_TILE)

    def _show(self, places: Sequence[Place]) -> SearchResult | None:
        return self._report.partial(places, self._clock)

    def _correlate_steps(
        self, stage: str, level: int, n_places: int, per_tile: int, **nearest_first: Any
    ) -> Job[list[Place]]:
        """Compare the query with every position on the tissue, or begin near given places."""
        kept: list[Place] = []
        for query in self._queries:
            scanner = scan.Scanner(query, level, round(360 / self._step_deg))
            scanning = scan.scan_slides(
                scanner,
                self._chosen,
                n_places,
                self._radius_px,
                self._runner,
                per_tile=per_tile,
                **nearest_first,
            )
            for done, total, places in scanning:
                places = [*kept, *places] if places else []  # some after the first tiles, all at the end
                if not nearest_first:
                    places = keep_distinct(places, self._radius_px, n_places)
                yield Tick(stage, done, total, None if nearest_first else self._show(places))
            kept = places or kept
        return kept

    def _look_again_steps(self, places: list[Place], verified: list[Place]) -> Job[list[Place]]:
        """Search with the words (unless the method is correlation), then more finely near the places found."""
        yield Tick("looking again", 0, 1, self._show(verified))
        by_words: list[Place] = []
        if self._options.method == "auto":
            by_words = yield from self.ask_words_steps()
        closer: list[Place] = []
        if self._close_level is not None:
            closer = yield from self._correlate_steps(
                "looking closer",
                self._close_level,
                self._n_places,
                self._per_tile,
                near=[*places, *by_words],
                tile_limit=CLOSE_TILES,
            )
        best, coarsest = yield from self._verifier.verify_steps([*by_words, *closer])
        self.fused = keep_distinct([*self.fused, *coarsest], self._radius_px, self._n_places)
        self._clock.lap("closer")
        return keep_distinct([*verified, *best], self._radius_px, self._verifier.count)

    def _find_more_steps(self, seen: list[Place], verified: list[Place]) -> Job[list[Place]]:
        """Repeat the first stage with more places, and verify the new ones."""
        stage, many = "looking for more places", SPARE_AT_MOST * self._options.top
        if self._options.method == "words":
            places = yield from self._compare_words_steps(stage, many)
        else:
            places = yield from self._correlate_steps(stage, self._coarse_level, many, many)
        known = set(seen)
        unseen = [each for each in places if each not in known]
        best, _ = yield from self._verifier.verify_steps(unseen, wanted=self._options.top)
        self._clock.lap("more")
        return keep_distinct([*verified, *best], self._radius_px, self._verifier.count)

    def ask_words_steps(self) -> Job[list[Place]]:
        """Return the places that the words find, best first. They are computed only once.

        The list is empty if the query is too large to have words.
        """
        if self.by_words is None:
            self.by_words = yield from self._compare_words_steps("bag of words", self._n_places)
            self._clock.lap("bag_of_words")
        return self.by_words

    def _compare_words_steps(self, stage: str, n_places: int) -> Job[list[Place]]:
        if self._queries[0].level > 0:
            return []  # words need the finest CoMIR level, which is not kept for such a large query
        vocabulary = self._index.model.vocabulary
        assert vocabulary is not None  # an index cannot be made without one
        uncounted = [slide for _, slide in self._chosen if slide.word_counts is None]
        counts: list[np.ndarray | None] = []
        work = [(slide, vocabulary.n_words) for slide in uncounted]
        for done, counts in self._runner.run(IndexedSlide.count_words, work):
            yield Tick("counting words", done, len(uncounted))
        for slide, counted in zip(uncounted, counts, strict=True):
            slide.word_counts = counted
        frequencies = words.word_frequencies(vocabulary, [slide for _, slide in self._chosen])
        # The method words searches all tissue. Otherwise parts with another kind of tissue are skipped.
        alone = self._options.method == "words"
        kept: list[Place] = []
        for query in self._queries:
            bag = words.BagOfWords(query, vocabulary, frequencies)
            for done, total in bag.describe(BOW_ANGLES):
                yield Tick("describing the query", done, total)
            scanning = words.scan_slides(
                bag, self._chosen, n_places, self._radius_px, self._runner, everywhere=alone
            )
            for done, total, places in scanning:
                partial = self._show([*kept, *places]) if alone and places else None
                yield Tick(stage, done, total, partial)
            kept = keep_distinct([*kept, *places], self._radius_px, n_places)
        return kept

    def rank(self, places: Sequence[Place]) -> tuple[Candidate, ...]:
        """Return places, such as those of one stage, as candidates without confidence, in the same order."""
        return self._report.ranked(places)

    def _provenance(self) -> Provenance:
        model = self._index.model
        return Provenance(
            query=self._image.fingerprint,
            pixel_size_um=self._image.require_pixel_size(),
            modality=self._modality,
            options=self._options.to_dict(),
            slides={slide.fingerprint: slide.pixel_size_um for _, slide in self._chosen},
            index=str(self._index.path),
            embedding=model.embedding_fingerprint,
            model=model.fingerprint,
            version=__version__,
        )


def choose_slides(index: Index, names: Sequence[str] | None) -> list[tuple[int, IndexedSlide]]:
    """Return the slides with these names or fingerprints, each with its position in the index.

    If `names` is None, all slides are returned.

    Raises
    ------
    ComirSearchError
        If the index contains no finished slide, only damaged ones, or no slide of a given name.
    """
    slides = list(enumerate(index.slides))
    if not slides and index.damaged:
        n_damaged = len(index.damaged)
        raise ComirSearchError(
            f"The index {index.path} contains no slide that can be searched: "
            f"{f'all its {n_damaged} slides are' if n_damaged > 1 else 'its only slide is'} damaged; run "
            f"`comir-search repair --index {index.path}`."
        )
    if not slides:
        raise ComirSearchError(
            f"The index {index.path} contains no finished slide to search; run comir-search index."
        )
    if names is None:
        return slides
    known = {name for _, slide in slides for name in (slide.name, slide.fingerprint)}
    there = sorted({slide.name for _, slide in slides})
    more = f" and {len(there) - NAMES_LISTED} more" if len(there) > NAMES_LISTED else ""
    holds = f"it contains {', '.join(there[:NAMES_LISTED])}{more}"
    for name in names:
        if name not in known:
            raise ComirSearchError(f"The index {index.path} contains no slide {name!r}; {holds}.")
    if not names:
        raise ComirSearchError(f"No slide of the index {index.path} was chosen to be searched; {holds}.")
    return [(number, slide) for number, slide in slides if slide.name in names or slide.fingerprint in names]


def _count_unfinished(index: Index) -> int:
    """Return the number of slides whose indexing has begun but is not finished."""

    def holds(folder: str, file: str) -> bool:
        return index.storage.exists(f"{SLIDES}/{folder}/{file}")

    finished = {slide.fingerprint for slide in index.slides}
    return sum(
        holds(folder, PROGRESS_FILE) and not holds(folder, SLIDE_FILE) and not holds(folder, REMOVED_FILE)
        for folder in index.storage.folders(SLIDES)
        if folder not in finished
    )


def _angle_step_deg(query: Query, comir_pixel_size_um: float) -> float:
    """Return the angle step that moves the ends of the query by the correlation length; it divides 90."""
    reach_um = max(query.size_px) * comir_pixel_size_um / 2
    step = np.rad2deg(CORRELATION_LENGTH_UM / reach_um)
    return float(90 / np.ceil(90 / np.clip(step, 4.0, 15.0)))
