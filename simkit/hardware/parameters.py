"""Every parameter of a profile as a flat list: dotted key, SI value, dimension, and where it comes from.

What ``profile show`` prints and ``profile diff`` compares. Keys are those of the file and of ``--set``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from simkit.foundation.units import (
    BYTES,
    BYTES_PER_S,
    COUNT,
    FLOP_PER_S,
    HERTZ,
    J_PER_BYTE,
    J_PER_FLOP,
    OPS_PER_S,
    SECONDS,
    USD,
    USD_PER_HOUR,
    WATTS,
)
from simkit.hardware.profile import HardwareProfile, Link, MemoryLevel, Provenance

Entry = tuple[str, float | str | None, str | None]
_UNSTATED = Provenance()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileParameter:
    """One parameter. ``value``: in SI units, text, or None where no source gives it; ``dimension``: None for text."""

    key: str
    value: float | str | None
    dimension: str | None
    provenance: Provenance


def profile_parameters(profile: HardwareProfile) -> list[ProfileParameter]:
    """All parameters in the order of the file's sections; optional ones that the profile leaves out are not listed.

    A parameter that the profile names as unknown (``null``) is listed with the value None.
    """
    listed = []
    for key, value, dimension in _entries(profile):
        if value is not None or key in profile.missing:
            listed.append(ProfileParameter(key=key, value=value, dimension=dimension,
                                        provenance=profile.provenance.get(key, _UNSTATED)))
    return listed


def _entries(profile: HardwareProfile) -> Iterator[Entry]:
    compute, power, price = profile.compute, profile.power, profile.price
    yield "compute.units", compute.units, COUNT
    yield "compute.clock", compute.clock_hz, HERTZ
    unknown = [key.rpartition(".")[2] for key in profile.missing if key.startswith("compute.matrix.peak.")]
    for dtype in (*compute.matrix_peak_flop_per_s, *unknown):
        yield f"compute.matrix.peak.{dtype}", compute.matrix_peak_flop_per_s.get(dtype), FLOP_PER_S
    yield "compute.matrix.achievable_fraction", compute.matrix_achievable_fraction, COUNT
    yield "compute.matrix.tile_rows", compute.matrix_tile_rows, COUNT
    yield "compute.vector_peak", compute.vector_peak_flop_per_s, FLOP_PER_S
    yield "compute.special_rate", compute.special_ops_per_s, OPS_PER_S
    yield "compute.outstanding_bytes", compute.outstanding_bytes_per_unit, BYTES
    for level in profile.memory:
        yield from _level_entries(level)
    for name, link in (("scale_up", profile.scale_up), ("scale_out", profile.scale_out)):
        yield from _link_entries(f"links.{name}", link)
    yield "system.sharding", profile.sharding, None
    yield "system.attention_sharding", profile.attention_sharding, None
    yield "system.max_chips", profile.max_chips, COUNT
    yield "overheads.kernel_launch", profile.overheads.kernel_launch_s, SECONDS
    yield "overheads.layer_latency", profile.overheads.layer_latency_s, SECONDS
    yield "overheads.layer_latency_weights", profile.overheads.layer_latency_weights_bytes, BYTES
    yield "overheads.layer_latency_distance_fraction", profile.overheads.layer_latency_distance_fraction, COUNT
    yield "overheads.step", profile.overheads.step_s, SECONDS
    yield "power.tdp", power.tdp_w, WATTS
    yield "power.idle", power.idle_w, WATTS
    yield "power.flop_energy", power.energy_j_per_flop, J_PER_FLOP
    yield "price.per_hour", price.usd_per_hour, USD_PER_HOUR
    yield "price.purchase", price.purchase_usd, USD
    yield "kernel.like", profile.kernel_like, None
    for name, value in (profile.kernel_parameters or {}).items():
        yield f"kernel.{name}", value, COUNT


def _level_entries(level: MemoryLevel) -> Iterator[Entry]:
    key = f"memory.{level.name}"
    yield f"{key}.kind", level.kind, None
    yield f"{key}.scope", level.scope, None
    yield f"{key}.capacity", level.capacity_bytes, BYTES
    yield f"{key}.bandwidth", level.bandwidth_bytes_per_s, BYTES_PER_S
    yield f"{key}.achievable_fraction", level.achievable_fraction, COUNT
    yield f"{key}.latency", level.latency_s, SECONDS
    yield f"{key}.reserve_fraction", level.reserve_fraction, COUNT
    yield f"{key}.holds", ", ".join(level.holds) or "nothing between steps", None
    yield f"{key}.overflow", "true" if level.overflow else None, None
    yield f"{key}.energy", level.energy_j_per_byte, J_PER_BYTE
    if level.banks is not None:
        yield f"{key}.banks.count", level.banks.count, COUNT
        yield f"{key}.banks.width_bytes", level.banks.width_bytes, COUNT
        yield f"{key}.banks.scheduled", "true" if level.banks.scheduled else None, None
    if level.dram is None:
        return
    dram = level.dram
    yield f"{key}.dram.type", dram.type, None
    yield f"{key}.dram.stacks", dram.stacks, COUNT
    yield f"{key}.dram.channels", dram.channels, COUNT
    yield f"{key}.dram.bus_width_bits", dram.bus_width_bits, COUNT
    yield f"{key}.dram.data_rate", dram.data_rate_bits_per_s, HERTZ
    yield f"{key}.dram.access_granularity_bytes", dram.access_granularity_bytes, COUNT


def _link_entries(key: str, link: Link | None) -> Iterator[Entry]:
    if link is None:
        yield f"{key}.bandwidth", None, BYTES_PER_S  # shown only where the profile says that it is unknown
        return
    yield f"{key}.name", link.name, None
    yield f"{key}.topology", link.topology, None
    yield f"{key}.bandwidth", link.bandwidth_bytes_per_s, BYTES_PER_S
    yield f"{key}.latency", link.latency_s, SECONDS
    yield f"{key}.max_chips", link.max_chips, COUNT
    yield f"{key}.in_network_reduction", "true" if link.in_network_reduction else None, None
    yield f"{key}.shared_bandwidth", link.shared_bandwidth_bytes_per_s, BYTES_PER_S
    yield f"{key}.direct_chips", link.direct_chips if link.shared_bandwidth_bytes_per_s else None, COUNT
    yield f"{key}.energy", link.energy_j_per_byte, J_PER_BYTE
