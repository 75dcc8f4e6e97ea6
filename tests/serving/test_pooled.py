"""Requests on pools of attention and of feed-forward layers: against points, one machine, and every pair played."""

import itertools
import json
import math
import shlex
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.plan import plan, price_of_each
from simkit.serving.plan_pooled import FeedForwardPool, doubling, plan_pooled, pooled_ways
from simkit.serving.plan_record import plan_records
from simkit.serving.pooled import build_pooled
from simkit.serving.replica import build_replicas, paged
from simkit.serving.serve import Policy, build_server, serve
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario
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


def asked(**words):
    return question(**{"rate": 14.0, "lengths": "512/100", "tpot": 0.03, "requests": 200, "chips": (1, 2), **words})


def test_a_plan_of_pools_is_the_cheapest_of_all_that_could_be_played():
    asking, near, far = asked(), load_hardware("l40s"), load_hardware("a100-sxm-80gb")
    pool = FeedForwardPool(hardware=far, chips=None, between="50GB/s,5us")
    found = plan(replace(asking), [near], ["mha"], ["bf16"], apart=[partial(plan_pooled, pool=replace(pool, chips=1))])[1]
    price, least = price_of_each(near, far), math.inf  # watts: nobody rents out an L40S here
    for count in (1, 2):
        replica = pooled(chips=count, layout="mha", ffn=(far, 1))
        server = build_server(replica, asking.policy)
        for replicas in range(1, 7):
            if serve(server, asking.stream, replicas=replicas).record["slo_attainment"] >= asking.attainment_fraction:
                least = min(least, replicas * (price[0] * count + price[1]))
                break
    (record,) = plan_records(asking, [found])
    assert record["power_limit_w"] == pytest.approx(least)
    assert record["slo_attainment"] >= asking.attainment_fraction
    assert found.chips == record["chips"] + record["ffn_chips"]


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


def test_the_command_of_a_plan_with_pools_serves_as_it_says(cli):
    load = ["-M", "llama-3.1-8b", "--rate", "6", "--lengths", "512/64", "--requests", "120", "--slo-tpot", "25ms", "--slo-ttft", "1s"]
    records = json.loads(cli("plan", "-H", "l40s", "--ffn", "l40s:1", "--between", "50GB/s,5us", "--chips", "1", *load, "--format",
                             "json").stdout)
    (record,) = [one for one in records if one["ffn_hardware"]]
    (served,) = json.loads(cli(*shlex.split(record["command"])[1:], "--format", "json").stdout)
    for name in ("tpot_p50_s", "slo_attainment", "chips", "ffn_chips", "replicas", "tokens_per_s"):
        assert served[name] == record[name], name


@pytest.mark.parametrize(("words", "message"), [
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
