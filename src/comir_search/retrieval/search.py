"""Search: from a query to ranked, verified candidates.

Two first stages look over everything, a coarse correlation and a sliding bag of
words; the union of their best places is correlated again at finer levels until
place and angle are known; the scores become confidences. When none can be
trusted, a finer correlation looks over the slides once more, as far as is
affordable, before the answer is "not found".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.geometry import normalise_angle_deg
from comir_search.progress import Job, Tick, finish
from comir_search.records import Candidate, SearchResult
from comir_search.retrieval import bag_of_words, scan
from comir_search.retrieval.confidence import UNCALIBRATED, measure
from comir_search.retrieval.index import Index, IndexedSlide
from comir_search.retrieval.places import Place, keep_distinct
from comir_search.retrieval.pose import PoseFinder
from comir_search.retrieval.query import LITTLE_EVIDENCE, Query, prepare_query
from comir_search.slides import Slide, open_slide

SCAN_LEVEL = 2
CLOSE_SCAN_LEVEL = 1
CLOSE_TILES = 256  # of the finer scan, those with the best places of the coarse one first
CORRELATION_LENGTH_UM = 18.0  # how far CoMIRs may be off and still agree
BOW_ANGLES = 16
FIRST_STAGE_PLACES = 300  # patches of faint signal come late on coarse CoMIRs
BOW_PLACES = 60  # of the bag of words' own, verified beside the correlation's
FINE_PLACES = 24
LAST_PLACES = 12
DISTINCT_SHARE = 0.2  # of the shorter side: places closer than this are one
MAX_AREA_RATIO = 4.0
SCALE_STEPS = (0.975, 1.0, 1.025)


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
) -> Job[SearchResult]:
    """Search an index for a query; see `search`.

    Yields
    ------
    Tick
        From the end of the first stage on, ``partial`` is the result so far.
    """
    if isinstance(query, Slide):
        result = yield from _search(index, query, modality, top, mirror, slides, first_stage)
        return result
    with open_slide(query, pixel_size_um=pixel_size_um) as opened:
        result = yield from _search(index, opened, modality, top, mirror, slides, first_stage)
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
        Candidates to return.
    mirror : bool
        Look for the flipped query too.
    slides : sequence of str, optional
        Look only in slides of these names or fingerprints; several slides may have one name.
    first_stage : bool
        Return the first stages' places too, for evaluation.

    Returns
    -------
    SearchResult

    Raises
    ------
    ComirSearchError
        If the query cannot be searched for, or the index holds no slide.
    """
    job = search_steps(
        index,
        query,
        modality=modality,
        pixel_size_um=pixel_size_um,
        top=top,
        mirror=mirror,
        slides=slides,
        first_stage=first_stage,
    )
    return finish(job)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last call to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        self.seconds["total"] = now - self._started


