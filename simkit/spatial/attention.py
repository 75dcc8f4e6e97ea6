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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log2
from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import Fabric
from simkit.hardware.parameters import at_points, with_arrays
from simkit.hardware.profile import HardwareProfile
from simkit.spatial.dealing import Items, batch_of
from simkit.spatial.messages import multicast_hop_bytes, multicast_terms, sum_hop_bytes, sum_terms
from simkit.spatial.products import MESSAGE_BYTES
from simkit.spatial.regions import Regions
from simkit.spatial.tile_work import EvenWork, local_s
from simkit.step.operators import AttentionTask
from simkit.timing.single_points import arrays_of_profile
from simkit.timing.step_timing import LINK

QUERIES, SCORES, SOFTMAX, OUTPUTS = "queries to tiles", "scores summed", "maximum and sum", "outputs summed"
AT_ONCE: Final = 1_000_000  # mappings times points that are timed as one array
FIRST_TRIED: Final = 8  # mappings of least bounds that unequal sequences are dealt out on first


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedAttention:
    """Seconds by cause, of messages also by phase, and the mapping: tiles that tokens and head dimension are dealt out
    over, and copies of a head. All [regions, points].
    """

    cause_s: dict[str, Any]
    message_s: dict[str, Any]
    ways: tuple[Any, Any, Any]


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
        filled = np.empty(shape)
        filled[...] = value
        return filled.reshape(count)

    columns = {name: flat(getattr(task, name)) for name in ("sequences", "kv_heads", "query_rows", "tokens")}
    batch = batch_of(np.array([flat(one) if np.ndim(one) else [float(one)] for one in task.length_factors]),
                     columns["sequences"] * flat(microbatches), columns["tokens"]).slowest_part(flat(microbatches))
    # What tiles share carries the slowest microbatch's tokens, not the mean's.
    heavier = batch.all_tokens / (columns["sequences"] * columns["tokens"])
    even = EvenWork(
        level_s={name: flat(time_s) * (1.0 if name in work.near else heavier) for name, time_s in work.level_s.items()},
        level_bytes={}, near=work.near, compute_s=flat(work.compute_s), fill_s=flat(work.fill_s),
        special_s=flat(work.special_s), far_bytes=flat(work.far_bytes))
    copies = np.broadcast_to(most_copies, (len(regions.along), *shape)).reshape(len(regions.along), count)
    ways = _candidates(task, fabric, float(columns["query_rows"].max(initial=1.0)),
                       float(np.max(batch.tokens, initial=1.0)), float(copies.max()))
    at_once = max(AT_ONCE // (len(ways[0]) * len(regions.along) * -(-len(batch.tokens) // FIRST_TRIED)), 1)
    # Parameters that a study varies are arrays over the points, as all else here.
    points = {"columns": columns, "batch": batch, "even": even, "copies": tuple(copies), "fabric": fabric, "hz": hz,
              "tile_rows": hardware.compute.matrix_tile_rows}
    if arrays_of_profile(hardware):
        points |= with_arrays({name: points[name] for name in ("fabric", "hz", "tile_rows")},
                              lambda values: np.broadcast_to(values, shape).reshape(-1))
    parts = [points] if count <= at_once else [
        at_points(points, slice(first, first + at_once)) for first in range(0, count, at_once)]
    found = [_fastest(task, regions, ways, part) for part in parts]

    def joined(parts: list[Any]) -> Any:
        whole = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return whole.reshape(len(regions.along), *shape)

    return MappedAttention(
        cause_s={name: joined([one.cause_s[name] for one in found]) for name in found[0].cause_s},
        message_s={name: joined([one.message_s[name] for one in found]) for name in found[0].message_s},
        ways=(joined([one.ways[0] for one in found]), joined([one.ways[1] for one in found]),
              joined([one.ways[2] for one in found])))


def attention_hop_bytes(task: AttentionTask, ways: Iterable[Any], fabric: Fabric) -> dict[str, Any]:
    """Bytes times links of one attention's messages by phase, of all its items under a mapping."""
    t_n, t_d, r = ways
    items, rows = task.sequences * task.kv_heads * r, task.query_rows / r
    key, value = (np.ceil(one / t_d) for one in (task.key_dim, task.value_dim))
    columns = items * t_d * rows
    return {QUERIES: multicast_hop_bytes(columns * key, t_n, MESSAGE_BYTES, fabric),
            SCORES: sum_hop_bytes(items * rows * task.tokens, t_d, MESSAGE_BYTES, fabric),
            SOFTMAX: 2 * sum_hop_bytes(columns, t_n, MESSAGE_BYTES, fabric),
            OUTPUTS: sum_hop_bytes(columns * value, t_n, MESSAGE_BYTES, fabric)}


def _candidates(task: AttentionTask, fabric: Fabric, rows: float, tokens: float, copies: float) -> tuple[Any, Any, Any]:
    """Token ways, head-dimension ways and copies to try, as three columns: powers of two, and all tiles of a side."""
    if fabric.head_ways is not None:
        by_copy = _powers(min(rows, copies))
        by_token, by_dim = (np.full(len(by_copy), float(ways)) for ways in fabric.head_ways)
        return by_token, by_dim, np.array(by_copy)
    most = float(fabric.head_tiles or fabric.n_tiles)
    return _grid(_powers(min(tokens, most), extra=(*map(float, fabric.sides), float(fabric.n_tiles))),
                 _powers(min(float(task.key_dim), most)), _powers(min(rows, copies)), most)


@lru_cache(maxsize=256)
def _grid(by_token: tuple[float, ...], by_dim: tuple[float, ...], by_copy: tuple[float, ...],
          most: float) -> tuple[Any, Any, Any]:
    grid = np.array(np.meshgrid(by_token, by_dim, by_copy, indexing="ij")).reshape(3, -1)
    grid = grid[:, grid[0] * grid[1] <= most]
    return grid[0], grid[1], grid[2]


def _powers(most: float, extra: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Powers of two up to a bound, and what else does not exceed it."""
    powers = [2.0**one for one in range(int(log2(max(most, 1.0))) + 1)]
    return tuple(sorted({*powers, *(one for one in extra if one <= most)}))


def _fastest(task: AttentionTask, regions: Regions, ways: tuple[Any, Any, Any],
             points: dict[str, Any]) -> MappedAttention:
    """The best of the candidates, point by point.

    Of unequal sequences all candidates are bounded from below, and those of the least bounds dealt out until none that
    is left could be faster.
    """
    tiles, batch = np.asarray(regions.tiles)[:, None, None], points["batch"]
    tried, hold = tuple(one[None, :, None] for one in ways), batch.even
    if len(batch.tokens) == 1:
        best = np.argmin(_costs(task, tiles, tried, points, hold, by_roof=False)[2], axis=1)[:, None, :]
    else:
        bounds, hold = _costs(task, tiles, tried, points, batch.bound, by_roof=False)[2], batch.dealt
        order, number = np.argsort(bounds, axis=1, kind="stable"), FIRST_TRIED
        while True:
            nearest = order[:, :number]
            total = _costs(task, tiles, tuple(one[nearest] for one in ways), points, hold, by_roof=False)[2]
            rest = np.take_along_axis(bounds, order[:, number:number + 1], axis=1)
            if number >= order.shape[1] or np.all(total.min(axis=1, keepdims=True) <= rest):
                break
            number *= 2
        best = np.take_along_axis(order, np.argmin(total, axis=1)[:, None, :], axis=1)
    chosen = ways[0][best], ways[1][best], ways[2][best]
    causes, messages, total = _costs(task, tiles, chosen, points, hold)

    def one(values: Any) -> Any:
        return (values if values.shape == total.shape else np.broadcast_to(values, total.shape))[:, 0, :]

    return MappedAttention(cause_s={name: one(time_s) for name, time_s in causes.items()},
                           message_s={name: one(time_s) for name, time_s in messages.items()},
                           ways=(one(chosen[0]), one(chosen[1]), one(chosen[2])))


def _costs(task: AttentionTask, tiles: Any, ways: tuple[Any, ...], points: dict[str, Any],
           hold: Callable[[Items], tuple[Any, Any]], *,
           by_roof: bool = True) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Seconds of candidates by cause, of their messages by phase, and in all, infinite where one does not fit;
    ``by_roof`` False: of all roofs under one name, and no phases.

    ``hold`` says what groups of tiles hold, and each phase ends with its slowest group. Arrays are [regions,
    candidates, points].
    """
    fabric, hz, padded, columns = points["fabric"], points["hz"], points["tile_rows"], points["columns"]
    t_n, t_d, r = ways
    n_items, rows, tokens = columns["sequences"] * columns["kv_heads"], columns["query_rows"], columns["tokens"]
    on_tiles = t_n * t_d
    at_once = np.floor(tiles / on_tiles)
    fits = (at_once >= 1) & ((r <= np.array(points["copies"])[:, None, :]) & (r <= rows))
    at_once = np.maximum(at_once, 1.0)
    own_rows = rows / r
    items = Items(n=points["batch"].sequences[-1] * columns["kv_heads"] * r, groups=at_once, token_ways=t_n,
                  key=np.ceil(task.key_dim / t_d), value=np.ceil(task.value_dim / t_d))
    tile_tokens, tile_steps = hold(items)
    dims = (items.key + items.value) / (task.key_dim + task.value_dim)
    a_token = fabric.n_tiles / (n_items * tokens)
    pay = np.ceil(own_rows / padded) * padded / (np.ceil(rows / padded) * padded)
    # A tile's own unit works on whole tiles of rows, used or not.
    exponential_rows = own_rows if fabric.tile.exponential_cycles is None else np.ceil(own_rows / padded) * padded
    reached: Any = 1.0
    if fabric.tile.shared_bytes_per_cycle is not None:
        reached = np.minimum(at_once, items.n) * on_tiles
        # What unequal lengths add to the fullest group, its tiles take in of memory that all share, too.
        if len(points["batch"].tokens) > 1:
            reached = reached / np.maximum(tile_tokens / (items.rounds * items.on_tile(tokens)[0]), 1.0)
    causes = local_s(
        points["even"], fabric, hz, near=tile_tokens * (dims * a_token), compute=tile_tokens * (dims * a_token * pay),
        steps=own_rows * tile_steps, special=tile_tokens * (exponential_rows * (a_token / rows)), reached=reached,
        by_roof=by_roof)
    if len(tile_tokens) > 1:
        shape = (len(tile_tokens), *np.broadcast_shapes(tile_tokens.shape[1:], fits.shape))
        causes = {name: np.broadcast_to(one, shape) for name, one in causes.items()}
        slowest = np.argmax(sum(causes.values()), axis=0)[None]
        causes = {name: np.take_along_axis(one, slowest, axis=0) for name, one in causes.items()}
        tile_tokens = np.max(tile_tokens, axis=0)[None]
    causes = {name: one[0] if np.ndim(one) > fits.ndim else one for name, one in causes.items()}
    # Of each phase: cycles before any element, cycles an element, elements of a round's row, or of all rounds.
    (to_all, a_query), (over_d, a_score), (over_n, a_sum) = (
        multicast_terms(t_n, MESSAGE_BYTES, fabric), sum_terms(t_d, MESSAGE_BYTES, fabric),
        sum_terms(t_n, MESSAGE_BYTES, fabric))
    each, scores = items.rounds * own_rows, tile_tokens[0] * (own_rows * a_score)
    messages = {} if not by_roof else {
        QUERIES: (to_all + each * (items.key * a_query)) / hz, SCORES: (over_d + scores) / hz,
        SOFTMAX: 2 * (over_n + each * a_sum) / hz, OUTPUTS: (over_n + each * (items.value * a_sum)) / hz}
    cycles = scores + each * (items.key * a_query + (2 + items.value) * a_sum) + (to_all + over_d + 3 * over_n)
    causes[LINK] = np.where(cycles > 0, cycles, fabric.phase_cycles) / hz
    return causes, messages, np.where(fits, sum(causes.values()), np.inf)
