"""In words: what binds a replayed attention kernel, and what would move it.

Every number is found by running the engine: the account of time from the replay itself, and each "would" by running
the same step again with that one parameter of the profile changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.replay.attention import IMBALANCE, LAUNCH, AttentionReplay
from simkit.replay.engine import evaluate, replay_point
from simkit.step.build import build_step
from simkit.study.evaluate import Evaluated, evaluate_group
from simkit.study.explain_tiles import explain_tiles
from simkit.study.grid import Grid
from simkit.study.movements import (
    Change,
    Movement,
    attention_roofs_s,
    faster_memories,
    movements_by,
    point_words,
    told,
)
from simkit.study.scenario import parse_scenario
from simkit.timing.step_timing import COMPUTE, LATENCY, LOAD_PATH, SPECIAL_FUNCTION

MOST_EXPLAINED: Final = 12
_SHARE_WORDS: Final = {
    COMPUTE: "arithmetic binds: {share} of the kernel computes",
    LATENCY: "latency binds: {share} of the kernel waits for set-up and for first bytes on their way",
    LOAD_PATH: "the load path binds: {share} of the kernel waits because its units keep too few bytes in flight",
    SPECIAL_FUNCTION: "exponentials bind: {share} of the kernel computes them",
    LAUNCH: "the launch binds: it takes {share} of the kernel",
    IMBALANCE: "imbalance binds: {share} of the kernel's slots idle after their last work item",
}
_SHORT_WORDS: Final = {COMPUTE: "arithmetic", LOAD_PATH: "load path", SPECIAL_FUNCTION: "exponentials"}


def explain_grid(grid: Grid) -> list[str]:
    """Lines for every point of a replayed grid, the first twelve of them; points that do not fit are left out."""
    lines: list[str] = []
    points = list(itertools.product(grid.hardware, grid.model, grid.kv_dtype, grid.attention, grid.batch, grid.kv_len,
                                    grid.q_len))
    for chip, model, kv_dtype, attention, batch, kv_len, q_len in points[:MOST_EXPLAINED]:
        found = evaluate_group(
            chip, model, attention, rivals=list(grid.attention), batch=np.array([batch]), kv_len=np.array([kv_len]),
            q_len=np.array([q_len]), chips=grid.chips, tp=grid.tp, pp=grid.pp, engine=grid.engine, baseline=False,
            scenario=parse_scenario(kv_dtype=kv_dtype, **grid.scenario))
        if bool(found.columns["fits"][0]):
            lines += explain_tiles(found) if found.timing.detail == "tiles" else explain(found)
    if len(points) > MOST_EXPLAINED:
        lines.append(f"{len(points) - MOST_EXPLAINED} more points are not explained: shorten the lists")
    return lines


def explain(evaluated: Evaluated) -> list[str]:
    """What binds the attention of a single replayed point, and what would move it."""
    replays = _replays(evaluated)
    layers = sum(count for count, _ in replays)
    stalls: dict[str, float] = {}
    for count, one in replays:
        for name, time in one.stall_s.items():
            stalls[name] = stalls.get(name, 0.0) + time * count / layers
    total = sum(stalls.values())
    roof = _roof_s(evaluated) / layers
    lines = [
        f"{point_words(evaluated)}: attention takes {format_quantity(total, SECONDS)} a layer, "
        f"{total / roof:.2f} times its roof of {format_quantity(roof, SECONDS)}.",
        "  " + _what_binds(stalls, total)]
    details = _details([one for _, one in replays])
    if details:
        lines.append("  " + details)
    return [*lines, *("  " + line for line in told(movements(evaluated)))]


def movements(evaluated: Evaluated) -> list[Movement]:
    """Each change of one parameter and what it does, largest effect on attention first."""
    return movements_by(evaluated, _changes(evaluated), evaluate)


def _changes(evaluated: Evaluated) -> Iterator[Change]:
    step, chip = evaluated.step, evaluated.hardware
    for level, faster in faster_memories(chip):
        # Measured kernels were tuned for their chip's memory: on a faster one their load paths would be wider.
        tuned = " and load paths tuned for it" if chip.kernel is not None and level is chip.main_memory else ""
        yield Change(what=f"twice {level.name}'s bandwidth{tuned}", step=step, hardware=faster)
    compute = chip.compute
    yield Change(what="twice the arithmetic", step=step, hardware=replace(chip, compute=replace(
        compute, matrix_peak_flop_per_s={name: 2 * rate for name, rate in compute.matrix_peak_flop_per_s.items()},
        vector_peak_flop_per_s=_twice(compute.vector_peak_flop_per_s))))
    if compute.special_ops_per_s is not None:
        yield Change(what="twice the exponentials", step=step,
                     hardware=replace(chip, compute=replace(compute, special_ops_per_s=2 * compute.special_ops_per_s)))
    if compute.outstanding_bytes_per_unit is not None or chip.kernel is not None:
        kernel = chip.kernel and replace(
            chip.kernel, load_bytes_per_cycle_per_unit=2 * chip.kernel.load_bytes_per_cycle_per_unit)
        yield Change(what="twice the bytes in flight", step=step, hardware=replace(
            chip, kernel=kernel,
            compute=replace(compute, outstanding_bytes_per_unit=_twice(compute.outstanding_bytes_per_unit))))
    if chip.overheads.kernel_launch_s > 0:
        yield Change(what="no launch time", step=step,
                     hardware=replace(chip, overheads=replace(chip.overheads, kernel_launch_s=0.0)))
    if step.workload.kernel != "grouped":
        # The workload caches what follows from its fields, so a changed one is built anew.
        yield Change(what="the grouped kernel, which cuts long sequences", hardware=chip,
                     step=build_step(replace(step.workload, kernel="grouped")))


def _twice(rate: float | None) -> float | None:
    return None if rate is None else 2 * rate


def _replays(evaluated: Evaluated) -> list[tuple[int, AttentionReplay]]:
    """The replay of each kind of layer's attention, with how many layers are of that kind."""
    shape = np.shape(evaluated.timing.step_time_s)
    return [(operator.count, replay_point(operator, evaluated.placement, evaluated.hardware, 0, shape))
            for operator in evaluated.step.attention_operators]


