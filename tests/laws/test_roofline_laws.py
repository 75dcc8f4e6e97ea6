"""Laws that hold for every chip, model and workload: more never costs less, and nothing beats its bounds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.roofline.engine import evaluate
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.placement import demand, place
from simkit.study.evaluate import Evaluated, evaluate_group
from simkit.study.scenario import parse_scenario
from tests.laws import strategies as draw

NOT_SLOWER = 1 + 1e-9  # sums of the same terms in another order


def point(hardware: HardwareProfile, model: ModelArchitecture, attention: str, batch: float, kv_len: float,
          kv_dtype: str = "bf16", chips: int = 1, **split: int) -> Evaluated:
    return evaluate_group(hardware, model, attention, rivals=[attention], kv_dtype=kv_dtype, weight_dtype="bf16",
                          batch=np.array([float(batch)]), kv_len=np.array([float(kv_len)]), q_len=np.array([1.0]),
                          chips=chips, baseline=False, **split)


def step_time_s(*args, **kwargs) -> float:
    return float(point(*args, **kwargs).timing.step_time_s[0])


@given(draw.hardware, draw.any_model, draw.batches, draw.kv_lens, draw.kv_dtypes, st.floats(1, 100), st.data())
def test_more_bandwidth_is_never_slower(hardware, model, batch, kv_len, kv_dtype, factor, data):
    level = data.draw(st.sampled_from([lv for lv in hardware.memory if lv.bandwidth_bytes_per_s]))
    faster = replace(hardware, memory=tuple(
        replace(lv, bandwidth_bytes_per_s=lv.bandwidth_bytes_per_s * factor) if lv is level else lv
        for lv in hardware.memory))
    args = (model, "as-trained", batch, kv_len, kv_dtype)
    assert step_time_s(draw.unbounded(faster), *args) <= step_time_s(draw.unbounded(hardware), *args) * NOT_SLOWER


@given(draw.hardware, draw.head_models, draw.batches, draw.kv_lens, draw.kv_dtypes, st.booleans(), st.data())
def test_fewer_kv_heads_never_cost_bytes_or_time_on_one_chip(hardware, model, batch, kv_len, kv_dtype, room, data):
    # Nested groupings only: 48 query heads on 3 KV heads pack 16 rows exactly, on 2 they pad 24 rows to 32.
    few = data.draw(st.sampled_from(draw.divisors(model.n_q_heads)))
    many = data.draw(st.sampled_from([k for k in draw.divisors(model.n_q_heads) if k % few == 0]))
    hardware = draw.unbounded(hardware) if room else hardware
    less = point(hardware, model, f"gqa-{few}", batch, kv_len, kv_dtype)
    more = point(hardware, model, f"gqa-{many}", batch, kv_len, kv_dtype)
    for name in ("kv_cache_bytes", "kv_read_bytes", "weight_read_bytes"):
        assert less.columns[name][0] <= more.columns[name][0] * NOT_SLOWER
    assert less.timing.step_time_s[0] <= more.timing.step_time_s[0] * NOT_SLOWER


@given(draw.hardware, draw.any_model, draw.batches, draw.kv_lens, draw.kv_dtypes)
def test_a_step_is_never_faster_than_its_flops_or_any_levels_bytes(hardware, model, batch, kv_len, kv_dtype):
    result = point(hardware, model, "as-trained", batch, kv_len, kv_dtype)
    time_s = float(result.timing.step_time_s[0])
    compute = hardware.compute
    rates = [*compute.matrix_peak_flop_per_s.values(), compute.vector_peak_flop_per_s or 0.0]
    flops = sum(float(np.max(op.count * op.matrix_flops)) for op in result.step.operators)
    assert time_s >= flops / max(rates)
    for level in hardware.memory:
        if level.chip_bandwidth_bytes_per_s:
            moved = float(np.max(result.timing.level_bytes[level.name]))
            assert time_s * NOT_SLOWER >= moved / level.chip_bandwidth_bytes_per_s


@given(draw.hardware, draw.any_model, draw.batches, draw.kv_lens)
def test_time_grows_with_batch_and_with_context(hardware, model, batch, kv_len):
    chip = draw.unbounded(hardware)
    base = step_time_s(chip, model, "as-trained", batch, kv_len)
    assert base <= step_time_s(chip, model, "as-trained", batch + 1, kv_len) * NOT_SLOWER
    assert base <= step_time_s(chip, model, "as-trained", batch, kv_len + 1) * NOT_SLOWER


@given(draw.hardware, draw.any_model, draw.batches, draw.kv_lens, draw.kv_dtypes)
def test_causes_and_operators_both_add_up_to_the_step(hardware, model, batch, kv_len, kv_dtype):
    timing = point(hardware, model, "as-trained", batch, kv_len, kv_dtype).timing
    total = float(timing.step_time_s[0])
    assert float(np.sum([np.max(t) for t in timing.cause_time_s.values()])) == pytest.approx(total, rel=1e-9)
    assert float(np.sum([np.max(t) for t in timing.operator_time_s.values()])) == pytest.approx(total, rel=1e-9)
    attention = float(np.sum([np.max(t) for t in timing.attention_cause_time_s.values()]))
    assert attention == pytest.approx(float(timing.attention_time_s[0]), rel=1e-9)


@given(draw.hardware, draw.any_model, draw.batches, draw.kv_lens)
def test_every_byte_is_read_at_the_home_it_was_placed_in(hardware, model, batch, kv_len):
    result = point(hardware, model, "as-trained", batch, kv_len)
    main = hardware.homes("weights")[-1].name
    for shares in (result.placement.weights, result.placement.kv):
        assert float(np.sum([np.max(s) for s in shares.values()])) == pytest.approx(1.0, rel=1e-12)
    persistent = sum(float(np.max(op.count * (op.weight_bytes + op.kv_read_bytes + op.kv_write_bytes)))
                     for op in result.step.operators)
    nearest_home = hardware.homes("weights")[0].name
    # The nearest home sees its own bytes and all that pass through from beyond, activations on top.
    assert float(np.max(result.timing.level_bytes[nearest_home])) * NOT_SLOWER >= persistent
    assert float(np.max(result.timing.level_bytes[main])) <= persistent * 3


@given(draw.hardware, draw.head_models, draw.batches, draw.kv_lens)
def test_a_point_gives_the_same_bits_alone_and_in_a_sweep(hardware, model, batch, kv_len):
    alone = step_time_s(hardware, model, "mha", batch, kv_len)
    swept = evaluate_group(hardware, model, "mha", rivals=["mha"], kv_dtype="bf16", weight_dtype="bf16",
                           batch=np.array([1.0, batch, 7.0]), kv_len=np.array([5.0, kv_len, 99.0]), q_len=np.ones(3),
                           chips=1, baseline=False)
    assert float(swept.timing.step_time_s[1]) == alone


@given(draw.any_model, draw.batches, draw.kv_lens, st.sampled_from([1, 2, 4, 8]))
def test_splitting_over_chips_never_makes_a_chip_hold_more(model, batch, kv_len, ways):
    def needed(tp: int) -> float:
        workload = point(draw.PROFILES["h100-sxm"], model, "as-trained", batch, kv_len).step.workload
        need = demand(replace(workload, machine=Machine.split(tp=float(tp))))
        return float(np.max(need.weight_bytes + need.kv_bytes))

    if model.n_q_heads % (2 * ways) == 0:
        assert needed(2 * ways) <= needed(ways) * NOT_SLOWER


def test_hardware_figures_may_be_arrays_that_a_study_varies():
    chip = draw.PROFILES["h100-sxm"]
    bandwidth = np.geomspace(1e12, 1e15, 7)
    varied = replace(chip, memory=tuple(
        replace(lv, bandwidth_bytes_per_s=bandwidth) if lv.name == "hbm" else lv for lv in chip.memory))
    workload = point(chip, draw.MODELS["llama-2-7b"], "mha", 8, 4096).step.workload
    step = build_step(replace(workload, batch=8.0, kv_len=4096.0, q_len=1.0))
    timing = evaluate(step, place(demand(step.workload), varied, overflow=False), varied)
    assert timing.step_time_s.shape == (7,)
    assert np.all(np.diff(timing.step_time_s) <= 0)


@given(draw.hardware, draw.head_models, draw.batches, draw.kv_lens, st.sampled_from(["grouped-unsplit", "unfused", "per-query-head"]),
       st.data())
def test_a_kernel_with_fewer_choices_is_never_faster(hardware, model, batch, kv_len, kernel, data):
    """Measured kernels' launches and rates hold for all of them: an unfused kernel on ideal units beat the fused one."""
    layout = f"gqa-{data.draw(st.sampled_from(draw.divisors(model.n_q_heads)))}"
    times = []
    for kind in ("grouped", kernel):
        found = evaluate_group(hardware, model, layout, rivals=[layout], scenario=parse_scenario(attention_kernel=kind),
                               batch=np.array([float(batch)]), kv_len=np.array([float(kv_len)]), q_len=np.array([1.0]),
                               chips=1, baseline=False)
        times.append(float(found.timing.attention_time_s[0]))
    assert times[0] <= times[1] * NOT_SLOWER
