"""Timing compiled loops on every core at once, so that a busy shared machine tells the same as an idle one.

Each core's thread runs its own part without a barrier inside, and its time is processor time: what other programs
take of a shared machine does not count, what they do to caches and memory does. The time of a turn is that of the
slowest thread; of several turns the median counts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Loop = Callable[[int], Any]
TURN_TIME_S: Final = 0.012
MOST_REPEATS: Final = 1 << 24
LEAST_TURNS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one repeat: the median turn, and how far apart the quartiles of the turns lie, over the median."""

    time_s: float
    spread_fraction: float


def usable_cpus() -> list[int]:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def time_loops(loops: Sequence[Loop], *, budget_s: float, turn_s: float = TURN_TIME_S) -> Timing:
    """Time of one repeat of loops that run at the same time, one thread each.

    Parameters: loops: functions of a number of repeats; budget_s: how long to go on; turn_s: length of a turn.
    """
    repeats = _repeats(loops, turn_s)
    turns: list[float] = []
    until = time.perf_counter() + budget_s
    while len(turns) < LEAST_TURNS or time.perf_counter() < until:
        turns.append(max(_together(loops, repeats)) / repeats)
    low, middle, high = np.quantile(turns, (0.25, 0.5, 0.75))
    return Timing(time_s=float(middle), spread_fraction=float((high - low) / middle))


def _repeats(loops: Sequence[Loop], turn_s: float) -> int:
    """Repeats that fill a turn, found by doubling; the first call compiles and fills the caches."""
    _together(loops, 1)
    repeats = 1
    while True:
        taken_s = max(_together(loops, repeats))
        if taken_s >= turn_s / 4 or repeats >= MOST_REPEATS:
            return max(1, min(MOST_REPEATS, round(repeats * turn_s / max(taken_s, 1e-9))))
        repeats *= 4


def _together(loops: Sequence[Loop], repeats: int) -> list[float]:
    """Processor time of each loop, all started together."""
    gate = threading.Barrier(len(loops))
    taken_s = [0.0] * len(loops)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        gate.wait()
        start = time.thread_time()
        try:
            loops[index](repeats)
        except BaseException as failure:  # noqa: BLE001 - handed on to the caller's thread below
            failures.append(failure)
        taken_s[index] = time.thread_time() - start

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(loops))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return taken_s
