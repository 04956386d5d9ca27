"""The options of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from comir_search.options import PixelSizeOptions, option


@dataclass(frozen=True)
class SearchOptions(PixelSizeOptions):
    """All options of a search that can change its result.

    Parameters
    ----------
    pixel_size_um : float, optional
        Pixel size of the query, if its file contains none or a wrong one.
    modality : str, optional
        Modality of the query; by default the one that is not indexed.
    top : int
        Number of candidates to return. If there are fewer, the reason says so.
    mirror : bool
        Whether to search for the flipped query too.
    slides : sequence of str, optional
        Search only the slides with these names or fingerprints; several slides may have
        the same name. "Not found" then means: not found on these slides.
    method : {"auto", "correlation", "words"}
        How places are found. "correlation" compares the query with every position on
        the tissue; "words" looks for positions with the same small structures (a sliding
        bag of words over dense SURF features); "auto" uses the correlation first, and the
        words too if its first place is not sure. Every place is verified in the same way.
    """

    modality: str | None = option(
        None, "the queries' modality", otherwise="the one that is not indexed", metavar="NAME"
    )
    top: int = option(10, "different candidates for each query", metavar="N", low=1)
    mirror: bool = option(False, "also look for the query flipped left to right")
    slides: tuple[str, ...] | None = option(None, "look only in these slides", flag="")
    method: Literal["auto", "correlation", "words"] = option(
        "auto",
        "how positions are found: correlation compares the query with every position on the tissue, words looks "
        "for the same small structures, auto uses words where the correlation is not sure",
    )
