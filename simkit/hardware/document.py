"""A profile's document becomes SI records: parameters apart from sources, ``--set`` values in place, then the schema.

A parameter is either a bare quantity (``bandwidth: 3.35 TB/s``) or one with its source::

    bandwidth: {value: 3.35 TB/s, source: datasheet, confidence: datasheet, note: 5 stacks}

``source`` is free text or a key of the profile's ``sources:`` table. ``null`` says that no source gives the
parameter; what then cannot be simulated is said when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simkit.foundation.errors import (
    MAX_SHOWN_ERRORS,
    Location,
    UserError,
    did_you_mean,
    raise_collected,
    shorten,
    shown,
)
from simkit.foundation.validation import check
from simkit.foundation.yaml_source import YamlSource, dotted, parse_yaml, read_scalar
from simkit.hardware.kernel import PARAMETERS, SECTIONS
from simkit.hardware.profile import (
    Compute,
    DramGeometry,
    HardwareProfile,
    Link,
    MemoryLevel,
    Overheads,
    Power,
    Price,
    Provenance,
    SramBanks,
)
from simkit.hardware.schema import (
    CONFIDENCES,
    SCHEMA_HISTORY,
    SCHEMA_VERSION,
    KernelFileSchema,
    LinkSchema,
    ProfileSchema,
    tensors_held,
)


def profile_from_yaml(source: YamlSource, overrides: Mapping[str, str] | None = None) -> HardwareProfile:
    """Check a document and turn it into a profile; ``overrides`` are ``--set`` values by dotted key.

    A document that extends another comes from :mod:`simkit.hardware.inherit`, which merges them.
    Raises :class:`UserError` with every fault and its place.
    """
    version = source.data.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version not in SCHEMA_HISTORY:
        history = "; ".join(f"{number}: {change}" for number, change in SCHEMA_HISTORY.items())
        raise UserError(f"{shown(version)} is not a version that this simkit reads (versions: {history})",
                        where=source.locate(["schema_version"]))
    provenance: dict[str, Provenance] = {}
    faults: list[UserError] = []
    data = {key: _strip_parameters(value, (key,), source, provenance, faults) for key, value in source.data.items()}
    raise_collected(faults)
    places: dict[str, Location] = {}
    for key, text in (overrides or {}).items():
        _override(data, key, text, places)
        provenance[key] = Provenance(source="set on the command line")
    return _to_profile(check(ProfileSchema, data, source, places), provenance, source.file)


def _strip_parameters(node: Any, path: tuple[str | int, ...], source: YamlSource,
                   provenance: dict[str, Provenance], faults: list[UserError]) -> Any:
    """The document with ``{value: ..., source: ...}`` replaced by its value; sources go to ``provenance``."""
    if isinstance(node, list):
        return [_strip_parameters(item, (*path, index), source, provenance, faults) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "value" not in node or path in (("sources",), ("memory",)):
        return {key: _strip_parameters(value, (*path, key), source, provenance, faults) for key, value in node.items()}
    known = ("value", "source", "confidence", "note")
    for key, given in node.items():
        where = source.locate((*path, key))
        if key not in known:
            hint = did_you_mean(key, known) if len(faults) < MAX_SHOWN_ERRORS else None  # of what is shown
            faults.append(UserError("unknown key", where=where, hint=hint))
        elif key != "value" and given is not None and not isinstance(given, str):
            faults.append(UserError(f"{shown(given)} is not text", where=where))
        elif key == "confidence" and given is not None and given not in CONFIDENCES:
            hint = did_you_mean(given, CONFIDENCES)
            faults.append(UserError(f"{shown(given)} is not known: expected one of {', '.join(CONFIDENCES)}",
                                    where=where, hint=hint if hint and hint.startswith("did") else None))
    if faults:
        return node["value"]
    table, named = source.data.get("sources"), node.get("source")
    full = table.get(named, named) if isinstance(table, dict) else named
    provenance[dotted(path)] = Provenance(source=full, confidence=node.get("confidence"), note=node.get("note"))
    return node["value"]


def _override(data: dict[str, Any], key: str, text: str, places: dict[str, Location]) -> None:
    where = Location(file="--set", key=key)
    parts = key.split(".")
    if parts[0] == "extends":
        raise UserError("only a file can extend a profile", where=where, hint="name that profile instead")
    levels = data.get("memory")
    if parts[0] == "memory" and len(parts) < 3:
        named = parts[1] if len(parts) == 2 and parts[1] else next(iter(levels or ()), "hbm")
        raise UserError("name a parameter of a memory level", where=where,
                        hint=f"such as --set memory.{shorten(str(named), 64)}.bandwidth=8TB/s")
    node: Any = data
    for depth, part in enumerate(parts[:-1], start=1):
        if part not in node and parts[0] != "memory":
            node[part] = {}  # an optional section that the file leaves out; the schema still checks its keys
            places[".".join(parts[:depth])] = where
        if part not in node:
            raise UserError(f"no such key '{part[:64]}'", where=where, hint=did_you_mean(part, node))
        node = node[part]
        if not isinstance(node, dict):
            raise UserError(f"'{part[:64]}' has no keys below it", where=where,
                            hint=f"write --set {shorten('.'.join(parts[:depth]), 64)}={shorten(text.strip(), 40)}")
    places[key] = where
    node[parts[-1]] = _setting(text.strip())


def _setting(text: str) -> Any:
    """A value of ``--set``: as a plain scalar of the file would be read, or a list in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return parse_yaml(f"value: {text}", file="--set").data["value"]
    return read_scalar(text)


