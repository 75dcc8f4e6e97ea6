"""What an engine is to those who ask it: how it times a step and a kernel by itself, and what it can and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.timing.step_timing import StepTiming

Evaluate = Callable[[DecodeStep, Placement, HardwareProfile], StepTiming]
Alone = Callable[[Operator, HardwareProfile, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to time a decode step.

    Parameters
    ----------
    name: as after ``--engine``.
    evaluate: times a step in which each kernel meets a cold cache.
    alone_s: seconds of an attention kernel that loops by itself: operator, chip, and the software library of each
        row by number (None: the best).
    evaluate_warm: as ``evaluate``, each kernel looping alone; None where the engine has no such answer.
    closed_form: as fast as formulas are; searches and large sweeps ask it.
    broadcasts: whether, on a chip, it takes arrays for parameters of the profile; others are asked point by point.
    explains: gives an account of what a kernel waits for.
    point_cost: time of a point, in points of the closed form (order of magnitude).
    """

    name: str
    evaluate: Evaluate
    alone_s: Alone
    evaluate_warm: Evaluate | None = None
    closed_form: bool
    broadcasts: Callable[[HardwareProfile], bool]
    explains: bool
    point_cost: float
