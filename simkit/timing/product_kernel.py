r"""Closed-form time of a product of a few rows on a chip whose products were measured.

.. math:: T = t_{launch} + \min_{w, s} \Big[ \max\big( \max(\tfrac{n/w \cdot m/128 \cdot s}{U}, 1)
          (t_{tile} + \tfrac{k}{s} c),\; T_{DRAM} \big) + t_{combine}(s) \Big] + t_{ramp}

for ``y[m, n] = x[m, k] w[k, n]`` in output tiles of up to 128 rows and ``w`` columns, ``k`` cut into ``s`` pieces:
``c`` cycles a step of ``k`` are the larger of the unit's load path and its matrix work on rows padded to 16.

Parameters:
:class:`simkit.hardware.kernel.GemmKernel`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.hardware.kernel import GemmKernel
from simkit.hardware.kernel_shape import COMBINE_UNIT_BYTES, MATRIX_ROWS, PARTIAL_BYTES
from simkit.hardware.profile import HardwareProfile

TILE_COLUMNS: Final = (64.0, 128.0)  # CUTLASS's library of 16-bit products has 128 x 128 x 64 and 128 x 64 x 64
TILE_ROWS: Final = 128.0  # likewise
TILE_DEPTH: Final = 64.0  # likewise
K_PIECES: Final = (1, 2, 4, 8)  # split-K as CUTLASS's profiler searches it, in powers of two
OUTPUT_BYTES: Final = 2.0  # y is written in bf16


def gemm_time_s(m: Any, n: Any, k: Any, dtype: str, element_bytes: float, hardware: HardwareProfile,
                kernel: GemmKernel, *, hit_share: Any) -> Any:
    """Seconds of one product timed by itself, its floor included.

    Parameters
    ----------
    m, n, k: rows, output width and input width; they broadcast.
    dtype, element_bytes: format of both operands; outputs are 16-bit.
    hardware, kernel: the chip and its calibrated parameters.
    hit_share: share of the bytes that a warm cache serves.
    """
    compute = hardware.compute
    hz, units = compute.known_clock_hz, float(compute.units)
    moved = (n * k + m * k) * element_bytes + m * n * OUTPUT_BYTES
    bandwidth: Any = hardware.main_memory.chip_bandwidth_bytes_per_s
    missed = 1.0 - hit_share
    dram_s = moved * missed / (kernel.dram_achieved_fraction * bandwidth)
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)] / units / hz * kernel.matrix_efficiency
    rows = np.minimum(np.ceil(m / MATRIX_ROWS) * MATRIX_ROWS, TILE_ROWS)
    best: Any = np.inf
    for columns in TILE_COLUMNS:
        step_cycles = np.maximum((columns + rows) * element_bytes / kernel.load_bytes_per_cycle_per_unit,
                                 2.0 * rows * columns / rate)
        tiles = np.ceil(n / columns) * np.ceil(m / TILE_ROWS)
        for pieces in K_PIECES:
            waves = np.maximum(tiles * pieces / units, 1.0)
            depth = np.ceil(k / (pieces * TILE_DEPTH)) * TILE_DEPTH
            time_s = np.maximum(waves * (kernel.tile_setup_cycles + depth * step_cycles) / hz, dram_s)
            if pieces > 1:
                partial = pieces * m * n * PARTIAL_BYTES
                time_s = time_s + (kernel.split_combine_cycles
                                   + kernel.combine_cycles_per_64_bytes * partial / COMBINE_UNIT_BYTES / units) / hz
            best = np.minimum(best, time_s)
    launch = kernel.launch_cycles * (kernel.launch_ratio_8bit if element_bytes < OUTPUT_BYTES else 1.0)
    latency_s = hardware.main_memory.latency_s
    ramp_s = 0.0 if latency_s is None else kernel.dram_ramp_ratio * latency_s * missed
    return launch / hz + best + ramp_s
