"""One kernel in the event loop: its inputs, its least time and the line that is followed, worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simkit.replay import steady_state, timeline
from simkit.replay.steady_state import KernelLoop
from simkit.timing.kernel_cost import UnitKernel
from tests.replay.cases import kernel_loop

UNIT = UnitKernel(matrix=True, readers=1, setup_s=3e-6, token_s=2e-9, load_bytes_per_s=1e15, tile_tokens=64, floor_s=0.0,
                  rows_s=0.0)
NO_EVENTS = np.zeros((0, timeline.EVENT_COLUMNS))


def run(*args, exact=True, most_events=10**9, bins=0, **kw):
    return kernel_loop(*args, **kw).run(exact=exact, most_events=most_events, events=NO_EVENTS, bins=bins)


def test_a_stream_takes_its_bytes_at_what_the_pattern_leaves_of_the_home_s_rate():
    """1000 tokens of 2 bytes at half of 1e9 bytes/s: 4 us, and the latency of the first load."""
    found = run(bytes_per_token=2.0, fraction=0.5, latency_s=1e-7, in_flight=100)
    assert found.kernel_s == pytest.approx(4e-6 + 1e-7, rel=1e-12)
    assert (found.home_share, found.replayed_fraction, found.bound_s) == (1.0, 1.0, 0.0)


def test_activations_load_the_servers_beside_the_cache_s_bytes():
    assert run(extra=500.0).kernel_s == pytest.approx(1.5e-6, rel=1e-12)
    assert run(extra=500.0, bytes_per_token=2.0).kernel_s == pytest.approx(2.5e-6, rel=1e-12)


def test_a_unit_that_nobody_measured_sets_up_and_computes_its_even_part_of_the_chip_s_arithmetic():
    """Two units, 4 us of the whole chip's arithmetic on 2000 tokens: 4 ns a token and unit, after 1 us of set-up."""
    found = run((1000, 1000), units=2, compute_s=4e-6, setup_s=1e-6, home=1e15)
    assert found.kernel_s == pytest.approx(1e-6 + 1000 * 4e-9, rel=1e-6)
    assert found.stalls[timeline.SETUP] == pytest.approx(1e-6, rel=1e-12)
    assert found.stalls[timeline.COMPUTE] == pytest.approx(4e-6, rel=1e-6)


def test_a_measured_unit_takes_the_longer_of_its_own_token_and_the_chip_s_arithmetic():
    """Whole tiles: 1024 tokens less the 24 that are computed for nothing within the set-up."""
    own = run(unit=UNIT, home=1e15)
    assert own.kernel_s == pytest.approx(3e-6 + 24 * 2e-9 + 1000 * 2e-9, rel=1e-6)
    chip = run(unit=UNIT, home=1e15, compute_s=5e-6)
    assert chip.kernel_s == pytest.approx(3e-6 + 24 * 5e-9 + 1000 * 5e-9, rel=1e-6)


def test_a_measured_unit_loads_at_its_own_rate_and_waiting_for_that_is_its_load_path_s():
    """1e8 bytes/s of a unit: 10 ns a token, those of the last tile's rest too."""
    found = run(unit=replace(UNIT, load_bytes_per_s=1e8), home=1e15)
    assert found.kernel_s == pytest.approx(3e-6 + 1024 * 10e-9 + 10 * 2e-9, rel=1e-6)
    assert found.stalls[steady_state.LOAD_PATH] == pytest.approx(10e-6, rel=0.01)
    assert found.stalls[timeline.WAIT_LATENCY] == pytest.approx(0.0, abs=1e-10)
    assert found.stalls[steady_state.FIRST_LEVEL] == pytest.approx(0.0, abs=1e-10)  # the home never makes it wait
    assert len(found.stalls) == steady_state.FIRST_LEVEL + 1


def test_the_first_load_s_latency_is_waited_for_once_though_timed_set_ups_hold_it():
    """A set-up of 3 us was timed with 1 us of waiting inside, which the replay waits for by itself."""
    found = run(unit=UNIT, home=1e15, latency_s=1e-6, in_flight=1000)
    assert found.kernel_s == pytest.approx(2e-6 + 24 * 2e-9 + 1e-6 + 1000 * 2e-9, rel=1e-6)
    # A latency above the whole set-up leaves none of it.
    found = run(unit=UNIT, home=1e15, latency_s=5e-6, in_flight=1000)
    assert found.kernel_s == pytest.approx(24 * 2e-9 + 5e-6 + 1000 * 2e-9, rel=1e-6)


