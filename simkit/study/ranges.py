r"""How far times and ratios may lie apart where parameters are assumed (:mod:`simkit.hardware.priors`).

A slower value of any assumed parameter never shortens a step (of tile sizes: a multiple of another), so that the times
with all of them at their fast and at their slow ends bound it: a time's range is guaranteed.

A ratio of two times has no such order. It is greatest where one of them is bound by a roof that the other just leaves,
which may be any combination of ends, and of a parameter that spans orders of magnitude (lanes, rows of a tile, a
latency) somewhere between. So first each parameter is moved to its slow end with all others fast: times are sums of
highest roofs, and the same move adds no more where other roofs are higher. Parameters of one roof, or of ways of which
the fastest is taken, multiply each other, so those are slow together then (:data:`PARTNERS`). Of the parameters that
move a time by more than :data:`WORTH_COMBINING` all ends are combined with all ends, and steps between distant ones
tried, the widest first, as far as :data:`MOST_STEPS` go. A ratio's range is what these span. Its ends are values that
the ratio takes; a point of the box beyond them is not excluded. Of 200 random ones on each of six chips none lies out
by more than 8 % for steps and 40 % for attention, where a tile between two steps fits a group of query heads; on most
chips by no more than what is left out.

What is unexplained of a step (measured layers of the class beside those that an engine derives) is in the slow end,
and in one more corner of its ratio.

All corners are timed at once along a leading axis; an engine that takes no arrays scales those of the closed form:

.. math:: T_{low} = T \min_c \frac{T^{closed}_c}{T^{closed}}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise, product
from math import log2, prod, sqrt
from typing import Any, Final

import numpy as np

from simkit.hardware.parameters import with_assumed
from simkit.hardware.profile import Assumed, HardwareProfile
from simkit.study.engines import CLOSED_FORM
from simkit.timing.step_timing import StepTiming

WORTH_COMBINING: Final = 0.01  # of a time
MOST_STEPS: Final = 32  # combinations up to which steps are put between ends
MOST_COMBINED: Final = 6  # parameters whose ends are all combined: of more, those that move times most
PARTNERS: Final = (("compute.matrix.", "compute.vector_peak"), ("links.",))
NEAR: Final = 4.0  # factor between neighbours that is not parted; of tile sizes, which are powers of two:
NEAR_TILES: Final = 2.0
MOST_AT_ONCE: Final = 16384  # points times corners: beyond that, arrays leave the nearer caches of a core
MOST_REMEMBERED: Final = 256
TIMES: Final = ("step_time_s", "attention_time_s")
_AT_CORNERS: dict[Any, tuple[HardwareProfile, HardwareProfile]] = {}


@dataclass(frozen=True, slots=True)
class Corners:
    """Times over those of the estimate, a corner a row."""

    step_time_s: Any
    attention_time_s: Any

    def over(self, other: Corners) -> Corners:
        """The ratio of these times to others at the same corners."""
        return Corners(self.step_time_s / other.step_time_s, self.attention_time_s / other.attention_time_s)


Corner = dict[str, float]
"""Values of some assumed parameters by key; the others are at their estimates."""


def both_ends(hardware: HardwareProfile) -> tuple[Corner, Corner]:
    """All assumed parameters at their fast ends, and all at their slow ones."""
    return {one.key: one.fast for one in hardware.assumed}, {one.key: one.slow for one in hardware.assumed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Points of ``shape``; ``evaluate`` times them on a chip with arrays for parameters, ``estimate`` where known."""

    shape: tuple[int, ...]
    evaluate: Callable[[HardwareProfile], StepTiming]
    estimate: StepTiming | None = None


def timed_together(hardware: HardwareProfile, timers: Sequence[Timer]) -> list[Corners]:
    """Times of several points at the corners that their ratios ask for, the same corners for all."""
    pairs = probes(hardware)
    ends = both_ends(hardware)
    probed = [timed_corners(hardware, timer, [*ends, *(corner for pair in pairs for corner in pair)])
              for timer in timers]
    moves = [max(_most((times[3 + 2 * number] - times[2 + 2 * number]) / times[0])
                 for times in (getattr(one, name) for one in probed for name in TIMES)) for number in range(len(pairs))]
    binding = sorted(((move, number) for number, move in enumerate(moves) if move > WORTH_COMBINING), reverse=True)
    combined = combinations([hardware.assumed[number] for _, number in binding])
    found = []
    for timer, first in zip(timers, probed, strict=True):
        more = timed_corners(hardware, timer, combined)
        found.append(Corners(*(np.concatenate([getattr(first, name), getattr(more, name)]) for name in TIMES)))
    return found


def probes(hardware: HardwareProfile) -> list[tuple[Corner, Corner]]:
    """Of each assumed parameter the corner at which it shows most, without it and with it at its slow end."""
    fast, slow = both_ends(hardware)
    found = []
    for one in hardware.assumed:
        kind = next((starts for starts in PARTNERS if one.key.startswith(starts)), ())
        others = {key: slow[key] if kind and key.startswith(kind) else fast[key] for key in fast}
        found.append(({**others, one.key: one.fast}, {**others, one.key: one.slow}))
    return found


def _most(shares: Any) -> float:
    """The largest of some shares; 0 where none is known, as of points that do not fit."""
    return float(np.max(np.where(np.isfinite(shares), shares, 0.0), initial=0.0))


