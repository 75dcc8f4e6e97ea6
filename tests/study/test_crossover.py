"""Crossovers: every root of known functions, closed forms on ideal machines, and agreement with --set."""

import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.parameters import profile_parameters, with_parameter
from simkit.study.crossover import Comparison, crossings, crossover
from simkit.study.digests import digest, plain
from simkit.study.engines import engine_named
from simkit.study.evaluate import evaluate_group
from simkit.study.scenario import parse_scenario
from simkit.study.vary import faster_memory, variable

# A TPU of which only memory and matrix units take time, for any number of query rows.
IDEAL = {"overheads.kernel_launch": "0 s", "overheads.layer_latency": "0 s", "overheads.step": "0 s",
         "links.scale_up.latency": "0 s", "links.scale_up.bandwidth": "1 EB/s", "compute.special_rate": "1 Eop/s",
         "compute.vector_peak": "197 TFLOP/s", "compute.matrix.tile_rows": "1", "compute.matrix.achievable_fraction": "1",
         "memory.hbm.achievable_fraction": "1", "memory.hbm.capacity": "8 TB", "memory.vmem.bandwidth": "1 EB/s"}


@pytest.fixture(scope="module")
def llama():
    return simkit.load_model("llama-2-70b")


def roots_of(function, grid, threshold=0.0, *, whole=False):
    return crossings(lambda values: function(np.asarray(values, dtype=float)), grid, function(np.asarray(grid, dtype=float)),
                     threshold, whole=whole)


def test_all_roots_of_a_sine_are_found_with_their_directions():
    found = roots_of(np.sin, np.linspace(0.5, 20.5, 101))
    assert [one.value for one in found] == pytest.approx([n * math.pi for n in range(1, 7)], rel=1e-9)
    assert [one.falls for one in found] == [True, False] * 3
    assert not any(one.jump for one in found)


@pytest.mark.parametrize("offset", [0.0, 0.2, 0.5, 0.83])
def test_two_roots_between_neighbouring_points_of_the_scan_are_not_passed_over(offset):
    # A dip 0.3 wide where the scan's points are 1 apart.
    middle = 10 + offset
    found = roots_of(lambda x: (x - middle) ** 2 - 0.15**2, np.arange(1.0, 31.0))
    assert [one.value for one in found] == pytest.approx([middle - 0.15, middle + 0.15], rel=1e-8)


def test_a_function_that_stays_on_one_side_has_no_root():
    assert roots_of(lambda x: x**2 + 1, np.linspace(-5, 5, 40)) == []
    assert roots_of(lambda x: np.full_like(x, np.nan), np.linspace(1, 5, 40)) == []


def test_a_jump_across_the_threshold_is_found_and_called_one():
    (found,) = roots_of(lambda x: np.where(x < math.e, 3.0, 1.0), np.linspace(1, 10, 20), 2.0)
    assert found.value == pytest.approx(math.e, rel=1e-9)
    assert found.falls
    assert found.jump


def test_ranges_without_a_value_are_not_crossed():
    found = roots_of(lambda x: np.where((x > 3) & (x < 7), np.nan, x - 8), np.linspace(1, 10, 200))
    assert [one.value for one in found] == pytest.approx([8.0])


def test_whole_numbers_cross_at_the_first_value_on_the_other_side():
    found = roots_of(lambda x: 100.5 - x, np.unique(np.round(np.geomspace(1, 4096, 50))), whole=True)
    assert [(one.value, one.falls) for one in found] == [(101.0, True)]


