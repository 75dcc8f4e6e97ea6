r"""The engine of machines with a ``fabric``: operators as phases on tiles, on the mapping of least time.

A layer is the sum of its operators' phases, as compiled programs and barriers run them: local work of the busiest tile
(:mod:`simkit.spatial.tile_work`) and messages between tiles (:mod:`simkit.spatial.messages`). Products are dealt out
over a region of the chip (:mod:`simkit.spatial.regions`), attention over the same region in its own way
(:mod:`simkit.spatial.attention`); the region is one for all layers, and layers that stand beside each other pass the
hidden state on. What a layer waits for follows from the fabric, so a fitted latency of a layer is not charged, and
exchanges between chips are.

With no cycles stated and work that deals out evenly this is the closed form, and it is never faster.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.fabric import Fabric
from simkit.hardware.parameters import with_assumed
from simkit.hardware.profile import HardwareProfile
from simkit.spatial.attention import MappedAttention, attention_hop_bytes, mapped_attention
from simkit.spatial.messages import multicast_cycles, multicast_hop_bytes
from simkit.spatial.products import MESSAGE_BYTES, operator_cause_s, operator_hop_bytes
from simkit.spatial.regions import Regions, regions_of
from simkit.spatial.tile_work import EvenWork, clock_hz, even_work
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.timing.beside_memory import where_faster
from simkit.timing.exchanges import layers_wait_s
from simkit.timing.roofs import highest_s
from simkit.timing.single_points import shape_of
from simkit.timing.step_timing import LATENCY, StepTiming, TileMapping, Timed, TimedOperator, assemble


def evaluate(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    """Time one decode step. Raises :class:`UserError` for a profile without a fabric."""
    fabric = fabric_of(hardware)
    hardware = _by_its_tiles(hardware, fabric)
    shape = shape_of(step, placement, hardware)
    hz = clock_hz(fabric, hardware)
    in_tiles = hardware.main_memory.kind == "sram"
    regions = regions_of(fabric, parts=in_tiles)
    works = [even_work(operator, placement, hardware, fabric) for operator in step.operators]
    copies = _most_copies(step, hardware, regions, shape) if in_tiles else 1.0

    causes: list[dict[str, Any]] = []
    attentions: list[MappedAttention] = []
    for operator, work in zip(step.operators, works, strict=True):
        if operator.attention is not None:
            mapped = mapped_attention(operator.attention, work, fabric, hardware, regions, hz, shape, copies,
                                      step.workload.microbatches)
            causes.append(mapped.cause_s)
            attentions.append(mapped)
        else:
            causes.append(operator_cause_s(operator, work, fabric, regions, hz, len(shape)))
        causes[-1][LATENCY] = causes[-1].get(LATENCY, 0.0) + _launch_s(operator, hardware, fabric)
    chosen = _chosen(step, causes, regions, fabric, hz, hardware, shape)
    one_region = int(chosen.flat[0]) if chosen.size and np.all(chosen == chosen.flat[0]) else None

    def taken(values: Any) -> Any:
        """Of each region's values, those of the chosen one."""
        if np.ndim(values) <= len(shape):
            return values
        if one_region is not None or len(values) == 1:
            return values[one_region if len(values) > 1 else 0]
        wide = np.broadcast_to(values, (len(regions.along), *shape))
        return np.take_along_axis(wide, chosen[None], axis=0)[0]

    timed: dict[int, Timed] = {}
    for operator, work, cause_s in zip(step.operators, works, causes, strict=True):
        own = {name: taken(time_s) for name, time_s in cause_s.items()}
        timed[id(operator)] = where_faster(
            TimedOperator(total_s=sum(own.values()), cause_s=own, level_bytes=work.level_bytes), operator, placement,
            hardware)
    passed_on_s = taken(_passed_on_s(step, regions, fabric, hz, len(shape)))
    found = assemble(step, hardware, lambda operator: timed[id(operator)], on_chip_s={"region_hops": passed_on_s})
    found = replace(found, detail="tiles", unexplained_s=_unexplained_s(step, works, found, hardware))
    if attentions:  # else a pool of chips without it
        token_ways, dim_ways, head_copies = map(taken, attentions[0].ways)
        mapping = TileMapping(along=regions.along[chosen], across=regions.across[chosen], token_ways=token_ways,
                              dim_ways=dim_ways, head_copies=head_copies)
        found = replace(found, tile_mapping=mapping,
                        message_s=lambda: {name: taken(time_s) for name, time_s in attentions[0].message_s.items()})

    def hop_bytes() -> dict[str, Any]:
        """Of a step on one chip of each stage, by operator and phase."""
        along, across = regions.along[chosen], regions.across[chosen]
        sent: dict[str, Any] = {"region_hops": multicast_hop_bytes(
            _regions_passed(step, along, across, fabric) * step.workload.rows
            * step.workload.model.hidden_size, along, MESSAGE_BYTES, fabric)}
        ways = iter([tuple(map(taken, one.ways)) for one in attentions])
        for operator in step.operators:
            phases = ({"": operator_hop_bytes(operator, along, fabric)} if operator.attention is None else
                      attention_hop_bytes(operator.attention, next(ways), fabric))
            for phase, one in phases.items():
                name = phase or operator.name
                stays = np.asarray(timed[id(operator)].beside_bytes) > 0  # in units beside its memory
                sent[name] = sent.get(name, 0.0) + operator.count * np.where(stays, 0.0, one)
        return sent

    return replace(found, hop_bytes=hop_bytes)


