"""Requests on pools of attention and of feed-forward layers: against points, one machine, and every pair played."""

import itertools
import json
import math
import shlex
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.serving import state as at
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.plan import plan, price_of_each
from simkit.serving.plan_pooled import FeedForwardPool, doubling, plan_pooled, pooled_ways
from simkit.serving.plan_record import plan_records
from simkit.serving.pooled import build_pooled
from simkit.serving.replica import build_replicas, paged
from simkit.serving.runtime import load_runtime
from simkit.serving.serve import Policy, build_server, serve
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario
from tests.serving.scheduler import blocks_of
from tests.serving.test_apart import play, play_apart, request_lists
from tests.serving.test_plan import question

MODEL = load_model("llama-3.1-8b")
FEW = Policy(most_running=64, slo_ttft_s=1.0, slo_tpot_s=0.03)


def pooled(chip="l40s", ffn="l40s:1", between="50GB/s,5us", layout="gqa-8", chips=1, model=MODEL, engine="roofline", **words):
    scenario = paged(parse_scenario(ffn=ffn, between=between, **words), 16)
    (found,) = build_pooled(load_hardware(chip), model, [layout], scenario=scenario, chips=chips, engine=engine)
    return found


@pytest.mark.parametrize(("layout", "words"), [
    ("mha", {}), ("gqa-8", {"with_attention": "none"}), ("mqa", {"with_attention": "ffn"}),
    ("gqa-8", {"speculation": "draft=llama-3.2-1b,gamma=3,acceptance=0.7", "micro_batches": 2}),
])
def test_a_step_is_that_of_a_point_on_the_same_pools(layout, words):
    batch, kv_len = np.array([1.0, 5.0, 16.0]), np.array([256.0, 1024.0, 4096.0])
    replica = pooled(layout=layout, **words)
    points = decode_step("l40s", MODEL, attention=layout, batch=batch, kv_len=kv_len, chips=1, ffn="l40s:1", page=16,
                         between="50GB/s,5us", fields=("step_time_s", "attention_time_s", "energy_j_per_token", "micro_batches"),
                         **words)
    step_s, attention_s, _ = replica.step_s(batch, kv_len)
    assert step_s == pytest.approx(points["step_time_s"], rel=1e-9)
    assert attention_s == pytest.approx(points["attention_time_s"], rel=1e-9)
    assert replica.split_at(batch, kv_len).micro_batches.tolist() == points["micro_batches"].tolist()


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_equal_pools_that_take_turns_over_a_free_link_serve_as_one_of_them(model):
    """One micro-batch: while one pool works the other waits. Only the room for caches differs."""
    model, scenario = load_model(model), paged(parse_scenario(), 16)
    chips = 2 if model.moe is None else 4
    (one,) = build_replicas(load_hardware("l40s"), model, ["gqa-8"], scenario=scenario, chips=chips, tp=chips)
    two = pooled(model=model, ffn=f"l40s:{chips}", chips=chips, between="free", micro_batches=1)
    assert two.total_blocks > one.total_blocks
    stream = generate(parse_lengths("lognormal:600:1/80"), requests_per_s=4.0, gap_cv=1.0, requests=150, seed=3)
    alone, both = (serve(build_server(replica, FEW), stream).record for replica in (one, two))
    for name in ("tpot_p50_s", "tpot_p99_s", "ttft_p50_s", "ttft_p99_s", "latency_p99_s", "duration_s", "mean_batch"):
        assert both[name] == pytest.approx(alone[name], rel=0.01), name
    assert both["ffn_chips"] == both["chips"] == chips


def test_rows_of_prompts_pass_both_pools_and_no_more_than_one_after_the_other():
    """Through two pools in turn they take as long as on one machine; in micro-batches less, never less than half."""
    rows = np.array([1.0, 64.0, 512.0, 2048.0])
    (one,) = build_replicas(load_hardware("l40s"), MODEL, ["gqa-8"], scenario=paged(parse_scenario(), 16), chips=1)
    turns, overlapped = (pooled(between="free", micro_batches=count).rows_s(rows) for count in (1, None))
    alone = one.rows_s(rows)
    assert turns[0] == pytest.approx(alone[0], rel=1e-3)
    assert turns[1] == pytest.approx(alone[1], rel=1e-3)
    assert np.all(overlapped[0] <= alone[0] * 1.001)
    assert np.all(overlapped[0] >= alone[0] / 2)


