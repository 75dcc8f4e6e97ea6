r"""The machine of a point: how many chips it needs (``--chips fit``), and the fastest mapping of a layout onto them.

A mapping is ``tp`` x ``pp`` of the chips, and what of attention is dealt out where ``tp`` is more than the KV heads:
copies of the heads, the sequences, or the tokens (:mod:`simkit.step.sharding`). Every layout takes its own on the same
chips, the fastest of the closed form, as compilers and users choose it; what the user names is not searched.

On a torus or mesh the ``tp`` chips make the most square slice. Those that deal out the sequences or tokens of a head
are equal parts of it that tile it, and of all ways to cut its sides the exchanges take the fastest
(:mod:`simkit.timing.chip_slices`): the time of a mapping has that choice in it already. Other slices of ``tp`` chips
than the most square one are not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from math import gcd
from operator import itemgetter
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, check_whole
from simkit.hardware.parameters import at_points
from simkit.hardware.profile import HardwareProfile
from simkit.step.machine import Machine
from simkit.step.placement import Demand, place
from simkit.step.sharding import ATTENTION_SHARDINGS, SEARCHED, AttentionSharding

EVERY_POINT: Final = None
FEW: Final = 4096  # machines times points that are tried all at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the fullest chip of a machine must hold under a layout of so many KV heads: ``demand(machine, where)`` at
    the points that an index picks (None: all).
    """

    demand: Callable[[Machine, Any], Demand]
    n_kv_heads: float


