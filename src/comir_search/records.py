"""What the engine hands out: slides described, candidates found, verdicts given."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from comir_search.files import replace_undecodable


class Verdict(str, Enum):
    """What a person says of a candidate."""

    NONE = "none"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNSURE = "unsure"


@dataclass(frozen=True)
class SlideInfo:
    """A slide described without reading its pixels.

    Parameters
    ----------
    name : str
        File name with suffix, as truth tables and results give it.
    path : str
        Where the file was opened.
    format : str
        Human-readable format ("OME-TIFF", "Aperio SVS", ...).
    width_px, height_px : int
        Level-0 size.
    channels : int
        1 (grey) or 3 (RGB).
    dtype : str
        NumPy name of the stored type.
    level_shapes_px : tuple of (int, int)
        (height, width) of each level, finest first.
    pixel_size_um : float or None
        Level-0 pixel size; None where neither file nor user states it.
    pixel_size_source : str
        Where the pixel size comes from ("OME PhysicalSizeX", "user", "missing").
    fingerprint : str
        Hash that knows the slide again after a move.
    notes : tuple of str
        What was chosen among several possibilities and the user should know,
        one sentence each ("image 1 of 3 ...", "read as colour because ...").
    other_images : tuple of str
        Images in the same file that are not used, labels and macros too: name and size.
    bounds_origin_px : (int, int)
        x and y of the corner of the scanned area in level-0 pixels, as OpenSlide
        states it: QuPath counts from there, this program from the slide's corner.
    identity : str
        Stronger hash that tells slides of one fingerprint apart; "" where it was
        not computed.
    """

    name: str
    path: str
    format: str
    width_px: int
    height_px: int
    channels: int
    dtype: str
    level_shapes_px: tuple[tuple[int, int], ...]
    pixel_size_um: float | None
    pixel_size_source: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    other_images: tuple[str, ...] = ()
    bounds_origin_px: tuple[int, int] = (0, 0)
    identity: str = ""

    def __post_init__(self) -> None:
        # These come from files, which may hold anything.
        for key in ("name", "format", "pixel_size_source"):
            object.__setattr__(self, key, replace_undecodable(getattr(self, key)))
        for key in ("notes", "other_images"):
            object.__setattr__(self, key, tuple(map(replace_undecodable, getattr(self, key))))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A place where the query may have been taken: a rotated rectangle on a slide.

    The centre is in level-0 pixels of the slide, in the frame whose (0, 0) is
    the top-left corner of the top-left pixel; `angle_deg` is in (-180, 180] and
    says by how much the slide's content was turned counter-clockwise, as seen
    on screen, to give the query; `mirrored` that it was flipped left-right
    before turning. `scale` is the pixel size that fitted, over the stated one.
    `confidence` is the calibrated probability of being right; None where there
    is none: the search is not finished, the model was never calibrated, or a
    person moved the place (`by_hand`).
    """

    rank: int
    slide: str
    center_x_px: float
    center_y_px: float
    pixel_size_um: float
    width_um: float
    height_um: float
    angle_deg: float
    mirrored: bool
    score: float
    confidence: float | None
    fingerprint: str = ""
    scale: float = 1.0
    by_hand: bool = False

    @property
    def center_x_um(self) -> float:
        """Centre in um from the slide's left border."""
        return self.center_x_px * self.pixel_size_um

    @property
    def center_y_um(self) -> float:
        """Centre in um from the slide's upper border."""
        return self.center_y_px * self.pixel_size_um

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as `search --json` prints it; a place moved by hand has no score and confidence."""
        score, confidence = (None, None) if self.by_hand else (self.score, self.confidence)
        return {
            "rank": self.rank,
            "slide": self.slide,
            "fingerprint": self.fingerprint,
            "center_x_px": round(self.center_x_px, 2),
            "center_y_px": round(self.center_y_px, 2),
            "center_x_um": round(self.center_x_um, 3),
            "center_y_um": round(self.center_y_um, 3),
            "width_um": round(self.width_um, 3),
            "height_um": round(self.height_um, 3),
            "angle_deg": round(self.angle_deg, 3),
            "mirrored": bool(self.mirrored),
            "scale": round(self.scale, 5),
            "score": None if score is None else round(score, 5),
            "confidence": None if confidence is None else round(confidence, 5),
            "by_hand": bool(self.by_hand),
        }


def format_confidence(candidate: Candidate | None, digits: int = 0) -> str:
    """Return a candidate's confidence as a percentage, or in words why there is none."""
    if candidate is not None and candidate.by_hand:
        return "moved by hand"
    if candidate is None or candidate.confidence is None:
        return "none"
    return f"{candidate.confidence:.{digits}%}"


@dataclass(frozen=True)
class Provenance:
    """What an answer was computed from: where one of these changes, the answer is out of date.

    Parameters
    ----------
    query : str
        Fingerprint of the query's pixels.
    pixel_size_um : float
        The query's, as used.
    modality : str
        The query's, as used.
    options : dict
        Every option that can change the answer, as `SearchOptions.to_dict` gives them; those of
        older versions lack some, which then had their defaults.
    slides : dict of str to float
        Fingerprint of each slide that was searched, and the pixel size, in um,
        with which it was indexed.
    index : str
        Where the index was: for people to read, not to compare.
    embedding : str
        The model's embedding fingerprint.
    model : str
        The model's whole fingerprint.
    version : str
        Of this program.
    """

    query: str
    pixel_size_um: float
    modality: str
    options: dict[str, Any]
    slides: dict[str, float]
    index: str
    embedding: str
    model: str
    version: str


@dataclass(frozen=True)
class SearchResult:
    """The answer to one query.

    Parameters
    ----------
    query : str
        File name of the query.
    found : bool
        Whether the first candidate can be trusted.
    reason : str
        One sentence that says why it was found or not, and what evidence the
        query holds.
    seconds : dict of str to float
        Time per stage, and ``"total"``.
    candidates : tuple of Candidate
        In order of confidence, ranks from 1.
    signal : float
        Share of the query that says anything, in [0, 1].
    finished : bool
        False for what a running search knows so far: never to be kept as an answer.
    provenance : Provenance or None
        What it was computed from; None for answers of older versions.
    """

    query: str
    found: bool
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    signal: float = 0.0
    finished: bool = True
    provenance: Provenance | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `search --json` prints it."""
        origin = self.provenance
        return {
            "query": self.query,
            "found": self.found,
            "reason": self.reason,
            "seconds": {stage: round(value, 4) for stage, value in self.seconds.items()},
            "options": {} if origin is None else origin.options,
            "pixel_size_um": None if origin is None else origin.pixel_size_um,
            "modality": None if origin is None else origin.modality,
            "provenance": None if origin is None else asdict(origin),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
        }

    def top(self, count: int) -> SearchResult:
        """Return the same result with at most `count` candidates."""
        return replace(self, candidates=self.candidates[:count])