def combinations(assumed: Sequence[Assumed]) -> list[Corner]:
    """Each parameter alone at its ends and its central value, and all ends with all ends; those that count first."""
    alone = [{one.key: value} for one in assumed for value in (one.fast, one.slow, one.central)]
    few = assumed[:MOST_COMBINED]
    values = product(*_steps(few)) if few else ()
    return [*alone, *(dict(zip((one.key for one in few), row, strict=True)) for row in values)]


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
        if gap <= (NEAR_TILES if is_tile else NEAR) or not low < middle < high or corners_then > MOST_STEPS:
            open_.remove(number)
        else:
            values.insert(place + 1, middle)
    return steps


def _widest(values: Sequence[float]) -> tuple[float, int]:
    """The largest factor between neighbours and its place, the faster of equal ones; 1 where there is none."""
    gaps = [max(pair) / min(pair) if min(pair) > 0 else 1.0 for pair in pairwise(values)]
    place = max(range(len(gaps)), key=lambda at: (round(gaps[at], 6), -at), default=0)
    return (gaps[place] if gaps else 1.0), place


def timed_corners(hardware: HardwareProfile, timer: Timer, chosen: Sequence[Corner]) -> Corners:
    """Times at some corners of a chip's assumed parameters."""
    estimate = timer.evaluate(hardware) if timer.estimate is None else timer.estimate
    rows = max(1, MOST_AT_ONCE // max(int(np.prod(timer.shape)), 1))
    found: dict[str, list[Any]] = {name: [np.empty((0, *timer.shape))] for name in TIMES}
    for start in range(0, len(chosen), rows):
        some = chosen[start:start + rows]
        timing = timer.evaluate(_at_corners(hardware, len(timer.shape), some))
        for name, parts in found.items():
            known = np.asarray(getattr(estimate, name))  # 0: attention of a pool that has none
            ratio = np.where(known == 0.0, 1.0, getattr(timing, name) / np.where(known == 0.0, 1.0, known))
            parts.append(np.broadcast_to(ratio, (len(some), *timer.shape)))
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
    if len(at.sides) > 1:  # of two pools all parameters of each at one end
        for over, own in zip(_ends_of_pools(at.mha), _ends_of_pools(at), strict=True):
            ratio = pick(ratio, getattr(over.timing, time_of) / getattr(own.timing, time_of))
        return np.where(at.fits & at.mha.fits, ratio, np.nan)
    bound = ratio * pick(pick.reduce(ratio_at_corners(at.mha, at, time_of)), 1.0)
    if time_of == "step_time_s" and np.any(_unexplained_s(at) > 0.0):
        more_s = _unexplained_s(at)
        bound = pick(bound, (at.mha.timing.step_time_s + more_s) / (at.timing.step_time_s + more_s))
    return bound


def _unexplained_s(at: Any) -> Any:
    """What layers measured on a chip or its class take beyond what an engine derives: a step may well take it too."""
    return np.fmax(np.nan_to_num(at.timing.unexplained_s, nan=0.0), 0.0)


@lru_cache(maxsize=8)  # several columns of the same points
def _timed_pair(over: Any, at: Any) -> Corners:
    mha, own = timed_together(at.hardware, [_timer(over), _timer(at)])
    return mha.over(own)


def ratio_at_corners(over: Any, at: Any, time_of: str) -> Any:
    """The ratio of two points' times at each corner of the chip that they share, over the estimate's ratio."""
    return getattr(_timed_pair(over, at), time_of)


@lru_cache(maxsize=4)
def _ends_of_pools(at: Any) -> list[Any]:
    """The same points with each pool's assumed parameters at either end: both fast first, both slow last."""
    return [at.with_sides(*ends) for ends in product(*(_ends(pool) if pool.hardware.has_range else (pool, pool)
                                                       for pool in at.sides))]


@lru_cache(maxsize=8)
def _ends(at: Any) -> tuple[Any, Any]:
    """The same points with all assumed parameters at their fast ends, and at their slow ones."""
    if len(at.sides) > 1:
        return _ends_of_pools(at)[0], _ends_of_pools(at)[-1]
    found = timed_corners(at.hardware, _timer(at), both_ends(at.hardware))

    def end(number: int) -> Any:
        times = {name: getattr(at.timing, name) * getattr(found, name)[number] for name in TIMES}
        times["step_time_s"] = times["step_time_s"] + number * _unexplained_s(at)  # at the slow end
        longer = times["step_time_s"] / at.timing.step_time_s  # its parts alike
        return replace(at, timing=replace(at.timing, **times, operator_time_s={
            name: longer * part_s for name, part_s in at.timing.operator_time_s.items()}))

    return end(0), end(1)


def _timer(at: Any) -> Timer:
    placed, engine = at.points.placed(at.layout, at.machine), at.points.engine
    own = engine.closed_form or engine.broadcasts(at.hardware)
    return Timer(shape=at.points.shape, estimate=at.timing if own else None,
                 evaluate=partial(placed.timed, engine.evaluate if own else CLOSED_FORM.evaluate))


def _at_corners(hardware: HardwareProfile, dimensions: int, chosen: Sequence[Corner]) -> HardwareProfile:
    """The chip at some of its corners, along an axis before those of the points; the same object for the same chip."""
    key = id(hardware), dimensions, tuple(tuple(corner.items()) for corner in chosen)
    known = _AT_CORNERS.get(key)
    if known is None:
        if len(_AT_CORNERS) >= MOST_REMEMBERED:
            _AT_CORNERS.clear()
        values = {one.key: np.array([corner.get(one.key, one.value) for corner in chosen], dtype=float)
                  .reshape(-1, *(1,) * dimensions) for one in hardware.assumed}
        # The entry keeps the profile alive, and with it the number that names it.
        known = _AT_CORNERS[key] = hardware, with_assumed(hardware, values)
    return known[1]
