"""A page to draw on with smooth edges: text, lines, boxes, numbered discs, pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from comir_search.pictures.display import fit_picture
from comir_search.pictures.palette import Colour

SUPERSAMPLING = 2  # everything is drawn larger by this factor and then reduced, which makes edges smooth
INK: Colour = (32, 33, 36)


class Canvas:
    """A white RGB picture, drawn `SUPERSAMPLING` times larger; all arguments are in final pixels."""

    def __init__(self, width: int, height: int) -> None:
        size = width * SUPERSAMPLING, height * SUPERSAMPLING
        self.image = Image.new("RGB", size, "white")
        self._draw = ImageDraw.Draw(self.image)

    def reduced(self) -> Image.Image:
        """Return the page at its final size."""
        width, height = self.image.size
        return self.image.resize((width // SUPERSAMPLING, height // SUPERSAMPLING), Image.Resampling.LANCZOS)

    def paste(self, picture: Image.Image | NDArray[np.uint8], x: float, y: float) -> None:
        """Paste a picture that already has the supersampled size.

        Parameters
        ----------
        picture : Image or ndarray (height, width, 3) uint8
        x, y : float
            Upper left corner.
        """
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        self.image.paste(image, (round(x * SUPERSAMPLING), round(y * SUPERSAMPLING)))

    def fit(self, picture: NDArray[np.uint8], x: float, y: float, side: float) -> None:
        """Paste a picture into a square with a frame.

        Parameters
        ----------
        picture : ndarray (height, width, 3) uint8
        x, y : float
            Upper left corner of the square.
        side : float
            Side of the square.
        """
        fitted = fit_picture(picture, round(side * SUPERSAMPLING), round(side * SUPERSAMPLING))
        height, width = (length / SUPERSAMPLING for length in fitted.shape[:2])
        self.paste(fitted, x + (side - width) / 2, y + (side - height) / 2)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw a line through points.

        Parameters
        ----------
        points : sequence of (x, y)
        colour : Colour
        width : float
        """
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * SUPERSAMPLING), joint="curve")

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, radius: float = 0) -> None:
        """Fill a box with rounded corners.

        Parameters
        ----------
        x, y : float
            Upper left corner.
        width, height : float
        colour : Colour
        radius : float
            Radius of the corners.
        """
        corners = [value * SUPERSAMPLING for value in (x, y, x + width, y + height)]
        self._draw.rounded_rectangle(corners, radius * SUPERSAMPLING, fill=colour)

    def chip(self, text: str, x: float, y: float, colour: Colour, radius: float = 12) -> None:
        """Draw a disc with a text and a white ring.

        Parameters
        ----------
        text : str
        x, y : float
            Centre.
        colour : Colour
        radius : float
        """
        for size, fill in ((radius + 2, (255, 255, 255)), (radius, colour)):
            corners = [value * SUPERSAMPLING for value in (x - size, y - size, x + size, y + size)]
            self._draw.ellipse(corners, fill=fill)
        self._draw.text(
            (x * SUPERSAMPLING, y * SUPERSAMPLING),
            text,
            font=_font(radius * 1.25),
            fill="white",
            anchor="mm",
            stroke_width=0.4 * SUPERSAMPLING,
            stroke_fill="white",
        )

    def text(
        self, text: str, x: float, y: float, size: float = 14, colour: Colour = INK, bold: bool = False
    ) -> None:
        """Write one line of text.

        Parameters
        ----------
        text : str
        x, y : float
            Upper left corner.
        size : float
            Size of the font.
        colour : Colour
        bold : bool
        """
        self._draw.text(
            (x * SUPERSAMPLING, y * SUPERSAMPLING),
            text,
            font=_font(size),
            fill=colour,
            anchor="la",
            stroke_width=0.3 * SUPERSAMPLING if bold else 0,
            stroke_fill=colour,
        )

    def wrap(self, text: str, x: float, y: float, width: float, size: float, colour: Colour) -> float:
        """Write a paragraph with line breaks.

        Parameters
        ----------
        text : str
        x, y : float
            Upper left corner.
        width : float
            Largest width of a line.
        size : float
            Size of the font.
        colour : Colour

        Returns
        -------
        float
            y of the lower end of the paragraph.
        """
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer, size) > width:
                self.text(line, x, y, size, colour)
                line, y = word, y + size * 1.35
            else:
                line = longer
        if line:
            self.text(line, x, y, size, colour)
            y += size * 1.35
        return y


def text_width(text: str, size: float) -> float:
    """Return the width of a text."""
    return _font(size).getlength(text) / SUPERSAMPLING


def shorten(text: str, width: float, size: float) -> str:
    """Replace the middle of a text by an ellipsis if it is too long.

    Parameters
    ----------
    text : str
    width : float
        Largest width.
    size : float
        Size of the font.
    """
    for kept in range(len(text), 4, -1):
        short = text if kept == len(text) else f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
        if text_width(short, size) <= width:
            return short
    return text[:4]


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SUPERSAMPLING)
