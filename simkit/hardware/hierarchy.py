"""The memory hierarchy of one chip in words: what a diagram of it says at each level, on a terminal or on paper."""

from __future__ import annotations

from dataclasses import dataclass

from simkit.foundation.units import BYTES, BYTES_PER_S, COUNT, FLOP_PER_S, SECONDS, format_quantity
from simkit.hardware.fabric import BY_NEIGHBOURS
from simkit.hardware.profile import HardwareProfile, MemoryLevel

_UNKNOWN = "not known"
_CORNER = (6, 3)  # tiles drawn of a grid


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelWords:
    """One level: ``heading`` and ``size`` stand in its box, ``path`` on the way from it to the compute units."""

    heading: str
    size: str
    holds: str
    path: str
    ridge: str


def compute_words(chip: HardwareProfile) -> tuple[str, str]:
    """The compute units and their vendor peaks, the format of a bf16 workload first."""
    compute = chip.compute
    first = compute.matrix_dtype("bf16")
    rates = [f"{first} {format_quantity(compute.matrix_peak_flop_per_s[first], FLOP_PER_S)}"]
    if compute.vector_peak_flop_per_s is not None:
        rates.append(f"vector {format_quantity(compute.vector_peak_flop_per_s, FLOP_PER_S)}")
    units = f"{compute.units:,} {compute.unit_name}" + ("s" if compute.units > 1 else "")
    return units, ", ".join(rates)


def level_words(chip: HardwareProfile, level: MemoryLevel) -> LevelWords:
    """What is known of a level at vendor peaks; a level of scope ``unit`` is given for one unit and for the chip."""
    each = level.scope == "unit" and level.units > 1
    unit = chip.compute.unit_name
    size = format_quantity(level.chip_capacity_bytes, BYTES)
    rate = _UNKNOWN
    if level.bandwidth_bytes_per_s is not None and level.chip_bandwidth_bytes_per_s is not None:
        rate = format_quantity(level.chip_bandwidth_bytes_per_s, BYTES_PER_S)
        if each:
            rate = f"{level.units:,} × {format_quantity(level.bandwidth_bytes_per_s, BYTES_PER_S)} = {rate}"
        elif level.achievable_fraction < 1:
            reached = level.chip_bandwidth_bytes_per_s * level.achievable_fraction
            rate += f", {format_quantity(reached, BYTES_PER_S)} reached"
    if each:
        size = f"{level.units:,} × {format_quantity(level.capacity_bytes, BYTES)} = {size}"
    beside = ""
    if level.compute is not None:
        inside = level.compute.bandwidth_bytes_per_s * (level.units if level.scope == "unit" else 1)
        formats = ", ".join(f"{name} {rate:g} flop/byte" for name, rate in level.compute.flop_per_byte.items())
        beside = f"; beside it {format_quantity(inside, BYTES_PER_S)}, {formats}"
    ridge = chip.ridge_point_flop_per_byte(level.name)
    holds = ", ".join(level.holds) or "nothing between steps"
    return LevelWords(
        heading=", ".join(dict.fromkeys([level.name, level.dram.type if level.dram else level.kind]))
                + (f", one for each {unit}" if each else ""),
        size=size, holds=f"{holds}, as overflow" if level.overflow else holds,
        path=rate + ("" if level.latency_s is None else f", {format_quantity(level.latency_s, SECONDS)}") + beside,
        ridge="ridge not known" if ridge is None else f"ridge {format_quantity(ridge, COUNT)} flop/byte")


def link_words(chip: HardwareProfile) -> str | None:
    """The nearest network to other chips; None where a chip stands alone or its link's bandwidth is not known."""
    link = chip.scale_up or chip.scale_out
    if link is None:
        return None
    layout = f" as {link.topology} of {'x'.join(map(str, link.shape))}" if link.shape else ""
    return (f"{link.name}: {format_quantity(link.bandwidth_bytes_per_s, BYTES_PER_S)}, "
            f"{format_quantity(link.latency_s, SECONDS)}, up to {link.max_chips:,} chips{layout}")


def fabric_rows(chip: HardwareProfile) -> list[str]:
    """The tiles of a chip: a corner of their grid, what is known of a tile and of a link; none without a fabric."""
    fabric = chip.fabric
    if fabric is None:
        return []
    (x, y), (most_x, most_y) = fabric.sides, _CORNER
    joined = fabric.topology in BY_NEIGHBOURS
    row = ("-" if joined else " ").join(["[]"] * min(x, most_x)) + (" ..." if x > most_x else "")
    between = [("|  " * min(x, most_x)).rstrip()] if joined and fabric.topology not in ("stream", "ring") else []
    grid = [line for number in range(min(y, most_y)) for line in ([*between, row] if number else [row])]
    tile, link = fabric.tile, fabric.link
    known = [f"{value:g} {words}" for value, words in (
        (tile.port_bytes_per_cycle, "bytes a cycle from a tile's memory"),
        (link.bytes_per_cycle, "bytes a cycle a link"),
        (link.hop_cycles or None, "cycles a hop"), (link.add_cycles or None, "cycles an addition on the way"),
        (fabric.start_cycles, "cycles before a phase")) if value is not None]
    return [*grid, *(["..."] if y > most_y else []), f"{x:,} x {y:,} tiles, {fabric.topology}",
            *([", ".join(known)] if known else [])]