def test_joules_and_dollars_are_those_of_both_pools():
    stream = generate(parse_lengths("256/32"), requests_per_s=2.0, gap_cv=1.0, requests=40, seed=0)
    record = serve(build_server(pooled("a100-sxm-80gb", ffn="h100-sxm:1"), FEW), stream, replicas=2).record
    a100, h100 = load_hardware("a100-sxm-80gb"), load_hardware("h100-sxm")
    hour = 2 * (a100.price.usd_per_hour + h100.price.usd_per_hour)
    assert record["cost_usd_per_mtok"] == pytest.approx(hour / 3600 / record["tokens_per_s"] * 1e6)
    idle = 2 * (a100.power.idle_w + h100.power.idle_w) * record["duration_s"]
    assert 1.0 / record["tokens_per_j"] > idle / record["output_tokens"]
    assert (record["chips"], record["ffn_chips"], record["ffn_hardware"]) == (2.0, 2.0, "h100-sxm")


@pytest.mark.parametrize(("lengths", "seed"), [("uniform:1:3000/uniform:1:400", 1), ("lognormal:900:2/lognormal:60:1", 2)])
def test_full_pools_conserve_requests_tokens_and_blocks(lengths, seed):
    """As many blocks as a few requests need: sequences are preempted, requests that never fit are refused."""
    server = build_server(pooled(), FEW)
    server.replica.__dict__["total_blocks"] = 180
    stream = generate(parse_lengths(lengths), requests_per_s=20.0, gap_cv=2.0, requests=200, seed=seed)
    record = serve(server, stream).record
    parts = list(stream.chunks())
    assert record["finished"] + record["refused"] == record["requests"] == 200
    assert record["refused"] > 0
    assert record["preemptions"] > 0
    assert record["max_kv_occupancy"] <= 1.0
    assert record["output_tokens"] <= sum(int(part.output_tokens.sum()) for part in parts)


@cache
def servers():
    """Prompts on one chip, and pools that do everything or only decode."""
    (prompts,) = build_replicas(load_hardware("h100-sxm"), MODEL, ["gqa-8"], scenario=paged(parse_scenario(), 16), chips=1)
    return tuple(build_server(replica, FEW) for replica in (prompts, pooled()))


@given(requests=request_lists, blocks=st.integers(1, 40), of_prompts=st.integers(1, 40), running=st.integers(1, 8),
       replicas=st.integers(1, 3), block_s=st.sampled_from([0.0, 1e-4, 0.02]))
@settings(max_examples=40)
def test_pools_and_prompts_apart_lose_no_request_token_or_block(requests, blocks, of_prompts, running, replicas, block_s):
    """On the tables of pools: alone, and as the decoding side of a prefill pool over a link."""
    before, both = (one.rules()._replace(blocks=room, most_running=running, watermark=0)
                    for one, room in zip(servers(), (of_prompts, blocks), strict=True))
    alone = [play(requests, both, tables=servers()[1].tables)]
    apart, pools = play_apart(requests, before, both._replace(kv_s_per_block=block_s), decode=replicas,
                              tables=[one.tables for one in servers()])
    for states, rooms in ((alone, [both.blocks]), (apart, [pool.rules.blocks for pool in pools for _ in pool.states])):
        tally = sum(state.tally for state in states)
        assert tally[at.FINISHED] + tally[at.REFUSED] == len(requests)
        assert tally[at.ALLOCATED] == tally[at.FREED]
        assert all(tally[name] == 0 for name in (at.RUNNING, at.PARKED, at.MOVING, at.USED, at.OWED, at.HANDED, at.SENT))
        assert all(state.tally[at.MOST_USED] <= room for state, room in zip(states, rooms, strict=True))
        assert sum(state.clock_s[at.EMITTED] for state in states) == pytest.approx(tally[at.TOKENS_OUT])
    fits = [(prompt, output) for _, prompt, output, _, _ in requests
            if blocks_of(prompt, before) <= of_prompts and blocks_of(prompt + max(output - 1, 0), both) <= blocks]
    assert sum(state.tally[at.TOKENS_OUT] for state in apart) == sum(output for _, output in fits)
    assert sum(state.tally[at.MOVED_BLOCKS] for state in apart) == sum(
        blocks_of(prompt, both) for prompt, output in fits if output > 1)


