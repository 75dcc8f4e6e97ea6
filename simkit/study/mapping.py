r"""Which mapping a machine runs a layout with: the fastest one of the closed form, as compilers and users choose it.

A mapping is ``tp`` x ``pp`` of the chips, and what of attention is dealt out where ``tp`` is more than the KV heads:
copies of the heads, the sequences, or the tokens (:mod:`simkit.step.sharding`). Every layout takes its own on the same
chips; what the user names is not searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import gcd
from typing import Any, Final

import numpy as np

from simkit.step.machine import Machine
from simkit.step.sharding import ATTENTION_SHARDINGS, AttentionSharding

# One way to share a model over some chips: tp, pp, and the place of what is dealt out in ATTENTION_SHARDINGS.
Option = tuple[float, float, int]
# Seconds of a step on a machine at the points that an index picks (None: all); infinite where it does not fit.
TimeOn = Callable[[Machine, Any], Any]
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
            [mapping] if mapping else ATTENTION_SHARDINGS[:1] if alike else ATTENTION_SHARDINGS)
        found += [(float(width), float(rest), ATTENTION_SHARDINGS.index(name)) for name in names]
    return tuple(found)


def fastest(machine: Machine, shape: tuple[int, ...], ways: Callable[[float], tuple[Option, ...]],
            time_on: TimeOn, least_s: Callable[[float], float]) -> Machine:
    """The machine with the mapping of least time, point by point; the first of ``ways`` where several are alike.

    Parameters
    ----------
    machine: its chips and memory tiers stay.
    shape: of the points.
    ways: options for a number of chips, the widest first; empty where only the machine as it is will do.
    time_on: the engine.
    least_s: what no step takes less of when so many chips share a layer.
    """
    counts = np.unique(machine.chips)
    tried = {float(chips): ways(float(chips)) for chips in counts}
    if all(len(found) <= 1 for found in tried.values()):
        if len(counts) == 1 and (found := next(iter(tried.values()))):
            return _with(machine, found[0])
        return machine
    points = int(np.prod(shape))
    best = np.zeros((3, points))
    for chips, found in tried.items():
        where = None if len(counts) == 1 else np.flatnonzero(np.broadcast_to(machine.chips, shape) == chips)
        here = _taken(machine, where, chips)
        count = points if where is None else len(where)
        least, chosen = np.full(count, np.inf), np.zeros(count, dtype=int)
        for first, group in _of_one_width(found):
            # Narrower layers stream more weights from each chip: they are tried while that leaves them a chance.
            if first and least_s(group[0][0]) >= least.max():
                break
            seconds = np.broadcast_to(_seconds(here, group, count, time_on, where), (len(group), count))
            for row in range(len(group)):
                better = seconds[row] < least * (1.0 - EVEN)
                least, chosen = np.where(better, seconds[row], least), np.where(better, first + row, chosen)
        best[:, slice(None) if where is None else where] = np.array(found).T[:, chosen]
    if np.all(best == best[:, :1]):
        return _with(machine, (float(best[0, 0]), float(best[1, 0]), int(best[2, 0])))
    tp, pp, mapping = best.reshape(3, *shape)
    return replace(machine, tp=tp, pp=pp, mapping=mapping.astype(np.int64))


def _of_one_width(found: Sequence[Option]) -> list[tuple[int, list[Option]]]:
    """Options by their tp, each group with the place of its first."""
    groups: list[tuple[int, list[Option]]] = []
    for place, option in enumerate(found):
        if groups and groups[-1][1][0][0] == option[0]:
            groups[-1][1].append(option)
        else:
            groups.append((place, [option]))
    return groups


def _seconds(machine: Machine, group: Sequence[Option], count: int, time_on: TimeOn, where: Any) -> Any:
    """Times [options, points]: few as one array, many option by option with plain numbers for the machine."""
    if len(group) > 1 and len(group) * count <= AT_ONCE:
        tp, pp, mapping = (np.array(column)[:, np.newaxis] for column in zip(*group, strict=True))
        return time_on(replace(machine, tp=tp, pp=pp, mapping=mapping), where)
    return [np.broadcast_to(time_on(_with(machine, option), where), count) for option in group]


def _with(machine: Machine, option: Option) -> Machine:
    return replace(machine, tp=option[0], pp=option[1], mapping=ATTENTION_SHARDINGS[option[2]])


def _taken(machine: Machine, where: Any, chips: float) -> Machine:
    overflow = machine.overflow if where is None or not np.ndim(machine.overflow) else machine.overflow[where]
    return replace(machine, chips=chips, overflow=overflow)


def name_of(mapping: Any) -> Any:
    """A mapping in words, point by point."""
    return mapping if isinstance(mapping, str) else np.array(ATTENTION_SHARDINGS, dtype=object)[mapping]
