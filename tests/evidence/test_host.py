"""This machine measured and predicted: kernels against NumPy, parameters in their natural order, laws of warm caches.

How well this machine is predicted needs it to itself for a minute: `python tools/check.py evidence-host`.
"""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from simkit.evidence.host import clock
from simkit.evidence.host.caches import CacheSize, cache_sizes, size_bytes
from simkit.evidence.host.clock import time_loops
from simkit.evidence.host.compare import (
    BEYOND_CACHE,
    KV_HEADS,
    N_Q_HEADS,
    HostPoint,
    compare,
    operator_of,
    points_of,
    predicted_s,
    summarise,
)
from simkit.evidence.host.measure import (
    LevelParameters,
    at_least_as_fast_as_what_passes,
    between,
    buffer_beyond_caches_bytes,
    measure_host,
)
from simkit.evidence.host.profile import profile_of, profile_text
from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.catalog import load_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.lint import lint
from simkit.timing.cpu_cores import unhidden_s
from simkit.timing.roofs import looped_placement


@pytest.fixture(scope="module")
def figures():
    return measure_host(budget_s=1.5)


@pytest.fixture(scope="module")
def machine(figures):
    return profile_of(figures)


def test_the_machine_half_way_is_the_geometric_mean_of_before_and_after(figures):
    dram = figures.levels[-1]
    faster = replace(figures, rows_flop_per_s=4 * figures.rows_flop_per_s,
                     levels=(*figures.levels[:-1], replace(dram, bandwidth_bytes_per_s=dram.bandwidth_bytes_per_s / 4)))
    halfway = between(figures, faster)
    assert halfway.rows_flop_per_s == pytest.approx(2 * figures.rows_flop_per_s)
    assert halfway.levels[-1].bandwidth_bytes_per_s == pytest.approx(dram.bandwidth_bytes_per_s / 2)
    assert halfway.item_s == pytest.approx(figures.item_s)


def test_the_compiled_kernel_is_attention():
    from simkit.evidence.host.kernels import attend

    random = np.random.default_rng(3)
    for items, rows, tokens, dim in ((2, 1, 1, 128), (1, 4, 37, 64), (3, 8, 130, 128)):
        queries = random.standard_normal((items, rows, dim), dtype=np.float32)
        keys, values = (random.standard_normal((items, tokens, dim), dtype=np.float32) for _ in range(2))
        out = np.empty_like(queries)
        attend(queries, keys, values, out, 2)
        scores = np.einsum("ird,itd->irt", queries, keys).astype(np.float64)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = np.einsum("irt,itd->ird", weights / weights.sum(-1, keepdims=True), values)
        np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5)


