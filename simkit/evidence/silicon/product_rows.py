"""Measured weight products and all-reduces as the engines' operators and collectives."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.tables import ELEMENT_BYTES, Measured
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.roofline.engine import operator_times
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.timing.collective_times import all_reduce_time_s
from simkit.timing.looped_caches import cyclic_hit_share, last_shared_cache
from simkit.timing.product_kernel import gemm_time_s

# The benchmark of products goes round about six sets of buffers: with fewer or more the times of products near the
# cache's size make no sense (scan of 1, 3, 4, 5, 6, 7, 8, 12 over the measured rows: least error at 6).
WEIGHT_COPIES: Final = 6.0


def gemm_times_s(rows: Measured, hardware: HardwareProfile) -> Any:
    """Predicted seconds of ``y[m, n] = x[m, k] w[k, n]``, timed by itself.

    Chips whose products were measured have a kernel's parameters; others their roofs, weights cold in main memory.
    """
    columns = rows.columns
    times = np.empty(len(rows))
    home = [level for level in hardware.homes("weights") if not level.overflow][-1]
    placement = Placement(weights={home.name: 1.0}, kv={}, fits=True, max_batch=np.inf)
    for dtype in np.unique(columns["dtype"]):
        where = np.flatnonzero(columns["dtype"] == dtype)
        m, n, k = (columns[name][where] for name in ("m", "n", "k"))
        size = ELEMENT_BYTES[str(dtype)]
        if hardware.kernel is not None and hardware.kernel.gemm is not None:
            turn = WEIGHT_COPIES * ((n * k + m * k) * size + m * n * ELEMENT_BYTES["bf16"])
            times[where] = gemm_time_s(m, n, k, str(dtype), size, hardware, hardware.kernel.gemm,
                                       hit_share=cyclic_hit_share(turn, last_shared_cache(hardware), hardware.kernel))
            continue
        operator = Operator(
            name="gemm", count=1, matrix_flops=2.0 * m * n * k, weight_bytes=size * n * k,
            activation_bytes=m * (size * k + ELEMENT_BYTES["bf16"] * n), query_rows=m, dtype=str(dtype))
        times[where] = operator_times(operator, placement, hardware, alone=True).total_s
    return times


def allreduce_times_s(rows: Measured, hardware: HardwareProfile) -> Any:
    """Predicted seconds of all-reduces inside a node. Raises :class:`UserError` for a chip without a link."""
    if hardware.scale_up is None:
        raise UserError(f"{hardware.name} has no scale_up link in its profile")
    size = np.array([ELEMENT_BYTES[str(name)] for name in rows.columns["dtype"]])
    return all_reduce_time_s(rows.columns["elements"] * size, rows.columns["chips"], hardware.scale_up)