def split_chips(hardware: HardwareProfile, n_q_heads: int, n_layers: int, chips: int, tp: int | None,
                pp: int | None, mapping: AttentionSharding | None = None) -> tuple[float, float]:
    """``(tp, pp)`` for a given number of chips, filling in what the user left open.

    Chips that each have all heads of some sequences (``mapping`` ``data``) need not divide the heads.
    Raises :class:`UserError` when chips, tp and pp contradict each other, the query heads or the machine.
    """
    _check_wholes(chips=chips, pp=pp)
    if not 1 <= chips <= hardware.max_chips:
        raise UserError(f"--chips {chips}: {hardware.name} systems have 1 to {hardware.max_chips} chips")
    if hardware.sharding == "layer-pipelined":
        stages = pp or min(n_layers, chips)
        ways = tp or chips / stages
        if stages > n_layers:
            raise UserError(f"--pp {stages}: the model has {n_layers} layers")
        if abs(ways * stages - chips) > 1e-9 * chips:
            raise UserError(f"--chips {chips} is not tp x pp = {ways:g} x {stages}")
        return ways, stages
    _check_wholes(tp=tp)
    widest = hardware.scale_up.max_chips if hardware.scale_up else 1
    if tp is None:
        limit = min(widest, chips if pp is None else chips // pp)
        tp = max(t for t in widths_of(n_q_heads, limit, chips, mapping) if chips % t == 0)
    if n_q_heads % tp and hardware.devices is None and mapping != "data":
        divisors = ", ".join(str(t) for t in range(1, min(n_q_heads, 64) + 1) if n_q_heads % t == 0)
        raise UserError(f"--tp {tp} does not divide the {n_q_heads} query heads", hint=f"tp may be {divisors}")
    if tp > widest:
        raise UserError(f"--tp {tp}: {hardware.name} joins at most {widest} chips in one fast domain",
                        hint="use --pp for more chips")
    stages = pp if pp is not None else max(chips // tp, 1)
    if tp * stages != chips:
        raise UserError(f"--chips {chips} is not tp x pp = {tp} x {stages}")
    if stages > n_layers:
        raise UserError(f"--pp {stages}: the model has {n_layers} layers")
    if stages > 1 and hardware.scale_up is None and hardware.scale_out is None:
        raise UserError(f"{hardware.name}: the profile gives no link between chips", hint="use --chips 1")
    return tp, stages


def _check_wholes(**counts: Any) -> None:
    """Whole numbers of any size are told apart from other things: what they may be, the machine says."""
    for name, value in counts.items():
        if not isinstance(value, int | None):
            check_whole(name, value, 10**9)


def tensor_widths(n_q_heads: int, limit: int) -> list[int]:
    """Powers of two that divide the query heads, up to the fast domain: the widths systems are sold and tuned for."""
    return [2**k for k in range(13) if n_q_heads % 2**k == 0 and 2**k <= max(limit, 1)]


def widths_of(n_q_heads: int, limit: int, chips: int, mapping: AttentionSharding | None) -> list[int]:
    """Numbers of chips that may share a layer; of data-parallel attention all that divide the chips."""
    if mapping != "data":
        return tensor_widths(n_q_heads, limit)
    return [width for width in range(1, max(limit, 1) + 1) if chips % width == 0]


def candidates(hardware: HardwareProfile, n_q_heads: int, n_layers: int) -> tuple[tuple[int, float, float], ...]:
    """``(chips, tp, pp)`` from the fewest chips up: tensor-parallel within the fast domain, then pipelined domains."""
    return _candidates(hardware.sharding, hardware.max_chips, hardware.scale_up.max_chips if hardware.scale_up else 1,
                       hardware.scale_up is not None or hardware.scale_out is not None, n_q_heads, n_layers)


@lru_cache(maxsize=256)
def _candidates(sharding: str, most: int, widest: int, linked: bool, n_q_heads: int,  # noqa: FBT001 - of a cache's key
                n_layers: int) -> tuple[tuple[int, float, float], ...]:
    if sharding == "layer-pipelined":
        counts = sorted({*range(1, min(most, n_layers) + 1), *range(n_layers, most + 1, n_layers), most})
        return tuple((c, c / min(n_layers, c), float(min(n_layers, c))) for c in counts)
    widths = tensor_widths(n_q_heads, min(widest, most))
    found = [(w, float(w), 1.0) for w in widths]
    if linked:
        last = widths[-1]
        found += [(last * s, float(last), float(s)) for s in range(2, min(n_layers, most // last) + 1)]
    return tuple(found)


class EveryCount(Sequence[tuple[int, float, float]]):
    """``(chips, tp, pp)`` of every number of chips of a pipelined machine: rows of chips need not be whole there."""

    def __init__(self, most: int, n_layers: int) -> None:
        """Counts up to ``most``."""
        self._counts, self._n_layers = range(1, most + 1), n_layers

    def __len__(self) -> int:
        """How many counts there are."""
        return len(self._counts)

    def __getitem__(self, index: Any) -> Any:
        """One of them; a machine of millions of chips takes no room."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        chips = self._counts[index]
        stages = min(self._n_layers, chips)
        return chips, chips / stages, float(stages)


def fit_chips(hardware: HardwareProfile, needs: Sequence[Need], shape: tuple[int, ...], n_q_heads: int, n_layers: int,
              mapping: AttentionSharding | None = None, *, every_count: bool = False) -> Machine:
    """The fewest chips on which every one of the given needs fits, point by point.

    ``needs`` has one function of the machine for each layout that is compared, so all run on the same machine; the
    search is shortest when the largest comes first.
    ``mapping`` None: any way to deal out attention will do. ``every_count``: of a pipelined machine also those that
    do not give each layer as many whole chips.
    Points that fit on no number of chips get the largest, and ``Placement.fits`` is false for them. A tier of last
    resort is used only by points that fit nowhere without it.
    """
    options: Sequence[tuple[int, float, float]] = candidates(hardware, n_q_heads, n_layers)
    if every_count and hardware.sharding == "layer-pipelined":
        options = EveryCount(hardware.max_chips, n_layers)
    count = int(np.prod(shape))
    overflow: Any = False
    index = _first_fit(hardware, needs, count, options, mapping, overflow=False)
    if any(level.overflow for level in hardware.memory) and np.any(index >= len(options)):
        overflow = index >= len(options)
        index = np.where(overflow, _first_fit(hardware, needs, count, options, mapping, overflow=True), index)
    index = np.minimum(index, len(options) - 1)
    if len(set(index.tolist())) == 1 and not np.ndim(overflow):
        chips, tp, pp = options[int(index[0])]
        return Machine(chips=float(chips), tp=tp, pp=pp, mapping=mapping or "heads", overflow=overflow)
    known, place = np.unique(index, return_inverse=True)
    chips, tp, pp = np.array([options[at] for at in known.tolist()], dtype=float).T[:, place.reshape(shape)]
    overflow = np.reshape(overflow, shape) if np.ndim(overflow) else overflow
    return Machine(chips=chips, tp=tp, pp=pp, mapping=mapping or "heads", overflow=overflow)


def _first_fit(hardware: HardwareProfile, needs: Sequence[Need], count: int,
               options: Sequence[tuple[int, float, float]], mapping: AttentionSharding | None, *,
               overflow: bool) -> Any:
    """Index of the first option on which all needs fit, of each of ``count`` points; ``len(options)`` where none does.

    Room grows with chips. So the points are parted by whether they fit on the middle option, and each part again: a
    machine is the same for all points that it is tried for, and plain numbers do for what does not differ.
    """
    def fits(need: Need, option: Any, where: Any) -> Any:
        chips, tp, pp = option
        # Where every chip has KV heads of its own, all mappings are one.
        one = static or np.all(np.gcd(np.asarray(tp, dtype=np.int64), int(need.n_kv_heads)) == tp)
        held: Any = False
        here = at_points(hardware, where) if hardware.varied and where is not EVERY_POINT else hardware
        for name in [mapping] if mapping == "data" else SEARCHED[:1] if one else [mapping] if mapping else SEARCHED:
            machine = Machine(chips=chips, tp=tp, pp=pp, mapping=name, overflow=overflow)
            held = held | place(need.demand(machine, where), here, overflow=overflow).fits
        return held

    static = hardware.sharding == "layer-pipelined"

    found = np.zeros(count, dtype=int)
    for need in needs:
        if len(options) * count <= FEW:
            table = np.array(options, dtype=float)[:, :, None].transpose(1, 0, 2)
            held = np.broadcast_to(fits(need, table, EVERY_POINT), (len(options), count))
            found = np.maximum(found, np.where(held.any(axis=0), held.argmax(axis=0), len(options)))
            continue
        # What the needs before this one asked for is tried first: most often it is enough.
        parts = [(int(low), len(options), int(low), np.flatnonzero(found == low)) for low in np.unique(found)]
        while parts:
            low, high, tried, where = parts.pop()
            if low == high or not len(where):
                found[where] = low
                continue
            tried = (low + high) // 2 if tried == 0 else tried
            held = np.broadcast_to(fits(need, options[tried], where), len(where))
            parts += [(low, tried, 0, where[held]), (tried + 1, high, 0, where[~held])]
    return found


# One way to share a model over some chips: tp, pp, and the place of what is dealt out in ATTENTION_SHARDINGS.
Option = tuple[float, float, int]
# Seconds of a step on a machine at the points that an index picks (None: all); infinite where it does not fit.
TimeOn = Callable[[Machine, Any], Any]
# A number of chips, ways to share a model over them, and the index of points that are tried on it.
_Asked = tuple[float, Sequence[Option], Any]
EVEN: Final = 1e-9  # what two ways may differ by in the last digits
AT_ONCE: Final = 1024  # ways times points that are timed as one array


@lru_cache(maxsize=4096)
def options(chips: float, n_kv_heads: float, widths: Sequence[int], n_layers: int, stages: bool,  # noqa: FBT001 - a key
            tp: float | None, pp: float | None, mapping: AttentionSharding | None) -> tuple[Option, ...]:
    """Ways to share a model over ``chips``, the widest first.

    Parameters
    ----------
    chips, n_kv_heads: of the machine and of the layout.
    widths: numbers of chips that may share a layer.
    n_layers: most stages.
    stages: whether chips may be stages at all.
    tp, pp, mapping: what was asked for.
    """
    found: list[Option] = []
    for width in sorted(widths if tp is None else [tp], reverse=True):
        rest = chips / width
        if rest != int(rest) or rest > n_layers or (pp is not None and rest != pp) or (rest > 1 and not stages):
            continue
        # Where every chip has KV heads of its own, all mappings are one.
        alike = n_kv_heads == int(n_kv_heads) and gcd(int(width), int(n_kv_heads)) == width
        names: Sequence[AttentionSharding] = (
            [mapping] if mapping else SEARCHED[:1] if alike else SEARCHED)
        found += [(float(width), float(rest), ATTENTION_SHARDINGS.index(name)) for name in names]
    return tuple(found)


def fastest(machine: Machine, shape: tuple[int, ...], ways: Callable[[float], tuple[Option, ...]],
            time_on: TimeOn, least_s: Callable[[float, float, Any], Any],
            holds: Callable[[Machine, Any], Any]) -> Machine:
    """The machine with the mapping of least time, point by point; the first of ``ways`` where several are alike.

    Parameters
    ----------
    machine: its chips and memory tiers stay.
    shape: of the points.
    ways: options for a number of chips, the widest first; empty where only the machine as it is will do.
    time_on: the engine.
    least_s: what no step takes less of on so many chips when so many share a layer, at the points of an index.
    holds: whether a machine holds the points of an index; asked where no option so far did, which is cheaper than time.
    """
    known, which = np.unique(np.broadcast_to(machine.chips, shape), return_inverse=True)
    tried = [ways(float(chips)) for chips in known]
    if all(len(found) <= 1 for found in tried):
        return _with(machine, tried[0][0]) if len(known) == 1 and tried[0] else machine
    places = [EVERY_POINT if len(known) == 1 else np.flatnonzero(which.ravel() == at) for at in range(len(known))]
    least, best = np.full(which.size, np.inf), np.zeros((3, which.size))
    # A few points are timed on all at once; of one, and of many, only what has a chance.
    few = 1 < which.size <= AT_ONCE / max(map(len, tried))
    by_width = [[found] if few else _of_one_width(found) for found in tried]
    for turn in range(max(map(len, by_width))):
        asked: list[_Asked] = []
        for chips, groups, of_count in zip(known.tolist(), by_width, places, strict=True):
            group, where = groups[turn] if turn < len(groups) else (), of_count
            if group and turn:
                # Narrower layers stream more weights from each chip: they are tried where that leaves them a chance.
                so_far = _picked(least, where)
                hopeful = np.broadcast_to(least_s(chips, group[0][0], where), len(so_far)) < so_far
                if hopeful.any() and np.isinf(so_far).any():
                    here = _taken(machine, where, chips)
                    hopeful = hopeful & (np.isfinite(so_far) | np.any([np.broadcast_to(
                        holds(_with(here, option), where), len(so_far)) for option in group], axis=0))
                if not hopeful.all():
                    where = np.flatnonzero(hopeful) if where is EVERY_POINT else where[hopeful]
            if group and (where is EVERY_POINT or len(where)):
                asked.append((chips, group, where))
        for (_, group, where), seconds in zip(asked, _seconds(machine, asked, which.size, time_on), strict=True):
            at = slice(None) if where is EVERY_POINT else where
            for option, second in zip(group, seconds, strict=False):
                better = second < least[at] * (1.0 - EVEN)
                least[at] = np.where(better, second, least[at])
                best[:, at] = np.where(better, np.array(option)[:, np.newaxis], best[:, at])
    best = np.where(np.isinf(least), np.array([found[0] for found in tried], dtype=float)[which.ravel()].T, best)
    if np.all(best == best[:, :1]):
        return _with(machine, (float(best[0, 0]), float(best[1, 0]), int(best[2, 0])))
    tp, pp, mapping = best.reshape(3, *shape)
    return replace(machine, tp=tp, pp=pp, mapping=mapping.astype(np.int64))


def _picked(values: Any, where: Any) -> Any:
    """An array's values at the points that an index picks; a number is that of every point."""
    return values if where is EVERY_POINT or not np.ndim(values) else values[where]


def _of_one_width(found: Sequence[Option]) -> list[Sequence[Option]]:
    """Options of each tp, in their order."""
    return [list(group) for _, group in groupby(found, key=itemgetter(0))]


def _seconds(machine: Machine, asked: Sequence[_Asked], points: int, time_on: TimeOn) -> list[Any]:
    """Times [options, points] of each number of chips: few as one array; one and many option by option with plain
    numbers for the machine, whose operators are remembered. Of the first, rows beyond a number's own options repeat its
    last.
    """
    counts = [points if where is EVERY_POINT else len(where) for _, _, where in asked]
    rows = max((len(group) for _, group, _ in asked), default=0)
    if 1 < sum(counts) <= AT_ONCE / rows and rows * len(asked) > 1:
        chips: Any = asked[0][0]
        where = asked[0][2]
        table = np.array([[*group, *[group[-1]] * (rows - len(group))] for _, group, _ in asked], dtype=float).T
        if len(asked) > 1:
            where, table = np.concatenate([places for _, _, places in asked]), np.repeat(table, counts, axis=-1)
            chips = np.repeat([of_group for of_group, _, _ in asked], counts)
        tp, pp, mapping = table
        seconds = time_on(replace(_taken(machine, where, chips), tp=tp, pp=pp, mapping=mapping.astype(np.int64)), where)
        return np.split(np.broadcast_to(seconds, (rows, sum(counts))), np.cumsum(counts)[:-1], axis=1)
    return [[np.broadcast_to(time_on(_with(_taken(machine, where, chips), option), where), count) for option in group]
            for (chips, group, where), count in zip(asked, counts, strict=True)]


def _with(machine: Machine, option: Option) -> Machine:
    return replace(machine, tp=option[0], pp=option[1], mapping=ATTENTION_SHARDINGS[option[2]])


def _taken(machine: Machine, where: Any, chips: Any) -> Machine:
    return replace(machine, chips=chips, overflow=_picked(machine.overflow, where))


def worth_more(fewest: Machine, shape: tuple[int, ...], options: Sequence[tuple[int, float, float]],
               time_s: Callable[[Machine], Any], *, by_time: Any) -> Machine:
    """Up from the fewest chips, doubling, to the most: those of the least cost of a token; or, where ``by_time``, the
    fastest. A point's machines do not depend on its neighbours.
    """
    table = np.array(options, dtype=float)
    last = len(table) - 1
    best, least, factor, index = fewest, np.full(shape, np.inf), 1.0, np.zeros(1, dtype=int)
    while factor == 1.0 or np.any(index < last):
        index = np.minimum(np.searchsorted(table[:, 0], factor * np.asarray(fewest.chips)), last)
        chips, tp, pp = np.moveaxis(table[index], -1, 0)
        cost = time_s(replace(fewest, chips=chips, tp=tp, pp=pp)) * np.where(by_time, 1.0, chips)
        better = cost < least
        least = np.where(better, cost, least)
        best = replace(best, chips=np.where(better, chips, best.chips), tp=np.where(better, tp, best.tp),
                       pp=np.where(better, pp, best.pp))
        factor *= 2.0
    return best


def most_in_flight(machine: Machine, hardware: HardwareProfile, n_layers: int, batch: Any, shape: tuple[int, ...],
                   step_s: Callable[[Machine], Any]) -> Machine:
    """The machine with as many groups of sequences in flight on each stage as is fastest where its chips are regions
    of tiles: powers of two, and one a region; what the profile states stays.
    """
    fabric = hardware.fabric
    most = float(np.max(batch / np.asarray(machine.pp), initial=0.0))
    if fabric is None or hardware.main_memory.kind != "sram":
        return machine
    if fabric.in_flight is not None:
        return replace(machine, in_flight=float(fabric.in_flight))
    most = min(most, float(np.max(n_layers / np.asarray(machine.pp))), fabric.most_regions)
    if most <= 1:
        return machine
    best, least = np.ones(shape), np.full(shape, np.inf)
    for count in sorted({*(2.0 ** np.arange(np.ceil(np.log2(most)))).tolist(), most}):
        time_s = step_s(replace(machine, in_flight=count))
        better = time_s < least * (1.0 - EVEN)
        best, least = np.where(better, count, best), np.where(better, time_s, least)
    return replace(machine, in_flight=float(best.flat[0]) if np.all(best == best.flat[0]) else best)


def name_of(mapping: Any) -> Any:
    """A mapping in words, point by point."""
    return mapping if isinstance(mapping, str) else np.array(ATTENTION_SHARDINGS, dtype=object)[mapping]
