"""The hardware profile as the engines see it: immutable records in SI base units, each parameter with its source.

Each field is declared here and nowhere else: its key in a file, its range and its meaning as
:mod:`simkit.hardware.declaration` says. Rates are of one chip. Levels of scope ``unit`` (shared memory of one SM, say)
state one unit's capacity and bandwidth; ``chip_capacity_bytes`` and ``chip_bandwidth_bytes_per_s`` the whole chip's. A
real number may be replaced by an array (:func:`simkit.hardware.parameters.with_parameter`); engines broadcast over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import (
    BYTES,
    FLOP_PER_S,
    HERTZ,
    J_PER_FLOP,
    OPS_PER_S,
    SECONDS,
    USD,
    USD_PER_HOUR,
    WATTS,
)
from simkit.foundation.validation import Flag, Fraction, Name, Number, Quantity, Text, WholeNumber
from simkit.hardware.declaration import NO_KEY, Key, Prior
from simkit.hardware.devices import Bandwidth, BesideMemory, ByteEnergy, DramGeometry, Dtype, SramBanks
from simkit.hardware.fabric import Fabric
from simkit.hardware.kernel import DecodeKernel, stated_parameters

Tensor = Literal["weights", "kv", "activations"]
TENSORS: Final[tuple[Tensor, ...]] = ("weights", "kv", "activations")
Wraps = Literal["always", "full-sides", "blocks-of-4", "never"]
Capacity = Annotated[float, Quantity(BYTES, 1, 1e18)]
Latency = Annotated[float, Quantity(SECONDS, 0, 1)]
FlopRate = Annotated[float, Quantity(FLOP_PER_S, 1e6, 1e20)]
OpRate = Annotated[float, Quantity(OPS_PER_S, 1e6, 1e18)]
Chips = Annotated[int, WholeNumber(1, 1_000_000)]
Share = Annotated[Number, Field(ge=0, le=1)]

# The matrix format that a machine falls back to when it lacks the one asked for, best first: a wider one computes
# the same result; a narrower one is what an integer-only machine runs instead, and records say so.
COMPUTE_DTYPE_FALLBACKS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "fp32": ("fp32", "tf32", "bf16", "fp16"),
    "bf16": ("bf16", "fp16", "tf32", "fp32", "fp8", "mxint8", "int8"),
    "fp16": ("fp16", "bf16", "tf32", "fp32", "fp8", "mxint8", "int8"),
    "fp8": ("fp8", "bf16", "fp16", "fp32", "mxint8", "int8"),
    "int8": ("int8", "mxint8", "bf16", "fp16", "fp32"),
    "fp4": ("fp4", "bf16", "fp16", "fp32", "mxint4", "mxint8", "int8"),
})


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a parameter comes from: a document or page, how far to trust it, and what to know about it."""

    source: str | None = None
    confidence: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """A parameter that the profile does not state: its class' range from ``fast`` to ``slow``, in SI units, the middle
    ``central``, and the estimate ``value``: another one where a stated parameter was fitted with this one at it.
    """

    key: str
    fast: float
    slow: float
    central: float
    value: float | None
    provenance: Provenance


