"""Rows that an index has chosen, through channels and banks: addresses by hand, row hits by hand, and their limits."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import parse_format
from simkit.replay.attention import replay_attention
from simkit.replay.dram.interleave import ChannelInterleave
from simkit.replay.dram.simulate import DramConfig, replay_requests
from simkit.replay.dram_pattern import (
    MAPPING,
    Pattern,
    PatternRate,
    gathered_rate,
    gathered_requests,
    standard_of,
)
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload

MIB = 1 << 20
L40S, H100 = load_hardware("l40s"), load_hardware("h100-sxm")
STREAM = PatternRate(fraction=1.0, row_hit_fraction=1.0)


def rate(level, row_bytes, stride_rows, tile_rows=64):
    return gathered_rate(level, STREAM, streams=100, row_bytes=row_bytes, stride_rows=stride_rows, tile_rows=tile_rows,
                         footprint_bytes=64 * MIB)


def sparse(kv_len, *, model="deepseek-v3.2", q_len=1, tp=8, batch=64):
    model = load_model(model)
    layout = parse_layout("as-trained", model)
    cache = "fp8-ds-mla" if model.mla else "bf16"
    return next(operator for operator in build_step(DecodeWorkload(
        model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=batch, kv_len=kv_len, q_len=q_len,
        kv_format=parse_format(cache), weight_format=parse_format("fp8"), machine=Machine.split(tp=tp),
    )).attention_operators if operator.attention.gather)


def replayed(operator, chip=L40S):
    where = Placement(weights={}, kv={chip.main_memory.name: 1.0}, fits=True, max_batch=0)
    return replay_attention(operator, operator.attention, where, chip)


def in_a_row(operator):
    return replace(operator, attention=replace(operator.attention, gather=None, stride_tokens=1.0))


@pytest.mark.parametrize(("channels", "burst", "row", "stride"), [(1, 32, 656, 8), (3, 64, 132, 4), (4, 32, 1500, 2), (2, 64, 64, 1)])
def test_bursts_are_those_that_rows_touch_in_this_channel(channels, burst, row, stride):
    """Byte by byte: the chosen rows' addresses from the same draws, split into channels one at a time."""
    pattern = Pattern(streams=3, run_bytes=row, stride_bytes=row * stride, footprint_bytes=MIB, rows_a_turn=5)
    found, wanted = gathered_requests(pattern, channels, burst, 1 << 40, about=200)
    turns = -(-200 * burst * channels // (3 * 5 * row))
    gaps = np.random.default_rng(0).geometric(1 / stride, (3, turns, 5))
    bases = np.random.default_rng(1).integers(0, MIB // 1024, 3) * 1024
    places = np.cumsum(gaps.reshape(3, -1), axis=1).reshape(gaps.shape) - 1
    split = ChannelInterleave(channels=channels, granularity_bytes=1024).split
    expected, size, own = [], 0, None
    for turn in range(turns):
        for reader in range(3):
            for start in bases[reader] + places[reader, turn] * row:
                for byte in range(start, start + row):
                    channel, inside = (int(value) for value in split(np.array(byte)))
                    own = channel if own is None else own
                    if channel == own:
                        size += 1
                        at = inside - inside % burst
                        if not expected or expected[-1] != at:
                            expected.append(at)
    assert (found.tolist(), wanted) == (expected, size)


def test_row_hits_are_those_of_a_queue_of_one_by_hand():
    """A controller that sees one request at a time opens a bank's row whenever the one before it there was another."""
    standard, channels = standard_of(L40S.main_memory)
    config = DramConfig(standard=standard, mapping=MAPPING, read_queue=1, accept_per_tick=1, refresh="none")
    requests, _ = gathered_requests(Pattern(streams=4, run_bytes=656, stride_bytes=656 * 16, footprint_bytes=64 * MIB,
                                            rows_a_turn=4), channels, standard.burst_bytes, config.capacity_bytes, about=400)
    where = config.address_mapping().decode(requests)
    opened, hits = {}, 0
    for bank, row in zip(zip(where.stack.tolist(), where.group.tolist(), where.bank.tolist(), strict=True),
                         where.row.tolist(), strict=True):
        hits += opened.get(bank) == row
        opened[bank] = row
    assert replay_requests(config, requests).row_hits == hits
    assert 0 < hits < len(requests)


@pytest.mark.parametrize("chip", ["h100-sxm", "l40s", "epyc-9654-2s"])
def test_scattered_rows_are_never_faster_and_whole_pages_lose_little(chip):
    level = load_hardware(chip).main_memory
    page = standard_of(level)[0].row_bytes
    for row in (64, 132, 656):
        together, near, far = (rate(level, row, stride).fraction for stride in (1.0, 2.0, 64.0))
        assert together == 1.0 >= near * 0.98
        assert near >= far * 0.97
    assert rate(level, 132, 64.0).fraction < rate(level, 656, 64.0).fraction < 1.0
    assert rate(level, page, 64.0, 8).fraction == pytest.approx(1.0, abs=0.03)
    assert rate(level, 656, 64.0).row_hit_fraction < rate(level, page, 64.0, 8).row_hit_fraction


def test_top_k_of_a_short_context_is_the_dense_stream():
    """2048 of 2048 tokens: nothing lies apart, and the kernel is that of as many latents in a row."""
    short = sparse(2048)
    assert float(short.attention.gather.stride_rows) == 1.0
    assert replayed(short).total_s == pytest.approx(replayed(in_a_row(short)).total_s, rel=1e-12)


def test_misses_grow_with_the_context_while_the_roofline_stands_still():
    times = [replayed(sparse(kv_len)).total_s for kv_len in (2048, 32768, 1 << 20)]
    assert times == sorted(times)
    assert times[-1] / times[0] == pytest.approx(1.2, abs=0.1)  # GDDR6; 656 bytes touch 1.6 pages on average
    dense = replayed(in_a_row(sparse(1 << 20)))
    assert times[-1] > dense.total_s
    assert replayed(sparse(1 << 20)).level_bytes == dense.level_bytes  # the same useful bytes


def test_each_query_of_a_step_gathers_rows_of_the_same_length():
    one, four = (sparse(1 << 17, q_len=queries).attention.gather for queries in (1, 4))
    assert (float(one.row_bytes), float(one.stride_rows), one.row_tokens) == (656.0, 64.0, 1)
    assert four == one


def test_blocks_are_rows_of_their_length_and_recent_tokens_a_stream():
    """MiniMax-M3 reads blocks of 128 tokens of 128 bf16 elements; DeepSeek-V4 the newest 128 tokens beside its entries."""
    blocks = sparse(1 << 17, model="minimax-m3").attention.gather
    assert (blocks.row_tokens, float(blocks.row_bytes), float(blocks.share)) == (128, 128 * 128 * 2, 1.0)
    mixed = sparse(1 << 17, model="deepseek-v4-pro").attention.gather
    top_k = load_model("deepseek-v4-pro").layer_groups
    chosen = max(group.shape.indexer.top_k for group in top_k if group.shape and group.shape.indexer)
    assert float(mixed.share) == pytest.approx(chosen / (chosen + 128))
