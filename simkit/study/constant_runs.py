"""A group's points stretch by stretch: where batch, queries and machine stay the same they are plain numbers.

Most of a step does not depend on the context. With numbers in place of equal arrays that part is computed once a
stretch instead of once a point; the results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.study.evaluate import Question, answered, asked
from simkit.study.fit import Split

LONG_STRETCH: Final = 4096
"""Points from which a stretch is worth calls of its own: by calls of 1300 points a sweep took twice the time."""


def group_columns(hardware: Any, model: Any, attention: str, *, engine: str, baseline: bool,
                  **options: Any) -> dict[str, Any]:
    """The columns of :func:`simkit.study.evaluate.evaluate_group` over one-dimensional arrays of points.

    Parameters: hardware, model, attention, engine, baseline and further options: as there.
    """
    question, layout, split = asked(hardware, model, attention, engine=engine, **options)
    parts = [answered(piece, layout, attention, machine, engine=engine, baseline=baseline).columns
             for piece, machine in _stretches(question, split)]
    if len(parts) == 1:
        return parts[0]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: list[Any]) -> Any:
    """One column of several; of equal constants a constant, which takes the room of one value."""
    first = parts[0][0]
    if all(part.strides == (0,) and part[0] == first for part in parts):
        return np.broadcast_to(parts[0][:1], sum(len(part) for part in parts))
    return np.concatenate(parts)


def _stretches(question: Question, split: Split) -> Iterator[tuple[Question, Split]]:
    """Long stretches of equal numbers with these as numbers, and what lies between them as arrays."""
    points = question.shape[0]
    numbers = [np.broadcast_to(np.asarray(values, dtype=float), points) for values in (
        question.batch, question.q_len, split.chips, split.tp, split.pp, split.overflow)]
    changes: Any = np.zeros(max(points - 1, 0), dtype=bool)
    for values in numbers:
        changes = changes | (values[1:] != values[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.concatenate([starts[1:], [points]])
    done = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start >= LONG_STRETCH:
            if done < start:
                yield _between(question, split, done, start)
            batch, q_len, chips, tp, pp, overflow = (float(values[start]) for values in numbers)
            yield (replace(question, batch=np.asarray(batch), kv_len=question.kv_len[start:end], q_len=q_len),
                   Split(chips=chips, tp=tp, pp=pp, overflow=bool(overflow)))
            done = end
    if done < points:
        yield _between(question, split, done, points)


def _between(question: Question, split: Split, start: int, end: int) -> tuple[Question, Split]:
    def cut(values: Any) -> Any:
        return values[start:end] if np.ndim(values) else values

    return (replace(question, batch=cut(question.batch), kv_len=cut(question.kv_len), q_len=cut(question.q_len)),
            Split(chips=cut(split.chips), tp=cut(split.tp), pp=cut(split.pp), overflow=cut(split.overflow)))
