"""One point of what holds arrays: the roofline engine takes a whole sweep at once, the replay one kernel at a time."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import numpy as np

from simkit.hardware.parameters import arrays_of, once_a_profile
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement


def at_point(value: Any, index: int, shape: tuple[int, ...]) -> float:
    """One point of a number or an array that broadcasts to ``shape``."""
    return float(np.broadcast_to(value, shape).flat[index])


def scalar_operator(operator: Operator, index: int, shape: tuple[int, ...]) -> Operator:
    """One point of an operator, and of what its attention reads, whose fields are arrays of ``shape``."""
    return cast("Operator", _point(operator, index, shape))


def scalar_placement(placement: Placement, index: int, shape: tuple[int, ...]) -> Placement:
    """One point of a placement whose shares are arrays of ``shape``."""
    def at(shares: dict[str, Any]) -> dict[str, float]:
        return {name: at_point(share, index, shape) for name, share in shares.items()}

    return Placement(weights=at(placement.weights), kv=at(placement.kv), fits=True, max_batch=0)


def profiles_of_points(hardware: HardwareProfile, shape: tuple[int, ...]) -> list[HardwareProfile]:
    """The profile of each point; more than one where a parameter is an array (a study varies it)."""
    points = int(np.prod(shape))
    if not arrays_of_profile(hardware):
        return [hardware] * points
    return [_point(hardware, index, shape) for index in range(points)]


def shape_of(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> tuple[int, ...]:
    """The shape that a step's, a placement's and a profile's arrays have together."""
    workload = step.workload
    return np.broadcast_shapes(*(np.shape(value) for value in (
        workload.batch, workload.kv_len, workload.q_len, workload.n_kv_heads, workload.machine.tp, workload.machine.pp,
        workload.machine.in_flight, *placement.kv.values(), *arrays_of_profile(hardware))))


@once_a_profile
def arrays_of_profile(hardware: HardwareProfile) -> list[Any]:
    """Its array-valued parameters."""
    return arrays_of(hardware)


def _point(record: Any, index: int, shape: tuple[int, ...]) -> Any:
    """One point of a record, some of whose parameters are arrays of ``shape``."""
    if isinstance(record, tuple):
        return tuple(_point(item, index, shape) for item in record)
    if isinstance(record, np.ndarray):
        return at_point(record, index, shape)
    if not is_dataclass(record) or not arrays_of(record):
        return record
    return replace(cast("Any", record), **{
        field.name: _point(getattr(record, field.name), index, shape) for field in fields(record)})
