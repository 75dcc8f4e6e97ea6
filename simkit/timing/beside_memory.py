r"""Attention by arithmetic that stands beside a memory level and reads that level's own bytes (processing in memory).

Units at the banks multiply and add. Queries come in over the level's interface, scores go out, the chip's own units
turn them into probabilities, which come back, and outputs go out: the cache itself stays. With ``Q`` bytes of cache,
``F`` flops, ``n`` scores of ``b`` bytes, ``a`` bytes of queries and outputs:

.. math:: T = t_{launch} + \max\left( \frac{Q}{\beta_{inside}},\; \frac{F}{r \beta_{inside}},\;
          \frac{a + 2 n b}{\beta},\; T_{softmax} \right)

A KV head of ``R`` query rows takes :math:`2 R / b_{kv}` flops a byte, so arithmetic binds beyond
:math:`R^* = r b_{kv} / 2`: units that multiply each element once (HBM-PIM, GDDR6-AiM) gain nothing from shared heads.
``T_softmax``: exponentials and the vector work around them. The level's reads reach the same share of their rate inside
as at its interface.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import COMPUTE_DTYPE_FALLBACKS, HardwareProfile
from simkit.step.operators import Operator
from simkit.step.placement import ROUNDING, Placement
from simkit.step.workload import ACTIVATION_BYTES
from simkit.timing.roofs import by_binding_roof, compute_time_s, highest_s, special_function_time_s
from simkit.timing.step_timing import COMPUTE, LATENCY, SPECIAL_FUNCTION, Timed, TimedOperator

SLOWEST: Final = 1e-3  # flop/s: units that multiply nothing are never chosen


def where_faster(found: Timed, operator: Operator, placement: Placement, hardware: HardwareProfile) -> Timed:
    """An operator as timed on the chip's units, or attention beside the memory that holds its whole cache, point by
    point whichever takes less.
    """
    for level in hardware.memory if operator.attention is not None else ():
        beside = beside_memory(operator, level.name, hardware)
        if beside is None:
            continue
        held = np.asarray(placement.kv.get(level.name, 0.0)) >= 1.0 - ROUNDING
        less = held & (np.asarray(beside.total_s) < found.total_s)

        def chosen(own: dict[str, Any], other: dict[str, Any], less: Any = less) -> dict[str, Any]:
            return {name: np.where(less, own.get(name, 0.0), other.get(name, 0.0)) for name in {**other, **own}}

        if np.any(less):
            found = TimedOperator(
                total_s=np.where(less, beside.total_s, found.total_s), cause_s=chosen(beside.cause_s, found.cause_s),
                level_bytes=chosen(beside.level_bytes, found.level_bytes),
                beside_bytes=np.where(less, beside.beside_bytes, found.beside_bytes))
    return found


def beside_memory(operator: Operator, level_name: str, hardware: HardwareProfile) -> TimedOperator | None:
    """Attention over a cache in that level by the units beside it; None where there are none or they do not multiply
    its format.
    """
    level = hardware.level(level_name)
    units, rate, inside = level.compute, level.achievable_bytes_per_s, level.inside_bytes_per_s
    if operator.attention is None or units is None or rate is None or inside is None:
        return None
    formats = (operator.cache_dtype,) if np.any(operator.unpack_flops) else COMPUTE_DTYPE_FALLBACKS[operator.dtype]
    flop_per_byte = next((units.flop_per_byte[one] for one in formats if one in units.flop_per_byte), None)
    if flop_per_byte is None:
        return None
    crossing = operator.activation_bytes + 2.0 * operator.exponentials * ACTIVATION_BYTES[operator.dtype]
    multiplied_s = operator.matrix_flops / np.maximum(flop_per_byte * inside, SLOWEST)
    softmax_s = compute_time_s(replace(operator, matrix_flops=0.0, unpack_flops=0.0), hardware)
    special_s = special_function_time_s(operator, hardware)
    roofs = {level.name: np.maximum(operator.kv_read_bytes / inside, crossing / rate),
             COMPUTE: np.maximum(multiplied_s, softmax_s), SPECIAL_FUNCTION: special_s}
    body_s, launch_s = highest_s(roofs.values()), operator.launches * hardware.overheads.kernel_launch_s
    nearer = [one.name for one in hardware.memory[:hardware.memory.index(level)]]
    return TimedOperator(total_s=body_s + launch_s, cause_s=by_binding_roof(roofs, body_s) | {LATENCY: launch_s},
                         level_bytes={**dict.fromkeys(nearer, crossing), level.name: operator.kv_read_bytes + crossing},
                         beside_bytes=operator.kv_read_bytes)
