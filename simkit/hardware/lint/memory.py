"""Rules on the memory levels together: order, ports, latency, balance against arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from simkit.foundation.units import BYTES, SECONDS, format_quantity
from simkit.hardware.lint.dram import near_bank
from simkit.hardware.lint.ranges import (
    LATENCY_S,
    ON_CHIP_DRAIN_S,
    RIDGE_POINTS,
    UNIT_LATENCY_CYCLES,
    UNIT_SHARE_BYTES,
)
from simkit.hardware.lint.remarks import Remark, outside, rate_words, unless_within
from simkit.hardware.profile import HardwareProfile, MemoryLevel


def levels_are_nearest_first(profile: HardwareProfile) -> Iterator[Remark]:
    """Farther levels are slower and larger: a level that is neither faster nor larger than another has no purpose.

    Private memories are left out of the capacity order: their sum may exceed a small shared cache (V100).
    """
    levels = profile.memory
    for near, far in ((near, far) for index, near in enumerate(levels) for far in levels[index + 1:]):
        fast, slow = near.chip_bandwidth_bytes_per_s, far.chip_bandwidth_bytes_per_s
        if fast is not None and slow is not None and slow > 1.02 * fast:
            yield "error", ("memory", far.name, "bandwidth"), (
                f"{rate_words(slow)} of the whole chip is more than the nearer '{near.name}' has ({rate_words(fast)})")
        if near.scope == far.scope == "chip" and far.chip_capacity_bytes < near.chip_capacity_bytes:
            yield "error", ("memory", far.name, "capacity"), (
                f"{format_quantity(far.chip_capacity_bytes, BYTES)} is less than the nearer '{near.name}' holds "
                f"({format_quantity(near.chip_capacity_bytes, BYTES)})")
        if near.latency_s is not None and far.latency_s is not None and far.latency_s < near.latency_s:
            yield "error", ("memory", far.name, "latency"), (
                f"{format_quantity(far.latency_s, SECONDS)} is less than that of the nearer '{near.name}' "
                f"({format_quantity(near.latency_s, SECONDS)})")


def private_bandwidth_is_some_bytes_a_clock(profile: HardwareProfile) -> Iterator[Remark]:
    """A unit's port to its own memory is 16 to 1024 bytes wide; a chip's total written per unit stands out."""
    clock = profile.compute.clock_hz
    for level in profile.memory:
        if level.scope != "unit" or level.bandwidth_bytes_per_s is None or clock is None:
            continue
        width = level.bandwidth_bytes_per_s / clock
        yield from unless_within(width, 16, 1024, 4, ("memory", level.name, "bandwidth"), (
            f"{rate_words(level.bandwidth_bytes_per_s)} is {width:.3g} bytes a clock for each "
            f"{profile.compute.unit_name}: expected 16 to 1024; scope 'unit' states one unit's bandwidth"))


def on_chip_memory_is_read_in_microseconds(profile: HardwareProfile) -> Iterator[Remark]:
    r"""Reading a whole on-chip memory takes :math:`C / \beta`: caches of GPUs 1 to 22 us, SRAM of ASICs 0.7 to 100.

    Banks bring both capacity and ports, so a chip ten times larger is no slower to read.
    """
    for level in profile.memory:
        peak = level.bandwidth_bytes_per_s
        if level.kind == "dram" or peak is None:
            continue
        least, most = ON_CHIP_DRAIN_S[level.kind, level.scope]
        drain_s = level.capacity_bytes / peak
        yield from unless_within(drain_s, least, most, 10, ("memory", level.name, "capacity"), (
            f"{format_quantity(level.capacity_bytes, BYTES)} at {rate_words(peak)} are read in "
            f"{format_quantity(drain_s, SECONDS)}: expected {format_quantity(least, SECONDS)} to "
            f"{format_quantity(most, SECONDS)} of {level.kind} on the chip"), above_ratio=_seen_whole(profile, level))


def _seen_whole(profile: HardwareProfile, level: MemoryLevel) -> float | None:
    """No cache is too large for a few cores: those of a virtual machine see a whole socket's."""
    return inf if profile.kind == "cpu" and level.scope == "chip" else None


def capacity_is_shared_by_the_units(profile: HardwareProfile) -> Iterator[Remark]:
    """Work on one unit needs room: GPUs give each 64 to 256 KiB of its own and 70 KB to 1.3 MB of a shared cache."""
    for level in profile.memory:
        limits = UNIT_SHARE_BYTES.get((profile.kind, level.scope))
        if limits is None or level.kind == "dram":
            continue
        least, most = limits
        each = level.chip_capacity_bytes / level.units
        yield from unless_within(each, least, most, 20, ("memory", level.name, "capacity"), (
            f"{format_quantity(each, BYTES)} for each {profile.compute.unit_name}: expected "
            f"{format_quantity(least, BYTES)} to {format_quantity(most, BYTES)}"),
            above_ratio=_seen_whole(profile, level))


