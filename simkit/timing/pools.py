r"""The time of a step that two pools of chips do together, micro-batch by micro-batch.

Each of ``m`` micro-batches passes ``L`` rounds of attention's pool, the link, the other pool and the link back, in which
a pool works on one of them at a time. With :math:`p_r` the time that a round takes of a resource ``r`` (a pool, or the
link in one direction), and :math:`\Sigma` that of a whole round, links' latencies included:

.. math:: T = \Sigma + (m-1)\,p_{max} + (L-1) \max(m\,p_{max},\; \Sigma)

which is the longest path through the schedule, fill and drain included: each node waits for the one before it on its
resource and for its own micro-batch. Where :math:`m\,p_{max} \ge \Sigma` the slowest resource never waits and this is
:math:`(T_a + T_f + 2 T_c) + T_f (m L - 1)` of MegaScale-Infer (arXiv 2504.02263, section 4.1); else micro-batches do not
fill the round. Written by resource, with what a step does once (embedding, logits: :math:`e_r`) and with pools whose
``s`` stages hold successive layers and work side by side:

.. math:: T = \max\Big(L \Sigma + e + (m-1) p_{max},\; \max_r\, m \big(\tfrac{\lceil L/s_r\rceil}{L} L p_r + e_r\big)
          + \Sigma - p_r\Big)

Layers of several kinds count as their mean. Stages stay full from step to step, as in one machine.
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
    ends = sum(side.ends_s for side in sides)
    layers_s = sum(side.layers_s for side in sides) + latency_s
    round_s = layers_s / rounds
    slowest: Any = 0.0
    for side in sides:
        slowest = np.maximum(slowest, np.maximum(side.layers_s / rounds, side.ends_s))
    found = layers_s + ends + (micro_batches - 1) * slowest
    for side in sides:
        found = np.maximum(found, side.busy_s(micro_batches) + round_s - side.layers_s / rounds)
    return found
