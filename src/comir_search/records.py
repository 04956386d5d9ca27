"""The engine's records: descriptions of slides, candidates, search results and verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from comir_search.files import replace_undecodable


class Verdict(str, Enum):
    """A person's judgement of a candidate."""

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
        Path of the file.
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
        Level-0 pixel size; None if neither the file nor the user gives it.
    pixel_size_source : str
        Source of the pixel size ("OME PhysicalSizeX", "user", "missing").
    fingerprint : str
        Hash that recognises the slide after a move.
    notes : tuple of str
        Choices that the user should know about, one sentence each ("image 1 of
        3 ...", "its three channels are read as colour ...").
    other_images : tuple of str
        Other images in the same file, also labels and macros: name and size.
    bounds_origin_px : (int, int)
        x and y of the corner of the scanned area, level-0 pixels, from OpenSlide.
        QuPath counts from there, this program from the slide's corner.
    identity : str
        Stronger hash that distinguishes slides with the same fingerprint; "" if it
        was not computed.
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
        # These come from files, which may contain anything.
        for key in ("name", "format", "pixel_size_source"):
            object.__setattr__(self, key, replace_undecodable(getattr(self, key)))
        for key in ("notes", "other_images"):
            object.__setattr__(self, key, tuple(map(replace_undecodable, getattr(self, key))))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A position where the query may have been taken: a rotated rectangle on a slide.

    The centre is in level-0 pixels of the slide, with (0, 0) at the top-left corner of
    the top-left pixel. `angle_deg`, in (-180, 180], is the rotation of the slide's
    content, counter-clockwise as seen on screen, that gives the query. `mirrored` says
    that the content was flipped left-right before this rotation. `scale` is the
    fitted pixel size divided by the given one. `confidence` is the calibrated
    probability that the candidate is right. It is None if the search is not finished,
    the model was never calibrated, or a person moved the candidate (`by_hand`).
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
        """Return the candidate as `search --json` prints it; one moved by hand has no score and confidence."""
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
    """Return a candidate's confidence as a percentage, or the reason why there is none."""
    if candidate is not None and candidate.by_hand:
        return "moved by hand"
    if candidate is None or candidate.confidence is None:
        return "none"
    return f"{candidate.confidence:.{digits}%}"


@dataclass(frozen=True)
class Provenance:
    """The inputs of an answer. If one of them changes, the answer is out of date.

    Parameters
    ----------
    query : str
        Fingerprint of the query's pixels.
    pixel_size_um : float
        The query's pixel size in the search.
    modality : str
        The query's modality in the search.
    options : dict
        Every option that can change the answer, as `SearchOptions.to_dict` gives them; those of
        older versions lack some, which then had their defaults.
    slides : dict of str to float
        Fingerprint of each searched slide, and its indexed pixel size in um.
    index : str
        Path of the index; only shown, not compared.
    embedding : str
        The model's embedding fingerprint.
    model : str
        The model's whole fingerprint.
    version : str
        Version of this program.
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
        One sentence on why it was found or not, and how much signal the query has.
    seconds : dict of str to float
        Time per stage, and ``"total"``.
    candidates : tuple of Candidate
        In order of confidence, ranks from 1.
    signal : float
        Share of the query with signal, in [0, 1].
    finished : bool
        False for a partial result of a running search; never kept as an answer.
    provenance : Provenance or None
        Its inputs; None for answers of older versions.
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