def _roof_s(evaluated: Evaluated) -> float:
    """Launches and highest roofs of all attention operators: what no kernel beats."""
    launches = sum(operator.count * operator.launches for operator in evaluated.step.attention_operators)
    return launches * evaluated.hardware.overheads.kernel_launch_s + attention_roofs_s(evaluated)


def _what_binds(stalls: dict[str, float], total: float) -> str:
    order = sorted((name for name in stalls if stalls[name] > 0), key=lambda name: -stalls[name])
    first = _SHARE_WORDS.get(order[0], f"{order[0]} bandwidth binds: {{share}} of the kernel waits for it").format(
        share=f"{stalls[order[0]] / total:.0%}")
    rest = ", ".join(f"{_SHORT_WORDS.get(name, name)} {stalls[name] / total:.1%}" for name in order[1:]
                     if stalls[name] >= 0.001 * total)
    return first + (f"; {rest}." if rest else ".")


def _details(replays: list[AttentionReplay]) -> str:
    first = replays[0]
    words = []
    if first.row_hit_fraction is not None:
        words.append(f"Row hits {first.row_hit_fraction:.0%}; the access pattern reaches "
                     f"{first.home_rate_fraction:.0%} of the streaming rate.")
    elif first.home_rate_fraction < 1:
        words.append(f"Reads meet in banks and reach {first.home_rate_fraction:.0%} of their rate.")
    if first.splits > 1:
        words.append(f"Each head's tokens are cut into {first.splits:.1f} pieces on average ({first.items} items).")
    if first.replayed_fraction < 1:
        words.append(f"{first.replayed_fraction:.1%} of the kernel was replayed; the rest follows its steady state "
                     f"within {first.extrapolation_bound_s / first.total_s:.2%}.")
    return " ".join(words)