@pytest.mark.parametrize("runtime", ["vllm", "argonne-trtllm"])
def test_what_a_runtime_adds_to_pools_in_turns_is_what_it_adds_to_one_of_them(runtime):
    """Each kernel has its gap once, whichever pool launches it, and each host issues its own."""
    runtime = load_runtime(runtime)
    (one,) = build_replicas(load_hardware("l40s"), MODEL, ["gqa-8"], scenario=paged(parse_scenario(), 16), chips=1)
    batch, kv_len = np.array([1.0, 4.0, 32.0]), np.full(3, 1024.0)
    whole = {}
    for count in (1, 4):
        two = pooled(between="free", micro_batches=count)
        assert two.kernels == one.kernels
        step_s = two.time_s(batch, kv_len)
        whole[count] = two.run_s(step_s, batch, kv_len, runtime) + runtime.host_step_s(two.kernels, two.exchanges)
        added_s = whole[count] - step_s - runtime.step_s
        gaps_s = [runtime.kernel_gap_s * two._launched(*side) for side in two._sides()]
        assert np.all(added_s <= count * sum(gaps_s) * (1 + 1e-9))
        assert np.all(added_s >= sum(gaps_s) * (1 - 1e-9))
    assert whole[1] == pytest.approx(runtime.whole_step_s(one.time_s(batch, kv_len), 0.0, one.kernels, one.exchanges), rel=1e-3)
    slow = runtime.model_copy(update={"issue_s": 1e-3})
    two = pooled(between="free", micro_batches=4)
    issued_s = two.run_s(two.time_s(batch, kv_len), batch, kv_len, slow) + slow.host_step_s(
        two.kernels, two.exchanges) + slow.host_sequence_s * batch
    # One sequence is one micro-batch, four are four.
    assert issued_s == pytest.approx(np.array([1, 4, 4]) * 1e-3 * max(two._launched(*side) for side in two._sides()))


def test_what_is_assumed_of_either_pool_is_told_with_the_answer(cli):
    words = ("serve", "-H", "l40s:1", "--ffn", "gaudi3:1", "--between", "free", "-M", "llama-3.1-8b", "--rate", "1", "--requests", "5")
    (record,) = json.loads(cli(*words, "--format", "json").stdout)
    assert record["assumed"] == load_hardware("gaudi3").assumption
    assert "of l40s + gaudi3" in cli(*words).stdout


def asked(**words):
    return question(**{"rate": 14.0, "lengths": "512/100", "tpot": 0.03, "requests": 200, "chips": (1, 2), **words})


def test_a_plan_of_pools_is_the_cheapest_of_all_that_could_be_played():
    asking, near, far = asked(rate=40.0, tpot=0.02), load_hardware("l40s"), load_hardware("a100-sxm-80gb")
    pool = FeedForwardPool(hardware=far, chips=None, between="50GB/s,5us")
    (_, found) = plan(asking, [near], ["mha"], ["bf16"], apart=[partial(plan_pooled, pool=pool)])
    price, least = price_of_each(near, far), math.inf  # watts: nobody rents out an L40S here
    for own, other in itertools.product(asking.chips, doubling(asking, far)):
        cost = price[0] * own + price[1] * other
        if cost >= least:
            continue  # dearer than what was played, whatever it serves
        server = build_server(pooled(chips=own, layout="mha", ffn=(far, other)), asking.policy)
        for replicas in range(1, math.ceil(least / cost) if least < math.inf else 20):
            if serve(server, asking.stream, replicas=replicas).record["slo_attainment"] >= asking.attainment_fraction:
                least = min(least, replicas * cost)
                break
    (record,) = plan_records(asking, [found])
    assert record["power_limit_w"] == pytest.approx(least)
    assert record["slo_attainment"] >= asking.attainment_fraction
    assert found.chips == record["chips"] + record["ffn_chips"]
    assert record["replicas"] > 1
    assert record["ffn_chips"] > record["replicas"]  # the smallest pair is not the cheapest


