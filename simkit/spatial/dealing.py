r"""What groups of tiles hold of a batch: equal sequences, or unequal ones, longest first.

``n`` items (a KV head of one sequence, or a copy of it) go to ``M`` groups of tiles in :math:`\lceil n / M \rceil`
rounds, longest first, back and forth: a round's first item to the first group, the next round's first to the last one.
A group then has no more items than rounds and no more tokens than as many of the longest; the fullest has no fewer
than the mean. A group's load changes only where a round passes from one length to the next, so groups come in classes,
at most one more than there are lengths, whose first members stand for all. Of the first ``x`` items group ``s`` gets

.. math:: C(x, s) = \left\lceil \frac{x - s}{2M} \right\rceil
          + \left( \left\lceil \frac{x + s + 1}{2M} \right\rceil - 1 \right), \quad \text{each term at least 0}
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

MOST_LENGTHS: Final = 64  # distinct ones; of a list of more, neighbours have their mean
ROUNDING: Final = 1e-12  # lengths are a factor times a mean: a whole number of tokens must not gain one


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items of one mapping and how each lies: ``n`` of them on ``groups`` groups, tokens over ``token_ways`` tiles,
    ``key`` and ``value`` elements of the head dimension on one tile.
    """

    n: Any
    groups: Any
    token_ways: Any
    key: Any
    value: Any

    @cached_property
    def rounds(self) -> Any:
        """Items of the group that has most."""
        return np.ceil(self.n / self.groups)

    def on_tile(self, tokens: Any) -> tuple[Any, Any]:
        """Tokens of an item on its fullest tile, and vector instructions there for each query row."""
        own = np.ceil(tokens / self.token_ways * (1 - ROUNDING))
        return own, np.minimum(own, self.key) + np.minimum(own, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lengths of a batch, longest first, and the sequences that are as long or longer, a column of points each."""

    tokens: tuple[Any, ...]
    sequences: tuple[Any, ...]

    @property
    def all_tokens(self) -> Any:
        """Tokens of all sequences."""
        return sum(length * count for length, count in zip(self.tokens, _differences(self.sequences), strict=True))

    def even(self, items: Items) -> tuple[Any, Any]:
        """Tokens and instructions of the fullest group's tiles where all are as long as the longest; [1, ...]."""
        tokens, steps = items.on_tile(self.tokens[0])
        return (items.rounds * tokens)[None], (items.rounds * steps)[None]

    def bound(self, items: Items) -> tuple[Any, Any]:
        """Of two groups that no dealing makes less than its fullest: the mean, and the longest item alone; [2, ...]."""
        a_sequence = items.n / items.groups / self.sequences[-1]
        mean, longest = self._held(items, (one * a_sequence for one in _differences(self.sequences))), items.on_tile(
            self.tokens[0])
        return np.stack(np.broadcast_arrays(mean[0], longest[0])), np.stack(np.broadcast_arrays(mean[1], longest[1]))

    def _held(self, items: Items, counts: Iterable[Any]) -> tuple[Any, Any]:
        """Tokens and instructions of so many items of each length, one length after another."""
        tokens: Any = 0.0
        steps: Any = 0.0
        for count, length in zip(counts, self.tokens, strict=True):
            own_tokens, own_steps = items.on_tile(length)
            tokens, steps = tokens + count * own_tokens, steps + count * own_steps
        return tokens, steps

    def dealt(self, items: Items) -> tuple[Any, Any]:
        """Of each class of groups; [lengths + 1, ...]."""
        a_sequence = items.n / self.sequences[-1]
        return self._held(items, _counts([one * a_sequence for one in self.sequences], items.groups))

    def slowest_part(self, parts: Any) -> Batch:
        """The part with most tokens of those that follow one another through a pipeline; none overtakes it."""
        if len(self.tokens) == 1:
            return replace(self, sequences=(np.ceil(self.sequences[0] / parts),))
        counts = list(_counts(self.sequences, np.asarray(parts, dtype=float)))
        fullest = np.argmax(sum(map(np.multiply, counts, self.tokens)), axis=0)[None]
        return replace(self, sequences=tuple(np.cumsum([np.take_along_axis(one, fullest, axis=0)[0] for one in counts],
                                                       axis=0)))


def _differences(ends: Iterable[Any]) -> Iterator[Any]:
    return (after - before for before, after in itertools.pairwise(itertools.chain((0.0,), ends)))


def _counts(ends: Sequence[Any], groups: Any) -> Iterator[Any]:
    """Items of each length that the first group of each class gets; those up to ``ends`` are as long or longer."""
    both_ways = 2.0 * groups
    turns = [np.mod(one, both_ways) for one in ends]
    firsts = [np.where(one < groups, np.ceil(one), np.floor(both_ways - one)) for one in turns]
    group = np.stack(np.broadcast_arrays(0.0 * groups, *firsts))
    group = np.where(group < groups, group, 0.0)
    return _differences(np.maximum(np.ceil((end - group) / both_ways), 0.0)
                        + np.maximum(np.ceil((end + group + 1.0) / both_ways) - 1.0, 0.0) for end in ends)


def batch_of(factors: Any, sequences: Any, tokens: Any) -> Batch:
    """The batch of so many sequences, the spread of lengths dealt out evenly as in a replay, its mean kept.

    Parameters
    ----------
    factors: of the mean length, in equal shares of the sequences; [factors, points or 1].
    sequences, tokens: how many, and their mean length; [points].
    """
    count = np.maximum(np.rint(sequences), 1.0).astype(np.int64)
    if len(factors) == 1:
        return Batch(tokens=(tokens,), sequences=(count,))
    edges = -(-np.arange(len(factors) + 1)[:, None] * count // len(factors))
    own = np.diff(edges, axis=0).astype(float)
    factors = np.where(own > 0, factors, 0.0)  # few sequences have few of the lengths
    order = np.argsort(-factors, axis=0, kind="stable")
    own, factors = np.take_along_axis(own, order, axis=0), np.take_along_axis(factors, order, axis=0)
    starts = np.flatnonzero(np.append(True, (factors[1:] != factors[:-1]).any(axis=1)))
    if len(starts) > MOST_LENGTHS:
        starts = starts[np.linspace(0, len(starts), MOST_LENGTHS, endpoint=False).astype(int)]
    sums, own = np.add.reduceat(own * factors, starts), np.add.reduceat(own, starts)
    factors = sums / np.maximum(own, 1.0)
    mean = (own * factors).sum(axis=0) / count
    # Where all are equal a factor is 1 to the last digit, and the mean their length.
    return Batch(tokens=tuple(np.where(factors == mean, 1.0, factors / mean) * tokens),
                 sequences=tuple(np.cumsum(own, axis=0)))
