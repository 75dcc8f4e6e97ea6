"""Rules on DRAM: bandwidth, capacity and geometry are tied by pins, clocks and stacks of the family named."""

from __future__ import annotations

from collections.abc import Iterator

from simkit.foundation.units import BYTES, SECONDS, format_quantity
from simkit.hardware.lint.ranges import BURST_BYTES, DRAIN_S, DRAM_FAMILIES, GIB, NEAR_BANK_GAIN
from simkit.hardware.lint.remarks import Remark, rate_words, unless_within
from simkit.hardware.profile import HardwareProfile, MemoryLevel


def memory_family(level: MemoryLevel) -> str | None:
    """HBM, GDDR, LPDDR or DDR, by the DRAM that a level states or else by its name; None for anything else."""
    if level.kind != "dram":
        return None
    name = level.dram.type if level.dram else level.name.upper()
    return next((family for family in ("HBM", "GDDR", "LPDDR", "DDR") if name.startswith(family)), None)


def near_bank(level: MemoryLevel) -> bool:
    """Whether units stand at the banks of a DRAM, each with a bank of its own: not the pins give its bandwidth."""
    return level.kind == "dram" and level.scope == "unit"


def bandwidth_follows_from_pins(profile: HardwareProfile) -> Iterator[Remark]:
    r"""Peak bandwidth is pins times data rate, :math:`\beta = W f / 8`: the two are one parameter stated twice.

    2 % covers rounding in datasheets (3.35 for 3.352 TB/s); refresh and turnaround belong to the achieved fraction.
    """
    for level in profile.memory:
        dram, peak = level.dram, level.chip_bandwidth_bytes_per_s
        if dram is None or dram.bus_width_bits is None or dram.data_rate_bits_per_s is None or peak is None:
            continue
        pins = dram.bus_width_bits * dram.data_rate_bits_per_s / 8
        yield from unless_within(peak / pins, 0.98, 1.02, 1.05, ("memory", level.name, "bandwidth"), (
            f"{rate_words(peak)} is stated, but {dram.bus_width_bits} pins at {dram.data_rate_bits_per_s / 1e9:g} "
            f"Gb/s carry {rate_words(pins)}"))


def data_rate_is_one_of_its_family(profile: HardwareProfile) -> Iterator[Remark]:
    """No DRAM runs beyond the fastest speed grade of its family, with or without overclocking by a quarter."""
    for level in profile.memory:
        if level.dram is None or level.dram.data_rate_bits_per_s is None:
            continue
        rate, fastest = level.dram.data_rate_bits_per_s, DRAM_FAMILIES[level.dram.type].fastest_bits_per_s
        yield from unless_within(rate, fastest / 6, 1.01 * fastest, 1.25, ("memory", level.name, "dram", "data_rate"), (
            f"{rate / 1e9:g} Gb/s a pin is not a speed of {level.dram.type}, which reaches {fastest / 1e9:g} Gb/s"))


def pins_fit_the_stacks(profile: HardwareProfile) -> Iterator[Remark]:
    """A stack has a fixed number of pins, of which up to a tenth may be switched off (B200: 15 of 16)."""
    for level in profile.memory:
        dram = level.dram
        if dram is None or dram.stacks is None or dram.bus_width_bits is None:
            continue
        each = DRAM_FAMILIES[dram.type].stack_bits
        if each is None:
            continue
        share, key = dram.bus_width_bits / (dram.stacks * each), ("memory", level.name, "dram", "bus_width_bits")
        yield from unless_within(share, 0.9, 1.0, 1.05, key, (
            f"{dram.bus_width_bits} pins on {dram.stacks} stacks: a stack of {dram.type} has {each}"))


