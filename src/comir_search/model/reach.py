"""How far around a tile a network looks, followed back from its output through its layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """Pixels of one layer beyond a tile's first and last that the tile's output depends on.

    The tile's origin and size are multiples of the network's coarsest pixel, so
    a tile begins and ends with a pixel of every layer. Each method steps from
    what a layer gives to what it takes.
    """

    before: int = 0
    after: int = 0

    def convolution(self, times: int = 1) -> Reach:
        """3 x 3, as often as stated."""
        return Reach(self.before + times, self.after + times)

    def halving_convolution(self) -> Reach:
        """3 x 3 with a step of two, whose pixel j looks at 2 j - 1, 2 j and 2 j + 1."""
        return Reach(2 * self.before + 1, 2 * self.after)

    def halving(self) -> Reach:
        """2 x 2 to one, without overlap."""
        return Reach(2 * self.before, 2 * self.after)

    def nearest_doubling(self) -> Reach:
        """One to 2 x 2."""
        return Reach(-(-self.before // 2), -(-self.after // 2))

    def linear_doubling(self) -> Reach:
        """One to 2 x 2, mixed with the nearest neighbour."""
        return Reach(self.before // 2 + 1, self.after // 2 + 1)

    def union(self, other: Reach) -> Reach:
        """Return the reach of two branches of one layer."""
        return Reach(max(self.before, other.before), max(self.after, other.after))

    def halo_px(self, multiple: int) -> int:
        """Return the reach to both sides, rounded up to a multiple."""
        return -(-max(self.before, self.after) // multiple) * multiple
