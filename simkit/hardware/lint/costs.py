"""Rules on time, power and money beside the roofs: launches, watts, joules and dollars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from simkit.foundation.units import J_PER_BYTE, SECONDS, WATTS, format_quantity
from simkit.hardware.lint.compute import half_rate
from simkit.hardware.lint.dram import memory_family
from simkit.hardware.lint.ranges import ENERGY_PJ_PER_BIT
from simkit.hardware.lint.remarks import Remark, outside, rate_words, unless_within
from simkit.hardware.profile import HardwareProfile

PJ_PER_BIT: Final = 8e-12  # joules per byte
MATRIX_UNITS: Final = 3.0  # a 16-bit rate so many times the vector rate comes from matrix units
FINER_PROCESSES: Final = 2020  # 7 nm and below, which took a flop's energy down


def energies_are_plausible(profile: HardwareProfile) -> Iterator[Remark]:
    """Whole-path energies by kind of memory; a byte from farther costs no less than one from nearer.

    Idle power and streaming at full bandwidth must not need more than the board's power.
    """
    power, nearer = profile.power, 0.0
    for level in profile.memory:
        if level.energy_j_per_byte is None:
            continue
        least, most = ENERGY_PJ_PER_BIT[(memory_family(level) or "DDR") if level.kind == "dram" else level.scope]
        per_bit = level.energy_j_per_byte / PJ_PER_BIT
        path = ("memory", level.name, "energy")
        severity = outside(per_bit, least, most, 5)
        if severity:
            yield severity, path, (f"{per_bit:.3g} pJ/bit ({format_quantity(level.energy_j_per_byte, J_PER_BYTE)}): "
                                   f"expected {least:g} to {most:g} pJ/bit of this memory, the whole path")
        if level.energy_j_per_byte < nearer:
            yield "error", path, f"{per_bit:.3g} pJ/bit is less than a nearer level takes ({nearer / PJ_PER_BIT:.3g})"
        nearer = max(nearer, level.energy_j_per_byte)
        reached = level.achievable_bytes_per_s
        if level.kind == "dram" and reached is not None and power.tdp_w is not None \
                and level.energy_j_per_byte * reached + (power.idle_w or 0.0) > power.tdp_w:
            need = format_quantity(level.energy_j_per_byte * reached + (power.idle_w or 0.0), WATTS)
            yield "warning", path, (
                f"streaming at {rate_words(reached)} and idle power take {need}, over the chip's power")


def flops_fit_the_power(profile: HardwareProfile) -> Iterator[Remark]:
    """Power over the 16-bit rate: 0.4 to 3 pJ a flop of matrix units since 7 nm, up to 7 before, 25 of vector pipes.

    Flops alone take a fifth of the power at least (SC 2025, doi 10.1145/3712285.3759815: 0.52 of 0.71 pJ on GH200) and
    never more than all of it.
    """
    power, half, vector = profile.power, half_rate(profile.compute), profile.compute.vector_peak_flop_per_s
    if power.tdp_w is None or half is None:
        return
    if vector is not None and half < MATRIX_UNITS * vector:
        most = 40.0
    else:
        most = 3.6 if (profile.year or FINER_PROCESSES) >= FINER_PROCESSES else 10.0
    each = power.tdp_w / half * 1e12
    yield from unless_within(each, 0.3, most, 4, ("power", "tdp"), (
        f"{format_quantity(power.tdp_w, WATTS)} over the 16-bit peak is {each:.3g} pJ a flop: expected 0.3 to "
        f"{most:g}"))
    if power.energy_j_per_flop is not None:
        share = power.energy_j_per_flop * half / power.tdp_w
        if share > 1:
            yield "warning", ("power", "flop_energy"), "the 16-bit peak rate would take more than the chip's power"
        elif share < 0.12:
            yield "warning", ("power", "flop_energy"), (
                f"the 16-bit peak rate would take only {share:.2g} of the chip's power")


def idle_power_is_a_share(profile: HardwareProfile) -> Iterator[Remark]:
    """A chip with a model resident draws 5 to 60 % of its limit: leakage, memory refresh, clocks."""
    tdp, idle = profile.power.tdp_w, profile.power.idle_w
    if not tdp or not idle:
        return
    severity = outside(idle / tdp, 0.05, 0.6, 1.6)
    if severity:
        yield severity, ("power", "idle"), f"{idle / tdp:.2g} of the chip's power: expected 0.05 to 0.6"


def overheads_are_microseconds(profile: HardwareProfile) -> Iterator[Remark]:
    """Launch and drain of a kernel take 0.5 to 8 us on GPUs, a layer of a machine without launches 5 to 100 us."""
    for key, value, (least, most) in (
            ("kernel_launch", profile.overheads.kernel_launch_s, (0.5e-6, 8e-6)),
            ("layer_latency", profile.overheads.layer_latency_s, (5e-6, 100e-6)),
            ("step", profile.overheads.step_s, (1e-6, 0.1))):
        severity = outside(value, least, most, 10) if value else None
        if severity and (key != "kernel_launch" or profile.kind == "gpu" or severity == "error"):
            yield severity, ("overheads", key), (
                f"{format_quantity(value, SECONDS)}: expected {format_quantity(least, SECONDS)} to "
                f"{format_quantity(most, SECONDS)}")


def prices_fit_the_flops(profile: HardwareProfile) -> Iterator[Remark]:
    """Dense 16-bit teraflops cost 4 to 130 dollars to buy and 0.1 to 1 cent an hour to rent (catalogue of 2026)."""
    half, price = half_rate(profile.compute), profile.price
    if half is None:
        return
    for key, value, (least, most), unit in (("per_hour", price.usd_per_hour, (8e-4, 1.5e-2), "USD/h"),
                                            ("purchase", price.purchase_usd, (2.5, 200.0), "USD")):
        each = value / half * 1e12 if value else None
        severity = outside(each, least, most, 10) if each is not None else None
        if severity:
            yield severity, ("price", key), (
                f"{each:.3g} {unit} a dense 16-bit TFLOP/s: expected {least:g} to {most:g}")


RULES = (energies_are_plausible, flops_fit_the_power, idle_power_is_a_share, overheads_are_microseconds,
         prices_fit_the_flops)
