r"""Step times of a replica on a grid, read by interpolation, and how far that is from asking the engine directly.

Over sequences and rows the tables of the closed-form engine are dense (tile padding and experts make steps that a
coarse grid would smear); over context they are linear between geometric knots. The replay engine is asked on a coarse
grid, and the ratio of its step to the closed form's is interpolated over both logarithms:
:math:`S = S_{roofline}(D, N)\, r(\log D, \log N)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.serving.iteration import Floats, Tables, mixed_step_s
from simkit.serving.replica import Replica
from simkit.serving.runtime import Runtime
from simkit.study.engines import DEFAULT, engine_named
from simkit.timing.prompt_attention import TILE_ROWS

CONTEXT_KNOTS: Final = 128  # doubled until the promised error holds
MOST_CONTEXT_KNOTS: Final = 1024
CHUNK_KNOTS: Final = 48  # of prompt tokens of an iteration, geometric
FINE_CHUNK: Final = 2048  # prompt tokens up to which every tile of rows has knots
DENSE_BATCH: Final = 2048  # beyond it, the batch axis is geometric
REPLAY_SHARE: Final = 5  # one knot of the replay for so many of the closed form, on both axes
LONGEST_CONTEXT: Final = 2.0**22
SLICE_POINTS: Final = 32_768  # asked of the engine at once, for its memory's sake
CHECK_POINTS: Final = 400  # drawn between the knots: the error that is told is the largest of theirs
REPLAY_CHECK_POINTS: Final = 60  # likewise where each is a replay
PROMISED_ERROR: Final = 0.02  # of an interpolated step; the measured largest stands in docs/performance.md


@dataclass(frozen=True, kw_only=True)
class GridError:
    """Relative error of an iteration's time read from the grid, over random iterations that fit."""

    points: int
    mean_relative_error: float
    max_relative_error: float


