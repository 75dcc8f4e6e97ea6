"""Parameter sets: peaks as their names promise, delays held in ns between grades, ticks as the reference shifts them."""

from dataclasses import replace

import pytest

from simkit.foundation.errors import UserError
from simkit.replay.dram.standards import STANDARDS, at_clock, standard_named
from simkit.replay.dram.timing import resolve


@pytest.mark.parametrize(("name", "peak_gb_per_s"), [
    # peaks per pseudo-channel or channel of the reference runs
    ("HBM2_2000", 16.000), ("HBM2_2400", 19.208), ("HBM3_6400", 25.600), ("HBM3s1_6400", 25.600),
    ("GDDR6_14000", 28.070), ("LPDDR5_6400", 12.800), ("DDR5_4800", 19.231),
])
def test_peak_bandwidth_is_that_of_the_reference_runs(name, peak_gb_per_s):
    assert standard_named(name).peak_bandwidth_bytes_per_s == pytest.approx(peak_gb_per_s * 1e9, rel=5e-5)


@pytest.mark.parametrize(("name", "pins", "gbit_per_s_per_pin"), [
    ("HBM2e_3200", 64, 3.2), ("HBM2e_3600", 64, 3.6), ("HBM3_5200", 32, 5.2), ("HBM3e_8000", 32, 8.0),
    ("HBM3e_9200", 32, 9.2), ("HBM3e_9600", 32, 9.6), ("HBM4_8000", 32, 8.0), ("GDDR6_16000", 16, 16.0),
    ("LPDDR5_8533", 16, 8.533), ("DDR5_5600", 32, 5.6),
])
def test_peak_bandwidth_is_pins_times_their_rate(name, pins, gbit_per_s_per_pin):
    peak = standard_named(name).peak_bandwidth_bytes_per_s
    assert peak == pytest.approx(pins * gbit_per_s_per_pin * 1e9 / 8, rel=0.005)


@pytest.mark.parametrize("standard", STANDARDS.values(), ids=lambda standard: standard.name)
def test_delays_are_consistent_with_each_other(standard):
    assert standard.rc_cycles <= standard.ras_cycles + standard.rp_cycles + 1
    assert standard.rrd_short_cycles <= standard.rrd_long_cycles
    assert standard.faw_cycles <= 4 * standard.rrd_long_cycles + standard.faw_cycles % 4 + 16
    assert standard.ccd_short_cycles <= standard.ccd_long_cycles
    assert standard.rfc_cycles < standard.refi_cycles


def test_a_faster_grade_keeps_its_analogue_delays_in_nanoseconds():
    base = standard_named("HBM3_6400")
    fast = at_clock(base, name="test", clock_period_ps=500)
    for field in ("rcd_read_cycles", "rp_cycles", "faw_cycles", "rfc_cycles"):
        slow_ns = getattr(base, field) * 0.625
        assert slow_ns <= getattr(fast, field) * 0.5 < slow_ns + 0.5
    assert fast.ccd_short_cycles == base.ccd_short_cycles
    assert "held in ns" in fast.source


def test_hbm3e_scaled_here_is_within_a_clock_of_the_published_presets():
    """Ramulator 2.1's HBM3_8000Mbps preset: nRCDRD 39, nRP 33, nRAS 57, nFAW 30, nCL 25."""
    standard = standard_named("HBM3e_8000")
    published = {"rcd_read_cycles": 39, "rp_cycles": 33, "ras_cycles": 57, "faw_cycles": 30,
                 "read_latency_cycles": 25}
    for field, cycles in published.items():
        assert abs(getattr(standard, field) - cycles) <= 1


def test_two_cycle_activates_shift_delays_as_the_reference_notes():
    """HBM2: ACT takes 2 CK, so ACT->RD is nRCDRD + 1 and PRE->ACT nRP - 1 at the first command cycle."""
    ticks = resolve(standard_named("HBM2_2400"))
    assert ticks.activate_to_read == 17 + 1
    assert ticks.precharge_to_activate == 17 - 1


def test_half_clock_commands_are_counted_in_half_clocks():
    """HBM3: ACT 1.5 CK, PRE 0.5 CK, column 1 CK; a tick is half a CK."""
    ticks = resolve(standard_named("HBM3_6400"))
    assert (ticks.activate_bus, ticks.row_bus, ticks.column_bus) == (3, 1, 2)
    assert ticks.activate_to_read == 2 * 31 + 2 - 1
    assert ticks.precharge_to_activate == 2 * 26 - 2
    assert ticks.four_activates == 2 * 24


