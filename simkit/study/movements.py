"""What an attention takes at best, and what would move it: a parameter of the chip changed, by how much, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile, MemoryLevel
from simkit.step.operators import DecodeStep
from simkit.study.evaluate import Evaluated
from simkit.timing.roofs import compute_time_s, highest_s, memory_times, special_function_time_s
from simkit.timing.step_timing import StepTiming

WORTH_TELLING: Final = 1.01  # a change that moves less than one percent is named without its number


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One parameter changed: what, and the step and chip that have it."""

    what: str
    step: DecodeStep
    hardware: HardwareProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What a change does, found by running the engine with it: time before over time after."""

    what: str
    attention_ratio: float
    step_ratio: float


def movements_by(evaluated: Evaluated, changes: Iterable[Change],
                 evaluate: Callable[[DecodeStep, Any, HardwareProfile], StepTiming]) -> list[Movement]:
    """Each change and what it does by an engine's ``evaluate``, largest effect on attention first."""
    found = []
    for change in changes:
        timing = evaluate(change.step, evaluated.placement, change.hardware)
        found.append(Movement(
            what=change.what,
            attention_ratio=float(np.ravel(evaluated.timing.attention_time_s / timing.attention_time_s)[0]),
            step_ratio=float(np.ravel(evaluated.timing.step_time_s / timing.step_time_s)[0])))
    return sorted(found, key=lambda movement: -movement.attention_ratio)


def told(found: list[Movement]) -> list[str]:
    """A line for each movement that is worth one, and one for all others."""
    telling = [movement for movement in found if max(movement.attention_ratio, movement.step_ratio) >= WORTH_TELLING]
    lines = [f"With {movement.what}: attention {movement.attention_ratio:.2f} times as fast, the step "
             f"{movement.step_ratio:.2f} times." for movement in telling]
    others = [movement.what for movement in found if movement not in telling]
    if others:
        lines.append(f"Less than 1 % from {', '.join(others)}.")
    return lines


def faster_memories(chip: HardwareProfile) -> Iterator[tuple[MemoryLevel, HardwareProfile]]:
    """Each level with a known bandwidth, and the chip with twice of it there."""
    for level in chip.memory:
        if level.bandwidth_bytes_per_s is not None:
            faster = replace(level, bandwidth_bytes_per_s=2 * level.bandwidth_bytes_per_s)
            yield level, replace(chip, memory=tuple(faster if other is level else other for other in chip.memory))


def attention_roofs_s(evaluated: Evaluated) -> float:
    """The highest roofs of all attention operators of a single point: what no kernel beats, launches apart."""
    hardware, placement, total = evaluated.hardware, evaluated.placement, 0.0
    for operator in evaluated.step.attention_operators:
        level_s, _ = memory_times(operator, placement, hardware)
        roof_s = highest_s([*level_s.values(), compute_time_s(operator, hardware, placement),
                            special_function_time_s(operator, hardware)])
        total += operator.count * float(np.max(roof_s))
    return total


def point_words(evaluated: Evaluated) -> str:
    """The first point, as an explanation begins: chip, model, layout, batch, context and chips."""
    columns = evaluated.columns
    chips = float(columns["chips"][0])
    return (f"{evaluated.hardware.name}, {evaluated.model.name}, {columns['attention'][0]}, batch "
            f"{columns['batch'][0]:.0f} x {columns['kv_len'][0]:.0f} tokens, {chips:,.0f} "
            f"chip{'s' if chips != 1 else ''}")
