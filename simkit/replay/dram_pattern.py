"""What share of a DRAM's streaming rate an access pattern reaches, by replaying one channel's part of it.

A kernel's slots read many ranges at once; each range is contiguous for a while (a tile of one head, a page, a kept
token). The address interleave deals these ranges to channels; one channel sees them mixed, and its banks and rows
decide what is lost. Profiles carry the rate that long streams reach on the real chip; a pattern's rate is that rate
times (channel model on the pattern) / (channel model on one long stream), never above 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.hardware.profile import MemoryLevel
from simkit.replay.dram.interleave import ChannelInterleave
from simkit.replay.dram.patterns import bursts_of_chunks
from simkit.replay.dram.simulate import DramConfig, replay_requests
from simkit.replay.dram.standards import STANDARDS, DramStandard, at_clock

# Of one channel. Eight times as many change the fraction by 0.5 % on average and 3.5 % at most (19 patterns on 8
# memories); a quarter as many did so by 1.1 and, GDDR6 and heads side by side, 15 %.
SAMPLE_REQUESTS: Final = 24_000
GOLDEN: Final = (5**0.5 - 1) / 2  # the golden section: multiples of it are spread most evenly
LEAST_RUN_BYTES: Final = 32  # no standard here has a smaller burst
# Bytes that one channel holds before the next one's turn. Not published. With 256 or 512 the activation window would
# cost tile reads a third of GDDR6's rate and a quarter of HBM2e's; measured decode kernels reach 0.87-0.97 of peak.
INTERLEAVE_BYTES: Final = 1024
MAPPING: Final = "bg128x"  # lines alternate bank groups, banks are hashed with the row: what GPU controllers resemble
# The set of timings that stands in for a family; the clock is then set so that the peak is the profile's.
_FAMILY_BASE: Final = {
    "HBM2": "HBM2_2400", "HBM2e": "HBM2e_3200", "HBM3": "HBM3_6400", "HBM3e": "HBM3e_8000", "HBM4": "HBM4_8000",
    "GDDR6": "GDDR6_14000", "GDDR6X": "GDDR6_14000", "GDDR7": "GDDR6_14000", "LPDDR4": "LPDDR5_6400",
    "LPDDR4X": "LPDDR5_6400", "LPDDR5": "LPDDR5_6400", "LPDDR5X": "LPDDR5_6400", "DDR4": "DDR5_4800",
    "DDR5": "DDR5_4800",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Ranges of ``run_bytes`` read by ``streams`` readers in turn; consecutive runs of a reader are ``stride_bytes``
    apart (equal to the run: contiguous).

    The first runs of ``neighbours`` readers lie side by side (heads of one token); such groups are spread over the
    footprint. With ``rows_a_turn`` a reader gathers so many runs at once, each at a multiple of its length: chosen at
    random, ``stride_bytes`` apart on average and in ascending order, as a compaction leaves them.
    """

    streams: int
    run_bytes: int
    stride_bytes: float
    footprint_bytes: int
    neighbours: int = 1
    rows_a_turn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternRate:
    """``fraction`` of the streaming rate that the pattern reaches, and its row hits."""

    fraction: float
    row_hit_fraction: float


def standard_of(level: MemoryLevel) -> tuple[DramStandard, int] | None:
    """The timing set of a level's DRAM, clocked to its peak, and its number of channels; None when it names no DRAM."""
    geometry, peak = level.dram, level.chip_bandwidth_bytes_per_s
    if geometry is None or peak is None:
        return None
    base = STANDARDS[_FAMILY_BASE[geometry.type]]
    channels = geometry.channels or max(1, round(float(peak) / base.peak_bandwidth_bytes_per_s))
    period_ps = max(1, round(base.burst_bytes / (base.burst_cycles * float(peak) / channels) * 1e12))
    return at_clock(base, name=f"{geometry.type} at {period_ps} ps", clock_period_ps=period_ps), channels


