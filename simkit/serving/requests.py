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

    def part(self, chosen: slice) -> Requests:
        """Some of them."""
        return Requests(arrival_s=self.arrival_s[chosen], prompt_tokens=self.prompt_tokens[chosen],
                        output_tokens=self.output_tokens[chosen], numbers=self.numbers, first=self.first[chosen],
                        blocks=self.blocks[chosen])


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

    def every(self, replicas: int, which: int) -> Stream:
        """The share of one of ``replicas`` that are dealt requests in turn."""
        def dealt() -> Iterator[Requests]:
            seen = 0
            for part in self.chunks():
                start = (which - seen) % replicas
                seen += part.arrival_s.size
                yield part.part(slice(start, None, replicas))

        return self if replicas == 1 else Stream(name=self.name, chunks=dealt)

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
