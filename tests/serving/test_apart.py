"""Prefill apart from decode, and prompts that begin alike: nothing is lost between pools, and hits are an LRU's."""

import runpy
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.serving import state as at
from simkit.serving.apart import _Handover, _Pool
from simkit.serving.event_loop import advance
from simkit.serving.prefixes import find
from simkit.serving.requests import Dealing, Requests, Stream
from simkit.serving.serve import buffer_of, fresh_state
from tests.reference_data import REPOSITORY
from tests.serving.scheduler import PER_ROW_S, STEP_S, blocks_of, linear_tables, rules

TABLES = linear_tables()
BLOCK = 8  # tokens of a numbered block: two pages
ROOM = 3.0  # of a tier, in numbered blocks

# Gap, prompt, output, and which of a few beginnings the prompt has, for how many blocks.
request_lists = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.003, 0.05, 0.7]), st.integers(1, 120), st.integers(1, 90),
              st.integers(0, 2), st.integers(0, 12)),
    min_size=1, max_size=25)
tier_sets = st.sampled_from([[], [(ROOM, 1e-5, 1e-4, 1.0)], [(ROOM, 1e-3, 1e-4, 1e-3), (9.0, 1e-4, 1e-3, 1.0)]])
pools = st.builds(
    rules, blocks=st.integers(1, 40), most_running=st.integers(1, 8), chunk=st.sampled_from([1, 8, 32, 256]),
    host_blocks=st.sampled_from([0, 5, 1000]), watermark=st.integers(0, 2))


def caching(given_rules, tiers=()):
    """The rules with blocks of prompts kept."""
    return given_rules._replace(prefix_tokens=BLOCK, prefix_blocks=2, prefix_growing=2,
                                tiers=np.array(tiers, dtype=float).reshape(-1, 4))


def stream_of(requests):
    """Requests whose prompts have numbered blocks: the first ones shared, the rest met once."""
    arrival, prompt, output, which, shared = map(np.array, zip(*requests, strict=True))
    blocks = prompt // BLOCK
    numbers = [100 * which[i] + b if b < shared[i] else 10_000 + 100 * i + b
               for i in range(len(requests)) for b in range(blocks[i])]
    made = Requests(arrival_s=np.cumsum(arrival).astype(float), prompt_tokens=prompt.astype(np.int64),
                    output_tokens=output.astype(np.int64), numbers=np.array(numbers, dtype=np.int64),
                    first=np.cumsum(blocks) - blocks, blocks=blocks.astype(np.int64))
    return Stream(name="made", chunks=lambda: iter([made]))


def play(requests, given_rules, keep=4096, tables=TABLES):
    state = fresh_state(given_rules, keep)
    (part,) = stream_of(requests).chunks()
    advance(state, given_rules, tables, buffer_of(part), False, np.inf)
    return state


def play_apart(requests, of_prompts, of_decode, *, prefill=1, decode=1, lost=(0, 0), lost_s=np.inf,
               tables=(TABLES, TABLES)):
    stream, ports_s = stream_of(requests), np.zeros(prefill)
    dealing, own = (Dealing(replicas=count, lost=gone, lost_s=lost_s)
                    for count, gone in zip((prefill, decode), lost, strict=True))
    first = of_prompts._replace(role=at.PREFILL_ONLY, most_blocks=of_decode.blocks)
    second = of_decode._replace(role=at.DECODE_ONLY)
    handed = prefill * (of_prompts.most_running + 1)
    prompts, own_server = (SimpleNamespace(tables=one) for one in tables)
    made = (_Pool(prompts, first, [fresh_state(first, 4096, ports_s, handed) for _ in range(prefill)],
                  [stream.share_of(which, dealing).chunks() for which in range(prefill)], dealing),
            _Pool(own_server, second, [fresh_state(second, 4096, ports_s, handed) for _ in range(decode)],
                  [iter(()) for _ in range(decode)], own))
    _Handover(*made).play()
    return [state for pool in made for state in pool.states], made


