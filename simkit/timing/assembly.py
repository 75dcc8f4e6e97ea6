"""From the times of operators to the time of a step: the part that is the same for every engine.

An engine times one operator on one chip; here operators add up along the step, collectives and hops between chips
join them, and a full pipeline waits for its slowest stage. Operators do not overlap each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Collective, DecodeStep, Operator
from simkit.timing.collective_times import collective_time_s
from simkit.timing.layer_latency import layers_wait_s
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, LOAD_PATH, SPECIAL_FUNCTION, Account, StepTiming


class Timed(Protocol):
    """One execution of an operator: its time, the causes that it adds up from, and the bytes moved at each level."""

    @property
    def total_s(self) -> Any:
        """The whole time."""

    @property
    def cause_s(self) -> dict[str, Any]:
        """The time by what binds."""

    @property
    def level_bytes(self) -> dict[str, Any]:
        """Bytes by memory level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOperator:
    """A :class:`Timed` of plain values."""

    total_s: Any
    cause_s: dict[str, Any]
    level_bytes: dict[str, Any]


def assemble(step: DecodeStep, hardware: HardwareProfile, time_operator: Callable[[Operator], Timed]) -> StepTiming:
    """Time one decode step on one chip's share of it, with the collectives and hops between chips."""
    workload = step.workload
    timed = [(operator, time_operator(operator)) for operator in step.operators]
    operator_time: dict[str, Any] = {}
    layers_s: Any = 0.0
    for operator, one in timed:
        total = operator.count * one.total_s
        operator_time[operator.name] = operator_time.get(operator.name, 0.0) + total
        layers_s = layers_s + total

    links = {item.name: item.count * _link_time(item, hardware, static=workload.static) for item in step.collectives}
    fixed_s = layers_wait_s(workload, hardware.overheads)
    stages_s = layers_s + sum(links.values()) + fixed_s
    # A full pipeline runs at its slowest stage: pp rounds of ceil(L/pp) layers take longer than all layers once.
    imbalance: Any = 1.0
    if not workload.static:
        imbalance = _stage_imbalance(workload.model.n_layers, workload.pp, workload.microbatches)
    waiting_s = stages_s * (imbalance - 1.0)
    host_s = hardware.overheads.step_s
    operator_time |= links | {"layer_latency": fixed_s, "pipeline_wait": waiting_s, "host": host_s}
    return StepTiming(
        step_time_s=stages_s + waiting_s + host_s, attention_time_s=operator_time["attention"],
        operator_time_s=operator_time,
        account=lambda: _account(timed, hardware, links, {
            "layer_latency": fixed_s, "pipeline_wait": waiting_s, "host": host_s}))


def _account(timed: list[tuple[Operator, Timed]], hardware: HardwareProfile, links_s: dict[str, Any],
             idle_s: dict[str, Any]) -> Account:
    causes = (*(level.name for level in hardware.memory), LOAD_PATH, COMPUTE, SPECIAL_FUNCTION, LINK, LATENCY)
    cause_time: dict[str, Any] = dict.fromkeys(causes, 0.0)
    attention_cause: dict[str, Any] = dict.fromkeys(causes, 0.0)
    of_operator: dict[str, dict[str, Any]] = {}
    level_bytes: dict[str, Any] = {level.name: 0.0 for level in hardware.memory}
    for operator, one in timed:
        own = of_operator.setdefault(operator.name, {})
        for cause, time in one.cause_s.items():
            whole = operator.count * time
            cause_time[cause] = cause_time[cause] + whole
            own[cause] = own.get(cause, 0.0) + whole
            if operator.attention is not None:
                attention_cause[cause] = attention_cause[cause] + whole
        for name, moved in one.level_bytes.items():
            level_bytes[name] = level_bytes[name] + operator.count * moved
    for cause, times in ((LINK, links_s), (LATENCY, idle_s)):
        cause_time[cause] = cause_time[cause] + sum(times.values())
        of_operator |= {name: {cause: time} for name, time in times.items()}
    return Account(cause_time_s=cause_time, attention_cause_time_s=attention_cause, operator_cause_s=of_operator,
                   level_bytes=level_bytes)


def _stage_imbalance(n_layers: int, pp: Any, microbatches: Any) -> Any:
    r"""Slowest stage against the mean one, :math:`\lceil L/pp \rceil pp / L`, felt only when every stage is busy."""
    stages = np.asarray(pp, dtype=float)
    return np.where(np.asarray(microbatches) >= stages, np.ceil(n_layers / stages) * stages / n_layers, 1.0)


def _link_time(collective: Collective, hardware: HardwareProfile, *, static: bool) -> Any:
    # The layer latency of a statically scheduled machine is measured with the exchanges inside the layer.
    if static and collective.kind != "send":
        return np.zeros(np.shape(collective.chips))
    if collective.kind == "send":
        return collective_time_s(collective, hardware.scale_out or hardware.scale_up)
    return collective_time_s(collective, hardware.scale_up)
