r"""The engine of machines with a ``fabric``: operators as phases on tiles, on the mapping of least time.

A layer is the sum of its operators' phases, as compiled programs and barriers run them: local work of the busiest tile
(:mod:`simkit.spatial.tile_work`) and messages between tiles (:mod:`simkit.spatial.messages`). Products are dealt out
over a region of the chip (:mod:`simkit.spatial.regions`), attention over the same region in its own way
(:mod:`simkit.spatial.attention`); the region is one for all layers, and layers that stand beside each other pass the
hidden state on. What a layer waits for follows from the fabric, so a fitted latency of a layer is not charged, and
exchanges between chips are.

One token passes all regions in a step. ``m`` groups of sequences in flight on ``s`` stages of ``R`` regions, none
overtaking, take as long as one of them, or as the fullest region needs for all, whichever is more:

.. math:: T = \max\left( L t + (s R - 1) t_{hop} + t_{ends},\;
          m \max\left( \lceil L/(sR) \rceil t + t_{hop},\; t_{ends} \right) \right)

Layers of several kinds count as their mean. How many are in flight is the machine's (:class:`simkit.step.machine.
Machine`): a full pipeline has as many as regions.

With no cycles stated and work that deals out evenly this is the closed form, and it is never faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.fabric import Fabric
from simkit.hardware.parameters import with_assumed
from simkit.hardware.profile import HardwareProfile
from simkit.spatial.attention import AT_ONCE, attention_hop_bytes, mapped_attention
from simkit.spatial.messages import shift_cycles
from simkit.spatial.products import MESSAGE_BYTES, causes_s, operator_hop_bytes
from simkit.spatial.regions import Regions, regions_of
from simkit.spatial.tile_work import EvenWork, clock_hz, even_work
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement, demand
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
    room = None
    if in_tiles:
        room = Room.of(step, hardware, regions, shape)
        regions, room = room.with_regions(regions)

    attentions = [mapped_attention(operator.attention, work, fabric, hardware, regions, hz, shape,
                                   room.copies if room else 1.0, step.workload.microbatches)
                  for operator, work in zip(step.operators, works, strict=True) if operator.attention is not None]
    own_causes = iter([one.cause_s for one in attentions])
    products = iter(_products_s(step, works, fabric, regions, hz, shape))
    causes = []
    for operator in step.operators:
        own = next(products if operator.attention is None else own_causes)
        causes.append(own | {LATENCY: own[LATENCY] + _launch_s(operator, hardware, fabric)})
    totals = [sum(own.values()) for own in causes]
    passed_on_s, waiting_s = _flow_s(step, totals, regions, fabric, hz, shape)
    chosen = _chosen(step, totals, passed_on_s + waiting_s, room, shape)
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
    for operator, work, cause_s, total_s in zip(step.operators, works, causes, totals, strict=True):
        own = {name: taken(time_s) for name, time_s in cause_s.items()}
        timed[id(operator)] = where_faster(TimedOperator(
            total_s=taken(total_s), cause_s=own, level_bytes=work.level_bytes), operator, placement, hardware)
    found = assemble(step, hardware, lambda operator: timed[id(operator)], waiting_s=taken(waiting_s),
                     on_chip_s={"region_hops": taken(passed_on_s)})
    found = replace(found, detail="tiles", unexplained_s=_unexplained_s(step, works, found, hardware))
    layers = step.workload.model.n_layers / np.asarray(step.workload.machine.pp)
    if attentions:  # else a pool of chips without it
        token_ways, dim_ways, head_copies = map(taken, attentions[0].ways)
        mapping = TileMapping(
            along=regions.along[chosen], across=regions.across[chosen], token_ways=token_ways, dim_ways=dim_ways,
            head_copies=head_copies, regions=taken(_wide(regions.used(layers)[0], shape)),
            in_flight=step.workload.microbatches)
        found = replace(found, tile_mapping=mapping,
                        message_s=lambda: {name: taken(time_s) for name, time_s in attentions[0].message_s.items()})

    def hop_bytes() -> dict[str, Any]:
        """Of a step on one chip of each stage, by operator and phase."""
        along, across = regions.along[chosen], regions.across[chosen]
        on, turns = (np.asarray(step.workload.machine.pp) * taken(_wide(one, shape)) for one in regions.passes(layers))
        hidden = step.workload.rows * step.workload.model.hidden_size * MESSAGE_BYTES
        sent: dict[str, Any] = {"region_hops": hidden * ((on + turns) * across + turns * along)}
        ways = iter([tuple(map(taken, one.ways)) for one in attentions])
        for operator in step.operators:
            phases = ({"": operator_hop_bytes(
                operator, step.workload.model.hidden_size, along, across, fabric)} if operator.attention is None else
                      attention_hop_bytes(operator.attention, next(ways), fabric))
            for phase, one in phases.items():
                name = phase or operator.name
                stays = np.asarray(timed[id(operator)].beside_bytes) > 0  # in units beside its memory
                sent[name] = sent.get(name, 0.0) + operator.count * np.where(stays, 0.0, one)
        return sent

    return replace(found, hop_bytes=hop_bytes)


def _products_s(step: DecodeStep, works: list[EvenWork], fabric: Fabric, regions: Regions, hz: Any,
                shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Seconds by cause of each operator without attention, as many at a time as memory allows."""
    plain = [(operator, work) for operator, work in zip(step.operators, works, strict=True)
             if operator.attention is None]
    most = max(AT_ONCE // (len(regions.along) * max(prod(shape), 1)), 1)
    for first in range(0, len(plain), most):
        operators, own = zip(*plain[first:first + most], strict=True)
        found_s = causes_s(operators, own, step.workload.model.hidden_size, fabric, regions, hz, shape)
        for row in range(len(operators)):
            yield {name: time_s[row] for name, time_s in found_s.items()}


def _unexplained_s(step: DecodeStep, works: list[EvenWork], found: StepTiming, hardware: HardwareProfile) -> Any:
    """What the step takes by layers measured on this chip or its class, beyond its tiles; NaN where none were."""
    if np.all(hardware.overheads.layer_latency_s == 0.0):
        return np.nan
    roofs_s = sum(operator.count * highest_s([*work.level_s.values(), work.compute_s, work.special_s])
                  for operator, work in zip(step.operators, works, strict=True))
    return layers_wait_s(step.workload, hardware.overheads) + roofs_s - found.step_time_s


def operator_s(operator: Operator, placement: Placement, hardware: HardwareProfile) -> Any:
    """Seconds of an operator by itself on the whole chip, or on the region that a profile states; launch included."""
    fabric = fabric_of(hardware)
    hardware = _by_its_tiles(hardware, fabric)
    regions, hz = regions_of(fabric, parts=False), clock_hz(fabric, hardware)
    work = even_work(operator, placement, hardware, fabric)
    if operator.attention is None:
        causes = {name: time_s[0] for name, time_s in causes_s(
            [operator], [work], 0, fabric, regions, hz, np.shape(np.asarray(operator.matrix_flops))).items()}
    else:
        causes = mapped_attention(operator.attention, work, fabric, hardware, regions, hz,
                                  np.shape(np.asarray(operator.kv_read_bytes)), 1.0).cause_s
    return _launch_s(operator, hardware, fabric) + np.min(sum(causes.values()), axis=0)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the tiles that regions cover have room for: whether they hold a model, and copies of its cache."""

    holds: Any
    copies: Any

    @classmethod
    def of(cls, step: DecodeStep, hardware: HardwareProfile, regions: Regions, shape: tuple[int, ...]) -> Room:
        """Of what the fullest region needs for its layers, and all tiles together for layers and ends."""
        workload = step.workload
        need, usable, layers = demand(workload), hardware.main_memory.usable_bytes, (
            workload.model.n_layers / np.asarray(workload.machine.pp))
        ends = 0.0
        if "ends" in workload.parts:
            ends = workload.model.vocab_size * workload.model.hidden_size * (
                1 if workload.model.tied_embeddings else 2) * workload.weight_format.bytes_per_element
            ends = ends / (workload.heads.ways * np.asarray(workload.machine.pp))
        weights, cache = (_wide(np.asarray(one / usable, dtype=float)[None], shape) for one in (
            np.maximum(need.weight_bytes - ends, 0.0), need.kv_bytes))
        beside = _wide(regions.beside[0] * regions.beside[1], shape)
        fullest = _wide(regions.used(layers)[1] / layers, shape) * beside  # over the mean of all regions
        part = _wide(regions.uncovered, shape)
        holds = ((weights + cache) * fullest * part <= 1.0) & (
            (weights + cache + _wide(np.asarray(ends / usable)[None], shape)) * part <= 1.0)
        room = np.maximum(1.0 / (fullest * part) - weights, 0.0) / np.maximum(cache, 1e-12)
        holds = np.broadcast_to(holds, (len(regions.along), *shape))
        return cls(holds=holds, copies=np.maximum(np.floor(np.broadcast_to(
            room, (len(regions.along), *shape))), 1.0))

    def with_regions(self, regions: Regions) -> tuple[Regions, Room]:
        """Regions that hold the model at some point, or the first of all, and their room."""
        some = self.holds.reshape(len(self.holds), -1).any(axis=1)
        some[0] |= not some.any()
        return regions.take(some), Room(holds=self.holds[some], copies=self.copies[some])


def _wide(values: Any, shape: tuple[int, ...]) -> Any:
    """Values [regions, ...] with as many axes as points have."""
    values = np.asarray(values)
    return values.reshape(len(values), *(1,) * (len(shape) + 1 - values.ndim), *values.shape[1:])


def _chosen(step: DecodeStep, totals: list[Any], between_s: Any, room: Room | None, shape: tuple[int, ...]) -> Any:
    """The region of least time whose like hold the model, point by point; the first where none does."""
    total = sum(operator.count * own for operator, own in zip(step.operators, totals, strict=True)) + between_s
    total = np.broadcast_to(total, (len(total), *shape))
    return np.argmin(total if room is None else np.where(room.holds, total, np.inf), axis=0)


def _flow_s(step: DecodeStep, totals: list[Any], regions: Regions, fabric: Fabric, hz: Any,
            shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Seconds in which the hidden state passes from region to region in a step, and in which a token waits for those
    before it; in each region.
    """
    workload = step.workload
    stages, hidden = np.asarray(workload.machine.pp, dtype=float), workload.rows * workload.model.hidden_size
    layers = workload.model.n_layers / stages
    along, across = _wide(regions.along, shape), _wide(regions.across, shape)
    on, turns = (_wide(one, shape) for one in regions.passes(layers))
    a_column = shift_cycles(hidden / along, across, MESSAGE_BYTES, fabric) / hz
    a_turn = shift_cycles(hidden / across, along, MESSAGE_BYTES, fabric) / hz
    passed_on_s = stages * ((on + turns) * a_column + turns * a_turn)
    if np.ndim(workload.machine.in_flight) == 0 and workload.machine.in_flight <= 1:
        return passed_on_s, 0.0
    layers_s, ends_s = (sum((operator.count * own for operator, own in zip(part, times, strict=True)), start=0.0)
                        for part, times in ((step.layer_operators, totals[:len(step.layer_operators)]),
                                            (step.end_operators, totals[len(step.layer_operators):])))
    held = _wide(regions.used(layers)[1], shape) / workload.model.n_layers
    # Regions that pass on are full; the last one of a chip may not be.
    sent_s = np.where(turns + on > 0, a_column, 0.0) + np.where(turns > 0, a_turn, 0.0)
    slowest_s = np.maximum(held * layers_s + sent_s, ends_s)
    waiting_s = workload.microbatches * slowest_s - (layers_s + ends_s + passed_on_s)
    # One group a stage is what machines without regions have, whose stages are alike.
    return passed_on_s, np.where(workload.microbatches > stages, np.maximum(waiting_s, 0.0), 0.0)
