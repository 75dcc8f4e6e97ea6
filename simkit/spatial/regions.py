"""The tiles that one layer runs on: the whole chip, or a region of it with layers on others beside it.

A machine whose tiles hold the model may keep each layer on a part of them: messages have a shorter way there, and each
tile has more to do. The engine tries regions of the chip's own shape on fabrics where distance counts, and cuts of all
tiles into rows and columns elsewhere; a product's inputs are dealt out along one side, its outputs along the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import BY_NEIGHBOURS, Fabric, TileTopology

STEPS_OF_TWO: Final = 4  # sides shrink by the fourth root of two
SMALLEST: Final = 64  # of a side, as a part of the chip's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """Regions to try: tiles along both sides, and the whole chip's tiles over those that regions of this size cover."""

    along: Any
    across: Any
    uncovered: Any

    @property
    def tiles(self) -> Any:
        """Tiles of one region."""
        return self.along * self.across


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
        pairs = list(dict.fromkeys((max(int(x * one), 1), max(int(y * one), 1)) for one in shrunk))
    else:
        pairs = [(x, y)]
    along_, across_ = np.array(pairs, dtype=float).T
    covered = (x // along_) * (y // across_) * along_ * across_ if topology in BY_NEIGHBOURS else x * y
    return Regions(along=along_, across=across_, uncovered=x * y / covered)
