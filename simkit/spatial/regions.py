"""The tiles that one layer runs on: the whole chip, or a region of it with layers on others beside it.

A machine whose tiles hold the model may keep each layer on a part of them: messages have a shorter way there, and each
tile has more to do. The engine tries regions of the chip's own shape and squares that cover it on fabrics where
distance counts, and cuts of all tiles into rows and columns elsewhere. Layers follow one another through the regions,
up a column of them and down the next; a token is in one region at a time, so groups of sequences may be in others
meanwhile, and one token alone leaves all but one idle. The hidden state lies along a region's first side
(:mod:`simkit.spatial.products`): to the next region of a column it goes along the second side, to the next column along
both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import BY_NEIGHBOURS, Fabric, TileTopology

STEPS_OF_TWO: Final = 4  # sides shrink by the fourth root of two
SMALLEST: Final = 64  # of a side, as a part of the chip's
CUTS: Final = (1, 2, 3, 4, 6, 8, 12, 16)  # of the first side, and of the second so that all tiles are in squares


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """Regions to try: tiles along both sides of the chip, how many stand along each, and the whole chip's tiles over
    those that regions of this size cover.
    """

    along: Any
    across: Any
    beside: tuple[Any, Any]
    uncovered: Any

    @property
    def tiles(self) -> Any:
        """Tiles of one region."""
        return self.along * self.across

    def take(self, where: Any) -> Regions:
        """Some of them."""
        return Regions(along=self.along[where], across=self.across[where], uncovered=self.uncovered[where],
                       beside=(self.beside[0][where], self.beside[1][where]))

    def used(self, layers: Any) -> tuple[Any, Any]:
        """Regions that so many layers of a chip are dealt out over, and layers of the fullest: whole ones in more than
        one region. Arrays [regions, ...] for ``layers`` of any shape.
        """
        most = _axis(self.beside[0] * self.beside[1], np.ndim(layers))
        held = np.where(most > 1, np.ceil(layers / most), layers)
        return np.where(most > 1, np.ceil(layers / np.maximum(held, 1.0)), 1.0), held

    def passes(self, layers: Any) -> tuple[Any, Any]:
        """How often the hidden state goes on within a column of regions, and from one column to the next."""
        used, _ = self.used(layers)
        turns = np.ceil(used / _axis(self.beside[1], np.ndim(layers))) - 1.0
        return used - 1.0 - turns, turns


def regions_of(fabric: Fabric, *, parts: bool) -> Regions:
    """What is tried on a fabric; ``parts``: layers may stand beside each other, the whole chip first."""
    return _regions(fabric.sides, fabric.topology, fabric.region, parts)


@lru_cache(maxsize=256)
def _regions(sides: tuple[int, int], topology: TileTopology, region: tuple[int, ...] | None,
             parts: bool) -> Regions:  # noqa: FBT001 - of a cache's key
    x, y = sides
    if region is not None:
        pairs = [(min(region[0], x), min(region[1], y))]
    elif topology not in BY_NEIGHBOURS:
        tiles = x * y
        along = sorted({one for one in (1, x, y, tiles) if tiles % one == 0})
        pairs = [(one, tiles // one) for one in along]
    elif parts and topology != "stream":
        shrunk = [2.0 ** (-step / STEPS_OF_TWO) for step in range(int(np.log2(SMALLEST)) * STEPS_OF_TWO + 1)]
        pairs = list(dict.fromkeys([*((max(int(x * one), 1), max(int(y * one), 1)) for one in shrunk), *(
            (x // min(n, x), y // min(max(round(n * y / x), 1), y)) for n in CUTS)]))
    else:
        pairs = [(x, y)]
    along_, across_ = np.array(pairs, dtype=float).T
    beside = (x // along_, y // across_) if topology in BY_NEIGHBOURS else (np.ones(len(pairs)),) * 2
    return Regions(along=along_, across=across_, beside=beside,
                   uncovered=x * y / (beside[0] * beside[1] * along_ * across_))


def _axis(values: Any, dims: int) -> Any:
    return np.reshape(values, (-1, *(1,) * dims))
