"""The hardware profile as the engines see it: immutable records in SI base units, each parameter with its source.

Rates are of one chip. Levels of scope ``unit`` (shared memory of one SM, say) state one unit's capacity and
bandwidth; ``chip_capacity_bytes`` and ``chip_bandwidth_bytes_per_s`` give the whole chip's. Any numeric field may be
replaced by a NumPy array (``dataclasses.replace``) to study a parameter as a variable; engines broadcast over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.kernel import DecodeKernel

Tensor = Literal["weights", "kv", "activations"]
TENSORS: Final[tuple[Tensor, ...]] = ("weights", "kv", "activations")

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
class DramGeometry:
    """The DRAM behind a memory level: ``type`` names a timing standard, the rest says how many there are."""

    type: str
    stacks: int | None = None
    channels: int | None = None
    bus_width_bits: int | None = None
    data_rate_bits_per_s: float | None = None
    access_granularity_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SramBanks:
    """Banks of a level's SRAM (of one unit's, where its scope is the unit), each one word of ``width_bytes`` a cycle.

    ``scheduled``: a compiler has placed all accesses so that none of one cycle meet in a bank.
    """

    count: int
    width_bytes: int
    scheduled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLevel:
    """One level of the memory hierarchy; ``holds`` names the tensors that may live in it between steps."""

    name: str
    kind: Literal["sram", "cache", "dram"]
    scope: Literal["unit", "chip"]
    units: int
    capacity_bytes: float
    bandwidth_bytes_per_s: float | None
    achievable_fraction: float
    latency_s: float | None
    reserve_fraction: float
    holds: tuple[Tensor, ...]
    overflow: bool
    energy_j_per_byte: float | None
    dram: DramGeometry | None
    banks: SramBanks | None = None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Arithmetic rates of one chip. Peaks are dense, one multiply-add is 2 flops, keyed by data type."""

    units: int
    unit_name: str
    clock_hz: float | None
    matrix_peak_flop_per_s: Mapping[str, float]
    matrix_achievable_fraction: float
    matrix_tile_rows: int
    vector_peak_flop_per_s: float | None
    special_ops_per_s: float | None
    outstanding_bytes_per_unit: float | None

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
        raise UserError(f"no matrix rate for {dtype} or a format that could stand in for it",
                        hint="the profile gives " + ", ".join(self.matrix_peak_flop_per_s))

    def matrix_achievable_flop_per_s(self, dtype: str) -> float:
        """Dense matrix rate that large products reach, for the format this chip runs for ``dtype``."""
        return self.matrix_peak_flop_per_s[self.matrix_dtype(dtype)] * self.matrix_achievable_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A chip-to-chip network: bandwidth of one chip in one direction, and the time of one small message.

    ``shared_bandwidth_bytes_per_s`` is that of the one path (a host bridge) which all traffic among more than
    ``direct_chips`` chips crosses; None where there is none.
    """

    name: str
    topology: Literal["switch", "ring", "torus", "mesh", "all-to-all"]
    bandwidth_bytes_per_s: float
    latency_s: float
    max_chips: int
    in_network_reduction: bool = False
    energy_j_per_byte: float | None = None
    shared_bandwidth_bytes_per_s: float | None = None
    direct_chips: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Times that no roof explains: a kernel's launch and drain, a layer's fabric latency, a step's host work.

    ``layer_latency_s`` is a dense layer's; what other layers take: :func:`simkit.timing.layer_latency.layers_wait_s`.
    """

    kernel_launch_s: float = 0.0
    layer_latency_s: float = 0.0
    step_s: float = 0.0
    layer_latency_weights_bytes: float | None = None
    layer_latency_distance_fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Board power and the energy of one matrix flop; energy per byte stands with each memory level."""

    tdp_w: float | None = None
    idle_w: float | None = None
    energy_j_per_flop: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one chip costs to rent or to buy; None where no source says."""

    usd_per_hour: float | None = None
    purchase_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """One chip and the system it is sold in. ``memory`` is ordered nearest first.

    ``kernel`` holds the calibrated parameters of its attention kernels, complete; ``kernel_parameters`` are those
    that the profile itself states and ``kernel_like`` the chip that it takes others from.
    """

    name: str
    title: str
    vendor: str
    kind: Literal["gpu", "asic", "tpu", "cpu"]
    year: int | None
    compute: Compute
    memory: tuple[MemoryLevel, ...]
    scale_up: Link | None
    scale_out: Link | None
    overheads: Overheads
    power: Power
    price: Price
    sharding: Literal["tensor", "layer-pipelined"]
    attention_sharding: Literal["heads", "batch", "context"] = "heads"
    max_chips: int
    kernel: DecodeKernel | None = None
    kernel_like: str | None = None
    kernel_parameters: Mapping[str, float] | None = None
    aliases: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Provenance] = field(default_factory=dict, repr=False)
    file: str | None = field(default=None, compare=False)

    def level(self, name: str) -> MemoryLevel:
        """The memory level of that name. Raises :class:`UserError` with the nearest name."""
        for candidate in self.memory:
            if candidate.name == name:
                return candidate
        known = [level.name for level in self.memory]
        raise UserError(f"{self.name} has no memory level '{name}'", hint=did_you_mean(name, known))

    def homes(self, tensor: Tensor) -> tuple[MemoryLevel, ...]:
        """Levels in which a tensor may live between steps, nearest first."""
        return tuple(level for level in self.memory if tensor in level.holds)

    @property
    def main_memory(self) -> MemoryLevel:
        """The farthest level that holds the KV cache without being an overflow tier: where caches usually live."""
        return [level for level in self.homes("kv") if not level.overflow][-1]

    def ridge_point_flop_per_byte(self, level: str | None = None, dtype: str = "bf16") -> Any:
        r"""Machine balance :math:`R = \pi / \beta` of a level at vendor peaks: flops per byte where the roofs meet.

        Williams, Waterman, Patterson 2009, "Roofline". None when the level's bandwidth has no source.
        """
        memory = self.level(level) if level else self.main_memory
        bandwidth = memory.chip_bandwidth_bytes_per_s
        return None if bandwidth is None else (
            self.compute.matrix_peak_flop_per_s[self.compute.matrix_dtype(dtype)] / bandwidth)
