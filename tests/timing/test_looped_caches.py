"""What a cache keeps for a kernel that loops alone: limits, monotonicity, and which parameters count."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.timing.roofs import TRANSITION_RATIO, cyclic_hit_share, last_shared_cache

CHIP = load_hardware("h100-sxm")
CACHE = CHIP.level("l2")


def test_what_fits_by_far_is_kept_whole_and_of_what_is_by_far_too_large_nothing():
    assert cyclic_hit_share(0.0, CACHE) == cyclic_hit_share(0.5 * CACHE.usable_bytes, CACHE) == 1
    assert cyclic_hit_share(2 * CACHE.usable_bytes, CACHE) == cyclic_hit_share(1e30, CACHE) == 0


@pytest.mark.parametrize("kernel", [None, CHIP.kernel])
def test_shares_fall_from_one_to_nothing_around_the_effective_capacity(kernel):
    effective = 1.0 if kernel is None else kernel.cache_effective_fraction
    ratio = TRANSITION_RATIO if kernel is None else kernel.cache_transition_ratio
    occupancy = np.geomspace(0.1, 10, 500)
    shares = cyclic_hit_share(occupancy * effective * CACHE.usable_bytes, CACHE, kernel)
    assert np.all(np.diff(shares) <= 0)
    assert np.all((shares == 1) == (occupancy <= 1 / ratio))
    assert np.all((shares == 0) == (occupancy >= ratio))
    assert np.all(np.diff(shares[(shares > 0) & (shares < 1)]) < 0)


def test_bytes_that_the_runtime_keeps_hold_no_cache():
    reserved = replace(CACHE, reserve_fraction=0.5)
    assert cyclic_hit_share(0.5 * CACHE.usable_bytes, reserved) == cyclic_hit_share(CACHE.usable_bytes, CACHE)


def test_a_chip_without_a_shared_cache_serves_nothing():
    own = replace(CHIP, memory=[level for level in CHIP.memory if level.scope == "unit" or level.kind != "cache"])
    assert last_shared_cache(CHIP) is CACHE or last_shared_cache(CHIP) == CACHE
    assert last_shared_cache(own) is None
    assert cyclic_hit_share(np.array([1.0, 2.0]), last_shared_cache(own)).tolist() == [0, 0]
