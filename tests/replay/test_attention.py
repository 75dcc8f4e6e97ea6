"""An attention operator's replay: its parts put together by hand, and which of several runs is kept."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.decode.arithmetic import compute_time_s, special_function_time_s
from simkit.decode.placement import Placement
from simkit.hardware.catalog import load_hardware
from simkit.replay import attention, timeline
from simkit.replay.attention import AttentionReplay, replay_attention
from simkit.replay.dram_pattern import PatternRate
from simkit.replay.engine import task_of
from simkit.replay.kernel_choice import partial_elements
from simkit.replay.kernel_plan import plan_kernels
from simkit.replay.machine import machine_of
from simkit.replay.steady_state import KernelLoop, Run
from simkit.replay.unit_kernel import figures_of
from tests.replay.cases import attention_operator, in_home, kernel_loop, replay


def result(total_s=1.0, bound_s=0.0, **fields):
    """A replay of nothing but its time."""
    found = AttentionReplay(
        total_s=total_s, stall_s={"latency": total_s}, level_bytes={}, utilisation={}, row_hit_fraction=None,
        home_rate_fraction=1.0, cycles=None, items=1, units=1, splits=1.0, replayed_fraction=1.0,
        extrapolation_bound_s=bound_s, path=(), replayed_s=total_s, binned_bytes=np.zeros((0, 0)),
        events=np.zeros((0, timeline.EVENT_COLUMNS)), event_tokens=np.zeros(0, dtype=np.int64))
    return replace(found, **fields)


# --- bytes at each level


def moved(loop, home_share=1.0):
    """1000 distinct bytes of the cache and 7 of activations at each level."""
    return attention._moved({"l2": 1007.0, "hbm": 1007.0}, loop.machine, loop, home_share, 1000.0)


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


# --- the combine pass of kernels that nobody measured


def combined(loop, partial_bytes):
    server, seconds = attention._combine(replace(loop.plan, combine_bytes=partial_bytes), loop.machine)
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
    both = replace(kernel_loop(cache=1e9).machine)
    path = (replace(both.path[0], per_unit=True), both.path[1])
    assert attention._combine(replace(loop.plan, combine_bytes=2000.0), replace(both, path=path))[0].name == "hbm"


# --- the machine as measured kernels find it


def test_a_page_number_is_waited_for_once_an_item_unless_kernels_were_timed_with_it():
    task = task_of(attention_operator("gqa-8", 1, 64, page=16))
    gpu, chip = load_hardware("mi300x"), load_hardware("h100-sxm")
    machine = replace(machine_of(gpu, "hbm"), item_setup_s=1e-6)
    paged = attention._with_page_table(machine, task, None)
    assert paged.item_setup_s == pytest.approx(1e-6 + machine.path[-1].latency_s, rel=1e-12)
    assert attention._with_page_table(machine, replace(task, page=2), None) != machine
    assert attention._with_page_table(machine, replace(task, page=1), None) == machine
    timed = machine_of(chip, "hbm")
    assert attention._with_page_table(timed, task, figures_of(task, chip, timed.home)) == timed
    static = machine_of(load_hardware("sambanova-sn40l"), "hbm")
    assert attention._with_page_table(static, task, None) == static


def test_measured_kernels_reach_their_share_of_the_peak_and_of_the_cache():
    chip = load_hardware("h100-sxm")
    machine, task = machine_of(chip, "hbm"), task_of(attention_operator("gqa-8", 1, 64))
    figures = figures_of(task, chip, machine.home)
    assert attention._as_measured(machine, None) is machine
    found = attention._as_measured(machine, replace(figures, kernel=replace(
        figures.kernel, dram_achieved_fraction=0.5, cache_bytes_per_cycle_per_unit=1.0)))
    assert found.path[-1].bytes_per_s == 0.5 * chip.level("hbm").bandwidth_bytes_per_s
    assert found.path[machine.cache_server].bytes_per_s == pytest.approx(132 * chip.compute.clock_hz, rel=1e-12)
    assert [server.name for server in found.path] == [server.name for server in machine.path]
    # Neither is raised above what the level itself reaches.
    high = attention._as_measured(machine, replace(figures, kernel=replace(
        figures.kernel, dram_achieved_fraction=2.0, cache_bytes_per_cycle_per_unit=1e9)))
    assert high == machine
    # Another level than the main memory was not measured; a machine without a cache has none to measure.
    elsewhere = replace(machine, home=replace(machine.home))
    assert attention._as_measured(elsewhere, figures).path[-1] == machine.path[-1]
    bare = replace(machine, cache=None, path=machine.path[-1:])
    assert len(attention._as_measured(bare, figures).path) == 1


def test_a_slot_s_buffers_are_the_profile_s_or_what_a_measured_unit_loads_in_a_latency():
    task = task_of(attention_operator("gqa-8", 1, 64))
    gpu = machine_of(load_hardware("mi300x"), "hbm")
    assert attention._in_flight_bytes(gpu, task) == gpu.outstanding_bytes_per_slot
    measured = machine_of(load_hardware("h100-sxm"), "hbm")
    figures = figures_of(task, measured.hardware, measured.home)
    own = figures.load_bytes_per_s * figures.dram_latency_s
    assert attention._in_flight_bytes(replace(measured, outstanding_bytes_per_slot=1e12), task) == own
    assert attention._in_flight_bytes(replace(measured, outstanding_bytes_per_slot=1e12, load_fraction=0.25), task) == own / 4
    assert attention._in_flight_bytes(replace(measured, outstanding_bytes_per_slot=10.0), task) == 10.0
    static = machine_of(load_hardware("groq-lpu"), "sram")
    assert attention._in_flight_bytes(static, task) == np.inf


# --- what the home's banks see


def asked(monkeypatch, chip, layout, batch=2, kv_len=4096, home=None, **scenario):
    """The pattern that the DRAM model is asked about."""
    patterns = []
    monkeypatch.setattr(attention, "pattern_rate", lambda level, pattern: patterns.append((level.name, pattern)) or PatternRate(
        fraction=1.0, row_hit_fraction=1.0))
    replay(chip, layout, batch, kv_len, home=home, **scenario)
    return patterns[0]


def test_the_memory_sees_keys_and_values_of_all_running_items(monkeypatch):
    """16 sequences of 64 heads are 1024 items, of which 2 run on each of 304 units; 256 bytes of a key, tiles of 64 tokens."""
    name, pattern = asked(monkeypatch, "mi300x", "mha", batch=16)
    assert name == "hbm"
    assert pattern.streams == 2 * 2 * 304
    assert pattern.run_bytes == pattern.stride_bytes == 64 * 256
    assert pattern.footprint_bytes == 2 * 16 * 64 * 4096 * 256  # a power of two by itself
    assert pattern.neighbours == 1
    assert asked(monkeypatch, "mi300x", "mqa", batch=2, attention_kernel="grouped-unsplit")[1].streams == 2 * 2


def test_short_items_pages_and_token_major_caches_are_read_in_shorter_runs(monkeypatch):
    assert asked(monkeypatch, "mi300x", "mha", kv_len=32)[1].run_bytes == 32 * 256
    assert asked(monkeypatch, "mi300x", "mha", page=16)[1].run_bytes == 16 * 256
    side_by_side = asked(monkeypatch, "mi300x", "gqa-8", cache_order="token-major")[1]
    assert (side_by_side.run_bytes, side_by_side.neighbours, side_by_side.stride_bytes) == (256, 8, 8 * 256)
    # Of items of many lengths the longest says how long a run may be.
    assert asked(monkeypatch, "mi300x", "mha", batch=4, kv_len=32, lengths="8,1,1,1")[1].run_bytes == 64 * 256
    # H2O keeps one token in eight: runs of a token, eight apart.
    kept = asked(monkeypatch, "mi300x", "gqa-8", eviction="h2o:256+256")[1]
    assert (kept.run_bytes, kept.stride_bytes) == (256, 8 * 256)


def test_a_latent_is_one_array(monkeypatch):
    pattern = asked(monkeypatch, "mi300x", "mla", model="deepseek-v2", batch=2, attention_kernel="grouped-unsplit")[1]
    assert pattern.streams == 2
    assert pattern.run_bytes == 65536  # 64 tokens of 1152 bytes, and the power of two below


def test_banks_of_sram_are_asked_for_a_vector_s_bytes_and_distances(monkeypatch):
    seen = []
    monkeypatch.setattr(attention, "bank_fraction", lambda level, **where: seen.append((level.name, where)) or 0.5)
    found = replay("generic-sram-asic", "gqa-8", 2, 64, cache_order="token-major")
    name, where = seen[0]
    assert name == "sram"
    assert (where["token_bytes"], where["row_bytes"], where["stride_tokens"]) == (256.0, 8 * 256.0, 1.0)
    assert (found.home_rate_fraction, found.row_hit_fraction) == (0.5, None)
    replay("generic-sram-asic", "mla", 2, 64, model="deepseek-v2")
    assert seen[-1][1]["token_bytes"] == seen[-1][1]["row_bytes"] == 1152.0
    count = len(seen)
    replay("groq-lpu", "gqa-8", 2, 64, cache_order="token-major")
    assert len(seen) == count  # a compiled program meets no bank twice


# --- putting one run together


def put_together(monkeypatch, chip="h100-sxm", layout="gqa-8", batch=4, kv_len=2048, *, start="cold", alone=False,
                 could_win_s=np.inf, recorded=0, run=None, **scenario):
    """One plan with a run of known stalls: (replay, plan, figures, operator, task, machine, the loop it was given)."""
    hardware = load_hardware(chip)
    home = hardware.main_memory.name
    machine = machine_of(hardware, home)
    operator = attention_operator(layout, batch, kv_len, **scenario)
    task = task_of(operator)
    figures = figures_of(task, hardware, machine.home) if machine.schedule == "dispatched" else None
    hit_share = 0.0 if start == "cold" else 0.75
    machine = attention._as_measured(machine, figures)
    plan = plan_kernels(operator, task, machine, figures=figures, hit_share=hit_share, alone=alone)[0]
    loops = []

    def known(loop, **_):
        loops.append(loop)
        return run or Run(
            kernel_s=1.0, stalls=np.array([1.0, 2.0, 4.0, 8.0, 16.0, *(32.0 * (i + 1) for i in range(len(machine.path)))]),
            home_share=1.0, replayed_fraction=0.5, bound_s=0.25, replayed_s=0.5, binned_bytes=np.zeros((0, 0)))

    monkeypatch.setattr(KernelLoop, "run", known)
    found = attention._replay_plan(
        machine, plan, operator, task, in_home(home), figures=figures, hit_share=hit_share, could_win_s=could_win_s,
        alone=alone, exact=False, most_events=1, most_recorded_items=recorded, bins=0)
    return found, plan, figures, operator, task, machine, (loops or [None])[0]


def test_the_account_adds_launch_latency_arithmetic_imbalance_and_each_level(monkeypatch):
    found, plan, figures, _, task, machine, _ = put_together(monkeypatch)
    chip = machine.hardware
    stalls = dict(found.stall_s)
    assert stalls.pop("launch") == chip.overheads.kernel_launch_s
    beside = figures.combine_s(partial_elements(task, plan.cut)) + plan.unit.rows_s + figures.ramp_s
    assert stalls.pop("latency") == pytest.approx(1 + 2 + beside, rel=1e-12)
    assert stalls.pop("imbalance") == 16.0
    levels = {server.name: 32.0 * (i + 1) for i, server in enumerate(machine.path)}
    assert {name: stalls.pop(name) for name in levels} == levels
    ((busiest, seconds),) = stalls.items()
    assert seconds == 4.0 + 8.0
    assert found.total_s == pytest.approx(sum(found.stall_s.values()), rel=1e-15)
    assert found.cause_s["latency"] == pytest.approx(found.stall_s["launch"] + found.stall_s["latency"] + 16.0, rel=1e-15)
    assert set(found.cause_s) == {"latency", busiest, *levels}
    assert sum(found.cause_s.values()) == pytest.approx(found.total_s, rel=1e-15)
    assert (found.extrapolation_bound_s, found.replayed_fraction, found.replayed_s) == (0.25, 0.5, 0.5)
    assert (found.items, found.units, found.splits) == (plan.items, 132, plan.splits)
    assert found.cycles == pytest.approx(found.total_s * chip.compute.clock_hz, rel=1e-15)


def test_a_warm_cache_saves_the_ramp_of_what_it_serves(monkeypatch):
    cold, *_ = put_together(monkeypatch)
    warm, _, figures, *_ = put_together(monkeypatch, start="warm")
    assert cold.stall_s["latency"] - warm.stall_s["latency"] == pytest.approx(0.75 * figures.ramp_s, rel=1e-9)


def test_a_kernel_timed_alone_pays_its_own_floor_for_every_launch(monkeypatch):
    found, plan, *_ = put_together(monkeypatch, alone=True)
    assert found.stall_s["launch"] == plan.unit.floor_s
    found, _, _, operator, _, machine, _ = put_together(monkeypatch, alone=True, chip="mi300x", attention_kernel="unfused")
    assert operator.launches == 3
    assert found.stall_s["launch"] == 3 * machine.hardware.overheads.kernel_launch_s  # no floor was measured


def test_the_busiest_arithmetic_is_named_and_given_to_the_loop(monkeypatch):
    for chip, dtype in (("h100-sxm", "bf16"), ("mi300x", "bf16"), ("l40s", "fp8")):
        found, _, _, operator, _, machine, loop = put_together(monkeypatch, chip=chip, kv_dtype=dtype)
        times = {"compute": float(compute_time_s(operator, machine.hardware)),
                 "special_function": float(special_function_time_s(operator, machine.hardware))}
        busiest = max(times, key=times.get)
        assert found.stall_s[busiest] == 12.0
        assert loop.compute_s == times[busiest]
        assert found.utilisation[busiest] == pytest.approx(times[busiest] / found.total_s, rel=1e-12)


def test_levels_are_busy_for_their_bytes_at_their_rate(monkeypatch):
    found, _, figures, operator, _, machine, loop = put_together(monkeypatch)
    for server in machine.path:
        assert found.utilisation[server.name] == pytest.approx(
            found.level_bytes[server.name] / server.bytes_per_s / found.total_s, rel=1e-12)
    assert found.level_bytes["hbm"] == pytest.approx(float(operator.kv_read_bytes), rel=1e-12)
    # What is not the cache's own passes its level beside it: queries and outputs, which the shared cache holds.
    assert loop.extra_bytes[machine.cache_server] == float(operator.activation_bytes)
    assert loop.exposed_setup_share == figures.kernel.exposed_setup_fraction
    assert found.path == tuple(server.name for server in machine.path)


def test_an_unmeasured_kernel_s_combine_pass_is_its_level_s_time(monkeypatch):
    found, plan, _, _, _, machine, loop = put_together(monkeypatch, chip="mi300x", layout="mqa")
    assert plan.combine_bytes > 0
    through, seconds = attention._combine(plan, machine)
    place = [server.name for server in machine.path].index(through.name)
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


def test_a_profile_without_a_clock_counts_no_cycles(monkeypatch):
    chip = load_hardware("mi300x")
    monkeypatch.setattr(attention, "machine_of", machine_of)
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


# --- which of several runs is kept


def searched(monkeypatch, times, *, chip="mi300x", start="cold", outstanding=32768.0):
    """The search with runs that take ``times(start, fraction of the buffers)``; None is nothing new. And what was asked."""
    hardware = load_hardware(chip)
    machine = replace(machine_of(hardware, hardware.main_memory.name), outstanding_bytes_per_slot=outstanding)
    operator = attention_operator("gqa-8", 2, 1024)
    asked_for = []

    def runs(buffered, *_, start, **__):
        asked_for.append((start, buffered.load_fraction, buffered.outstanding_bytes_per_slot))
        seconds = times(start, buffered.load_fraction)
        return [] if seconds is None else [result(seconds)]

    monkeypatch.setattr(attention, "_replays_in", runs)
    found = attention._best_of(machine, operator, task_of(operator), in_home("hbm"), start, {})
    return found, asked_for


def test_buffers_are_halved_until_a_slot_waits_for_every_load_and_nothing_new_is_found(monkeypatch):
    """32 768 bytes in flight; four tokens of 512 bytes are 2048: 32 768, .. 2048, and below it 1024."""
    found, asked_for = searched(monkeypatch, lambda _start, share: 1.0 if share == 0.25 else 2.0 if share > 0.04 else None)
    assert asked_for == [("cold", 0.5**i, 32768 * 0.5**i) for i in range(6)]
    assert found.total_s == 1.0
    # While shorter buffers still lead to other runs, they are tried.
    _, asked_for = searched(monkeypatch, lambda _start, share: 1.0 if share > 0.01 else None)
    assert [share for _, share, _ in asked_for] == [0.5**i for i in range(8)]


def test_a_warm_kernel_may_run_as_if_it_were_cold(monkeypatch):
    found, asked_for = searched(monkeypatch, lambda start, share: (3.0 if start == "warm" else 2.0) if share == 1 else None,
                                start="warm")
    assert [start for start, _, _ in asked_for[:4]] == ["warm", "cold", "warm", "cold"]
    assert found.total_s == 2.0


def test_a_machine_with_unbounded_buffers_runs_once(monkeypatch):
    _, asked_for = searched(monkeypatch, lambda _start, _share: 1.0, chip="groq-lpu", outstanding=np.inf)
    assert len(asked_for) == 1


def test_the_bound_of_the_fastest_covers_what_another_may_truly_take():
    """2.0 +- 0.1 against 2.2 +- 0.5: the other may take 1.7."""
    found = attention._fastest([result(2.2, 0.5), result(2.0, 0.1), result(3.0, 0.2)])
    assert (found.total_s, found.extrapolation_bound_s) == (2.0, pytest.approx(0.3))
    assert attention._fastest([result(2.2, 0.1), result(2.0, 0.15)]).extrapolation_bound_s == 0.15


def ways(monkeypatch, *, tried=None, replays=(), start="cold", chip="h100-sxm", plans=2, took=(1.0, 1.0), **scenario):
    """Ways to run a kernel with plans of given times: (found, limits that each was given, what plans were asked with)."""
    hardware = load_hardware(chip)
    machine = machine_of(hardware, hardware.main_memory.name)
    operator = attention_operator("gqa-8", 2, 1024, **scenario)
    some = plan_kernels(operator, task_of(operator), machine, figures=None, hit_share=0.0, alone=False)[0]
    several = [replace(some, granules_in_flight=count + 1) for count in range(plans)]
    limits, how = [], []

    def planned(*_, **given):
        how.append(given)
        return several

    def run(_machine, plan, *_, could_win_s, **__):
        limits.append(could_win_s)
        seconds = took[plan.granules_in_flight - 1]
        return None if seconds is None else result(seconds)

    monkeypatch.setattr(attention, "plan_kernels", planned)
    monkeypatch.setattr(attention, "_replay_plan", run)
    found = attention._replays_in(
        machine, operator, task_of(operator), in_home(machine.home.name), start=start, replays=list(replays),
        tried=set() if tried is None else tried, alone=False, exact=False, most_events=1, most_recorded_items=0, bins=0)
    return [one.total_s for one in found], limits, how[0]


def test_the_first_choice_runs_unless_clearly_slower_and_the_second_only_to_win_three_percent(monkeypatch):
    found, limits, _ = ways(monkeypatch, took=(2.0, 1.0))
    assert found == [2.0, 1.0]
    assert limits == [float("inf"), pytest.approx(2.0 / 1.03)]
    _, limits, _ = ways(monkeypatch, replays=[result(1.5), result(1.0)], took=(2.0, 1.0))
    assert limits == [pytest.approx(1.02), pytest.approx(1 / 1.03)]
    found, _, _ = ways(monkeypatch, took=(None, 1.0))
    assert found == [1.0]


def test_what_was_tried_is_not_run_again_and_the_rest_is(monkeypatch):
    tried = set()
    ways(monkeypatch, tried=tried, plans=1)
    found, limits, _ = ways(monkeypatch, tried=tried, took=(1.0, 5.0))
    assert (found, len(limits)) == ([5.0], 1)
    found, _, _ = ways(monkeypatch, tried=tried, start="warm", took=(1.0, 5.0))
    assert found == [1.0, 5.0]  # a warm one is another


def test_a_warm_kernel_hits_what_the_effective_part_of_the_cache_holds(monkeypatch):
    """Two sequences of 1024 tokens are 8 MB: all of H100's 50 MB L2 hits, of a hundredth of it nothing."""
    assert ways(monkeypatch)[2]["hit_share"] == 0.0
    assert ways(monkeypatch, start="warm")[2]["hit_share"] == pytest.approx(1.0, abs=1e-5)
    assert ways(monkeypatch, start="warm", chip="mi300x")[2]["figures"] is None
    seen = []
    monkeypatch.setattr(attention, "cyclic_hit_share", lambda cache, scanned, **how: seen.append((cache.name, scanned, how)) or 0.5)
    operator = attention_operator("gqa-8", 2, 1024)
    assert ways(monkeypatch, start="warm")[2]["hit_share"] == 0.5
    share = load_hardware("h100-sxm").kernel.cache_effective_fraction
    assert seen[0] == ("l2", float(operator.kv_read_bytes), {"effective_fraction": share})
    ways(monkeypatch, start="warm", chip="mi300x")
    assert seen[1][2] == {"effective_fraction": 1.0}