def pattern_rate(level: MemoryLevel, pattern: Pattern) -> PatternRate:
    """Share of ``level``'s streaming rate that the pattern reaches; 1 where the level is no DRAM or names none."""
    found = standard_of(level)
    if found is None:
        return PatternRate(fraction=1.0, row_hit_fraction=1.0)
    standard, channels = found
    return _rate(standard, channels, pattern)


@lru_cache(maxsize=4096)
def _rate(standard: DramStandard, channels: int, pattern: Pattern) -> PatternRate:
    config = DramConfig(standard=standard, mapping=MAPPING)
    burst, wanted = standard.burst_bytes, 1.0
    if pattern.rows_a_turn:
        requests, wanted_bytes = gathered_requests(pattern, channels, burst, config.capacity_bytes)
        wanted = wanted_bytes / (len(requests) * burst)
    else:
        requests = channel_requests(pattern, channels, burst, config.capacity_bytes)
    result = replay_requests(config, requests, completions=False)
    fraction = wanted * result.achieved_fraction_of_peak / _streaming_fraction(config, len(requests))
    return PatternRate(fraction=min(fraction, 1.0), row_hit_fraction=result.row_hit_fraction)


@lru_cache(maxsize=64)
def _streaming_fraction(config: DramConfig, requests: int) -> float:
    stream = np.arange(requests, dtype=np.int64) * config.standard.burst_bytes
    return replay_requests(config, stream, completions=False).achieved_fraction_of_peak


