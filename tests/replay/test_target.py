"""A profile as the replay sees it."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.replay.target import target_of
from tests.replay.cases import with_level


def with_bytes_in_flight(name, in_flight):
    chip = load_hardware(name)
    return replace(chip, compute=replace(chip.compute, outstanding_bytes_per_unit=in_flight))


def path(target):
    return [(server.name, server.bytes_per_s, server.latency_s, server.per_unit) for server in target.path]


def test_the_path_runs_from_the_units_own_memory_to_the_home_at_rates_that_are_reached():
    """132 SMs of 234 GB/s shared memory; of HBM's 3.352 TB/s BabelStream reads 0.949."""
    target = target_of(load_hardware("h100-sxm"), "hbm")
    assert path(target) == [
        ("smem", 132 * 234e9, pytest.approx(16.2e-9), True), ("l2", 5.5e12, pytest.approx(141.6e-9), False),
        ("hbm", 3.352e12 * 0.949, pytest.approx(345e-9), False)]
    assert target.home is target.hardware.level("hbm")


def test_units_whose_kernels_were_measured_run_one_item_and_others_two_that_share_what_is_in_flight():
    measured, assumed = (target_of(with_bytes_in_flight(name, 65536.0), "hbm") for name in ("h100-sxm", "mi300x"))
    assert (measured.units, measured.slots_per_unit, measured.slots) == (132, 1, 132)
    assert (assumed.units, assumed.slots_per_unit, assumed.slots) == (304, 2, 608)
    assert (measured.outstanding_bytes_per_slot, assumed.outstanding_bytes_per_slot) == (65536, 32768)


def test_without_a_figure_any_number_of_bytes_may_be_in_flight_and_no_set_up_is_known():
    target = target_of(with_bytes_in_flight("mi300x", None), "hbm")
    assert target.outstanding_bytes_per_slot == np.inf
    assert (target.item_setup_s, target.load_fraction) == (0, 1)


@pytest.mark.parametrize(("name", "home", "schedule", "units", "slots"), [
    ("epyc-9654-2s", "ddr", "dispatched", 192, 384), ("generic-sram-asic", "sram", "banked", 132, 132),
    ("dmatrix-corsair", "sram", "banked", 8, 8), ("dmatrix-corsair", "lpddr", "static", 1, 1),
    ("groq-lpu", "sram", "static", 1, 1), ("tpu-v5p", "hbm", "static", 1, 1)])
def test_gpus_and_cpus_dispatch_and_compiled_machines_stream_or_hold_the_cache_in_banks(name, home, schedule, units, slots):
    """SRAM of tensor-parallel machines lies in banks beside the units; layer-pipelined ones stream through the chip."""
    target = target_of(with_bytes_in_flight(name, 4096.0), home)
    assert (target.schedule, target.units, target.slots) == (schedule, units, slots)
    # Compiled programs issue loads as early as they need: only dispatched units wait for what they have in flight.
    assert target.outstanding_bytes_per_slot == (2048 if schedule == "dispatched" else np.inf)
    assert target.path[0].per_unit == (schedule == "banked")


def test_a_level_without_a_rate_is_passed_over_unless_it_is_a_cache_that_all_share():
    """EPYC's L2 caches belong to the cores and no source gives a rate; its L3 has none either, but its capacity serves."""
    target = target_of(load_hardware("epyc-9654-2s"), "ddr")
    assert path(target) == [("l3", np.inf, 0, False), ("ddr", 921.6e9 * 0.86, 0, False)]
    assert target.cache is target.hardware.level("l3")
    assert path(target_of(load_hardware("inferentia2", assume="ideal"), "hbm")) == [("hbm", 820e9, 0, False)]


def test_the_last_cache_before_the_home_is_the_one_that_serves():
    target = target_of(load_hardware("mi300x"), "hbm")
    assert [server.name for server in target.path] == ["smem", "l2", "infinity_cache", "hbm"]
    assert (target.cache.name, target.cache_server) == ("infinity_cache", 2)


def test_a_chip_without_a_cache_has_no_cache_server():
    target = target_of(load_hardware("meta-mtia-v2"), "lpddr")
    assert (target.cache, target.cache_server) == (None, -1)
    assert [(server.name, server.per_unit) for server in target.path] == [("local", True), ("sram", False), ("lpddr", False)]


def test_levels_behind_the_home_are_not_on_the_path():
    chip = load_hardware("sambanova-sn40l")
    assert [[server.name for server in target_of(chip, home).path] for home in ("hbm", "ddr")] == [
        ["sram", "hbm"], ["sram", "hbm", "ddr"]]
    behind = with_level(chip, "ddr", kind="cache")
    assert target_of(behind, "hbm").cache is None


def test_a_home_without_a_rate_is_told_by_name_with_what_to_write():
    with pytest.raises(UserError, match=r"h100-sxm: no source gives memory\.hbm\.bandwidth") as told:
        target_of(with_level(load_hardware("h100-sxm"), "hbm", bandwidth_bytes_per_s=None), "hbm")
    assert "--set memory.hbm.bandwidth=" in told.value.hint
