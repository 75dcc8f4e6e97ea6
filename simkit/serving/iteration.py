"""What one iteration takes, read from the tables: compiled, because the event loop asks a million times."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.jit_cache import compiled, stamp_module

Floats = NDArray[np.float64]


class Tables(NamedTuple):
    """The grid as the event loop reads it; times in seconds, energies in joules beyond idle power.

    batch, kv_len: axes of ``step_s``, ``attention_s``, ``step_j`` [batch, kv_len].
    row_s, row_j: what ``rows`` (the index) cost outside attention and sampling. end_s: sampling that many rows.
    chunk_tokens, end_tokens: axes of ``prefill_s``, ``prefill_j`` [chunk, end]: attention of a prompt's chunk.
    fixed_s: what an iteration without decoding sequences starts from.
    """

    batch: Floats
    kv_len: Floats
    step_s: Floats
    attention_s: Floats
    step_j: Floats
    row_s: Floats
    row_j: Floats
    end_s: Floats
    chunk_tokens: Floats
    end_tokens: Floats
    prefill_s: Floats
    prefill_j: Floats
    fixed_s: float


@compiled()
def cell(axis: Floats, value: float) -> int:
    """Index of the knot at or below ``value``, such that a next knot exists; the ends extrapolate."""
    at_or_below = int(np.searchsorted(axis, value, side="right")) - 1
    return min(max(at_or_below, 0), max(axis.size - 2, 0))


@compiled()
def along_context(table: Floats, tables: Tables, batch: int, place: int) -> tuple[float, float]:
    """``(value at knot, slope per token)`` of a [batch, kv_len] table in the context cell ``place``."""
    if batch <= tables.batch.size and tables.batch[batch - 1] == batch:
        row, share = batch - 1, 0.0
    else:
        row = cell(tables.batch, batch)
        share = (batch - tables.batch[row]) / (tables.batch[row + 1] - tables.batch[row])
    low, high = table[row, place], table[row, place + 1]
    if share > 0.0:
        low += share * (table[row + 1, place] - low)
        high += share * (table[row + 1, place + 1] - high)
    return low, (high - low) / (tables.kv_len[place + 1] - tables.kv_len[place])


@compiled()
def at_context(table: Floats, tables: Tables, batch: int, kv_len: float) -> float:
    """A [batch, kv_len] table read at one point."""
    place = cell(tables.kv_len, kv_len)
    value, slope = along_context(table, tables, batch, place)
    return float(value + slope * (kv_len - tables.kv_len[place]))


@compiled()
def chunk_attention(table: Floats, tables: Tables, chunk_tokens: float, end_tokens: float) -> float:
    """A [chunk, end] table of a prompt's attention, bilinear."""
    row, column = cell(tables.chunk_tokens, chunk_tokens), cell(tables.end_tokens, end_tokens)
    first, second = 0.0, 0.0
    if tables.chunk_tokens.size > 1:
        first = (chunk_tokens - tables.chunk_tokens[row]) / (tables.chunk_tokens[row + 1] - tables.chunk_tokens[row])
    if tables.end_tokens.size > 1:
        second = (end_tokens - tables.end_tokens[column]) / (tables.end_tokens[column + 1] - tables.end_tokens[column])
    below = table[row, column] + second * (table[row, column + 1] - table[row, column])
    above = table[row + 1, column] + second * (table[row + 1, column + 1] - table[row + 1, column])
    return float(below + first * (above - below))


@compiled()
def prompt_rows_s(tables: Tables, decoding_rows: int, prompt_rows: int, ending: int) -> float:
    """What prompt rows add to an iteration outside attention, and the sampling of prompts that end in it."""
    linear = tables.row_s[decoding_rows + prompt_rows] - tables.row_s[decoding_rows]
    return float(linear + tables.end_s[decoding_rows + ending] - tables.end_s[decoding_rows])


def mixed_step_s(tables: Tables, batch: float, kv_len: float, chunk_tokens: float, end_tokens: float,
                 verified_tokens: int) -> Any:
    """One iteration of ``batch`` decoding sequences and one prompt's chunk that goes on after it, from the tables."""
    time = at_context(tables.step_s, tables, int(batch), kv_len)
    if chunk_tokens > 0:
        time += prompt_rows_s(tables, int(batch) * verified_tokens, int(chunk_tokens), 0)
        time += chunk_attention(tables.prefill_s, tables, chunk_tokens, end_tokens)
    return time

stamp_module(globals())
