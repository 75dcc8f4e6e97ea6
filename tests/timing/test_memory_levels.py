"""Which bytes pass which level, how long that takes, and what lies where: counted by hand on chips of one to three levels."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.roofline.engine import evaluate, operator_times
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.operators import Operator
from simkit.step.placement import Demand, Placement, demand, place
from simkit.study.scenario import parse_scenario
from simkit.timing.exchanges import collective_time_s
from simkit.timing.roofs import compute_time_s, memory_times, special_function_time_s
from simkit.timing.step_timing import LATENCY, LOAD_PATH, Account, StepTiming
from tests.step.test_operators import workload_of

H100, SN40L, CORSAIR = (load_hardware(name) for name in ("h100-sxm", "sambanova-sn40l", "dmatrix-corsair"))
WEIGHTS, READ, WRITTEN, PASSING = 3e9, 5e9, 7e6, 11e6
OPERATOR = Operator(name="made up", count=1, weight_bytes=WEIGHTS, kv_read_bytes=READ, kv_write_bytes=WRITTEN,
                    activation_bytes=PASSING)


def placed(weights, kv):
    return Placement(weights=weights, kv=kv, fits=True, max_batch=1.0)


def with_rates(chip, **bytes_per_s):
    """The chip with memory levels of round rates that are fully achieved."""
    return replace(chip, memory=tuple(
        replace(level, bandwidth_bytes_per_s=bytes_per_s.get(level.name, level.bandwidth_bytes_per_s), achievable_fraction=1.0)
        for level in chip.memory))


def test_what_lives_in_hbm_passes_every_level_and_activations_the_cache_that_holds_them():
    seconds, moved = memory_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    home = WEIGHTS + READ + WRITTEN
    assert moved == {"hbm": home, "l2": home + PASSING, "smem": home + PASSING}
    for name, passed in moved.items():
        assert seconds[name] == pytest.approx(passed / H100.level(name).achievable_bytes_per_s, rel=1e-12)


def test_activations_beyond_a_cache_go_through_the_memory_behind_it():
    large = replace(OPERATOR, activation_bytes=60e6)  # the L2 holds 52.4 MB
    _, moved = memory_times(large, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    assert moved["hbm"] == moved["l2"] == WEIGHTS + READ + WRITTEN + 60e6
    exactly = replace(OPERATOR, activation_bytes=H100.level("l2").usable_bytes)
    _, moved = memory_times(exactly, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    assert moved["hbm"] == WEIGHTS + READ + WRITTEN


def test_a_share_served_by_a_warm_cache_does_not_reach_its_home():
    _, moved = memory_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 1.0}), H100, hit_share=0.25)
    home = WEIGHTS + READ + WRITTEN
    assert moved["hbm"] == pytest.approx(0.75 * home, rel=1e-15)
    assert moved["l2"] == pytest.approx(home + PASSING, rel=1e-15)


def test_repeated_reads_come_from_the_last_cache_or_else_from_home():
    again = replace(OPERATOR, kv_reread_bytes=2e9)
    _, moved = memory_times(again, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    assert moved["hbm"] == WEIGHTS + READ + WRITTEN
    assert moved["l2"] == WEIGHTS + READ + WRITTEN + PASSING + 2e9
    _, moved = memory_times(again, placed({"sram": 1.0}, {"sram": 0.75, "lpddr": 0.25}), CORSAIR)
    assert moved["lpddr"] == pytest.approx(0.25 * (READ + WRITTEN + 2e9), rel=1e-15)
    assert moved["sram"] == pytest.approx(WEIGHTS + READ + WRITTEN + 2e9 + PASSING, rel=1e-15)


def test_of_two_caches_the_last_serves_repeated_reads_through_the_nearer():
    chip = load_hardware("mi300x")
    _, moved = memory_times(replace(OPERATOR, kv_reread_bytes=2e9), placed({"hbm": 1.0}, {"hbm": 1.0}), chip)
    home = WEIGHTS + READ + WRITTEN
    assert (moved["hbm"], moved["infinity_cache"]) == (home, home + 2e9)
    assert moved["l2"] == home + 2e9 + PASSING


def test_shares_in_two_homes_are_read_one_after_another_and_the_slower_home_binds():
    chip = with_rates(SN40L, sram=1e14, hbm=1e12, ddr=1e11)
    seconds, moved = memory_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 0.75, "ddr": 0.25}), chip)
    far, near = 0.25 * (READ + WRITTEN), WEIGHTS + 0.75 * (READ + WRITTEN)
    assert (moved["ddr"], moved["hbm"]) == (pytest.approx(far, rel=1e-15), pytest.approx(near + far, rel=1e-15))
    assert seconds["ddr"] == pytest.approx(far / 1e11 + near / 1e12, rel=1e-12)  # both, one after the other
    assert seconds["hbm"] == pytest.approx((near + far) / 1e12, rel=1e-12)
    quick = with_rates(SN40L, sram=1e14, hbm=1e12, ddr=1e12)
    seconds, _ = memory_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 0.75, "ddr": 0.25}), quick)
    assert seconds["ddr"] == pytest.approx(far / 1e12, rel=1e-12)


def test_a_level_without_a_rate_is_refused_only_where_it_is_read():
    blind = replace(SN40L, memory=tuple(replace(level, bandwidth_bytes_per_s=None) if level.name == "ddr" else level
                                        for level in SN40L.memory))
    seconds, _ = memory_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 1.0, "ddr": 0.0}), blind)
    assert "ddr" not in seconds
    nothing = replace(OPERATOR, weight_bytes=0.0, kv_read_bytes=np.array([0.0]), kv_write_bytes=np.array([0.0]))
    memory_times(nothing, placed({"hbm": 1.0}, {"hbm": np.array([0.5]), "ddr": np.array([0.5])}), blind)
    with pytest.raises(UserError, match=r"memory\.ddr\.bandwidth"):  # at one of two points
        memory_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": np.array([1.0, 0.5]), "ddr": np.array([0.0, 0.5])}), blind)
    for bytes_ in (0.5, 5e9):  # half a byte is read, too
        with pytest.raises(UserError, match=r"memory\.ddr\.bandwidth"):
            memory_times(replace(OPERATOR, kv_read_bytes=bytes_, kv_write_bytes=0.0),
                         placed({"hbm": 1.0}, {"hbm": 0.5, "ddr": 0.5}), blind)


def test_a_launch_is_latency_and_the_highest_roof_has_the_rest():
    times = operator_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    launch_s = H100.overheads.kernel_launch_s
    assert launch_s > 0
    assert times.cause_s[LATENCY] == launch_s
    assert times.cause_s["hbm"] == times.level_s["hbm"]
    assert times.total_s == launch_s + times.level_s["hbm"]


@pytest.mark.parametrize(("compute_share", "load_share", "binding"), [
    (1.0, 0.0, "hbm"), (1.04, 0.0, "hbm"), (1.1, 0.0, "compute"), (1.0, 1.04, "hbm"), (1.2, 1.2, "load_path"),
    (1.2, 1.16, "load_path"), (1.2, 1.1, "compute"), (0.0, 1.1, "load_path")])
def test_of_roofs_within_five_percent_memory_binds_before_the_load_path_and_that_before_arithmetic(
        compute_share, load_share, binding):
    """Rates are calibrated to a few per cent: a kernel at 96 % of its memory's bandwidth is bound by that memory."""
    times = operator_times(OPERATOR, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    hbm_s = times.level_s["hbm"]
    even = replace(times, compute_s=compute_share * hbm_s, unit_s={LOAD_PATH: load_share * hbm_s})
    causes = {name: float(seconds) for name, seconds in even.cause_s.items() if name != LATENCY and seconds > 0}
    assert causes == {binding: pytest.approx(hbm_s * max(1.0, compute_share, load_share), rel=1e-12)}
    assert float(sum(even.cause_s.values())) == pytest.approx(float(even.total_s), rel=1e-12)


def test_a_load_path_that_holds_a_kernel_below_its_memory_is_neither_latency_nor_arithmetic():
    """Half of H100's bytes in flight: one wave of items streams at half the rate, and says so; set-up is latency."""
    narrow = replace(H100, kernel=replace(
        H100.kernel, load_bytes_per_cycle_per_unit=H100.kernel.load_bytes_per_cycle_per_unit / 2))
    step = build_step(workload_of("llama-2-70b", "gqa-8", batch=33.0, kv_len=65536.0))
    (core,) = step.attention_operators
    times = operator_times(core, placed({"hbm": 1.0}, {"hbm": 1.0}), narrow)
    causes = {name: float(seconds) / float(times.total_s) for name, seconds in times.cause_s.items()}
    assert causes[LOAD_PATH] > 0.9
    assert causes["compute"] == causes["hbm"] == 0.0
    timing = evaluate(step, placed({"hbm": 1.0}, {"hbm": 1.0}), narrow)
    assert (timing.bound, timing.attention_bound) == (LOAD_PATH, LOAD_PATH)


def test_a_step_moves_and_takes_what_its_operators_do_one_by_one():
    step = build_step(workload_of("llama-2-7b", "mqa", batch=2.0, kv_len=300.0, tp=2))
    where = placed({"hbm": 1.0}, {"hbm": 1.0})
    timing, moved, waited = evaluate(step, where, H100), dict.fromkeys(("smem", "l2", "hbm"), 0.0), 0.0
    for operator in step.operators:
        one = operator_times(operator, where, H100)
        waited += operator.count * float(one.total_s)
        for name, bytes_ in one.level_bytes.items():
            moved[name] += operator.count * float(bytes_)
    assert {name: float(bytes_) for name, bytes_ in timing.level_bytes.items()} == moved
    links_s = sum(item.count * float(collective_time_s(item, H100.scale_up)) for item in step.collectives
                  if item.name != "stage_hop")
    assert float(timing.step_time_s) == pytest.approx(waited + links_s + H100.overheads.step_s, rel=1e-12)
    assert float(timing.cause_time_s["link"]) == pytest.approx(links_s, rel=1e-12)
    assert links_s > 0


def test_stages_of_unequal_length_wait_for_the_longest():
    """80 layers on 3 stages: 27 at the slowest, so that 80 layers take as long as 81, and the rest is latency."""
    where = placed({"hbm": 1.0}, {"hbm": 1.0})
    chip = replace(H100, overheads=replace(H100.overheads, step_s=1e-3))
    timing = evaluate(build_step(workload_of("llama-2-70b", "gqa-8", batch=6.0, pp=3)), where, chip)
    busy = float(timing.step_time_s) - 1e-3
    assert float(timing.operator_time_s["pipeline_wait"]) == pytest.approx(busy / 81, rel=1e-12)
    assert float(sum(np.asarray(time) for time in timing.cause_time_s.values())) == pytest.approx(float(timing.step_time_s), rel=1e-12)


def test_a_measured_kernel_is_never_faster_than_a_slow_cache_behind_it():
    slow = with_rates(H100, l2=1e11)
    (core,) = build_step(workload_of("llama-2-7b", batch=4.0)).attention_operators
    times = operator_times(core, placed({"hbm": 1.0}, {"hbm": 1.0}), slow)
    assert float(times.extra_s) == 0.0
    assert float(times.total_s) == float(times.launch_s) + float(times.level_s["l2"])


@pytest.mark.parametrize("slow", ["special_ops_per_s", "vector_peak_flop_per_s"])
def test_a_measured_kernel_is_never_faster_than_its_arithmetic(slow):
    compute = replace(H100.compute, **{slow: 1e9, "matrix_peak_flop_per_s": {"bf16": 1e11}})
    (core,) = build_step(workload_of("llama-2-7b", batch=4.0)).attention_operators
    times = operator_times(core, placed({"hbm": 1.0}, {"hbm": 1.0}), replace(H100, compute=compute))
    highest_s = max(float(times.compute_s), float(times.special_s))
    assert float(times.total_s) == pytest.approx(float(times.launch_s) + max(highest_s, *map(float, times.unit_s.values())), rel=1e-12)


def test_a_core_that_waits_for_its_nearest_cache_waits_for_nothing_twice():
    cpu = load_hardware("epyc-9654-2s", overrides={"memory.l2.bandwidth": "1 MB/s"})
    (core,) = build_step(workload_of("llama-2-7b", "mqa", batch=4.0)).attention_operators
    times = operator_times(core, placed({"ddr": 1.0}, {"ddr": 1.0}), cpu, alone=True)
    assert float(times.highest_roof_s) == float(times.level_s["l2"])
    assert float(times.extra_s) == 0.0


def test_vector_work_counts_what_widening_the_cache_takes_unless_the_matrix_unit_takes_it_as_it_is():
    rate = H100.compute.vector_peak_flop_per_s
    for dtype, flops in (("int4", 4e9), ("fp8", 1e9)):
        work = replace(OPERATOR, matrix_flops=1e6, query_rows=64, vector_flops=1e9, unpack_flops=3e9, cache_dtype=dtype)
        assert compute_time_s(work, H100) == pytest.approx(flops / rate, rel=1e-12)


def test_a_quantised_cache_is_unpacked_or_streamed_as_16_bits_whatever_takes_less():
    """GroqChip's vector lanes are too slow to unpack what its SRAM reads: a compiler converts on the way in."""
    groq = load_hardware("groq-lpu")
    where = placed({"sram": 1.0}, {"sram": 1.0})
    rate, sram = groq.compute.vector_peak_flop_per_s, groq.level("sram").achievable_bytes_per_s
    work = Operator(name="attention", count=1, matrix_flops=1e3, kv_read_bytes=sram * 0.25, unpack_flops=rate * 9.0,
                    widened_read_bytes=sram * 1.0)
    assert float(compute_time_s(work, groq, where)) == pytest.approx(1.0, rel=1e-12)
    assert float(compute_time_s(replace(work, unpack_flops=rate * 0.5), groq, where)) == pytest.approx(0.5, rel=1e-12)
    assert float(compute_time_s(work, groq)) == pytest.approx(9.0, rel=1e-6)  # nobody said where the cache is


@pytest.mark.parametrize("chip", ["groq-lpu", "cerebras-wse3", "dmatrix-corsair", "sambanova-sn40l", "tpu-v5e", "gaudi3",
                                  "generic-sram-asic", "trainium2", "mi300x", "graphcore-mk2"])
@pytest.mark.parametrize("layout", ["mha", "gqa-8", "mqa"])
def test_a_reducer_of_bytes_never_makes_attention_slower_than_doing_without(chip, layout):
    hardware, times = load_hardware(chip), {}
    home = hardware.main_memory.name
    for dtype in ("bf16", "fp8", "int8", "int4", "int4-g128", "int2-channel/int2"):
        workload = parse_scenario(kv_dtype=dtype).workload(
            hardware, load_model("llama-2-70b"), parse_layout(layout, load_model("llama-2-70b")), batch=16.0, kv_len=4096.0,
            q_len=1.0, machine=Machine(chips=8.0, tp=8.0, pp=1.0))
        timing = evaluate(build_step(workload), placed({home: 1.0}, {home: 1.0}), hardware)
        times[dtype] = float(timing.attention_time_s)
    assert max(times.values()) <= times["bf16"] * (1 + 1e-12), times


def test_of_equal_causes_the_first_is_named():
    account = Account(cause_time_s={"compute": 1.0, "hbm": 2.0, "link": 2.0}, operator_cause_s={},
                      attention_cause_time_s={"hbm": 0.5, "latency": 0.5},
                      level_bytes={"hbm": 3.0})
    timing = StepTiming(step_time_s=5.0, attention_time_s=1.0, operator_time_s={"attention": 1.0}, account=lambda: account)
    assert (timing.bound, timing.attention_bound) == ("hbm", "hbm")
    both = timing.plus("draft", timing, 3.0)
    assert both.step_time_s == 20.0
    assert (both.operator_time_s["draft"], both.attention_time_s) == (15.0, 1.0)
    assert both.cause_time_s == {"compute": 4.0, "hbm": 8.0, "link": 8.0}
    assert both.level_bytes == {"hbm": 12.0}
    assert both.attention_cause_time_s == account.attention_cause_time_s


def need(weights, per_sequence, batch, ways=1.0):
    return Demand(weight_bytes=weights, kv_bytes_per_sequence=per_sequence, kv_bytes=per_sequence * batch, batch_ways=ways)


def test_weights_fill_the_nearest_home_first_and_the_cache_what_is_left():
    """SN40L has 64 GB of HBM and 1500 GB of DDR behind it, which only those take who open it."""
    closed = place(need(40e9, 1e9, 30), SN40L, overflow=False)
    assert (closed.weights, closed.kv) == ({"hbm": 1.0}, {"hbm": 1.0})
    assert (bool(closed.fits), float(closed.max_batch)) == (False, 24.0)
    opened = place(need(40e9, 1e9, 30), SN40L, overflow=True)
    assert opened.weights == {"hbm": 1.0, "ddr": 0.0}
    assert opened.kv == {"hbm": pytest.approx(24 / 30), "ddr": pytest.approx(6 / 30)}
    assert (bool(opened.fits), float(opened.max_batch)) == (True, 1524.0)
    spilt = place(need(80e9, 1e9, 2), SN40L, overflow=True)
    assert spilt.weights == {"hbm": pytest.approx(0.8), "ddr": pytest.approx(0.2)}
    assert spilt.kv == {"hbm": 0.0, "ddr": 1.0}
    some = place(need(np.array([40e9, 40e9]), 1e9, 30), SN40L, overflow=np.array([False, True]))
    assert some.fits.tolist() == [False, True]
    assert some.max_batch.tolist() == [24.0, 1524.0]


def test_what_fills_memory_to_the_last_byte_fits_and_one_more_sequence_does_not():
    full = place(need(4e9, 0.6e9, 100), SN40L, overflow=False)
    assert (bool(full.fits), float(full.max_batch)) == (True, 100.0)
    assert not place(need(4e9, 0.6e9, 101), SN40L, overflow=False).fits
    heavy = place(need(65e9, 1e9, 1), SN40L, overflow=False)
    assert (bool(heavy.fits), float(heavy.max_batch)) == (False, 0.0)
    assert place(need(0.0, 0.5, 1), SN40L, overflow=False).weights == {"hbm": 0.0}


def test_the_last_digit_of_a_sum_does_not_keep_a_cache_out():
    for over, fits in ((1e-14, True), (1e-10, False)):
        assert bool(place(need(4e9, 60e9 * (1 + over), 1), SN40L, overflow=False).fits) == fits


def test_a_batch_dealt_to_chips_fills_them_in_whole_rounds():
    dealt = place(need(4e9, 0.6e9 / 8, 96, ways=8.0), SN40L, overflow=False)
    assert float(dealt.max_batch) == 800.0
    odd = place(need(4e9, 0.7e9, 8, ways=8.0), SN40L, overflow=False)
    assert float(odd.max_batch) == 80.0  # 10.7 rounds of eight


def test_the_fullest_chip_of_llama_2_70b_on_four_by_three():
    """80 layers over 3 stages: 27 on the fullest, a quarter of each, and one of the two ends of the vocabulary."""
    found = demand(workload_of("llama-2-70b", "gqa-8", batch=6.0, kv_len=1000.0, tp=4, pp=3))
    layer = 2 * 8192 * 128 * (64 + 8) + 3 * 8192 * 28672
    assert found.weight_bytes == pytest.approx(2 * (27 * layer + 32000 * 8192) / 4, rel=1e-12)
    assert found.kv_bytes_per_sequence == pytest.approx(27 * 2 * 1000 * (2 * 128) * 2, rel=1e-12)
    assert found.kv_bytes == pytest.approx(6 * found.kv_bytes_per_sequence, rel=1e-15)
    two = demand(workload_of("llama-2-70b", "gqa-8", batch=6.0, kv_len=1000.0, pp=2))
    assert two.weight_bytes == pytest.approx(2 * (40 * layer + 32000 * 8192), rel=1e-12)
    whole = demand(workload_of("llama-2-70b", "gqa-8", batch=6.0, kv_len=1000.0))
    assert whole.weight_bytes == pytest.approx(2 * (80 * layer + 2 * 32000 * 8192), rel=1e-12)


def test_a_static_machine_cuts_layers_and_ends_evenly():
    found = demand(workload_of("llama-2-70b", "gqa-8", batch=6.0, kv_len=1000.0, tp=4, pp=3, static=True))
    layer = 2 * 8192 * 128 * (64 + 8) + 3 * 8192 * 28672
    assert found.weight_bytes == pytest.approx(2 * (80 * layer + 2 * 32000 * 8192) / 12, rel=1e-12)
    assert found.kv_bytes_per_sequence == pytest.approx(80 * 8 * 1000 * (2 * 128) * 2 / 12, rel=1e-12)


def test_a_batch_sharded_cache_is_held_in_begun_rounds():
    found = demand(workload_of("llama-2-70b", "mqa", batch=10.0, kv_len=1000.0, tp=4, sharding="batch"))
    assert found.batch_ways == 4.0
    assert found.kv_bytes_per_sequence == pytest.approx(80 * 1000 * (2 * 128) * 2 / 4, rel=1e-12)
    assert found.kv_bytes == pytest.approx(12 * found.kv_bytes_per_sequence, rel=1e-15)
    both = found.plus(Demand(weight_bytes=5.0, kv_bytes_per_sequence=7.0, kv_bytes=9.0, batch_ways=2.0))
    assert (both.weight_bytes, both.kv_bytes) == (found.weight_bytes + 5.0, found.kv_bytes + 9.0)
    assert both.kv_bytes_per_sequence == found.kv_bytes_per_sequence + 7.0
    assert both.batch_ways == 4.0


def test_cores_of_a_cpu_wait_only_in_kernels_that_are_timed_alone():
    cpu = load_hardware("epyc-9654-2s")
    step = build_step(workload_of("llama-2-7b", "mqa", batch=4.0))
    (core,) = step.attention_operators
    home = cpu.main_memory.name
    in_step, alone = (operator_times(core, placed({home: 1.0}, {home: 1.0}), cpu, alone=one) for one in (False, True))
    assert float(in_step.extra_s) == 0.0
    assert float(alone.extra_s) > 0.0
    assert operator_times(replace(core, attention=None), placed({home: 1.0}, {home: 1.0}), cpu, alone=True).extra_s == 0.0


def test_a_short_kernel_adds_to_latency_what_no_roof_explains():
    (core,) = build_step(workload_of("llama-2-7b", "mqa", batch=1.0, kv_len=300.0)).attention_operators
    times = operator_times(core, placed({"hbm": 1.0}, {"hbm": 1.0}), H100)
    assert float(times.extra_s) > 0
    assert float(sum(times.cause_s.values())) == pytest.approx(float(times.total_s), rel=1e-12)


@pytest.mark.parametrize(("chip", "home"), [
    (H100, "hbm"), (load_hardware("epyc-9654-2s", overrides={"memory.l3.bandwidth": "2 TB/s"}), "ddr")])
def test_a_kernel_that_loops_alone_finds_its_cache_warm(chip, home):
    (core,) = build_step(workload_of("llama-2-7b", batch=1.0, kv_len=300.0)).attention_operators
    cold, warm = (operator_times(core, placed({home: 1.0}, {home: 1.0}), chip, start=start) for start in ("cold", "warm"))
    assert float(cold.level_bytes[home]) >= core.kv_read_bytes
    assert float(warm.level_bytes[home]) == pytest.approx(0.0, abs=1e-6 * core.kv_read_bytes)
    assert float(warm.total_s) < float(cold.total_s)


def test_exponentials_cost_nothing_where_nobody_gives_their_rate():
    blind = replace(H100, compute=replace(H100.compute, special_ops_per_s=None))
    assert special_function_time_s(replace(OPERATOR, exponentials=1e9), blind) == 0.0
    assert special_function_time_s(replace(OPERATOR, exponentials=1e9), H100) == 1e9 / H100.compute.special_ops_per_s