def _search(
    index: Index,
    image: Slide,
    modality: str | None,
    top: int,
    mirror: bool,
    names: Sequence[str] | None,
    first_stage: bool,
) -> Job[SearchResult]:
    clock = _Clock()
    model = index.model
    modality = modality or model.other(index.modality)
    yield Tick("embedding the query", 0, 1)
    queries = [
        prepare_query(model, image, modality, mirrored=flipped) for flipped in (False, True)[: 1 + mirror]
    ]
    slides = list(enumerate(index.slides))
    chosen = [(number, slide) for number, slide in slides if _is_chosen(slide, names)]
    _check(index, queries[0], [slide for _, slide in chosen])
    everything = [slide for _, slide in slides]
    report = _Reporter(index, queries[0], everything, top)
    radius_px = DISTINCT_SHARE * queries[0].short_side_px
    clock.lap("query")

    by_words: list[Place] = []
    by_correlation: list[Place] = []
    step_deg = _angle_step_deg(queries[0], model.comir_pixel_size_um)
    for query in queries:  # the correlation first: its places are good enough to be shown
        scanner = scan.Scanner(query, SCAN_LEVEL, _angles(round(360 / step_deg)))
        for done, total, places in scan.scan_slides(scanner, chosen, FIRST_STAGE_PLACES, radius_px):
            if places:  # a few after the first tiles, all at the end
                places = keep_distinct([*by_correlation, *places], radius_px, FIRST_STAGE_PLACES)
            yield Tick("coarse correlation", done, total, report.partial(places, clock))
        by_correlation = places or by_correlation
        clock.lap("correlation")
    vocabulary = model.vocabulary
    assert vocabulary is not None  # an index cannot be made without one
    for done, (_, slide) in enumerate(chosen):
        yield Tick("counting words", done, len(chosen))
        slide.count_words(vocabulary.n_words)  # kept by the slide
    frequencies = bag_of_words.word_frequencies(vocabulary, [slide for _, slide in chosen])
    for query in queries:
        bag = bag_of_words.BagOfWords(query, vocabulary, frequencies)
        for done, total in bag.describe(BOW_ANGLES):
            yield Tick("describing the query", done, total)
        for done, total, places in bag_of_words.scan_slides(bag, chosen, FIRST_STAGE_PLACES, radius_px):
            yield Tick("bag of words", done, total)
        by_words = keep_distinct([*by_words, *places], radius_px, FIRST_STAGE_PLACES)
        clock.lap("bag_of_words")

    verifier = _Verifier(queries, everything, step_deg, radius_px, max(top, LAST_PLACES))
    verified, fused = yield from verifier.verify_steps(
        [*by_correlation, *by_words[:BOW_PLACES]], lambda places: report.partial(places, clock)
    )
    clock.lap("pose")
    if not report.candidates(verified)[1]:
        yield Tick("looking closer", 0, 1, report.partial(verified, clock))
        near = [*by_correlation, *by_words]
        closer = by_words[BOW_PLACES:]
        for query in queries:
            scanner = scan.Scanner(query, CLOSE_SCAN_LEVEL, _angles(round(360 / step_deg)))
            for done, total, places in scan.scan_slides(
                scanner, chosen, FIRST_STAGE_PLACES, radius_px, near=near, tile_limit=CLOSE_TILES
            ):
                yield Tick("looking closer", done, total)
            closer += places
        again = yield from verifier.verify_steps(closer, lambda _: None)
        verified = keep_distinct([*verified, *again[0]], radius_px, max(top, LAST_PLACES))
        fused = keep_distinct([*fused, *again[1]], radius_px, FIRST_STAGE_PLACES)
        clock.lap("closer")
    result = report.result(verified, clock)
    if first_stage:
        stages = {"bow": by_words, "correlation": by_correlation, "fused": fused}
        result = replace(
            result, first_stage={stage: report.ranked(places) for stage, places in stages.items()}
        )
    return result


class _Verifier:
    """Correlates places again, from coarse to fine, and keeps the best."""

    def __init__(
        self,
        queries: Sequence[Query],
        slides: Sequence[IndexedSlide],
        step_deg: float,
        radius_px: float,
        count: int,
    ) -> None:
        self.queries, self.slides = {query.mirrored: query for query in queries}, slides
        self.step_deg, self.radius_px, self.count = step_deg, radius_px, count

    def verify_steps(
        self, places: Sequence[Place], show: Callable[[Sequence[Place]], SearchResult | None]
    ) -> Job[tuple[list[Place], list[Place]]]:
        """Return the best places with their final scores, and those of the coarsest round with theirs."""
        rounds = (
            # level, margin, offsets as shares of the angle step, how many go on, scales
            (1, 6, (-0.5, 0.0, 0.5), FINE_PLACES, (1.0,)),
            (0, 8, (-0.25, 0.0, 0.25), LAST_PLACES, SCALE_STEPS),
            (0, 4, (-0.125, 0.0, 0.125), self.count, (1.0,)),
        )
        coarsest: list[Place] = []
        best: list[Place] = []
        starts = list(places)
        for level, margin_px, shares, count, scales in rounds:
            posers = {flag: PoseFinder(query, level, margin_px) for flag, query in self.queries.items()}
            offsets = [share * self.step_deg for share in shares]
            refined: list[Place] = []
            for done, place in enumerate(starts):
                if done % 8 == 0:
                    partial = show(refined) if level == 0 else None
                    yield Tick(f"pose, level {level}", done, len(starts), partial)
                slide = self.slides[place.slide]
                refined.append(posers[place.mirrored].refine(place, slide, offsets, scales))
            coarsest = coarsest or keep_distinct(refined, self.radius_px, FIRST_STAGE_PLACES)
            starts = best = keep_distinct(refined, self.radius_px, count)
        return best, coarsest


def _is_chosen(slide: IndexedSlide, wanted: Sequence[str] | None) -> bool:
    return wanted is None or slide.name in wanted or slide.fingerprint in wanted


def _angles(count: int) -> np.ndarray:
    """Return `count` equally spaced angles in (-180, 180]."""
    return np.array([normalise_angle_deg(angle) for angle in np.arange(count) * 360.0 / count])


