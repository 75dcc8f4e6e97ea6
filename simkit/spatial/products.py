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
from simkit.timing.step_timing import LINK

MESSAGE_BYTES: Final = 2.0  # partial sums travel in 16 bits, as WaferLLM's
NONE: Final = ProductTask(m=0.0, n=1.0, k=1.0, batches=1.0, weight_bytes=0.0, input_bytes=0.0)


def causes_s(operators: Sequence[Operator], works: Sequence[EvenWork], hidden_size: int, fabric: Fabric,
             regions: Regions, hz: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Seconds by cause of one execution of each operator in each region; arrays [operators, regions, points]."""
    dims, tasks = len(shape), [operator.product or NONE for operator in operators]
    first, second = (np.reshape(side, (1, -1, *(1,) * dims)) for side in (regions.along, regions.across))
    k, n, m, sums, is_product, returns = (_column(one, dims) for one in (
        [task.k for task in tasks], [np.asarray(task.n) * task.batches for task in tasks], [task.m for task in tasks],
        [operator.sums for operator in operators], [operator.product is not None for operator in operators],
        [_returns(operator, hidden_size, fabric) for operator in operators]))
    along, across = np.where(returns, second, first), np.where(returns, first, second)
    k_tile, n_tile = np.ceil(k / along), np.ceil(n / across)
    share = np.where(is_product, k_tile * n_tile / (k * n), 1.0 / (along * across)) * fabric.n_tiles
    messages = sum_cycles(sums + np.where(is_product, m * n_tile, 0.0),
                          np.where(is_product | (sums > 0), along, 1.0), MESSAGE_BYTES, fabric)
    # A phase without a message begins all the same.
    messages = np.where(messages > 0, messages, fabric.phase_cycles)
    level_s = {name: _column([one.level_s[name] for one in works], dims) for name in works[0].level_s}
    work = replace(works[0], level_s=level_s, **{
        name: _column([getattr(one, name) for one in works], dims)
        for name in ("compute_s", "fill_s", "special_s", "far_bytes")})
    causes = local_s(work, fabric, hz, near=share, compute=share, special=share,
                     steps=np.where(is_product, m * np.minimum(k_tile, n_tile), 0.0), reached=along * across)
    return causes | {LINK: messages / hz}


def _column(values: Sequence[Any], dims: int) -> Any:
    """Values of operators as an array [operators, 1, points], before so many axes of points."""
    numbers = all(np.ndim(one) == 0 for one in values)
    wide = np.array(values) if numbers else np.stack(np.broadcast_arrays(*values))
    return wide.reshape(len(values), 1, *(1,) * (dims + 1 - wide.ndim), *wide.shape[1:])


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
