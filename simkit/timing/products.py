r"""Operators outside attention over the cache: the kernel of a measured product, and the time of any of them.

.. math:: T = \min_{w, s} \Big[ \max\big( \max(b \lceil n/w \rceil \lceil m/128 \rceil s / U, 1)
          (t_{tile} + \tfrac{k}{s} c),\; T_{DRAM} \big) + t_{combine}(s) \Big]

for ``b`` products ``y[m, n] = x[m, k] w[k, n]`` in output tiles of up to 128 rows and ``w`` columns, ``k`` cut into
``s`` pieces, on ``U`` units: ``c`` cycles a step of ``k`` are the larger of the unit's load path and its matrix work on
rows padded to 16. Launch and the first loads' latency come on top. Parameters:
:class:`simkit.hardware.kernel.GemmKernel`.

The experts of a mixture are one grouped product of ``b`` experts with ``m`` rows each in the mean. Its tiles have ``r``
= 16, 32, 64 or 128 rows; ``b`` experts of unequal rows fill :math:`b \max(1, m/r + 1/2)` of them (half a tile is
empty at the end of each), ``k`` is not cut, and ``p`` copies of every choice's hidden state pass the main memory:

.. math:: T = \min_{w, r} \max\big( \max(b \max(1, \tfrac{m}{r} + \tfrac12) \lceil n/w \rceil / U, 1)
          (t_{tile} + k c),\; T_{DRAM} \big) + p\, bytes_{routed} / \beta

Parameters: :class:`simkit.hardware.kernel.MoeKernel`.


In a step weights are cold and the launch is the profile's. Roofs of any operator and the kernel of a product that was
measured make its time, in both engines:

.. math:: T = t_{launch} + \max(T_{compute},\; T_{exp},\; \max_l\, bytes_l / \beta_l,\; T_{kernel})
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from simkit.hardware.kernel import GemmKernel, MoeKernel
from simkit.hardware.kernel_shape import COMBINE_UNIT_BYTES, MATRIX_ROWS, PARTIAL_BYTES
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator, ProductTask
from simkit.step.placement import Placement
from simkit.timing.roofs import (
    OperatorTime,
    compute_time_s,
    cyclic_hit_share,
    last_shared_cache,
    memory_times,
    special_function_time_s,
)
from simkit.timing.step_timing import COMPUTE, LOAD_PATH

TILE_COLUMNS: Final = (64.0, 128.0, 256.0)  # CUTLASS's library has 128 x 64, 128 x 128 and 128 x 256 tiles, 64 deep
TILE_ROWS: Final = 128.0  # likewise
TILE_DEPTH: Final = 64.0  # likewise
MANY_ROWS: Final = 256.0  # up to which the other parameters were calibrated
GROUPED_COLUMNS: Final = (64.0, 128.0)  # BLOCK_SIZE_N of vLLM's and SGLang's tuned fused mixtures, mostly
GROUPED_ROWS: Final = (16.0, 32.0, 64.0, 128.0)  # BLOCK_SIZE_M, likewise
K_PIECES: Final = (1, 2, 4, 8)  # split-K as CUTLASS's profiler searches it, in powers of two
OUTPUT_BYTES: Final = 2.0  # y is written in bf16
# Products of a sweep differ in their rows alone: each number of rows once, and a look-up.
MOST_LOOKED_UP_ROWS: Final = 2048


class ProductTimes(NamedTuple):
    """Seconds of a product's best kernel without its launch: ``body_s`` in all; of it on the units' load path where
    that paces them, else on arithmetic, rows padded to tiles.
    """

    body_s: Any
    load_s: Any
    arithmetic_s: Any


def moved_bytes(task: ProductTask) -> Any:
    """Weights, inputs and outputs of a product, each once."""
    one = task.n * task.k * task.weight_bytes + task.m * (task.k * task.input_bytes + task.n * OUTPUT_BYTES)
    return task.batches * one


def launch_floor_s(task: ProductTask, hardware: HardwareProfile, kernel: GemmKernel | MoeKernel) -> float:
    """Floor of a product timed by itself; for 8-bit operands it includes the quantising kernel."""
    ratio = kernel.launch_ratio_8bit if isinstance(kernel, GemmKernel) and task.input_bytes < OUTPUT_BYTES else 1.0
    return kernel.launch_cycles * ratio / hardware.compute.known_clock_hz


def product_s(task: ProductTask, dtype: str, hardware: HardwareProfile, kernel: GemmKernel,
              memory_s: Any) -> ProductTimes:
    """Times of a product without its launch, its operands' ``memory_s`` included.

    Parameters
    ----------
    task: the product; its fields broadcast.
    dtype: format in which the matrix unit multiplies.
    hardware, kernel: the chip and its calibrated parameters.
    memory_s: seconds in which the main memory gives what the product reads.
    """
    compute = hardware.compute
    bandwidth, tuned = _bandwidths(hardware)
    sizes = task.n, task.k, task.batches, memory_s, bandwidth, compute.units, compute.known_clock_hz
    peak = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)]
    rest = (task.weight_bytes, task.input_bytes, tuned, peak, kernel)
    highest = float(np.max(task.m, initial=1.0))
    if highest > MOST_LOOKED_UP_ROWS or any(np.ndim(size) for size in (*sizes, peak)):
        return ProductTimes(*_least_s(task.m, *sizes, *rest))
    rows = np.asarray(task.m)
    index = rows.astype(np.intp)
    if np.any(index != rows):
        return ProductTimes(*_least_s(task.m, *sizes, *rest))
    up_to = 1 << (int(highest) - 1).bit_length()
    return ProductTimes(*_by_rows(up_to, *(float(size) for size in sizes), *rest)[:, index])


def _bandwidths(hardware: HardwareProfile) -> tuple[Any, Any]:
    """The main memory's, in bytes/s, and the one for which the chip's kernels were tuned."""
    bandwidth: Any = hardware.main_memory.chip_bandwidth_bytes_per_s
    return bandwidth, bandwidth if hardware.kernel is None else hardware.kernel.tuned_for_bytes_per_s


@lru_cache(maxsize=512)
def _by_rows(up_to: int, *arguments: Any) -> Any:
    """The three times by number of rows, from 0 to ``up_to``."""
    found = np.zeros((len(ProductTimes._fields), up_to + 1))
    found[:, 1:] = _least_s(np.arange(1.0, up_to + 1.0), *arguments)
    return found


def _least_s(m: Any, n: Any, k: Any, batches: Any, memory_s: Any, bandwidth: Any, units: Any, hz: Any,
             weight_bytes: float, input_bytes: float, tuned_for: float, peak: Any,
             kernel: GemmKernel) -> tuple[Any, Any, Any]:
    """The equation above, over tiles and pieces. A choice whose combine pass alone costs too much is left out."""
    # A chip that is given more bandwidth is given the load paths that it needs, as attention's are.
    load = kernel.load_bytes_per_cycle_per_unit * np.maximum(bandwidth / tuned_for, 1.0)
    narrow = kernel.matrix_ratio_8bit if input_bytes < OUTPUT_BYTES else (
        np.where(np.asarray(m) > MANY_ROWS, kernel.matrix_ratio_many_rows, 1.0))
    rate = peak / units / hz * (kernel.matrix_efficiency * narrow)
    rows = np.minimum(np.ceil(m / MATRIX_ROWS) * MATRIX_ROWS, TILE_ROWS)
    strips = batches * np.ceil(m / TILE_ROWS) / units
    combine_s = kernel.split_combine_cycles / hz
    partial_s = batches * m * n * (PARTIAL_BYTES * kernel.combine_cycles_per_64_bytes / COMBINE_UNIT_BYTES / units / hz)
    best: Any = np.inf
    load_s: Any = 0.0
    arithmetic_s: Any = 0.0
    for columns in TILE_COLUMNS:
        loading, computing = (columns * weight_bytes + rows * input_bytes) / load, 2.0 * rows * columns / rate
        step_s, paced_by_load = np.maximum(loading, computing) / hz, loading > computing
        tiles = np.ceil(n / columns) * strips
        for pieces in K_PIECES:
            if pieces > 1 and np.all(best <= memory_s + combine_s):
                break
            depth = np.ceil(k / (pieces * TILE_DEPTH)) * TILE_DEPTH
            of_unit = np.maximum(tiles * pieces, 1.0)
            steps_s = of_unit * depth * step_s
            time_s = np.maximum(of_unit * (kernel.tile_setup_cycles / hz) + steps_s, memory_s)
            if pieces > 1:
                time_s = time_s + (combine_s + pieces * partial_s)
            won = time_s < best
            best = np.where(won, time_s, best)
            load_s = np.where(won, np.where(paced_by_load, steps_s, 0.0), load_s)
            arithmetic_s = np.where(won, np.where(paced_by_load, 0.0, steps_s), arithmetic_s)
    return best, load_s, arithmetic_s


def grouped_s(task: ProductTask, dtype: str, hardware: HardwareProfile, kernel: MoeKernel,
              memory_s: Any) -> ProductTimes:
    """Times of a mixture's grouped product without its launches.

    Parameters
    ----------
    task: the product; its fields broadcast.
    dtype: format in which the matrix unit multiplies.
    hardware, kernel: the chip and its calibrated parameters.
    memory_s: seconds in which the main memory gives what the product reads.
    """
    compute = hardware.compute
    hz, units = compute.known_clock_hz, compute.units
    bandwidth, tuned = _bandwidths(hardware)
    load = kernel.load_bytes_per_cycle_per_unit * np.maximum(bandwidth / tuned, 1.0)
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)] / units / hz * kernel.matrix_efficiency
    depth = np.ceil(task.k / TILE_DEPTH) * TILE_DEPTH
    experts = task.batches / units
    best: Any = np.inf
    load_s: Any = 0.0
    arithmetic_s: Any = 0.0
    for rows in GROUPED_ROWS:
        strips = experts * np.maximum(task.m / rows + 0.5, 1.0)
        for columns in GROUPED_COLUMNS:
            loading, computing = (columns * task.weight_bytes + rows * task.input_bytes) / load, (
                2.0 * rows * columns / rate)
            waves = np.maximum(strips * np.ceil(task.n / columns), 1.0)
            steps_s = waves * depth * np.maximum(loading, computing) / hz
            time_s = waves * (kernel.tile_setup_cycles / hz) + steps_s
            won = time_s < best
            best = np.where(won, time_s, best)
            load_s = np.where(won, np.where(loading > computing, steps_s, 0.0), load_s)
            arithmetic_s = np.where(won, np.where(loading > computing, 0.0, steps_s), arithmetic_s)
    return ProductTimes(np.maximum(best, memory_s) + copies_s(task, hardware, kernel), load_s, arithmetic_s)


def copies_s(task: ProductTask, hardware: HardwareProfile, kernel: MoeKernel) -> Any:
    """Seconds in which the main memory passes the copies of every choice's hidden state."""
    bandwidth: Any = hardware.main_memory.chip_bandwidth_bytes_per_s
    return kernel.routing_passes * task.routed_bytes / bandwidth


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
    if scanned_bytes is not None and hardware.kernel is not None and (task is None or kernel is not None):
        hits = cyclic_hit_share(scanned_bytes, last_shared_cache(hardware), hardware.kernel)
    level_s, level_bytes = memory_times(operator, placement, hardware, hit_share=hits)
    found = OperatorTime(
        compute_s=compute_time_s(operator, hardware, placement), special_s=special_function_time_s(operator, hardware),
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
        body_s, load_s, arithmetic_s = grouped_s(task, operator.dtype, hardware, kernel, memory_s)
        memory_s = memory_s + copies_s(task, hardware, kernel)
    else:
        body_s, load_s, arithmetic_s = product_s(task, operator.dtype, hardware, kernel, memory_s)
        if home.latency_s is not None:
            body_s = body_s + kernel.dram_ramp_ratio * home.latency_s * (1.0 - hits)
    launch_s = operator.launches * launch_floor_s(task, hardware, kernel) if alone else found.launch_s
    return replace(found, launch_s=launch_s, body_s=body_s,
                   unit_s={home.name: memory_s, LOAD_PATH: load_s, COMPUTE: arithmetic_s})


def product_kernel_of(operator: Operator, hardware: HardwareProfile) -> GemmKernel | MoeKernel | None:
    """The parameters of this operator's kernel; None for what is no product and for chips that have none."""
    if operator.product is None or hardware.kernel is None:
        return None
    return hardware.kernel.moe if operator.product.grouped else hardware.kernel.gemm
