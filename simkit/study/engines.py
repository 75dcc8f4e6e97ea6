"""The engines by name: the one table of them, so that nobody else compares an engine's name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.profile import HardwareProfile
from simkit.roofline.engine import evaluate, operator_times
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.study.replay_cache import replay_engine
from simkit.timing.engine import Engine
from simkit.timing.step_timing import StepTiming


@cache
def engine_named(name: str) -> Engine:
    """The engine of that name. Raises :class:`UserError` with the nearest one."""
    if name not in ENGINES:
        raise UserError(f"unknown engine '{str(name)[:40]}': expected one of {', '.join(ENGINES)}",
                        hint=did_you_mean(str(name), ENGINES))
    return ENGINES[name]


def in_main_memory(hardware: HardwareProfile) -> Placement:
    """A cache or weights that lie where they usually do, with room for them."""
    home = {hardware.main_memory.name: 1.0}
    return Placement(weights=home, kv=home, fits=True, max_batch=np.inf)


def _closed_form_alone_s(operator: Operator, hardware: HardwareProfile, library: Any) -> Any:
    if library is not None and hardware.kernel is not None:
        hardware = replace(hardware, kernel=hardware.kernel.for_libraries(library))
    return operator_times(operator, in_main_memory(hardware), hardware, start="warm", alone=True).total_s


def runs_on_tiles(hardware: HardwareProfile) -> bool:
    """Whether a replay of this chip is that of its tiles: where their rates are known, and no whole layer was measured.

    A measured layer stands in a replay, for tiles explain a part of it only.
    """
    return hardware.fabric is not None and hardware.fabric.has_rates and (
        "overheads.layer_latency" in hardware.unstated or bool(np.all(hardware.overheads.layer_latency_s == 0.0)))


def refuse_tiles(hardware: HardwareProfile) -> None:
    """Raise :class:`UserError` for a chip whose replay has no work items to look into."""
    if runs_on_tiles(hardware):
        raise UserError(f"{hardware.name} is replayed as tiles, which have no work items",
                        hint="simkit simulate --engine replay --explain says what its attention waits for")


def _replayed(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    """What a replay means on a machine: its tiles' phases where a profile states a fabric, else its memory's reads."""
    if runs_on_tiles(hardware):
        return _on_tiles(step, placement, hardware)
    from simkit.replay.target import schedule_of

    words = {"dispatched": "work items", "banked": "banks", "static": "stream"}
    return replace(replay_engine(step, placement, hardware),
                   detail=words[schedule_of(hardware, hardware.main_memory)])


def _replayed_warm(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    if runs_on_tiles(hardware):
        return _on_tiles(step, placement, hardware)
    from simkit.replay.engine import evaluate as replay

    return replay(step, placement, hardware, start="warm")


def _on_tiles(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    from simkit.spatial.engine import evaluate as on_tiles

    return on_tiles(step, placement, hardware)


def _on_tiles_alone_s(operator: Operator, hardware: HardwareProfile, library: Any) -> Any:
    """A kernel by itself on tiles; they have no libraries."""
    from simkit.spatial.engine import operator_s

    del library
    return operator_s(operator, in_main_memory(hardware), hardware)


def _replayed_alone_s(operator: Operator, hardware: HardwareProfile, library: Any) -> Any:
    """Point by point; the replay's compiler is loaded only here."""
    if runs_on_tiles(hardware):
        return _on_tiles_alone_s(operator, hardware, library)
    from simkit.replay.attention import replay_attention
    from simkit.replay.engine import task_of
    from simkit.timing.single_points import scalar_operator

    shape = np.shape(np.asarray(operator.kv_read_bytes))
    kernel = hardware.kernel
    chips = [hardware]
    if library is not None and kernel is not None:
        chips = [replace(hardware, kernel=kernel.for_libraries(number)) for number in range(len(kernel.libraries))]
    times = np.empty(shape)
    for index in range(times.size):
        one = scalar_operator(operator, index, shape)
        chip = chips[0 if library is None else int(library[index])]
        times.flat[index] = replay_attention(one, task_of(one), in_main_memory(chip), chip, start="warm",
                                             alone=True).total_s
    return times


ENGINES: Final = MappingProxyType({engine.name: engine for engine in (
    Engine(name="roofline", evaluate=evaluate, alone_s=_closed_form_alone_s, closed_form=True,
           broadcasts=lambda _: True, explains=False, point_cost=1.0),
    Engine(name="replay", evaluate=_replayed, evaluate_warm=_replayed_warm, alone_s=_replayed_alone_s,
           closed_form=False, broadcasts=runs_on_tiles, explains=True, point_cost=1e3),
    Engine(name="spatial", evaluate=_on_tiles, alone_s=_on_tiles_alone_s, closed_form=False,
           broadcasts=lambda _: True, explains=True, point_cost=1e3),
)})
DEFAULT: Final = "roofline"
CLOSED_FORM: Final = next(engine for engine in ENGINES.values() if engine.closed_form)