def tensors_held(level: Any) -> tuple[Tensor, ...]:
    """What may live in a level between steps, as its ``holds`` says or as its kind lets expect."""
    if level.holds is not None:
        return tuple(level.holds)
    return TENSORS if level.kind == "dram" or (level.kind == "sram" and level.scope == "chip") else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLevel:
    """One memory level."""

    name: Annotated[str, NO_KEY]
    units: Annotated[int, NO_KEY]
    kind: Literal["sram", "cache", "dram"]
    """sram: addressed by software; cache: filled by hardware; dram: behind a memory controller."""
    scope: Literal["unit", "chip"] = "chip"
    """unit: capacity and bandwidth are of one compute unit; chip: of the whole chip."""
    capacity_bytes: Capacity
    """Of one unit or of the chip, as the scope says; powers of two only where written GiB."""
    bandwidth_bytes_per_s: Bandwidth | None
    """Vendor peak for reads."""
    achievable_fraction: Annotated[Fraction, Key(  # what borrowed kernels reach follows from it
        loaded=True, prior=Prior(key="memory.main.achievable_fraction", more_is_faster=True))] = 1.0
    """Share of the peak that large reads reach."""
    latency_s: Latency | None = None
    """Idle load-to-use time."""
    reserve_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the capacity that the runtime keeps for itself."""
    holds: Annotated[tuple[Tensor, ...], Key(reads=list[Tensor] | None, made=tensors_held)]
    """Tensors that may live here between steps; default: all in dram and in chip-wide sram, none elsewhere."""
    overflow: Flag = False
    """true: a tier that is used only when no number of chips could hold the model without it."""
    energy_j_per_byte: ByteEnergy | None = None
    """Whole-path energy of reading one byte from here into a compute unit."""
    dram: DramGeometry | None = None
    banks: SramBanks | None = None
    compute: BesideMemory | None = None

    @property
    def chip_capacity_bytes(self) -> float:
        """Capacity of the whole chip."""
        return self.capacity_bytes * (self.units if self.scope == "unit" else 1)

    @property
    def usable_bytes(self) -> float:
        """Capacity for weights, cache and activations, less what the runtime keeps."""
        return self.chip_capacity_bytes * (1 - self.reserve_fraction)

    @property
    def chip_bandwidth_bytes_per_s(self) -> float | None:
        """Vendor peak of the whole chip; None when no source gives it."""
        if self.bandwidth_bytes_per_s is None:
            return None
        return self.bandwidth_bytes_per_s * (self.units if self.scope == "unit" else 1)

    @property
    def achievable_bytes_per_s(self) -> float | None:
        """What large reads reach in practice: peak times the achievable fraction."""
        peak = self.chip_bandwidth_bytes_per_s
        return None if peak is None else peak * self.achievable_fraction


    @property
    def inside_bytes_per_s(self) -> Any:
        """What units beside the level read of it, in the share of the peak that it reaches; None: there are none."""
        if self.compute is None:
            return None
        return self.compute.bandwidth_bytes_per_s * self.achievable_fraction * (
            self.units if self.scope == "unit" else 1)


def _wide_matrix_peak(compute: Any) -> float:
    """The 16-bit matrix peak, or that of the format which stands in for it, flop/s."""
    peak: float = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")]
    return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Arithmetic of one chip. Peaks are dense; one multiply-add is 2 flops."""

    units: Annotated[int, WholeNumber(1, 10_000_000)]
    """Units that run work items side by side: SMs, compute units, cores."""
    unit_name: Text = "unit"
    """What the vendor calls one."""
    architecture: Text | None = None
    """Instruction set that kernels are compiled for (``sm_90``): it decides which attention kernels can run."""
    clock_hz: Annotated[Annotated[float, Quantity(HERTZ, 1e6, 1e11)] | None, Key(loaded=True)] = None
    """Clock at which the peaks are stated."""
    matrix_peak_flop_per_s: Annotated[Mapping[str, float], Key("matrix.peak", reads=dict[Dtype, FlopRate | None])]
    """Dense peak by data type; sparse marketing numbers do not belong here."""
    matrix_achievable_fraction: Annotated[Fraction, Key("matrix.achievable_fraction", prior=Prior(
        key="compute.matrix.achievable_fraction", more_is_faster=True))] = 1.0
    """Share of the peak that large matrix products reach."""
    prompt_fraction: Annotated[Fraction, Key("matrix.prompt_fraction", prior=Prior(
        key="compute.matrix.prompt_fraction", more_is_faster=True))] = 1.0
    """Share of its highest roof that a prompt's attention reaches."""
    matrix_tile_rows: Annotated[int, WholeNumber(1, 4096), Key("matrix.tile_rows", prior=Prior(
        key="compute.matrix.tile_rows", more_is_faster=False))] = 1
    """Rows that the matrix unit computes whether they are used or not (the M of its smallest tile)."""
    vector_peak_flop_per_s: Annotated[FlopRate | None, Key(prior=Prior(
        key="compute.vector_to_matrix_ratio", more_is_faster=True, scale=_wide_matrix_peak))] = None
    """fp32 rate of the vector (CUDA-core) pipes, dense."""
    special_ops_per_s: Annotated[OpRate | None, Key("special_rate", prior=Prior(
        key="compute.special_per_vector_flop", more_is_faster=True, scale=lambda a: a.vector_peak_flop_per_s))] = None
    """Exponentials per second of the whole chip."""
    outstanding_bytes_per_unit: Annotated[Capacity | None, Key("outstanding_bytes")] = None
    """Bytes that one unit can keep in flight (Little's law)."""

    @property
    def known_clock_hz(self) -> float:
        """The clock, for parameters in cycles. Raises :class:`UserError` where the profile states none."""
        if self.clock_hz is None:
            raise UserError("parameters in cycles need the clock", hint="compute.clock in the profile")
        return self.clock_hz

    def matrix_dtype(self, dtype: str) -> str:
        """The matrix format this chip runs when a workload asks for ``dtype``."""
        for candidate in COMPUTE_DTYPE_FALLBACKS.get(dtype, (dtype,)):
            if candidate in self.matrix_peak_flop_per_s:
                return candidate
        raise UserError(f"no matrix rate for {dtype} or a format that could stand in for it, of "
                        + ", ".join(self.matrix_peak_flop_per_s))

    def matrix_achievable_flop_per_s(self, dtype: str) -> float:
        """Dense matrix rate that large products reach, for the format this chip runs for ``dtype``."""
        return self.matrix_peak_flop_per_s[self.matrix_dtype(dtype)] * self.matrix_achievable_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One chip-to-chip network."""

    name: Text
    """What the vendor calls it."""
    topology: Literal["switch", "ring", "torus", "mesh", "all-to-all"]
    """Decides which collective algorithms may run: direct sends need a switch or all-to-all."""
    bandwidth_bytes_per_s: Annotated[float, Key("bandwidth", reads=Bandwidth | None)]
    """Of one chip, in one direction, all its links together."""
    achievable_fraction: Annotated[Fraction, Key(prior=Prior(
        key="links.scale_up.achievable_fraction", more_is_faster=True))] = 1.0
    """Share of the bandwidth that large collectives reach."""
    latency_s: Latency
    """Of one small message between neighbours, software included."""
    max_chips: Chips
    """Chips that it joins."""
    shape: Annotated[tuple[Annotated[int, WholeNumber(1, 65536)], ...], Field(min_length=1, max_length=4)] | None = None
    """Chips along each side of the whole torus or mesh; default: two sides, as equal as the chips in use allow."""
    wraps: Wraps | None = None
    """Sides of a slice of a torus that close: all (default), those of full length, all if in blocks of 4, none."""
    collective_launch_s: Annotated[Latency, Key(prior=Prior(
        key="links.scale_up.collective_launch", more_is_faster=False))] = 0.0
    """Of each phase of a collective besides its hops: start and handshakes; an all-reduce has two phases."""
    dispatch_launch_s: Annotated[Latency, Key(prior=Prior(
        key="links.scale_up.dispatch_launch", more_is_faster=False))] = 0.0
    """Of a dispatch of rows to experts, or a combine, besides an all-to-all of their bytes: packing and counts."""
    dispatch_bandwidth_bytes_per_s: Annotated[Bandwidth | None, Key(prior=Prior(
        key="links.scale_up.dispatch_fraction", more_is_faster=True, scale=lambda a: a.achievable_bytes_per_s))] = None
    """Of one chip in one direction, in dispatches and combines of many rows; default: what large collectives reach."""
    middle_reduction: Flag = True
    """false: the library has no all-reduce of a torus or mesh that sums on the way to the chip in the middle."""
    in_network_reduction: Flag = False
    """true: the switch adds up all-reduces."""
    shared_bandwidth_bytes_per_s: Bandwidth | None = None
    """Of the one path, such as a host bridge, that all traffic among more than direct_chips chips crosses."""
    direct_chips: Chips | None = None
    """Chips that reach each other without the shared path; default: 1."""
    energy_j_per_byte: ByteEnergy | None = None
    """Of moving one byte to another chip."""

    @property
    def achievable_bytes_per_s(self) -> Any:
        """What large collectives reach of one chip's links in one direction."""
        return self.bandwidth_bytes_per_s * self.achievable_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Times that no roof explains.

    ``layer_latency_s`` is a dense layer's; what other layers take: :func:`simkit.timing.exchanges.layers_wait_s`.
    """

    kernel_launch_s: Annotated[Latency, Key(prior=Prior(key="overheads.kernel_launch", more_is_faster=False))] = 0.0
    """Of each operator: launch and drain."""
    layer_latency_s: Annotated[Latency, Key(prior=Prior(key="overheads.layer_latency", more_is_faster=False))] = 0.0
    """Of each layer: fabric and schedule of machines without launches."""
    step_s: Latency = 0.0
    """Of each step: host work and sampling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Power and the energy of a flop; energy per byte stands with each memory level."""

    tdp_w: Annotated[float, Quantity(WATTS, 0.1, 1e6)] | None = None
    """Board or chip power limit."""
    idle_w: Annotated[float, Quantity(WATTS, 0.0, 1e6)] | None = None
    """Drawn all the time, with a model resident and nothing running; without it energies stay unknown."""
    energy_j_per_flop: Annotated[Annotated[float, Quantity(J_PER_FLOP, 1e-16, 1e-6)] | None, Key("flop_energy")] = None
    """Of one 16-bit matrix flop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one chip costs; None where no source says."""

    usd_per_hour: Annotated[Annotated[float, Quantity(USD_PER_HOUR, 1e-4, 1e6)] | None, Key("per_hour")] = None
    """Rent of one chip; without it costs stay unknown."""
    purchase_usd: Annotated[float, Quantity(USD, 1, 1e9)] | None = None
    """Price of one chip."""


# Sections of a file whose fields stand in the record of the section around them.
FLAT_SECTIONS: Final = {
    "matrix": "The matrix units.",
    "links": "Networks inside a node or pod (scale_up) and between them (scale_out).",
    "system": "How many chips make a system and how a model is split over them."}


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """One chip and the system it is sold in. ``memory`` is ordered nearest first.

    ``kernel`` holds the calibrated parameters of its attention kernels, complete; ``kernel_parameters`` are those
    that the profile itself states and ``kernel_like`` the chip that it takes others from. ``unstated`` are the keys
    with a class prior that no source gives, ``assumed`` what stands for them (:mod:`simkit.hardware.priors`); where
    ``ideal``, they have their defaults all the same. ``varied``: some parameter is an array over points.
    """

    name: Name
    """As on the command line; by custom the file's name."""
    title: Text
    """As in headings."""
    vendor: Text
    """Who sells it."""
    kind: Literal["gpu", "asic", "tpu", "cpu"]
    """Which ranges `profile check` expects."""
    year: Annotated[int, WholeNumber(1990, 2100)] | None = None
    """Of first shipment."""
    aliases: tuple[Name, ...] = ()
    """Names of this chip in measured data."""
    compute: Compute
    memory: Annotated[tuple[MemoryLevel, ...], Field(min_length=1, max_length=16)]
    """Levels, nearest to the compute units first."""
    fabric: Fabric | None = None
    """The tiles that the chip is made of, and the network that joins them."""
    scale_up: Annotated[Link | None, Key("links.scale_up")] = None
    scale_out: Annotated[Link | None, Key("links.scale_out")] = None
    sharding: Annotated[Literal["tensor", "layer-pipelined"], Key("system.sharding")] = "tensor"
    """tensor: every layer is split over the chips; layer-pipelined: chips hold successive layers."""
    attention_sharding: Annotated[Literal["heads", "batch", "context"] | None, Key("system.attention_sharding")] = None
    """What is split when chips outnumber KV heads: replicated heads, sequences (Pope et al. 2022) or tokens."""
    devices: Annotated[Chips | None, Key("system.devices")] = None
    """Devices of a chip that take whole heads, by software that pads where they do not go round; default: 1, none."""
    max_chips: Annotated[Chips, Key("system.max_chips")] = 1
    """Largest system that may be asked for."""
    overheads: Overheads = Overheads()
    power: Power = Power()
    price: Price = Price()
    kernel_like: Annotated[str | None, Key("kernel.like")] = None
    kernel_parameters: Annotated[Mapping[str, float] | None, Key("kernel", made=stated_parameters, loaded=True)] = None
    """Calibrated parameters of decode-attention kernels, or like: a chip to take them from."""
    notes: tuple[Text, ...] = ()
    """Printed by `profile show`."""
    kernel: Annotated[DecodeKernel | None, NO_KEY] = None
    missing: Annotated[tuple[str, ...], NO_KEY] = ()
    unstated: Annotated[tuple[str, ...], NO_KEY] = ()
    assumed: Annotated[tuple[Assumed, ...], NO_KEY] = ()
    ideal: Annotated[bool, NO_KEY] = False
    varied: Annotated[bool, NO_KEY] = False
    provenance: Annotated[Mapping[str, Provenance], NO_KEY] = field(default_factory=dict, repr=False)
    file: Annotated[str | None, NO_KEY] = field(default=None, compare=False)

    def level(self, name: str) -> MemoryLevel:
        """The memory level of that name. Raises :class:`UserError` with the nearest name."""
        for candidate in self.memory:
            if candidate.name == name:
                return candidate
        raise UserError(f"{self.name} has no memory level '{name}'", hint=did_you_mean(name, [
            level.name for level in self.memory]))

    def homes(self, tensor: Tensor) -> tuple[MemoryLevel, ...]:
        """Levels in which a tensor may live between steps, nearest first."""
        return tuple(level for level in self.memory if tensor in level.holds)

    @property
    def known_by(self) -> str:
        """What its times rest on: measured kernels, those of a measured chip like it, its tiles, a data sheet."""
        if self.kernel_parameters is not None:
            return "measured kernels" if self.kernel_like is None else "a measured chip like it"
        return "tiles" if self.fabric is not None and self.fabric.has_rates else "data sheet"

    @property
    def computes_in_memory(self) -> bool:
        """Whether a memory level has compute beside it."""
        return any(level.compute is not None for level in self.memory)

    @property
    def has_range(self) -> bool:
        """Whether parameters are assumed, with a range each."""
        return bool(self.assumed) and not self.ideal

    @property
    def assumption(self) -> str:
        """The keys of what is assumed, joined by semicolons; ``ideal`` where their defaults stand; empty: nothing."""
        return "ideal" if self.ideal and self.assumed else ";".join(one.key for one in self.assumed)

    @property
    def main_memory(self) -> MemoryLevel:
        """The farthest level that holds the KV cache without being an overflow tier: where caches usually live."""
        return [level for level in self.homes("kv") if not level.overflow][-1]

    def ridge_point_flop_per_byte(self, level: str | None = None, dtype: str = "bf16") -> Any:
        r"""Machine balance :math:`R = \pi / \beta` of a level: flops per byte where the roofs meet, both as achieved.

        Williams, Waterman, Patterson 2009, "Roofline". None when the level's bandwidth has no source.
        """
        bandwidth = (self.level(level) if level else self.main_memory).achievable_bytes_per_s
        return None if bandwidth is None else self.compute.matrix_achievable_flop_per_s(dtype) / bandwidth
