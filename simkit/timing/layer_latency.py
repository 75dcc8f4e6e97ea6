r"""What layers wait for on machines without launches: exchanges that follow one another, and the way across the chip.

.. math:: T = \sum_{layers} \frac{p}{2}\, t_{layer} \Big[ 1 - s + s \sqrt{w / w_0} \Big]

``t_layer`` is calibrated on a dense layer, whose ``p = 2`` phases end in an exchange each: attention and MLP. In a
mixture of experts the router's choice must reach the experts before they start: a third phase, and a third exchange.
``s`` of the latency is distance on a mesh, and the side of the square that ``w`` bytes of weights fill grows with
their square root; ``w_0`` are those of the calibrated layer (``layer_latency_distance_fraction``,
``layer_latency_weights_bytes``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.hardware.profile import Overheads
from simkit.model.parameters import attention_parameters, mlp_parameters
from simkit.step.workload import DecodeWorkload

DENSE_PHASES: Final = 2  # attention and MLP, each with the exchange after it
MOE_PHASES: Final = 3  # and the router, whose choice the experts wait for


def layers_wait_s(workload: DecodeWorkload, overheads: Overheads) -> Any:
    """Seconds that a token waits in all layers together, beside their bytes and flops."""
    model = workload.model
    phases: Any = 0.0
    for group in model.layer_groups:
        weights = attention_parameters(model, workload.layout) + mlp_parameters(model, group).total
        growth = distance_growth(weights * workload.weight_format.bytes_per_element, overheads)
        phases += group.count * (MOE_PHASES if group.moe else DENSE_PHASES) * growth
    return phases / DENSE_PHASES * overheads.layer_latency_s


def distance_growth(layer_bytes: float, overheads: Overheads) -> Any:
    """A layer's latency over that of the layer that was calibrated; 1 where distance takes no part.

    >>> float(distance_growth(4.0, Overheads(layer_latency_weights_bytes=1.0, layer_latency_distance_fraction=0.25)))
    1.25
    """
    share, reference = overheads.layer_latency_distance_fraction, overheads.layer_latency_weights_bytes
    if reference is None:
        return 1.0
    return 1.0 - share + share * np.sqrt(layer_bytes / reference)