def test_every_unit_has_a_load_path_of_its_own():
    slow = replace(UNIT, load_bytes_per_s=1e8)
    assert run((1000,) * 4, unit=slow, units=4, home=1e15).kernel_s == pytest.approx(run(unit=slow, home=1e15).kernel_s, rel=1e-6)


def test_a_warm_kernel_waits_for_the_cache_s_latency_instead():
    warm = {"unit": UNIT, "home": 1e15, "latency_s": 1e-6, "cache": 1e15, "cache_latency_s": 2e-7, "in_flight": 1000}
    assert run(**warm, hit_share=1.0).kernel_s == pytest.approx(2.8e-6 + 24 * 2e-9 + 2e-7 + 2e-6, rel=1e-6)
    assert run(**warm, hit_share=0.5).kernel_s == pytest.approx(2e-6 + 24 * 2e-9 + 1e-6 + 2e-6, rel=1e-6)


def test_a_cache_serves_its_share_and_the_home_the_rest():
    """A quarter hit: the home moves 750 of 1000 bytes at 1e9 bytes/s; all pass the cache at 1e15."""
    assert run(cache=1e15, hit_share=0.25).kernel_s == pytest.approx(0.75e-6, rel=1e-9)
    assert run(cache=5e8, hit_share=0.25).kernel_s == pytest.approx(2e-6, rel=1e-3)
    # The pattern's losses are those of the home's rows, not of the cache.
    assert run(cache=5e8, hit_share=0.25, fraction=0.75).kernel_s == pytest.approx(2e-6, rel=1e-3)
    assert run(cache=1e15, hit_share=0.25, fraction=0.5).kernel_s == pytest.approx(1.5e-6, rel=1e-3)


def test_exposed_set_up_idles_memory():
    """100 items on 10 units: each stops a tenth of the home for 30 % of its 1 us, ten of them before anything is read."""
    hidden, exposed = (run((1000,) * 100, units=10, setup_s=1e-6, exposed=share).kernel_s for share in (0.0, 0.3))
    assert exposed - hidden == pytest.approx(90 * 0.03e-6, rel=0.25)


def test_readers_of_one_range_read_the_home_once_or_as_often_as_the_cache_forgets():
    """Four readers of 1000 bytes, one after the other, behind a cache of 2000 or 100 bytes."""
    kept = run((1000,) * 4, stream=(0, 0, 0, 0), cache=1e12, cache_bytes=2000)
    lost = run((1000,) * 4, stream=(0, 0, 0, 0), cache=1e12, cache_bytes=100)
    bare = run((1000,) * 4, stream=(0, 0, 0, 0))
    assert (kept.home_share, lost.home_share, bare.home_share) == (1.0, 4.0, 4.0)
    ragged = run((100, 100, 1000, 1000), stream=(0, 0, 1, 1), cache=1e12, cache_bytes=5000)
    assert ragged.home_share == 1.0  # the ranges of long and short streams are told apart
    assert kept.kernel_s == pytest.approx(1e-6, rel=0.01)
    assert lost.kernel_s == pytest.approx(4e-6, rel=0.01)


def test_units_that_own_their_servers_read_side_by_side():
    """The chip's 1e9 bytes/s are 2.5e8 of each of four units."""
    assert run((1000,) * 4, units=4, per_unit=True).kernel_s == pytest.approx(4e-6, rel=1e-12)
    assert run((1000,), units=4, per_unit=True).kernel_s == pytest.approx(4e-6, rel=1e-12)


def test_stalls_are_means_over_the_slots():
    found = run((1000,) * 3, units=2, slots=2, home=1e15, compute_s=6e-6, setup_s=1e-6)
    assert found.stalls.sum() == pytest.approx(found.kernel_s, rel=1e-9)
    assert found.stalls[timeline.SETUP] == pytest.approx(3 / 4 * 1e-6, rel=1e-9)
    assert found.stalls[timeline.COMPUTE] == pytest.approx(2 * 6e-6 / 4, rel=1e-6)  # 6 us of the chip are 12 of its units


