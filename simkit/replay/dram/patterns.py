"""Request patterns of the cycle-accurate reference runs, regenerated from their seeds.

Every pattern yields burst addresses in order for one channel (or one pseudo-channel), which of them are writes, and
how many bytes were asked for (chunks that do not start on a burst move more than that). The random calls need not
be those of the reference runs, number for number: the runs differ by less than 0.1 % between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import UserError, did_you_mean
from simkit.replay.dram.simulate import DramConfig

IntArray = NDArray[np.int64]

# Traces are those of the reference runs (simkit/evidence/data/dram_reference.README.md), so both see the same requests.
STREAM_BASE_ALIGNMENT_BYTES: Final = 4096  # of the reference runs
UNALIGNED_STEP_BYTES: Final = 16  # of the reference runs
TOKENS_PER_EVICTED_REGION: Final = 4096  # of the reference runs
MIXED_CHUNK_BYTES: Final = 256  # of the reference runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Burst addresses [n] in bytes, write flags [n] (or None: all reads) and the bytes that were asked for."""

    address_bytes: IntArray
    is_write: IntArray | None
    useful_bytes: int


def bursts_of_chunks(base_bytes: IntArray, length_bytes: int | IntArray, burst_bytes: int) -> IntArray:
    """Addresses of all bursts that [base, base + length) touches, chunk after chunk."""
    first = base_bytes // burst_bytes
    count = (base_bytes + length_bytes - 1) // burst_bytes - first + 1
    ends = np.cumsum(count)
    inside = np.arange(count.sum()) - np.repeat(ends - count, count)
    return np.asarray((np.repeat(first, count) + inside) * burst_bytes, dtype=np.int64)


def _reads(address_bytes: IntArray, useful_bytes: int) -> Trace:
    return Trace(address_bytes=address_bytes, is_write=None, useful_bytes=useful_bytes)


def sequential(config: DramConfig, requests: int) -> Trace:
    """Bursts one after the other from address 0."""
    burst = config.standard.burst_bytes
    return _reads(np.arange(requests, dtype=np.int64) * burst, requests * burst)


def random_chunks(config: DramConfig, requests: int, *, chunk_bytes: int, alignment_bytes: int,
                  rng: np.random.Generator) -> Trace:
    """Chunks at uniformly random multiples of an alignment; as many whole chunks as ``requests`` bursts hold."""
    burst = config.standard.burst_bytes
    places = (config.capacity_bytes - chunk_bytes) // alignment_bytes + 1
    # a chunk that starts anywhere on the alignment grid touches (chunk + burst - step) / burst bursts on average
    step = min(alignment_bytes, burst)
    mean_bursts = max(1.0, (chunk_bytes + burst - step) / burst)
    chunks = max(1, round(requests / mean_bursts))
    base = rng.integers(0, places, chunks) * alignment_bytes
    return _reads(bursts_of_chunks(base, chunk_bytes, burst), chunks * chunk_bytes)


