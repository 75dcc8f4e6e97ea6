"""The YAML form of a profile: which keys there are, units and ranges. :mod:`simkit.hardware.document` reads it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, create_model, model_validator

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
from simkit.foundation.validation import (
    Flag,
    Fraction,
    KeyName,
    Name,
    Number,
    Quantity,
    StrictRecord,
    Text,
    WholeNumber,
    rule,
)
from simkit.hardware.kernel import GEMM_PARAMETERS, LIBRARIES, LIBRARY_PARAMETERS, MOE_PARAMETERS, PARAMETERS
from simkit.hardware.profile import Tensor

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


class BanksSchema(StrictRecord):
    """Banks of an SRAM; together they deliver the level's bandwidth, one word each a cycle."""

    count: Annotated[int, WholeNumber(1, 65536)]
    """Of one unit or of the chip, as the level's scope says."""
    width_bytes: Annotated[int, WholeNumber(1, 4096)]
    """Bytes that one bank delivers in a cycle."""
    scheduled: Flag = False
    """true: a compiler places all accesses so that none of one cycle meet in a bank; false: those that meet wait."""


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
    banks: BanksSchema | None = None


class MatrixSchema(StrictRecord):
    """The matrix units."""

    peak: dict[Dtype, FlopRate | None]
    """Dense peak by data type; sparse marketing parameters do not belong here."""
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


KernelParameter = Annotated[float, Quantity(COUNT, 0, 1e9)]
_OptionalParameter: Any = (KernelParameter | None, None)
LatentParameters: Any = create_model(
    "LatentParameters", __base__=StrictRecord, **dict.fromkeys(PARAMETERS, _OptionalParameter),
    __doc__="Parameters that differ for kernels that read one latent a token (MLA).")
GemmParameters: Any = create_model(
    "GemmParameters", __base__=StrictRecord, **dict.fromkeys(GEMM_PARAMETERS, _OptionalParameter),
    __doc__="Parameters of products of a few rows.")
MoeParameters: Any = create_model(
    "MoeParameters", __base__=StrictRecord, **dict.fromkeys(MOE_PARAMETERS, _OptionalParameter),
    __doc__="Parameters of the routed experts of a layer.")
LibraryParameters: Any = create_model(
    "LibraryParameters", __base__=StrictRecord, **dict.fromkeys(LIBRARY_PARAMETERS, _OptionalParameter),
    __doc__="Which attention kernels a software library has for this chip, and what its launches and items cost.")
_KERNEL_KEYS: dict[str, Any] = {"like": (Name | None, None), **dict.fromkeys(PARAMETERS, _OptionalParameter),
                                "latent": (LatentParameters | None, None), "gemm": (GemmParameters | None, None),
                                "moe": (MoeParameters | None, None),
                                **dict.fromkeys(LIBRARIES, (LibraryParameters | None, None))}
KernelParameters: Any = create_model(
    "KernelParameters", __base__=StrictRecord, **_KERNEL_KEYS,
    __doc__="Calibrated parameters of decode-attention kernels (simkit/hardware/kernel.py), or like: a chip to take "
            "them from.")


class KernelFileSchema(StrictRecord):
    """What kernel libraries do alike on every chip: the defaults under every profile's kernel section."""

    schema_version: Literal[1]
    name: Name
    sources: dict[Name, Text] = Field(default_factory=dict)
    kernel: KernelParameters


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
    """Short names that parameters give as their source, with the document behind each."""
    compute: ComputeSchema
    memory: Annotated[dict[KeyName, MemorySchema], Field(min_length=1, max_length=16)]
    """Levels, nearest to the compute units first."""
    links: LinksSchema = LinksSchema()
    system: SystemSchema = SystemSchema()
    overheads: OverheadsSchema = OverheadsSchema()
    power: PowerSchema = PowerSchema()
    price: PriceSchema = PriceSchema()
    kernel: KernelParameters | None = None
    """Calibrated parameters of decode-attention kernels, or like: a chip to take them from."""
    notes: list[Text] = Field(default_factory=list)
    """Printed by `profile show`."""

    @model_validator(mode="after")
    def _has_a_home_for_every_tensor(self) -> ProfileSchema:
        for tensor in ("weights", "kv", "activations"):
            if not any(tensor in tensors_held(level) and not level.overflow for level in self.memory.values()):
                raise rule(f"no memory level holds the {tensor}: add '{tensor}' to a level's 'holds'", "memory")
        if not any(rate is not None for rate in self.compute.matrix.peak.values()):
            raise rule("no rate: expected at least one, such as 'bf16: 989.4 TFLOP/s'", "compute", "matrix", "peak")
        if self.overheads.layer_latency_distance_fraction and self.overheads.layer_latency_weights is None:
            raise rule("a part that grows with a layer's weights: say of how many it is measured, such as 436 MB",
                       "overheads", "layer_latency_weights")
        return self


def tensors_held(level: MemorySchema) -> tuple[Tensor, ...]:
    """What may live in a level between steps, as its ``holds`` says or as its kind lets expect."""
    if level.holds is not None:
        return tuple(level.holds)
    everything: tuple[Tensor, ...] = ("weights", "kv", "activations")
    return everything if level.kind == "dram" or (level.kind == "sram" and level.scope == "chip") else ()
