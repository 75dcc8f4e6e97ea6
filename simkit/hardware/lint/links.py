"""Rules on networks and systems: what a wire of that name carries, and how many chips hang on it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.lint.ranges import INFINIBAND_BYTES_PER_S, NVLINK_BYTES_PER_S, PCIE_LANE_BYTES_PER_S
from simkit.hardware.lint.remarks import Remark, outside, rate_words, unless_within
from simkit.hardware.profile import HardwareProfile, Link

_PCIE: Final = re.compile(r"PCIe (\d)(?:\.0)? x(\d+)")
_NVLINK: Final = re.compile(r"NVLink (\d)")
_INFINIBAND: Final = re.compile(r"\b(HDR|NDR|XDR)\b")
_BITS: Final = re.compile(r"(?:(\d+) x )?(\d+) ?(?:GbE|Gb/s)")


def wire_bytes_per_s(name: str) -> float | None:
    """What one direction of a link carries by its name (PCIe 5.0 x16, NVLink 4, 8 x 100 GbE); None for other names."""
    pcie, nvlink, infiniband, bits = (form.search(name) for form in (_PCIE, _NVLINK, _INFINIBAND, _BITS))
    if pcie and pcie[1] in PCIE_LANE_BYTES_PER_S:
        return PCIE_LANE_BYTES_PER_S[pcie[1]] * int(pcie[2])
    if nvlink:
        return NVLINK_BYTES_PER_S.get(nvlink[1])
    if infiniband:
        return INFINIBAND_BYTES_PER_S[infiniband[1]]
    return int(bits[1] or 1) * int(bits[2]) * 1e9 / 8 if bits else None


def _links(profile: HardwareProfile) -> list[tuple[str, Link]]:
    named = (("scale_up", profile.scale_up), ("scale_out", profile.scale_out))
    return [(name, link) for name, link in named if link is not None]


def links_are_slower_than_memory(profile: HardwareProfile) -> Iterator[Remark]:
    """A port to another chip is narrower than the memory that fills it, and the next network no wider.

    Chips whose cache lives in DRAM have 1.3 to 45 bytes a second of memory for one of the link.
    """
    fastest = max((level.chip_bandwidth_bytes_per_s or 0.0 for level in profile.memory), default=0.0)
    main = profile.main_memory.chip_bandwidth_bytes_per_s or fastest
    for name, link in _links(profile):
        path = ("links", name, "bandwidth")
        if main and link.bandwidth_bytes_per_s > main:
            yield "error", path, (
                f"{rate_words(link.bandwidth_bytes_per_s)} between chips is more than main memory has "
                f"({rate_words(main)})")
        elif name == "scale_up" and profile.main_memory.kind == "dram" and profile.main_memory.bandwidth_bytes_per_s:
            ratio = main / link.bandwidth_bytes_per_s
            severity = outside(ratio, 1.0, 80.0, 20)
            if severity:
                yield severity, path, (
                    f"{rate_words(link.bandwidth_bytes_per_s)} between chips is {ratio:.3g} times less than main "
                    "memory has: expected 1 to 80")
    if profile.scale_up and profile.scale_out:
        near, far = profile.scale_up.bandwidth_bytes_per_s, profile.scale_out.bandwidth_bytes_per_s
        yield from unless_within(near / far, 1.0, 60.0, 5, ("links", "scale_out", "bandwidth"), (
            f"{rate_words(far)} beside {rate_words(near)} of the nearer link: "
            "expected the same to a sixtieth of it"))


def links_are_within_their_wires(profile: HardwareProfile) -> Iterator[Remark]:
    """A link's name says what its wires carry in one direction; software reaches a fifth of it at the least."""
    for name, link in _links(profile):
        wire = wire_bytes_per_s(link.name)
        severity = None if wire is None else outside(link.bandwidth_bytes_per_s / wire, 0.2, 1.03, 1.5)
        if wire is not None and severity:
            yield severity, ("links", name, "bandwidth"), (
                f"{rate_words(link.bandwidth_bytes_per_s)}, but '{link.name}' carries {rate_words(wire)} in one "
                "direction")