def streams(config: DramConfig, requests: int, *, count: int, bases: str, turn_bytes: int,
            rng: np.random.Generator) -> Trace:
    """``count`` sequential streams, round robin, ``turn_bytes`` a turn.

    ``bases``: ``conflict`` streams start in one bank, stream s in row s; ``spread`` stream s in bank s, row s;
    ``random`` at random multiples of 4 KB.
    """
    standard = config.standard
    number = np.arange(count, dtype=np.int64)
    zero = np.zeros(count, np.int64)
    mapping = config.address_mapping()
    if bases == "conflict":
        base = mapping.encode(stack=zero, group=zero, bank=zero, row=number % standard.rows)
    elif bases == "spread":
        flat = number % standard.banks_per_pseudo_channel
        base = mapping.encode(group=flat % standard.bank_groups,
                              bank=flat // standard.bank_groups % standard.banks_per_group,
                              stack=flat // (standard.bank_groups * standard.banks_per_group),
                              row=number % standard.rows)
    else:
        base = rng.integers(0, config.capacity_bytes // STREAM_BASE_ALIGNMENT_BYTES, count)
        base = base * STREAM_BASE_ALIGNMENT_BYTES
    turn_bytes = max(turn_bytes, standard.burst_bytes)
    turns = max(1, requests * standard.burst_bytes // (turn_bytes * count))
    start = (base[None, :] + np.arange(turns, dtype=np.int64)[:, None] * turn_bytes).ravel()
    address = bursts_of_chunks(start, turn_bytes, standard.burst_bytes) % config.capacity_bytes
    return _reads(address, address.size * standard.burst_bytes)


def mixed(config: DramConfig, requests: int, *, reads_per_write: int, random_reads: bool,
          rng: np.random.Generator) -> Trace:
    """``reads_per_write`` reads of 256 B in one half of the memory, then one 256 B write in the other; repeated."""
    burst = config.standard.burst_bytes
    bursts_each = MIXED_CHUNK_BYTES // burst
    groups = max(1, requests // ((reads_per_write + 1) * bursts_each))
    half = config.capacity_bytes // 2
    places = half // MIXED_CHUNK_BYTES
    if random_reads:
        read = rng.integers(0, places, (groups, reads_per_write)) * MIXED_CHUNK_BYTES
    else:
        read = np.arange(groups * reads_per_write, dtype=np.int64).reshape(groups, reads_per_write)
        read = read % places * MIXED_CHUNK_BYTES
    write = half + rng.integers(0, places, (groups, 1)) * MIXED_CHUNK_BYTES
    base = np.concatenate([read, write], axis=1).ravel()
    is_write = np.zeros((groups, reads_per_write + 1), np.int64)
    is_write[:, -1] = 1
    address = bursts_of_chunks(base, MIXED_CHUNK_BYTES, burst)
    return Trace(address_bytes=address, is_write=np.repeat(is_write.ravel(), bursts_each),
                 useful_bytes=address.size * burst)


def evicted_gather(config: DramConfig, requests: int, *, token_bytes: int, keep_fraction: float,
                   rng: np.random.Generator) -> Trace:
    """Regions of 4096 token rows, each row kept with a probability, read in order; the next region elsewhere."""
    region_bytes = TOKENS_PER_EVICTED_REGION * token_bytes
    burst = config.standard.burst_bytes
    per_region = keep_fraction * TOKENS_PER_EVICTED_REGION * max(token_bytes / burst, 1.0)
    regions = max(1, round(requests / per_region))
    places = config.capacity_bytes // region_bytes
    chunks = []
    for place in rng.integers(0, places, regions):
        kept = np.flatnonzero(rng.random(TOKENS_PER_EVICTED_REGION) < keep_fraction)
        chunks.append(place * region_bytes + kept * token_bytes)
    base = np.concatenate(chunks)
    return _reads(bursts_of_chunks(base, token_bytes, burst), base.size * token_bytes)


Generator = Callable[[DramConfig, int, float, np.random.Generator], Trace]


def _chunk(alignment: Callable[[DramConfig, int], int]) -> Generator:
    def generate(config: DramConfig, requests: int, parameter: float, rng: np.random.Generator) -> Trace:
        chunk_bytes = int(parameter)
        return random_chunks(config, requests, chunk_bytes=chunk_bytes,
                             alignment_bytes=alignment(config, chunk_bytes), rng=rng)
    return generate


def _streams(bases: str, turn_bytes: int | None = None) -> Generator:
    return lambda config, requests, parameter, rng: streams(
        config, requests, count=int(parameter), bases=bases, turn_bytes=turn_bytes or config.standard.burst_bytes,
        rng=rng)


def _mixed(*, random_reads: bool) -> Generator:
    return lambda config, requests, parameter, rng: mixed(
        config, requests, reads_per_write=int(parameter), random_reads=random_reads, rng=rng)


def _evicted(token_bytes: int) -> Generator:
    return lambda config, requests, parameter, rng: evicted_gather(
        config, requests, token_bytes=token_bytes, keep_fraction=parameter, rng=rng)


def _fixed_chunk(chunk_bytes: int) -> Generator:
    def generate(config: DramConfig, requests: int, _parameter: float, rng: np.random.Generator) -> Trace:
        length = max(chunk_bytes, config.standard.burst_bytes)
        return random_chunks(config, requests, chunk_bytes=length, alignment_bytes=length, rng=rng)
    return generate


def _sequential(config: DramConfig, requests: int, _parameter: float, _rng: np.random.Generator) -> Trace:
    return sequential(config, requests)


# The reference runs' own names: g256 in chunks of 256 bytes, row64 in rows of 64 bytes a token.
PATTERNS: Final[dict[str, Generator]] = {
    "sequential": _sequential,
    "chunk_aligned": _chunk(lambda _config, chunk: chunk),
    "chunk_rowaligned": _chunk(lambda config, chunk: max(chunk, config.standard.row_bytes)),
    "chunk_unaligned": _chunk(lambda _config, _chunk: UNALIGNED_STEP_BYTES),
    "random_gather": _chunk(lambda _config, chunk: chunk),
    "streams_conflict_gtx": _streams("conflict"),
    "streams_spread_gtx": _streams("spread"),
    "streams_random_gtx": _streams("random"),
    "streams_conflict_g256": _streams("conflict", 256),
    "streams_spread_g256": _streams("spread", 256),
    "streams_random_g256": _streams("random", 256),
    "mixed_seq": _mixed(random_reads=False),
    "mixed_rand256": _mixed(random_reads=True),
    "mlp_sequential": _sequential,
    "mlp_random_tx": _fixed_chunk(0),
    "mlp_chunk256": _fixed_chunk(256),
    "evict_gather_row64": _evicted(64),
    "evict_gather_row256": _evicted(256),
}


# Bytes of a chunk, streams, reads per write, the share kept: what each kind of pattern can be made for.
_PARAMETERS: Final = {"chunk": (1.0, 1e8), "random": (1.0, 1e8), "streams": (1.0, 65_536.0), "mixed": (1.0, 65_536.0),
                      "evict": (0.001, 1.0)}


def generate(pattern: str, config: DramConfig, *, requests: int, parameter: float, seed: int) -> Trace:
    """The trace of a named pattern with about ``requests`` bursts; ``parameter`` is the pattern's own number."""
    if pattern not in PATTERNS:
        raise UserError(f"unknown request pattern '{pattern}'", hint=did_you_mean(pattern, PATTERNS))
    kind = pattern.partition("_")[0]
    least, most = _PARAMETERS.get(kind, (0.0, math.inf))
    if not least <= parameter <= most:
        raise UserError(f"parameter {parameter:g} of {pattern}: expected {least:g} to {most:,.0f}")
    return PATTERNS[pattern](config, requests, parameter, np.random.default_rng(seed))