@pytest.mark.parametrize(("parameters", "least_s"), [
    ({}, 1e-6),  # the home: 1000 bytes at 1e9
    ({"fraction": 0.5}, 2e-6), ({"cache": 1e15, "hit_share": 0.75}, 0.25e-6),
    ({"units": 4, "per_unit": True}, 1e-6),  # four servers of a quarter of the rate
    ({"setup_s": 5e-6}, 5e-6), ({"compute_s": 3e-6}, 3e-6), ({"setup_s": 5e-6, "compute_s": 3e-6}, 8e-6),
    ({"unit": UNIT, "home": 1e15}, 3e-6 + 1024 * 2e-9), ({"unit": UNIT, "compute_s": 3e-6}, 3e-6 + 1024 * 3e-9),
    ({"unit": replace(UNIT, load_bytes_per_s=1e8)}, 3e-6 + 1024 * 10e-9),
    ({"items": (1000,) * 6, "units": 2, "slots": 2, "setup_s": 1e-6, "compute_s": 12e-6}, 6e-6 / 4 + 12e-6),
    ({"items": (5000, 100, 100), "units": 4, "compute_s": 5.2e-6, "home": 1e15}, 5000 * 4e-9),  # the longest item
    ({"items": (1000, 1000), "stream": (0, 0)}, 1e-6),  # distinct bytes
    ({"bytes_per_token": 4.0}, 4e-6),
    ({"units": 4, "per_unit": True, "cache": 1e15}, 1e-6), ({"units": 4, "per_unit": False, "cache": 1e15}, 1e-6),
])
def test_the_least_time_is_the_units_share_the_longest_item_or_the_home(parameters, least_s):
    items = parameters.pop("items", (1000,))
    found = kernel_loop(items, **parameters)
    assert found.least_s == pytest.approx(least_s, rel=1e-9)
    assert found.run(exact=True, most_events=1, events=NO_EVENTS, bins=0).kernel_s >= least_s * (1 - 1e-9)


def lengths(items, most_events, **kw):
    found = kernel_loop(items, **kw)
    return found._lengths(int(found.plan.granules.max()), most_events)


def test_few_events_are_replayed_whole_and_many_in_three_lengths():
    """1000 granules of ten items are 10 000 events; 700 of them are 70 of an item: 10, 20 and 40, in whole rounds of four."""
    assert lengths((10000,) * 10, 10_000) is None
    assert lengths((10000,) * 10, 5_000) == [72, 144, 288]  # 5000 of 10 items in 7 parts: 17.86 rounds, so 18
    assert lengths((10000,) * 10, 9_999) is None  # 144 + 288 + 576 of 1000
    assert lengths((10000,) * 10, 700) == [8, 16, 32]  # 2.5 rounds are two
    assert lengths((10000,) * 10, 10) == [8, 16, 32]  # two rounds at least
    # 1001 granules: all three are one granule and whole rounds.
    assert lengths((10010,) * 10, 1400) == [1 + 20, 1 + 40, 1 + 80]


def test_short_kernels_are_replayed_whole_when_three_lengths_would_take_as_long():
    assert lengths((560,) * 10, 10) is None  # 8 + 16 + 32 of 56 granules
    assert lengths((590,) * 10, 10) is None  # 59 are fourteen rounds and 3: 11 + 19 + 35
    assert lengths((600,) * 10, 10) == [8, 16, 32]


def test_uneven_items_and_shared_reads_are_replayed_whole_up_to_three_million_events():
    assert lengths((12500,) * 5 + (10000,) * 5, 700) is not None  # 1.25 times as long is even
    assert lengths((12510,) * 5 + (10000,) * 5, 700) is None
    assert lengths((10_000_000,) * 2 + (1_000_000,), 700) == lengths((10_000_000,) * 2 + (1_000_000,), 2_000_000)
    assert lengths((10000,) * 10, 700, cache=1e12) is not None  # a cache that nobody shares changes nothing
    shared = {"stream": (0, 0), "cache": 1e12}
    assert lengths((10000, 10000), 700, **shared) is None
    assert lengths((10000, 10000), 700, stream=(0, 0)) is not None  # nothing to share without a cache
    assert lengths((20_000_000, 20_000_000), 700, **shared) is not None


