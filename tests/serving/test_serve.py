"""Served streams on real profiles: limits that must hold, the grid's promise, and the same bits from the same seed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.max_rate import find_max_rate
from simkit.serving.replica import build_replicas, paged
from simkit.serving.runtime import list_runtimes, load_runtime
from simkit.serving.serve import Policy, build_server, serve
from simkit.serving.timeline import serving_timeline
from simkit.study.capacity import capacity
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario


def server_of(hardware="h100-sxm", model="llama-3.1-8b", layout="as-trained", *, chips=1, engine="roofline", page=16,
              policy=None, **words):
    scenario = paged(parse_scenario(**words), page)
    (replica,) = build_replicas(load_hardware(hardware), load_model(model), [layout], scenario=scenario, chips=chips,
                                engine=engine)
    return build_server(replica, policy or Policy(most_running=256))


@pytest.fixture(scope="module")
def server():
    return server_of()


def requests(law="azure-conv-2023", rate=5.0, count=500, seed=1, cv=1.0):
    return generate(parse_lengths(law), requests_per_s=rate, gap_cv=cv, requests=count, seed=seed)


def test_at_low_load_time_per_token_is_the_single_request_s_step(server):
    served = serve(server, requests("700/101", rate=0.01, count=20), keep_events=100)
    measured = (served.spans[:, 4] - served.spans[:, 3]) / 100
    # Each of the 100 steps after the prompt reads one more token: 701 to 800 with the new one.
    step = decode_step("h100-sxm", "llama-3.1-8b", kv_len=np.arange(701, 801), chips=1)["step_time_s"].mean()
    assert measured == pytest.approx(step, rel=2e-3)


@pytest.mark.parametrize("layout", ["mha", "gqa-8"])
def test_at_saturation_throughput_approaches_what_capacity_allows(layout):
    server = server_of(layout=layout, policy=Policy(most_running=100_000, chunk_tokens=8192))
    # Contexts run from 16 to 2016 tokens and are 1016 long on average, so that is what fills the cache.
    served = serve(server, requests("16/2000", rate=1e6, count=6000))
    at_once = capacity(load_hardware("h100-sxm"), load_model("llama-3.1-8b"), [layout],
                       scenario=server.replica.scenario, kv_len=1016, chips=1)["max_batch"].item()
    step = decode_step("h100-sxm", "llama-3.1-8b", attention=layout, batch=at_once, kv_len=1016, chips=1, page=16)
    bound = float(step["tokens_per_s"])
    assert served.record["tokens_per_s"] <= 1.02 * bound
    assert served.record["tokens_per_s"] >= 0.8 * bound


@pytest.mark.parametrize(("hardware", "model", "layout", "words"), [
    ("h100-sxm", "llama-3.1-8b", "mha", {"kv_dtype": "fp8"}),
    ("b200-sxm", "gpt-oss-120b", "as-trained", {"weight_dtype": "fp8"}),
    ("h100-sxm", "llama-3.1-8b", "gqa-8", {"speculation": "draft=llama-3.2-1b,gamma=4,acceptance=0.8"}),
    ("groq-lpu", "llama-2-70b", "gqa-8", {}),
])
def test_an_iteration_read_from_the_grid_is_within_two_percent(hardware, model, layout, words):
    found = server_of(hardware, model, layout, chips="fit", **words).grid_error
    assert found.points >= 400
    assert found.max_relative_error < 0.02
    assert found.mean_relative_error < 0.005


def test_the_replay_engine_serves_its_own_steps():
    server = server_of(engine="replay", policy=Policy(most_running=4, chunk_tokens=256))
    assert server.grid_error.max_relative_error < 0.02
    spans = serve(server, requests("700/101", rate=0.01, count=5), keep_events=10).spans
    step = decode_step("h100-sxm", "llama-3.1-8b", kv_len=np.arange(701, 801, 9), chips=1, engine="replay")
    assert (spans[:, 4] - spans[:, 3]) / 100 == pytest.approx(step["step_time_s"].mean(), rel=0.01)


def test_the_same_seed_gives_the_same_result_to_the_bit(server):
    first, second = (serve(server, requests(cv=3.0), keep_events=50) for _ in range(2))
    assert repr(first.record) == repr(second.record)
    assert np.array_equal(first.spans, second.spans)
    assert serve(server, requests(cv=3.0, seed=2)).record["duration_s"] != first.record["duration_s"]


def test_two_replicas_at_twice_the_rate_serve_twice_as_much(server):
    one = serve(server, requests(rate=4.0, count=1000)).record
    two = serve(server, requests(rate=8.0, count=2000), replicas=2).record
    assert two["tokens_per_s"] == pytest.approx(2 * one["tokens_per_s"], rel=0.1)
    assert two["chips"] == 2 * one["chips"]
    assert two["finished"] == 2000


def test_shares_of_time_sum_to_one_and_cost_is_rent_over_tokens(server):
    record = serve(server, requests()).record
    names = ("attention", "rest_of_decode", "prefill", "host", "swap", "idle")
    assert sum(record[f"{name}_share"] for name in names) == pytest.approx(1.0)
    price = load_hardware("h100-sxm").price.usd_per_hour
    assert record["cost_usd_per_mtok"] == pytest.approx(price / 3600 / record["tokens_per_s"] * 1e6)


@pytest.mark.parametrize("replicas", [2, 7])
def test_idle_replicas_count_into_shares_rates_and_joules(server, replicas):
    # Five requests, 100 s apart: each replica idles before its first and after its last, and two of seven throughout.
    record = serve(server, requests("300/50", rate=0.01, count=5, cv=0.01), replicas=replicas).record
    names = ("attention", "rest_of_decode", "prefill", "host", "swap", "idle")
    assert sum(record[f"{name}_share"] for name in names) == pytest.approx(1.0)
    assert record["idle_share"] > 0.95
    # Four gaps of about 100 s between the first arrival and the last, whichever replica they fall to.
    assert record["duration_s"] == pytest.approx(400, rel=0.1)
    assert record["goodput_requests_per_s"] == record["requests_per_s"] == pytest.approx(5 / record["duration_s"])
    idle_w = load_hardware("h100-sxm").power.idle_w
    assert record["output_tokens"] / record["tokens_per_j"] > replicas * idle_w * record["duration_s"]


def test_four_times_fewer_kv_heads_hold_more_users_but_not_always_four_times_the_goodput():
    policy = Policy(slo_ttft_s=2.0, slo_tpot_s=0.05, most_running=4096)
    rates, users = {}, {}
    for layout in ("mha", "gqa-8"):
        server = server_of(layout=layout, policy=policy)
        rate, served = find_max_rate(server, lambda rate: requests(rate=rate, count=2000), start_requests_per_s=4.0,
                                     attainment_fraction=0.9)
        rates[layout], users[layout] = rate, server.replica.total_blocks
        assert served.record["slo_attainment"] >= 0.9
    # Blocks hold 16 tokens of either layout; the K and V projections shrink too, so a little more than 4 times.
    assert 4.0 <= users["gqa-8"] / users["mha"] < 4.2
    assert 1.0 < rates["gqa-8"] / rates["mha"] < 4.0


def test_an_objective_below_a_single_step_has_no_rate(server):
    strict = replace(server, policy=replace(server.policy, slo_tpot_s=1e-6))
    rate, _ = find_max_rate(strict, lambda rate: requests(rate=rate, count=20), start_requests_per_s=1.0, attainment_fraction=0.9)
    assert rate is None


def test_host_work_of_a_runtime_lengthens_each_token_by_as_much(server):
    ideal = serve(server, requests("300/50", rate=0.01, count=10), keep_events=10).spans
    host = replace(server, policy=replace(server.policy, runtime=load_runtime("vllm")))
    served = serve(host, requests("300/50", rate=0.01, count=10), keep_events=10)
    slower, runtime = served.spans, load_runtime("vllm")
    # Its clients wait for what it does outside the engine, too, before their first token and in all.
    assert runtime.request_s > 0.05
    for name, end in (("ttft", 3), ("latency", 4)):
        assert served.quantile_s(name, 1.0) == pytest.approx(
            (slower[:, end] - slower[:, 1]).max() + runtime.request_s, rel=0.005)
    grew = ((slower[:, 4] - slower[:, 3]) - (ideal[:, 4] - ideal[:, 3])) / 49
    # A layer: two norms, QKV, append, attention, output, two of the MLP; at the ends embedding, norm, LM head, sampling.
    kernels = load_model("llama-3.1-8b").n_layers * 8 + 4
    assert grew == pytest.approx(kernels * runtime.kernel_gap_s + runtime.host_sequence_s)


def test_a_layer_of_latents_and_experts_runs_more_kernels_than_a_dense_one():
    def kernels_a_layer(model):
        return server_of(model=model, chips="fit", weight_dtype="fp8",
                         policy=Policy(most_running=2, chunk_tokens=16)).replica.kernels / load_model(model).n_layers

    # MLA: queries down and up, latents down, key and value absorbed (5 for 1); experts: router, up, down (3 for 2).
    assert kernels_a_layer("deepseek-v2-lite") > 1.3 * kernels_a_layer("llama-3.1-8b")
    drafted = server_of(speculation="draft=llama-3.2-1b,gamma=4,acceptance=0.8",
                        policy=Policy(most_running=2, chunk_tokens=16)).replica
    own, draft = (8 * load_model(name).n_layers + 4 for name in ("llama-3.1-8b", "llama-3.2-1b"))
    assert drafted.kernels == own + 4 * draft


def test_every_runtime_says_where_its_figures_come_from():
    for runtime in list_runtimes():
        assert len(runtime.source) > 20
    with pytest.raises(UserError, match="did you mean 'vllm'"):
        load_runtime("vlm")


def test_no_room_for_a_cache_is_said_with_what_would_do():
    with pytest.raises(UserError, match=r"no room for a KV cache.*--weight-dtype"):
        server_of(model="llama-3.1-70b", chips=1)


def test_a_chunk_too_long_for_a_step_is_cut_and_long_prompts_still_end():
    server = server_of(policy=Policy(chunk_tokens=256, most_running=8))
    served = serve(server, requests("5000/5", rate=100.0, count=20))
    assert served.record["finished"] == 20
    assert served.record["iterations"] > 20 * 5000 / 256


def test_the_timeline_holds_each_request_s_three_parts_in_order(server):
    served = serve(server, requests(count=40), keep_events=100)
    made = serving_timeline(served)
    parts = [event for event in made["traceEvents"] if event["ph"] == "X" and "request" in event["args"]]
    assert len(parts) == 3 * 40
    assert all(event["dur"] >= 0 for event in parts)
    assert made["otherData"]["requests_kept"] == 40


def test_quantiles_are_within_half_a_percent(server):
    served = serve(server, requests(count=400), keep_events=400)
    latency = served.spans[:, 4] - served.spans[:, 1]
    for probability, name in ((0.5, "latency_p50_s"), (0.99, "latency_p99_s")):
        exact = np.sort(latency)[math.ceil(probability * 400) - 1]
        assert served.record[name] == pytest.approx(exact, rel=0.005)


def test_a_state_takes_its_room_once_and_only_layers_with_attention_grow():
    """Qwen3.5-122B: 12 of 48 layers keep 2 x 2 x 256 elements a token, 36 a state of 64 x 128 x 128 in fp32."""
    replica = build_replicas(load_hardware("h200-sxm"), load_model("qwen3.5-122b-a10b"), ["as-trained"],
                             scenario=paged(parse_scenario(weight_dtype="fp8"), 16), chips=4, tp=4)[0]
    kinds = {most: count for count, most in replica.block_kinds}
    assert set(kinds) == {16.0, float("inf")}
    growing, state = 12 * 2 * 2 * 256 * 2 * 16, 36 * (64 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 64 * 128) * 2)
    # Of two KV heads each of four chips keeps one: copies of the cache, and parts of the state.
    assert kinds[16.0] / kinds[float("inf")] == pytest.approx(state / 4 / (growing / 2), rel=0.01)


def test_a_runtime_whose_attention_reads_whole_caches_is_refused():
    with pytest.raises(UserError, match="attention does not read pages of grouped heads"):
        serve(server_of(policy=Policy(runtime=load_runtime("neuron"), most_running=2, chunk_tokens=64)), requests(count=2))
