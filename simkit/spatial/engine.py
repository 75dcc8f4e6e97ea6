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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.fabric import Fabric
from simkit.hardware.parameters import once_a_profile, with_assumed
from simkit.hardware.profile import HardwareProfile
from simkit.spatial.attention import AT_ONCE, MappedAttention, attention_hop_bytes, mapped_attention
from simkit.spatial.messages import shift_cycles
from simkit.spatial.products import MESSAGE_BYTES, by_formats, causes_s, operator_hop_bytes, stacked
from simkit.spatial.regions import Regions, regions_of
from simkit.spatial.tile_work import EvenWork, clock_hz, even_work
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement, demand
from simkit.timing.beside_memory import where_faster
from simkit.timing.exchanges import layers_wait_s
from simkit.timing.roofs import highest_s
from simkit.timing.single_points import shape_of
from simkit.timing.step_timing import LATENCY, StepTiming, TileMapping, TimedOperator, assemble


def evaluate(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    """Time one decode step. Raises :class:`UserError` for a profile without a fabric."""
    fabric, shape = fabric_of(hardware), shape_of(step, placement, hardware)
    hardware = _by_its_tiles(hardware)
    hz = clock_hz(fabric, hardware)
    in_tiles = hardware.main_memory.kind == "sram"
    regions = regions_of(fabric, parts=in_tiles)
    room = None
    if in_tiles:
        room = Room.of(step, hardware, regions, shape)
        regions, room = room.with_regions(regions)

    parts, attentions = _timed_parts(step, placement, hardware, regions, room.copies if room else 1.0, shape)
    passed_on_s, waiting_s = _flow_s(step, parts, regions, fabric, hz, shape)
    chosen = _chosen(parts, passed_on_s + waiting_s, room)
    one_region = int(chosen.flat[0]) if chosen.size and np.all(chosen == chosen.flat[0]) else None

    def taken(values: Any) -> Any:
        """Of each region's values, those of the chosen one; [..., regions, *shape]."""
        if np.ndim(values) <= len(shape):
            return values
        axis = values.ndim - len(shape) - 1
        if one_region is not None or values.shape[axis] == 1:
            return values.take(one_region if values.shape[axis] > 1 else 0, axis=axis)
        wide = np.broadcast_to(values, (*values.shape[:axis], len(regions.along), *shape))
        return np.take_along_axis(wide, chosen.reshape((*(1,) * (axis + 1), *shape)), axis=axis).squeeze(axis)

    timed = {id(step.operators[number]): where_faster(one, step.operators[number], placement, hardware)
             for part in parts for number, one in part.taken(taken)}
    found = assemble(step, hardware, lambda operator: timed[id(operator)], waiting_s=taken(waiting_s),
                     on_chip_s={"region_hops": taken(passed_on_s)})
    layers = step.workload.model.n_layers / np.asarray(step.workload.machine.pp)
    mapping = None
    if attentions:  # else a pool of chips without it
        token_ways, dim_ways, head_copies = map(taken, attentions[0].ways)
        mapping = TileMapping(
            along=regions.along[chosen], across=regions.across[chosen], token_ways=token_ways, dim_ways=dim_ways,
            head_copies=head_copies, regions=taken(_wide(regions.used(layers)[0], shape)),
            in_flight=step.workload.microbatches)

    def message_s() -> dict[str, Any]:
        return {name: taken(time_s) for name, time_s in attentions[0].message_s.items()} if attentions else {}

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

    return replace(found, detail="tiles", unexplained_s=_unexplained_s(step, parts, found, hardware),
                   tile_mapping=mapping, message_s=message_s, hop_bytes=hop_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Operators of a step that were timed together, by their numbers: how often each runs [operators, 1, points], what
    it takes on all tiles evenly, and seconds of one execution by cause, [causes, operators, regions, points], and in
    all.
    """

    numbers: list[int]
    count: Any
    work: EvenWork
    causes: tuple[str, ...]
    cause_s: Any
    total_s: Any

    @classmethod
    def of(cls, numbers: list[int], count: Any, work: EvenWork, cause_s: dict[str, Any], launch_s: Any,
           regions: Regions, shape: tuple[int, ...]) -> _Part:
        """Of seconds that broadcast to [operators, regions, points]."""
        found_s = np.empty((len(cause_s), len(numbers), len(regions.along), *shape))
        for own_s, time_s in zip(found_s, cause_s.values(), strict=True):
            own_s[...] = time_s
        found_s[list(cause_s).index(LATENCY)] += launch_s[:, None]
        return cls(numbers=numbers, count=count[:, None], work=work, causes=tuple(cause_s), cause_s=found_s,
                   total_s=found_s.sum(axis=0))

    def of_step_s(self, rows: Any = slice(None)) -> Any:
        """Seconds in a step of all of them, or of some, in each region; [regions, points]."""
        return (self.count[rows] * self.total_s[rows]).sum(axis=0)

    def taken(self, choose: Callable[[Any], Any]) -> Iterator[tuple[int, TimedOperator]]:
        """Each operator in the chosen region."""
        cause_s, total_s = choose(self.cause_s), choose(self.total_s)
        for row, number in enumerate(self.numbers):
            yield number, TimedOperator(
                total_s=total_s[row], cause_s=dict(zip(self.causes, cause_s[:, row], strict=True)),
                level_bytes={name: moved[row] for name, moved in self.work.level_bytes.items()})


def _timed_parts(step: DecodeStep, placement: Placement, hardware: HardwareProfile, regions: Regions, most_copies: Any,
                 shape: tuple[int, ...]) -> tuple[list[_Part], list[MappedAttention]]:
    """All operators of a step in each region, as many at a time as memory allows, and how its attentions lie there."""
    fabric, workload = fabric_of(hardware), step.workload
    hz = clock_hz(fabric, hardware)
    attentions: list[MappedAttention] = []
    parts: list[_Part] = []
    at_once = max(AT_ONCE // (len(regions.along) * max(prod(shape), 1)), 1)
    for numbers in by_formats(step.operators):
        operators = [step.operators[number] for number in numbers]
        stack = stacked(operators, shape)
        works, launch_s = even_work(stack, placement, hardware, fabric), _launch_s(stack, hardware, fabric)
        counts: Any = stack.count
        plain = [row for row, one in enumerate(operators) if one.attention is None]
        groups = [plain[first:first + at_once] for first in range(0, len(plain), at_once)]
        for rows in groups + [[row] for row in range(len(operators)) if row not in plain]:
            work, first = works.at(rows, shape), operators[rows[0]]
            if first.attention is None:
                cause_s = causes_s([operators[row] for row in rows], work, workload.model.hidden_size, fabric, regions,
                                   hz, shape)
            else:
                attentions.append(mapped_attention(first.attention, work, fabric, hardware, regions, hz, shape,
                                                   most_copies, workload.microbatches))
                cause_s = attentions[-1].cause_s
            parts.append(_Part.of([numbers[row] for row in rows], counts[rows], work, cause_s, launch_s[rows],
                                  regions, shape))
    return parts, attentions


def _unexplained_s(step: DecodeStep, parts: list[_Part], found: StepTiming, hardware: HardwareProfile) -> Any:
    """What the step takes by layers measured on this chip or its class, beyond its tiles; NaN where none were."""
    if np.all(hardware.overheads.layer_latency_s == 0.0):
        return np.nan
    roofs_s = sum((part.count[:, 0] * highest_s([
        *part.work.level_s.values(), part.work.compute_s, part.work.special_s])).sum(axis=0) for part in parts)
    return layers_wait_s(step.workload, hardware.overheads) + roofs_s - found.step_time_s


def operator_s(operator: Operator, placement: Placement, hardware: HardwareProfile) -> Any:
    """Seconds of an operator by itself on the whole chip, or on the region that a profile states; launch included."""
    fabric = fabric_of(hardware)
    hardware = _by_its_tiles(hardware)
    regions, hz = regions_of(fabric, parts=False), clock_hz(fabric, hardware)
    shape = np.shape(operator.matrix_flops if operator.attention is None else operator.kv_read_bytes)
    work = even_work(stacked([operator], shape), placement, hardware, fabric)
    if operator.attention is None:
        causes = {name: time_s[0] for name, time_s in causes_s(
            [operator], work, 0, fabric, regions, hz, shape).items()}
    else:
        causes = mapped_attention(operator.attention, work, fabric, hardware, regions, hz, shape, 1.0).cause_s
    return _launch_s(operator, hardware, fabric) + np.min(sum(causes.values()), axis=0)


def _launch_s(operator: Operator, hardware: HardwareProfile, fabric: Fabric) -> Any:
    """The start of an operator, where the fabric does not state that of a phase."""
    return operator.launches * (hardware.overheads.kernel_launch_s if fabric.start_cycles is None else 0.0)


def fabric_of(hardware: HardwareProfile) -> Fabric:
    """The fabric of a profile. Raises :class:`UserError` where it states none."""
    if hardware.fabric is None:
        raise UserError(f"{hardware.name} states no fabric: --engine spatial times machines made of tiles",
                        hint="fabric.tiles and fabric.topology in the profile, or --engine replay")
    return hardware.fabric


@once_a_profile
def _by_its_tiles(hardware: HardwareProfile) -> HardwareProfile:
    """The chip without the class's ranges for what its tiles state: ports stand for a share of the memories' peak, the
    loading of systolic engines for rows that few queries leave empty.
    """
    derived, fabric = [], fabric_of(hardware)
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


def _chosen(parts: list[_Part], between_s: Any, room: Room | None) -> Any:
    """The region of least time whose like hold the model, point by point; the first where none does."""
    total = sum(part.of_step_s() for part in parts) + between_s
    return np.argmin(total if room is None else np.where(room.holds, total, np.inf), axis=0)


def _flow_s(step: DecodeStep, parts: list[_Part], regions: Regions, fabric: Fabric, hz: Any,
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
    in_layers = [np.array(part.numbers) < len(step.layer_operators) for part in parts]
    layers_s = sum(part.of_step_s(rows) for part, rows in zip(parts, in_layers, strict=True))
    ends_s = sum(part.of_step_s(~rows) for part, rows in zip(parts, in_layers, strict=True))
    held = _wide(regions.used(layers)[1], shape) / workload.model.n_layers
    # Regions that pass on are full; the last one of a chip may not be.
    sent_s = np.where(turns + on > 0, a_column, 0.0) + np.where(turns > 0, a_turn, 0.0)
    slowest_s = np.maximum(held * layers_s + sent_s, ends_s)
    waiting_s = workload.microbatches * slowest_s - (layers_s + ends_s + passed_on_s)
    # One group a stage is what machines without regions have, whose stages are alike.
    return passed_on_s, np.where(workload.microbatches > stages, np.maximum(waiting_s, 0.0), 0.0)
