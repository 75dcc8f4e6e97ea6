r"""Attention on the cores of a CPU: the first query row of a group waits for a tile, the others find it in the cache.

A GPU hides one item's loads behind another's arithmetic. A core works on one tile at a time: while the first of the
``g`` rows that share a tile passes over it, loads and arithmetic overlap; the other rows only compute:

.. math:: T = \max\left(\max_{l > 1} bytes_l / \beta_l,\; C/g\right) + (1 - 1/g)\, C, \qquad C = F/\pi + E/\epsilon

The nearest level counts with the arithmetic, whose operands it holds, and exponentials run on the same lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator


def unhidden_s(operator: Operator, compute_s: Any, special_s: Any, level_s: Mapping[str, Any],
               hardware: HardwareProfile) -> Any:
    """What sharing tiles on cores adds to the highest roof; 0 on machines that overlap everything."""
    if hardware.kind != "cpu":
        return 0.0
    nearest = hardware.memory[0].name
    fetch_s: Any = 0.0
    for name, time_s in level_s.items():
        if name != nearest:
            fetch_s = np.maximum(fetch_s, time_s)
    work_s, rows = compute_s + special_s, np.asarray(operator.query_rows, dtype=float)
    highest_s = np.maximum(np.maximum(compute_s, special_s), np.maximum(fetch_s, level_s.get(nearest, 0.0)))
    return np.maximum(np.maximum(fetch_s, work_s / rows) + work_s * (1 - 1 / rows) - highest_s, 0.0)