def _unexplained_s(step: DecodeStep, works: list[EvenWork], found: StepTiming, hardware: HardwareProfile) -> Any:
    """What the step takes by layers measured on this chip or its class, beyond its tiles; NaN where none were."""
    if np.all(hardware.overheads.layer_latency_s == 0.0):
        return np.nan
    roofs_s = sum(operator.count * highest_s([*work.level_s.values(), work.compute_s, work.special_s])
                  for operator, work in zip(step.operators, works, strict=True))
    return layers_wait_s(step.workload, hardware.overheads) + roofs_s - found.step_time_s


def attention_s(operator: Operator, placement: Placement, hardware: HardwareProfile) -> Any:
    """Seconds of an attention operator by itself on the whole chip, launch included."""
    fabric = fabric_of(hardware)
    if operator.attention is None:
        raise ValueError(f"{operator.name} is not an attention operator")
    hardware = _by_its_tiles(hardware, fabric)
    regions, hz = regions_of(fabric, parts=False), clock_hz(fabric, hardware)
    work = even_work(operator, placement, hardware, fabric)
    mapped = mapped_attention(operator.attention, work, fabric, hardware, regions, hz,
                              np.shape(np.asarray(operator.kv_read_bytes)), 1.0)
    return _launch_s(operator, hardware, fabric) + np.min(sum(mapped.cause_s.values()), axis=0)


def _launch_s(operator: Operator, hardware: HardwareProfile, fabric: Fabric) -> Any:
    """The start of an operator, where the fabric does not state that of a phase."""
    return operator.launches * hardware.overheads.kernel_launch_s if fabric.start_cycles is None else 0.0


def fabric_of(hardware: HardwareProfile) -> Fabric:
    """The fabric of a profile. Raises :class:`UserError` where it states none."""
    if hardware.fabric is None:
        raise UserError(f"{hardware.name} states no fabric: --engine spatial times machines made of tiles",
                        hint="fabric.tiles and fabric.topology in the profile, or --engine replay")
    return hardware.fabric


def _by_its_tiles(hardware: HardwareProfile, fabric: Fabric) -> HardwareProfile:
    """The chip without the class's ranges for what its tiles state: ports stand for a share of the memories' peak, the
    loading of systolic engines for rows that few queries leave empty.
    """
    derived = []
    if fabric.tile.port_bytes_per_cycle is not None:
        derived = [f"memory.{level.name}.achievable_fraction" for level in hardware.memory if level.kind == "sram"]
    if fabric.tile.fill_bytes_per_cycle is not None:
        derived.append("compute.matrix.tile_rows")
    return with_assumed(hardware, dict.fromkeys((key for key in derived if key in hardware.unstated), 1.0))


def _held_share(step: DecodeStep, hardware: HardwareProfile) -> tuple[Any, Any]:
    """Weights and cache that a step reads, of what the tiles' memory holds."""
    weights: Any = 0.0
    cache: Any = 0.0
    for operator in step.operators:
        weights = weights + operator.count * operator.weight_bytes
        cache = cache + operator.count * operator.kv_read_bytes
    stages = step.workload.machine.pp
    usable = hardware.main_memory.usable_bytes
    return weights / stages / usable, cache * step.workload.microbatches / stages / usable


def _most_copies(step: DecodeStep, hardware: HardwareProfile, regions: Regions, shape: tuple[int, ...]) -> Any:
    """Copies of the cache that there is room for on the tiles that regions cover."""
    weights, cache = _held_share(step, hardware)
    uncovered = np.reshape(regions.uncovered, (-1, *(1,) * len(shape)))
    room = np.maximum(1.0 / uncovered - weights, 0.0) / np.maximum(cache, 1e-12)
    return np.maximum(np.floor(np.broadcast_to(room, (len(regions.along), *shape))), 1.0)


def _chosen(step: DecodeStep, causes: list[dict[str, Any]], regions: Regions, fabric: Fabric, hz: Any,
            hardware: HardwareProfile, shape: tuple[int, ...]) -> Any:
    """The region of least time whose like hold the model, point by point; the whole chip always does."""
    total: Any = 0.0
    for operator, cause_s in zip(step.operators, causes, strict=True):
        total = total + operator.count * sum(cause_s.values())
    total = np.broadcast_to(total, (len(regions.along), *shape)) + 0.0
    if len(regions.along) > 1:
        weights, cache = _held_share(step, hardware)
        uncovered = np.reshape(regions.uncovered, (-1, *(1,) * len(shape)))
        total = np.where((weights + cache) * uncovered <= 1.0, total, np.inf)
        total[0] = np.where(np.isfinite(total).any(axis=0), total[0], 0.0)
        total = total + _passed_on_s(step, regions, fabric, hz, len(shape))
    return np.argmin(total, axis=0)


def _passed_on_s(step: DecodeStep, regions: Regions, fabric: Fabric, hz: Any, dims: int) -> Any:
    """Seconds in which the hidden state passes from region to region on its way through the layers; 0 in one region."""
    along, across = (np.reshape(one, (-1, *(1,) * dims)) for one in (regions.along, regions.across))
    elements = step.workload.rows * step.workload.model.hidden_size / across
    cycles = multicast_cycles(elements, along, MESSAGE_BYTES, fabric)
    return _regions_passed(step, along, across, fabric) * cycles / hz


def _regions_passed(step: DecodeStep, along: Any, across: Any, fabric: Fabric) -> Any:
    """How often the hidden state goes from one region to the next, on all stages."""
    stages = np.asarray(step.workload.machine.pp)
    beside = np.floor(fabric.sides[0] / along) * np.floor(fabric.sides[1] / across)
    return stages * np.maximum(np.minimum(beside, step.workload.model.n_layers / stages) - 1.0, 0.0)
