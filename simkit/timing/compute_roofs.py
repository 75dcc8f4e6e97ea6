"""How long a chip's arithmetic units need for an operator: the same for every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.timing.memory_roofs import memory_times
from simkit.timing.roofs import highest_s


def compute_time_s(operator: Operator, hardware: HardwareProfile, placement: Placement | None = None) -> Any:
    r"""Matrix unit with rows padded to its tile, or the vector unit when padding loses (model.md section 3).

    .. math:: T_0 = \min\left( \max\left(\frac{F_m}{\pi_m} \frac{\lceil r/M \rceil M}{r}, \frac{F_v}{\pi_v}\right),
              \frac{F_m + F_v}{\pi_v} \right)

    A quantised cache that the matrix unit does not multiply as it is takes :math:`F_u` more flops of the vector unit;
    or it is converted on its way in, as fast as a cache of 16 bits would stream, whatever takes less: a format of fewer
    bytes never makes a machine slower than not using it.

    .. math:: T = \min\left( T_0|_{F_v + F_u},\; \max(T_0, T_{16}) \right)

    ``placement`` says where the cache lives; without one there is no :math:`T_{16}`.
    """
    compute = hardware.compute
    rows, tile = np.asarray(operator.query_rows, dtype=float), compute.matrix_tile_rows
    padding = np.ceil(rows / tile) * tile / rows
    matrix_s = operator.matrix_flops * padding / compute.matrix_achievable_flop_per_s(operator.dtype)
    vector_rate = compute.vector_peak_flop_per_s
    if vector_rate is None:
        return matrix_s
    vector_s, unpack_s = operator.vector_flops / vector_rate, operator.unpack_flops / vector_rate
    all_vector_s = (operator.matrix_flops + operator.vector_flops) / vector_rate
    # A matrix unit that multiplies the cache's own format needs nothing widened; the vector unit always does.
    native = operator.cache_dtype in compute.matrix_peak_flop_per_s
    widened_s = np.minimum(np.maximum(matrix_s, vector_s + (0.0 if native else unpack_s)), all_vector_s + unpack_s)
    if placement is None or (np.ndim(unpack_s) == 0 and unpack_s == 0.0):
        return widened_s
    kept_s, _ = memory_times(replace(operator, kv_read_bytes=operator.widened_read_bytes,
                                     kv_reread_bytes=operator.widened_reread_bytes), placement, hardware)
    plain_s = np.minimum(np.maximum(matrix_s, vector_s), all_vector_s)
    return np.minimum(widened_s, np.maximum(plain_s, highest_s(kept_s.values())))


def special_function_time_s(operator: Operator, hardware: HardwareProfile) -> Any:
    """Exponentials over the special-function unit's rate; 0 where no source gives that rate."""
    rate = hardware.compute.special_ops_per_s
    return 0.0 if rate is None else operator.exponentials / rate
