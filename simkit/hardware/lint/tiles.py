"""Rules on fabrics: tiles that exist, ports that their memory can fill, engines that multiply at the chip's peak."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from simkit.hardware.lint.ranges import FABRIC
from simkit.hardware.lint.remarks import Remark, Rule, rate_words
from simkit.hardware.profile import HardwareProfile

MOST_OF_A_MEMORY: Final = 1.3  # what ports may carry of the bandwidth that is stated beside them
PEAK_RATIOS: Final = (0.2, 5.0)  # of a systolic engine to the nearest peak: formats of half and double rate, two passes


def groups_lie_on_the_tiles(profile: HardwareProfile) -> Iterator[Remark]:
    """A layer's region and a head's tiles are part of the chip."""
    fabric = profile.fabric
    if fabric is None:
        return
    for key, sides in (("region", fabric.region), ("tiles", fabric.tiles)):
        if sides is not None and len(sides) == 2 and any(
                side > limit for side, limit in zip(sides, fabric.sides, strict=True)):
            yield "error", ("fabric", key), (
                f"{sides[0]}x{sides[1]} of {fabric.sides[0]}x{fabric.sides[1]} tiles: expected a part of them")
    for key, tiles in (("head_tiles", fabric.head_tiles), ("head_ways", math.prod(fabric.head_ways or (1,)))):
        if tiles is not None and tiles > fabric.n_tiles:
            yield "error", ("fabric", key), f"{tiles} tiles of one head, but the chip has {fabric.n_tiles}"
    if fabric.in_flight is not None and fabric.in_flight > fabric.most_regions:
        yield "error", ("fabric", "in_flight"), (
            f"{fabric.in_flight} groups of sequences on {fabric.most_regions} regions: expected at most one each")


def ports_carry_what_their_memory_gives(profile: HardwareProfile) -> Iterator[Remark]:
    """All engines together take no more from their tiles' memories than the level's bandwidth."""
    fabric = profile.fabric
    hz = fabric and (fabric.clock_hz or profile.compute.clock_hz)
    if fabric is None or not hz or fabric.tile.port_bytes_per_cycle is None:
        return
    ports = fabric.n_tiles * fabric.tile.port_bytes_per_cycle * hz
    fastest = max((level.chip_bandwidth_bytes_per_s or 0.0 for level in profile.memory if level.kind == "sram"),
                  default=0.0)
    if fastest and ports > MOST_OF_A_MEMORY * fastest:
        yield "error", ("fabric", "tile", "port_bytes_per_cycle"), (
            f"the ports of all tiles take {rate_words(ports)}, but the memory beside them gives {rate_words(fastest)}")


def engines_multiply_at_the_peak(profile: HardwareProfile) -> Iterator[Remark]:
    """A systolic engine multiplies its stationary operand by a row a cycle: together they make one of the peaks."""
    fabric = profile.fabric
    hz = fabric and (fabric.clock_hz or profile.compute.clock_hz)
    if fabric is None or not hz or fabric.tile.stationary is None:
        return
    rate = 2.0 * math.prod(fabric.tile.stationary) * fabric.tile.engines * fabric.n_tiles * hz
    ratios = [rate / peak for peak in profile.compute.matrix_peak_flop_per_s.values()]
    if not any(PEAK_RATIOS[0] <= ratio <= PEAK_RATIOS[1] for ratio in ratios):
        yield "warning", ("fabric", "tile", "stationary"), (
            f"a row a cycle makes {rate / 1e12:.4g} TFLOP/s, {min(ratios):.3g} to {max(ratios):.3g} times the peaks: "
            "expected a fifth to five times one of them")


def cycles_are_those_of_a_fabric(profile: HardwareProfile) -> Iterator[Remark]:
    """Bytes and cycles of tiles and links lie near those that were sold; zero takes a cost away."""
    for key, (least, most) in FABRIC.items():
        part, name = key.split(".")
        value = getattr(getattr(profile.fabric, part, None), name, None)
        if value and not least <= value <= most:
            yield "warning", ("fabric", part, name), f"{value:.4g}: fabrics that were sold have {least:g} to {most:g}"


RULES: Final[tuple[Rule, ...]] = (groups_lie_on_the_tiles, ports_carry_what_their_memory_gives,
                                  engines_multiply_at_the_peak, cycles_are_those_of_a_fabric)
