r"""Time of an operator outside attention over the cache: its roofs, its launch, and the kernel of a measured product.

.. math:: T = t_{launch} + \max(T_{compute},\; T_{exp},\; \max_l\, bytes_l / \beta_l,\; T_{kernel})

Both engines time such operators here. A product's kernel (:mod:`simkit.timing.product_kernel`) counts where the chip
has parameters for it; inside a step its weights are cold and its launch is the profile's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simkit.hardware.kernel import GemmKernel, MoeKernel
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.timing.compute_roofs import compute_time_s, special_function_time_s
from simkit.timing.looped_caches import cyclic_hit_share, last_shared_cache
from simkit.timing.memory_roofs import memory_times
from simkit.timing.product_kernel import grouped_s, launch_floor_s, moved_bytes, product_s
from simkit.timing.roofs import OperatorTime


def streamed_times(operator: Operator, placement: Placement, hardware: HardwareProfile, *, alone: bool = False,
                   scanned_bytes: Any = None) -> OperatorTime:
    """All roofs of one operator that is not attention over the cache, and what a measured product adds to them.

    Parameters
    ----------
    operator, placement, hardware: what, where its tensors live, on which chip.
    alone: timed by itself: its kernel's whole floor instead of a launch inside a step, and its inputs and outputs in
        main memory instead of where the operator before left them.
    scanned_bytes: what a loop reads before it comes back to the same operands of a product, which the chip's cache may
        still hold then; None: they are cold.
    """
    task, kernel = operator.product, product_kernel_of(operator, hardware)
    hits: Any = 0.0
    if scanned_bytes is not None and kernel is not None and hardware.kernel is not None:
        hits = cyclic_hit_share(scanned_bytes, last_shared_cache(hardware), hardware.kernel)
    level_s, level_bytes = memory_times(operator, placement, hardware, hit_share=hits)
    found = OperatorTime(
        compute_s=compute_time_s(operator, hardware), special_s=special_function_time_s(operator, hardware),
        level_s=level_s, level_bytes=level_bytes, launch_s=operator.launches * hardware.overheads.kernel_launch_s,
        unit_s={})
    if task is None or kernel is None:
        return found
    home = hardware.main_memory
    # In a step, inputs and outputs are where the roofs have them: in the cache between two operators.
    read = (moved_bytes(task) if alone and not task.grouped else
            operator.weight_bytes * placement.weights.get(home.name, 0.0))
    peak: Any = home.chip_bandwidth_bytes_per_s
    memory_s = read * (1.0 - hits) / (kernel.dram_achieved_fraction * peak)
    if isinstance(kernel, MoeKernel):
        body_s = grouped_s(task, operator.dtype, hardware, kernel, memory_s)
    else:
        body_s = product_s(task, operator.dtype, hardware, kernel, memory_s)
        if home.latency_s is not None:
            body_s = body_s + kernel.dram_ramp_ratio * home.latency_s * (1.0 - hits)
    launch_s = operator.launches * launch_floor_s(task, hardware, kernel) if alone else found.launch_s
    return replace(found, launch_s=launch_s, unit_s={home.name: memory_s}, body_s=body_s)


def product_kernel_of(operator: Operator, hardware: HardwareProfile) -> GemmKernel | MoeKernel | None:
    """The parameters of this operator's kernel; None for what is no product and for chips that have none."""
    if operator.product is None or hardware.kernel is None:
        return None
    return hardware.kernel.moe if operator.product.grouped else hardware.kernel.gemm
