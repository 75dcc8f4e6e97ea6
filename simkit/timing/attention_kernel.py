r"""Closed-form time of a decode-attention kernel on a chip whose kernels were measured.

The roofs above an operator say what is possible; a kernel is also made of work items that start, load, multiply and
combine:

.. math:: T = t_{launch} + \min_{m, s} \Big[ \max\big( w\,(t_{setup} + \lceil N/s \rceil c),\;
          \max(T_{DRAM}, T_{cache}) + x\,w\,t_{setup} \big) + t_{combine}(s) \Big] + t_{ramp} + t_{rows}

where items are ``B n_kv m s``, ``m`` sub-groups of a KV head's query rows and ``s`` pieces of its tokens, ``w`` is how
many items the busiest unit runs, and ``c`` cycles a token: the largest of the unit's load path (outstanding bytes over
latency, Little's law), matrix work on rows padded to 16, and exponentials. One query head an item on the vector unit
competes with this. Kernel libraries choose ``m``, ``s`` and the unit by heuristics; the least time is what they aim at.
Parameters: :class:`simkit.hardware.kernel.DecodeKernel`, fitted to measured kernels, never to single shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.kernel_shape import (
    COMBINE_UNIT_BYTES,
    EVEN_WAVES,
    PARTIAL_BYTES,
    ROW_ELEMENTS,
    SPLITS,
    UNSPLIT_ITEMS,
)
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import AttentionTask
from simkit.timing.looped_caches import cyclic_share
from simkit.timing.step_timing import COMPUTE, LATENCY
from simkit.timing.unit_costs import UnitCosts, matrix_costs, row_groups, vector_costs


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """Seconds without the launch: ``body_s`` of the best mapping, and what its unit spends by cause.

    ``floor_s`` is the whole launch floor of that kernel looped alone (8-bit and narrow heads run other kernels).
    """

    body_s: Any
    unit_s: dict[str, Any]
    floor_s: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """One problem a row, as flat arrays: everything that the kernel's terms need."""

    items: Any
    rows: Any
    tokens: Any
    token_bytes: Any
    row_elements: Any
    missed_share: Any


def cyclic_hit_share(cached_bytes: Any, hardware: HardwareProfile, kernel: DecodeKernel) -> Any:
    """Share of a kernel's reads that the last cache serves when the kernel loops alone; 0 without a cache.

    :func:`simkit.timing.looped_caches.cyclic_share` of the
    effective share of the capacity, with the measured transition.
    """
    caches = [level for level in hardware.memory if level.kind == "cache" and level.scope == "chip"]
    if not caches:
        return np.zeros(np.shape(cached_bytes))
    return cyclic_share(cached_bytes, kernel.cache_effective_fraction * caches[-1].chip_capacity_bytes,
                        kernel.cache_transition_ratio)


def kernel_time(task: AttentionTask, hardware: HardwareProfile, kernel: DecodeKernel, home_bytes_per_s: Any, *,
                hit_share: Any = 0.0, alone: bool, item_rows: Any = None) -> KernelTime:
    """Time of one kernel, launch apart, for every point of the task's arrays.

    Parameters
    ----------
    task, hardware, kernel: what is read, on which chip, with which calibrated parameters.
    home_bytes_per_s: peak bandwidth of the level that holds the cache.
    hit_share: share of the reads that a warm cache serves; 0 inside a step.
    alone: the kernel loops by itself, so that its floor counts when mappings are compared; inside a step launches of
        all mappings cost the same.
    item_rows: query rows that every item takes, for kernels that leave no choice; None: what is fastest.
    """
    if task.cache_value_dim == 0:
        kernel = kernel.for_latents()
    if task.kernel in ("grouped-unsplit", "unfused"):
        kernel = replace(kernel, most_sequence_units=1)
    fields = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (
        task.sequences, task.kv_heads, task.query_rows, task.tokens, task.bytes_per_token_head, hit_share,
        home_bytes_per_s, task.query_rows if item_rows is None else item_rows)))
    shape = fields[0].shape
    sequences, heads, rows, tokens, token_bytes, hits, bandwidth, taken = (field.ravel() for field in fields)
    work = _Shape(
        items=sequences * heads, rows=rows, tokens=tokens, token_bytes=token_bytes,
        row_elements=sequences * heads * rows * task.value_dim, missed_share=1.0 - hits)
    best = _best_mapping(work, task, hardware, kernel, bandwidth, alone=alone,
                         groups=row_groups(rows) if item_rows is None else [taken], free=item_rows is None)
    shaped = {name: column.reshape(shape) for name, column in best.items()}
    return KernelTime(body_s=shaped["body"], unit_s={name: shaped[name] for name in (LATENCY, COMPUTE)},
                      floor_s=shaped["floor"] * kernel.launch_cycles / hardware.compute.known_clock_hz)


