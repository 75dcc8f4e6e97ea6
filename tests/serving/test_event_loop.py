"""The event loop: nothing is lost, blocks are never overdrawn, and jumps change nothing but the time they take."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.serving import state as state_of
from simkit.serving.event_loop import advance
from simkit.serving.serve import fresh_state
from tests.serving.scheduler import linear_tables, rules, run

TABLES = linear_tables()

# Arrival gaps from "all at once" to "one after another", prompts and outputs from one token to more than the cache.
request_lists = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.003, 0.05, 0.7]), st.integers(1, 120), st.integers(1, 90)),
    min_size=1, max_size=25)
rule_sets = st.builds(
    rules,
    blocks=st.integers(1, 40), page=st.sampled_from([1, 4, 16]), most_running=st.integers(1, 8),
    chunk=st.sampled_from([1, 8, 32, 256]), host_blocks=st.sampled_from([0, 5, 1000]), watermark=st.integers(0, 2),
    stages=st.sampled_from([1, 1, 3, 8]))


def play(requests, given_rules, *, pieces=1):
    """The compiled loop over ``(gap, prompt, output)``, its buffer filled in ``pieces``."""
    arrivals = np.cumsum([gap for gap, _, _ in requests])
    state = fresh_state(given_rules, keep_events=4096)
    cuts = np.array_split(np.arange(len(requests)), pieces)
    for index, part in enumerate(cuts):
        buffer = state_of.Buffer(arrival_s=arrivals[part], prompt=np.array([requests[i][1] for i in part], dtype=np.int64),
                             output=np.array([requests[i][2] for i in part], dtype=np.int64))
        state.tally[state_of.NEXT] = 0
        advance(state, given_rules, TABLES, buffer, index < len(cuts) - 1, np.inf)
    return state


@given(requests=request_lists, given_rules=rule_sets)
@settings(max_examples=300)
def test_no_request_is_lost_or_starved_and_blocks_are_freed_exactly_once(requests, given_rules):
    state = play(requests, given_rules)
    tally = state.tally
    assert tally[state_of.FINISHED] + tally[state_of.REFUSED] == len(requests)
    assert tally[state_of.RUNNING] == tally[state_of.PARKED] == tally[state_of.USED] == tally[state_of.HOST_BLOCKS] == 0
    assert tally[state_of.ALLOCATED] == tally[state_of.FREED]
    assert tally[state_of.MOST_USED] <= given_rules.blocks
    assert tally[state_of.MOST_BATCH] <= given_rules.most_running
    # Tokens in are tokens out: every finished request's, once each, however often it was preempted.
    spans = state.spans[:tally[state_of.SPANS]]
    asked = sum(requests[int(place)][2] for place in spans[:, 0])
    assert tally[state_of.TOKENS_OUT] == asked
    assert state.clock_s[state_of.EMITTED] == asked
    assert (spans[:, 1] <= spans[:, 2]).all()
    assert (spans[:, 2] <= spans[:, 3]).all()
    assert (spans[:, 3] <= spans[:, 4]).all()


@given(requests=request_lists, given_rules=rule_sets)
@settings(max_examples=200)
def test_jumps_give_the_times_of_a_scheduler_that_takes_one_step_at_a_time(requests, given_rules):
    state = play(requests, given_rules)
    arrivals = np.cumsum([gap for gap, _, _ in requests])
    slow = run([(float(arrival), prompt, output) for arrival, (_, prompt, output) in zip(arrivals, requests, strict=True)],
               given_rules)
    spans = state.spans[:state.tally[state_of.SPANS]]
    assert len(spans) == len(slow.end)
    assert state.tally[state_of.REFUSED] == len(slow.refused)
    assert state.tally[state_of.PREEMPTED] == slow.preemptions
    for place, _, _, first, end in spans:
        assert first == pytest.approx(slow.first[int(place)], rel=1e-9)
        assert end == pytest.approx(slow.end[int(place)], rel=1e-9)


@given(requests=request_lists, given_rules=rule_sets)
@settings(max_examples=100)
def test_how_the_stream_is_cut_changes_not_a_bit(requests, given_rules):
    whole, cut = play(requests, given_rules), play(requests, given_rules, pieces=3)
    for one, other in zip(whole, cut, strict=True):
        if one is not whole.tally:  # NEXT counts within a buffer
            assert all(map(np.array_equal, one, other))


@given(requests=request_lists, given_rules=rule_sets, expected=st.sampled_from([1.3, 2.0, 3.36]))
@settings(max_examples=100)
def test_speculation_keeps_every_token_too(requests, given_rules, expected):
    state = play(requests, given_rules._replace(verified=5, tokens_per_step=expected))
    tally = state.tally
    assert tally[state_of.FINISHED] + tally[state_of.REFUSED] == len(requests)
    assert tally[state_of.USED] == 0
    assert tally[state_of.ALLOCATED] == tally[state_of.FREED]
    assert tally[state_of.MOST_USED] <= given_rules.blocks
    assert state.clock_s[state_of.EMITTED] == pytest.approx(float(tally[state_of.TOKENS_OUT]))


@given(requests=request_lists, given_rules=rule_sets)
@settings(max_examples=100)
def test_time_is_where_the_parts_say_it_went(requests, given_rules):
    state = play(requests, given_rules._replace(host_step_s=1e-3, host_sequence_s=1e-4))
    clock = state.clock_s
    if state.tally[state_of.FINISHED]:
        parts = sum(clock[part] for part in (state_of.IDLE, state_of.DECODE, state_of.PREFILL, state_of.HOST, state_of.SWAP))
        assert parts == pytest.approx(clock[state_of.NOW] - clock[state_of.START], rel=1e-9)
        assert state.series[:, 0].sum() == pytest.approx(clock[state_of.NOW] - clock[state_of.START], rel=1e-9)
        assert state.series[:, 1].sum() == pytest.approx(clock[state_of.BLOCK_SECONDS], rel=1e-9)


def test_a_request_that_never_fits_is_refused_and_the_rest_go_on():
    state = play([(0.0, 10, 10), (0.0, 1000, 1), (0.0, 10, 1000), (0.0, 10, 10)], rules())
    assert state.tally[state_of.REFUSED] == 2
    assert state.tally[state_of.FINISHED] == 2
    assert state.tally[state_of.FIRST_REFUSED] == 1


def test_a_request_that_fits_to_the_last_block_is_served():
    # 40 blocks of 4 tokens: 160 cached tokens; the last of 61 outputs is never cached.
    state = play([(0.0, 100, 61)], rules())
    assert (state.tally[state_of.FINISHED], state.tally[state_of.MOST_USED]) == (1, 40)
    assert play([(0.0, 100, 62)], rules()).tally[state_of.REFUSED] == 1


def test_swapping_moves_what_recomputing_fills_again():
    requests = [(0.0, 40, 60)] * 4
    swapped, recomputed = play(requests, rules(host_blocks=1000)), play(requests, rules())
    assert swapped.tally[state_of.PREEMPTED] > 0
    assert swapped.tally[state_of.SWAPPED_OUT] == swapped.tally[state_of.PREEMPTED]
    assert swapped.clock_s[state_of.SWAP] > 0
    assert recomputed.clock_s[state_of.SWAP] == 0
    assert recomputed.clock_s[state_of.PREFILL] > swapped.clock_s[state_of.PREFILL]


def test_a_closed_loop_never_has_more_in_flight_than_clients():
    state = play([(0.0, 8, 20)] * 30, rules(clients=3))
    assert state.tally[state_of.FINISHED] == 30
    assert state.tally[state_of.MOST_BATCH] == 3
    spans = state.spans[:30]
    ends = np.sort(spans[:, 4])
    assert np.allclose(np.sort(spans[:, 1])[3:], ends[:-3])  # each arrives when another has left


def test_one_request_alone_takes_its_prompt_and_its_steps():
    state = play([(0.0, 10, 5)], rules())
    first = 1e-2 + 2e-5 * 10
    steps = sum(1e-2 + 1e-4 + 1e-6 * (10 + i + 1) for i in range(4))
    assert state.spans[0, 3] == pytest.approx(first)
    assert state.spans[0, 4] == pytest.approx(first + steps)
    # Its 10 rows are three parts of at most a page; in a pipeline the last follows two stages behind the first.
    state = play([(0.0, 10, 5)], rules(stages=4))
    assert state.spans[0, 3:].tolist() == pytest.approx([first * (1 + 2 / 4), first * (1 + 2 / 4) + steps])


def test_windowed_layers_stop_asking_for_blocks():
    # Two kinds of layers: one forgets after 8 tokens (2 blocks), one keeps 40 tokens (10 blocks).
    given_rules = rules(kind_counts=np.array([1, 1]), kind_limit_tokens=np.array([8.0, np.inf]))
    assert play([(0.0, 30, 11)], given_rules).tally[state_of.MOST_USED] == 2 + 10