def test_the_usual_item_streams_too_in_the_shortest_length():
    """The longest item has 400 000 granules, the usual one 1000: two rounds of that are 800 of the longest, 3200 granules."""
    found = lengths((4_000_000,) * 8 + (10_000,) * 10, 700)
    assert found == [3200, 6400, 12800]
    # 4000.8 times as long as the usual one, rounded up: 801 rounds.
    assert lengths((4_000_400,) * 8 + (10_000,) * 10, 700)[0] == 400_040 % 4 + 801 * 4


def once(_length):
    return 1.0


def all_alike(_length):
    return np.ones(6)


def fake(monkeypatch, seconds, home=once, stalls=all_alike):
    """The loop's runs replaced by functions of the replayed length."""
    monkeypatch.setattr(KernelLoop, "_once", lambda _self, length, _whole, _events, *_bins: (
        seconds(length), stalls(length) * seconds(length) / stalls(length).sum(), home(length)))


def extrapolated(most_events=700, items=(10000,) * 10, **kw):
    return kernel_loop(items, **kw).run(exact=False, most_events=most_events, events=NO_EVENTS, bins=0)


def test_only_an_inexact_run_of_many_events_is_followed():
    for exact, most_events, fraction in ((True, 700, 1.0), (False, 700, 0.032), (False, 10**6, 1.0)):
        assert run((10000,) * 10, exact=exact, most_events=most_events).replayed_fraction == fraction


def test_lengths_are_those_of_the_longest_item():
    """1200 and 1000 granules: two rounds of the usual item, of 1100, are three of the longest, 12, 24 and 48 granules."""
    assert extrapolated(items=(12000,) * 5 + (10000,) * 5).replayed_fraction == 48 / 1200


def test_the_line_through_the_longer_two_lengths_is_followed_to_the_end(monkeypatch):
    """5 us and 1 us a granule: 1005 us after 1000 granules, 37 of them after the 32 replayed; one round may be off."""
    fake(monkeypatch, lambda length: 5e-6 + length * 1e-6)
    found = extrapolated()
    assert found.kernel_s == pytest.approx(1005e-6, rel=1e-12)
    assert found.replayed_s == pytest.approx(37e-6, rel=1e-12)
    assert found.replayed_fraction == 32 / 1000
    assert found.bound_s == pytest.approx(4e-6, rel=1e-9)
    assert found.stalls.sum() == pytest.approx(found.kernel_s, rel=1e-12)


def test_the_bound_is_what_a_creeping_slope_may_still_change(monkeypatch):
    """8, 16 and 32 granules take 0, 8 and 32 us: 1 and 1.5 us a granule; another half a doubling for five doublings less a bit."""
    fake(monkeypatch, {8: 0.0, 16: 8e-6, 32: 32e-6}.__getitem__)
    found = extrapolated()
    assert found.kernel_s == pytest.approx(32e-6 + 968 * 1.5e-6, rel=1e-12)
    assert found.bound_s == pytest.approx(0.5e-6 * math.log2(1000 / 32) * 968 + 4 * 1.5e-6, rel=1e-12)


def test_the_account_follows_its_own_lines_and_none_falls_below_nothing(monkeypatch):
    """Of 6 columns one shrinks with the length to nothing; what is left is scaled to the whole time."""
    fake(monkeypatch, lambda length: length * 1e-6,
         stalls=lambda length: np.array([2.0, max(40.0 - length, 0.0) / length, 0, 0, 0, 1.0]))
    found = extrapolated()
    assert found.stalls[1] == 0.0
    assert found.stalls.min() >= 0.0
    assert found.stalls[0] == pytest.approx(2 * found.stalls[5], rel=1e-12)
    assert found.stalls.sum() == pytest.approx(found.kernel_s, rel=1e-12)