def collectives_reach_their_share(profile: HardwareProfile) -> Iterator[Remark]:
    """Large collectives reach 0.49 (A100) to 0.92 (TPU v5p) of their wires; a start takes tens of us at most."""
    for name, link in _links(profile):
        yield from unless_within(link.achievable_fraction, 0.3, 1.0, 6, ("links", name, "achievable_fraction"), (
            f"{link.achievable_fraction:g} of the bandwidth: large collectives reach 0.3 and more"))
        yield from unless_within(link.collective_launch_s, 0.0, 30e-6, 10, ("links", name, "collective_launch"), (
            f"{format_quantity(link.collective_launch_s, SECONDS)} to start a phase of a collective: expected 30 µs "
            "at most"))
        rate = link.dispatch_bandwidth_bytes_per_s or link.achievable_bytes_per_s
        yield from unless_within(rate / link.achievable_bytes_per_s, 0.25, 1.1, 6, (
            "links", name, "dispatch_bandwidth"), (
            f"{rate_words(rate)} in dispatches: expected a quarter to 1.1 of what large collectives reach"))
        if link.dispatch_launch_s:
            yield from unless_within(link.dispatch_launch_s, 2.9e-6, 51e-6, 10, ("links", name, "dispatch_launch"), (
                f"{format_quantity(link.dispatch_launch_s, SECONDS)} of a dispatch: expected 2.9 to 51 µs"))


def messages_take_microseconds(profile: HardwareProfile) -> Iterator[Remark]:
    """A small message takes 0.3 us on the best fabric and 30 us through a network stack."""
    for name, link in _links(profile):
        yield from unless_within(link.latency_s, 0.3e-6, 30e-6, 10, ("links", name, "latency"), (
            f"{format_quantity(link.latency_s, SECONDS)} for a small message: expected 300 ns to 30 µs"))


def systems_are_as_large_as_their_links(profile: HardwareProfile) -> Iterator[Remark]:
    """The largest system is what the farthest network joins, and a farther network joins more chips than a nearer."""
    links = _links(profile)
    reach = max((link.max_chips for _, link in links), default=1)
    if not links and any(key.startswith("links.") for key in profile.missing):
        return  # a link there is, and no source gives its bandwidth
    if profile.max_chips > reach:
        joined = f"the links reach only {reach}" if links else "no link joins them"
        yield "error" if links else "warning", ("system", "max_chips"), f"{profile.max_chips} chips, but {joined}"
    elif profile.max_chips < reach:
        name = next(name for name, link in links if link.max_chips == reach)
        yield "warning", ("links", name, "max_chips"), (
            f"joins {reach} chips, but the largest system has {profile.max_chips}")
    if profile.scale_up and profile.scale_out and profile.scale_up.max_chips > profile.scale_out.max_chips:
        yield "error", ("links", "scale_up", "max_chips"), (
            f"{profile.scale_up.max_chips} chips are more than the farther network joins "
            f"({profile.scale_out.max_chips})")
    if reach > 100_000:
        yield "warning", ("links", links[-1][0], "max_chips"), f"no system of {reach} chips has been built"
    for name, link in links:
        if link.direct_chips is not None and link.direct_chips > link.max_chips:
            yield "error", ("links", name, "direct_chips"), f"{link.direct_chips} of {link.max_chips} chips"
        shared = link.shared_bandwidth_bytes_per_s
        if shared is not None and outside(shared / link.bandwidth_bytes_per_s, 0.1, link.max_chips / 2, 1):
            yield "warning", ("links", name, "shared_bandwidth"), (
                f"{rate_words(shared)} shared by {link.max_chips} chips of {rate_words(link.bandwidth_bytes_per_s)} "
                "each")


def shapes_hold_their_chips(profile: HardwareProfile) -> Iterator[Remark]:
    """Only a torus or mesh has sides: of two chips or more, whose product is the chips that the link joins."""
    for name, link in _links(profile):
        where = ("links", name, "shape")
        if link.shape is not None and link.topology not in ("torus", "mesh"):
            # Whatever else is wrong with its sides, they have to go.
            words = "x".join(map(str, link.shape)) + ("" if link.wraps is None else f", wraps {link.wraps}")
            yield "error", where, f"{words} on a {link.topology}: only a torus or a mesh has a shape"
            continue
        if link.topology != "torus" and link.wraps not in (None, "never"):
            yield "error", ("links", name, "wraps"), f"{link.wraps} on a {link.topology}: only a torus closes its sides"
        if link.shape is None:
            continue
        words = "x".join(map(str, link.shape))
        if math.prod(link.shape) < link.max_chips:
            yield "error", where, f"{words} are {math.prod(link.shape)} chips, but the link joins {link.max_chips}"
        elif math.prod(link.shape) > link.max_chips:
            yield "warning", ("links", name, "max_chips"), (
                f"{link.max_chips} chips, but a {link.topology} of {words} has {math.prod(link.shape)}")
        if min(link.shape) < 2:
            yield "warning", where, f"{words}: expected sides of two chips or more"
        if link.wraps == "blocks-of-4" and any(side % 4 for side in link.shape):
            yield "error", where, f"{words} is not made of blocks of 4"


RULES = (links_are_slower_than_memory, links_are_within_their_wires, collectives_reach_their_share,
         messages_take_microseconds, systems_are_as_large_as_their_links, shapes_hold_their_chips)