def test_hbm4_has_the_row_and_turnaround_delays_of_hbm3_in_nanoseconds():
    """19.4 ns from ACT to RD are 31 clocks of 625 ps or 39 of 500 ps. The refresh of larger dies is longer."""
    hbm3, hbm4 = standard_named("HBM3_6400"), standard_named("HBM4_8000")
    for field in ("rcd_read", "rcd_write", "rp", "ras", "rc", "write_recovery", "read_to_precharge", "rrd_short", "rrd_long",
                  "faw", "wtr_short", "wtr_long", "read_to_write", "refi", "refi_per_bank"):
        slow_ns, fast_ns = getattr(hbm3, f"{field}_cycles") * 0.625, getattr(hbm4, f"{field}_cycles") * 0.5
        assert slow_ns <= fast_ns < slow_ns + 0.5, field
    refresh_cycles = (hbm4.rfc_cycles, hbm4.rfc_per_bank_cycles, hbm4.refresh_to_activate_other_bank_cycles)
    assert [cycles * 0.5 for cycles in refresh_cycles] == [450, 280, 8]
    for field in ("burst", "ccd_short", "ccd_long", "ccd_short_write", "ccd_long_write", "precharge_to_precharge", "read_latency",
                  "write_latency"):
        assert getattr(hbm4, f"{field}_cycles") == getattr(hbm3, f"{field}_cycles"), field


def test_eight_hbm4_dies_of_32_gbit_fill_64_pseudo_channels():
    """Two stack ids of 2 groups of 8 banks behind each."""
    standard = standard_named("HBM4_8000")
    assert 64 * standard.pseudo_channel_bytes == 8 * 32 * 2**30 // 8
    assert (standard.stacks, standard.bank_groups, standard.banks_per_group) == (2, 2, 8)


@pytest.mark.parametrize(("name", "spare"), [("HBM2_2000", 2), ("HBM2_2400", 2), ("LPDDR5_6400", 2), ("DDR5_4800", 4)])
def test_a_write_follows_a_read_when_its_data_find_the_bus_free(name, spare):
    """RD's data end at tCL + burst, WR's begin at tCWL; DDR5's preambles take two clocks more."""
    s = standard_named(name)
    assert s.read_to_write_cycles + s.write_latency_cycles == s.read_latency_cycles + s.burst_cycles + spare