def check_tree(state, given_rules):
    """Cached blocks are where their lists say, found by their keys, pinned by none, within every tier's room."""
    tree, tally = state.prefixes, state.tally
    room = [given_rules.blocks // 2, *(int(tier[at.CAPACITY]) for tier in given_rules.tiers)]
    held = 0
    for tier, most in enumerate(room):
        entry, seen = tree.lists[tier, at.OLDEST] - 1, 0
        while entry >= 0:
            row = tree.entries[entry]
            assert (row[at.TIER], row[at.PINS], row[at.READY_TO_SHARE]) == (tier, 0, 1)
            assert find.py_func(tree, row[at.KEY]) == entry
            entry, seen = row[at.NEWER], seen + 1
        assert seen == tree.lists[tier, at.MEMBERS] <= most
        held += seen
    assert tally[at.IDLE_BLOCKS] == 2 * tree.lists[0, at.MEMBERS]
    assert np.count_nonzero(tree.slots) == held


@given(requests=request_lists, given_rules=pools, tiers=tier_sets)
@settings(max_examples=80)
def test_one_pool_with_cached_prompts_loses_no_token_and_no_block(requests, given_rules, tiers):
    own = caching(given_rules, tiers)
    state = play(requests, own)
    tally = state.tally
    assert tally[at.FINISHED] + tally[at.REFUSED] == len(requests)
    assert tally[at.RUNNING] == tally[at.PARKED] == tally[at.MOVING] == tally[at.USED] == tally[at.HOST_BLOCKS] == 0
    assert tally[at.ALLOCATED] == tally[at.FREED]
    assert tally[at.MOST_USED] <= own.blocks
    assert state.clock_s[at.EMITTED] == tally[at.TOKENS_OUT]
    assert tally[at.HIT_TOKENS] <= tally[at.PROMPT_TOKENS]
    check_tree(state, own)


@given(requests=request_lists, of_prompts=pools, of_decode=pools, tiers=tier_sets, prefill=st.integers(1, 3),
       decode=st.integers(1, 3), block_s=st.sampled_from([0.0, 1e-4, 0.02]), last=st.sampled_from([1.0, 0.25]),
       lost=st.tuples(st.integers(0, 3), st.integers(0, 3)), lost_s=st.sampled_from([0.0, 0.02, 0.1, 0.7, np.inf]))
@settings(max_examples=80)
def test_two_pools_conserve_requests_tokens_blocks_and_bytes(requests, of_prompts, of_decode, tiers, prefill, decode,
                                                             block_s, last, lost, lost_s):
    own = caching(of_prompts, tiers)
    to = of_decode._replace(kv_s_per_block=block_s, kv_last_share=last, kv_latency_s=1e-4)
    lost = min(lost[0], prefill), min(lost[1], decode)
    states, (first, second) = play_apart(requests, own, to, prefill=prefill, decode=decode, lost=lost, lost_s=lost_s)
    tally = sum(state.tally for state in states)
    assert tally[at.FINISHED] + tally[at.REFUSED] + tally[at.LOST] == len(requests)
    assert [len(pool.living) for pool in (first, second)] == (
        [prefill, decode] if lost_s == np.inf else [prefill - lost[0], decode - lost[1]])
    for name in (at.RUNNING, at.PARKED, at.MOVING, at.USED, at.OWED, at.HANDED, at.SENT, at.HOST_BLOCKS):
        assert tally[name] == 0
    assert tally[at.ALLOCATED] == tally[at.FREED]
    for pool in (first, second):
        assert all(state.tally[at.MOST_USED] <= pool.rules.blocks for state in pool.states)
    for which in first.living:
        check_tree(first.states[which], own)
    spans = np.concatenate([state.spans[:state.tally[at.SPANS]] for state in states])
    assert (np.diff(spans[:, 1:], axis=1) >= 0).all()  # arrival, admission, first token, end
    if lost_s < np.inf:
        for pool, gone in ((first, lost[0]), (second, lost[1])):
            for state in pool.states[len(pool.states) - gone:]:  # what is under way then still ends
                assert (state.spans[:state.tally[at.SPANS], 1] <= lost_s).all() or gone == len(pool.states)
        if lost == (0, 0):
            assert tally[at.LOST] == 0
        return
    # What goes over the link: every prompt that has more than one token to come, once, in whole blocks.
    fits = [(prompt, output) for _, prompt, output, _, _ in requests
            if blocks_of(prompt, own) <= own.blocks and blocks_of(prompt + max(output - 1, 0), to) <= to.blocks]
    assert tally[at.REFUSED] == len(requests) - len(fits)
    assert sum(state.tally[at.MOVED_BLOCKS] for state in second.states) == sum(
        blocks_of(prompt, to) for prompt, output in fits if output > 1)
    assert tally[at.TOKENS_OUT] == sum(output for _, output in fits) == sum(state.clock_s[at.EMITTED] for state in states)


@given(requests=request_lists, blocks=st.integers(31, 80))
@settings(max_examples=60)
def test_hits_are_those_of_a_least_recently_used_cache_written_down_plainly(requests, blocks):
    # A day apart, so that no request meets another.
    apart = [(86_400.0, prompt, min(output, 4), *rest) for _, prompt, output, *rest in requests]
    own = caching(rules(blocks=blocks, most_running=4, chunk=64, watermark=0))
    (part,) = stream_of(apart).chunks()
    kept, hits = OrderedDict(), 0
    for place, (_, prompt, output, _, _) in enumerate(apart):
        numbers = part.numbers[part.first[place]:part.first[place] + part.blocks[place]].tolist()
        keys = [tuple(numbers[:end]) for end in range(1, len(numbers) + 1)]
        found = next((n for n, key in enumerate(keys) if key not in kept), len(keys))
        hits += min(found * BLOCK, prompt - 1)
        for key in keys[:found]:
            del kept[key]
        for key in keys:
            kept.pop(key, None)
        # The last token is never written.
        while 2 * len(kept) + blocks_of(prompt + output - 1, own) > blocks:
            kept.popitem(last=False)
        kept.update(dict.fromkeys(reversed(keys)))
    state = play(apart, own)
    assert state.tally[at.HIT_TOKENS] == hits
    assert state.prefixes.lists[0, at.MEMBERS] == len(kept)


def test_a_block_is_loaded_from_the_tier_below_only_where_that_beats_computing_it():
    alike = [(0.0, 80, 1, 0, 10), (9.0, 120, 1, 1, 0), (9.0, 80, 1, 0, 10)]  # the second takes all of the room
    room = rules(blocks=30, chunk=256, watermark=0)
    computed_s = BLOCK * PER_ROW_S
    for block_s, loaded in ((computed_s / 4, 10), (computed_s * 4, 0)):
        state = play(alike, caching(room, [(100.0, block_s, 0.0, 1.0)]))
        assert state.tally[at.LOADED] == loaded
        third = state.spans[2]
        assert third[3] - third[1] == pytest.approx(
            STEP_S + (10 * block_s + PER_ROW_S if loaded else 80 * PER_ROW_S))


def test_a_cache_moved_by_layers_is_there_a_layer_after_its_prompt_and_whole_after_all_of_it():
    prompt, layers, block_s = 120, 4, 1e-4
    for last, waits_s in ((1.0, 30 * block_s), (1 / layers, 30 * block_s / layers)):
        to = rules(blocks=100)._replace(kv_s_per_block=block_s, kv_last_share=last, kv_latency_s=1e-3)
        states, _ = play_apart([(0.0, prompt, 2, 0, 0)], rules(blocks=100, chunk=256), to)
        first_s = STEP_S + prompt * PER_ROW_S
        assert states[1].clock_s[at.HANDOVER] == pytest.approx(waits_s + 1e-3)
        (span,) = states[1].spans[:1]
        assert span[3] == pytest.approx(first_s)
        # The second token comes a step after the cache.
        assert span[4] == pytest.approx(first_s + waits_s + 1e-3 + 1e-2 + 1e-4 + 1e-6 * (prompt + 1))


def test_neither_pool_runs_ahead_of_what_the_other_does():
    # A second apart, decode idle each time: every cache takes its own time and none waits for a clock that ran ahead.
    to = rules(blocks=100)._replace(kv_s_per_block=1e-4, kv_latency_s=1e-3)
    states, _ = play_apart([(1.0, 120, 3, 0, 0)] * 40, rules(blocks=70, chunk=256), to)
    assert states[1].clock_s[at.HANDOVER] == pytest.approx(40 * (30 * 1e-4 + 1e-3))


def test_a_full_decode_pool_holds_prefill_back_and_nothing_is_dropped():
    # Decode has room for one request at a time; prefill for two: a third waits until the first has gone,
    # and a fourth until decode has ended the first and takes the second.
    narrow, wide = rules(blocks=12, watermark=0), rules(blocks=20, chunk=256, watermark=0)
    states, _ = play_apart([(0.0, 38, 10, 0, 0)] * 4, wide, narrow)
    spans = states[1].spans[:4]
    assert states[0].tally[at.FINISHED] + states[1].tally[at.FINISHED] == 4
    assert spans[2, 2] < spans[0, 4] <= spans[3, 2]
    assert states[1].tally[at.MOST_BATCH] == 1


def test_what_a_lost_replica_holds_is_lost_and_later_requests_go_to_the_others():
    wide, requests = rules(blocks=200, chunk=256), [(0.0, 100, 40, 0, 0)] * 4 + [(5.0, 100, 40, 0, 0), (0.0, 100, 40, 0, 0)]
    for lost, gone, last_s in (((0, 1), 2, 5.0), ((1, 0), 0, 5.0), ((0, 2), 6, 0.0), ((2, 0), 2, 0.0)):
        states, _ = play_apart(requests, wide, wide, prefill=2, decode=2, lost=lost, lost_s=0.2)
        tally = sum(state.tally for state in states)
        assert (tally[at.LOST], tally[at.FINISHED]) == (gone, 6 - gone)
        ended = np.concatenate([state.spans[:state.tally[at.SPANS], 1] for state in states])
        assert max(ended, default=0.0) == last_s


def test_prompts_that_share_all_are_computed_once():
    requests = [(0.1, 80, 50, 0, 10)] * 6
    state, alone = play(requests, caching(rules(blocks=200))), play(requests, rules(blocks=200))
    assert state.tally[at.HIT_TOKENS] == 5 * 79  # one token is always computed
    assert state.clock_s[at.PREFILL] == pytest.approx(alone.clock_s[at.PREFILL] * (80 + 5) / (6 * 80))
    assert state.tally[at.MOST_USED] < alone.tally[at.MOST_USED]


@pytest.mark.slow
def test_a_hundred_thousand_requests_on_two_pools_take_less_than_a_minute_and_no_memory():
    record, took_s = runpy.run_path(str(REPOSITORY / "benchmarks/bench_serving_apart.py"))["played"](100_000)
    assert record["finished"] == 100_000
    assert record["prefix_hit_rate"] > 0.5
    assert took_s < 60  # of one core's time, whatever else runs
    assert record["grew_mib"] < 64
