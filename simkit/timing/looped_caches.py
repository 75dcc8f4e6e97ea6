r"""A kernel that loops alone finds its data in the caches: which level serves how much of a cache that is read again.

LRU under a cyclic scan of ``S`` bytes keeps everything of ``S`` below the capacity ``C`` and nothing above it; hashing
and pseudo-LRU blur the step. The share that levels up to capacity ``C`` serve falls linearly between:

.. math:: h(C) = \mathrm{clip}\left(\frac{w - S/C}{w - 1/w}, 0, 1\right)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator
from simkit.step.placement import Placement

# Half-width of the transition on a logarithmic scale: from 1/1.25 to 1.25 of the capacity.
TRANSITION_RATIO: Final = 1.25


def cyclic_share(scanned_bytes: Any, capacity_bytes: Any, transition_ratio: float = TRANSITION_RATIO) -> Any:
    """Share of a cyclic scan that a cache of this capacity serves; ``transition_ratio`` is w above.

    >>> float(cyclic_share(1e6, 4e6)), float(cyclic_share(8e6, 4e6))
    (1.0, 0.0)
    """
    occupancy = np.asarray(scanned_bytes, dtype=float) / capacity_bytes
    return np.clip((transition_ratio - occupancy) / (transition_ratio - 1 / transition_ratio), 0.0, 1.0)


def looped_placement(operator: Operator, placement: Placement, hardware: HardwareProfile) -> Placement:
    """The placement as a looped kernel sees it: its cache reads come from the nearest caches that hold them.

    What no cache holds stays at its home. Caches of scope ``unit`` count together: units read different items.
    """
    served: Any = 0.0
    shares: dict[str, Any] = {}
    for level in hardware.memory:
        if level.kind == "cache" and level.bandwidth_bytes_per_s is not None:
            up_to_here = np.maximum(cyclic_share(operator.kv_read_bytes, level.chip_capacity_bytes), served)
            shares[level.name] = up_to_here - served
            served = up_to_here
    for name, share in placement.kv.items():
        shares[name] = shares.get(name, 0.0) + share * (1.0 - served)
    return replace(placement, kv=shares)