def bandwidth_fits_its_stacks(profile: HardwareProfile) -> Iterator[Remark]:
    """Stacks times pins times the family's fastest rate bounds bandwidth."""
    for level in profile.memory:
        dram, peak = level.dram, level.chip_bandwidth_bytes_per_s
        if dram is None or dram.stacks is None or peak is None:
            continue
        family = DRAM_FAMILIES[dram.type]
        if family.stack_bits is None:
            continue
        most = dram.stacks * family.stack_bits * family.fastest_bits_per_s / 8
        yield from unless_within(peak, most / 4, most, 1.1, ("memory", level.name, "bandwidth"), (
            f"{rate_words(peak)} does not fit {dram.stacks} stacks of {dram.type}, which give "
            f"{rate_words(most / 4)} to {rate_words(most)}"))


def capacity_fits_its_stacks(profile: HardwareProfile) -> Iterator[Remark]:
    """A stack holds at most what the tallest one of its family holds, and no maker sells one of under 1 GiB."""
    for level in profile.memory:
        if level.dram is None or level.dram.stacks is None:
            continue
        most = DRAM_FAMILIES[level.dram.type].stack_bytes
        if most is None:
            continue
        each = level.chip_capacity_bytes / level.dram.stacks
        yield from unless_within(each, GIB, most, 1.5, ("memory", level.name, "capacity"), (
            f"{format_quantity(each, BYTES)} in each of {level.dram.stacks} stacks: {level.dram.type} stacks hold "
            f"1 to {most / GIB:g} GiB"))


def channels_share_the_pins(profile: HardwareProfile) -> Iterator[Remark]:
    """A channel of each family has a width that its standard fixes, so channels times width are the pins."""
    for level in profile.memory:
        dram = level.dram
        if dram is None or dram.channels is None or dram.bus_width_bits is None:
            continue
        widths = DRAM_FAMILIES[dram.type].channel_bits
        each = dram.bus_width_bits / dram.channels
        if each not in widths:
            yield "error", ("memory", level.name, "dram", "channels"), (
                f"{dram.bus_width_bits} pins over {dram.channels} channels are {each:.4g} each: channels of "
                f"{dram.type} have {' or '.join(map(str, widths))}")


def bursts_are_of_a_usual_size(profile: HardwareProfile) -> Iterator[Remark]:
    """A burst is a channel's width times the burst length: 32 or 64 bytes in every family of the last ten years."""
    for level in profile.memory:
        size = level.dram.access_granularity_bytes if level.dram else None
        if size is not None and size not in BURST_BYTES:
            yield "error", ("memory", level.name, "dram", "access_granularity_bytes"), (
                f"no DRAM moves bursts of {size} bytes: expected {', '.join(map(str, BURST_BYTES))}")


def memory_is_read_in_its_family_s_time(profile: HardwareProfile) -> Iterator[Remark]:
    r"""Reading a memory once takes :math:`C / \beta`, and both grow with the devices: the time is the family's.

    All 30 chips with HBM of 2017 to 2026 need 21 to 43 ms, graphics memory 25 to 65; a slip of two in either parameter
    shows, whatever the size of the chip. Units at the banks read 4 to 16 times as fast as pins.
    """
    for level in profile.memory:
        family, peak = memory_family(level), level.chip_bandwidth_bytes_per_s
        if family is None or peak is None:
            continue
        least, most = DRAIN_S[family]
        if near_bank(level):
            least /= NEAR_BANK_GAIN
        drain_s = level.chip_capacity_bytes / peak
        yield from unless_within(drain_s, least, most, 3, ("memory", level.name, "capacity"), (
            f"{format_quantity(level.chip_capacity_bytes, BYTES)} at {rate_words(peak)} are read in "
            f"{format_quantity(drain_s, SECONDS)}: expected {format_quantity(least, SECONDS)} to "
            f"{format_quantity(most, SECONDS)} of {family}"))


RULES = (bandwidth_follows_from_pins, data_rate_is_one_of_its_family, pins_fit_the_stacks, bandwidth_fits_its_stacks,
         capacity_fits_its_stacks, channels_share_the_pins, bursts_are_of_a_usual_size,
         memory_is_read_in_its_family_s_time)