def test_a_chase_visits_every_line_once_before_it_comes_back():
    from simkit.evidence.host.kernels import LINE_BYTES, chase, random_cycle

    successor = random_cycle(100)
    visited = {chase(successor, 0, steps) for steps in range(100)}
    assert visited == {line * LINE_BYTES // 8 for line in range(100)}
    assert chase(successor, 0, 100) == 0


def test_a_turn_takes_the_own_processor_time_of_its_slowest_thread(monkeypatch):
    # Each thread has a clock of its own that only its work moves; the machine's runs as it likes, and tells when to end.
    own, machine_s = threading.local(), iter(range(10**9))
    monkeypatch.setattr(clock, "time", SimpleNamespace(thread_time=lambda: getattr(own, "s", 0.0),
                                                       perf_counter=lambda: float(next(machine_s))))

    def work(repeat_s):
        def loop(repeats):
            own.s = getattr(own, "s", 0.0) + repeats * repeat_s

        return loop

    for loops in ([work(2e-6), work(4e-4)], [work(4e-4), work(2e-6)], [work(4e-4)]):
        timing = time_loops(loops, budget_s=50.0)
        assert timing.time_s == pytest.approx(4e-4, rel=1e-9)
        assert timing.spread_fraction == pytest.approx(0.0, abs=1e-9)


def test_the_median_turn_counts_and_the_spread_is_that_of_the_quartiles(monkeypatch):
    # The first two settle how often to repeat. Of nine turns, one of them disturbed: median 5, quartiles 3 and 8.
    turns = iter([1.0, 1.0, 5, 1, 9, 3, 7, 2, 8, 4, 6000])
    monkeypatch.setattr(clock, "_together", lambda *_: [next(turns)])
    seconds = iter(range(10))
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    timing = time_loops([lambda _: None], budget_s=5.0, turn_s=1.0)
    assert timing.time_s == 5.0
    assert timing.spread_fraction == pytest.approx((8 - 3) / 5)


def test_a_failing_loop_is_not_swallowed():
    def fails(repeats):
        raise ValueError(repeats)

    with pytest.raises(ValueError, match="1"):
        time_loops([fails], budget_s=0.01)


def test_nearer_levels_are_no_slower_than_farther_ones_and_every_rate_is_one(figures):
    # What is measured on a busy machine may be any number; by how much caches are faster, check.py evidence-host asks.
    rates = [level.bandwidth_bytes_per_s for level in figures.levels]
    assert rates == sorted(rates, reverse=True)
    assert figures.rows_flop_per_s <= figures.gemm_flop_per_s
    found = [*rates, *(level.latency_s for level in figures.levels), figures.rows_flop_per_s, figures.exponential_ops_per_s,
             figures.item_s, figures.outstanding_bytes]
    assert all(0.0 < value < float("inf") for value in found)


def test_the_profile_is_valid_and_names_the_source_of_every_figure(figures):
    source = parse_yaml(profile_text(figures, "mine"), file="mine.yaml")
    profile = profile_from_yaml(source)
    assert profile.kind == "cpu"
    assert [level.name for level in profile.memory][-1] == "dram"
    # A second and a half on a busy machine may put two cache levels in the wrong order: that is not the writer's fault.
    assert not [finding for finding in lint(profile, source)
                if finding.severity == "error" and "bandwidth" not in finding.message]


def test_a_few_cores_that_see_a_whole_socket_s_cache_are_not_an_error(figures):
    # Two cores of a virtual machine beside 480 MiB, and one of them alone: 54 GB/s of 80 MB were called a slip.
    dram = figures.levels[-1]
    for cores, seen_bytes, rate in ((2, 80.1e6, 53.8e9), (1, 480 * 2.0**20, 30e9)):
        cache = CacheSize(level=3, instance_bytes=480 * 2.0**20, per_core=False, instances=1, source="sysfs")
        shared = replace(dram, name="l3", cache=cache, capacity_bytes=seen_bytes, bandwidth_bytes_per_s=rate,
                         latency_s=dram.latency_s / 2)
        far = replace(dram, bandwidth_bytes_per_s=rate / 2)
        source = parse_yaml(profile_text(replace(figures, cores=cores, levels=(shared, far)), "mine"), file="mine.yaml")
        found = lint(profile_from_yaml(source), source)
        assert not [finding for finding in found if finding.severity == "error" and "l3" in str(finding.where.key)]
        assert [finding for finding in found if finding.severity == "warning" and "l3" in str(finding.where.key)]
    # Too little is still a slip: 480 KiB, read in 9 ns.
    tiny = replace(shared, capacity_bytes=480 * 2.0**10, bandwidth_bytes_per_s=53.8e12)
    source = parse_yaml(profile_text(replace(figures, cores=2, levels=(tiny, far)), "mine"), file="mine.yaml")
    assert [finding for finding in lint(profile_from_yaml(source), source)
            if finding.severity == "error" and str(finding.where.key) == "memory.l3.capacity"]


def test_measured_rates_survive_the_way_through_the_file(figures, machine):
    dram = machine.main_memory
    assert dram.achievable_bytes_per_s == pytest.approx(figures.levels[-1].bandwidth_bytes_per_s, rel=1e-3)
    assert machine.compute.matrix_achievable_flop_per_s("fp32") == pytest.approx(figures.rows_flop_per_s, rel=2e-3)


def test_a_looped_kernel_is_served_by_the_nearest_cache_that_holds_it(machine):
    def served_by(kv_len, heads=1):
        point = HostPoint(n_kv_heads=heads, kv_len=kv_len)
        home = machine.main_memory.name
        from simkit.step.placement import Placement

        placed = looped_placement(operator_of(point), Placement(weights={home: 1.0}, kv={home: 1.0}, fits=True,
                                                                max_batch=1.0), machine)
        assert sum(float(share) for share in placed.kv.values()) == pytest.approx(1.0)
        return max(placed.kv, key=lambda name: placed.kv[name])

    assert served_by(1) == "l1"
    assert served_by(4_000_000) == "dram"


def test_the_prediction_is_never_faster_than_arithmetic_nor_than_the_fastest_cache(machine):
    nearest = machine.memory[0].achievable_bytes_per_s
    rate = machine.compute.matrix_achievable_flop_per_s("fp32")
    for heads in KV_HEADS:
        for kv_len in (32, 512, 8192):
            point = HostPoint(n_kv_heads=heads, kv_len=kv_len)
            time_s = predicted_s(point, machine)
            assert time_s >= point.kv_bytes / nearest
            assert time_s >= 4 * N_Q_HEADS * kv_len * 128 / rate


def test_more_kv_heads_and_more_tokens_never_take_less_time(machine):
    lengths = (512, 2048, 8192)
    for heads in KV_HEADS:
        times = [predicted_s(HostPoint(n_kv_heads=heads, kv_len=length), machine) for length in lengths]
        assert times == sorted(times)
    for length in lengths:
        times = [predicted_s(HostPoint(n_kv_heads=heads, kv_len=length), machine) for heads in sorted(KV_HEADS)]
        assert times == sorted(times)


def test_only_cores_wait_for_their_tiles(machine):
    operator = operator_of(HostPoint(n_kv_heads=8, kv_len=4096))
    levels = {machine.memory[0].name: 0.1, "dram": 1.0}
    assert unhidden_s(operator, 1.0, 0.0, levels, load_hardware("h100-sxm")) == 0
    # Four rows share a tile: the first waits (1 s of loads), the other three compute (0.75 s).
    assert unhidden_s(operator, 1.0, 0.0, levels, machine) == pytest.approx(0.75)


def test_a_gpu_s_profile_is_refused():
    with pytest.raises(UserError, match="profile of a gpu"):
        compare(load_hardware("h100-sxm"))


def test_cache_sizes_come_from_the_kernel_s_tables(tmp_path):
    for cpu in (0, 1):
        for index, (level, kind, size, shared) in enumerate(
                [("1", "Data", "48K", str(cpu)), ("1", "Instruction", "32K", str(cpu)), ("2", "Unified", "2M", str(cpu)),
                 ("3", "Unified", "32M", "0-1")]):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                (folder / name).write_text(text + "\n", encoding="ascii")
    caches = cache_sizes([0, 1], tmp_path)
    assert [cache.instance_bytes for cache in caches] == [48 * 1024, 2 * 2**20, 32 * 2**20]
    assert [cache.per_core for cache in caches] == [True, True, False]
    assert [cache.instances for cache in caches] == [2, 2, 1]
    # One processor of the two sees one instance of each, and still shares the last with the other.
    assert [cache.per_core for cache in cache_sizes([0], tmp_path)] == [True, True, False]


def test_without_tables_sizes_are_those_of_the_c_library_or_said_to_be_assumed(tmp_path):
    caches = cache_sizes([0, 1], tmp_path / "nothing")
    assert [cache.level for cache in caches] == [1, 2, 3]
    assert all(cache.instance_bytes > 0 for cache in caches)
    assert all(cache.assumed == cache.source.startswith("assumed") for cache in caches)
    assert size_bytes("512K") == 524288


def test_calibrate_refuses_to_overwrite_before_it_measures(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: precious\n", encoding="utf-8")
    result = cli("calibrate", "host", "-o", "mine.yaml")
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "name: precious\n"
    assert cli("calibrate", "host", "-o", "mine.txt").exit_code == 2


def test_errors_are_summed_up_by_regime():
    row = {"profile": "p", "engine": "roofline", "ratio": 1.1, "ape": 0.1, "advantage_ape": None, "baseline_ape": 0.5}
    rows = summarise([row | {"regime": "in_cache"}, row | {"regime": "beyond_cache", "ape": 0.3, "ratio": 0.7,
                                                          "advantage_ape": 0.2}])
    by_regime = {entry["regime"]: entry for entry in rows}
    assert by_regime["all"]["mape"] == pytest.approx(0.2)
    assert by_regime["all"]["bias"] == pytest.approx(-0.1)
    assert by_regime["in_cache"]["advantage_median_ape"] is None
    assert BEYOND_CACHE == 2


def test_a_disturbed_reading_of_a_nearer_level_is_raised_to_what_passed_through_it():
    def level(name: str, rate: float) -> LevelParameters:
        return LevelParameters(name=name, cache=None, capacity_bytes=1.0, bandwidth_bytes_per_s=rate,
                                         latency_s=1e-9, spread_fraction=0.0)

    measured = [level("l1", 131e9), level("l2", 152e9), level("l3", 60e9), level("dram", 20e9)]
    rates = [one.bandwidth_bytes_per_s for one in at_least_as_fast_as_what_passes(measured)]
    assert rates == [152e9, 152e9, 60e9, 20e9]


@pytest.mark.parametrize("threads", [1, 2, 3, 6, 24, 96, 192])
def test_every_core_gets_as_many_items_of_as_many_tokens(threads):
    for point in points_of(threads, 1e12):
        pieces = point.pieces(threads)
        assert point.kv_len % pieces == 0  # whole tokens: what runs is what is predicted
        assert (point.n_kv_heads * pieces) % threads == 0


def test_two_cores_run_the_lengths_as_they_stand():
    assert sorted({point.kv_len for point in points_of(2, 1e12)}) == [32, 128, 512, 2048, 8192]


@pytest.mark.parametrize("cache_mb", [1, 32, 384, 768])
def test_what_dram_serves_is_well_beyond_the_last_cache(cache_mb):
    # Two sockets of Genoa hold 768 MB in their last caches: a buffer of 256 MB would measure those.
    assert buffer_beyond_caches_bytes(cache_mb * 1e6, 1.5e12) >= 3 * cache_mb * 1e6


def test_a_machine_whose_tables_are_bare_still_gets_a_profile(figures):
    # Arm's /proc/cpuinfo has neither "model name" nor "cpu MHz".
    text = profile_text(replace(figures, processor="aarch64", clock_hz=None), "arm")
    assert profile_from_yaml(parse_yaml(text, file="arm.yaml")).compute.clock_hz is None


def test_the_interval_of_the_median_holds_the_median_and_closes_on_equal_errors():
    row = {"profile": "p", "engine": "roofline", "regime": "in_cache", "ratio": 1.1, "advantage_ape": None, "baseline_ape": 0.5}
    spread = summarise([row | {"ape": ape} for ape in (0.05, 0.1, 0.1, 0.2, 0.4)])[0]
    assert spread["median_ape_low"] < spread["median_ape"] < spread["median_ape_high"]
    equal = summarise([row | {"ape": 0.1}] * 4)[0]
    assert (equal["median_ape_low"], equal["median_ape_high"]) == (pytest.approx(0.1), pytest.approx(0.1))
