"""In words: what an attention on tiles waits for, where its heads lie, what is left unexplained, what would move it.

As :mod:`simkit.study.explain` for what is replayed: every number is found by running the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.fabric import Fabric
from simkit.hardware.profile import HardwareProfile
from simkit.study.evaluate import Evaluated
from simkit.timing.roofs import compute_time_s, highest_s, memory_times, special_function_time_s
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, SPECIAL_FUNCTION, words_of

WORTH_TELLING = 1.01  # as in simkit.study.explain
_WORDS = {LINK: "messages between tiles", LATENCY: "instructions' starts", COMPUTE: "arithmetic",
          SPECIAL_FUNCTION: "exponentials"}


def explain_tiles(evaluated: Evaluated) -> list[str]:
    """What binds the attention of a single point on tiles, and what would move it."""
    columns, timing, hardware = evaluated.columns, evaluated.timing, evaluated.hardware
    layers = sum(operator.count for operator in evaluated.step.attention_operators)
    took_s, roof_s = _one(timing.attention_time_s) / layers, _roof_s(evaluated) / layers
    chips = float(columns["chips"][0])
    lines = [
        f"{hardware.name}, {evaluated.model.name}, {columns['attention'][0]}, batch {columns['batch'][0]:.0f} x "
        f"{columns['kv_len'][0]:.0f} tokens, {chips:,.0f} chip{'s' if chips != 1 else ''}: attention takes "
        f"{format_quantity(took_s, SECONDS)} a layer, {took_s / roof_s:.3g} times its roof of "
        f"{format_quantity(roof_s, SECONDS)}.",
        f"  {words_of(timing.tile_mapping, 0)}.",
        "  " + _what_binds(evaluated, took_s * layers)]
    unexplained_s = _one(timing.unexplained_s)
    if np.isfinite(unexplained_s):
        lines.append("  Unexplained: a measured layer of this chip makes the step "
                     f"{format_quantity(unexplained_s, SECONDS)} longer than its tiles do.")
    return [*lines, *("  " + line for line in _movements(evaluated))]


def _one(value: object) -> float:
    return float(np.ravel(np.asarray(value, dtype=float))[0])


def _roof_s(evaluated: Evaluated) -> float:
    """The highest roofs of all attention operators on all tiles evenly."""
    total = 0.0
    for operator in evaluated.step.attention_operators:
        level_s, _ = memory_times(operator, evaluated.placement, evaluated.hardware)
        total += operator.count * _one(np.max(highest_s([
            *level_s.values(), compute_time_s(operator, evaluated.hardware, evaluated.placement),
            special_function_time_s(operator, evaluated.hardware)])))
    return total


def _what_binds(evaluated: Evaluated, total_s: float) -> str:
    timing = evaluated.timing
    causes = {name: _one(time_s) for name, time_s in timing.attention_cause_time_s.items()}
    order = sorted((name for name in causes if causes[name] >= 0.001 * total_s), key=lambda name: -causes[name])
    shares = ", ".join(f"{_WORDS.get(name, f'{name} bandwidth')} {causes[name] / total_s:.0%}" for name in order)
    phases = {name: _one(time_s) for name, time_s in timing.message_s().items()}
    sent_s = sum(phases.values())
    if sent_s == 0.0:
        return f"Time: {shares}."
    of_messages = ", ".join(f"{name} {time_s / sent_s:.0%}" for name, time_s in phases.items() if time_s > 0)
    return f"Time: {shares}. Of its messages: {of_messages}."


def _movements(evaluated: Evaluated) -> list[str]:
    """Each change of the chip and what it does, largest effect on attention first."""
    found = []
    for what, hardware in _changes(evaluated.hardware):
        timing = evaluated.points.engine.evaluate(evaluated.step, evaluated.placement, hardware)
        found.append((what, _one(evaluated.timing.attention_time_s) / _one(timing.attention_time_s),
                      _one(evaluated.timing.step_time_s) / _one(timing.step_time_s)))
    found.sort(key=lambda one: -one[1])
    telling = [one for one in found if max(one[1:]) >= WORTH_TELLING]
    others = [what for what, *_ in (one for one in found if one not in telling)]
    return [*(f"With {what}: attention {attention:.2f} times as fast, the step {step:.2f} times."
              for what, attention, step in telling),
            *([f"Less than 1 % from {', '.join(others)}."] if others else [])]


def _changes(chip: HardwareProfile) -> Iterator[tuple[str, HardwareProfile]]:
    for level in chip.memory:
        if level.bandwidth_bytes_per_s is not None:
            faster = replace(level, bandwidth_bytes_per_s=2 * level.bandwidth_bytes_per_s)
            yield f"twice {level.name}'s bandwidth", replace(chip, memory=tuple(
                faster if other is level else other for other in chip.memory))
    yield "twice the arithmetic", replace(chip, compute=replace(chip.compute, matrix_peak_flop_per_s={
        name: 2 * rate for name, rate in chip.compute.matrix_peak_flop_per_s.items()}))
    fabric = chip.fabric
    if fabric is not None:
        yield from ((what, replace(chip, fabric=changed)) for what, changed in _of_the_fabric(fabric))


def _of_the_fabric(fabric: Fabric) -> Iterator[tuple[str, Fabric]]:
    tile, link = fabric.tile, fabric.link
    if fabric.phase_cycles:
        yield "no cycles before a phase", replace(fabric, start_cycles=0.0)
    if link.hop_cycles:
        yield "half the cycles a hop", replace(fabric, link=replace(link, hop_cycles=link.hop_cycles / 2))
    if link.add_cycles:
        yield "half the cycles an addition", replace(fabric, link=replace(link, add_cycles=link.add_cycles / 2))
    if link.bytes_per_cycle is not None:
        yield "twice the width of links", replace(fabric, link=replace(link, bytes_per_cycle=2 * link.bytes_per_cycle))
    if tile.step_cycles:
        yield "half the cycles an instruction", replace(fabric, tile=replace(tile, step_cycles=tile.step_cycles / 2))
    if tile.fill_bytes_per_cycle is not None:
        yield "twice the rate of filling engines", replace(
            fabric, tile=replace(tile, fill_bytes_per_cycle=2 * tile.fill_bytes_per_cycle))
    if tile.exponential_cycles is not None:
        yield "twice the exponentials", replace(
            fabric, tile=replace(tile, exponential_cycles=tile.exponential_cycles / 2))
