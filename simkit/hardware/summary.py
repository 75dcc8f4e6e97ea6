"""A profile as records: the line of a list, and every parameter with its source."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from simkit.foundation.tables import Records, cell
from simkit.foundation.units import COUNT
from simkit.hardware.parameters import profile_parameters
from simkit.hardware.profile import HardwareProfile

BALANCE: Final = "flop/byte"


def summaries(profiles: Iterable[HardwareProfile]) -> Records:
    """One record a profile, with the parameters that decide where GQA pays."""
    return Records(_summary(profile) for profile in profiles)


def _summary(chip: HardwareProfile) -> dict[str, Any]:
    memory = chip.main_memory
    return {
        "name": chip.name, "title": chip.title, "vendor": chip.vendor, "kind": chip.kind, "year": chip.year,
        "memory": memory.name, "capacity_bytes": memory.chip_capacity_bytes,
        "bandwidth_bytes_per_s": memory.chip_bandwidth_bytes_per_s,
        "ridge_flop_per_byte": chip.ridge_point_flop_per_byte(), "sharding": chip.sharding, "max_chips": chip.max_chips,
        "unknown": ", ".join(chip.missing) or None,
    }


def unit_of(dimension: str | None) -> str | None:
    """The unit of an SI value for a record's ``unit``; None for text and plain numbers."""
    return None if dimension == COUNT else dimension


def parameter_records(chip: HardwareProfile) -> Records:
    """One record a parameter, with its source, and the ridge point of each memory level.

    ``text`` is the value with its unit; the value itself is in SI units.
    """
    found = Records()
    for one in profile_parameters(chip):
        text = "not known" if one.value is None else cell(one.value, one.dimension)
        found.append({
            "profile": chip.name, "key": one.key, "value": one.value, "unit": unit_of(one.dimension), "text": text,
            "confidence": one.provenance.confidence, "source": one.provenance.source, "note": one.provenance.note})
    for level in chip.memory:
        ridge = chip.ridge_point_flop_per_byte(level.name)
        text = "not known" if ridge is None else f"{cell(ridge, COUNT)} {BALANCE}"
        found.append({
            "profile": chip.name, "key": f"memory.{level.name}.ridge", "value": ridge, "unit": BALANCE, "text": text,
            "confidence": "derived", "source": "matrix rate over this level's bandwidth, both as achieved",
            "note": f"for a bf16 workload, which runs in {chip.compute.matrix_dtype('bf16')} here"})
    return found
