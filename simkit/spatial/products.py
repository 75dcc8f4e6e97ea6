r"""Products of weights on tiles, and operators without one; all of a step at once.

``y[m, n] = x[m, k] w[k, n]``: inputs are dealt out along one side of the region, outputs along the other, so a tile has
:math:`\lceil k/x \rceil \lceil n/y \rceil` weights, and every output is a sum over the ``x`` tiles of a column:
:math:`m \lceil n/y \rceil` elements of a message. Its outputs lie where the product that follows needs its inputs,
which is dealt out the other way round (WaferLLM, arXiv 2502.04563, section 4): products of the hidden state sum over
the region's first side, those that give it back over the second. Where any tile reaches any other it is always the
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import BY_NEIGHBOURS, Fabric
from simkit.spatial.messages import sum_cycles, sum_hop_bytes
from simkit.spatial.regions import Regions
from simkit.spatial.tile_work import EvenWork, local_s
from simkit.step.operators import Operator, ProductTask
from simkit.step.workload import ACTIVATION_BYTES
from simkit.timing.step_timing import LINK

MESSAGE_BYTES: Final = 2.0  # partial sums travel in 16 bits, as WaferLLM's
NONE: Final = ProductTask(m=0.0, n=1.0, k=1.0, batches=1.0, weight_bytes=0.0, input_bytes=0.0)
_AMOUNTS: Final = ("count", "matrix_flops", "vector_flops", "unpack_flops", "widened_read_bytes",
                   "widened_reread_bytes", "exponentials", "weight_bytes", "kv_read_bytes", "kv_reread_bytes",
                   "kv_write_bytes", "activation_bytes", "query_rows", "launches")


def by_formats(operators: Sequence[Operator]) -> list[list[int]]:
    """Numbers of the operators that multiply the same formats, which :func:`stacked` makes one."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(operators):
        found.setdefault((one.dtype, one.cache_dtype), []).append(number)
    return list(found.values())


def stacked(operators: Sequence[Operator], shape: tuple[int, ...]) -> Operator:
    """Operators of the same formats as one, whose amounts are arrays [operators, points]: as few calls as for one."""
    loaded = [ACTIVATION_BYTES[one.dtype] if one.attention else (one.product or NONE).input_bytes for one in operators]
    return Operator(name="", dtype=operators[0].dtype, cache_dtype=operators[0].cache_dtype,
                    product=replace(NONE, input_bytes=rows_of(loaded, shape)),
                    **{name: rows_of([getattr(one, name) for one in operators], shape) for name in _AMOUNTS})


def rows_of(values: Sequence[Any], shape: tuple[int, ...]) -> Any:
    """Values of operators, numbers or arrays over the points, as an array [operators, points]."""
    rows = np.zeros((len(values), *shape))
    for row, value in enumerate(values):
        if isinstance(value, np.ndarray) or value != 0.0:  # most amounts of most operators are none
            rows[row] = value
    return rows


def causes_s(operators: Sequence[Operator], work: EvenWork, hidden_size: int, fabric: Fabric, regions: Regions, hz: Any,
             shape: tuple[int, ...]) -> dict[str, Any]:
    """Seconds by cause of one execution of each operator in each region; arrays that broadcast to [operators, regions,
    points]. ``work`` is that of the :func:`stacked` operators.
    """
    def of_all(values: Sequence[bool]) -> Any:
        return np.reshape(values, (-1, 1, *(1,) * len(shape)))

    def column(values: Any) -> Any:
        return values[:, None] if np.ndim(values) > len(shape) else values

    tasks = [one.product or NONE for one in operators]
    k, n, m, sums = (rows_of(one, shape)[:, None] for one in (
        [task.k for task in tasks], [task.n * task.batches for task in tasks], [task.m for task in tasks],
        [operator.sums for operator in operators]))
    first, second = (side.reshape(1, -1, *(1,) * len(shape)) for side in (regions.along, regions.across))
    is_product = of_all([one.product is not None for one in operators])
    returns = of_all([_returns(one, hidden_size, fabric) for one in operators])
    along, across = np.where(returns, second, first), np.where(returns, first, second)
    reached = first * second
    k_tile, n_tile = np.ceil(k / along), np.ceil(n / across)
    share = np.where(is_product, k_tile * n_tile / (k * n), 1.0 / reached) * fabric.n_tiles
    # Without a product m is 0, and only totals over the operand are messages.
    messages = sum_cycles(sums + m * n_tile, np.where(is_product | (sums > 0), along, 1.0), MESSAGE_BYTES, fabric)
    # A phase without a message begins all the same.
    messages = np.where(messages > 0, messages, fabric.phase_cycles)
    even = replace(work, level_s={name: column(time_s) for name, time_s in work.level_s.items()}, **{
        name: column(getattr(work, name)) for name in ("compute_s", "fill_s", "special_s", "far_bytes")})
    causes = local_s(even, fabric, hz, near=share, compute=share, special=share,
                     steps=m * np.minimum(k_tile, n_tile), reached=reached)
    return causes | {LINK: messages / hz}


def _returns(operator: Operator, hidden_size: int, fabric: Fabric) -> bool:
    """Whether a product's outputs are the hidden state, so that its inputs lie along the second side."""
    task = operator.product
    return task is not None and fabric.topology in BY_NEIGHBOURS and bool(np.all(task.n == hidden_size))


def operator_hop_bytes(operator: Operator, hidden_size: int, along: Any, across: Any, fabric: Fabric) -> Any:
    """Bytes times links of one execution's sums: each output's, and totals over the operand."""
    task = operator.product
    outputs = 0.0 if task is None else np.asarray(task.m * task.n * task.batches, dtype=float)
    return sum_hop_bytes(outputs + operator.sums, across if _returns(operator, hidden_size, fabric) else along,
                         MESSAGE_BYTES, fabric)