def _to_profile(schema: ProfileSchema, provenance: Mapping[str, Provenance], file: str) -> HardwareProfile:
    compute, matrix = schema.compute, schema.compute.matrix
    missing = [f"compute.matrix.peak.{dtype}" for dtype, rate in matrix.peak.items() if rate is None]
    levels: list[MemoryLevel] = []
    for name, level in schema.memory.items():
        if level.bandwidth is None:
            missing.append(f"memory.{name}.bandwidth")
        dram = level.dram
        levels.append(MemoryLevel(
            name=name, kind=level.kind, scope=level.scope, units=compute.units, capacity_bytes=level.capacity,
            bandwidth_bytes_per_s=level.bandwidth, achievable_fraction=level.achievable_fraction,
            latency_s=level.latency, reserve_fraction=level.reserve_fraction, holds=tensors_held(level),
            overflow=level.overflow, energy_j_per_byte=level.energy,
            dram=None if dram is None else DramGeometry(
                type=dram.type, stacks=dram.stacks, channels=dram.channels, bus_width_bits=dram.bus_width_bits,
                data_rate_bits_per_s=dram.data_rate, access_granularity_bytes=dram.access_granularity_bytes),
            banks=None if level.banks is None else SramBanks(
                count=level.banks.count, width_bytes=level.banks.width_bytes, scheduled=level.banks.scheduled)))
    links: dict[str, Link | None] = {}
    for name in ("scale_up", "scale_out"):
        link: LinkSchema | None = getattr(schema.links, name)
        if link is not None and link.bandwidth is None:
            missing.append(f"links.{name}.bandwidth")
        links[name] = None if link is None or link.bandwidth is None else Link(
            name=link.name, topology=link.topology, bandwidth_bytes_per_s=link.bandwidth, latency_s=link.latency,
            max_chips=link.max_chips, in_network_reduction=link.in_network_reduction, energy_j_per_byte=link.energy,
            shared_bandwidth_bytes_per_s=link.shared_bandwidth, direct_chips=link.direct_chips)
    return HardwareProfile(
        name=schema.name, title=schema.title, vendor=schema.vendor, kind=schema.kind, year=schema.year,
        aliases=tuple(schema.aliases), memory=tuple(levels), scale_up=links["scale_up"], scale_out=links["scale_out"],
        compute=Compute(
            units=compute.units, unit_name=compute.unit_name, clock_hz=compute.clock,
            matrix_peak_flop_per_s={dtype: rate for dtype, rate in matrix.peak.items() if rate is not None},
            matrix_achievable_fraction=matrix.achievable_fraction, matrix_tile_rows=matrix.tile_rows,
            vector_peak_flop_per_s=compute.vector_peak, special_ops_per_s=compute.special_rate,
            outstanding_bytes_per_unit=compute.outstanding_bytes),
        overheads=Overheads(kernel_launch_s=schema.overheads.kernel_launch,
                            layer_latency_s=schema.overheads.layer_latency, step_s=schema.overheads.step,
                            layer_latency_weights_bytes=schema.overheads.layer_latency_weights,
                            layer_latency_distance_fraction=schema.overheads.layer_latency_distance_fraction),
        power=Power(tdp_w=schema.power.tdp, idle_w=schema.power.idle, energy_j_per_flop=schema.power.flop_energy),
        price=Price(usd_per_hour=schema.price.per_hour, purchase_usd=schema.price.purchase),
        sharding=schema.system.sharding,
        attention_sharding=schema.system.attention_sharding, max_chips=schema.system.max_chips, missing=tuple(missing),
        kernel_like=getattr(schema.kernel, "like", None),
        kernel_parameters=None if schema.kernel is None else _kernel_parameters(schema.kernel),
        notes=tuple(schema.notes), provenance=dict(provenance), file=file)


def kernel_file_from_yaml(source: YamlSource) -> dict[str, float]:
    """The parameters of a kernel file. Raises :class:`UserError` with every fault and its place."""
    faults: list[UserError] = []
    data = _strip_parameters(source.data, (), source, {}, faults)
    raise_collected(faults)
    return _kernel_parameters(check(KernelFileSchema, data, source).kernel)


def _kernel_parameters(kernel: Any) -> dict[str, float]:
    found = {name: float(value) for name in PARAMETERS if (value := getattr(kernel, name)) is not None}
    for section, names in SECTIONS.items():
        inner = getattr(kernel, section)
        found |= {f"{section}.{name}": float(value) for name in names
                  if inner is not None and (value := getattr(inner, name)) is not None}
    return found
