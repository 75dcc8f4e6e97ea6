"""Every equation keeps its dimension: written in smaller bytes, seconds, flops, cycles, joules or dollars, it says the same.

What is a count to the equations (a kernel's closed form takes ``2 d`` flops a row from the head dimension) cannot be
rewritten from outside; such cases are left out below where they stand, with the reason.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from simkit.evidence.silicon.product_rows import weights_in_main_memory
from simkit.hardware.profile import HardwareProfile
from simkit.model import kv_cache
from simkit.model.catalog import load_model
from simkit.replay import engine as replay
from simkit.replay.dram.simulate import DramConfig, replay_requests
from simkit.replay.dram.standards import STANDARDS
from simkit.roofline.engine import evaluate, operator_times
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.replica import build_replicas, paged
from simkit.serving.runtime import load_runtime
from simkit.serving.serve import Policy, build_server, serve
from simkit.step import build as step_module
from simkit.step import collectives as collectives_module
from simkit.step import workload as workload_module
from simkit.step.build import build_step, step_totals
from simkit.step.operators import Collective, DecodeStep, Operator, ProductTask
from simkit.step.placement import Placement, demand, place
from simkit.study.capacity import capacity
from simkit.study.engines import in_main_memory
from simkit.study.evaluate import evaluate_group
from simkit.study.record import cost_usd_per_mtok, energy_j_per_token
from simkit.study.scenario import Scenario, parse_scenario
from simkit.timing import kernel_cost, products
from simkit.timing.exchanges import collective_time_s
from simkit.timing.products import streamed_times
from tests.laws.dimensions import assert_same, dimension_of, scale_constants, scaled
from tests.laws.strategies import PROFILES, SIMULATED

# A layer-pipelined chip, GPUs with and without kernel figures of their own, a wafer, a CPU, a TPU, DRAM beside SRAM.
MACHINES = ("groq-lpu", "h100-sxm", "l40s", "cerebras-wse3", "sambanova-sn40l", "tpu-v5e", "mi300x")
WORDS = ({}, {"page": 16, "lengths": "lognormal:0.5"}, {"eviction": "h2o:512+512"}, {"attention_kernel": "unfused"},
         {"attention_sharding": "batch"}, {"attention_sharding": "context"},
         {"speculation": "draft=llama-2-7b,gamma=4,acceptance=0.8"}, {"speculation": "medusa=4,acceptance=0.6"},
         {"kv_dtype": "int4", "weight_dtype": "fp8"})
# Widths of elements that stand in the code: the only figures with a unit that no record holds.
WIDTHS = ((workload_module, "ACTIVATION_BYTES"), (workload_module, "SCORE_BYTES"), (step_module, "LOGIT_BYTES"),
          (collectives_module, "LOGIT_BYTES"), (collectives_module, "PARTIAL_BYTES"),
          (kv_cache, "BLOCK_TABLE_ENTRY_BYTES"), (kernel_cost, "PARTIAL_BYTES"), (products, "PARTIAL_BYTES"),
          (products, "OUTPUT_BYTES"))


# All base units change at once, by powers so far apart that no product of a few of them gives another by chance.
FACTORS = {"byte": 2.0**3, "s": 2.0**5, "cycle": 2.0**11, "joule": 2.0**19, "usd": 2.0**29}
# The closed form of a measured kernel takes its flops from the head dimension, a count: apart, and without it.
UNITS = (FACTORS, {"flop": 2.0**7})


def for_format(factors: Mapping[str, float], kv_dtype: str) -> Mapping[str, float]:
    """Kernels tell 8-bit from 16-bit elements by their bytes: of narrow formats there are fewer, so that they stay so."""
    return {**factors, "byte": 1 / factors["byte"]} if "byte" in factors and kv_dtype != "bf16" else factors


@cache
def a_step(chip: str, *, model: str = "llama-2-70b", attention: str = "gqa-8",
           **words: Any) -> tuple[DecodeStep, Placement]:
    """A step of a few points on eight chips, or on as many as the machine has."""
    hardware = PROFILES[chip]
    result = evaluate_group(hardware, load_model(model), attention, rivals=[attention],
                            batch=np.array([1.0, 32.0, 256.0]), kv_len=np.array([100.0, 4096.0, 50_000.0]),
                            q_len=np.ones(3), scenario=parse_scenario(**words),
                            chips=max(n for n in (1, 2, 4, 8) if n <= hardware.max_chips), baseline=False)
    return result.step, result.placement


def chip_for(name: str, factors: Mapping[str, float]) -> HardwareProfile:
    return replace(PROFILES[name], kernel=None) if "flop" in factors else PROFILES[name]


def name_of(factors: Mapping[str, float]) -> str:
    return " ".join(factors)


@pytest.mark.parametrize("factors", UNITS, ids=name_of)
@pytest.mark.parametrize("chip", [chip.name for chip in SIMULATED])
def test_a_whole_step_on_every_chip_says_the_same_in_other_units(chip, factors, monkeypatch):
    hardware = chip_for(chip, factors)
    step, placement = a_step(chip)
    expected = scaled(evaluate(step, placement, hardware), factors)
    scale_constants(monkeypatch, factors, *WIDTHS)
    assert_same(evaluate(scaled(step, factors), placement, scaled(hardware, factors)), expected)


@pytest.mark.parametrize("factors", UNITS, ids=name_of)
@pytest.mark.parametrize("chip", MACHINES)
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
def test_a_kernel_alone_says_the_same_in_other_units(chip, factors, kv_dtype, monkeypatch):
    hardware = chip_for(chip, factors)
    step, _ = a_step(chip, kv_dtype=kv_dtype)
    placement, factors = in_main_memory(hardware), for_format(factors, kv_dtype)

    def times(operator: Operator, on: HardwareProfile) -> Any:
        return [operator_times(operator, placement, on, start=start, alone=True) for start in ("cold", "warm")]

    operator = step.attention_operators[0]
    expected = scaled(times(operator, hardware), factors)
    scale_constants(monkeypatch, factors, *WIDTHS)
    assert_same(times(scaled(operator, factors), scaled(hardware, factors)), expected)


@pytest.mark.parametrize(("model", "attention", "words"), [
    (model, attention, words) for words in WORDS
    for model, attention in (("llama-2-70b", "gqa-8"), ("deepseek-v3", "as-trained"), ("mixtral-8x7b", "as-trained"),
                             ("gemma-2-9b", "as-trained"))
    if not (model == "deepseek-v3" and "eviction" in words)  # scores of a latent cache: no such scenario
], ids=str)
def test_bytes_of_operators_and_of_the_demand_follow_the_byte(model, attention, words, monkeypatch):
    step, _ = a_step("h100-sxm", model=model, attention=attention, **words)
    factors = {"byte": 4.0}
    built, needed = build_step(step.workload), demand(step.workload)
    expected = scaled([built.operators, built.collectives, step_totals(built), needed], factors)
    scale_constants(monkeypatch, factors, *WIDTHS)
    workload = scaled(step.workload, factors)
    again = build_step(workload)
    # Unpacking depends on whether an element has fewer than 16 bits, a number of the format and not of the byte.
    counted = {"unpack_flops": 0.0, "widened_read_bytes": 0.0, "widened_reread_bytes": 0.0}
    assert_same([[replace(op, **counted) for op in again.operators], again.collectives, step_totals(again),
                 demand(workload)],
                [[replace(op, **counted) for op in expected[0]], *expected[1:]])


@pytest.mark.parametrize("chip", MACHINES)
def test_shares_of_levels_and_the_largest_batch_are_pure_numbers(chip):
    hardware, factors = PROFILES[chip], {"byte": 0.25}
    need = demand(a_step(chip)[0].workload)
    assert_same(place(scaled(need, factors), scaled(hardware, factors), overflow=True),
                place(need, hardware, overflow=True))


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "all_to_all", "send"])
def test_exchanges_of_every_link_say_the_same_in_other_units(kind):
    factors = FACTORS
    exchange = Collective(name=kind, kind=kind, count=1, bytes=np.array([64.0, 1e5, 3e8]),
                          chips=np.array([2.0, 8.0, 72.0]))
    links = [link for chip in PROFILES.values() for link in (chip.scale_up, chip.scale_out) if link is not None]
    assert len({link.topology for link in links}) >= 3
    assert any(link.shared_bandwidth_bytes_per_s for link in links)
    for link in links:
        time_s = collective_time_s(exchange, link)
        assert np.all(time_s > 0)
        np.testing.assert_allclose(collective_time_s(scaled(exchange, factors), scaled(link, factors)),
                                   scaled(time_s, factors, "time_s"), rtol=1e-12)


@pytest.mark.parametrize("factors", UNITS, ids=name_of)
@pytest.mark.parametrize("chip", ["h100-sxm", "a100-sxm-80gb", "groq-lpu"])
def test_energy_and_cost_of_a_token_say_the_same_in_other_units(chip, factors, monkeypatch):
    hardware = PROFILES[chip]
    step, placement = a_step(chip, model="llama-2-7b")
    time_s, tokens_per_s = np.array([0.01, 0.02, 0.05]), np.array([100.0, 1600.0, 5120.0])
    joules = energy_j_per_token(step, placement, hardware, time_s, 8.0, tokens_per_s)
    dollars = cost_usd_per_mtok(hardware.price, 8.0, tokens_per_s)
    assert np.all(joules > 0) or hardware.power.energy_j_per_flop is None or hardware.power.idle_w is None
    monkeypatch.setattr("simkit.study.record.step_totals",
                        lambda one: scaled(step_totals(one), factors))  # flops follow from counts
    other_s, other_rate = scaled(time_s, factors, "time_s"), scaled(tokens_per_s, factors, "tokens_per_s")
    other = scaled(hardware, factors)
    np.testing.assert_allclose(energy_j_per_token(step, placement, other, other_s, 8.0, other_rate),
                               scaled(joules, factors, "energy_j_per_token"), rtol=1e-12)
    np.testing.assert_allclose(cost_usd_per_mtok(other.price, 8.0, other_rate),
                               scaled(dollars, factors, "cost_usd_per_mtok"), rtol=1e-12)


def test_energy_and_cost_above_were_known_somewhere():
    assert PROFILES["h100-sxm"].power.energy_j_per_flop
    assert PROFILES["h100-sxm"].power.idle_w
    assert PROFILES["h100-sxm"].price.usd_per_hour


def columns_of(chip: HardwareProfile, scenario: Scenario, engine: str = "roofline") -> dict[str, Any]:
    columns = evaluate_group(
        chip, load_model("llama-2-13b"), "gqa-8", rivals=["gqa-8"], batch=np.array([1.0, 16.0]),
        kv_len=np.array([300.0, 4096.0]), q_len=np.ones(2), scenario=scenario, chips=8, baseline=True,
        engine=engine).columns
    return {name: column for name, column in columns.items() if column.dtype.kind == "f"}


@pytest.mark.parametrize("words", WORDS[:-1], ids=str)
@pytest.mark.parametrize("chip", MACHINES[:2])
def test_every_column_of_a_record_has_the_dimension_that_its_name_says(chip, words, monkeypatch):
    hardware, scenario, factors = PROFILES[chip], parse_scenario(**words), FACTORS
    expected = scaled(columns_of(hardware, scenario), factors)
    scale_constants(monkeypatch, factors, *WIDTHS)
    assert_same(columns_of(scaled(hardware, factors), scaled(scenario, factors)), expected)


def test_capacity_counts_sequences_and_tokens_in_any_unit(monkeypatch):
    factors, model = FACTORS, load_model("llama-2-70b")

    def found(chip: HardwareProfile, scenario: Scenario) -> dict[str, Any]:
        columns = capacity(chip, model, ["mha", "gqa-8"], scenario=scenario, batch=[1, 8], kv_len=4096, chips=8)
        return {name: column for name, column in columns.items() if column.dtype.kind == "f"}

    hardware, scenario = PROFILES["h100-sxm"], parse_scenario(page=16)
    expected = scaled(found(hardware, scenario), factors)
    assert np.all(expected["max_batch"] > 1)
    scale_constants(monkeypatch, factors, *WIDTHS)
    assert_same(found(scaled(hardware, factors), scaled(scenario, factors)), expected)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("dtype", "element_bytes"), [("bf16", 2.0), ("fp8", 1.0)])
def test_a_product_of_a_few_rows_says_the_same_in_other_units(dtype, element_bytes, grouped, monkeypatch):
    hardware, factors = PROFILES["h100-sxm"], FACTORS
    m, n, k = np.array([1.0, 16.0, 300.0]), np.array([4096.0, 28672.0, 512.0]), np.array([8192.0, 4096.0, 65536.0])
    operator = Operator(
        name="product", count=1, matrix_flops=2 * m * n * k, weight_bytes=n * k * element_bytes, activation_bytes=m * k,
        query_rows=m, dtype=dtype, product=ProductTask(m=m, n=n, k=k, batches=3.0, weight_bytes=element_bytes,
                                                       input_bytes=element_bytes, grouped=grouped, routed_bytes=m * k))

    def time_s(chip: HardwareProfile, one: Operator, scanned_bytes: float, *, alone: bool) -> Any:
        return streamed_times(one, weights_in_main_memory(chip), chip, alone=alone, scanned_bytes=scanned_bytes)

    expected = [scaled(time_s(hardware, operator, 5e7, alone=alone), factors) for alone in (False, True)]
    scale_constants(monkeypatch, factors, *WIDTHS)
    for alone, before in zip((False, True), expected, strict=True):
        again = time_s(scaled(hardware, factors), scaled(operator, factors), scaled(5e7, factors, "bytes"), alone=alone)
        assert_same(again, before)


@pytest.mark.parametrize("chip", ["h100-sxm", "groq-lpu", "sambanova-sn40l"])
def test_a_replayed_step_takes_as_long_in_any_unit_of_time(chip):
    # Banks are left out: the timings of their standard are seconds of another table (see the next test).
    hardware = PROFILES[chip]
    hardware = replace(hardware, memory=tuple(replace(level, dram=None) for level in hardware.memory))
    step, placement = a_step(chip)
    expected = scaled(replay.evaluate(step, placement, hardware), {"s": 8.0})
    assert_same(replay.evaluate(step, placement, scaled(hardware, {"s": 8.0})), expected)


@pytest.mark.parametrize("name", sorted(STANDARDS))
def test_dram_timings_say_the_same_in_other_seconds_and_bytes(name):
    standard = STANDARDS[name]
    for factors in ({"s": 4.0}, {"byte": 2.0}):
        other = scaled(standard, factors)
        for figure in ("peak_bandwidth_bytes_per_s", "pseudo_channel_bytes"):
            assert getattr(other, figure) == pytest.approx(
                scaled(float(getattr(standard, figure)), factors, figure), rel=1e-12)
    requests = np.arange(400, dtype=np.int64) * 7 % 400 * standard.burst_bytes
    slower = replace(standard, clock_period_ps=4 * standard.clock_period_ps)
    ours, theirs = (replay_requests(DramConfig(standard=one, mapping="bg128x"), requests) for one in (standard, slower))
    assert theirs.elapsed_s == pytest.approx(4 * ours.elapsed_s, rel=1e-12)
    assert theirs.achieved_fraction_of_peak == pytest.approx(ours.achieved_fraction_of_peak, rel=1e-12)


def test_served_requests_take_as_long_in_any_unit(monkeypatch):
    factors = FACTORS
    stream = generate(parse_lengths("700/40"), requests_per_s=8.0, gap_cv=1.0, requests=40, seed=3)
    hardware, scenario = PROFILES["h100-sxm"], paged(parse_scenario(), 16)
    policy = Policy(most_running=32, slo_ttft_s=0.08, slo_tpot_s=0.02, runtime=load_runtime("vllm"))

    def served(**change: float) -> dict[str, Any]:
        (replica,) = build_replicas(scaled(hardware, change), load_model("llama-3.1-8b"), ["as-trained"],
                                    scenario=scaled(scenario, change), chips=1, engine="roofline")
        record = serve(build_server(replica, scaled(policy, change)), stream.scaled(1 / change.get("s", 1.0))).record
        # Percentiles come from bins of 0.5 %, whose edges stand in seconds: compared within two of them below.
        return {name: value for name, value in record.items() if isinstance(value, int | float)}

    expected = scaled(served(), factors)
    scale_constants(monkeypatch, factors, *WIDTHS)
    found = served(**factors)
    binned = [name for name in expected if "_p" in name and name.endswith("_s") and name[-4:-2].isdigit()]
    assert len(binned) == 12
    for name in binned:
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=0.01)
    assert found["tokens_per_j"] > 0
    assert_same(found, expected)


def test_the_names_of_units_are_read_as_they_are_meant():
    assert dimension_of("bandwidth_bytes_per_s") == {"byte": 1, "s": -1}
    assert dimension_of("energy_j_per_flop") == {"joule": 1, "flop": -1}
    assert dimension_of("idle_w") == {"joule": 1, "s": -1}
    assert dimension_of("clock_hz") == {"cycle": 1, "s": -1}
    assert dimension_of("combine_cycles_per_64_bytes") == {"cycle": 1, "byte": -1}
    assert dimension_of("tokens_per_s_per_user") == {"s": -1}
    assert dimension_of("max_batch") == dimension_of("achieved_fraction") == {}


def test_a_time_to_which_a_bandwidth_was_added_is_found(monkeypatch):
    """The proof that these tests can fail: the sum is refused although it is a plain number."""
    step, placement = a_step("groq-lpu")
    honest = evaluate(step, placement, PROFILES["groq-lpu"])
    wrong = replace(honest, step_time_s=honest.step_time_s + PROFILES["groq-lpu"].scale_up.bandwidth_bytes_per_s)
    other = scaled(PROFILES["groq-lpu"], {"s": 8.0})
    found = evaluate(step, placement, other)
    found = replace(found, step_time_s=found.step_time_s + other.scale_up.bandwidth_bytes_per_s)
    with pytest.raises(AssertionError, match="step_time_s"):
        assert_same(found, scaled(wrong, {"s": 8.0}))
