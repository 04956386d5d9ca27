"""The options of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from comir_search.options import PixelSizeOptions, option


@dataclass(frozen=True)
class SearchOptions(PixelSizeOptions):
    """Every option of a search that can change its answer.

    Parameters
    ----------
    pixel_size_um : float, optional
        The query's, where its file gives none or a wrong one.
    modality : str, optional
        The query's; by default the one that is not indexed.
    top : int
        Distinct candidates to return; fewer, said in the reason, where there are no more.
    mirror : bool
        Look for the flipped query too.
    slides : sequence of str, optional
        Look only in slides of these names or fingerprints; several slides may have one name.
        What is not found is then said to be so on these.
    method : {"auto", "correlation", "words"}
        How places are found. "correlation" compares the query with every position on
        the tissue; "words" looks for positions with the same small structures (a sliding
        bag of words over dense SURF features); "auto" asks the correlation first, and the
        words too where its first place is not sure. Each place found is verified in the
        same way.
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
