r"""What one work item costs one compute unit, from a chip's calibrated kernel figures.

A unit spends :math:`t_{setup}` on starting and ending an item, loads its tokens at the unit's own rate (outstanding
bytes over latency, Little's law) and computes them: matrix instructions on query rows padded to 16, conversion of
8-bit elements, exponentials; or multiply-adds of the vector lanes, one query head an item. Where memory and waves of
items then lead is the replay's business. Figures: :class:`simkit.hardware.kernel.DecodeKernel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from simkit.decode.operators import AttentionTask, Operator
from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.profile import HardwareProfile, MemoryLevel

MATRIX_ROWS: Final = 16  # rows of the smallest matrix instruction
ROW_ELEMENTS: Final = 128  # the unit of ``row_cycles``
PARTIAL_ELEMENT_BYTES: Final = 4
COMBINE_UNIT_BYTES: Final = 64  # the unit of ``combine_cycles_per_64_bytes``
ROW_LIMITS: Final = (64, 32, 16, 8)  # query rows of one item: whole matrix tiles, and half of one
NARROW_HEAD: Final = 64
EIGHT_BIT_BYTES: Final = 1.5  # an element below this many bytes, scales included, is an 8-bit one


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitKernel:
    """A kernel on one unit. ``readers`` items share a range of the cache, each with its part of the query rows.

    ``setup_s`` of an item, ``token_s`` of arithmetic a token, ``load_bytes_per_s`` of one unit (infinite where no
    figure bounds it); an item takes whole tiles of ``tile_tokens``. ``floor_s`` is the launch floor of this kernel
    timed by itself, ``rows_s`` what queries, outputs and softmax states of the whole problem add.
    """

    matrix: bool
    readers: int
    setup_s: float
    token_s: float
    load_bytes_per_s: float
    tile_tokens: int
    floor_s: float
    rows_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A chip's kernel figures, as they hold for one attention operator whose cache lives in one level.

    ``widened_ratio``: how much more bandwidth that level has than the kernels were tuned for; data paths grow with it.
    """

    kernel: DecodeKernel
    clock_hz: float
    units: int
    widened_ratio: float
    dram_latency_s: float

    @property
    def load_bytes_per_s(self) -> float:
        """Of one unit's load path."""
        return self.kernel.load_bytes_per_cycle_per_unit * self.widened_ratio * self.clock_hz

    @property
    def cache_bytes_per_s(self) -> float:
        """What the units take from the shared cache together."""
        return self.kernel.cache_bytes_per_cycle_per_unit * self.units * self.clock_hz * self.widened_ratio

    @property
    def ramp_s(self) -> float:
        """Fill and drain of the DRAM pipeline beyond the one latency that a replay itself waits for."""
        return max(self.kernel.dram_ramp_ratio - 1.0, 0.0) * self.dram_latency_s

    def combine_s(self, partial_elements: float) -> float:
        """The second pass over the partial results of items that were cut; 0 when none was."""
        if not partial_elements:
            return 0.0
        cycles = partial_elements * PARTIAL_ELEMENT_BYTES / COMBINE_UNIT_BYTES / self.units
        return (self.kernel.split_combine_cycles + self.kernel.combine_cycles_per_64_bytes * cycles) / self.clock_hz


def figures_of(task: AttentionTask, hardware: HardwareProfile, home: MemoryLevel) -> Figures | None:
    """The chip's figures for this operator, or None where nobody gives any."""
    kernel, hz, bandwidth = hardware.kernel, hardware.compute.clock_hz, home.chip_bandwidth_bytes_per_s
    if kernel is None or hz is None or bandwidth is None:
        return None
    return Figures(
        kernel=kernel.for_latents() if task.cache_value_dim == 0 else kernel, clock_hz=float(hz),
        units=hardware.compute.units, widened_ratio=max(float(bandwidth) / float(kernel.tuned_for_bytes_per_s), 1.0),
        dram_latency_s=float(home.latency_s or 0.0))


def unit_kernels(operator: Operator, task: AttentionTask, hardware: HardwareProfile, figures: Figures,
                 load_fraction: float) -> list[UnitKernel]:
    """Every kernel that a library could run, the most query rows an item first.

    Parameters
    ----------
    operator, task, hardware, figures: what is read, on which chip.
    load_fraction: of the buffers that the load path may fill.
    """
    rows, heads = float(np.max(task.query_rows)), float(np.max(task.sequences)) * float(np.max(task.kv_heads))
    kernel = figures.kernel
    if task.kernel == "per-query-head":
        return [_matrix_kernel(float(np.max(operator.query_rows)), rows, heads, task, hardware, figures, load_fraction),
                _vector_kernel(rows, task, figures)]
    shared = bool(kernel.matrix_least_group <= rows <= kernel.matrix_most_group)
    found = [_matrix_kernel(part, rows, heads, task, hardware, figures, load_fraction) for part in _row_groups(rows)
             if shared and part <= kernel.most_item_rows]
    # Kernels for latents are written for the matrix unit alone.
    if not found or (task.cache_value_dim != 0 and (not shared or rows <= kernel.vector_most_group)):
        found.append(_vector_kernel(rows, task, figures))
    return found


