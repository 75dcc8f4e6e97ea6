"""What an attention kernel finds on a chip: rates that measured kernels reach, its buffers, and what the home's banks see."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.replay import attention
from simkit.replay.dram_pattern import PatternRate
from simkit.replay.engine import task_of
from simkit.replay.kernel_choice import parameters_of
from simkit.replay.target import target_of
from tests.replay.cases import attention_operator, replay


def test_a_page_number_is_waited_for_once_an_item_unless_kernels_were_timed_with_it():
    task = task_of(attention_operator("gqa-8", 1, 64, page=16))
    gpu, chip = load_hardware("mi300x"), load_hardware("h100-sxm")
    target = replace(target_of(gpu, "hbm"), item_setup_s=1e-6)
    paged = attention._with_page_table(target, task, None)
    assert paged.item_setup_s == pytest.approx(1e-6 + target.path[-1].latency_s, rel=1e-12)
    assert attention._with_page_table(target, replace(task, page=2), None) != target
    assert attention._with_page_table(target, replace(task, page=1), None) == target
    timed = target_of(chip, "hbm")
    assert attention._with_page_table(timed, task, parameters_of(task, chip, timed.home)) == timed
    static = target_of(load_hardware("sambanova-sn40l"), "hbm")
    assert attention._with_page_table(static, task, None) == static


def test_measured_kernels_reach_their_share_of_the_peak_and_of_the_cache():
    chip = load_hardware("h100-sxm")
    target, task = target_of(chip, "hbm"), task_of(attention_operator("gqa-8", 1, 64))
    parameters = parameters_of(task, chip, target.home)
    assert attention._as_measured(target, None) is target
    assert attention._as_measured(target, parameters) != target

    def as_measured(**kernel):
        return attention._as_measured(target, parameters_of(task, replace(chip, kernel=replace(chip.kernel, **kernel)),
                                                             target.home))

    found = as_measured(dram_achieved_fraction=0.5, cache_bytes_per_cycle_per_unit=1.0)
    assert found.path[-1].bytes_per_s == 0.5 * chip.level("hbm").bandwidth_bytes_per_s
    assert found.path[target.cache_server].bytes_per_s == pytest.approx(132 * chip.compute.clock_hz, rel=1e-12)
    assert [server.name for server in found.path] == [server.name for server in target.path]
    # Neither is raised above what the level itself reaches.
    assert as_measured(dram_achieved_fraction=2.0, cache_bytes_per_cycle_per_unit=1e9) == target
    # Another level than the main memory was not measured; a machine without a cache has none to measure.
    elsewhere = replace(target, home=replace(target.home))
    assert attention._as_measured(elsewhere, parameters).path[-1] == target.path[-1]
    bare = replace(target, cache=None, path=target.path[-1:])
    assert len(attention._as_measured(bare, parameters).path) == 1


def test_a_slot_s_buffers_are_the_profile_s_or_what_a_measured_unit_loads_in_a_latency():
    task = task_of(attention_operator("gqa-8", 1, 64))
    gpu = target_of(load_hardware("mi300x"), "hbm")
    assert attention._in_flight_bytes(gpu, task) == gpu.outstanding_bytes_per_slot
    measured = target_of(load_hardware("h100-sxm"), "hbm")
    parameters = parameters_of(task, measured.hardware, measured.home)
    own = parameters.load_bytes_per_s * parameters.dram_latency_s
    assert attention._in_flight_bytes(replace(measured, outstanding_bytes_per_slot=1e12), task) == own
    assert attention._in_flight_bytes(replace(measured, outstanding_bytes_per_slot=1e12, load_fraction=0.25), task) == own / 4
    assert attention._in_flight_bytes(replace(measured, outstanding_bytes_per_slot=10.0), task) == 10.0
    static = target_of(load_hardware("groq-lpu"), "sram")
    assert attention._in_flight_bytes(static, task) == np.inf


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


def test_the_dram_pipeline_fills_and_drains_in_latencies_beyond_the_one_that_is_waited_for():
    """Nine latencies of 345 ns, one of which every replay waits for itself."""
    chip, task = load_hardware("h100-sxm"), task_of(attention_operator("gqa-8", 1, 64))

    def ramp_s(ratio, home=chip.main_memory):
        return attention._ramp_s(parameters_of(task, replace(chip, kernel=replace(chip.kernel, dram_ramp_ratio=ratio)), home))

    assert ramp_s(9.0) == pytest.approx(8 * 345e-9)
    assert ramp_s(0.5) == 0
    assert ramp_s(9.0, replace(chip.main_memory, latency_s=None)) == 0


@pytest.mark.parametrize("without", ["kernel", "clock", "bandwidth"])
def test_a_chip_without_parameters_clock_or_bandwidth_has_no_measured_kernels(without):
    chip, task = load_hardware("h100-sxm"), task_of(attention_operator("gqa-8", 1, 64))
    home = chip.main_memory
    assert parameters_of(task, chip, home) is not None
    changed = {"kernel": (replace(chip, kernel=None), home),
               "clock": (replace(chip, compute=replace(chip.compute, clock_hz=None)), home),
               "bandwidth": (chip, replace(home, bandwidth_bytes_per_s=None))}
    assert parameters_of(task, *changed[without]) is None
