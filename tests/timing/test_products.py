"""Measured products inside a step: both engines time them with one function, and the evidence times a step's own."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.evidence.silicon.mixture_rows import mixture_operators, mixture_times_s, routed
from simkit.evidence.silicon.product_rows import WEIGHT_COPIES, gemm_times_s, weights_in_main_memory
from simkit.evidence.silicon.tables import MeasuredTimes, parse_table
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS
from simkit.replay import engine as replay
from simkit.roofline import engine as roofline
from simkit.step.build import build_step
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload
from simkit.timing.products import moved_bytes, streamed_times
from tests.step.machine_words import machine_words

CHIPS = ("h100-sxm", "b200-sxm", "a100-sxm-80gb", "l40s", "h200-sxm", "mi300x", "groq-lpu")
MEASURED = ("h100-sxm", "b200-sxm", "a100-sxm-80gb", "l40s")


def step_of(name: str, *, batch: float = 8.0, weights: str = "bf16", **split: float):
    model = load_model(name)
    layout = parse_layout("as-trained", model)
    return build_step(DecodeWorkload(model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=batch, kv_len=64.0,
                                     q_len=1.0, kv_format=FORMATS["bf16"], weight_format=FORMATS[weights], **machine_words(split)))


def products(step) -> list[Operator]:
    return [operator for operator in step.operators if operator.product is not None]


def placed(chip: str) -> Placement:
    hardware = load_hardware(chip)
    home = weights_in_main_memory(hardware)
    return replace(home, kv={hardware.main_memory.name: 1.0})


@pytest.mark.parametrize("name", ["llama-3.1-70b", "deepseek-v3", "mixtral-8x7b", "t5-v1.1-large"])
@pytest.mark.parametrize("split", [{}, {"tp": 8.0}, {"tp": 8.0, "ep": 8.0}], ids=str)
def test_a_product_s_shape_gives_its_flops_and_weights(name, split):
    for operator in products(step_of(name, **split)):
        task = operator.product
        assert task.batches * task.n * task.k * task.weight_bytes == pytest.approx(operator.weight_bytes, rel=1e-12)
        assert 2 * task.batches * task.m * task.n * task.k == pytest.approx(operator.matrix_flops, rel=1e-12), operator.name


@pytest.mark.parametrize("chip", MEASURED)
@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_the_evidence_of_products_is_the_time_of_a_step_s_own_operators(chip, weights):
    """Every product of a Llama step, written as a row of a measured table, has the time of that operator alone."""
    hardware = load_hardware(chip)
    for operator in products(step_of("llama-3.1-70b", batch=24.0, weights=weights, tp=4.0)):
        task = operator.product
        row = MeasuredTimes(kind="decode_gemm", name="t.csv", time_s=np.ones(1), columns={
            "system": np.array([chip]), "dtype": np.array([weights]), **{
                name: np.array([float(getattr(task, name))]) for name in ("m", "n", "k")}})
        # The table says nothing of a gate: one that the step fuses is left out.
        alone = streamed_times(replace(operator, vector_flops=0.0), weights_in_main_memory(hardware), hardware, alone=True,
                               scanned_bytes=WEIGHT_COPIES * moved_bytes(task))
        assert gemm_times_s(row, hardware) == pytest.approx(alone.total_s, rel=1e-12), operator.name


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b"])
@pytest.mark.parametrize("chip", MEASURED)
def test_both_engines_take_as_long_for_a_measured_product(chip, name):
    hardware, step = load_hardware(chip), step_of(name, tp=8.0)
    found = [engine.evaluate(step, placed(chip), hardware).operator_time_s for engine in (roofline, replay)]
    for operator in products(step):
        one, other = (float(np.ravel(times[operator.name])[0]) for times in found)
        assert one == pytest.approx(other, rel=1e-12), operator.name


def least_s(task, hardware) -> float:
    """What no product takes less of, from m, n, k and the profile's figures: a launch, and weights read or flops done."""
    memory, weights = hardware.main_memory, float(task.batches * task.n * task.k * task.weight_bytes)
    flops = 2.0 * float(task.batches * task.m * task.n * task.k)
    rate = memory.bandwidth_bytes_per_s * memory.achievable_fraction
    peak = hardware.compute.matrix_peak_flop_per_s[hardware.compute.matrix_dtype("bf16")]
    return hardware.overheads.kernel_launch_s + max(weights / rate, flops / peak)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", ["llama-3.1-70b", "deepseek-v3"])
def test_no_product_is_faster_than_its_roofs_or_slower_for_less_work(chip, name):
    hardware, home, before = load_hardware(chip), placed(chip), None
    for batch in (1.0, 8.0, 64.0, 512.0):
        operators = products(step_of(name, batch=batch))
        times = [streamed_times(operator, home, hardware) for operator in operators]
        for operator, one in zip(operators, times, strict=True):
            assert float(one.total_s) >= least_s(operator.product, hardware) * (1 - 1e-9)
            assert sum(one.cause_s.values()) == pytest.approx(one.total_s, rel=1e-12)
        now = np.array([float(one.total_s) for one in times])
        if before is not None:
            assert np.all(now >= before * (1 - 1e-12))
        before = now


