r"""How far times and ratios may lie apart where parameters are assumed (:mod:`simkit.hardware.priors`).

A slower value of any assumed parameter never shortens a step (of tile sizes: a multiple of another), so that the times
with all of them at their fast and at their slow ends bound it: a time's range is guaranteed.

A ratio of two times has no such order. It is greatest where one of them is bound by a roof that the other just leaves,
which may be any combination of ends, and of a parameter that spans orders of magnitude (lanes, rows of a tile, a
latency) somewhere between. A ratio's range is what a grid over the box spans: all ends with all ends, and steps between
distant ones, the widest first, as far as :data:`MOST_CORNERS` go. Of more parameters than that allows the ends of the
:data:`MOST_COMBINED` widest are combined, and each is tried alone. Its ends are values that the ratio takes; a point of
the box beyond them is not excluded. Of random ones on six chips none lay out by more than 8 % for steps and 25 % for
attention, where a tile between two steps fits a group of query heads; on most chips none lay out.

All corners are timed at once along a leading axis; an engine that takes no arrays scales those of the closed form:

.. math:: T_{low} = T \min_c \frac{T^{closed}_c}{T^{closed}}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise, product
from math import inf, log2, prod, sqrt
from typing import Any, Final

import numpy as np

from simkit.hardware.parameters import with_assumed
from simkit.hardware.profile import Assumed, HardwareProfile
from simkit.study.engines import CLOSED_FORM
from simkit.timing.step_timing import StepTiming

MOST_CORNERS: Final = 64
MOST_COMBINED: Final = 7  # parameters whose ends are all combined where the ends of all would be more corners
NEAR: Final = 4.0  # factor between neighbours that is not parted; of tile sizes, which are powers of two:
NEAR_TILES: Final = 2.0
MOST_AT_ONCE: Final = 16384  # points times corners: beyond that, arrays leave the nearer caches of a core
MOST_REMEMBERED: Final = 256
TIMES: Final = ("step_time_s", "attention_time_s")
_AT_CORNERS: dict[Any, tuple[HardwareProfile, HardwareProfile]] = {}


@dataclass(frozen=True, slots=True)
class Corners:
    """Times over those of the estimate, a corner a row: the fast end of all parameters, the slow one, then others."""

    step_time_s: Any
    attention_time_s: Any

    def over(self, other: Corners) -> Corners:
        """The ratio of these times to others at the same corners."""
        return Corners(self.step_time_s / other.step_time_s, self.attention_time_s / other.attention_time_s)


def corners(hardware: HardwareProfile, *, each: bool) -> list[dict[str, float]]:
    """Values by key: all assumed parameters fast, all slow; with ``each`` also the rest of a grid between."""
    assumed = hardware.assumed
    ends = [{one.key: one.fast for one in assumed}, {one.key: one.slow for one in assumed}]
    if not each:
        return ends
    alone = [{one.key: value} for one in assumed for value in (one.fast, one.slow, one.central)]
    if 2 ** len(assumed) > MOST_CORNERS:
        widest = sorted(assumed, key=_span, reverse=True)[:MOST_COMBINED]
        grid = [{one.key: value for one, value in zip(widest, values, strict=True)}
                for values in product(*((one.fast, one.slow) for one in widest))]
        return [*ends, *alone, *grid]
    grid = [dict(zip(ends[0], values, strict=True)) for values in product(*_steps(assumed))]
    return [*ends, *(values for values in grid if values not in ends)]


def _span(one: Assumed) -> float:
    """How many times its other end a parameter may be."""
    low, high = sorted((one.fast, one.slow))
    return high / low if low > 0 else inf


def _steps(assumed: Sequence[Assumed]) -> list[list[float]]:
    """Values of each parameter, from its fast end to its slow one: the widest gap is halved, and again, as far as
    corners go. The first to halve a range is its estimate's. Fixed times only add, and keep their two ends.
    """
    steps = [list(dict.fromkeys((one.fast, one.slow))) for one in assumed]
    open_ = {number for number, one in enumerate(assumed) if not one.key.startswith("overheads.")}
    while open_:
        widest = {number: _widest(steps[number]) for number in open_}
        number = max(sorted(open_), key=lambda one: widest[one][0])
        (gap, place), values, one = widest[number], steps[number], assumed[number]
        is_tile = one.key.endswith("tile_rows")
        low, high = sorted(values[place:place + 2]) if len(values) > 1 else (0.0, 0.0)
        middle = one.central if len(values) == 2 and low < one.central < high else sqrt(low * high)
        if is_tile and middle != one.central:
            middle = 2.0 ** round(log2(middle))
        corners_then = prod(map(len, steps)) // len(values) * (len(values) + 1)
        if gap <= (NEAR_TILES if is_tile else NEAR) or not low < middle < high or corners_then > MOST_CORNERS:
            open_.remove(number)
        else:
            values.insert(place + 1, middle)
    return steps


def _widest(values: Sequence[float]) -> tuple[float, int]:
    """The largest factor between neighbours and its place, the faster of equal ones; 1 where there is none."""
    gaps = [max(pair) / min(pair) if min(pair) > 0 else 1.0 for pair in pairwise(values)]
    place = max(range(len(gaps)), key=lambda at: (round(gaps[at], 6), -at), default=0)
    return (gaps[place] if gaps else 1.0), place


def timed_corners(hardware: HardwareProfile, shape: tuple[int, ...], closed: Callable[[HardwareProfile], StepTiming],
                  estimate: StepTiming | None, *, each: bool) -> Corners:
    """Times at all corners.

    Parameters
    ----------
    hardware: the chip with its assumed parameters.
    shape: of the points.
    closed: times the points on a chip whose parameters may be arrays.
    estimate: its times on the chip as it is, where they are known.
    each: as of :func:`corners`.
    """
    estimate = closed(hardware) if estimate is None else estimate
    count, rows = len(corners(hardware, each=each)), max(1, MOST_AT_ONCE // max(int(np.prod(shape)), 1))
    found: dict[str, list[Any]] = {name: [] for name in TIMES}
    for start in range(0, count, rows):
        length = min(rows, count - start)
        timing = closed(_at_corners(hardware, len(shape), start, length, each=each))
        for name, parts in found.items():
            ratio = getattr(timing, name) / getattr(estimate, name)
            parts.append(np.broadcast_to(ratio, (length, *shape)))
    return Corners(*(np.concatenate(parts) for parts in found.values()))


def time_bound(at: Any, value_of: Callable[[Any], Any], pick: Any) -> Any:
    """``pick`` (np.fmin, np.fmax) of a column that follows from times, over the estimate and both ends.

    ``at``: points as :class:`simkit.study.evaluate.Evaluated`.
    """
    fast, slow = (value_of(end) for end in _ends(at))
    return pick(pick(fast, slow), value_of(at))


def speedup_bound(at: Any, time_of: str, pick: Any) -> Any:
    """``pick`` of MHA's time over these points', over the estimate and all corners."""
    ratio = at.speedup_vs_mha(time_of)
    if at.mha is None or at.mha.timing is at.timing:
        return ratio
    return ratio * pick(pick.reduce(ratio_at_corners(at.mha, at, time_of)), 1.0)


def ratio_at_corners(over: Any, at: Any, time_of: str) -> Any:
    """The ratio of two points' times at each corner of the chip that they share, over the estimate's ratio."""
    return getattr(_corners_of(over, each=True).over(_corners_of(at, each=True)), time_of)


@lru_cache(maxsize=2)  # several columns of the same points
def _ends(at: Any) -> tuple[Any, Any]:
    """The same points with all assumed parameters at their fast ends, and at their slow ones."""
    found = _corners_of(at, each=False)

    def end(number: int) -> Any:
        times = {name: getattr(at.timing, name) * getattr(found, name)[number] for name in TIMES}
        return replace(at, timing=replace(at.timing, **times))

    return end(0), end(1)


@lru_cache(maxsize=4)
def _corners_of(at: Any, *, each: bool) -> Corners:
    placed = at.points.placed(at.layout, at.machine)
    engine = at.points.engine
    own = engine.closed_form or engine.broadcasts(at.hardware)
    evaluate = engine.evaluate if own else CLOSED_FORM.evaluate
    return timed_corners(at.hardware, at.points.shape, partial(placed.timed, evaluate), at.timing if own else None,
                         each=each)


def _at_corners(hardware: HardwareProfile, dimensions: int, start: int, length: int, *, each: bool) -> HardwareProfile:
    """The chip at some of its corners, along an axis before those of the points; the same object for the same chip."""
    key = id(hardware), dimensions, start, length, each
    known = _AT_CORNERS.get(key)
    if known is None:
        if len(_AT_CORNERS) >= MOST_REMEMBERED:
            _AT_CORNERS.clear()
        own = {one.key: one.value for one in hardware.assumed}
        chosen = corners(hardware, each=each)[start:start + length]
        values = {name: np.array([corner.get(name, value) for corner in chosen], dtype=float)
                  .reshape(-1, *(1,) * dimensions) for name, value in own.items()}
        # The entry keeps the profile alive, and with it the number that names it.
        known = _AT_CORNERS[key] = hardware, with_assumed(hardware, values)
    return known[1]
