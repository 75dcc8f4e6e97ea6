"""What a memory level is built of: DRAM devices, banks of an SRAM, and arithmetic that stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from simkit.foundation.units import BYTES_PER_S, COUNT, HERTZ, J_PER_BYTE
from simkit.foundation.validation import Flag, Quantity, WholeNumber
from simkit.hardware.declaration import Key

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4", "mxint8", "mxint4"]
Bandwidth = Annotated[float, Quantity(BYTES_PER_S, 1e6, 1e18)]
ByteEnergy = Annotated[float, Quantity(J_PER_BYTE, 1e-16, 1e-6)]
Frequency = Annotated[float, Quantity(HERTZ, 1e6, 1e12)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DramGeometry:
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
    data_rate_bits_per_s: Annotated[Frequency | None, Key("data_rate")] = None
    """Transfers per second on one pin, written as a frequency: 6.4 GHz is 6.4 Gbit/s."""
    access_granularity_bytes: Annotated[int, WholeNumber(1, 4096)] | None = None
    """Bytes of one burst: the least that a read moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SramBanks:
    """Banks of an SRAM; together they deliver the level's bandwidth, one word each a cycle."""

    count: Annotated[int, WholeNumber(1, 65536)]
    """Of one unit or of the chip, as the level's scope says."""
    width_bytes: Annotated[int, WholeNumber(1, 4096)]
    """Bytes that one bank delivers in a cycle."""
    scheduled: Flag = False
    """true: a compiler places all accesses so that none of one cycle meet in a bank; false: those that meet wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideMemory:
    """Units beside a memory level that multiply and add what they read of it (processing in memory)."""

    bandwidth_bytes_per_s: Bandwidth
    """Of reads from the level into these units: of one compute unit or of the chip, as the level's scope says."""
    flop_per_byte: Annotated[Mapping[str, float], Key(reads=dict[Dtype, Annotated[float, Quantity(COUNT, 0, 1e9)]])]
    """Flops for each byte that they read, by the format that they multiply; a multiply-add of each element once is
    2 over its bytes."""
    energy_j_per_byte: ByteEnergy | None = None
    """Of reading one byte into these units; without it energies stay unknown where attention runs there."""
