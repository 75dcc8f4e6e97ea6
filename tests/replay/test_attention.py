"""An attention operator's replay, its parts put together by hand: the account of time, bytes at each level, the combine pass."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.replay import attention
from simkit.replay.attention import replay_attention
from simkit.replay.engine import task_of
from simkit.replay.kernel_choice import combining_s, parameters_of
from simkit.replay.kernel_plan import plan_kernels
from simkit.replay.steady_state import KernelLoop, Run
from simkit.replay.target import target_of
from simkit.step.placement import Placement
from simkit.timing.roofs import compute_time_s, special_function_time_s
from tests.replay.cases import attention_operator, in_home, kernel_loop, replay


def moved(loop, home_share=1.0):
    """1000 distinct bytes of the cache and 7 of activations at each level."""
    return attention._moved({"l2": 1007.0, "hbm": 1007.0}, loop.target, loop, home_share, 1000.0)


def test_a_cold_cache_moves_every_byte_once_beside_the_activations():
    assert moved(kernel_loop((1000,), cache=1e12)) == {"l2": 1007.0, "hbm": 1007.0}


def test_a_warm_cache_keeps_its_share_from_the_home():
    assert moved(kernel_loop((1000,), cache=1e12, hit_share=0.25)) == {"l2": 1007.0, "hbm": 757.0}


def test_repeated_reads_pass_the_cache_and_reach_the_home_as_often_as_it_forgot():
    """Three readers of 1000 bytes; the home saw 1.5 times the bytes, of which a quarter hit."""
    loop = kernel_loop((1000,) * 3, stream=(0, 0, 0), cache=1e12)
    assert moved(loop, home_share=1.5) == {"l2": 3007.0, "hbm": 1507.0}
    loop = kernel_loop((1000,) * 3, stream=(0, 0, 0), cache=1e12, hit_share=0.25)
    assert moved(loop, home_share=1.5) == {"l2": 3007.0, "hbm": 1507.0 - 375.0}


def combined(loop, partial_bytes):
    server, seconds = attention._combine(replace(loop.plan, combine_bytes=partial_bytes), loop.target)
    return server.name, seconds


def test_partial_results_pass_the_nearest_shared_level_twice_in_latency():
    loop = kernel_loop(cache=1e9, cache_latency_s=1e-6, latency_s=5e-6)
    assert combined(loop, 2000.0) == ("l2", pytest.approx(2e-6 + 2e-6))
    assert combined(loop, 0.0) == ("l2", 0.0)


def test_partial_results_pass_no_level_of_a_single_unit_and_none_whose_rate_is_unknown():
    loop = kernel_loop(cache=np.inf, latency_s=1e-6)
    assert combined(loop, 2000.0) == ("hbm", pytest.approx(2e-6 + 2e-6))
    own = kernel_loop(per_unit=True)
    assert combined(own, 2000.0)[0] == "hbm"  # there is no other
    both = replace(kernel_loop(cache=1e9).target)
    path = (replace(both.path[0], per_unit=True), both.path[1])
    assert attention._combine(replace(loop.plan, combine_bytes=2000.0), replace(both, path=path))[0].name == "hbm"


def put_together(monkeypatch, chip="h100-sxm", layout="gqa-8", batch=4, kv_len=2048, *, start="cold", alone=False,
                 could_win_s=np.inf, recorded=0, run=None, **scenario):
    """One plan with a run of known stalls: (replay, plan, parameters, operator, task, machine, the loop it was given)."""
    hardware = load_hardware(chip)
    home = hardware.main_memory.name
    target = target_of(hardware, home)
    operator = attention_operator(layout, batch, kv_len, **scenario)
    task = task_of(operator)
    parameters = parameters_of(task, hardware, target.home) if target.schedule == "dispatched" else None
    hit_share = 0.0 if start == "cold" else 0.75
    target = attention._as_measured(target, parameters)
    plan = plan_kernels(operator, task, target, parameters=parameters, hit_share=hit_share, alone=alone)[0]
    loops = []

    def known(loop, **_):
        loops.append(loop)
        return run or Run(
            kernel_s=1.0, stalls=np.array([1.0, 2.0, 4.0, 8.0, 16.0, 3.0, 5.0, *(32.0 * (i + 1) for i in range(len(target.path)))]),
            home_share=1.0, replayed_fraction=0.5, bound_s=0.25, replayed_s=0.5, binned_bytes=np.zeros((0, 0)))

    monkeypatch.setattr(KernelLoop, "run", known)
    found = attention._replay_plan(
        target, plan, operator, task, in_home(home), parameters=parameters, hit_share=hit_share, could_win_s=could_win_s,
        alone=alone, exact=False, most_events=1, most_recorded_items=recorded, bins=0)
    return found, plan, parameters, operator, task, target, (loops or [None])[0]


def test_the_account_adds_launch_latency_arithmetic_imbalance_and_each_level(monkeypatch):
    found, plan, parameters, _, task, target, _ = put_together(monkeypatch)
    chip = target.hardware
    stalls = dict(found.stall_s)
    assert stalls.pop("launch") == chip.overheads.kernel_launch_s
    row_elements = task.sequences * task.kv_heads * task.query_rows * task.value_dim
    beside = combining_s(row_elements, plan.cut, parameters) + plan.unit.rows_s + attention._ramp_s(parameters)
    assert stalls.pop("latency") == pytest.approx(1 + 2 + beside, rel=1e-12)
    assert stalls.pop("imbalance") == 16.0
    levels = {server.name: 32.0 * (i + 1) for i, server in enumerate(target.path)}
    assert {name: stalls.pop(name) for name in levels} == levels
    assert stalls.pop("load_path") == 3.0 + 5.0
    ((busiest, seconds),) = stalls.items()
    assert seconds == 4.0 + 8.0
    assert found.total_s == pytest.approx(sum(found.stall_s.values()), rel=1e-15)
    assert found.cause_s["latency"] == pytest.approx(found.stall_s["launch"] + found.stall_s["latency"] + 16.0, rel=1e-15)
    assert set(found.cause_s) == {"latency", "load_path", busiest, *levels}
    assert sum(found.cause_s.values()) == pytest.approx(found.total_s, rel=1e-15)
    assert (found.extrapolation_bound_s, found.replayed_fraction, found.replayed_s) == (0.25, 0.5, 0.5)
    assert (found.items, found.units, found.splits) == (plan.items, 132, plan.splits)
    assert found.cycles == pytest.approx(found.total_s * chip.compute.clock_hz, rel=1e-15)


def test_a_warm_cache_saves_the_ramp_of_what_it_serves(monkeypatch):
    cold, *_ = put_together(monkeypatch)
    warm, _, parameters, *_ = put_together(monkeypatch, start="warm")
    assert cold.stall_s["latency"] - warm.stall_s["latency"] == pytest.approx(0.75 * attention._ramp_s(parameters), rel=1e-9)


def test_a_kernel_timed_alone_pays_its_own_floor_for_every_launch(monkeypatch):
    found, plan, *_ = put_together(monkeypatch, alone=True)
    assert found.stall_s["launch"] == plan.unit.floor_s
    found, _, _, operator, _, target, _ = put_together(monkeypatch, alone=True, chip="mi300x", attention_kernel="unfused")
    assert operator.launches == 3
    assert found.stall_s["launch"] == 3 * target.hardware.overheads.kernel_launch_s  # no floor was measured


def test_the_busiest_arithmetic_is_named_and_given_to_the_loop(monkeypatch):
    for chip, dtype in (("h100-sxm", "bf16"), ("mi300x", "bf16"), ("l40s", "fp8")):
        found, _, _, operator, _, target, loop = put_together(monkeypatch, chip=chip, kv_dtype=dtype)
        times = {"compute": float(compute_time_s(operator, target.hardware)),
                 "special_function": float(special_function_time_s(operator, target.hardware))}
        busiest = max(times, key=times.get)
        assert found.stall_s[busiest] == 12.0
        assert loop.compute_s == times[busiest]
        assert found.utilisation[busiest] == pytest.approx(times[busiest] / found.total_s, rel=1e-12)


def test_levels_are_busy_for_their_bytes_at_their_rate(monkeypatch):
    found, _, parameters, operator, _, target, loop = put_together(monkeypatch)
    for server in target.path:
        assert found.utilisation[server.name] == pytest.approx(
            found.level_bytes[server.name] / server.bytes_per_s / found.total_s, rel=1e-12)
    assert found.level_bytes["hbm"] == pytest.approx(float(operator.kv_read_bytes), rel=1e-12)
    # What is not the cache's own passes its level beside it: queries and outputs, which the shared cache holds.
    assert loop.extra_bytes[target.cache_server] == float(operator.activation_bytes)
    assert loop.exposed_setup_share == parameters.kernel.exposed_setup_fraction
    assert found.path == tuple(server.name for server in target.path)


def test_an_unmeasured_kernel_s_combine_pass_is_its_level_s_time(monkeypatch):
    found, plan, _, _, _, target, loop = put_together(monkeypatch, chip="mi300x", layout="mqa")
    assert plan.combine_bytes > 0
    through, seconds = attention._combine(plan, target)
    place = [server.name for server in target.path].index(through.name)
    assert found.stall_s[through.name] == pytest.approx(32.0 * (place + 1) + seconds, rel=1e-15)
    assert found.stall_s["latency"] == 1.0 + 2.0
    assert loop.exposed_setup_share == 0.0


def test_what_cannot_win_is_not_run(monkeypatch):
    found, *_, loop = put_together(monkeypatch, could_win_s=1e-9)
    assert (found, loop) == (None, None)


def test_what_takes_exactly_the_best_time_is_run(monkeypatch):
    *_, loop = put_together(monkeypatch)
    found, *_ = put_together(monkeypatch, could_win_s=loop.least_s)
    assert found is not None


def test_a_profile_without_a_clock_counts_no_cycles():
    chip = load_hardware("mi300x")
    silent = replace(chip, compute=replace(chip.compute, clock_hz=None))
    assert replay(silent, "gqa-8", 1, 64).cycles is None
    assert replay(chip, "gqa-8", 1, 64).cycles == pytest.approx(replay(chip, "gqa-8", 1, 64).total_s * chip.compute.clock_hz)


def test_recorded_items_carry_their_whole_length():
    """16 sequences of 8 : 1 : 1 : 1 on a chip of 608 slots: 1024 items, each recorded once, the longest dispatched first."""
    found = replay("mi300x", "mha", 16, 300, attention_kernel="grouped-unsplit", lengths="8,1,1,1",
                   options={"most_recorded_items": 2000, "exact": True})
    assert len(found.events) == len(found.event_tokens) == 16 * 64
    assert sorted(found.events[:, 1]) == list(range(16 * 64))
    assert found.event_tokens[found.events[:, 1] < 256].tolist() == [873] * 256  # 8/11 of four times 300
    assert set(found.event_tokens[found.events[:, 1] >= 256]) == {109}
    few = replay("mi300x", "mha", 4, 300, options={"most_recorded_items": 10, "exact": True})
    assert len(few.events) == len(few.event_tokens) == 10
    assert len(replay("mi300x", "mha", 4, 300).events) == 0


def test_a_level_that_holds_nothing_is_not_replayed():
    chip = load_hardware("sambanova-sn40l")
    operator = attention_operator("gqa-8", 2, 1024)

    def where(**shares):
        return Placement(weights={"hbm": 1.0}, kv=shares, fits=True, max_batch=0)

    alone = replay_attention(operator, task_of(operator), where(hbm=1.0), chip)
    found = replay_attention(operator, task_of(operator), where(ddr=0.0, hbm=1.0), chip)
    assert (found.total_s, found.path) == (alone.total_s, alone.path)
    # A cache that nothing holds (no tokens) lives where it would be looked for first.
    assert replay_attention(operator, task_of(operator), where(hbm=0.0), chip).total_s == alone.total_s


def test_a_kernel_runs_within_a_step_and_is_followed_when_long_unless_told_otherwise():
    plain, floor = replay("h100-sxm", "mha", 32, 32768), replay("h100-sxm", "mha", 32, 32768, options={"alone": True})
    assert plain.stall_s["launch"] == load_hardware("h100-sxm").overheads.kernel_launch_s < floor.stall_s["launch"]
    assert plain.replayed_fraction < 1.0
    assert replay("h100-sxm", "mha", 4, 1024, options={"exact": True}).replayed_fraction == 1.0