@pytest.mark.parametrize("below", [1.1, 2.0, 7.5])
def test_attention_s_crossover_is_the_machine_balance_of_the_roofline_paper(llama, below):
    """Williams et al. 2009: MHA at 1 flop/byte is memory-bound at rate beta, GQA-8 at 8 flops/byte binds on compute as
    soon as beta x 8 > pi, and then the advantage is pi / (beta x 1): it is r at beta = pi / r, also for 7.5 < 8.
    """
    (record,) = crossover("tpu-v5e", llama, attention="gqa-8", below=below, vary="memory.hbm.bandwidth", of="attention",
                          batch=32, kv_len=4096, chips=1, overrides=IDEAL, start="1 TB/s", stop="900 TB/s")
    peak_flop_per_s = load_hardware("tpu-v5e").compute.matrix_peak_flop_per_s["bf16"]
    assert record["finding"] == "falls below"
    assert record["value"] == pytest.approx(peak_flop_per_s / below, rel=1e-6)
    assert record["advantage"] == pytest.approx(below, rel=1e-9)
    assert record["attention_bound"] == "compute"


def test_the_same_crossover_is_found_by_varying_the_flops(llama):
    """The same balance from the other side: pi = r beta. The vector unit is slower, so that it never stands in."""
    (record,) = crossover("tpu-v5e", llama, attention="gqa-8", below=1.5, vary="compute.matrix.peak.bf16", of="attention",
                          batch=32, kv_len=4096, chips=1, overrides=IDEAL | {"compute.vector_peak": "1 TFLOP/s"},
                          start="0.5 TFLOP/s", stop="5 TFLOP/s")
    bandwidth = load_hardware("tpu-v5e").main_memory.chip_bandwidth_bytes_per_s
    assert record["finding"] == "rises above"
    assert record["value"] == pytest.approx(1.5 * bandwidth, rel=1e-6)


@pytest.mark.parametrize("vary", ["memory.hbm.bandwidth", "overheads.kernel_launch", "links.scale_up.latency"])
def test_setting_the_value_found_gives_the_threshold(llama, vary):
    records = crossover("a100-sxm-80gb", llama, attention="gqa-8", below=2.2, vary=vary, of="step", batch=32, chips=8)
    assert records[0]["value"] is not None
    for record in records:
        step = simkit.decode_step("a100-sxm-80gb", llama, attention=["mha", "gqa-8"], batch=32, chips=8,
                                  overrides={vary: _text(vary, record["value"])})
        assert step["speedup_vs_mha"][1] == pytest.approx(2.2, rel=1e-6)


def _text(key, value):
    return f"{value!r} {'B/s' if key.endswith('bandwidth') else 's'}"


def test_batches_cross_where_simulate_says_so(llama):
    records = crossover("h100-sxm", llama, attention="gqa-8", below=2.0, vary="batch", chips=16, start="1", stop="200")
    batches = np.arange(1, 201)
    speedup = simkit.decode_step("h100-sxm", llama, attention=[["mha"], ["gqa-8"]], batch=batches, chips=16)["speedup_vs_mha"][1]
    below = speedup < 2.0
    both = np.isfinite(speedup[1:]) & np.isfinite(speedup[:-1])
    assert [record["value"] for record in records] == batches[1:][(below[1:] != below[:-1]) & both].tolist()
    assert all(isinstance(record["value"], int) for record in records)


def to_13_digits(record):
    """A record's content; priors that follow a figure are scaled by it, to their last digit but one."""
    if isinstance(record, dict):
        return {name: to_13_digits(one) for name, one in record.items()}
    if isinstance(record, list):
        return [to_13_digits(one) for one in record]
    return f"{record:.12e}" if isinstance(record, float) else record


