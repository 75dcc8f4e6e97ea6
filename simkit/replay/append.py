r"""The append of new keys and values, put through the DRAM's banks beside the reads of the attention kernel.

Each sequence writes one vector a head and part, far from every other: rows of their own. Controllers collect writes
and drain them in batches between reads; each batch turns the data bus around twice and opens rows that no read wants.
What one written run costs is what it adds to a channel that reads tiles:

.. math:: t_{write} = \frac{T(\text{reads and writes}) - T(\text{the same reads})}{\text{written runs}}

A channel that never idles amortises its batches alike at any ratio of reads to writes, so that a short sample with
many writes tells the cost of few.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile, MemoryLevel
from simkit.replay.dram.simulate import DramConfig, replay_requests
from simkit.replay.dram.standards import DramStandard
from simkit.replay.dram_pattern import MAPPING, Pattern, channel_requests, standard_of, tile_pattern
from simkit.replay.kernel_plan import TILE_TOKENS
from simkit.step.operators import AttentionTask, Operator
from simkit.step.placement import Placement
from simkit.timing.single_points import at_point
from simkit.timing.step_timing import TimedOperator

READ_STREAMS: Final = 64  # tiles that are read in turn beside the writes, as of a chip full of work items
DRAWS: Final = 8  # of the places that are written: one alone moves their cost by up to 20 %
READ_BURSTS: Final = 6000  # in the sample, at each draw
READ_RUNS_A_WRITE: Final = 16  # in the sample; 51 waiting bursts start a batch, so that it holds dozens of batches


def with_append(timed: TimedOperator, operator: Operator, reader: Operator, placement: Placement,
                chips: list[HardwareProfile], shape: tuple[int, ...]) -> TimedOperator:
    """An append that was timed as a stream, with what its scattered writes cost beyond that.

    Parameters
    ----------
    timed, operator: the append as streamed bytes.
    reader: the attention operator of the same layers.
    placement, chips, shape: where the cache lives, the profile of each point, the shape of all points.
    """
    task = reader.attention
    if task is None:
        raise ValueError(f"{reader.name} is not an attention operator")
    total: Any = np.broadcast_to(np.asarray(timed.total_s, dtype=float), shape)
    causes = dict(timed.cause_s)
    for name, share in placement.kv.items():
        extra = np.zeros(shape)
        for index, chip in enumerate(chips):
            written = at_point(operator.kv_write_bytes, index, shape) * at_point(share, index, shape)
            level = chip.level(name)
            if written > 0 and level.kind == "dram" and level.achievable_bytes_per_s is not None:
                fraction = append_fraction(
                    level, task, at_point(reader.kv_read_bytes, index, shape),
                    at_point(task.bytes_per_token_head, index, shape),
                    round(at_point(task.interleaved_heads, index, shape)))
                extra.flat[index] = written / float(level.achievable_bytes_per_s) * (1.0 / fraction - 1.0)
        total = total + extra
        causes[name] = causes.get(name, 0.0) + extra
    return TimedOperator(total_s=total, cause_s=causes, level_bytes=timed.level_bytes)


def append_fraction(level: MemoryLevel, task: AttentionTask, read_bytes: float, bytes_per_token: float,
                    interleaved_heads: int) -> float:
    """Share of a level's streaming rate at which an append's bytes are written; 1 where it names no DRAM."""
    found = standard_of(level)
    if found is None:
        return 1.0
    parts = task.arrays
    reads = tile_pattern(
        streams=READ_STREAMS, bytes_per_token=bytes_per_token, parts=parts, tile_tokens=TILE_TOKENS, page_tokens=1,
        neighbours=1, stride_tokens=1.0, footprint_bytes=read_bytes)
    run_bytes = int(bytes_per_token / parts * max(1, interleaved_heads))
    return _written_fraction(*found, reads, max(1, run_bytes))


@lru_cache(maxsize=256)
def _written_fraction(standard: DramStandard, channels: int, reads: Pattern, run_bytes: int) -> float:
    config = DramConfig(standard=standard, mapping=MAPPING)
    burst = standard.burst_bytes
    read = channel_requests(reads, channels, burst, config.capacity_bytes, about=READ_BURSTS)
    bursts = -(-run_bytes // burst)
    # A row's worth at most of one run lies in this channel; longer runs are as many.
    bursts = min(bursts, standard.row_bytes // burst)
    runs = max(1, len(read) // (READ_RUNS_A_WRITE * bursts))
    size = bursts * burst
    before = np.repeat(np.linspace(0, len(read), runs, endpoint=False).astype(np.int64), bursts)
    is_write = np.insert(np.zeros(len(read), dtype=np.int64), before, 1)
    # Sequences grew apart: nothing orders their ends. Fixed seeds, so that equal inputs give equal results.
    together_s = []
    for draw in range(DRAWS):
        start = np.random.default_rng(draw).integers(0, config.capacity_bytes // size, runs) * size
        written = start[:, None] + np.arange(bursts, dtype=np.int64) * burst
        both = replay_requests(config, np.insert(read, before, written.ravel()), is_write=is_write, completions=False)
        together_s.append(both.elapsed_s)
    alone = replay_requests(config, read, completions=False)
    streamed = replay_requests(config, np.arange(len(read), dtype=np.int64) * burst, completions=False)
    added_s = float(np.mean(together_s)) - alone.elapsed_s
    wanted_s = runs * run_bytes / -(-run_bytes // size) * streamed.elapsed_s / (len(read) * burst)
    return float(min(1.0, wanted_s / added_s)) if added_s > 0 else 1.0
