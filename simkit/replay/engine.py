"""The replay engine behind the engines' common interface: operators and placement in, :class:`StepTiming` out.

Attention over the cache is replayed point by point, and the append of new tokens put through the DRAM's banks beside
it; all other operators stream weights or activations: the roofline engine's own times, plus the latency of the first
byte where those leave it out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.replay.append import with_append
from simkit.replay.attention import AttentionReplay, Start, replay_attention
from simkit.step.build import KV_APPEND
from simkit.step.operators import AttentionTask, DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.timing.beside_memory import where_faster
from simkit.timing.products import product_kernel_of, streamed_times
from simkit.timing.single_points import profiles_of_points, scalar_operator, scalar_placement, shape_of
from simkit.timing.step_timing import StepTiming, Timed, TimedOperator, assemble

MOST_REMEMBERED: Final = 5_000  # replays of about 4 kB each
_REPLAYS: OrderedDict[Any, tuple[HardwareProfile, AttentionReplay]] = OrderedDict()


# Gives a point's time from elsewhere, or calls its last argument, which replays it; the tuple says how.
PointStore = Callable[
    [Operator, Placement, HardwareProfile, tuple[Any, ...], Callable[[], TimedOperator]], TimedOperator]


def evaluate(step: DecodeStep, placement: Placement, hardware: HardwareProfile, *, start: Start = "cold",
             exact: bool = False, store: PointStore | None = None) -> StepTiming:
    """Time one decode step by replay; ``store`` may know points already.

    Raises :class:`UserError` when a level's bandwidth has no source.
    """
    shape = shape_of(step, placement, hardware)
    chips = profiles_of_points(hardware, shape)

    readers = _readers(step)

    def timed(operator: Operator) -> Timed:
        if operator.attention is None:
            found = streamed(operator, placement, hardware)
            reader = readers.get(id(operator))
            return found if reader is None else with_append(found, operator, reader, placement, chips, shape)
        return where_faster(_replayed(operator, placement, chips, shape, start=start, exact=exact, store=store),
                            operator, placement, hardware)

    return assemble(step, hardware, timed)


def _readers(step: DecodeStep) -> dict[int, Operator]:
    """The attention operator that reads what an append writes, by the append's identity."""
    found: dict[int, Operator] = {}
    waiting: list[Operator] = []
    for operator in step.layer_operators:
        if operator.name == KV_APPEND:
            waiting.append(operator)
        elif operator.attention is not None:
            found |= {id(append): operator for append in waiting}
            waiting = []
    return found


def streamed(operator: Operator, placement: Placement, hardware: HardwareProfile) -> TimedOperator:
    """An operator that streams, and the latency of its first load where no measured kernel's time has it already."""
    found = streamed_times(operator, placement, hardware)
    first_s: Any = 0.0
    if product_kernel_of(operator, hardware) is None:
        for level in hardware.memory:
            first_s = np.where(np.asarray(found.level_bytes[level.name]) > 0, level.latency_s or 0.0, first_s)
    found = replace(found, launch_s=found.launch_s + first_s)
    return TimedOperator(total_s=found.total_s, cause_s=found.cause_s, level_bytes=found.level_bytes)


def _replayed(operator: Operator, placement: Placement, chips: list[HardwareProfile], shape: tuple[int, ...], *,
              start: Start, exact: bool, store: PointStore | None) -> TimedOperator:
    def timed(chip: HardwareProfile, index: int) -> TimedOperator:
        def replay() -> TimedOperator:
            one = replay_point(operator, placement, chip, index, shape, start=start, exact=exact)
            return TimedOperator(total_s=one.total_s, cause_s=one.cause_s, level_bytes=one.level_bytes)

        if store is None:
            return replay()
        one, where = scalar_operator(operator, index, shape), scalar_placement(placement, index, shape)
        return store(one, where, chip, (start, exact), replay)

    replays = [timed(chip, index) for index, chip in enumerate(chips)]
    causes = sorted({name for one in replays for name in one.cause_s})
    return TimedOperator(
        total_s=np.array([one.total_s for one in replays]).reshape(shape),
        cause_s={name: np.array([one.cause_s.get(name, 0.0) for one in replays]).reshape(shape) for name in causes},
        level_bytes={level.name: np.array([one.level_bytes.get(level.name, 0.0) for one in replays]).reshape(shape)
                     for level in chips[0].memory} if chips else {})


def replay_point(operator: Operator, placement: Placement, hardware: HardwareProfile, index: int,
                 shape: tuple[int, ...], *, start: Start = "cold", exact: bool = False) -> AttentionReplay:
    """The replay of one point of an attention operator; equal points of one profile are replayed once."""
    one, where = scalar_operator(operator, index, shape), scalar_placement(placement, index, shape)
    # Nothing changes a profile, so its identity names it; the entry keeps it alive and the number its own.
    key = (id(hardware), one, tuple(where.kv.items()), start, exact)
    if key not in _REPLAYS:
        if len(_REPLAYS) >= MOST_REMEMBERED:
            _REPLAYS.popitem(last=False)
        _REPLAYS[key] = hardware, replay_attention(one, task_of(one), where, hardware, start=start, exact=exact)
    return _REPLAYS[key][1]


def task_of(operator: Operator) -> AttentionTask:
    """What an attention operator reads."""
    if operator.attention is None:
        raise ValueError(f"{operator.name} is not an attention operator")
    return operator.attention
