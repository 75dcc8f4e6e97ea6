r"""Attention over the cache on tiles, under the mapping that takes least.

A KV head of one sequence (an item) lies on :math:`t_n t_d` tiles: its tokens over ``t_n``, the head dimension over
``t_d``; ``r`` copies of it serve ``g/r`` of its ``g`` query rows each. A region of ``T`` tiles works on
:math:`t_h = \lfloor T / (t_n t_d) \rfloor` items at once, in :math:`\lceil r\,items / t_h \rceil` rounds. Per round:

- queries to the item's tiles: :math:`g/r \cdot d/t_d` elements over ``t_n`` tiles
- scores, summed over ``t_d``: :math:`g/r \cdot N/t_n` elements
- the softmax' maximum and sum over ``t_n``: :math:`g/r` elements each
- outputs, summed over ``t_n``: :math:`g/r \cdot d_v/t_d` elements

Unequal sequences are dealt out longest first (:mod:`simkit.spatial.dealing`), and a phase ends with the group of tiles
that has most of it. Rounds share their messages: the length adds up, the way is made once. So fewer KV heads widen each
item's group: its messages go farther and are longer. Copying a head undoes that, and takes the memory of a layout with
more heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import Fabric
from simkit.hardware.parameters import at_points
from simkit.hardware.profile import HardwareProfile
from simkit.spatial.dealing import Batch, Items, batch_of
from simkit.spatial.messages import multicast_cycles, sum_cycles
from simkit.spatial.products import MESSAGE_BYTES
from simkit.spatial.regions import Regions
from simkit.spatial.tile_work import EvenWork, local_s
from simkit.step.operators import AttentionTask
from simkit.timing.step_timing import LINK

QUERIES, SCORES, SOFTMAX, OUTPUTS = "queries to tiles", "scores summed", "maximum and sum", "outputs summed"
AT_ONCE: Final = 1_000_000  # mappings times points that are timed as one array
FIRST_TRIED: Final = 8  # mappings of least bounds that unequal sequences are dealt out on first


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """How attention lies on the tiles of a region, point by point."""

    token_ways: Any
    dim_ways: Any
    head_copies: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedAttention:
    """Seconds by cause, those of messages also by phase, and the mapping, each [regions, points]."""

    cause_s: dict[str, Any]
    message_s: dict[str, Any]
    mapping: Mapping


def mapped_attention(task: AttentionTask, work: EvenWork, fabric: Fabric, hardware: HardwareProfile, regions: Regions,
                     hz: Any, shape: tuple[int, ...], most_copies: Any, microbatches: Any = 1.0) -> MappedAttention:
    """The fastest mapping in each region, point by point.

    Parameters
    ----------
    task, work: what is read and how long it takes on all tiles evenly.
    fabric, hardware: the chip, its parameters numbers or arrays over the points.
    regions, hz: where layers may lie, and the fabric's clock.
    shape: of the points.
    most_copies: of a KV head, for which the memory has room; [regions, points] or a number.
    microbatches: that follow each other through a pipeline, the batch's lengths dealt out over them; the one that takes
        longest sets the pace of all.
    """
    count = int(np.prod(shape))
    rate = fabric.tile.attention_bytes_per_cycle
    fabric = fabric if rate is None else replace(fabric, tile=replace(fabric.tile, shared_bytes_per_cycle=rate))

    def flat(value: Any) -> Any:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=float), shape)).reshape(count)

    columns = {name: flat(getattr(task, name)) for name in ("sequences", "kv_heads", "query_rows", "tokens")}
    batch = batch_of(np.array([flat(one) if np.ndim(one) else [float(one)] for one in task.length_factors]),
                     columns["sequences"] * flat(microbatches), columns["tokens"]).slowest_part(flat(microbatches))
    even = {name: flat(getattr(work, name)) for name in ("compute_s", "fill_s", "special_s", "far_bytes")}
    # What tiles share carries the slowest microbatch's tokens, not the mean's.
    heavier = batch.all_tokens / (columns["sequences"] * columns["tokens"])
    levels = {name: flat(time_s) * (1.0 if name in work.near else heavier) for name, time_s in work.level_s.items()}
    copies = np.broadcast_to(most_copies, (len(regions.along), *shape)).reshape(len(regions.along), count)
    token_ways, dim_ways, head_copies = _candidates(task, fabric, float(columns["query_rows"].max(initial=1.0)),
                                                    float(batch.tokens.max(initial=1.0)), float(copies.max()))
    at_once = max(AT_ONCE // (len(token_ways) * len(regions.along)), 1)
    # Parameters that a study varies are arrays over the points, as all else here.
    varied: dict[str, Any] = {"fabric": _flat(fabric, shape), "hz": _flat(hz, shape),
                              "tile_rows": _flat(hardware.compute.matrix_tile_rows, shape)}
    found: list[MappedAttention] = []
    for first in range(0, count, at_once):
        part = slice(first, first + at_once)
        found.append(_fastest(
            task, regions, (token_ways, dim_ways, head_copies), copies[:, part],
            {name: at_points(one, part) for name, one in varied.items()},
            {name: one[part] for name, one in columns.items()},
            Batch(tokens=batch.tokens[:, part], sequences=batch.sequences[:, part]),
            EvenWork(level_s={name: one[part] for name, one in levels.items()}, level_bytes={}, near=work.near,
                     **{name: one[part] for name, one in even.items()})))

    def joined(parts: list[Any]) -> Any:
        return np.concatenate(parts, axis=1).reshape(len(regions.along), *shape)

    return MappedAttention(
        cause_s={name: joined([one.cause_s[name] for one in found]) for name in found[0].cause_s},
        message_s={name: joined([one.message_s[name] for one in found]) for name in found[0].message_s},
        mapping=Mapping(**{name: joined([getattr(one.mapping, name) for one in found])
                           for name in ("token_ways", "dim_ways", "head_copies")}))


def _candidates(task: AttentionTask, fabric: Fabric, rows: float, tokens: float, copies: float) -> tuple[Any, Any, Any]:
    """Token ways, head-dimension ways and copies to try, as three columns: powers of two, and all tiles of a side."""
    if fabric.head_ways is not None:
        by_copy = _powers(min(rows, copies))
        by_token, by_dim = (np.full(len(by_copy), float(ways)) for ways in fabric.head_ways)
        return by_token, by_dim, np.array(by_copy)
    most = float(fabric.head_tiles or fabric.n_tiles)
    grid = np.array(np.meshgrid(
        _powers(min(tokens, most), extra=(*map(float, fabric.sides), float(fabric.n_tiles))),
        _powers(min(float(task.key_dim), most)), _powers(min(rows, copies)), indexing="ij")).reshape(3, -1)
    grid = grid[:, grid[0] * grid[1] <= most]
    return grid[0], grid[1], grid[2]


def _powers(most: float, extra: tuple[float, ...] = ()) -> list[float]:
    """Powers of two up to a bound, and what else does not exceed it."""
    powers = [2.0**one for one in range(int(np.log2(max(most, 1.0))) + 1)]
    return sorted({*powers, *(one for one in extra if one <= most)})


def _flat(record: Any, shape: tuple[int, ...]) -> Any:
    """A number or a record of numbers, whose arrays are laid out point by point."""
    if isinstance(record, np.ndarray):
        return np.broadcast_to(record, shape).reshape(-1)
    if is_dataclass(record) and not isinstance(record, type):
        return replace(record, **{one.name: _flat(getattr(record, one.name), shape) for one in fields(record)})
    return record


def _fastest(task: AttentionTask, regions: Regions, ways: tuple[Any, Any, Any], most_copies: Any,
             varied: dict[str, Any], columns: dict[str, Any], batch: Batch, even: EvenWork) -> MappedAttention:
    """The best of the candidates, point by point.

    Of unequal sequences all candidates are bounded from below, and those of the least bounds dealt out until none that
    is left could be faster.
    """
    tiles = np.asarray(regions.tiles)[:, None, None]
    candidates = tuple(one[None, :, None] for one in ways)
    room = most_copies[:, None, :]
    if len(batch.tokens) == 1:
        costs = _costs(task, tiles, candidates, room, varied, columns, batch, batch.even, even)
        return _best(costs, candidates)
    bounds = _costs(task, tiles, candidates, room, varied, columns, batch, batch.bound, even).total_s
    order, tried = np.argsort(bounds, axis=1, kind="stable"), FIRST_TRIED
    candidates = tuple(np.broadcast_to(one, bounds.shape) for one in candidates)
    while True:
        nearest = tuple(np.take_along_axis(one, order[:, :tried], axis=1) for one in candidates)
        costs = _costs(task, tiles, nearest, room, varied, columns, batch, batch.dealt, even)
        rest = np.take_along_axis(bounds, order[:, tried:tried + 1], axis=1)
        if tried >= order.shape[1] or np.all(costs.total_s.min(axis=1, keepdims=True) <= rest):
            return _best(costs, nearest)
        tried *= 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """Seconds of candidates by cause, messages' by phase, and in all, infinite where it does not fit;
    [regions, candidates, points].
    """

    cause_s: dict[str, Any]
    message_s: dict[str, Any]
    total_s: Any


def _costs(task: AttentionTask, tiles: Any, ways: tuple[Any, ...], most_copies: Any, varied: dict[str, Any],
           columns: dict[str, Any], batch: Batch, hold: Callable[[Items], tuple[Any, Any]], even: EvenWork) -> _Costs:
    """Times of candidates; ``hold`` says what groups of tiles hold, and each phase ends with its slowest group."""
    fabric, hz, padded = varied["fabric"], varied["hz"], varied["tile_rows"]
    t_n, t_d, r = ways
    n_items, rows, tokens = columns["sequences"] * columns["kv_heads"], columns["query_rows"], columns["tokens"]
    at_once = np.floor(tiles / (t_n * t_d))
    fits = (at_once >= 1) & (r <= most_copies) & (r <= rows)
    at_once = np.maximum(at_once, 1.0)
    own_rows = rows / r
    items = Items(n=batch.sequences[-1] * columns["kv_heads"] * r, groups=at_once, token_ways=t_n,
                  key=np.ceil(task.key_dim / t_d), value=np.ceil(task.value_dim / t_d))
    tile_tokens, tile_steps = hold(items)
    dims = (items.key + items.value) / (task.key_dim + task.value_dim)
    read = tile_tokens * dims * fabric.n_tiles / (n_items * tokens)
    pay = np.ceil(own_rows / padded) * padded / (np.ceil(rows / padded) * padded)
    # A tile's own unit works on whole tiles of rows, used or not.
    exponential_rows = own_rows if fabric.tile.exponential_cycles is None else np.ceil(own_rows / padded) * padded
    # What unequal lengths add to the fullest group, its tiles take in of memory that all share, too.
    fuller = np.maximum(tile_tokens / (items.rounds * items.on_tile(tokens)[0]), 1.0)
    groups = local_s(
        even, fabric, hz, near=read, compute=read * pay, steps=own_rows * tile_steps,
        special=tile_tokens * exponential_rows * fabric.n_tiles / (n_items * tokens * rows),
        reached=np.minimum(at_once, items.n) * t_n * t_d / fuller)
    shape = np.broadcast_shapes(tile_tokens.shape, (1, *fits.shape))
    slowest = np.argmax(np.broadcast_to(sum(groups.values()), shape), axis=0)[None] if len(tile_tokens) > 1 else None
    causes = {name: np.broadcast_to(one, shape) for name, one in groups.items()}
    causes = {name: one[0] if slowest is None else np.take_along_axis(one, slowest, axis=0)[0]
              for name, one in causes.items()}
    each = items.rounds * own_rows
    messages = {
        QUERIES: multicast_cycles(each * items.key, t_n, MESSAGE_BYTES, fabric),
        SCORES: sum_cycles(own_rows * np.max(tile_tokens, axis=0), t_d, MESSAGE_BYTES, fabric),
        SOFTMAX: 2 * sum_cycles(each, t_n, MESSAGE_BYTES, fabric),
        OUTPUTS: sum_cycles(each * items.value, t_n, MESSAGE_BYTES, fabric)}
    cycles = sum(messages.values())
    causes[LINK] = np.where(cycles > 0, cycles, fabric.phase_cycles) / hz
    return _Costs(cause_s=causes, message_s={name: one / hz for name, one in messages.items()},
                  total_s=np.where(fits, sum(causes.values()), np.inf))


def _best(costs: _Costs, ways: tuple[Any, ...]) -> MappedAttention:
    """The candidate of least time in each region, point by point."""
    best = np.argmin(costs.total_s, axis=1)[:, None, :]

    def taken(values: Any) -> Any:
        return np.take_along_axis(np.broadcast_to(values, costs.total_s.shape), best, axis=1)[:, 0, :]

    token_ways, dim_ways, head_copies = map(taken, ways)
    return MappedAttention(cause_s={name: taken(time_s) for name, time_s in costs.cause_s.items()},
                           message_s={name: taken(time_s) for name, time_s in costs.message_s.items()},
                           mapping=Mapping(token_ways=token_ways, dim_ways=dim_ways, head_copies=head_copies))
