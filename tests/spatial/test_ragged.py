"""Batches of unequal sequences on tiles: every group and every tile by hand, and what must hold of any batch."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simkit
from simkit.hardware.fabric import Tile
from simkit.replay.kernel_plan import sequence_tokens
from simkit.spatial.dealing import Batch, Items, batch_of
from simkit.spatial.messages import sum_cycles
from simkit.study.scenario import parse_scenario
from tests.spatial.machines import SLOW, even_model, multicast_cycles, on_tiles, timed

FACTORS = st.lists(st.integers(1, 9), min_size=2, max_size=6)
RAGGED = ["lognormal:0.8", "uniform:0.5", "8,1,1,1", "3,2,2,1,1,1,1,1"]


def held_by_hand(batch: Batch, heads: int, items: Items) -> tuple[list[float], list[float]]:
    """Tokens and instructions on the fullest tile of every group, item after item, token after token."""
    lengths = np.repeat(np.array(batch.tokens)[:, 0], np.diff(np.array(batch.sequences)[:, 0], prepend=0).astype(int) * heads)
    groups = int(items.groups[0])
    tokens, steps = np.zeros(groups), np.zeros(groups)
    for number, length in enumerate(np.rint(lengths).astype(int)):
        turn, place = divmod(number, groups)
        group = place if turn % 2 == 0 else groups - 1 - place
        tiles = [len(range(tile, length, int(items.token_ways))) for tile in range(int(items.token_ways))]
        tokens[group] += max(tiles)
        steps[group] += min(max(tiles), items.key) + min(max(tiles), items.value)
    return tokens.tolist(), steps.tolist()


@settings(max_examples=100)
@given(FACTORS, st.integers(1, 9), st.integers(1, 6), st.integers(1, 40), st.sampled_from([1, 2, 3, 8]))
def test_classes_of_groups_hold_what_all_groups_hold(factors, sequences, heads, groups, token_ways):
    spread = batch_of(np.array(factors, dtype=float)[:, None], np.array([float(sequences)]), np.array([24.0]))
    batch = Batch(tokens=tuple(np.rint(spread.tokens)), sequences=spread.sequences)
    items = Items(n=np.array([sequences * heads * 1.0]), groups=np.array([groups * 1.0]), token_ways=token_ways, key=5,
                  value=3)
    tokens, steps = batch.dealt(items)
    by_hand = held_by_hand(batch, heads, items)
    assert set(zip(tokens[:, 0], steps[:, 0], strict=True)) <= set(zip(*by_hand, strict=True))
    assert tokens.max() == max(by_hand[0])
    assert steps.max() == max(by_hand[1])
    bound = batch.bound(items)
    assert bound[0].max() <= tokens.max() * (1 + 1e-12)
    assert tokens.max() <= batch.even(items)[0].max() * (1 + 1e-12)


@given(FACTORS, st.integers(1, 40), st.integers(50, 5000))
def test_a_batch_has_the_lengths_that_a_replay_has(factors, sequences, tokens):
    class Task:
        length_factors = tuple(np.array(factors) / np.mean(factors))

    Task.tokens = float(tokens)
    batch = batch_of(np.array(Task.length_factors)[:, None], np.array([float(sequences)]), np.array([float(tokens)]))
    own = np.repeat(np.array(batch.tokens)[:, 0], np.diff(np.array(batch.sequences)[:, 0], prepend=0).astype(int))
    assert own == pytest.approx(sequence_tokens(Task, sequences), abs=1.0 + 1e-6)
    assert own.sum() == pytest.approx(sequences * tokens)


def seconds(chip: object, lengths: str, **more: object) -> np.ndarray:
    return np.asarray(timed(chip, even_model(), more.pop("layout", "gqa-4"), scenario=parse_scenario(lengths=lengths),
                            **more).timing.step_time_s)


@settings(max_examples=40)
@given(st.sampled_from(["cerebras-wse2", "tenstorrent-wormhole-n300"]), st.sampled_from(["mesh", "noc", "exchange"]),
       st.sampled_from([(4, 8), (16, 16), (32, 8)]), st.sampled_from(["mha", "gqa-4", "mqa"]), st.sampled_from(RAGGED),
       st.sampled_from([2, 4, 8, 32]), st.booleans())
def test_unequal_sequences_take_between_equal_ones_and_as_many_of_the_longest(name, topology, sides, layout, lengths,
                                                                                 batch, slow):
    """Powers of two deal out evenly, so equal sequences are the same tokens spread evenly; a mean length of whole tokens
    is half a token off.
    """
    chip = on_tiles(name, sides, topology, **(SLOW if slow else {"tile": Tile(shared_bytes_per_cycle=8.0)}))
    chip = replace(chip, memory=tuple(replace(one, capacity_bytes=1e15) for one in chip.memory))
    spread = parse_scenario(lengths=lengths).policy.lengths.factors
    longest = np.ceil(4096 * max(spread) / min(1, np.mean(spread[::max(len(spread) // batch, 1)])))
    ragged = seconds(chip, lengths, layout=layout, batch=batch, kv_len=4096)
    assert seconds(chip, "equal", layout=layout, batch=batch, kv_len=4096) <= ragged * (1 + 0.5 / 4096)
    assert ragged <= seconds(chip, "equal", layout=layout, batch=batch, kv_len=longest) * (1 + 1e-9)


@given(st.sampled_from(["1,1", "2,2,2"]), st.integers(1, 9), st.integers(1, 5000))
@settings(max_examples=20)
def test_a_spread_of_equal_lengths_is_none(lengths, batch, kv_len):
    chip = on_tiles("cerebras-wse2", (16, 32), **SLOW)
    assert seconds(chip, lengths, batch=batch, kv_len=kv_len) == pytest.approx(
        seconds(chip, "equal", batch=batch, kv_len=kv_len), rel=1e-9)


def test_the_mapping_that_is_found_by_bounds_is_the_best_of_all(monkeypatch):
    """Few are dealt out; all of them would say the same. And many points are what single points are."""
    chip = on_tiles("cerebras-wse2", (64, 48), **SLOW)
    points = list(itertools.product([2, 5, 16], [100, 3000]))
    columns = {"batch": [batch for batch, _ in points], "kv_len": [kv_len for _, kv_len in points]}
    together = seconds(chip, "lognormal:1.2", **columns)
    monkeypatch.setattr("simkit.spatial.attention.FIRST_TRIED", 100_000)
    for index, (batch, kv_len) in enumerate(points):
        alone = seconds(chip, "lognormal:1.2", batch=batch, kv_len=kv_len)[0]
        assert together[index] == pytest.approx(alone, rel=1e-12)


def test_a_window_makes_sequences_equal_that_are_longer_than_it():
    chip, model = on_tiles("cerebras-wse2", (16, 32), **SLOW), even_model()
    narrow = replace(model, layer_groups=tuple(replace(group, window=128) for group in model.layer_groups))
    even, ragged = (float(timed(chip, narrow, "mha", batch=4, kv_len=4096, scenario=parse_scenario(lengths=lengths))
                          .timing.attention_time_s[0]) for lengths in ("equal", "3,1,1,1"))
    assert ragged == pytest.approx(even, rel=1e-9)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=7), st.sampled_from(["mha", "gqa-4", "mqa"]),
       st.sampled_from([(4, 4), (3, 5), (8, 2)]), st.sampled_from([(1, 1), (2, 1), (3, 2), (8, 1)]))
def test_attention_is_what_every_tile_of_every_group_does(factors, layout, sides, ways):
    """Tile by tile: its port, its instructions; group by group: its messages. A phase ends with its slowest group."""
    lengths = sorted((120 * one for one in factors), reverse=True)
    batch, heads = len(lengths), {"mha": 16, "gqa-4": 4, "mqa": 1}[layout]
    (t_n, t_d), groups = ways, sides[0] * sides[1] // (ways[0] * ways[1])
    chip = on_tiles("cerebras-wse2", sides, "mesh", start_cycles=50.0, head_ways=ways, region=sides,
                    tile=Tile(port_bytes_per_cycle=0.125, step_cycles=8.0), link=SLOW["link"])
    found = timed(chip, even_model(), layout, batch=batch, kv_len=sum(lengths) / batch, scenario=parse_scenario(
        lengths=",".join(map(str, lengths)) if batch > 1 else "equal")).timing
    copies = int(found.tile_mapping.head_copies[0])
    rows, held = 16 // heads // copies, [[] for _ in range(groups)]
    for number, length in enumerate(length for length in lengths for _ in range(heads * copies)):
        turn, place = divmod(number, groups)
        held[place if turn % 2 == 0 else groups - 1 - place].append(length)
    key = 128 // t_d
    passed = 1 + batch * 16 / (sum(lengths) * heads)  # queries and outputs, beside the cache
    local = tokens = 0.0
    for own in held:
        for tile in range(t_n):
            mine = [len(range(tile, length, t_n)) for length in own]
            steps = sum(2 * rows * min(one, key) for one in mine)
            local = max(local, sum(mine) * 2 * key * 2 * passed / 0.125 + steps * 8.0)
            tokens = max(tokens, sum(mine))
    fabric, most = chip.fabric, max(map(len, held))
    messages = float(multicast_cycles(most * rows * key, t_n, 2.0, fabric) + sum_cycles(rows * tokens, t_d, 2.0, fabric)
                     + 2 * sum_cycles(most * rows, t_n, 2.0, fabric) + sum_cycles(most * rows * key, t_n, 2.0, fabric))
    assert found.attention_time_s[0] == pytest.approx(4 * (local + (messages or 50.0)) / 1e9, rel=1e-9)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 6))
def test_a_pipeline_without_overtaking_goes_at_the_pace_of_its_slowest_microbatch(stage_s, spare):
    """Microbatches go round a ring of as many stages or more, each stage one at a time, in their order."""
    stages, done = len(stage_s) + spare, [0.0] * len(stage_s)
    free = [0.0] * stages
    ends = []
    for _ in range(60):
        for number, own_s in enumerate(stage_s):
            for stage in range(stages):
                free[stage] = done[number] = max(done[number], free[stage]) + own_s
        ends.append(done[0])
    assert ends[-1] - ends[-2] == pytest.approx(stages * max(stage_s))


def test_a_full_pipeline_is_told_from_one_that_is_not():
    """Four stages: up to four sequences take no longer than one; eight are pairs. One long one holds up the others."""
    chip = on_tiles("groq-lpu", (16, 20), "stream", **SLOW)
    chip = replace(chip, sharding="layer-pipelined", memory=tuple(replace(one, capacity_bytes=1e12) for one in chip.memory))

    def step_s(lengths: str, batch: int, kv_len: float = 4096) -> float:
        found = simkit.decode_step(chip, even_model(), attention="gqa-4", batch=batch, kv_len=kv_len, lengths=lengths,
                                   engine="spatial", tp=1, pp=4, baseline=False)
        return float(found["step_time_s"])

    one = step_s("equal", 1)
    assert [step_s("equal", batch) for batch in (2, 4)] == pytest.approx([one, one], rel=1e-9)
    assert step_s("equal", 8) > one * 1.01
    assert step_s("5,1,1,1", 4, 4096) == pytest.approx(step_s("equal", 4, 10240), rel=1e-4)  # q and outputs