def test_numbers_of_chips_double_up_to_the_most():
    counts = doubling(asked(), load_hardware("h100-sxm"))
    assert counts[:4] == [1, 2, 4, 8]
    assert all(second >= 2 * first for first, second in itertools.pairwise(counts[:-1]))


def test_what_no_pair_holds_or_meets_says_so():
    near, far = load_hardware("l40s"), load_hardware("groq-3-lpu")
    tell = partial(plan_pooled, asked(), near, "mha", "bf16")
    assert "no pair of pools tried holds llama-3.1-8b under mha: llama-3.1-8b under mha: ffn of it do not fit on 2 x" in tell(
        pool=FeedForwardPool(hardware=far, chips=2, between="free")).fails
    assert "TPOT of one request alone is" in partial(plan_pooled, asked(tpot=1e-5), near, "mha", "bf16")(
        pool=FeedForwardPool(hardware=near, chips=1, between="free")).fails
    assert pooled_ways(asked(), near, "mha", "bf16", FeedForwardPool(hardware=far, chips=2, between="free"))[0] == []
    with pytest.raises(UserError, match="do not fit on 2 x groq-3-lpu, the pool of --ffn"):
        _ = pooled(ffn="groq-3-lpu:2").total_blocks
    with pytest.raises(UserError, match="no room for a KV cache beside its weights on 1 x groq-3-lpu"):
        _ = pooled("groq-3-lpu", ffn="h100-sxm:8").total_blocks


def test_the_command_of_a_plan_with_pools_serves_as_it_says(cli):
    load = ["-M", "llama-3.1-8b", "--rate", "6", "--lengths", "512/64", "--requests", "120", "--slo-tpot", "25ms", "--slo-ttft", "1s"]
    records = json.loads(cli("plan", "-H", "l40s", "--ffn", "l40s:1", "--between", "50GB/s,5us", "--chips", "1", *load, "--format",
                             "json").stdout)
    (record,) = [one for one in records if one["ffn_hardware"]]
    (served,) = json.loads(cli(*shlex.split(record["command"])[1:], "--format", "json").stdout)
    for name in ("tpot_p50_s", "slo_attainment", "chips", "ffn_chips", "replicas", "tokens_per_s"):
        assert served[name] == record[name], name


@pytest.mark.parametrize(("words", "message"), [
    (("serve", "--ffn", "groq-3-lpu:2", "--between", "free", "--rate", "1"), "ffn of it do not fit on 2 x groq-3-lpu, the pool of"),
    (("serve", "--ffn", "groq-3-lpu:2", "--between", "free", "--rate", "1", "--prefill", "l40s:1", "--kv-link", "free"),
     "the pool of --ffn"),
    (("plan", "--ffn", "groq-3-lpu:2", "--between", "free", "--rate", "1", "--slo-tpot", "1us", "--slo-ttft", "1s"), "do not fit on 2 x"),
    (("plan", "--ffn", "l40s", "--between", "free", "--rate", "1", "--slo-tpot", "1s", "--front", "--prefill", "l40s", "--kv-link",
      "free"), "--front beside --prefill"),
    (("serve", "--ffn", "l40s:1", "--rate", "1"), "ffn without between"),
    (("serve", "--between", "free", "--rate", "1"), "between goes with ffn"),
    (("serve", "--ffn", "l40:1", "--between", "free", "--rate", "1"), "did you mean 'l40s'"),
    (("plan", "--ffn", "l40s", "--rate", "1", "--slo-tpot", "1s"), "ffn without between"),
    (("plan", "--micro-batches", "2", "--rate", "1", "--slo-tpot", "1s"), "micro-batches goes with ffn"),
])
def test_words_of_pools_that_do_not_go_together_are_refused(words, message, cli):
    result = cli(*words, "-M", "llama-3.1-8b", "-H", "l40s")
    assert result.exit_code == 2
    assert message in result.stderr
