"""A group's points run by run: where batch, queries and machine stay the same they are plain numbers.

Most of a step does not depend on the context. With numbers in place of equal arrays that part is computed once a run
instead of once a point; the results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.model.attention import parse_layout
from simkit.step.machine import Machine
from simkit.study.evaluate import Points, compared, on_machine
from simkit.study.record import FIELDS

LONG_RUN: Final = 4096
"""Points from which a run is worth calls of its own: by calls of 1300 points a sweep took twice the time."""


def group_columns(points: Points, attention: str, *, rivals: Sequence[str], chips: Any, tp: int | None, pp: int | None,
                  baseline: bool, names: Sequence[str] = tuple(FIELDS)) -> dict[str, Any]:
    """Columns of one layout over one-dimensional arrays of points.

    Parameters: points, attention, rivals, chips, tp, pp, baseline: as of
    :func:`simkit.study.evaluate.evaluate_group`; names: the columns that are wanted.
    """
    layout = parse_layout(attention, points.model)
    count = points.shape[0]
    if count == 1:
        points = replace(points, batch=points.batch.item(), kv_len=points.kv_len.item(), q_len=points.q_len.item())
    machine = points.chips_for(compared(layout, rivals, points.model, chips), chips, tp, pp)
    runs = [(points, machine, 1)] if count == 1 else _runs(points, machine)
    parts = [on_machine(piece, layout, shared, tp=tp, pp=pp, baseline=baseline, shape=(length,)).select(names)
             for piece, shared, length in runs]
    return parts[0] if len(parts) == 1 else {name: _joined([part[name] for part in parts]) for name in names}


def _joined(parts: list[Any]) -> Any:
    """One column of several; of equal constants a constant, which takes the room of one value."""
    first = parts[0][0]
    unknown = first != first  # noqa: PLR0124 - NaN is not itself
    if all(part.strides == (0,) and (part[0] == first or (unknown and part[0] != part[0])) for part in parts):
        return np.broadcast_to(parts[0][:1], sum(len(part) for part in parts))
    return np.concatenate(parts)


def _runs(points: Points, machine: Machine) -> Iterator[tuple[Points, Machine, int]]:
    """Long runs of equal numbers with these as numbers, and what lies between them as arrays."""
    count = points.shape[0]
    numbers = [np.broadcast_to(np.asarray(values, dtype=float), count) for values in (
        points.batch, points.q_len, machine.chips, machine.tp, machine.pp, machine.overflow)]
    changes: Any = np.zeros(max(count - 1, 0), dtype=bool)
    for values in numbers:
        if values.strides != (0,):
            changes = changes | (values[1:] != values[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.concatenate([starts[1:], [count]])
    done = 0
    long_enough = np.flatnonzero(ends - starts >= LONG_RUN)
    for start, end in zip(starts[long_enough].tolist(), ends[long_enough].tolist(), strict=True):
        if done < start:
            yield _between(points, machine, done, start)
        batch, q_len, chips, tp, pp, overflow = (float(values[start]) for values in numbers)
        yield (replace(points, batch=batch, kv_len=points.kv_len[start:end], q_len=q_len),
               replace(machine, chips=chips, tp=tp, pp=pp, overflow=bool(overflow)), end - start)
        done = end
    if done < count:
        yield _between(points, machine, done, count)


def _between(points: Points, machine: Machine, start: int, end: int) -> tuple[Points, Machine, int]:
    def cut(values: Any) -> Any:
        return values[start:end] if np.ndim(values) else values

    return points.take(slice(start, end)), replace(
        machine, chips=cut(machine.chips), tp=cut(machine.tp), pp=cut(machine.pp),
        overflow=cut(machine.overflow)), end - start
