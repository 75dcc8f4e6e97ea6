r"""Closed-form time of a product of a few rows on a chip whose products were measured.

.. math:: T = \min_{w, s} \Big[ \max\big( \max(b \lceil n/w \rceil \lceil m/128 \rceil s / U, 1)
          (t_{tile} + \tfrac{k}{s} c),\; T_{DRAM} \big) + t_{combine}(s) \Big]

for ``b`` products ``y[m, n] = x[m, k] w[k, n]`` in output tiles of up to 128 rows and ``w`` columns, ``k`` cut into
``s`` pieces, on ``U`` units: ``c`` cycles a step of ``k`` are the larger of the unit's load path and its matrix work on
rows padded to 16. Launch and the first loads' latency come on top (:mod:`simkit.timing.streamed`). Parameters:
:class:`simkit.hardware.kernel.GemmKernel`.

The experts of a mixture are one grouped product of ``b`` experts with ``m`` rows each in the mean. Its tiles have ``r``
= 16, 32, 64 or 128 rows; ``b`` experts of unequal rows fill :math:`b \max(1, m/r + 1/2)` of them (half a tile is
empty at the end of each), ``k`` is not cut, and ``p`` copies of every choice's hidden state pass the main memory:

.. math:: T = \min_{w, r} \max\big( \max(b \max(1, \tfrac{m}{r} + \tfrac12) \lceil n/w \rceil / U, 1)
          (t_{tile} + k c),\; T_{DRAM} \big) + p\, bytes_{routed} / \beta

Parameters: :class:`simkit.hardware.kernel.MoeKernel`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np

from simkit.hardware.kernel import GemmKernel, MoeKernel
from simkit.hardware.kernel_shape import COMBINE_UNIT_BYTES, MATRIX_ROWS, PARTIAL_BYTES
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import ProductTask

TILE_COLUMNS: Final = (64.0, 128.0, 256.0)  # CUTLASS's library has 128 x 64, 128 x 128 and 128 x 256 tiles, 64 deep
TILE_ROWS: Final = 128.0  # likewise
TILE_DEPTH: Final = 64.0  # likewise
GROUPED_COLUMNS: Final = (64.0, 128.0)  # BLOCK_SIZE_N of vLLM's and SGLang's tuned fused mixtures, mostly
GROUPED_ROWS: Final = (16.0, 32.0, 64.0, 128.0)  # BLOCK_SIZE_M, likewise
K_PIECES: Final = (1, 2, 4, 8)  # split-K as CUTLASS's profiler searches it, in powers of two
OUTPUT_BYTES: Final = 2.0  # y is written in bf16
# Products of a sweep differ in their rows alone: each number of rows once, and a look-up.
MOST_LOOKED_UP_ROWS: Final = 2048


def moved_bytes(task: ProductTask) -> Any:
    """Weights, inputs and outputs of a product, each once."""
    one = task.n * task.k * task.weight_bytes + task.m * (task.k * task.input_bytes + task.n * OUTPUT_BYTES)
    return task.batches * one


def launch_floor_s(task: ProductTask, hardware: HardwareProfile, kernel: GemmKernel | MoeKernel) -> float:
    """Floor of a product timed by itself; that of 8-bit operands has the kernel that quantises the inputs."""
    ratio = kernel.launch_ratio_8bit if isinstance(kernel, GemmKernel) and task.input_bytes < OUTPUT_BYTES else 1.0
    return kernel.launch_cycles * ratio / hardware.compute.known_clock_hz


def product_s(task: ProductTask, dtype: str, hardware: HardwareProfile, kernel: GemmKernel, memory_s: Any) -> Any:
    """Seconds of a product without its launch, its operands' ``memory_s`` included.

    Parameters
    ----------
    task: the product; its fields broadcast.
    dtype: format in which the matrix unit multiplies.
    hardware, kernel: the chip and its calibrated parameters.
    memory_s: seconds in which the main memory gives what the product reads.
    """
    compute = hardware.compute
    bandwidth: Any = hardware.main_memory.chip_bandwidth_bytes_per_s
    tuned = hardware.kernel.tuned_for_bytes_per_s if hardware.kernel is not None else bandwidth
    sizes = task.n, task.k, task.batches, memory_s, bandwidth, compute.units, compute.known_clock_hz
    peak = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)]
    rest = (task.weight_bytes, task.input_bytes, tuned, peak, kernel)
    highest = float(np.max(task.m, initial=1.0))
    if highest > MOST_LOOKED_UP_ROWS or any(np.ndim(size) for size in (*sizes, peak)):
        return _least_s(task.m, *sizes, *rest)
    rows = np.asarray(task.m)
    index = rows.astype(np.intp)
    if np.any(index != rows):
        return _least_s(task.m, *sizes, *rest)
    up_to = 1 << (int(highest) - 1).bit_length()
    return _by_rows(up_to, *(float(size) for size in sizes), *rest)[index]


@lru_cache(maxsize=512)
def _by_rows(up_to: int, *arguments: Any) -> Any:
    """Seconds by number of rows, from 0 to ``up_to``."""
    return np.concatenate([np.zeros(1), _least_s(np.arange(1.0, up_to + 1.0), *arguments)])


def _least_s(m: Any, n: Any, k: Any, batches: Any, memory_s: Any, bandwidth: Any, units: Any, hz: Any,
             weight_bytes: float, input_bytes: float, tuned_for: float, peak: Any, kernel: GemmKernel) -> Any:
    """The equation above, over tiles and pieces. A choice whose combine pass alone costs too much is left out."""
    # A chip that is given more bandwidth is given the load paths that it needs, as attention's are.
    load = kernel.load_bytes_per_cycle_per_unit * np.maximum(bandwidth / tuned_for, 1.0)
    narrow = kernel.matrix_ratio_8bit if input_bytes < OUTPUT_BYTES else 1.0
    rate = peak / units / hz * (kernel.matrix_efficiency * narrow)
    rows = np.minimum(np.ceil(m / MATRIX_ROWS) * MATRIX_ROWS, TILE_ROWS)
    strips = batches * np.ceil(m / TILE_ROWS) / units
    combine_s = kernel.split_combine_cycles / hz
    partial_s = batches * m * n * (PARTIAL_BYTES * kernel.combine_cycles_per_64_bytes / COMBINE_UNIT_BYTES / units / hz)
    best: Any = np.inf
    for columns in TILE_COLUMNS:
        step_s = np.maximum((columns * weight_bytes + rows * input_bytes) / load, 2.0 * rows * columns / rate) / hz
        tiles = np.ceil(n / columns) * strips
        for pieces in K_PIECES:
            if pieces > 1 and np.all(best <= memory_s + combine_s):
                break
            depth = np.ceil(k / (pieces * TILE_DEPTH)) * TILE_DEPTH
            time_s = np.maximum(tiles * pieces, 1.0) * (kernel.tile_setup_cycles / hz + depth * step_s)
            time_s = np.maximum(time_s, memory_s)
            if pieces > 1:
                time_s = time_s + (combine_s + pieces * partial_s)
            best = np.minimum(best, time_s)
    return best


def grouped_s(task: ProductTask, dtype: str, hardware: HardwareProfile, kernel: MoeKernel, memory_s: Any) -> Any:
    """Seconds of a mixture's grouped product without its launches.

    Parameters
    ----------
    task: the product; its fields broadcast.
    dtype: format in which the matrix unit multiplies.
    hardware, kernel: the chip and its calibrated parameters.
    memory_s: seconds in which the main memory gives what the product reads.
    """
    compute = hardware.compute
    hz, units = compute.known_clock_hz, compute.units
    bandwidth: Any = hardware.main_memory.chip_bandwidth_bytes_per_s
    tuned = hardware.kernel.tuned_for_bytes_per_s if hardware.kernel is not None else bandwidth
    load = kernel.load_bytes_per_cycle_per_unit * np.maximum(bandwidth / tuned, 1.0)
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)] / units / hz * kernel.matrix_efficiency
    depth = np.ceil(task.k / TILE_DEPTH) * TILE_DEPTH
    experts = task.batches / units
    best: Any = np.inf
    for rows in GROUPED_ROWS:
        strips = experts * np.maximum(task.m / rows + 0.5, 1.0)
        for columns in GROUPED_COLUMNS:
            loaded = columns * task.weight_bytes + rows * task.input_bytes
            step = np.maximum(loaded / load, 2.0 * rows * columns / rate)
            waves = np.maximum(strips * np.ceil(task.n / columns), 1.0)
            best = np.minimum(best, waves * ((kernel.tile_setup_cycles + depth * step) / hz))
    return np.maximum(best, memory_s) + kernel.routing_passes * task.routed_bytes / bandwidth