def channel_requests(pattern: Pattern, channels: int, burst_bytes: int, channel_bytes: int, *,
                     about: int = SAMPLE_REQUESTS) -> NDArray[np.int64]:
    """Addresses inside one channel, in order, of ``about`` so many bursts that the pattern sends there.

    Groups of neighbours start where the golden ratio's multiples fall in the footprint, as allocators place sequences
    without regard to banks, and take turns, one run at a time: a tile is asked for at once.
    """
    block = INTERLEAVE_BYTES
    reader = np.arange(pattern.streams, dtype=np.int64)
    place = (reader // pattern.neighbours * GOLDEN) % 1.0 * pattern.footprint_bytes
    bases = place.astype(np.int64) // block * block + reader % pattern.neighbours * pattern.run_bytes
    blocks_a_run = max(1, pattern.run_bytes // block)
    bursts = np.arange(-(-min(block, pattern.run_bytes) // burst_bytes), dtype=np.int64) * burst_bytes  # of a block
    turns = -(-about * channels // (len(bursts) * blocks_a_run * pattern.streams))
    run_start = np.arange(turns, dtype=np.int64) * pattern.stride_bytes
    inside = np.arange(blocks_a_run, dtype=np.int64) * block
    address = (run_start[:, None, None] + bases[None, :, None] + inside[None, None, :]).ravel()
    channel, within = ChannelInterleave(channels=channels, granularity_bytes=block).split(address)
    chosen = within[channel == channel[0]]
    requests = ((chosen // burst_bytes * burst_bytes)[:, None] + bursts[None, :]).ravel()
    return np.asarray(requests[: 2 * about] % channel_bytes, dtype=np.int64)


def gathered_requests(pattern: Pattern, channels: int, burst_bytes: int, channel_bytes: int, *,
                      about: int = SAMPLE_REQUESTS) -> tuple[NDArray[np.int64], int]:
    """Addresses inside one channel, in order, of the bursts that hold its part of the rows; and the bytes of that part.

    Readers start anywhere, as pages do. A burst that two rows share, one after the other, is fetched once. Fixed seeds:
    equal patterns, equal results.
    """
    block, row, readers = INTERLEAVE_BYTES, pattern.run_bytes, pattern.streams
    turns = -(-about * burst_bytes * channels // (readers * pattern.rows_a_turn * row))
    gaps = np.random.default_rng(0).geometric(min(1.0, row / pattern.stride_bytes),
                                              (readers, turns, pattern.rows_a_turn))
    places = (np.cumsum(gaps.reshape(readers, -1), axis=1) - 1).reshape(gaps.shape)
    bases = np.random.default_rng(1).integers(0, max(1, pattern.footprint_bytes // block), readers) * block
    start = ((places * row + bases[:, None, None]).swapaxes(0, 1)).ravel()
    # Rows cut where channels take turns, then bursts of the pieces that lie in the first one's channel.
    at = bursts_of_chunks(start, row, block)
    owner = np.repeat(start, (start + row - 1) // block - start // block + 1)
    channel, within = ChannelInterleave(channels=channels, granularity_bytes=block).split(at)
    mine = np.flatnonzero(channel == channel[0])
    low, high = np.maximum(owner[mine], at[mine]), np.minimum(owner[mine] + row, at[mine] + block)
    requests = bursts_of_chunks(within[mine] + low - at[mine], high - low, burst_bytes)
    fresh = requests[np.diff(requests, prepend=-1) != 0]
    return fresh % channel_bytes, int((high - low).sum())


def gathered_rate(level: MemoryLevel, tiles: PatternRate, *, streams: int, row_bytes: float, stride_rows: float,
                  tile_rows: int, footprint_bytes: float) -> PatternRate:
    r"""The rate of rows that an index has chosen: that of ``tiles``, less what lying apart takes of the same reads.

    .. math:: f = f_{tiles} \cdot \min(1, f_{apart} / f_{side by side})

    Parameters
    ----------
    level, tiles: the memory, and what reads of rows in a row reach of its stream.
    streams: arrays that are read at once.
    row_bytes, stride_rows: of a row, and rows from one chosen one to the next on average.
    tile_rows: chosen rows that a reader asks for at once.
    footprint_bytes: of the chosen rows.
    """
    row = max(1, round(row_bytes))
    apart, together = (pattern_rate(level, Pattern(
        streams=streams, run_bytes=row, stride_bytes=row * rows, rows_a_turn=tile_rows,
        footprint_bytes=_power_of_two(max(int(footprint_bytes * stride_rows), row)))) for rows in (stride_rows, 1.0))
    return PatternRate(fraction=tiles.fraction * min(1.0, apart.fraction / together.fraction),
                       row_hit_fraction=apart.row_hit_fraction)


def tile_pattern(*, streams: int, bytes_per_token: float, parts: int, tile_tokens: int, page_tokens: int,
                 neighbours: int, stride_tokens: float, footprint_bytes: float) -> Pattern:
    """What DRAM sees of a kernel's tile reads.

    Parameters
    ----------
    streams: work items that read at once.
    bytes_per_token: of one head, all parts.
    parts: arrays that an item reads: keys and values apart, or MLA's one latent.
    tile_tokens: tokens that a kernel asks for at once.
    page_tokens: tokens that lie together; 1 for a contiguous cache.
    neighbours: heads whose vectors lie side by side (1: head-major).
    stride_tokens: distance of consecutive kept tokens, in tokens.
    footprint_bytes: of the whole cache; its power of two, so that nearly equal kernels share one replay.
    """
    token_bytes = bytes_per_token / parts
    contiguous = neighbours == 1 and stride_tokens < 2.0
    run_tokens = 1 if not contiguous else tile_tokens if page_tokens <= 1 else min(tile_tokens, page_tokens)
    run = _power_of_two(max(LEAST_RUN_BYTES, int(run_tokens * token_bytes)))
    stride = run if contiguous else run * neighbours * max(1, round(stride_tokens))
    return Pattern(streams=streams * parts, run_bytes=run, stride_bytes=stride,
                   neighbours=min(neighbours, streams * parts),
                   footprint_bytes=_power_of_two(max(int(footprint_bytes), run)))


def _power_of_two(size: int) -> int:
    return 1 << (size.bit_length() - 1)
