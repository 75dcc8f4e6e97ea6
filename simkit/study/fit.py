"""How many chips a point needs and how they share the model: ``--chips fit``, ``--tp`` and ``--pp``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.step.placement import Demand, place


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Chips and how they share the work: ``tp`` within a layer, ``pp`` stages; ``overflow``: points that may use the
    tiers of last resort.
    """

    chips: Any
    tp: Any
    pp: Any
    overflow: Any


# What the fullest chip must hold, as a function of (tp, pp).
Need = Callable[[Any, Any], Demand]


def split_chips(hardware: HardwareProfile, n_q_heads: int, n_layers: int, chips: int, tp: int | None,
                pp: int | None) -> tuple[float, float]:
    """``(tp, pp)`` for a given number of chips, filling in what the user left open.

    Raises :class:`UserError` when chips, tp and pp contradict each other, the query heads or the machine.
    """
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
    widest = hardware.scale_up.max_chips if hardware.scale_up else 1
    if tp is None:
        limit = min(widest, chips if pp is None else chips // pp)
        tp = max(t for t in tensor_widths(n_q_heads, limit) if chips % t == 0)
    if n_q_heads % tp:
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


def tensor_widths(n_q_heads: int, limit: int) -> list[int]:
    """Powers of two that divide the query heads, up to the fast domain: the widths systems are sold and tuned for."""
    return [2**k for k in range(13) if n_q_heads % 2**k == 0 and 2**k <= max(limit, 1)]


def candidates(hardware: HardwareProfile, n_q_heads: int, n_layers: int) -> list[tuple[int, float, float]]:
    """``(chips, tp, pp)`` from the fewest chips up: tensor-parallel within the fast domain, then pipelined domains."""
    if hardware.sharding == "layer-pipelined":
        most = hardware.max_chips
        counts = sorted({*range(1, min(most, n_layers) + 1), *range(n_layers, most + 1, n_layers), most})
        return [(c, c / min(n_layers, c), min(n_layers, c)) for c in counts]
    widest = hardware.scale_up.max_chips if hardware.scale_up else 1
    widths = tensor_widths(n_q_heads, min(widest, hardware.max_chips))
    found = [(w, float(w), 1.0) for w in widths]
    if hardware.scale_up is not None or hardware.scale_out is not None:
        last = widths[-1]
        found += [(last * s, float(last), float(s)) for s in range(2, min(n_layers, hardware.max_chips // last) + 1)]
    return found


def fit_chips(hardware: HardwareProfile, needs: list[Need], shape: tuple[int, ...], n_q_heads: int,
              n_layers: int) -> Split:
    """The fewest chips on which every one of the given needs fits, point by point.

    ``needs`` has one function of ``(tp, pp)`` a layout that is compared, so all run on the same machine; the search is
    shortest when the largest comes first.
    Points that fit on no number of chips get the largest, and ``Placement.fits`` is false for them. A tier of last
    resort is used only by points that fit nowhere without it.
    """
    options = candidates(hardware, n_q_heads, n_layers)
    has_overflow = any(level.overflow for level in hardware.memory)
    overflow: Any = False
    index = _first_fit(hardware, needs, shape, options, overflow=False)
    if has_overflow and np.any(index >= len(options)):
        with_tiers = _first_fit(hardware, needs, shape, options, overflow=True)
        overflow = index >= len(options)
        index = np.where(overflow, with_tiers, index)
    index = np.minimum(index, len(options) - 1)
    table = np.array(options, dtype=float)
    return Split(chips=table[index, 0], tp=table[index, 1], pp=table[index, 2], overflow=overflow)


def _first_fit(hardware: HardwareProfile, needs: list[Need], shape: tuple[int, ...],
               options: list[tuple[int, float, float]], *, overflow: bool) -> Any:
    """Index of the first option on which all needs fit; ``len(options)`` where none does.

    Room grows with chips: a bisection over options serves all points at once, and the answer is the largest need's.
    So the first need is searched for, and of the others it is only asked whether they fit there.
    """
    table = np.array([*options, options[-1]], dtype=float)
    found = np.zeros(shape, dtype=int)
    for place_in_order, need in enumerate(needs):
        def fits(index: Any, need: Need = need) -> Any:
            # One machine for all points, as in most steps of the bisection: plain numbers do for what it holds.
            same = index.flat[0] if index.size and np.all(index == index.flat[0]) else index
            return place(need(table[same, 1], table[same, 2]), hardware, overflow=overflow).fits

        low, high = found, np.full(shape, len(options), dtype=int)
        if place_in_order:
            enough = fits(found)
            low, high = np.where(enough, found, np.minimum(found + 1, high)), np.where(enough, found, high)
        while np.any(low < high):
            middle = (low + high) // 2
            good = fits(middle)
            low, high = (np.where(~good & (low < high), middle + 1, low), np.where(good & (low < high), middle, high))
        found = low
    return found
