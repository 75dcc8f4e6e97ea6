r"""The closed-form engine: a hierarchical roofline per operator, summed along the step.

.. math:: T = t_{launch} + \max(T_{compute},\; T_{exp},\; \max_l\, bytes_l / \beta_l)

Williams, Waterman, Patterson 2009 ("Roofline"), applied to each operator and memory level; operators do not overlap
each other. :math:`\pi` and :math:`\beta_l` are achievable rates (peak times the profile's achievable fraction).
Where a chip's attention kernels were measured, attention also pays for its work items
(:mod:`simkit.timing.attention_kernel`); it is never faster than its roofs. Everything broadcasts: workload axes and
hardware parameters may be arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.timing.assembly import assemble
from simkit.timing.attention_kernel import kernel_time
from simkit.timing.compute_roofs import compute_time_s, special_function_time_s
from simkit.timing.cpu_cores import unhidden_s
from simkit.timing.looped_caches import cyclic_hit_share, last_shared_cache, looped_placement
from simkit.timing.memory_roofs import memory_times
from simkit.timing.step_timing import COMPUTE, LATENCY, SPECIAL_FUNCTION, StepTiming

Start = Literal["cold", "warm"]


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time of one execution of an operator, by roof, and the bytes it moves at each level.

    ``unit_s`` are the compute units' own times of a measured kernel by cause, roofs like the others; ``extra_s`` is
    what such a kernel adds on top of the highest roof (set-up that nothing hides, ramps, the combine pass).
    """

    compute_s: Any
    special_s: Any
    level_s: dict[str, Any]
    level_bytes: dict[str, Any]
    launch_s: Any
    unit_s: dict[str, Any]
    extra_s: Any

    @cached_property
    def roofs(self) -> dict[str, Any]:
        """All roofs by the name that binds."""
        roofs = {COMPUTE: self.compute_s, SPECIAL_FUNCTION: self.special_s, **self.level_s}
        for name, time in self.unit_s.items():
            roofs[name] = np.maximum(roofs.get(name, 0.0), time)
        return roofs

    @cached_property
    def highest_roof_s(self) -> Any:
        """The roof that binds, without the launch."""
        highest: Any = 0.0
        for time in self.roofs.values():
            highest = np.maximum(highest, time)
        return highest

    @property
    def total_s(self) -> Any:
        """Launch plus the highest roof plus what a measured kernel adds."""
        return self.launch_s + self.highest_roof_s + self.extra_s

    @property
    def cause_s(self) -> dict[str, Any]:
        """The highest roof's time given to the roof that binds (the first on ties), launch and extras to latency."""
        shares: dict[str, Any] = {}
        rest = self.highest_roof_s
        for name, time in self.roofs.items():
            if np.ndim(time) == 0 and time == 0.0:
                continue
            shares[name] = np.where(time >= self.highest_roof_s, rest, 0.0)
            rest = rest - shares[name]
        return shares | {LATENCY: shares.get(LATENCY, 0.0) + self.launch_s + self.extra_s}


def evaluate(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    """Time one decode step; see :func:`simkit.timing.assembly.assemble` for what joins the operators.

    Raises :class:`UserError` when a level that the step reads has no bandwidth parameter.
    """
    return assemble(step, hardware, lambda operator: operator_times(operator, placement, hardware))


def operator_times(operator: Operator, placement: Placement, hardware: HardwareProfile, *, start: Start = "cold",
                   alone: bool = False) -> OperatorTime:
    """All roofs of one operator on one chip.

    Parameters
    ----------
    operator, placement, hardware: what, where its tensors live, on which chip.
    start: ``warm``: the operator loops alone and its cache reads may still be in the chip's cache.
    alone: charge what a kernel timed by itself shows: its whole floor instead of a launch inside a step, and what
        the cores of a CPU do not overlap.
    """
    kernel, task = hardware.kernel, operator.attention
    hits: Any = 0.0
    if start == "warm" and kernel is not None and task is not None:
        hits = cyclic_hit_share(operator.kv_read_bytes, last_shared_cache(hardware), kernel)
    elif start == "warm" and task is not None:
        placement = looped_placement(operator, placement, hardware)
    level_s, level_bytes = memory_times(operator, placement, hardware, hit_share=hits)
    launch_s: Any = operator.launches * hardware.overheads.kernel_launch_s
    unit_s: dict[str, Any] = {}
    extra_s: Any = 0.0
    compute_s, special_s = compute_time_s(operator, hardware), special_function_time_s(operator, hardware)
    if kernel is not None and task is not None:
        home = hardware.main_memory
        times = kernel_time(task, hardware, kernel, home.chip_bandwidth_bytes_per_s, hit_share=hits, alone=alone,
                            item_rows=operator.query_rows if task.kernel == "per-query-head" else None)
        unit_s = times.unit_s
        roof: Any = np.maximum(np.maximum(compute_s, special_s), np.maximum(unit_s[LATENCY], unit_s[COMPUTE]))
        for time in level_s.values():
            roof = np.maximum(roof, time)
        extra_s = np.maximum(times.body_s - roof, 0.0)
        if alone:
            floor_s = times.floor_s
            launch_s = operator.launches * floor_s
    if kernel is None and alone and task is not None:
        extra_s = unhidden_s(operator, compute_s, special_s, level_s, hardware)
    return OperatorTime(compute_s=compute_s, special_s=special_s, level_s=level_s, level_bytes=level_bytes,
                        launch_s=launch_s, unit_s=unit_s, extra_s=extra_s)
