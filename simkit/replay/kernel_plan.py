r"""The mapping of an attention kernel onto a machine: which work items there are, in which order, how they are split.

``grouped`` (FlashDecoding, FlashInfer): one item per sequence x KV head x split; the ``g q`` query rows of a KV head
share each tile. ``per-query-head``: one item per sequence x query head x split; every query head reads its KV head's
tiles again. ``grouped-unsplit`` and the unfused kernel take whole sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simkit.hardware.kernel_shape import PARTIAL_BYTES
from simkit.replay.kernel_choice import KernelChoice, choose_kernels
from simkit.replay.target import ReplayTarget
from simkit.step.operators import AttentionTask, Operator
from simkit.timing.kernel_cost import ChipKernel, UnitKernel

TILE_TOKENS: Final = 64  # tokens of one tile of K or V in FlashDecoding-like kernels; an item reads whole tiles
MOST_SPLITS: Final = 128
MIN_SPLIT_TOKENS: Final = 256  # shorter pieces cost more in the combine pass than they win (FlashInfer, FlashDecoding)
# Loads are issued page by page within a tile; this many granules a slot keep the discretisation of what is in flight
# below a quarter.
GRANULES_IN_FLIGHT: Final = 4
LEAST_GRANULE_TOKENS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlan:
    """Work items as arrays of one entry an item, in dispatch order.

    ``stream`` names the distinct range of the cache that an item reads; items of one stream read the same bytes.
    ``distinct_tokens`` are those that are read at least once. ``splits`` is the mean number of items a head is cut
    into, ``cut`` the pieces of each sequence. ``unit`` is what an item costs its unit where kernels were measured.
    """

    item_tokens: NDArray[np.int64]
    item_stream: NDArray[np.int64]
    streams: int
    distinct_tokens: int
    granule_tokens: int
    granules_in_flight: int
    bytes_per_token: float
    splits: float
    combine_bytes: float
    cut: NDArray[np.int64]
    unit: UnitKernel | None = None

    @property
    def items(self) -> int:
        """Work items."""
        return len(self.item_tokens)

    @property
    def name(self) -> tuple[Any, ...]:
        """Equal for plans of one operator that run alike."""
        return self.unit, self.granule_tokens, self.granules_in_flight, self.cut.tobytes()

    @property
    def granules(self) -> NDArray[np.int64]:
        """Granules of each item."""
        return -(-self.item_tokens // self.granule_tokens)


def split_count(items: int, tokens: float, slots: int) -> int:
    r"""Pieces to cut each item's tokens into: as many as fill the slots, no piece below 256 tokens.

    Of the counts up to the limit, the smallest whose last wave is at least 85 % as full as the best one's
    (FlashAttention's split heuristic, described in Dao et al. 2023, "Flash-Decoding for long-context inference").

    >>> split_count(items=8, tokens=131072, slots=264)      # 232 of 264 slots busy: 88 % of the best
    29
    """
    most = int(min(MOST_SPLITS, tokens // MIN_SPLIT_TOKENS, slots))
    if items >= 0.8 * slots or most <= 1:
        return 1
    counts = np.arange(1, most + 1)
    waves = items * counts / slots
    fill = waves / np.ceil(waves)
    return int(counts[np.argmax(fill >= 0.85 * fill.max())])


def sequence_tokens(task: AttentionTask, sequences: int) -> NDArray[np.int64]:
    """Whole tokens of each sequence, the batch's spread of lengths dealt out evenly, longest first.

    The sum is the mean times the number of sequences, to the token, so that bytes stay those of the operator; it is
    more where the mean is so short that some sequences have less than one token, and are given one.
    """
    tokens = float(task.tokens)
    factors = np.asarray(task.length_factors)
    chosen = np.sort(factors[(np.arange(sequences) * len(factors)) // sequences])[::-1]
    lengths = np.maximum(np.floor(chosen / chosen.mean() * tokens), 1).astype(np.int64)
    missing = round(tokens * sequences) - int(lengths.sum())
    lengths[: max(missing, 0)] += 1
    return np.asarray(lengths, dtype=np.int64)


def plan_kernels(operator: Operator, task: AttentionTask, target: ReplayTarget, *, parameters: ChipKernel | None = None,
                 hit_share: float, alone: bool) -> list[KernelPlan]:
    """Work items of one attention operator on one chip, in each way that is worth a replay.

    Parameters
    ----------
    operator, task, target: what is read, on which chip. A statically scheduled machine has one item: the whole cache
        as one stream.
    parameters: of the chip's measured kernels; the plans are then what a library would choose between.
    hit_share, alone: as :func:`simkit.replay.kernel_choice.choose_kernels` takes them.
    """
    sequences, kv_heads = max(1, round(float(task.sequences))), max(1, round(float(task.kv_heads)))
    lengths = sequence_tokens(task, sequences)
    if parameters is None:
        return [_plan(operator, task, target, lengths, kv_heads)]
    choices = choose_kernels(operator, task, target, parameters, lengths, hit_share=hit_share, alone=alone)
    return [_chosen_plan(choice, operator, target, parameters, lengths, kv_heads) for choice in choices]


def _plan(operator: Operator, task: AttentionTask, target: ReplayTarget, lengths: NDArray[np.int64],
          kv_heads: int) -> KernelPlan:
    """The items of a kernel that nobody measured, cut by FlashAttention's heuristic or as the machine is scheduled."""
    readers, rows = 1, float(task.query_rows)
    if task.kernel == "per-query-head":
        readers, rows = round(task.query_rows / operator.query_rows), float(operator.query_rows)
    # A machine may hold a fraction of a head: its rounded item then stands for that fraction's bytes.
    bytes_per_token = float(operator.kv_read_bytes) / float(lengths.sum() * kv_heads)
    partial_bytes = 2 * rows * (task.value_dim + 2) * PARTIAL_BYTES
    cut = np.ones(len(lengths), dtype=np.int64)
    if target.schedule == "static":
        whole = np.array([lengths.sum() * kv_heads * readers])
        granule, in_flight = _granule(bytes_per_token, target, int(whole[0]))
        return KernelPlan(
            item_tokens=whole, item_stream=np.zeros(1, dtype=np.int64), streams=1, granule_tokens=granule,
            distinct_tokens=int(lengths.sum()) * kv_heads, granules_in_flight=in_flight, splits=1.0, cut=cut,
            bytes_per_token=bytes_per_token, combine_bytes=0.0)
    if target.schedule == "banked":
        cut = _bank_cuts(lengths, kv_heads * readers, target.units, bytes_per_token, partial_bytes)
    elif task.kernel in ("grouped", "per-query-head"):
        cut = _cuts(lengths, kv_heads * readers, target.slots)
    tokens, stream = _items(lengths, cut, kv_heads, readers)
    granule, in_flight = _granule(bytes_per_token, target, int(tokens.max()))
    cut_items = float((cut[cut > 1]).sum() * kv_heads * readers)
    return KernelPlan(
        item_tokens=tokens, item_stream=stream, streams=int(stream.max()) + 1, granule_tokens=granule,
        distinct_tokens=int(lengths.sum()) * kv_heads, granules_in_flight=in_flight, bytes_per_token=bytes_per_token,
        splits=float(cut.mean()), combine_bytes=cut_items * partial_bytes, cut=cut)


def _chosen_plan(choice: KernelChoice, operator: Operator, target: ReplayTarget, parameters: ChipKernel,
                 lengths: NDArray[np.int64], kv_heads: int) -> KernelPlan:
    """The items of a library's choice, with buffers that hold what their unit loads in one latency of the home."""
    unit = choice.unit
    bytes_per_token = float(operator.kv_read_bytes) / float(lengths.sum() * kv_heads)
    tokens, stream = _items(lengths, choice.cut, kv_heads, round(unit.readers))
    rate = min(unit.load_bytes_per_s, bytes_per_token / unit.token_s)
    in_flight_bytes = min(rate * parameters.dram_latency_s, target.outstanding_bytes_per_slot)
    granule = _granule_tokens(in_flight_bytes / bytes_per_token, int(tokens.max()))
    in_flight = in_flight_bytes / (granule * bytes_per_token)
    if in_flight_bytes < target.outstanding_bytes_per_slot:
        # One more passes the load path; and what is computed leaves room for the next load.
        in_flight = max(np.ceil(in_flight) + 1, GRANULES_IN_FLIGHT)
    return KernelPlan(
        item_tokens=tokens, item_stream=stream, streams=int(stream.max()) + 1, granule_tokens=granule,
        distinct_tokens=int(lengths.sum()) * kv_heads, granules_in_flight=max(1, int(in_flight)),
        bytes_per_token=bytes_per_token, splits=float(choice.cut.mean()), combine_bytes=0.0, cut=choice.cut, unit=unit)


def _cuts(lengths: NDArray[np.int64], heads: int, slots: int) -> NDArray[np.int64]:
    """Pieces of each sequence: one piece length for the whole batch, so that a giant is cut into many."""
    mean, longest = float(lengths.mean()), int(lengths.max())
    count = split_count(len(lengths) * heads, mean, slots)
    even = float(lengths.sum()) * heads / slots
    if count == 1 and longest <= 2 * max(mean, even):
        return np.ones(len(lengths), dtype=np.int64)
    pieces = (lengths - 1) * count / mean  # a token over: sequences that differ by rounding have ``count`` pieces
    if longest > 2 * mean:
        pieces = lengths / max(min(mean / count, even), MIN_SPLIT_TOKENS)
    return np.clip(np.ceil(pieces), 1, MOST_SPLITS).astype(np.int64)


def _bank_cuts(lengths: NDArray[np.int64], heads: int, banks: int, bytes_per_token: float,
               partial_bytes: float) -> NDArray[np.int64]:
    r"""Pieces of each sequence in SRAM banks: the piece length of least time, fullest bank plus combine pass.

    A compiler knows both in bytes: :math:`\lceil items/banks \rceil\, tokens\, b \cdot banks + items\, b_{partial}`.
    """
    longest = int(lengths.max())
    # No shorter than a quarter of a bank's even share.
    most = min(longest, -(-4 * banks * longest // (heads * int(lengths.sum()))))
    best, cost = np.ones(len(lengths), dtype=np.int64), np.inf
    for count in range(1, most + 1):
        piece = -(-longest // count)
        cut = -(-lengths // piece)
        items = int(cut.sum()) * heads
        fullest = max(-(-items // banks) * float(lengths.sum() / cut.sum()), piece) * bytes_per_token * banks
        found = fullest + items * partial_bytes * (cut.max() > 1)
        if found < cost:
            best, cost = cut, found
    return np.asarray(best, dtype=np.int64)


def _items(lengths: NDArray[np.int64], cut: NDArray[np.int64], kv_heads: int,
           readers: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and stream of each item: sequences in order, their heads, each head's readers side by side, its pieces."""
    tokens: list[Any] = []
    stream: list[Any] = []
    first = 0
    for length, count in zip(lengths.tolist(), cut.tolist(), strict=True):
        count = min(count, length)  # noqa: PLW2901  # a piece has at least one token
        edges = (np.arange(count + 1) * length) // count
        pieces = np.diff(edges)
        tokens.append(np.tile(np.repeat(pieces, readers), kv_heads))
        own = np.repeat(np.arange(count), readers)
        stream.append((first + np.arange(kv_heads)[:, None] * count + own[None, :]).ravel())
        first += kv_heads * count
    return np.concatenate(tokens).astype(np.int64), np.concatenate(stream).astype(np.int64)


def _granule(bytes_per_token: float, target: ReplayTarget, longest_item: int) -> tuple[int, int]:
    """Tokens that one load brings, and how many such loads a slot keeps in flight.

    Without a bound on the bytes in flight, as many as hide the path's latency at its rate. A sixteenth of the longest
    item at most, so that filling the pipeline with the first load stays a detail.
    """
    if np.isfinite(target.outstanding_bytes_per_slot):
        granule = _granule_tokens(target.outstanding_bytes_per_slot / bytes_per_token, longest_item)
        return granule, max(1, int(target.outstanding_bytes_per_slot / (granule * bytes_per_token)))
    granule = min(_most_granule_tokens(longest_item), longest_item)
    rate = min(server.bytes_per_s for server in target.path) / target.slots
    hidden = max(server.latency_s for server in target.path) * rate / (granule * bytes_per_token)
    return granule, GRANULES_IN_FLIGHT + int(np.ceil(hidden))


def _most_granule_tokens(longest_item: int) -> int:
    return int(np.clip(2.0 ** np.floor(np.log2(longest_item / 16)), LEAST_GRANULE_TOKENS, TILE_TOKENS))


def _granule_tokens(in_flight_tokens: float, longest_item: int) -> int:
    tokens = max(in_flight_tokens / GRANULES_IN_FLIGHT, 1)  # none in flight where nobody states a latency
    return int(np.clip(2.0 ** np.floor(np.log2(tokens)), LEAST_GRANULE_TOKENS, _most_granule_tokens(longest_item)))
