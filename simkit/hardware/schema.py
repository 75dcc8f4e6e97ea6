"""The YAML form of a profile: which keys there are, their units and ranges, and how they become SI records.

A figure is either a bare quantity (``bandwidth: 3.35 TB/s``) or one with its source::

    bandwidth: {value: 3.35 TB/s, source: datasheet, confidence: datasheet, note: 5 stacks}

``source`` is free text or a key of the profile's ``sources:`` table. ``null`` says that no source gives the
figure; what then cannot be simulated is said when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, create_model, model_validator

from simkit.errors import MAX_SHOWN_ERRORS, Location, UserError, did_you_mean, raise_collected, shorten, shown
from simkit.hardware.kernel import FIGURES, GEMM_FIGURES, LIBRARIES, LIBRARY_FIGURES, SECTIONS
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
    Tensor,
)
from simkit.units import (
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
from simkit.validation import (
    Flag,
    Fraction,
    KeyName,
    Name,
    Number,
    Quantity,
    StrictRecord,
    Text,
    WholeNumber,
    check,
    rule,
)
from simkit.yaml_source import YamlSource, dotted, parse_yaml, read_scalar

SCHEMA_VERSION: Final = 1
SCHEMA_HISTORY: Final = {1: "first published form"}
CONFIDENCES: Final = ("datasheet", "paper-measured", "press", "estimate", "recalled", "calibration", "derived")

Bandwidth = Annotated[float, Quantity(BYTES_PER_S, 1e6, 1e18)]
Capacity = Annotated[float, Quantity(BYTES, 1, 1e18)]
Latency = Annotated[float, Quantity(SECONDS, 0, 1)]
FlopRate = Annotated[float, Quantity(FLOP_PER_S, 1e6, 1e20)]
Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4", "mxint8", "mxint4"]


class DramSchema(StrictRecord):
    """The DRAM devices behind a level."""

    type: Literal["HBM2", "HBM2e", "HBM3", "HBM3e", "HBM4", "GDDR6", "GDDR6X", "GDDR7", "LPDDR4", "LPDDR4X", "LPDDR5",
                  "LPDDR5X", "DDR4", "DDR5"]
    """JEDEC family; names the timing set of the replay engine."""
    stacks: Annotated[int, WholeNumber(1, 1024)] | None = None
    """Stacks or packages of the whole chip."""
    channels: Annotated[int, WholeNumber(1, 65536)] | None = None
    """Independent channels of the whole chip; for HBM the pseudo-channels."""
    bus_width_bits: Annotated[int, WholeNumber(1, 1_000_000)] | None = None
    """Data pins of the whole chip."""
    data_rate: Annotated[float, Quantity(HERTZ, 1e6, 1e12)] | None = None
    """Transfers per second on one pin, written as a frequency: 6.4 GHz is 6.4 Gbit/s."""
    access_granularity_bytes: Annotated[int, WholeNumber(1, 4096)] | None = None
    """Bytes of one burst: the least that a read moves."""


class MemorySchema(StrictRecord):
    """One memory level."""

    kind: Literal["sram", "cache", "dram"]
    """sram: addressed by software; cache: filled by hardware; dram: behind a memory controller."""
    scope: Literal["unit", "chip"] = "chip"
    """unit: capacity and bandwidth are of one compute unit; chip: of the whole chip."""
    capacity: Capacity
    """Of one unit or of the chip, as the scope says; powers of two only where written GiB."""
    bandwidth: Bandwidth | None
    """Vendor peak for reads."""
    achievable_fraction: Fraction = 1.0
    """Share of the peak that large reads reach."""
    latency: Latency | None = None
    """Idle load-to-use time."""
    reserve_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the capacity that the runtime keeps for itself."""
    holds: list[Literal["weights", "kv", "activations"]] | None = None
    """Tensors that may live here between steps; default: all in dram and in chip-wide sram, none elsewhere."""
    overflow: Flag = False
    """true: a tier that is used only when no number of chips could hold the model without it."""
    energy: Annotated[float, Quantity(J_PER_BYTE, 1e-16, 1e-6)] | None = None
    """Whole-path energy of reading one byte from here into a compute unit."""
    dram: DramSchema | None = None


class MatrixSchema(StrictRecord):
    """The matrix units."""

    peak: dict[Dtype, FlopRate | None]
    """Dense peak by data type; sparse marketing figures do not belong here."""
    achievable_fraction: Fraction = 1.0
    """Share of the peak that large matrix products reach."""
    tile_rows: Annotated[int, WholeNumber(1, 4096)] = 1
    """Rows that the matrix unit computes whether they are used or not (the M of its smallest tile)."""


class ComputeSchema(StrictRecord):
    """Arithmetic of one chip."""

    units: Annotated[int, WholeNumber(1, 10_000_000)]
    """Units that run work items side by side: SMs, compute units, cores."""
    unit_name: Text = "unit"
    """What the vendor calls one."""
    clock: Annotated[float, Quantity(HERTZ, 1e6, 1e11)] | None = None
    """Clock at which the peaks are stated."""
    matrix: MatrixSchema
    vector_peak: FlopRate | None = None
    """fp32 rate of the vector (CUDA-core) pipes, dense."""
    special_rate: Annotated[float, Quantity(OPS_PER_S, 1e6, 1e18)] | None = None
    """Exponentials per second of the whole chip."""
    outstanding_bytes: Capacity | None = None
    """Bytes that one unit can keep in flight (Little's law)."""


