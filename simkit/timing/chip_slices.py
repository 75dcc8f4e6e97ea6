r"""The part of a torus or mesh that some of its chips make: its sides, which of them close to rings, and what follows.

A slice of sides :math:`d_1 \times d_2 \ldots` has two links in each dimension at every chip, one of them missing at
the ends of a line. Both directions of all dimensions work at once.

- Hops to the farthest chip: :math:`\sum_i h_i`, with :math:`h = \lfloor d/2 \rfloor` on a ring that is used in both
  directions and :math:`d - 1` on a line.
- A dimension takes in :math:`r` links' bytes: 2 on a ring, 1 on a line, whose end chip has one link.
- Gathering ``N`` bytes that ``p`` chips hold in equal parts (or scattering their sums) goes dimension by dimension,
  the last of them moving least. Parts of the data that take the dimensions in other orders keep all links busy: the
  loads that orders can make are those in which the dimensions ``S`` carry at least what they do when they come last,
  hence :math:`\max_S \frac{\prod_S d_i - 1}{p} \frac{N}{\sum_S r_i \beta_l}`, of all dimensions of one kind
  :math:`\frac{p-1}{p} \frac{N}{\sum_i r_i \beta_l}`.
- Spreading ``n`` bytes of each chip evenly over all: half of what one half of a side holds is for the other, so a
  dimension's busiest links pass :math:`\lfloor d^2/4 \rfloor / d \cdot n / (r \beta_l)`.

Sources: Sack and Gropp 2015, "Collective Algorithms for Multiported Torus Networks" (orders of the dimensions);
jax-ml/scaling-book, sharding.md (rings in both directions, lines at half their rate); tenstorrent/tt-metal
tech_reports/CCLs/CCL_bandwidth.md (bytes through the bottleneck of lines and rings).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import Link, Wraps

GRIDS: Final = ("torus", "mesh")
UNSTATED_DIMENSIONS: Final = 2
BLOCK: Final = 4


@dataclass(frozen=True, slots=True)
class ChipSlice:
    """``sides``: chips along each dimension; ``wraps``: where both ends of a dimension are joined."""

    sides: tuple[int, ...]
    wraps: tuple[bool, ...]

    @property
    def hops(self) -> int:
        """Links between the two chips that are farthest apart."""
        return sum(side // 2 if wraps else side - 1 for side, wraps in zip(self.sides, self.wraps, strict=True))

    @property
    def gather_share(self) -> float:
        """Seconds of gathering one byte in all, times the bytes/s of a link."""
        used = [(side, 1 + wraps) for side, wraps in zip(self.sides, self.wraps, strict=True) if side > 1]
        chips = math.prod(self.sides)
        return max(((math.prod(side for side, _ in some) - 1) / chips / sum(links for _, links in some)
                    for count in range(1, len(used) + 1) for some in combinations(used, count)), default=0.0)

    @property
    def spread_share(self) -> float:
        """Seconds of spreading one byte of each chip over all, times the bytes/s of a link."""
        return max((side * side // 4) / side / (1 + wraps) for side, wraps in zip(self.sides, self.wraps, strict=True))


@lru_cache(maxsize=65536)
def slice_of(chips: int, shape: tuple[int, ...] | None, wraps: Wraps) -> ChipSlice:
    """The most square slice of so many chips within a network of this shape; of two dimensions where none is stated.

    A count that no slice has takes the next one that has; more chips than the network holds are laid out as if it
    were larger.

    >>> slice_of(32, (16, 16), "full-sides"), slice_of(128, (16, 16), "full-sides")
    (ChipSlice(sides=(4, 8), wraps=(False, False)), ChipSlice(sides=(8, 16), wraps=(False, True)))
    >>> slice_of(192, (16, 16, 16), "blocks-of-4").sides, slice_of(17, (16, 16), "never").sides
    ((4, 4, 12), (3, 6))
    """
    if shape is None or chips > math.prod(shape):
        shape = (chips,) * len(shape or (0,) * UNSTATED_DIMENSIONS)
    found: list[ChipSlice] = []
    while not found:
        found = [ChipSlice(sides, _joined(sides, shape, wraps)) for sides in _factors(chips, shape)]
        chips += 1
    return min(found, key=lambda one: (wraps == "blocks-of-4" and not all(one.wraps), sum(one.sides), max(one.sides),
                                       -sum(one.wraps), one.sides))


def _factors(chips: int, limits: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sides whose product is ``chips``, each within its limit."""
    if len(limits) == 1:
        if chips <= limits[0]:
            yield (chips,)
        return
    for side in _divisors(chips):
        if side <= limits[0]:
            yield from ((side, *rest) for rest in _factors(chips // side, limits[1:]))


@lru_cache(maxsize=65536)
def _divisors(number: int) -> tuple[int, ...]:
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return tuple(sorted({*small, *(number // one for one in small)}))


def _joined(sides: tuple[int, ...], shape: tuple[int, ...], wraps: Wraps) -> tuple[bool, ...]:
    if wraps == "full-sides":
        return tuple(side == full for side, full in zip(sides, shape, strict=True))
    whole = wraps == "always" or (wraps == "blocks-of-4" and all(side % BLOCK == 0 for side in sides))
    return (whole,) * len(sides)


def slice_costs(chips: Any, link: Link) -> tuple[Any, Any, Any]:
    """Hops, gather share and spread share (see :class:`ChipSlice`) of each count of chips, in the shape of ``chips``.

    Slices are found once for each count, so that many points cost a look-up.
    """
    wraps: Wraps = "never" if link.topology == "mesh" else link.wraps or "always"
    counts = np.maximum(np.ceil(chips), 1).astype(int)
    present = np.flatnonzero(np.bincount(counts.ravel())) if counts.size > 1 else counts.ravel()
    table = np.zeros((3, int(present[-1]) + 1 if present.size else 1))
    for count in present.tolist():
        found = slice_of(count, link.shape, wraps)
        table[:, count] = found.hops, found.gather_share, found.spread_share
    hops, gather, spread = table[:, counts]
    return hops, gather, spread


def link_bytes_per_s(link: Link) -> Any:
    """What is reached of one link in one direction: a chip has two links in each dimension of the whole network."""
    return link.achievable_bytes_per_s / (2 * len(link.shape or (0,) * UNSTATED_DIMENSIONS))
