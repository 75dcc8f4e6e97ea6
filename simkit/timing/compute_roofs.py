"""How long a chip's arithmetic units need for an operator: the same for every engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator


def compute_time_s(operator: Operator, hardware: HardwareProfile) -> Any:
    r"""Matrix unit with rows padded to its tile, or the vector unit when padding loses (model.md section 3).

    .. math:: T = \min\left( \max\left(\frac{F_m}{\pi_m} \frac{\lceil r/M \rceil M}{r}, \frac{F_v}{\pi_v}\right),
              \frac{F_m + F_v}{\pi_v} \right)

    ``F_v`` counts the widening of a quantised cache where the matrix unit does not multiply its format.
    """
    compute = hardware.compute
    rows, tile = np.asarray(operator.query_rows, dtype=float), compute.matrix_tile_rows
    padding = np.ceil(rows / tile) * tile / rows
    matrix_s = operator.matrix_flops * padding / compute.matrix_achievable_flop_per_s(operator.dtype)
    if compute.vector_peak_flop_per_s is None:
        return matrix_s
    # A matrix unit that multiplies the cache's own format needs nothing widened; the vector unit always does.
    unpack = 0.0 if operator.cache_dtype in compute.matrix_peak_flop_per_s else operator.unpack_flops
    vector_s = (operator.vector_flops + unpack) / compute.vector_peak_flop_per_s
    all_flops = operator.matrix_flops + operator.vector_flops + operator.unpack_flops
    all_vector_s = all_flops / compute.vector_peak_flop_per_s
    return np.minimum(np.maximum(matrix_s, vector_s), all_vector_s)


def special_function_time_s(operator: Operator, hardware: HardwareProfile) -> Any:
    """Exponentials over the special-function unit's rate; 0 where no source gives that rate."""
    rate = hardware.compute.special_ops_per_s
    return 0.0 if rate is None else operator.exponentials / rate