def _row_groups(rows: float) -> list[float]:
    """All query rows of a KV head, or the largest equal part of them that fits a limit."""
    found = [rows]
    for limit in ROW_LIMITS:
        whole = round(rows)
        part = next((n for n in range(limit, 0, -1) if whole % n == 0), 1)
        if rows > limit and part < found[-1]:
            found.append(float(part))
    return found


def _matrix_kernel(rows: float, all_rows: float, heads: float, task: AttentionTask, hardware: HardwareProfile,
                   figures: Figures, load_fraction: float) -> UnitKernel:
    """The matrix unit's kernel of ``rows`` of a KV head's query rows."""
    kernel, hz, compute = figures.kernel, figures.clock_hz, hardware.compute
    narrow, eight = task.key_dim <= NARROW_HEAD, _is_eight_bit(task)
    width = task.cache_key_dim + task.cache_value_dim
    has_native = eight and all_rows > 1 and kernel.native_8bit_rows > 0
    native = has_native and rows <= kernel.native_8bit_rows
    tiles = math.ceil(rows / MATRIX_ROWS) * MATRIX_ROWS
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")] / (hz * compute.units)
    cycles = tiles * 2.0 * (task.key_dim + task.value_dim) / (rate * kernel.matrix_efficiency)
    if eight and not native:
        converted = kernel.dequantise_elements_per_cycle * figures.widened_ratio
        cycles += (width + kernel.dequantise_token_elements) / converted
    if compute.special_ops_per_s:
        cycles = max(cycles, tiles * hz * compute.units / compute.special_ops_per_s)
    setup = kernel.item_setup_cycles * (kernel.narrow_head_setup_ratio if narrow else 1.0)
    setup *= kernel.setup_ratio_native_8bit if native else kernel.setup_ratio_8bit if eight else 1.0
    floor = kernel.launch_cycles * (kernel.narrow_head_launch_ratio if narrow else 1.0)
    floor *= kernel.launch_ratio_8bit if eight else 1.0
    # Libraries take that kernel for groups that fit one tile, in parts if need be.
    floor *= kernel.launch_ratio_native_8bit if has_native and all_rows <= MATRIX_ROWS else 1.0
    row_elements = heads * all_rows * task.value_dim
    return UnitKernel(
        matrix=True, readers=max(1, round(all_rows / rows)), setup_s=setup / hz, token_s=cycles / hz,
        load_bytes_per_s=figures.load_bytes_per_s * load_fraction,
        tile_tokens=round(kernel.tile_tokens), floor_s=floor / hz,
        rows_s=kernel.row_cycles * row_elements / ROW_ELEMENTS / figures.units / hz)


def _vector_kernel(all_rows: float, task: AttentionTask, figures: Figures) -> UnitKernel:
    """The vector lanes' kernel of one query head an item."""
    kernel, hz, eight = figures.kernel, figures.clock_hz, _is_eight_bit(task)
    elements = kernel.vector_elements_per_cycle_8bit if eight else kernel.vector_elements_per_cycle
    elements *= figures.widened_ratio
    width = task.cache_key_dim + task.cache_value_dim
    floor = kernel.launch_cycles * kernel.vector_launch_ratio
    floor *= kernel.narrow_head_launch_ratio if task.key_dim <= NARROW_HEAD else 1.0
    return UnitKernel(
        matrix=False, readers=max(1, round(all_rows)),
        setup_s=kernel.vector_item_setup_cycles * (kernel.vector_item_setup_ratio_8bit if eight else 1.0) / hz,
        token_s=(width / elements + kernel.vector_token_cycles) / hz, load_bytes_per_s=math.inf,
        tile_tokens=round(kernel.vector_tile_tokens), floor_s=floor * (kernel.launch_ratio_8bit if eight else 1.0) / hz,
        rows_s=0.0)


def _is_eight_bit(task: AttentionTask) -> bool:
    width = task.cache_key_dim + task.cache_value_dim
    return float(np.max(task.bytes_per_token_head)) < EIGHT_BIT_BYTES * width