def test_the_account_is_followed_from_the_longer_two_lengths(monkeypatch):
    """Set-up takes 1, 2 and 6 us of 8, 16 and 32: 4 more for each 16 granules, 242 more of 1000; latency takes the rest."""
    setup = {8: 1.0, 16: 2.0, 32: 6.0}
    fake(monkeypatch, lambda length: length * 1e-6, stalls=lambda length: np.array([setup[length], length - setup[length], 0, 0, 0, 0]))
    found = extrapolated()
    assert found.stalls[0] == pytest.approx(6e-6 + 968 / 16 * 4e-6, rel=1e-12)
    assert found.stalls[1] == pytest.approx(1000e-6 - found.stalls[0], rel=1e-12)


def test_a_kernel_is_never_followed_below_its_least_time(monkeypatch):
    """100 000 bytes at 1e9 bytes/s; the short runs would end in a microsecond."""
    fake(monkeypatch, lambda _length: 1e-6)
    assert extrapolated().kernel_s == pytest.approx(100e-6, rel=1e-12)


def test_reads_of_the_home_are_followed_between_once_and_every_time(monkeypatch):
    """Bytes of the home: 16 granules at 1.5 and 32 at 1.25 times the distinct ones are 24 and 40; 1008 after 1000 granules."""
    pairs = {"items": (40_000_000, 40_000_000), "stream": (0, 0), "cache": 1e12, "most_events": 7 * 16}
    share = {8: 2.0, 16: 1.5, 32: 1.25}
    fake(monkeypatch, lambda length: length * 1e-2, home=share.__getitem__)
    found = extrapolated(**pairs)
    assert found.home_share == pytest.approx((40 + (4_000_000 - 32) * 16 / 16) / 4_000_000, rel=1e-12)
    share.update({16: 1.0, 32: 2.5})
    assert extrapolated(**pairs).home_share == 2.0  # both readers read all of it, not more
    share.update({16: 2.0, 32: 1.2})
    assert extrapolated(**pairs).home_share == 1.0


def test_short_runs_cut_every_item_in_proportion_and_the_cache_with_them():
    """A quarter of the tokens of each item, in whole loads; the window of re-reads is a quarter of the cache."""
    found = kernel_loop((4000, 2000), units=1)
    seconds, _, home = found._once(100, 400, NO_EVENTS)
    assert seconds == pytest.approx(1500e-9, rel=1e-12)
    assert home == 1.0
    forgotten = kernel_loop((4000, 4000), stream=(0, 0), cache=1e12, cache_bytes=3900)
    kept = kernel_loop((4000, 4000), stream=(0, 0), cache=1e12, cache_bytes=4100)
    assert forgotten._once(100, 400, NO_EVENTS)[2] == forgotten._once(400, 400, NO_EVENTS)[2] == 2.0
    assert kept._once(100, 400, NO_EVENTS)[2] == kept._once(400, 400, NO_EVENTS)[2] == 1.0


def test_a_short_item_keeps_at_least_one_load():
    seconds, _, _ = kernel_loop((4000, 15), units=1)._once(4, 400, NO_EVENTS)
    assert seconds == pytest.approx((40 + 10) * 1e-9, rel=1e-12)


def test_traffic_is_counted_in_equal_parts_of_the_replayed_time():
    found = run((10000,), bins=4, cache=1e12)
    assert found.binned_bytes.shape == (2, 4)
    assert found.binned_bytes.sum(axis=1) == pytest.approx([10000, 10000])
    assert found.binned_bytes[1] == pytest.approx(np.full(4, 2500), abs=11)
    short = extrapolated(items=(100_000,), most_events=700, home=1e9)
    traffic = kernel_loop((100_000,)).run(exact=False, most_events=700, events=NO_EVENTS, bins=5)
    assert traffic.binned_bytes.sum() == pytest.approx(short.replayed_fraction * 100_000, rel=1e-12)
    assert traffic.binned_bytes[0] == pytest.approx(np.full(5, traffic.binned_bytes.sum() / 5), abs=11)


def test_items_are_recorded_from_the_longest_run_alone():
    events = np.zeros((50, timeline.EVENT_COLUMNS))
    found = kernel_loop((10000,) * 10).run(exact=False, most_events=700, events=events, bins=0)
    assert np.count_nonzero(events[:, 3]) == 10
    assert events[9, 3] == pytest.approx(found.replayed_s, rel=1e-12)
