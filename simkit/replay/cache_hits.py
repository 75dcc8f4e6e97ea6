r"""How much of a kernel's cache reads a shared on-chip cache serves when the kernel loops alone.

A loop reads its ``S`` bytes in the same order each turn. An LRU set serves such a scan entirely when its lines fit its
``w`` ways, and not at all when one line more maps to it. Hashing deals lines to sets at random, so a line shares its
set with a Poisson number of others of mean :math:`\lambda = w S / C`:

.. math:: h = P[1 + \mathrm{Poisson}(\lambda) \le w]

which is why measured transitions are no step: hits fall from 1 to 0 between about 0.7 and 1.4 times the capacity.
"""

from __future__ import annotations

import math

from simkit.hardware.profile import MemoryLevel
from simkit.replay.target import CACHE_WAYS


def cyclic_hit_share(cache: MemoryLevel | None, scanned_bytes: float, ways: int = CACHE_WAYS,
                     effective_fraction: float = 1.0) -> float:
    """Share of a repeated scan that the cache serves; 0 without a cache.

    ``effective_fraction`` of its capacity holds distinct lines: partitioned caches keep copies of each other's.

    >>> from simkit.hardware.catalog import load_hardware
    >>> l2 = load_hardware("h100-sxm").level("l2")
    >>> cyclic_hit_share(l2, 1e6) > 0.999, cyclic_hit_share(l2, 1e9) < 0.001
    (True, True)
    """
    if cache is None:
        return 0.0
    mean = ways * scanned_bytes / (effective_fraction * float(cache.usable_bytes))
    if mean > 50 * ways:
        return 0.0
    if mean <= 0.01 * ways:
        return 1.0  # less than a line in 1e30 misses
    # Sum of Poisson terms k = 0 .. w-1, in logs so that large means do not underflow.
    return min(1.0, sum(math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(ways)))