class LinkSchema(StrictRecord):
    """One chip-to-chip network."""

    name: Text
    """What the vendor calls it."""
    topology: Literal["switch", "ring", "torus", "mesh", "all-to-all"]
    """Decides which collective algorithms may run: direct sends need a switch or all-to-all."""
    bandwidth: Bandwidth | None
    """Of one chip, in one direction."""
    latency: Latency
    """Of one small message between neighbours, software included."""
    max_chips: Annotated[int, WholeNumber(1, 1_000_000)]
    """Chips that it joins."""
    in_network_reduction: Flag = False
    """true: the switch adds up all-reduces."""
    shared_bandwidth: Bandwidth | None = None
    """Of the one path, such as a host bridge, that all traffic among more than direct_chips chips crosses."""
    direct_chips: Annotated[int, WholeNumber(1, 1_000_000)] = 1
    """Chips that reach each other without the shared path."""
    energy: Annotated[float, Quantity(J_PER_BYTE, 1e-16, 1e-6)] | None = None
    """Of moving one byte to another chip."""


class LinksSchema(StrictRecord):
    """Networks inside a node or pod (scale_up) and between them (scale_out)."""

    scale_up: LinkSchema | None = None
    scale_out: LinkSchema | None = None


class SystemSchema(StrictRecord):
    """How many chips make a system and how a model is split over them."""

    sharding: Literal["tensor", "layer-pipelined"] = "tensor"
    """tensor: every layer is split over the chips; layer-pipelined: chips hold successive layers."""
    attention_sharding: Literal["heads", "batch", "context"] = "heads"
    """What is split when chips outnumber KV heads: replicated heads, sequences (Pope et al. 2022) or tokens."""
    max_chips: Annotated[int, WholeNumber(1, 1_000_000)] = 1
    """Largest system that may be asked for."""


class OverheadsSchema(StrictRecord):
    """Times that no roof explains."""

    kernel_launch: Latency = 0.0
    """Of each operator: launch and drain."""
    layer_latency: Latency = 0.0
    """Of each layer: fabric and schedule of machines without launches."""
    layer_latency_weights: Capacity | None = None
    """Bytes of the weights of the layer that layer_latency was measured on."""
    layer_latency_distance_fraction: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """The part of layer_latency that grows with the distance across a layer's weights, as their square root."""
    step: Latency = 0.0
    """Of each step: host work and sampling."""


class PowerSchema(StrictRecord):
    """Power and the energy of a flop."""

    tdp: Annotated[float, Quantity(WATTS, 0.1, 1e6)] | None = None
    """Board or chip power limit."""
    idle: Annotated[float, Quantity(WATTS, 0.0, 1e6)] | None = None
    """Drawn all the time, with a model resident and nothing running; without it energies stay unknown."""
    flop_energy: Annotated[float, Quantity(J_PER_FLOP, 1e-16, 1e-6)] | None = None
    """Of one 16-bit matrix flop."""


class PriceSchema(StrictRecord):
    """What one chip costs."""

    per_hour: Annotated[float, Quantity(USD_PER_HOUR, 1e-4, 1e6)] | None = None
    """Rent of one chip; without it costs stay unknown."""
    purchase: Annotated[float, Quantity(USD, 1, 1e9)] | None = None
    """Price of one chip."""


KernelFigure = Annotated[float, Quantity(COUNT, 0, 1e9)]
_OptionalFigure: Any = (KernelFigure | None, None)
LatentFigures: Any = create_model(
    "LatentFigures", __base__=StrictRecord, **dict.fromkeys(FIGURES, _OptionalFigure),
    __doc__="Figures that differ for kernels that read one latent a token (MLA).")
GemmFigures: Any = create_model(
    "GemmFigures", __base__=StrictRecord, **dict.fromkeys(GEMM_FIGURES, _OptionalFigure),
    __doc__="Figures of products of a few rows.")
LibraryFigures: Any = create_model(
    "LibraryFigures", __base__=StrictRecord, **dict.fromkeys(LIBRARY_FIGURES, _OptionalFigure),
    __doc__="Which attention kernels a software library has for this chip, and what its launches and items cost.")
_KERNEL_KEYS: dict[str, Any] = {"like": (Name | None, None), **dict.fromkeys(FIGURES, _OptionalFigure),
                                "latent": (LatentFigures | None, None), "gemm": (GemmFigures | None, None),
                                **dict.fromkeys(LIBRARIES, (LibraryFigures | None, None))}
KernelFigures: Any = create_model(
    "KernelFigures", __base__=StrictRecord, **_KERNEL_KEYS,
    __doc__="Calibrated figures of decode-attention kernels (simkit/hardware/kernel.py), or like: a chip to take them "
            "from.")


