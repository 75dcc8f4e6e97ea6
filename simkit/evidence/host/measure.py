"""Measuring this machine: bandwidth and latency of each cache level and of DRAM, arithmetic, exponentials.

Bandwidths are those of reads as attention makes them, two sequences of rows in tiles by turns, by all cores at once.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.evidence.host.caches import CacheSize, cache_sizes
from simkit.evidence.host.clock import Timing, time_loops, usable_cpus

HEAD_DIM: Final = 128
ROW_BYTES: Final = HEAD_DIM * 4
GEMM_WIDTH: Final = 768
WHOLE_BUDGET_S: Final = 20.0
QUICK_BUDGET_S: Final = 5.0
LARGEST_BUFFER_BYTES: Final = 256e6  # enough where the last cache is a third of it or less
LEAST_BEYOND_CACHE: Final = 3.0
BEYOND_CACHE: Final = 6.0  # times the last cache: what is left of it no longer helps
# Sizes around the last cache at which its effective capacity is looked for, over the nominal one.
CAPACITY_STEPS: Final = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25)
ASSUMED_STEPS: Final = (2.0, 4.0)  # further ones where nobody says how large the cache is


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelParameters:
    """One memory level as measured; bandwidth of all cores together."""

    name: str
    cache: CacheSize | None
    capacity_bytes: float
    bandwidth_bytes_per_s: float
    latency_s: float
    spread_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostParameters:
    """Everything that was measured on this machine."""

    processor: str
    cores: int
    clock_hz: float | None
    levels: tuple[LevelParameters, ...]
    gemm_flop_per_s: float
    rows_flop_per_s: float
    exponential_ops_per_s: float
    item_s: float
    outstanding_bytes: float
    memory_bytes: float


def rows_of(count: int) -> Any:
    """``count`` rows of float32, the same thousand random ones over and over: drawing more would take longer."""
    block = np.random.default_rng(7).standard_normal((1024, HEAD_DIM), dtype=np.float32)
    return np.resize(block, (max(count, 1), HEAD_DIM))


def measure_host(*, budget_s: float = 30.0) -> HostParameters:
    """Measure for about ``budget_s`` seconds; the first run compiles for some seconds more."""
    count = len(usable_cpus())
    caches = cache_sizes(usable_cpus())
    memory_bytes = _memory_bytes()
    slot_s = budget_s / (2 * len(caches) + len(CAPACITY_STEPS) + 9)
    last = caches[-1].instance_bytes * caches[-1].instances * (max(ASSUMED_STEPS) if caches[-1].assumed else 1.0)
    beyond = buffer_beyond_caches_bytes(last, memory_bytes)
    # DRAM is shared with whatever else runs: read at the start, in the middle and at the end, the middle rate counts.
    reads = [_read(beyond, count, slot_s)]
    levels = [_cache_parameters(cache, caches, count, slot_s) for cache in caches]
    reads.append(_read(beyond, count, slot_s))
    alone = _read(beyond / count, 1, slot_s)
    latency = _latency(beyond, slot_s)
    arithmetic = _arithmetic(count, slot_s)
    reads.append(_read(beyond, count, slot_s))
    dram = sorted(reads, key=lambda read: read[0])[1]
    if not caches[-1].per_core:
        levels[-1] = replace(levels[-1], capacity_bytes=_effective_capacity(levels[-1], dram[0], count, slot_s))
    levels.append(LevelParameters(name="dram", cache=None, capacity_bytes=memory_bytes, bandwidth_bytes_per_s=dram[0],
                               latency_s=latency.time_s, spread_fraction=dram[1].spread_fraction))
    return HostParameters(
        processor=_processor(), cores=count, clock_hz=_clock_hz(), levels=at_least_as_fast_as_what_passes(levels),
        memory_bytes=memory_bytes,
        outstanding_bytes=alone[0] * latency.time_s, **arithmetic)


def between(before: HostParameters, after: HostParameters) -> HostParameters:
    """The machine half-way between two measurements of it: clocks and neighbours drift, and geometric means follow."""
    def mean(one: float, other: float) -> float:
        return float(np.sqrt(one * other))

    levels = [replace(
        first, capacity_bytes=mean(first.capacity_bytes, last.capacity_bytes),
        bandwidth_bytes_per_s=mean(first.bandwidth_bytes_per_s, last.bandwidth_bytes_per_s),
        latency_s=mean(first.latency_s, last.latency_s),
        spread_fraction=max(first.spread_fraction, last.spread_fraction))
        for first, last in zip(before.levels, after.levels, strict=True)]
    return replace(
        before, levels=at_least_as_fast_as_what_passes(levels),
        gemm_flop_per_s=mean(before.gemm_flop_per_s, after.gemm_flop_per_s),
        rows_flop_per_s=mean(before.rows_flop_per_s, after.rows_flop_per_s),
        exponential_ops_per_s=mean(before.exponential_ops_per_s, after.exponential_ops_per_s),
        item_s=mean(before.item_s, after.item_s),
        outstanding_bytes=mean(before.outstanding_bytes, after.outstanding_bytes))


def buffer_beyond_caches_bytes(last_cache_bytes: float, memory_bytes: float) -> float:
    """A working set that DRAM has to serve: some times the last cache, and an eighth of the memory at most.

    >>> buffer_beyond_caches_bytes(32e6, 16e9) / 1e6, buffer_beyond_caches_bytes(768e6, 1e12) / 1e6
    (192.0, 2304.0)
    """
    most = max(LARGEST_BUFFER_BYTES, LEAST_BEYOND_CACHE * last_cache_bytes)
    return min(max(BEYOND_CACHE * last_cache_bytes, 64e6), most, memory_bytes / 8)


def at_least_as_fast_as_what_passes(levels: Sequence[LevelParameters]) -> tuple[LevelParameters, ...]:
    """Levels, nearest first, with bandwidths that fall outwards: what a level delivers has passed every nearer one.

    A nearer level that read slower than a farther one was disturbed while it was measured; the farther reading is then
    a lower bound on it.
    """
    passed: list[LevelParameters] = []
    fastest = 0.0
    for level in reversed(levels):
        fastest = max(fastest, level.bandwidth_bytes_per_s)
        passed.append(replace(level, bandwidth_bytes_per_s=fastest))
    return tuple(reversed(passed))


def _cache_parameters(cache: CacheSize, caches: list[CacheSize], count: int, slot_s: float) -> LevelParameters:
    """Parameters of a level, with a working set well inside it and well outside of the nearer ones."""
    whole = cache.instance_bytes * (count if cache.per_core else cache.instances)
    nearer = [other.instance_bytes * (count if other.per_core else other.instances)
              for other in caches if other.level < cache.level]
    inside = whole / 2 if not nearer else max(whole / 2, min(1.5 * nearer[-1], 0.75 * whole))
    sizes = [inside]
    if not cache.per_core:
        # Others use a shared cache too and may leave less than a quarter of it; a smaller working set is read as well.
        inside = min(4.0 * nearer[-1], whole / 2) if nearer else whole / 8
        sizes = [inside, max(whole / 4, inside)]
    rate, timing = max((_read(size, count, slot_s / len(sizes)) for size in sizes), key=lambda read: read[0])
    chased = inside / count if cache.per_core else inside
    capacity = cache.instance_bytes * (1 if cache.per_core else cache.instances)
    return LevelParameters(name=f"l{cache.level}", cache=cache, capacity_bytes=capacity, bandwidth_bytes_per_s=rate,
                        latency_s=_latency(chased, slot_s).time_s, spread_fraction=timing.spread_fraction)


def _read(total_bytes: float, count: int, budget_s: float) -> tuple[float, Timing]:
    """Bytes per second of ``count`` cores that read ``total_bytes`` over and over, each its own part."""
    from simkit.evidence.host.kernels import read_tiles

    rows = max(4, int(total_bytes / count / 2 / ROW_BYTES))
    query = rows_of(1)[0]
    parts = [(rows_of(rows), rows_of(rows)) for _ in range(count)]
    timing = time_loops([partial(read_tiles, a, b, query) for a, b in parts], budget_s=budget_s)
    return count * 2 * rows * ROW_BYTES / timing.time_s, timing


def _effective_capacity(level: LevelParameters, dram_bytes_per_s: float, count: int, slot_s: float) -> float:
    """The working set at which bandwidth falls halfway (geometrically) from the cache's to DRAM's.

    A last cache is shared with other programs, on a rented machine with other tenants: less than its size is ours.
    """
    halfway = np.sqrt(level.bandwidth_bytes_per_s * dram_bytes_per_s)
    assumed = level.cache is not None and level.cache.assumed
    nominal = level.capacity_bytes
    sizes = [nominal * step for step in (*CAPACITY_STEPS, *(ASSUMED_STEPS if assumed else ()))]
    most = sizes[-1] if assumed else nominal
    rates = [_read(size, count, slot_s)[0] for size in sizes]
    for before, after in zip(range(len(sizes)), range(1, len(sizes)), strict=False):
        if rates[after] < halfway:
            share = (np.log(rates[before]) - np.log(halfway)) / (np.log(rates[before]) - np.log(rates[after]))
            return float(np.clip(sizes[before] + share * (sizes[after] - sizes[before]), sizes[0], most))
    return most


def _latency(size_bytes: float, budget_s: float) -> Timing:
    from simkit.evidence.host.kernels import LINE_BYTES, chase, random_cycle

    successor = random_cycle(max(16, int(size_bytes / LINE_BYTES)))
    return time_loops([partial(chase, successor, 0)], budget_s=budget_s)


def _arithmetic(count: int, slot_s: float) -> dict[str, float]:
    """Rates of all cores: a matrix product, products with rows in the nearest cache, softmax, one row of one token."""
    from simkit.evidence.host.kernels import TILE_TOKENS, attend, row_products, softmax_tiles

    query = rows_of(1)[0]
    tiles = [rows_of(TILE_TOKENS) for _ in range(count)]
    outs = [np.zeros(HEAD_DIM, np.float32) for _ in range(count)]
    rows = time_loops([partial(row_products, query, k, o) for k, o in zip(tiles, outs, strict=True)], budget_s=slot_s)
    softmax = [partial(softmax_tiles, rows_of(1)[0, :TILE_TOKENS].copy(), np.empty(TILE_TOKENS, np.int32),
                       np.empty(TILE_TOKENS, np.float32)) for _ in range(count)]
    powers = time_loops(softmax, budget_s=slot_s)
    query_in, key, value, out = (rows_of(1).reshape(1, 1, HEAD_DIM).copy() for _ in range(4))
    empty = time_loops([partial(attend, query_in, key, value, out)], budget_s=slot_s)
    rows_rate = count * 4 * TILE_TOKENS * HEAD_DIM / rows.time_s
    return {"gemm_flop_per_s": max(_gemm_flop_per_s(slot_s), rows_rate), "rows_flop_per_s": rows_rate,
            "exponential_ops_per_s": count * TILE_TOKENS / powers.time_s, "item_s": empty.time_s}


def _gemm_flop_per_s(budget_s: float) -> float:
    """The fastest of many square products of NumPy's BLAS, which starts its own threads: here wall time counts."""
    a = np.random.default_rng(1).standard_normal((GEMM_WIDTH, GEMM_WIDTH), dtype=np.float32)
    fastest = float("inf")
    until = time.perf_counter() + budget_s
    while time.perf_counter() < until or fastest == float("inf"):
        start = time.perf_counter()
        a @ a
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * GEMM_WIDTH**3 / fastest


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 8e9


def _cpuinfo(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine() or "unknown processor"


def _clock_hz() -> float | None:
    text = _cpuinfo("cpu MHz")
    return float(text) * 1e6 if text else None