# --- caches in several levels


def test_the_mean_layer_weighs_times_bytes_and_cycles_and_shows_the_slowest():
    fast = result(1.0, 0.1, stall_s={"latency": 1.0}, level_bytes={"a": 4.0}, utilisation={"a": 0.5}, cycles=10.0, items=3)
    slow = result(3.0, 0.3, stall_s={"latency": 2.0, "b": 1.0}, level_bytes={"b": 8.0}, utilisation={"b": 0.9}, cycles=30.0, items=7)
    found = attention._layer_mean([(0.25, fast), (0.75, slow)])
    assert found.total_s == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert found.stall_s == {"latency": pytest.approx(1.75), "b": pytest.approx(0.75)}
    assert found.level_bytes == {"a": pytest.approx(1.0), "b": pytest.approx(6.0)}
    # Level a is busy for half of 1 s in a quarter of the layers, b for 0.9 of 3 s in the others.
    assert found.utilisation == {"a": pytest.approx(0.25 * 0.5 / 2.5), "b": pytest.approx(0.75 * 2.7 / 2.5)}
    assert found.cycles == pytest.approx(25.0)
    assert found.extrapolation_bound_s == pytest.approx(0.25)
    assert found.items == 7
    assert attention._layer_mean([(0.5, replace(fast, cycles=None)), (0.5, replace(slow, cycles=None))]).cycles is None


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