def _angle_step_deg(query: Query, comir_pixel_size_um: float) -> float:
    """Return the step at which the query's ends move by the correlation length, a divisor of 360."""
    reach_um = max(query.size_px) * comir_pixel_size_um / 2
    step = np.rad2deg(CORRELATION_LENGTH_UM / reach_um)
    return float(360 / np.ceil(360 / np.clip(step, 4.0, 15.0)))


def _check(index: Index, query: Query, slides: list[IndexedSlide]) -> None:
    if not slides:
        raise ComirSearchError(
            f"The index {index.path} holds no finished slide to search; run comir-search index."
        )
    area_um2 = query.height_um * query.width_um
    largest_um2 = max(slide.height_px * slide.width_px * slide.pixel_size_um**2 for slide in slides)
    if area_um2 > MAX_AREA_RATIO * largest_um2:
        raise ComirSearchError(
            f"{query.name} covers {query.width_um:.0f} x {query.height_um:.0f} um, more than {MAX_AREA_RATIO:g} times "
            f"the largest slide; its pixel size is probably wrong: give it with --pixel-size."
        )


class _Reporter:
    """Turns places into candidates and results."""

    def __init__(self, index: Index, query: Query, slides: list[IndexedSlide], top: int) -> None:
        self.size_um = index.model.comir_pixel_size_um
        self.calibration = index.model.calibration
        self.query, self.slides, self.top = query, slides, top

    def candidates(self, places: Sequence[Place]) -> tuple[tuple[Candidate, ...], bool]:
        """Return verified places as candidates, in order of confidence, and whether to trust the first."""
        if not places:
            return (), False
        calibration = self.calibration or UNCALIBRATED
        features = measure(
            [place.score for place in places], self.query.signal, self.query.short_side_px * self.size_um
        )
        confidences = calibration.confidence(features)
        order = sorted(range(len(places)), key=lambda i: (-confidences[i], -places[i].score))
        candidates = tuple(
            self._candidate(places[number], rank, float(confidences[number]))
            for rank, number in enumerate(order, 1)
        )
        return candidates, candidates[0].confidence >= calibration.threshold

    def ranked(self, places: Sequence[Place]) -> tuple[Candidate, ...]:
        """Return places of a first stage as candidates without confidence, in their order."""
        return tuple(self._candidate(place, rank, 0.0) for rank, place in enumerate(places, 1))

    def _candidate(self, place: Place, rank: int, confidence: float) -> Candidate:
        slide = self.slides[place.slide]
        to_px = self.size_um / slide.pixel_size_um
        return Candidate(
            rank=rank,
            slide=slide.name,
            center_x_px=float(place.x * to_px),
            center_y_px=float(place.y * to_px),
            pixel_size_um=slide.pixel_size_um,
            width_um=self.query.width_um * place.scale,
            height_um=self.query.height_um * place.scale,
            angle_deg=normalise_angle_deg(-place.angle_deg if place.mirrored else place.angle_deg),
            mirrored=place.mirrored,
            score=place.score,
            confidence=confidence,
            fingerprint=slide.fingerprint,
        )

    def result(self, places: Sequence[Place], clock: _Clock) -> SearchResult:
        """Return the final result."""
        candidates, found = self.candidates(places)
        return SearchResult(
            self.query.name,
            found,
            self._reason(candidates, found),
            dict(clock.seconds),
            candidates[: self.top],
            self.query.signal,
        )

    def partial(self, places: Sequence[Place], clock: _Clock) -> SearchResult | None:
        """Return what is known so far."""
        if not places:
            return None
        ordered = sorted(places, key=lambda place: -place.score)[: self.top]
        return SearchResult(
            self.query.name,
            False,
            "still searching",
            dict(clock.seconds),
            self.candidates(ordered)[0],
            self.query.signal,
        )

    def _reason(self, candidates: tuple[Candidate, ...], found: bool) -> str:
        signal = f"{self.query.signal:.0%} of the patch carries signal"
        if not candidates:
            return f"No place fits; {signal}."
        first = candidates[0]
        if found:
            return f"The first place stands out (confidence {first.confidence:.0%}); {signal}."
        if self.query.signal < LITTLE_EVIDENCE:
            return (
                f"The patch is too dark or too empty to be placed ({signal}); take a larger or brighter one."
            )
        margin = first.score - candidates[1].score if len(candidates) > 1 else first.score
        why = "several places fit about equally well" if margin < 0.03 else "the best place fits too poorly"
        return f"No place can be trusted: {why} (confidence {first.confidence:.0%}); {signal}."