def latencies_are_of_their_kind(profile: HardwareProfile) -> Iterator[Remark]:
    """Latency is wire, arrays and queues: it hardly moved in ten years, and a unit's own memory answers in cycles."""
    clock = profile.compute.clock_hz
    for level in profile.memory:
        if level.latency_s is None:
            continue
        if level.scope == "unit" and clock is not None:
            value, words = level.latency_s * clock, f"{level.latency_s * clock:.3g} cycles"
            least, most = UNIT_LATENCY_CYCLES[profile.kind]
            expected = f"{least:g} to {most:g} cycles"
        elif (level.kind, profile.kind) in LATENCY_S and level.scope == "chip":
            value, words = level.latency_s, format_quantity(level.latency_s, SECONDS)
            least, most = LATENCY_S[level.kind, profile.kind]
            expected = f"{format_quantity(least, SECONDS)} to {format_quantity(most, SECONDS)}"
        else:
            continue
        yield from unless_within(value, least, most, 4, ("memory", level.name, "latency"), (
            f"{words}: expected {expected} of {level.kind}, kind '{profile.kind}'"))


def bytes_in_flight_fit_the_units(profile: HardwareProfile) -> Iterator[Remark]:
    r"""Little's law: :math:`\beta t` bytes are in flight at full bandwidth, and the units must have room for them.

    Bytes in flight land in registers or private memory, so more than all private memory means a slip in latency or
    bandwidth; more than ``outstanding_bytes`` means that the units cannot reach the stated bandwidth.
    """
    room = sum(level.chip_capacity_bytes for level in profile.memory if level.scope == "unit")
    for level in profile.memory:
        reached = level.achievable_bytes_per_s
        if level.scope == "unit" or level.latency_s is None or reached is None:
            continue
        flight = reached * level.latency_s
        if room and flight > room:
            yield "error", ("memory", level.name, "latency"), (
                f"{format_quantity(flight, BYTES)} would be in flight at {rate_words(reached)}: more than the units' "
                f"private memory ({format_quantity(room, BYTES)})")
        outstanding = profile.compute.outstanding_bytes_per_unit
        if outstanding is not None and level.kind == "dram" and outstanding * profile.compute.units < flight:
            yield "warning", ("compute", "outstanding_bytes"), (
                f"{format_quantity(outstanding, BYTES)} a unit reach only "
                f"{rate_words(outstanding * profile.compute.units / level.latency_s)} of '{level.name}' "
                f"({rate_words(reached)})")


def ridge_point_is_of_its_kind(profile: HardwareProfile) -> Iterator[Remark]:
    r"""Machine balance :math:`\pi / \beta` at vendor peaks has a range by kind of memory; a TB/GB slip moves it far."""
    for level in profile.memory:
        if level.chip_bandwidth_bytes_per_s is None or not level.holds:
            continue
        compute = profile.compute
        ridge = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")] / level.chip_bandwidth_bytes_per_s
        least, most = RIDGE_POINTS["near-bank" if near_bank(level) else
                                   level.kind if level.kind != "dram" else profile.kind]
        yield from unless_within(ridge, least, most, 3, ("memory", level.name, "bandwidth"), (
            f"the ridge point would be {ridge:.3g} flops/byte at vendor peaks: expected {least:g} to {most:g} of "
            f"{level.kind}, kind '{profile.kind}'"))


def gpu_memory_states_what_reads_achieve(profile: HardwareProfile) -> Iterator[Remark]:
    """Measured reads on GPUs reach 0.72 to 0.98 of the vendor's peak; 1.0 is a default, not a measurement."""
    for level in profile.memory:
        if profile.kind == "gpu" and level.kind == "dram" and not level.overflow and level.achievable_fraction == 1.0:
            yield "warning", ("memory", level.name), (
                "no achievable_fraction: large reads of GPU memory reach 0.72 to 0.98 of the peak")


def shares_are_not_lost(profile: HardwareProfile) -> Iterator[Remark]:
    """Large reads reach half of the peak even on a CPU with HBM, and a runtime keeps 2 to 30 % where it keeps any."""
    for level in profile.memory:
        reached, key = level.achievable_fraction, ("memory", level.name, "achievable_fraction")
        yield from unless_within(reached, 0.4, 1.0, 8, key, (
            f"{reached:g} of the peak: large reads reach 0.4 and more"))
        if level.reserve_fraction and outside(level.reserve_fraction, 0.02, 0.3, 1):
            yield "warning", ("memory", level.name, "reserve_fraction"), (
                f"{level.reserve_fraction:g} of the capacity: runtimes keep 0.02 to 0.3")


def banks_carry_the_bandwidth(profile: HardwareProfile) -> Iterator[Remark]:
    """Banks deliver a word each a cycle of the unit or of half or twice its clock; only an SRAM has them."""
    clock_hz = profile.compute.clock_hz
    for level in profile.memory:
        if level.banks is None:
            continue
        if level.kind != "sram":
            yield "error", ("memory", level.name, "banks"), f"a level of kind {level.kind} has no banks of its own here"
        elif clock_hz is not None and level.bandwidth_bytes_per_s is not None:
            carried = level.banks.count * level.banks.width_bytes * clock_hz
            key = ("memory", level.name, "banks", "count")
            yield from unless_within(level.bandwidth_bytes_per_s / carried, 0.45, 2.2, 1.5, key, (
                f"{level.banks.count} banks of {level.banks.width_bytes} bytes carry {rate_words(carried)} at the "
                f"unit's clock, not {rate_words(level.bandwidth_bytes_per_s)}"))


RULES = (levels_are_nearest_first, private_bandwidth_is_some_bytes_a_clock, on_chip_memory_is_read_in_microseconds,
         capacity_is_shared_by_the_units, latencies_are_of_their_kind, bytes_in_flight_fit_the_units,
         ridge_point_is_of_its_kind, gpu_memory_states_what_reads_achieve, shares_are_not_lost,
         banks_carry_the_bandwidth)
