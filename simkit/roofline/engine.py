r"""The closed-form engine: a hierarchical roofline per operator, summed along the step.

.. math:: T = t_{launch} + \max(T_{compute},\; T_{exp},\; \max_l\, bytes_l / \beta_l)

Williams, Waterman, Patterson 2009 ("Roofline"), applied to each operator and memory level; operators do not overlap
each other. :math:`\pi` and :math:`\beta_l` are achievable rates (peak times the profile's achievable fraction).
Where a chip's kernels were measured, attention also pays for its work items
(:mod:`simkit.timing.attention_kernel`) and a matrix product for its tiles (:mod:`simkit.timing.products`); neither is
ever faster than its roofs. Everything broadcasts: workload axes and
hardware parameters may be arrays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.timing.attention_kernel import kernel_time
from simkit.timing.beside_memory import where_faster
from simkit.timing.cpu_cores import unhidden_s
from simkit.timing.products import moved_bytes, streamed_times
from simkit.timing.prompt_attention import prompt_attention_s
from simkit.timing.roofs import (
    OperatorTime,
    compute_time_s,
    cyclic_hit_share,
    last_shared_cache,
    looped_placement,
    memory_times,
    special_function_time_s,
)
from simkit.timing.step_timing import StepTiming, Timed, assemble

Start = Literal["cold", "warm"]
MOST_REMEMBERED: Final = 8192  # operators, of about 2 kB each
_TIMED: dict[Any, tuple[HardwareProfile, Timed]] = {}


def evaluate(step: DecodeStep, placement: Placement, hardware: HardwareProfile) -> StepTiming:
    """Time one decode step; see :func:`simkit.timing.step_timing.assemble` for what joins the operators.

    Raises :class:`UserError` when a level that the step reads has no bandwidth parameter.
    """
    homes = tuple(placement.weights.items()), tuple(placement.kv.items())

    def once(operator: Operator) -> Timed:
        found = operator_times(operator, placement, hardware)
        return where_faster(found, operator, placement, hardware) if hardware.computes_in_memory else found

    def timed(operator: Operator) -> Timed:
        """Operators of plain numbers recur, from layout to layout and from call to call: each is timed once."""
        key = id(hardware), homes, operator
        try:
            known = _TIMED.get(key)
        except TypeError:  # arrays have no hash
            return once(operator)
        if known is None:
            if len(_TIMED) >= MOST_REMEMBERED:
                _TIMED.clear()
            # The entry keeps the profile alive, and with it the number that names it.
            known = _TIMED[key] = hardware, once(operator)
        return known[1]

    return assemble(step, hardware, timed)


def operator_times(operator: Operator, placement: Placement, hardware: HardwareProfile, *, start: Start = "cold",
                   alone: bool = False) -> OperatorTime:
    """All roofs of one operator on one chip.

    Parameters
    ----------
    operator, placement, hardware: what, where its tensors live, on which chip.
    start: ``warm``: the operator loops alone and what it reads may still be in the chip's cache.
    alone: charge what a kernel timed by itself shows: its whole floor instead of a launch inside a step, and what
        the cores of a CPU do not overlap.
    """
    kernel, task = hardware.kernel, operator.attention
    if task is None:
        scanned = None
        if start == "warm":
            scanned = operator.kv_read_bytes if operator.product is None else moved_bytes(operator.product)
        found = streamed_times(operator, placement, hardware, alone=alone, scanned_bytes=scanned)
        if operator.prompt is None:
            return found
        if kernel is None or kernel.prefill is None:
            return replace(found, body_s=found.highest_roof_s / hardware.compute.prompt_fraction)
        return replace(found, body_s=prompt_attention_s(operator.prompt, hardware, kernel.prefill, operator.dtype))
    hits: Any = 0.0
    if start == "warm" and kernel is not None:
        hits = cyclic_hit_share(operator.kv_read_bytes, last_shared_cache(hardware), kernel)
    elif start == "warm":
        placement = looped_placement(operator, placement, hardware)
    level_s, level_bytes = memory_times(operator, placement, hardware, hit_share=hits)
    compute_s, special_s = compute_time_s(operator, hardware, placement), special_function_time_s(operator, hardware)
    found = OperatorTime(compute_s=compute_s, special_s=special_s, level_s=level_s, level_bytes=level_bytes,
                         launch_s=operator.launches * hardware.overheads.kernel_launch_s, unit_s={})
    if kernel is None:
        more_s = unhidden_s(operator, compute_s, special_s, level_s, hardware) if alone else 0.0
        return replace(found, body_s=found.highest_roof_s + more_s) if np.any(more_s) else found
    times = kernel_time(task, hardware, kernel, hardware.main_memory.chip_bandwidth_bytes_per_s, hit_share=hits,
                        alone=alone, item_rows=operator.query_rows if task.kernel == "per-query-head" else None)
    return replace(found, unit_s=times.unit_s, body_s=times.body_s,
                   launch_s=operator.launches * times.floor_s if alone else found.launch_s)
