"""Colours that people with any colour vision can distinguish (Okabe and Ito, 2008)."""

from __future__ import annotations

from comir_search.records import Verdict

Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
ORANGE: Colour = (230, 159, 0)
SKY_BLUE: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
BLUE: Colour = (0, 114, 178)
VERMILION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)

VERDICT_COLOURS: dict[Verdict, Colour] = {
    Verdict.NONE: BLUE,
    Verdict.ACCEPTED: GREEN,
    Verdict.REJECTED: VERMILION,
    Verdict.UNSURE: ORANGE,
}
TEXT_COLOURS: dict[Verdict, str] = {  # colour of text on these colours
    Verdict.NONE: "white",
    Verdict.ACCEPTED: "white",
    Verdict.REJECTED: "white",
    Verdict.UNSURE: "black",
}
VERDICT_LABELS: dict[Verdict, str] = {
    Verdict.NONE: "Candidate",
    Verdict.ACCEPTED: "Accepted match",
    Verdict.REJECTED: "Rejected match",
    Verdict.UNSURE: "Unsure match",
}
# Ordered so that neighbours differ most, on pink tissue and on white glass.
SERIES: tuple[Colour, ...] = (BLUE, VERMILION, GREEN, BLACK, ORANGE, PURPLE, SKY_BLUE)
