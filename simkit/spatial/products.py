r"""A product of weights on tiles, and operators without one.

``y[m, n] = x[m, k] w[k, n]``: inputs are dealt out along one side of the region, outputs along the other, so a tile has
:math:`\lceil k/x \rceil \lceil n/y \rceil` weights, and every output is a sum over the ``x`` tiles of a column:
:math:`m \lceil n/y \rceil` elements of a message. Its outputs lie where the next product, dealt out the other way
round, needs its inputs (WaferLLM, arXiv 2502.04563, section 4).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import Fabric
from simkit.spatial.messages import sum_cycles, sum_hop_bytes
from simkit.spatial.regions import Regions
from simkit.spatial.tile_work import EvenWork, local_s
from simkit.step.operators import Operator
from simkit.timing.step_timing import LINK

MESSAGE_BYTES: Final = 2.0  # partial sums travel in 16 bits, as WaferLLM's


def operator_cause_s(operator: Operator, work: EvenWork, fabric: Fabric, regions: Regions, hz: Any,
                     dims: int) -> dict[str, Any]:
    """Seconds by cause of one execution in each region (axis 0, before ``dims`` axes of points)."""
    along, across, tiles = (_axis(one, dims) for one in (regions.along, regions.across, regions.tiles))
    chip = fabric.n_tiles
    steps: Any = 0.0
    summing = np.where(np.asarray(operator.sums) > 0, along, 1.0)
    messages: Any = sum_cycles(operator.sums, summing, MESSAGE_BYTES, fabric)
    share = chip / tiles
    if operator.product is not None:
        task = operator.product
        outputs = np.asarray(task.n, dtype=float) * task.batches
        k_tile, n_tile = np.ceil(task.k / along), np.ceil(outputs / across)
        share = k_tile * n_tile * chip / (task.k * outputs)
        steps = task.m * np.minimum(k_tile, n_tile)
        messages = messages + sum_cycles(task.m * n_tile, along, MESSAGE_BYTES, fabric)
    messages = np.where(messages > 0, messages, fabric.phase_cycles)  # a phase without a message begins all the same
    causes = local_s(work, fabric, hz, near=share, compute=share, special=share, steps=steps, reached=tiles)
    return causes | {LINK: messages / hz}


def operator_hop_bytes(operator: Operator, along: Any, fabric: Fabric) -> Any:
    """Bytes times links of one execution's sums: each output's, and totals over the operand."""
    task = operator.product
    outputs = 0.0 if task is None else np.asarray(task.m * task.n * task.batches, dtype=float)
    return sum_hop_bytes(outputs + operator.sums, along, MESSAGE_BYTES, fabric)


def _axis(values: Any, dims: int) -> Any:
    """Values along axis 0, before so many axes of points."""
    return np.reshape(values, (-1, *(1,) * dims))