@pytest.mark.parametrize("chip", ["h100-sxm", "h200-sxm", "sambanova-sn40l"])
def test_a_profile_with_an_array_has_each_value_as_set_would_give_it(chip):
    profile = load_hardware(chip)
    checked = 0
    for figure in profile_parameters(profile):
        if not isinstance(figure.value, float) or figure.value == 0:
            continue
        varied = variable(figure.key, profile, {}, stop=figure.value)
        if varied.broadcasts:
            value = figure.value * 0.75
            by_set = load_hardware(chip, overrides={figure.key: varied.text(value)})
            assert to_13_digits(plain(with_parameter(profile, figure.key, value))) == to_13_digits(plain(by_set)), figure.key
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("chip", ["l40s", "sambanova-sn40l", "groq-lpu"])
def test_each_value_of_an_array_takes_the_time_that_it_takes_alone(chip, llama):
    """Of every parameter that may be an array; a chip that shares a host bridge, one of tiers, one without launches."""
    def question(vary):
        own = {"batch": 8.0, "kv_len": 4096.0, "q_len": 1.0}
        return Comparison(load=partial(_loaded, chip), profile=profile, model=llama, attention="gqa-8", against="mha", of="step",
                        workload=own, scenario=parse_scenario(), chips="fit", tp=None, pp=None, engine=engine_named("roofline"), varied=vary)

    profile, checked = load_hardware(chip), set()
    for parameter in profile_parameters(profile):
        if parameter.broadcasts and parameter.value:
            varied = variable(parameter.key, profile, {}, stop=parameter.value)
            values = [parameter.value * factor for factor in (0.6, 0.99)]
            together = question(varied).answers(values)
            alone = [question(replace(varied, broadcasts=False)).answers([value]) for value in values]
            np.testing.assert_allclose(together["advantage"], [one["advantage"][0] for one in alone], rtol=1e-12)
            assert together["bound"].tolist() == [one["bound"][0] for one in alone], parameter.key
            checked.add(parameter.key)
    assert len(checked) > 8


def _loaded(chip, overrides):
    return load_hardware(chip, overrides=overrides)


def test_figures_that_others_follow_from_are_loaded_anew(llama):
    """The clock paces the measured kernels; the profile is loaded for each value, as --set does."""
    def advantage(clock):
        step = simkit.decode_step("h100-sxm", llama, attention=["mha", "gqa-8"], batch=32, chips=8,
                                  overrides={"compute.clock": clock})
        return step["attention_speedup_vs_mha"][1]

    between = (advantage("0.2 GHz") + advantage("2 GHz")) / 2
    (record, *_) = crossover("h100-sxm", llama, attention="gqa-8", below=between, vary="compute.clock", of="attention",
                             batch=32, chips=8, start="0.2 GHz", stop="2 GHz")
    assert advantage(f"{record['value']!r} Hz") == pytest.approx(between, rel=1e-5)


def test_no_crossing_says_on_which_side_the_range_lies(llama):
    (above,) = crossover("tpu-v5e", llama, attention="gqa-8", below=1.0001, vary="memory.hbm.bandwidth", of="attention",
                         chips=1, overrides=IDEAL, start="0.1 TB/s", stop="0.2 TB/s")
    assert (above["finding"], above["value"]) == ("above throughout", None)
    (below,) = crossover("tpu-v5e", llama, attention="gqa-8", below=50, vary="memory.hbm.bandwidth", of="attention",
                         chips=1, overrides=IDEAL)
    assert below["finding"] == "below throughout"
    (unfit,) = crossover("tpu-v5e", llama, attention="gqa-8", below=2, vary="memory.hbm.bandwidth", chips=1)
    assert (unfit["finding"], unfit["fitting_fraction_of_range"]) == ("does not fit", 0.0)


def test_it_says_when_weights_share_the_bandwidth_that_varies(llama):
    def shares(chip, vary):
        return crossover(chip, llama, attention="gqa-8", below=1.1, vary=vary)[0]["shares_bandwidth_with_weights"]

    assert shares("h100-sxm", "memory.hbm.bandwidth") is True
    assert shares("h100-sxm", "memory.l2.bandwidth") is False
    assert shares("h100-sxm", "overheads.kernel_launch") is None


def test_a_ratio_of_costs_on_the_same_chips_is_the_ratio_of_times(llama):
    by = {of: crossover("h100-sxm", llama, attention="gqa-8", below=2.0, vary="batch", of=of, chips=16) for of in ("step", "cost")}
    assert [record["value"] for record in by["cost"]] == [record["value"] for record in by["step"]]