class KernelFileSchema(StrictRecord):
    """What kernel libraries do alike on every chip: the defaults under every profile's kernel section."""

    schema_version: Literal[1]
    name: Name
    sources: dict[Name, Text] = Field(default_factory=dict)
    kernel: KernelFigures


class ProfileSchema(StrictRecord):
    """A simkit hardware profile."""

    schema_version: Literal[1]
    """Form of this file."""
    name: Name
    """As on the command line; by custom the file's name."""
    extends: Text | None = None
    """Profile, by name or by path from this file, whose keys hold where this file is silent."""
    title: Text
    """As in headings."""
    vendor: Text
    """Who sells it."""
    kind: Literal["gpu", "asic", "tpu", "cpu"]
    """Which ranges `profile check` expects."""
    year: Annotated[int, WholeNumber(1990, 2100)] | None = None
    """Of first shipment."""
    aliases: list[Name] = Field(default_factory=list)
    """Names of this chip in measured data."""
    sources: dict[str, Text] = Field(default_factory=dict)
    """Short names that figures give as their source, with the document behind each."""
    compute: ComputeSchema
    memory: Annotated[dict[KeyName, MemorySchema], Field(min_length=1, max_length=16)]
    """Levels, nearest to the compute units first."""
    links: LinksSchema = LinksSchema()
    system: SystemSchema = SystemSchema()
    overheads: OverheadsSchema = OverheadsSchema()
    power: PowerSchema = PowerSchema()
    price: PriceSchema = PriceSchema()
    kernel: KernelFigures | None = None
    """Calibrated figures of decode-attention kernels, or like: a chip to take them from."""
    notes: list[Text] = Field(default_factory=list)
    """Printed by `profile show`."""

    @model_validator(mode="after")
    def _has_a_home_for_every_tensor(self) -> ProfileSchema:
        for tensor in ("weights", "kv", "activations"):
            if not any(tensor in _holds(level) and not level.overflow for level in self.memory.values()):
                raise rule(f"no memory level holds the {tensor}: add '{tensor}' to a level's 'holds'", "memory")
        if not any(rate is not None for rate in self.compute.matrix.peak.values()):
            raise rule("no rate: expected at least one, such as 'bf16: 989.4 TFLOP/s'", "compute", "matrix", "peak")
        if self.overheads.layer_latency_distance_fraction and self.overheads.layer_latency_weights is None:
            raise rule("a part that grows with a layer's weights: say of how many it is measured, such as 436 MB",
                       "overheads", "layer_latency_weights")
        return self


def _holds(level: MemorySchema) -> tuple[Tensor, ...]:
    if level.holds is not None:
        return tuple(level.holds)
    everything: tuple[Tensor, ...] = ("weights", "kv", "activations")
    return everything if level.kind == "dram" or (level.kind == "sram" and level.scope == "chip") else ()


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
    data = {key: _strip_figures(value, (key,), source, provenance, faults) for key, value in source.data.items()}
    raise_collected(faults)
    places: dict[str, Location] = {}
    for key, text in (overrides or {}).items():
        _override(data, key, text, places)
        provenance[key] = Provenance(source="set on the command line")
    return _to_profile(check(ProfileSchema, data, source, places), provenance, source.file)


def _strip_figures(node: Any, path: tuple[str | int, ...], source: YamlSource,
                   provenance: dict[str, Provenance], faults: list[UserError]) -> Any:
    """The document with ``{value: ..., source: ...}`` replaced by its value; sources go to ``provenance``."""
    if isinstance(node, list):
        return [_strip_figures(item, (*path, index), source, provenance, faults) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "value" not in node or path in (("sources",), ("memory",)):
        return {key: _strip_figures(value, (*path, key), source, provenance, faults) for key, value in node.items()}
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
        raise UserError("name a figure of a memory level", where=where,
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
            latency_s=level.latency, reserve_fraction=level.reserve_fraction, holds=_holds(level),
            overflow=level.overflow, energy_j_per_byte=level.energy,
            dram=None if dram is None else DramGeometry(
                type=dram.type, stacks=dram.stacks, channels=dram.channels, bus_width_bits=dram.bus_width_bits,
                data_rate_bits_per_s=dram.data_rate, access_granularity_bytes=dram.access_granularity_bytes)))
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
        kernel_figures=None if schema.kernel is None else _kernel_figures(schema.kernel),
        notes=tuple(schema.notes), provenance=dict(provenance), file=file)


def kernel_file_from_yaml(source: YamlSource) -> dict[str, float]:
    """The figures of a kernel file. Raises :class:`UserError` with every fault and its place."""
    faults: list[UserError] = []
    data = _strip_figures(source.data, (), source, {}, faults)
    raise_collected(faults)
    return _kernel_figures(check(KernelFileSchema, data, source).kernel)


def _kernel_figures(kernel: Any) -> dict[str, float]:
    found = {name: float(value) for name in FIGURES if (value := getattr(kernel, name)) is not None}
    for section, names in SECTIONS.items():
        inner = getattr(kernel, section)
        found |= {f"{section}.{name}": float(value) for name in names
                  if inner is not None and (value := getattr(inner, name)) is not None}
    return found