# Worked by hand from the cycles of each set: a delay from a command of a ticks to one of b is n + (a - 1) - (b - 1).
BY_HAND = {
    # ACT 2 ticks, RD, WR, PRE and REF 1; two pseudo-channels of 4 groups of 4 banks
    "HBM2_2400": {
        "ticks_per_clock": 1, "dual_bus": 1, "half_clock": 0, "split_activate": 0,
        "pseudo_channels": 2, "stacks": 2, "groups": 8, "banks": 32,
        "burst": 2, "read_done": 17 + 2, "write_done": 6 + 2,
        "activate_to_read": 17 + 1, "activate_to_write": 14 + 1, "activate_to_precharge": 40 + 1,
        "activate_to_activate_same_bank": 57, "activate_to_activate": 5, "activate_to_activate_same_group": 5,
        "four_activates": 19, "precharge_to_activate": 17 - 1, "precharge_to_precharge": 0,
        "read_to_precharge": 6, "write_to_precharge": 6 + 2 + 19,
        "read_to_read": 2, "read_to_read_same_group": 4, "read_to_read_other_stack": 2,
        "write_to_write": 2, "write_to_write_same_group": 4, "write_to_write_other_stack": 2,
        "read_to_write": 17 + 2 + 2 - 6, "write_to_read": 6 + 2 + 8, "write_to_read_same_group": 6 + 2 + 10,
        "precharge_to_refresh": 17, "activate_to_refresh": 57 + 1, "refresh_to_activate": 421 - 1,
        "bank_refresh_to_activate": 193 - 1, "bank_refresh_to_activate_other": 10 - 1, "activate_to_bank_refresh_other": 5 + 1,
        "refresh_interval": 4682, "bank_refresh_interval": 147,
        "activate_bus": 2, "column_bus": 1, "row_bus": 1, "activate_deadline": 0, "data_clock_hold": 0,
    },
    # half clocks: ACT 3 ticks, RD and WR 2, PRE and REF 1; two pseudo-channels of 2 stacks
    "HBM3_6400": {
        "ticks_per_clock": 2, "dual_bus": 1, "half_clock": 1, "split_activate": 0,
        "pseudo_channels": 2, "stacks": 4, "groups": 16, "banks": 64,
        "burst": 4, "read_done": 2 * (20 + 2), "write_done": 2 * (10 + 2),
        "activate_to_read": 62 + 2 - 1, "activate_to_write": 30 + 2 - 1, "activate_to_precharge": 90 + 2,
        "activate_to_activate_same_bank": 144, "activate_to_activate": 8, "activate_to_activate_same_group": 10,
        "four_activates": 48, "precharge_to_activate": 52 - 2, "precharge_to_precharge": 4,
        "read_to_precharge": 18 + 1, "write_to_precharge": 2 * (10 + 2 + 33) + 1,
        "read_to_read": 4, "read_to_read_same_group": 8, "read_to_read_other_stack": 6,
        "write_to_write": 4, "write_to_write_same_group": 8, "write_to_write_other_stack": 6,
        "read_to_write": 40, "write_to_read": 2 * (10 + 2 + 7), "write_to_read_same_group": 2 * (10 + 2 + 10),
        "precharge_to_refresh": 52, "activate_to_refresh": 144 + 2, "refresh_to_activate": 1120 - 2,
        "bank_refresh_to_activate": 640 - 2, "bank_refresh_to_activate_other": 16 - 2, "activate_to_bank_refresh_other": 8 + 2,
        "refresh_interval": 12_480, "bank_refresh_interval": 390,
        "activate_bus": 3, "column_bus": 2, "row_bus": 1, "activate_deadline": 0, "data_clock_hold": 0,
    },
    # every command 1 tick, ACT in two of them
    "LPDDR5_6400": {
        "ticks_per_clock": 1, "dual_bus": 0, "half_clock": 0, "split_activate": 1,
        "pseudo_channels": 1, "stacks": 1, "groups": 4, "banks": 16,
        "burst": 2, "read_done": 17 + 2, "write_done": 9 + 2,
        "activate_to_read": 15, "activate_to_write": 15, "activate_to_precharge": 34,
        "activate_to_activate_same_bank": 49, "activate_to_activate": 4, "activate_to_activate_same_group": 4,
        "four_activates": 16, "precharge_to_activate": 15, "precharge_to_precharge": 2,
        "read_to_precharge": 8, "write_to_precharge": 9 + 2 + 28,
        "read_to_read": 2, "read_to_read_same_group": 4, "read_to_read_other_stack": 2,
        "write_to_write": 2, "write_to_write_same_group": 4, "write_to_write_other_stack": 2,
        "read_to_write": 17 + 2 + 2 - 9, "write_to_read": 9 + 2 + 5, "write_to_read_same_group": 9 + 2 + 10,
        "precharge_to_refresh": 15, "activate_to_refresh": 49, "refresh_to_activate": 224,
        "bank_refresh_to_activate": 112, "bank_refresh_to_activate_other": 6, "activate_to_bank_refresh_other": 4,
        "refresh_interval": 3125, "bank_refresh_interval": 391,
        "activate_bus": 1, "column_bus": 1, "row_bus": 1, "activate_deadline": 8, "data_clock_hold": 17 + 2 + 1,
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_delay_in_ticks_is_the_one_worked_by_hand(name):
    assert resolve(standard_named(name))._asdict() == BY_HAND[name]


def test_a_delay_between_two_commands_is_a_tick_at_least():
    """DDR5's ACT and RD take two ticks: with tRP 0, ACT could not start before its PRE."""
    ticks = resolve(replace(standard_named("DDR5_4800"), rp_cycles=0, write_recovery_cycles=0, ccd_short_write_cycles=9,
                            ccd_short_cycles=10))
    assert ticks.precharge_to_activate == 1
    assert ticks.read_to_precharge == 18 + 1
    assert (ticks.dual_bus, ticks.split_activate) == (0, 0)
    assert (ticks.read_to_read, ticks.write_to_write) == (10, 9)


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown DRAM type 'HBM3-6400'; did you mean 'HBM3_6400'"):
        standard_named("HBM3-6400")
