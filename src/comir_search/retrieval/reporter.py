"""From verified places to a search's result: candidates, confidence, reason, seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from comir_search.geometry import normalise_angle_deg
from comir_search.records import Candidate, SearchResult
from comir_search.retrieval.confidence import UNCALIBRATED, measure
from comir_search.retrieval.index import Index, IndexedSlide
from comir_search.retrieval.places import Place
from comir_search.retrieval.query import LITTLE_EVIDENCE, Query


class Clock:
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


class Reporter:
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
        return candidates, (candidates[0].confidence or 0.0) >= calibration.threshold

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

    def result(self, places: Sequence[Place], clock: Clock) -> SearchResult:
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

    def partial(self, places: Sequence[Place], clock: Clock) -> SearchResult | None:
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
