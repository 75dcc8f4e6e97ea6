"""Requests as a stream of columns: what every reader and generator gives, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

CHUNK_REQUESTS = 16_384  # of a stream held at once, so that memory does not grow with it
PREFIX_TOKENS: Final = 512  # of a numbered block of a prompt, as in Mooncake's traces (arXiv 2407.00079, section 4.1)
_NONE: Final = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Consecutive requests in order of arrival: when they come, their prompts and outputs in tokens.

    ``numbers[first:first + blocks]`` of each, where they have them: its prompt's blocks of PREFIX_TOKENS. Prompts that
    begin with the same numbers begin alike.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    numbers: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    first: NDArray[np.int64] = field(default_factory=lambda: _NONE)
    blocks: NDArray[np.int64] = field(default_factory=lambda: _NONE)

    def part(self, chosen: slice | NDArray[np.int64]) -> Requests:
        """Some of them."""
        numbered = chosen if self.blocks.size else slice(None)
        return Requests(arrival_s=self.arrival_s[chosen], prompt_tokens=self.prompt_tokens[chosen],
                        output_tokens=self.output_tokens[chosen], numbers=self.numbers, first=self.first[numbered],
                        blocks=self.blocks[numbered])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealing:
    """Who of a pool's replicas gets which request: each in turn, or (``by_prefix``) one all those whose prompts begin
    with the same numbered block. The last ``lost`` of them are lost at ``lost_s``; later requests go to the others, as
    far as there are any.
    """

    replicas: int = 1
    by_prefix: bool = False
    lost: int = 0
    lost_s: float = np.inf

    def which(self, part: Requests, seen: int) -> NDArray[np.int64]:
        """The replica of each request, ``seen`` having come before them."""
        turn = np.arange(seen, seen + part.arrival_s.size)
        if self.by_prefix and part.blocks.size:
            begun = part.blocks > 0
            # Numbers count up: mixed, so that neighbours do not walk in step (Knuth 6.4).
            turn[begun] = part.numbers[part.first[begun]] * 2654435761 % 2**32 >> 8
        left = self.replicas - self.lost
        return np.where(part.arrival_s > self.lost_s, turn % (left or self.replicas), turn % self.replicas)

    def lost_s_of(self, which: int) -> float:
        """When a replica is lost; infinite: never."""
        return self.lost_s if which >= self.replicas - self.lost else np.inf


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A source of requests that can be read from the start as often as needed: once a replica, once a rate.

    Parameters
    ----------
    name: for records and figures.
    chunks: gives the requests anew.
    """

    name: str
    chunks: Callable[[], Iterator[Requests]]

    def scaled(self, rate_factor: float) -> Stream:
        """The same requests arriving ``rate_factor`` times as fast."""
        def faster() -> Iterator[Requests]:
            for part in self.chunks():
                yield replace(part, arrival_s=part.arrival_s / rate_factor)

        return Stream(name=self.name, chunks=faster)

    def first(self, requests: int) -> Stream:
        """The first ``requests`` of them."""
        def cut() -> Iterator[Requests]:
            left = requests
            for part in self.chunks():
                taken = min(left, part.arrival_s.size)
                left -= taken
                yield part.part(slice(taken))
                if left == 0:
                    return

        return Stream(name=self.name, chunks=cut)

    def share_of(self, which: int, dealing: Dealing) -> Stream:
        """What one replica of several is dealt."""
        def dealt() -> Iterator[Requests]:
            seen = 0
            for part in self.chunks():
                yield part.part(np.flatnonzero(dealing.which(part, seen) == which))
                seen += part.arrival_s.size

        return self if dealing.replicas == 1 else Stream(name=self.name, chunks=dealt)

    def mean_rate_per_s(self) -> float:
        """How many requests arrive a second between the first and the last."""
        count, first, last = 0, None, 0.0
        for part in self.chunks():
            if part.arrival_s.size:
                first = float(part.arrival_s[0]) if first is None else first
                last = float(part.arrival_s[-1])
                count += part.arrival_s.size
        span_s = last - (first or 0.0)
        return (count - 1) / span_s if span_s > 0 else float("inf")