@pytest.mark.parametrize("chip", MEASURED)
def test_a_step_feels_how_fast_its_chip_s_products_load(chip):
    """A quarter of the load path and of the DRAM's share: slower in both engines, for products and mixtures."""
    hardware = load_hardware(chip)
    gemm, moe = (replace(kernel, load_bytes_per_cycle_per_unit=kernel.load_bytes_per_cycle_per_unit / 4,
                         dram_achieved_fraction=kernel.dram_achieved_fraction / 4)
                 for kernel in (hardware.kernel.gemm, hardware.kernel.moe))
    slower = replace(hardware, kernel=replace(hardware.kernel, gemm=gemm, moe=moe))
    for engine in (roofline, replay):
        for name in ("llama-3.1-8b", "qwen3-30b-a3b"):
            step = step_of(name)
            before, after = (engine.evaluate(step, placed(chip), one).operator_time_s for one in (hardware, slower))
            for operator in ("qkv_projection", "experts_up" if step.workload.model.moe else "mlp_up"):
                assert float(np.ravel(after[operator])[0]) > 1.5 * float(np.ravel(before[operator])[0])


def test_chips_without_measured_products_keep_their_roofs():
    hardware = load_hardware("mi300x")
    assert hardware.kernel is None
    for operator in products(step_of("mixtral-8x7b")):
        one = streamed_times(operator, placed("mi300x"), hardware)
        assert one.total_s == one.launch_s + one.highest_roof_s


def test_a_sibling_borrows_products_and_mixtures_and_keeps_its_own_memory():
    h100, h200 = load_hardware("h100-sxm"), load_hardware("h200-sxm")
    for section in ("gemm", "moe"):
        own, lent = getattr(h200.kernel, section), getattr(h100.kernel, section)
        assert own.tile_setup_cycles == lent.tile_setup_cycles
        reached = h200.main_memory.achievable_fraction / h100.main_memory.achievable_fraction
        assert own.dram_achieved_fraction == pytest.approx(lent.dram_achieved_fraction * reached)
        assert own.load_bytes_per_cycle_per_unit > lent.load_bytes_per_cycle_per_unit


# Measured mixtures.
HEADER = "system,dtype,tokens,hidden_size,expert_size,top_k,experts,moe_tp,moe_ep,distribution,latency_us\n"


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.01", "power_law_1.2"])
@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(1, 8, 128), (16, 8, 128), (512, 2, 8), (64, 1, 16), (7, 22, 512)])
def test_every_token_chooses_as_often_as_the_mixture_says(distribution, tokens, top_k, experts):
    choices, distinct, ever = routed(tokens, top_k, experts, 1, distribution)
    assert choices == tokens * top_k
    assert 1 <= distinct <= ever <= experts
    assert distinct <= choices
    halves, busiest_distinct, _ = routed(tokens, top_k, experts, 2, distribution)
    assert choices / 2 <= halves <= choices
    assert busiest_distinct <= experts / 2


def test_a_power_law_leaves_experts_idle_that_an_even_deal_does_not():
    assert routed(32, 8, 128, 1, "balanced")[1] == 128
    for name in ("power_law_1.01", "power_law_1.2"):
        assert routed(32, 8, 128, 1, name)[1] < 120


def test_the_evidence_of_mixtures_is_the_time_of_a_step_s_own_experts():
    """Mixtral on 4 chips, all experts busy and evenly: the table's row is the step's two operators, timed alone."""
    step = step_of("mixtral-8x7b", batch=4096.0, tp=4.0)
    up, down = (one for one in step.layer_operators if one.name.startswith("experts"))
    (hardware, rows) = load_hardware("h100-sxm"), parse_table(
        HEADER + "h100_sxm,bfloat16,4096,4096,14336,2,8,4,1,balanced,100\n", "t.csv")
    predicted = mixture_times_s(mixture_operators(rows), 1, hardware)
    scanned = up.weight_bytes + down.weight_bytes
    alone = sum(float(streamed_times(one, weights_in_main_memory(hardware), hardware, alone=True,
                                     scanned_bytes=scanned).total_s) for one in (up, down))
    assert float(predicted[0]) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("balanced", "uneven", "expected balanced or power_law_X"), ("balanced", "power_law_1", "power_law_X, X not 1"),
    (",2,8,4,1,", ",9,8,4,1,", "above experts"), (",2,8,4,1,", ",2,8,4,3,", "does not divide experts")])
def test_rows_of_mixtures_that_mean_nothing_are_refused(old, new, words):
    text = HEADER + "h100_sxm,bfloat16,4096,4096,14336,2,8,4,1,balanced,100\n"
    with pytest.raises(UserError, match=words):
        parse_table(text.replace(old, new), "t.csv")


@pytest.mark.parametrize(("chip", "batch", "binding"), [
    ("l40s", 8.0, "gddr"), ("l40s", 512.0, "compute"), ("a100-sxm-80gb", 16.0, "hbm"), ("a100-sxm-80gb", 512.0, "compute"),
    ("h100-sxm", 512.0, "compute")])
def test_a_product_of_many_rows_is_bound_by_its_units_and_never_by_latency(chip, batch, binding):
    """Tiles that a unit loads or multiplies for most of the time are no set-up."""
    (up,) = [operator for operator in products(step_of("llama-3-8b", batch=batch)) if operator.name == "mlp_up"]
    times = roofline.operator_times(up, placed(chip), load_hardware(chip))
    causes = {name: float(seconds) / float(times.total_s) for name, seconds in times.cause_s.items()}
    assert sum(causes.values()) == pytest.approx(1.0, rel=1e-12)
    assert max(causes, key=causes.get) == binding
    assert causes["latency"] < 0.2
