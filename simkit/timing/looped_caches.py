r"""A kernel that loops alone finds its data in the caches: which level serves how much of a cache that is read again.

LRU under a cyclic scan of ``S`` bytes keeps everything of ``S`` below the capacity ``C`` and nothing above it; hashing
and pseudo-LRU blur the step. The share that levels up to capacity ``C`` serve falls linearly between:

.. math:: h(C) = \mathrm{clip}\left(\frac{w - S/C}{w - 1/w}, 0, 1\right)

Lines dealt at random to sets of 16 ways would hit with a Poisson tail instead: 10 % at 1.33 C. Measured decode kernels
on L40S show none there (closed form 1.4 % off in the median over 40 rows, with that tail 14 %), nor do H100, A100 and
B200 prefer it (31 786, 5 214 and 32 110 rows: mean errors within 0.05 points of each other).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.profile import HardwareProfile, MemoryLevel
from simkit.step.operators import Operator
from simkit.step.placement import Placement

# Half-width of the transition on a logarithmic scale: from 1/1.25 to 1.25 of the capacity.
TRANSITION_RATIO: Final = 1.25


def cyclic_hit_share(scanned_bytes: Any, cache: MemoryLevel | None, kernel: DecodeKernel | None = None) -> Any:
    """Share of a cyclic scan that a cache serves when a kernel loops alone; 0 without a cache.

    Where kernels were measured, their effective fraction of the capacity and their w count: partitioned caches keep
    copies of each other's lines.

    >>> from simkit.hardware.catalog import load_hardware
    >>> l2 = load_hardware("h100-sxm").level("l2")
    >>> float(cyclic_hit_share(1e6, l2)), float(cyclic_hit_share(1e9, l2))
    (1.0, 0.0)
    """
    if cache is None:
        return np.zeros(np.shape(scanned_bytes))
    effective, ratio = 1.0, TRANSITION_RATIO
    if kernel is not None:
        effective, ratio = kernel.cache_effective_fraction, kernel.cache_transition_ratio
    occupancy = np.asarray(scanned_bytes, dtype=float) / (effective * cache.usable_bytes)
    return np.clip((ratio - occupancy) / (ratio - 1 / ratio), 0.0, 1.0)


def last_shared_cache(hardware: HardwareProfile) -> MemoryLevel | None:
    """The last cache that all units share, or None."""
    caches = [level for level in hardware.memory if level.kind == "cache" and level.scope == "chip"]
    return caches[-1] if caches else None


def looped_placement(operator: Operator, placement: Placement, hardware: HardwareProfile) -> Placement:
    """The placement as a looped kernel sees it: its cache reads come from the nearest caches that hold them.

    What no cache holds stays at its home. Caches of scope ``unit`` count together: units read different items.
    """
    served: Any = 0.0
    shares: dict[str, Any] = {}
    for level in hardware.memory:
        if level.kind == "cache" and level.bandwidth_bytes_per_s is not None:
            up_to_here = np.maximum(cyclic_hit_share(operator.kv_read_bytes, level), served)
            shares[level.name] = up_to_here - served
            served = up_to_here
    for name, share in placement.kv.items():
        shares[name] = shares.get(name, 0.0) + share * (1.0 - served)
    return replace(placement, kv=shares)