def build_tables(replica: Replica, *, most_running: int, chunk_tokens: int,
                 context_knots: int = CONTEXT_KNOTS) -> Tables:
    """Ask the engine for every table.

    Parameters
    ----------
    replica: what is timed.
    most_running: most sequences of an iteration.
    chunk_tokens: most tokens of an iteration, decoding ones included.
    context_knots: knots of the context axis.
    """
    longest = min(max(replica.capacity_tokens, 2.0 * replica.page_tokens), LONGEST_CONTEXT)
    kv_len = _knots(1.0, longest, context_knots, [most for _, most in replica.block_kinds])
    batch = _batch_axis(most_running)
    grid = np.broadcast_arrays(batch[:, None], kv_len[None, :])
    step_s, attention_s, step_j = _in_slices(lambda b, n: replica.step_s(b, n, engine=DEFAULT), *grid)
    if not engine_named(replica.engine).closed_form:
        ratio = _replay_ratio(replica, batch, kv_len, context_knots // REPLAY_SHARE)
        step_s, attention_s = step_s * ratio[0], attention_s * ratio[1]
    rows = np.arange(1.0, chunk_tokens + most_running * replica.verified_tokens + replica.page_tokens + 1)
    row_s, end_s, row_j = _in_slices(lambda r, _: replica.rows_s(r), rows, rows)
    tiles = np.arange(TILE_ROWS[0], FINE_CHUNK + 1.0, TILE_ROWS[0])  # a prompt's time jumps behind whole tiles of rows
    chunk = _knots(1.0, float(max(chunk_tokens, replica.page_tokens)), CHUNK_KNOTS, [*tiles, *(tiles + 1.0)])
    prefill = np.broadcast_arrays(chunk[:, None], kv_len[None, :])
    prefill_s, prefill_j = replica.prefill_attention_s(prefill[0], np.maximum(prefill[1], prefill[0]))

    def from_zero(table: Any) -> Floats:
        return np.concatenate([[0.0], np.asarray(table, dtype=float)])

    return Tables(batch=batch, kv_len=kv_len, step_s=step_s, attention_s=attention_s, step_j=step_j,
                  row_s=from_zero(row_s), row_j=from_zero(row_j), end_s=from_zero(end_s), chunk_tokens=chunk,
                  end_tokens=kv_len,
                  prefill_s=np.ascontiguousarray(prefill_s),
                  prefill_j=np.ascontiguousarray(prefill_j + 0.0 * prefill_s),
                  fixed_s=replica.fixed_step_s)


def run_on(tables: Tables, replica: Replica, runtime: Runtime) -> Tables:
    """The tables with steps as a runtime runs them, beside what it adds to every iteration."""
    points = np.broadcast_arrays(tables.step_s, tables.batch[:, None], tables.kv_len)
    (run_s,) = _in_slices(lambda step_s, batch, kv_len: (replica.run_s(step_s, batch, kv_len, runtime),), *points)
    return tables._replace(step_s=run_s)


def measure_error(replica: Replica, tables: Tables, *, seed: int = 0) -> GridError:
    """Compare the tables with the engine at random iterations: decoding sequences that fit, and a prompt's chunk."""
    random = np.random.default_rng(seed)
    points = CHECK_POINTS if engine_named(replica.engine).closed_form else REPLAY_CHECK_POINTS
    longest = float(tables.kv_len[-1])
    batch = np.floor(np.exp(random.uniform(0, np.log(tables.batch[-1] + 1), points)))
    kv_len = np.maximum(np.floor(np.exp(random.uniform(0, np.log(np.maximum(longest / batch, 2.0)), points))), 1.0)
    chunk = np.where(random.random(points) < 0.5, 0.0, np.floor(np.exp(
        random.uniform(0, np.log(float(tables.chunk_tokens[-1])), points))))
    end = np.minimum(np.floor(chunk * np.exp(random.exponential(1.0, points))), longest)
    direct, _, _ = replica.step_s(batch, kv_len)
    verified = batch * replica.verified_tokens
    more, _, _ = replica.rows_s(verified + chunk)
    base, _, _ = replica.rows_s(verified)
    attention, _ = replica.prefill_attention_s(np.maximum(chunk, 1.0), np.maximum(end, 1.0))
    direct = direct + more - base + np.where(chunk > 0, attention, 0.0)
    read = np.array([mixed_step_s(tables, b, n, c, e, replica.verified_tokens)
                     for b, n, c, e in zip(batch, kv_len, chunk, end, strict=True)])
    errors = np.abs(read / direct - 1)
    return GridError(points=points, mean_relative_error=float(errors.mean()), max_relative_error=float(errors.max()))


def _knots(least: float, most: float, count: int, kinks: list[float]) -> Floats:
    """Geometric knots on whole tokens, with the places where a time has a kink of its own among them."""
    inside = [kink for kink in kinks if least < kink < most]
    return np.unique(np.concatenate([np.rint(np.geomspace(least, most, count)), inside])).astype(float)


def _batch_axis(most_running: int) -> Floats:
    dense = np.arange(1.0, min(most_running, DENSE_BATCH) + 1)
    if most_running <= DENSE_BATCH:
        return dense
    return np.unique(np.concatenate([dense, np.rint(np.geomspace(DENSE_BATCH, most_running, 256))]))


def _in_slices(function: Any, *axes: Any) -> list[Floats]:
    """The columns of a vectorised function over many points, a bounded number at a time."""
    parts = []
    for start in range(0, np.size(axes[0]), SLICE_POINTS):
        asked = [np.ravel(axis)[start:start + SLICE_POINTS] for axis in axes]
        parts.append([values + np.zeros(asked[0].size) for values in function(*asked)])
    return [np.concatenate(column).reshape(np.shape(axes[0])) for column in zip(*parts, strict=True)]


def _replay_ratio(replica: Replica, batch: Floats, kv_len: Floats, knots: int) -> tuple[Floats, Floats]:
    """The replay's step and attention over the closed form's, at every point of the fine grid.

    Points that do not fit in the cache are not asked for; they take the ratio of the nearest context that does.
    """
    some_batch = np.unique(np.rint(np.geomspace(1.0, batch[-1], knots)))
    some_kv = np.unique(np.rint(np.geomspace(1.0, kv_len[-1], knots)))
    wanted = np.minimum(some_kv[None, :], np.maximum(kv_len[-1] / some_batch[:, None], 1.0))
    batches = np.broadcast_to(some_batch[:, None], wanted.shape)
    replayed = replica.step_s(batches.ravel(), wanted.ravel())
    closed = replica.step_s(batches.ravel(), wanted.ravel(), engine=DEFAULT)
    found = []
    for index in (0, 1):
        ratio = (np.asarray(replayed[index]) / np.asarray(closed[index])).reshape(wanted.shape)
        along = np.stack([np.interp(np.log(kv_len), np.log(wanted[row]), ratio[row]) for row in range(len(some_batch))])
        found.append(np.stack([np.interp(np.log(batch), np.log(some_batch), along[:, column])
                               for column in range(len(kv_len))], axis=1))
    return found[0], found[1]