def test_by_replay_the_value_found_gives_the_threshold_too(llama):
    records = crossover("h100-sxm", llama, attention="gqa-8", below=2.0, vary="batch", chips=16, start="4", stop="64",
                        engine="replay")
    assert records[0]["value"] is not None
    for record in records:
        around = simkit.decode_step("h100-sxm", llama, attention=[["mha"], ["gqa-8"]], engine="replay", chips=16,
                                    batch=[record["value"] - 1, record["value"]])["speedup_vs_mha"][1]
        assert (around[0] < 2.0) != (around[1] < 2.0)


@pytest.mark.parametrize(("options", "said"), [
    ({"vary": "memory.hbm.bandwith"}, "did you mean 'memory.hbm.bandwidth'?"),
    ({"vary": "batchs"}, "did you mean 'batch'?"),
    ({"vary": "memory.hbm.kind"}, "not a number"),
    ({"vary": "overheads.step"}, "give --from and --to"),
    ({"vary": "memory.hbm.bandwidth", "start": "8"}, "--from: a unit is missing"),
    ({"vary": "memory.hbm.bandwidth", "start": "9 TB/s", "stop": "1 TB/s"}, "is not a range"),
    ({"vary": "batch", "start": "1,8"}, "--from: expected one value"),
    ({"vary": "compute.units", "start": "1.5"}, "compute.units is a whole number"),
    ({"vary": "batch", "below": float("nan")}, "--below nan"),
    ({"vary": "batch", "below": -1.0}, "--below -1"),
    ({"vary": "batch", "of": "speed"}, "expected step, attention or cost"),
    ({"vary": "batch", "against": "gqa-7"}, "gqa-7"),
])
def test_mistakes_are_named(llama, options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        crossover("h100-sxm", llama, **{"attention": "gqa-8", "below": 1.1, **options})


def test_a_chip_without_a_price_has_no_cost_to_compare(llama):
    with pytest.raises(UserError, match="has no price"):
        crossover("groq-lpu", llama, attention="gqa-8", below=1.1, vary="memory.sram.bandwidth", of="cost")


@pytest.mark.parametrize("chip", ["h100-sxm", "a100-sxm-80gb", "cerebras-wse3"])
def test_memory_made_faster_together_is_each_level_set_and_nothing_else(chip, llama):
    """Every level's bandwidth five times over by ``--set``: the same step; flops, lanes, launches and links as they are."""
    profile = load_hardware(chip)
    faster = {f"memory.{level.name}.bandwidth": f"{5 * level.bandwidth_bytes_per_s!r} B/s" for level in profile.memory
              if level.bandwidth_bytes_per_s is not None}
    by_set = load_hardware(chip, overrides=faster)
    assert digest(faster_memory(profile, 5.0)) == digest(by_set)
    together = faster_memory(profile, np.array([1.0, 5.0]))
    for layout in ("mha", "gqa-8"):
        both = evaluate_group(together, llama, layout, rivals=["mha"], batch=[32.0, 32.0], kv_len=4096.0, q_len=1.0)
        for place, one in enumerate((profile, by_set)):
            alone = evaluate_group(one, llama, layout, rivals=["mha"], batch=32.0, kv_len=4096.0, q_len=1.0)
            assert float(both.timing.step_time_s[place]) == pytest.approx(float(alone.timing.step_time_s), rel=1e-12)


def test_gqa_still_pays_on_a100_at_a_hundred_times_the_memory(llama):
    """Its vector lanes and tiles stay as they are: MHA, which runs on them, gets no faster than they are."""
    chip = faster_memory(load_hardware("a100-sxm-80gb"), 100.0)
    found = simkit.decode_step(chip, llama, attention=["mha", "gqa-8"], batch=32)
    assert found["speedup_vs_mha"][1] >= 1.6
    assert crossover("a100-sxm-80gb", llama, attention="gqa-8", below=1.5, vary="memory", batch=32)[0]["value"] is None