def _best_mapping(work: _Shape, task: AttentionTask, hardware: HardwareProfile, kernel: DecodeKernel,
                  bandwidth: Any, *, alone: bool, groups: list[Any], free: bool) -> dict[str, Any]:
    """The least time over sub-groups, pieces and units; ``free``: a library takes the unit that suits the group."""
    compute = hardware.compute
    hz, units = compute.known_clock_hz, float(compute.units)
    widened = np.maximum(bandwidth / kernel.tuned_for_bytes_per_s, 1.0)
    run_bytes = kernel.page_tokens * work.token_bytes / 2.0
    kv_bytes = work.items * work.tokens * work.token_bytes
    dram_s = kv_bytes * work.missed_share / (kernel.dram_achieved_fraction * bandwidth) * (
        1.0 + kernel.dram_run_overhead_bytes / run_bytes)
    cache_s = kv_bytes / (kernel.cache_bytes_per_cycle_per_unit * units * hz * widened)
    latency_s = hardware.main_memory.latency_s
    ramp_s = 0.0 if latency_s is None else kernel.dram_ramp_ratio * latency_s * work.missed_share
    rows_s = kernel.row_cycles * work.row_elements / ROW_ELEMENTS / units / hz
    count = len(work.rows)
    best = {"body": np.full(count, np.inf), LATENCY: np.zeros(count), COMPUTE: np.zeros(count),
            "floor": np.ones(count)}
    floor_s = kernel.launch_cycles / hz if alone else 0.0
    shared = (work.rows >= kernel.matrix_least_group) & (work.rows <= kernel.matrix_most_group) | (not free)
    tried: list[UnitCosts] = []
    for rows in groups:
        unit = matrix_costs(rows, work.rows, work.token_bytes, task, hardware, kernel, widened)
        # More items that each cost the same never win.
        wanted = (rows <= kernel.most_item_rows) & shared
        for other in tried:
            wanted &= ~unit.costs_the_same_as(other)
        tried.append(unit)
        if np.any(wanted):
            parts = work.rows / rows
            memory_s = np.maximum(dram_s, cache_s * parts)
            _keep_best(best, work, unit, parts, memory_s, ramp_s + rows_s, kernel, floor_s, units, hz, wanted)
    if task.cache_value_dim == 0:
        return best  # kernels for latents are written for the matrix unit alone
    unit = vector_costs(work.token_bytes, task, kernel, widened)
    _keep_best(best, work, unit, work.rows, np.maximum(dram_s, cache_s * work.rows), ramp_s, kernel,
               floor_s, units, hz, ~shared | (work.rows <= kernel.vector_most_group) | (not free))
    return best


def _keep_best(best: dict[str, Any], work: _Shape, unit: UnitCosts, parts: Any, memory_s: Any, extra: Any,
               kernel: DecodeKernel, floor_s: float, units: float, hz: float, wanted: Any) -> None:
    """Try every number of pieces, and keep what is faster than the best so far, its floor included.

    Set-up and combine pass grow with the pieces and only the unit's own time falls: a problem leaves the search when
    these alone, above its memory time, are no better than its best. That changes no result.
    """
    token_s = np.maximum(unit.load, unit.compute) / hz
    computing = np.broadcast_to(np.asarray(unit.compute >= unit.load), work.tokens.shape)
    columns = np.broadcast_arrays(work.items * (parts / units), work.tokens, unit.setup / hz, token_s, memory_s + extra,
                                  work.row_elements, extra, floor_s * unit.floor, unit.floor)
    share, tokens, setup, token, memory, elements, extra, floor, ratio = columns
    bound = best["body"] + floor_s * best["floor"]
    active: Any = None  # all
    for splits in (count for count in SPLITS if count <= kernel.most_sequence_units):
        waves = share * splits
        waves = np.where(waves < EVEN_WAVES, np.ceil(waves), waves)
        setup_s = waves * setup
        least = memory + kernel.exposed_setup_fraction * setup_s + floor
        if splits > 1:
            least = least + kernel.split_combine_cycles / hz + elements * (
                kernel.combine_cycles_per_64_bytes * splits * PARTIAL_BYTES / (COMBINE_UNIT_BYTES * units * hz))
        may = least < bound
        if splits == SPLITS[0]:
            may = may & wanted
        elif splits == SPLITS[1]:
            may = may & (share < UNSPLIT_ITEMS)
        kept = np.flatnonzero(may)
        if not len(kept):
            break
        if len(kept) < len(may):
            share, tokens, setup, token, memory, elements, extra, floor, ratio, bound, waves, setup_s, least = (
                column[kept] for column in (share, tokens, setup, token, memory, elements, extra, floor, ratio, bound,
                                            waves, setup_s, least))
            active = kept if active is None else active[kept]
        unit_s = setup_s + waves * (np.ceil(tokens / (splits * unit.tile_tokens)) * unit.tile_tokens) * token
        hidden = memory + kernel.exposed_setup_fraction * setup_s
        total = least + np.maximum(unit_s + extra - hidden, 0.0)
        won = np.flatnonzero(total < bound)
        if not len(won):
            continue
        bound[won] = total[won]
        into = won if active is None else active[won]
        best["body"][into] = (total - floor)[won]
        best["floor"][into] = ratio[won]
        best[COMPUTE][into] = np.where(computing[into], unit_s[won], 0.0)
        best[LATENCY][into] = np.where(computing[into], 0.0, unit_s[won])
