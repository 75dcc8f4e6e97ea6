"""The event loop against the plain one of ``timeline_oracle``, and which column a wait is charged to, by hand.

All parameters are small whole numbers or binary fractions, so that times are exact and ties common: which of two slots goes first
must be equal too.
"""

import numpy as np
import pytest

from simkit.replay.timeline import EVENT_COLUMNS, Items, Path, Record, run_items
from tests.replay.timeline_oracle import CAUSES, Oracle

EXACT = 1e-12


def items_of(tokens, *, stream=None, granule_tokens=1, in_flight=2, bytes_per_token=1.0, compute_s=0.0, setup_s=0.0,
             exposed_setup_share=0.0):
    tokens = np.array(tokens, dtype=np.int64)
    stream = np.arange(len(tokens)) if stream is None else np.array(stream, dtype=np.int64)
    return Items(
        tokens=tokens, stream=stream, granules_per_stream=int(-(-tokens.max() // granule_tokens)),
        granule_tokens=granule_tokens, in_flight=in_flight, bytes_per_token=bytes_per_token,
        compute_s_per_token=float(compute_s), setup_s=np.broadcast_to(np.asarray(setup_s, dtype=float), len(tokens)).copy(),
        exposed_setup_share=exposed_setup_share, shared=len(np.unique(stream)) < len(stream))


def path_of(s_per_byte, *, latency_s=None, units=1, slots_per_unit=1, per_unit=None, extra_share=None, cache_server=-1,
            hit_share=0.0, window_bytes=0.0):
    none = np.zeros(len(s_per_byte))
    return Path(
        units=units, slots_per_unit=slots_per_unit, s_per_byte=np.array(s_per_byte, dtype=float),
        latency_s=none if latency_s is None else np.array(latency_s, dtype=float),
        per_unit=none.astype(np.int64) if per_unit is None else np.array(per_unit, dtype=np.int64),
        extra_share=none if extra_share is None else np.array(extra_share, dtype=float), cache_server=cache_server,
        hit_share=hit_share, reread_window_bytes=window_bytes)


def run(items, path, *, events=0, bins=0, bin_s=1.0):
    record = Record(stalls=np.zeros(len(CAUSES) + len(path.s_per_byte)), home_tokens=np.zeros(1, dtype=np.int64),
                    events=np.zeros((events, EVENT_COLUMNS)), binned_bytes=np.zeros((len(path.s_per_byte), bins)), bin_s=bin_s)
    return run_items(items, path, record), record


def account(items, path):
    """The columns that are not empty, servers by number."""
    _, record = run(items, path)
    names = (*CAUSES, *range(len(path.s_per_byte)))
    return {name: pytest.approx(value) for name, value in zip(names, record.stalls.tolist(), strict=True) if value != 0}


def drawn(seed):
    """A kernel and a machine: every feature alone and with every other one."""
    rng = np.random.default_rng(seed)
    home = int(rng.integers(0, 3))
    cache = int(rng.integers(-1, home)) if home else -1
    tokens = rng.integers(1, 24, int(rng.integers(1, 14)))
    bytes_per_token = float(rng.choice([0.25, 1, 4]))
    granule_tokens = int(rng.integers(1, 6))
    path = path_of(
        rng.integers(0, 5, home + 1), latency_s=rng.integers(0, 20, home + 1), units=int(rng.integers(1, 5)),
        slots_per_unit=int(rng.integers(1, 4)), per_unit=rng.integers(0, 2, home + 1), cache_server=cache,
        extra_share=rng.choice([0.0, 0.25, 0.5], home + 1),
        hit_share=float(rng.choice([0, 0, 0.25, 0.5, 1])) if cache >= 0 else 0.0,
        window_bytes=float(rng.integers(0, tokens.sum() // granule_tokens + 1)) * granule_tokens * bytes_per_token)
    items = items_of(
        tokens, stream=rng.integers(0, len(tokens) // 2 + 1, len(tokens)) if cache >= 0 and rng.random() < 0.7 else None,
        granule_tokens=granule_tokens, in_flight=int(rng.integers(1, 7)), bytes_per_token=bytes_per_token,
        compute_s=rng.integers(0, 5), setup_s=3 * rng.integers(0, 4, len(tokens)),
        exposed_setup_share=float(rng.choice([0.0, 0.25, 0.5, 1.0])))
    return items, path


@pytest.mark.parametrize("seed", range(80))
def test_every_run_is_that_of_a_list_of_slots_searched_for_the_earliest(seed):
    items, path = drawn(seed)
    oracle = Oracle(items, path)
    expected_s = oracle.run()
    recorded, bins, bin_s = seed % 4 * 4, seed % 3 * 3, max(1.0, float(expected_s // (4 + seed % 5)))
    seconds, record = run(items, path, events=recorded, bins=bins, bin_s=bin_s)
    assert seconds == pytest.approx(expected_s, rel=EXACT)
    slots_s = len(oracle.slots) * expected_s
    assert record.stalls == pytest.approx(np.array(list(oracle.account.values())), rel=EXACT, abs=EXACT * slots_s)
    assert record.stalls.sum() == pytest.approx(slots_s, rel=EXACT)
    assert record.home_tokens[0] == oracle.home_tokens
    shown = oracle.events[:recorded]
    assert record.events[:len(shown)].tolist() == [list(event) for event in shown]
    assert not record.events[len(shown):].any()
    if bins:
        assert record.binned_bytes == pytest.approx(oracle.binned(bins, bin_s), rel=EXACT)


def test_a_wait_is_the_servers_while_it_serves_and_latency_from_then_on():
    assert account(items_of([1]), path_of([3], latency_s=[2])) == {0: 3, "latency": 2}


def test_where_loads_queue_all_of_the_wait_is_the_servers():
    """The second is served from 3 to 6 and there at 8. From 5, when it has none, the first slot waits 1 s for the same server."""
    assert account(items_of([1, 1]), path_of([3], latency_s=[2], units=2)) == {
        0: 3 + 8 + 1, "latency": 2, "imbalance": 2}


@pytest.mark.parametrize(("s_per_byte", "slowest"), [([5, 3], 0), ([3, 5], 1), ([4, 4], 0)])
def test_of_several_servers_the_slowest_is_waited_for_and_the_farthest_has_the_latency(s_per_byte, slowest):
    assert account(items_of([1]), path_of(s_per_byte, latency_s=[7, 2])) == {slowest: max(s_per_byte), "latency": 2}


def test_a_queue_at_a_server_that_is_not_the_slowest_is_no_queue():
    """Both units' loads pass server 0 one after the other, at 1 s and 2 s; what takes 6 s is each unit's own."""
    found = account(items_of([1, 1]), path_of([1, 6], latency_s=[0, 3], units=2, per_unit=[0, 1]))
    assert found == {1: 6 + 6, "latency": 3 + 3}


def test_what_is_computed_while_a_load_is_under_way_is_hidden_behind_it():
    """Loads are there at 3 and 6, the first is computed from 3 to 4: only the last second of computing is in nobody's shade."""
    assert account(items_of([2], compute_s=1), path_of([3])) == {0: 6, "compute": 1}


def test_what_was_computed_before_a_load_was_asked_for_is_not_hidden_behind_it():
    """One buffer: each load is asked for when the granule before it has been computed."""
    assert account(items_of([2], compute_s=1, in_flight=1), path_of([3])) == {0: 6, "compute": 2}


def test_no_more_is_hidden_than_passed_after_the_load_was_asked_for():
    """Two buffers of a token, 4 s to compute, latency 5 s.

    Loads 1 and 2 are here at 5 and computed till 9 and 13; load 3 is asked for at 9, when buffer 1 is free, and here at 14:
    of what the slot did since 9 all 4 s were computing. Computed till 18; load 4, asked for at 13, is here then.
    """
    assert account(items_of([4], compute_s=4), path_of([0], latency_s=[5])) == {
        "latency": 5, "in_flight": 5, "compute": 16 - 4 + 0}


def test_slots_of_a_unit_compute_one_after_the_other():
    assert account(items_of([1, 1], compute_s=4), path_of([0], slots_per_unit=2)) == {
        "compute": 4 + 4, "contention": 4, "imbalance": 4}


def test_slots_of_two_units_compute_side_by_side():
    assert account(items_of([1, 1], compute_s=4), path_of([0], units=2)) == {"compute": 4 + 4}


def test_an_idle_slot_waits_for_the_server_that_the_others_keep_busy():
    """One token in turn with the other slot, and two more of that one: served at 2, 4, 6 and 8."""
    assert account(items_of([1, 3], in_flight=1), path_of([2], units=2)) == {0: 2 + 6 + 8}


def test_an_idle_slot_waits_for_nobody_where_units_have_servers_of_their_own():
    assert account(items_of([1, 3], in_flight=1), path_of([2], units=2, per_unit=[1])) == {0: 2 + 6, "imbalance": 4}


def test_an_idle_slot_waits_for_the_server_no_longer_than_that_works():
    """The other's loads are here at 12, 23 and 34; after 11, when the first slot ends, the server works for 2 s more."""
    assert account(items_of([1, 3], in_flight=1), path_of([1], latency_s=[10], units=2)) == {
        0: 1 + 12 + 1 + 1 + 2, "latency": 10, "in_flight": 2 * 10, "imbalance": 34 - 11 - 2}


@pytest.mark.parametrize(("s_per_byte", "hit_share", "column"), [([4, 6], 0.5, 0), ([4, 6], 0.0, 1), ([3, 6], 0.5, 1)])
def test_an_idle_slot_waits_for_whatever_of_cache_and_home_takes_longer(s_per_byte, hit_share, column):
    """A cache that serves half of each read halves the home's time a byte; of equals it is the home that is waited for.

    The slots' three reads follow one another at the slower server, so that nobody waits for anything else: [3, 6] at a half is a
    tie, in which each load is noted as the nearer server's, and only the idle slot's time, from 3 to 9, as the home's.
    """
    slower = max(s_per_byte[0], s_per_byte[1] * (1 - hit_share))
    found = account(items_of([1, 2], in_flight=1), path_of(s_per_byte, units=2, cache_server=0, hit_share=hit_share))
    if s_per_byte[0] == slower and column:
        assert found == {0: slower + 3 * slower, 1: 2 * slower}
    else:
        assert found == {column: slower + 2 * slower + 3 * slower}


def test_an_exposed_setup_keeps_a_units_part_of_shared_servers_idle():
    """Half of 4 s, on one of two units, is 1 s of the whole server: the other unit's load is served from 1 to 4."""
    items = items_of([1, 1], setup_s=[0, 4], exposed_setup_share=0.5)
    assert account(items, path_of([3], units=2)) == {"setup": 4, 0: 4 + 3 + 3}
    assert account(items, path_of([3], units=2, per_unit=[1])) == {"setup": 4, 0: 3 + 3, "imbalance": 4}


def test_a_second_reader_waits_for_what_the_fill_waits_for():
    """The home serves the first reader until 2, and the range is there at 7; the cache would have served the second one at 2."""
    items, path = items_of([1, 1], stream=[0, 0]), path_of(
        [1, 2], latency_s=[0, 5], slots_per_unit=2, cache_server=0, window_bytes=10.0)
    assert account(items, path) == {1: 2 + 2, "latency": 5 + 5}


def test_loads_keep_no_server_busy_that_they_do_not_reach():
    """The cache has all: the home, though a hundred times slower, is not asked."""
    assert account(items_of([1, 1]), path_of([2, 200], latency_s=[1, 50], units=2, cache_server=0, hit_share=1.0)) == {
        0: 2 + (4 + 1) + 1, "latency": 1, "imbalance": 1}


def test_bytes_beside_the_cache_load_a_server_as_a_share_of_what_was_asked_for():
    """Half of 8 bytes come from the home, and a quarter of all 8 beside them: (4 + 2) bytes at 10 s."""
    items, path = items_of([2], granule_tokens=2, bytes_per_token=4.0), path_of(
        [1, 10], extra_share=[0, 0.25], cache_server=0, hit_share=0.5)
    seconds, record = run(items, path, bins=1)
    assert seconds == 60
    assert record.binned_bytes.tolist() == [[8], [4]]


@pytest.mark.parametrize(("window_bytes", "home_tokens"), [(99.0, 100), (98.0, 200)])
def test_a_range_is_still_there_as_long_as_the_fills_since_its_use_fit_the_window(window_bytes, home_tokens):
    """100 bytes read in turn: 99 others are filled between two reads of each."""
    _, record = run(items_of([100, 100], stream=[0, 0]), path_of([1, 1], cache_server=0, window_bytes=window_bytes))
    assert record.home_tokens[0] == home_tokens


def test_a_range_that_is_read_again_stays_in_the_window():
    """A B A C A with room for one fill between two uses of A: each use counts, not only the first."""
    _, record = run(items_of([1] * 5, stream=[0, 1, 0, 2, 0]), path_of([1, 1], cache_server=0, window_bytes=1.0))
    assert record.home_tokens[0] == 3


def test_the_same_place_of_two_streams_is_not_the_same_range():
    _, record = run(items_of([2, 3, 3], stream=[0, 1, 1]), path_of([1, 1], cache_server=0, window_bytes=100.0))
    assert record.home_tokens[0] == 5


def test_bytes_are_counted_in_the_part_of_the_time_in_which_they_are_served():
    """Served at 6, 12, 18 and 24 s: parts begin with their first instant, and the last part is open."""
    items, path = items_of([4], bytes_per_token=2.0, in_flight=4), path_of([3])
    assert run(items, path, bins=2, bin_s=12.0)[1].binned_bytes.tolist() == [[2, 6]]
    assert run(items, path, bins=4, bin_s=4.0)[1].binned_bytes.tolist() == [[0, 2, 0, 6]]


def test_the_first_items_that_end_are_recorded_with_their_slot_and_time():
    """Units 0 and 1: 1 and 3 tokens of 2 s each, item 2 on the unit that is free first, after 1 s of set-up each."""
    items, path = items_of([1, 3, 1], setup_s=1, in_flight=1), path_of([2], units=2, per_unit=[1])
    seconds, record = run(items, path, events=2)
    assert seconds == 7
    assert record.events.tolist() == [[0, 0, 0, 3], [0, 2, 3, 6]]
