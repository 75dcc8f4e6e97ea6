"""Ranges that the rules measure a profile against, from what was sold: standards, catalogues, shipped profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simkit.hardware.lint.remarks import Range

GIB: Final = 2.0**30  # IEC 80000-13


@dataclass(frozen=True, slots=True, kw_only=True)
class DramFamily:
    """Fastest data rate shipped, widths of a channel; for stacked parts the pins and the largest capacity of one."""

    fastest_bits_per_s: float
    channel_bits: tuple[int, ...]
    stack_bits: int | None = None
    stack_bytes: float | None = None


# Fastest speed grade sold, channel and pseudo-channel widths and largest stack sold, per JEDEC family (JESD235, 238,
# 270, 250, 239, 209, 79) and makers' catalogues up to 2026; GDDR6X is Micron's own. LPDDR is sold in packages of 64.
DRAM_FAMILIES: Final = {
    "HBM2": DramFamily(fastest_bits_per_s=2.5e9, channel_bits=(64, 128), stack_bits=1024, stack_bytes=16 * GIB),
    "HBM2e": DramFamily(fastest_bits_per_s=3.65e9, channel_bits=(64, 128), stack_bits=1024, stack_bytes=24 * GIB),
    "HBM3": DramFamily(fastest_bits_per_s=6.4e9, channel_bits=(32, 64), stack_bits=1024, stack_bytes=24 * GIB),
    "HBM3e": DramFamily(fastest_bits_per_s=9.8e9, channel_bits=(32, 64), stack_bits=1024, stack_bytes=48 * GIB),
    "HBM4": DramFamily(fastest_bits_per_s=13e9, channel_bits=(32, 64), stack_bits=2048, stack_bytes=64 * GIB),
    "GDDR6": DramFamily(fastest_bits_per_s=24e9, channel_bits=(16, 32)),
    "GDDR6X": DramFamily(fastest_bits_per_s=24e9, channel_bits=(16, 32)),
    "GDDR7": DramFamily(fastest_bits_per_s=40e9, channel_bits=(8, 16, 32)),
    "LPDDR4": DramFamily(fastest_bits_per_s=3.2e9, channel_bits=(16, 32, 64)),
    "LPDDR4X": DramFamily(fastest_bits_per_s=4.267e9, channel_bits=(16, 32, 64)),
    "LPDDR5": DramFamily(fastest_bits_per_s=6.4e9, channel_bits=(16, 32, 64)),
    "LPDDR5X": DramFamily(fastest_bits_per_s=10.7e9, channel_bits=(16, 32, 64)),
    "DDR4": DramFamily(fastest_bits_per_s=3.2e9, channel_bits=(64,)),
    "DDR5": DramFamily(fastest_bits_per_s=8.8e9, channel_bits=(32, 64)),
}
BURST_BYTES: Final = (16, 32, 64, 128)  # burst length x channel width of the families above
# Seconds to read a whole memory once: capacity over bandwidth of the chips in the catalogue, a little widened.
DRAIN_S: Final[dict[str, Range]] = {"HBM": (12e-3, 50e-3), "GDDR": (15e-3, 100e-3), "LPDDR": (0.1, 1.5),
                                    "DDR": (0.3, 30.0)}
# Bandwidth of units at the banks of a DRAM over that of its pins, most (H2-LLM, ISCA 2025, Table 2: 4 to 16).
NEAR_BANK_GAIN: Final = 16
# Likewise of memories on the chip.
ON_CHIP_DRAIN_S: Final[dict[tuple[str, str], Range]] = {
    ("cache", "chip"): (0.8e-6, 40e-6), ("sram", "chip"): (0.4e-6, 1e-3), ("sram", "unit"): (0.1e-6, 12e-6),
    ("cache", "unit"): (0.1e-6, 12e-6)}
# Capacity of a unit's own memory, and of a chip-wide cache for each unit.
UNIT_SHARE_BYTES: Final[dict[tuple[str, str], Range]] = {
    ("gpu", "unit"): (40e3, 600e3), ("gpu", "chip"): (50e3, 1.5e6), ("cpu", "unit"): (16e3, 8e6),
    ("cpu", "chip"): (0.4e6, 16e6)}
# Idle load-to-use seconds, by kind of machine where its memory system decides, and cycles of a unit's own memory.
LATENCY_S: Final[dict[tuple[str, str], Range]] = {
    ("dram", "gpu"): (150e-9, 900e-9), ("dram", "cpu"): (60e-9, 300e-9), ("dram", "asic"): (80e-9, 1.5e-6),
    ("dram", "tpu"): (80e-9, 1.5e-6), ("cache", "gpu"): (50e-9, 350e-9), ("cache", "cpu"): (8e-9, 150e-9),
    ("cache", "asic"): (8e-9, 350e-9), ("cache", "tpu"): (8e-9, 350e-9)}
# Likewise, in cycles of the chips of the catalogue.
UNIT_LATENCY_CYCLES: Final[dict[str, Range]] = {"gpu": (10.0, 120.0), "cpu": (2.0, 40.0), "asic": (1.0, 250.0),
                                                "tpu": (1.0, 250.0)}
# Clocks sold from 2017 to 2026, in hertz.
CLOCK_HZ: Final[dict[str, Range]] = {"gpu": (1.0e9, 3.3e9), "tpu": (0.6e9, 2.5e9), "asic": (0.6e9, 3.5e9),
                                     "cpu": (1.2e9, 6.5e9)}
# Matrix and vector flops of one unit in one clock, least and most: from a CPU core's SIMD to a whole TPU TensorCore.
FLOPS_PER_CLOCK: Final = {"gpu": (64, 65536), "tpu": (16384, 1 << 20), "asic": (4, 1 << 20), "cpu": (8, 16384)}
# Likewise of the vector pipes.
VECTOR_FLOPS_PER_CLOCK: Final = {"gpu": (32, 2048), "tpu": (512, 65536), "asic": (1, 65536), "cpu": (4, 512)}
# Rate of a format over the 16-bit one, with matrix units whose multiplier arrays split or pair up. int8 was left at a
# small rate on parts made for floats (V100, B300), and int4 doubles int8 where it exists.
FORMAT_RATIOS: Final[dict[str, Range]] = {
    "bf16": (0.99, 1.01), "fp16": (0.99, 1.01), "tf32": (0.45, 0.55), "fp32": (0.02, 0.55), "fp8": (0.99, 2.6),
    "fp4": (1.9, 5.2), "int8": (0.99, 4.1), "int4": (1.9, 8.2), "mxint8": (0.99, 4.1), "mxint4": (1.9, 16.4)}
MATRIX_TO_VECTOR: Final[Range] = (0.9, 80.0)  # of the chips of the catalogue, a little widened
# Exponentials of one unit in one clock: 16 on an SM (CUDA programming guide, throughput of instructions), widened.
SPECIAL_OPS_PER_CLOCK: Final[dict[str, Range]] = {"gpu": (4.0, 64.0), "tpu": (16.0, 4096.0), "asic": (0.5, 4096.0),
                                                  "cpu": (0.02, 64.0)}
# Ridge points, flops per byte at vendor peaks, by machine and level: the range over 30 chips of 2016-2026, widened.
# Units at the banks: one multiply-add for an element read (Table 2 of H2-LLM, 1 to 2), widened.
RIDGE_POINTS: Final = {"near-bank": (0.3, 8.0), "sram": (0.1, 150.0), "cache": (1.0, 1500.0), "gpu": (8.0, 1500.0),
                       "tpu": (20.0, 1500.0), "asic": (20.0, 20000.0), "cpu": (1.0, 1500.0)}
# Joules of a bit read over the whole path; the device alone takes 3.4 (HBM3e) to 14 (GDDR5) pJ.
ENERGY_PJ_PER_BIT: Final[dict[str, Range]] = {"HBM": (6.0, 35.0), "GDDR": (12.0, 50.0), "LPDDR": (4.0, 40.0),
                                              "DDR": (8.0, 60.0), "chip": (0.1, 15.0), "unit": (0.03, 5.0)}
# One direction of one chip, bytes a second: PCIe by generation and lane (after line coding), NVLink by generation.
PCIE_LANE_BYTES_PER_S: Final = {"3": 0.985e9, "4": 1.969e9, "5": 3.938e9, "6": 7.563e9}
# Likewise: NVIDIA data sheets of V100 to Rubin, halved, as they count both directions.
NVLINK_BYTES_PER_S: Final = {"2": 150e9, "3": 300e9, "4": 450e9, "5": 900e9, "6": 1800e9}
INFINIBAND_BYTES_PER_S: Final = {"HDR": 25e9, "NDR": 50e9, "XDR": 100e9}  # 200, 400, 800 Gbit/s: InfiniBand roadmap
# Cycles and bytes a cycle of a tile and of one link of its fabric: the shipped fabrics, widened threefold.
FABRIC: Final[dict[str, Range]] = {
    "tile.port_bytes_per_cycle": (5.0, 60e3), "tile.fill_bytes_per_cycle": (5.0, 15e3),
    "tile.step_cycles": (0.05, 24.0), "tile.shared_bytes_per_cycle": (7.0, 3e3), "tile.exponential_cycles": (6e-4, 3.0),
    "link.bytes_per_cycle": (1.3, 3e3), "link.hop_cycles": (0.3, 1.1e4), "link.add_cycles": (0.05, 15.0)}
