"""In words: what an attention on tiles waits for, where its heads lie, what is left unexplained, what would move it.

As :mod:`simkit.study.explain` for what is replayed: every number is found by running the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from simkit.foundation.units import BYTES, SECONDS, format_quantity
from simkit.hardware.fabric import Fabric
from simkit.study.evaluate import Evaluated
from simkit.study.movements import Change, attention_roofs_s, faster_memories, movements_by, point_words, told
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, SPECIAL_FUNCTION, words_of

_WORDS = {LINK: "messages between tiles", LATENCY: "instructions' starts", COMPUTE: "arithmetic",
          SPECIAL_FUNCTION: "exponentials"}


def explain_tiles(evaluated: Evaluated) -> list[str]:
    """What binds the attention of a single point on tiles, and what would move it."""
    timing = evaluated.timing
    layers = sum(operator.count for operator in evaluated.step.attention_operators)
    took_s, roof_s = _one(timing.attention_time_s) / layers, attention_roofs_s(evaluated) / layers
    lines = [
        f"{point_words(evaluated)}: attention takes {format_quantity(took_s, SECONDS)} a layer, "
        f"{took_s / roof_s:.3g} times its roof of {format_quantity(roof_s, SECONDS)}.",
        f"  {words_of(timing.tile_mapping, 0)}.",
        "  " + _what_binds(evaluated, took_s * layers)]
    unexplained_s = _one(timing.unexplained_s)
    if np.isfinite(unexplained_s):
        whose = "its class (assumed)" if "overheads.layer_latency" in evaluated.hardware.unstated else "this chip"
        difference = format_quantity(abs(unexplained_s), SECONDS)
        lines.append(f"  Unexplained: by the layers measured on {whose} the step takes {difference} "
                     f"{'longer' if unexplained_s > 0 else 'less'} than by its tiles.")
    sent = sum(map(_one, timing.hop_bytes().values()))
    per_byte = evaluated.hardware.fabric.link.energy_j_per_byte if evaluated.hardware.fabric is not None else None
    energy = "no source gives fabric.link.energy" if per_byte is None else f"{sent * per_byte:.3g} J"
    lines.append(f"  Messages of a step on a chip of each stage: {format_quantity(sent, BYTES)} times links; {energy}.")
    found = movements_by(evaluated, _changes(evaluated), evaluated.points.engine.evaluate)
    return [*lines, *("  " + line for line in told(found))]


def _one(value: object) -> float:
    return float(np.ravel(np.asarray(value, dtype=float))[0])


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


def _changes(evaluated: Evaluated) -> Iterator[Change]:
    chip, step = evaluated.hardware, evaluated.step
    for level, faster in faster_memories(chip):
        yield Change(what=f"twice {level.name}'s bandwidth", step=step, hardware=faster)
    yield Change(what="twice the arithmetic", step=step, hardware=replace(chip, compute=replace(
        chip.compute, matrix_peak_flop_per_s={
            name: 2 * rate for name, rate in chip.compute.matrix_peak_flop_per_s.items()})))
    if chip.fabric is not None:
        for what, changed in _of_the_fabric(chip.fabric):
            yield Change(what=what, step=step, hardware=replace(chip, fabric=changed))


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
