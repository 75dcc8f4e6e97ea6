r"""The part of a torus or mesh that some of its chips make: its sides, which of them close to rings, and what follows.

A slice of sides :math:`d_1 \times d_2 \ldots` has two links in each dimension at every chip, one of them missing at
the ends of a line. Both directions of all dimensions work at once.

- Hops to the farthest chip: :math:`H = \sum_i h_i`, with :math:`h = \lfloor d/2 \rfloor` on a ring that is used in
  both directions and :math:`d - 1` on a line. From the chip in the middle, :math:`M = \sum_i \lfloor d_i/2 \rfloor`.
- A dimension takes in :math:`r` links' bytes: 2 on a ring, 1 on a line, whose end chip has one link.
- Gathering ``N`` bytes that ``p`` chips hold in equal parts (or scattering their sums) goes dimension by dimension,
  the last of them moving least. Parts of the data that take the dimensions in other orders keep all links busy: the
  loads that orders can make are those in which the dimensions ``S`` carry at least what they do when they come last,
  hence :math:`\max_S \frac{\prod_S d_i - 1}{p} \frac{N}{\sum_S r_i \beta_l}`, of all dimensions of one kind
  :math:`\frac{p-1}{p} \frac{N}{\sum_i r_i \beta_l}`.
- Spreading ``n`` bytes of each chip evenly over all: half of what one half of a side holds is for the other, so a
  dimension's busiest links pass :math:`\lfloor d^2/4 \rfloor / d \cdot n / (r \beta_l)`.

Groups of a slice. Where the chips that share a layer deal out heads over ``h`` of them and the sequences or tokens of
a head over ``b``, the slice is the most square one of all :math:`h b` chips and a group of ``b`` is a part of it: of
each side :math:`d_i` a part :math:`g_i` that divides it, with :math:`\prod_i g_i = b`. So the groups tile the slice
and exchange at once without a link in common. A part that is a whole side closes where the side does; less of a side
is a line, whatever the side is. All exchanges within a group are over the same parts, those of the least time. Groups
of chips that do not lie side by side are not tried. The ``h`` chips with the heads of one sequence exchange nothing
among themselves alone: sums and logits are of the whole slice.

Sources: Sack and Gropp 2015, "Collective Algorithms for Multiported Torus Networks" (orders of the dimensions);
jax-ml/scaling-book, sharding.md (rings in both directions, lines at half their rate); tenstorrent/tt-metal
tech_reports/CCLs/CCL_bandwidth.md (bytes through the bottleneck of lines and rings).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import Link, Wraps

GRIDS: Final = ("torus", "mesh")
UNSTATED_DIMENSIONS: Final = 2  # assumed of a grid without a shape: a plane
BLOCK: Final = 4  # side of the cubes that optical switches join (TPU v4, arXiv 2304.01433)


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
    def middle_hops(self) -> int:
        """Links between the chip in the middle and the one that is farthest from it."""
        return sum(side // 2 for side in self.sides)

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


@lru_cache(maxsize=65536)
def parts_of(chips: int, whole: ChipSlice) -> tuple[ChipSlice, ...]:
    """Ways to cut a slice into equal parts of so many chips: those that no other way beats in hops and both shares.

    A count that does not divide the slice (whose own count was rounded up) takes the next one that does.

    >>> parts_of(16, ChipSlice((8, 16), (False, True)))
    (ChipSlice(sides=(4, 4), wraps=(False, False)),)
    >>> parts_of(4, ChipSlice((3, 4), (False, True)))
    (ChipSlice(sides=(1, 4), wraps=(False, True)),)
    """
    size = math.prod(whole.sides)
    chips = next(count for count in range(min(chips, size), size + 1) if size % count == 0)
    every = [ChipSlice(sides, tuple(closed and part == side for closed, part, side in
                                    zip(whole.wraps, sides, whole.sides, strict=True)))
             for sides in product(*map(_divisors, whole.sides)) if math.prod(sides) == chips]
    costs = {one: (round(one.spread_share, 12), one.hops, round(one.gather_share, 12)) for one in every}
    every.sort(key=lambda one: (*costs[one], one.sides))
    kept: list[ChipSlice] = []
    for one in every:
        if not any(all(a <= b for a, b in zip(costs[other], costs[one], strict=True)) for other in kept):
            kept.append(one)
    return tuple(kept)


@lru_cache(maxsize=4096)
def _most_ways(whole: ChipSlice) -> int:
    return max(len(parts_of(chips, whole)) for chips in _divisors(math.prod(whole.sides)))


def ways_to_part(within: Any, link: Link) -> int:
    """Ways to cut slices of these counts that only the bytes tell apart; most often one is best for all."""
    return max((_most_ways(slice_of(count, link.shape, _wraps(link))) for count in _present(_counts(within)).tolist()),
               default=1)


def slice_costs(chips: Any, link: Link, within: Any = None, way: int = 0) -> tuple[Any, Any, Any, Any]:
    """Hops, hops from the middle, gather and spread share (see :class:`ChipSlice`) of each count, shaped as ``chips``.

    Slices are found once for each count, so that many points cost a look-up.

    Parameters
    ----------
    chips: counts.
    link: whose network they are in.
    within: counts of the slices that they are groups of; None: they are slices themselves.
    way: which of the ways to cut a slice; the last where it has fewer.
    """
    counts = _counts(chips)
    if within is None:
        return _looked_up(counts, lambda count: slice_of(count, link.shape, _wraps(link)))
    counts, wholes = np.broadcast_arrays(counts, _counts(within))
    known = _present(wholes)
    place = np.zeros(int(known[-1]) + 1 if known.size else 1, dtype=int)
    place[known] = np.arange(known.size)

    def part(key: int) -> ChipSlice:
        count, at = divmod(key, known.size)
        ways = parts_of(count, slice_of(int(known[at]), link.shape, _wraps(link)))
        return ways[min(way, len(ways) - 1)]

    return _looked_up(counts * known.size + place[wholes], part)


def _wraps(link: Link) -> Wraps:
    return "never" if link.topology == "mesh" else link.wraps or "always"


def _counts(chips: Any) -> Any:
    return np.maximum(np.ceil(chips), 1).astype(int)


def _present(numbers: Any) -> Any:
    """The different ones of some small whole numbers, from the least up."""
    return np.flatnonzero(np.bincount(numbers.ravel())) if numbers.size > 1 else numbers.ravel()


def _looked_up(keys: Any, slice_at: Callable[[int], ChipSlice]) -> tuple[Any, Any, Any, Any]:
    if keys.ndim == 0:
        found = slice_at(int(keys))
        return found.hops, found.middle_hops, found.gather_share, found.spread_share
    present = _present(keys)
    table = np.zeros((4, int(present[-1]) + 1 if present.size else 1))
    for key in present.tolist():
        found = slice_at(key)
        table[:, key] = found.hops, found.middle_hops, found.gather_share, found.spread_share
    hops, middle, gather, spread = table[:, keys]
    return hops, middle, gather, spread


def link_bytes_per_s(link: Link) -> Any:
    """What is reached of one link in one direction: a chip has two links in each dimension of the whole network."""
    return link.achievable_bytes_per_s / (2 * len(link.shape or (0,) * UNSTATED_DIMENSIONS))
