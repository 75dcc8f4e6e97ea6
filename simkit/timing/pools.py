r"""The time of a step that two pools of chips do together, micro-batch by micro-batch.

Each of ``m`` micro-batches passes ``L`` rounds of attention's pool, the link, the other pool and the link back, in
which a pool works on one of them at a time. With :math:`p_r` the time that a round takes of a resource ``r`` (a pool,
or the link in one direction), and :math:`\Sigma` that of a whole round, links' latencies included:

.. math:: T = \Sigma + (m-1)\,p_{max} + (L-1) \max(m\,p_{max},\; \Sigma)

which is the longest path through the schedule, fill and drain included: each piece of work waits for the one before it
on its resource and for its own micro-batch. Where :math:`m\,p_{max} \ge \Sigma` the slowest resource never waits and
this is :math:`(T_a + T_f + 2 T_c) + T_f (m L - 1)` of MegaScale-Infer (arXiv 2504.02263, section 4.1); else
micro-batches do not fill the round. What a step does once at its end (embedding and logits, :math:`e`) follows the last
round, for each micro-batch after the one before: :math:`\Sigma + (m-1)\,p_{max}` becomes :math:`\Sigma + e + (m-1)
\max(p_{max}, e)`. No resource does more than its own work in it, nor waits for less than the rest of one round:

.. math:: T \ge m \big(\tfrac{\lceil L/s_r\rceil}{L} L p_r + e_r\big) + \Sigma - p_r

That is all that is asked of a pool whose ``s`` stages hold successive layers: they stay full from step to step, as in
one machine. Layers of several kinds count as their mean. Event by event (tests/timing/test_pools.py) the first form is
exact; ends and stages are met within 11 % in nine of ten random cases, and greedy schedules of few stages miss it by
more where micro-batches clump.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """What joins two pools: bytes a second in each direction, all chips together, and the latency of a message."""

    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Seconds that one micro-batch takes of a resource in a step: in all layers, and at the ends of the step.

    ``busiest_share``: of the layers' seconds those that the busiest of its stages takes.
    """

    layers_s: Any
    ends_s: Any = 0.0
    busiest_share: Any = 1.0

    def busy_s(self, micro_batches: Any) -> Any:
        """Seconds of a step in which the resource (its busiest stage) works."""
        return micro_batches * (self.layers_s * self.busiest_share + self.ends_s)


def pipelined_step_s(sides: tuple[Side, ...], latency_s: Any, micro_batches: Any, rounds: int) -> Any:
    """Seconds of a step; ``latency_s``: what a micro-batch waits in a step for messages beside their bytes."""
    ends_s, one_s = sum(side.ends_s for side in sides), latency_s + sum(side.layers_s for side in sides)
    round_s = one_s / rounds
    slowest_s: Any = 0.0  # of what serves every layer
    slowest_end_s: Any = 0.0
    for side in sides:
        slowest_s = np.maximum(slowest_s, np.where(np.less(side.busiest_share, 1.0), 0.0, side.layers_s / rounds))
        slowest_end_s = np.maximum(slowest_end_s, side.ends_s)
    # The last round of the first micro-batch and the ends of its step, and the other micro-batches after it.
    found = ((rounds - 1) * np.maximum(micro_batches * slowest_s, round_s) + round_s + ends_s
             + (micro_batches - 1) * np.maximum(slowest_s, slowest_end_s))
    for side in sides:
        found = np.maximum(found, side.busy_s(micro_batches) + round_s - side.layers_s / rounds)
    return found
