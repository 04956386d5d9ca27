"""The receptive field of a network around a tile, computed from its output back through its layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """The pixels of one layer before and after a tile on which the tile's output depends.

    The tile's origin and size are multiples of the network's coarsest pixel, so a tile
    starts and ends at a whole pixel of every layer. Each method goes from the output of
    a layer back to its input.
    """

    before: int = 0
    after: int = 0

    def convolution(self, times: int = 1) -> Reach:
        """3 x 3 convolution, repeated `times` times."""
        return Reach(self.before + times, self.after + times)

    def halving_convolution(self) -> Reach:
        """3 x 3 convolution with a step of two: pixel j depends on 2 j - 1, 2 j and 2 j + 1."""
        return Reach(2 * self.before + 1, 2 * self.after)

    def halving(self) -> Reach:
        """2 x 2 pixels to one, without overlap."""
        return Reach(2 * self.before, 2 * self.after)

    def nearest_doubling(self) -> Reach:
        """One pixel to 2 x 2."""
        return Reach(-(-self.before // 2), -(-self.after // 2))

    def linear_doubling(self) -> Reach:
        """One pixel to 2 x 2, interpolated with the nearest neighbours."""
        return Reach(self.before // 2 + 1, self.after // 2 + 1)

    def union(self, other: Reach) -> Reach:
        """Return the reach of two branches of one layer."""
        return Reach(max(self.before, other.before), max(self.after, other.after))

    def halo_px(self, multiple: int) -> int:
        """Return the reach to both sides, rounded up to a multiple."""
        return -(-max(self.before, self.after) // multiple) * multiple
