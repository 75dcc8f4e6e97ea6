r"""What one work item costs one compute unit, from a chip's calibrated kernel parameters.

A unit spends :math:`t_{setup}` on starting and ending an item, loads its tokens at the unit's own rate (outstanding
bytes over latency, Little's law) and computes them: matrix instructions on query rows padded to 16, conversion of
8-bit elements, exponentials; or multiply-adds of the vector lanes, one query head an item. Where memory and waves of
items then lead is the replay's business. Parameters: :class:`simkit.hardware.kernel.DecodeKernel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.kernel_shape import COMBINE_UNIT_BYTES, PARTIAL_BYTES, ROW_ELEMENTS
from simkit.hardware.profile import HardwareProfile, MemoryLevel
from simkit.step.operators import AttentionTask, Operator
from simkit.timing.unit_costs import UnitCosts, matrix_costs, row_groups, vector_costs


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitKernel:
    """A kernel on one unit. ``readers`` items share a range of the cache, each with its part of the query rows.

    ``setup_s`` of an item, ``token_s`` of arithmetic a token, ``load_bytes_per_s`` of one unit (infinite where no
    parameter bounds it); an item takes whole tiles of ``tile_tokens``. ``floor_s`` is the launch floor of this kernel
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
class ChipKernel:
    """A chip's kernel parameters, as they hold for one attention operator whose cache lives in one level.

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
        cycles = partial_elements * PARTIAL_BYTES / COMBINE_UNIT_BYTES / self.units
        return (self.kernel.split_combine_cycles + self.kernel.combine_cycles_per_64_bytes * cycles) / self.clock_hz


def parameters_of(task: AttentionTask, hardware: HardwareProfile, home: MemoryLevel) -> ChipKernel | None:
    """The chip's parameters for this operator, or None where nobody gives any."""
    kernel, hz, bandwidth = hardware.kernel, hardware.compute.clock_hz, home.chip_bandwidth_bytes_per_s
    if kernel is None or hz is None or bandwidth is None:
        return None
    return ChipKernel(
        kernel=kernel.for_latents() if task.latent else kernel, clock_hz=float(hz),
        units=hardware.compute.units, widened_ratio=max(float(bandwidth) / float(kernel.tuned_for_bytes_per_s), 1.0),
        dram_latency_s=float(home.latency_s or 0.0))


def unit_kernels(operator: Operator, task: AttentionTask, hardware: HardwareProfile, parameters: ChipKernel,
                 load_fraction: float) -> list[UnitKernel]:
    """Every kernel that a library could run, the most query rows an item first.

    Parameters
    ----------
    operator, task, hardware, parameters: what is read, on which chip.
    load_fraction: of the buffers that the load path may fill.
    """
    rows, heads = float(task.query_rows), float(task.sequences) * float(task.kv_heads)
    kernel = parameters.kernel
    by_query_head = task.kernel == "per-query-head"
    if by_query_head:
        parts = [float(operator.query_rows)]
    elif kernel.matrix_least_group <= rows <= kernel.matrix_most_group:
        groups = dict.fromkeys(float(part[0]) for part in row_groups(np.array([rows])))
        parts = [part for part in groups if part <= kernel.most_item_rows]
    else:
        parts = []
    found = [_matrix_kernel(part, rows, heads, task, hardware, parameters, load_fraction) for part in parts]
    # Kernels for latents are written for the matrix unit alone.
    if not found or (not task.latent and (by_query_head or rows <= kernel.vector_most_group)):
        found.append(_vector_kernel(rows, task, parameters))
    return found


def _matrix_kernel(rows: float, all_rows: float, heads: float, task: AttentionTask, hardware: HardwareProfile,
                   parameters: ChipKernel, load_fraction: float) -> UnitKernel:
    """The matrix unit's kernel of ``rows`` of a KV head's query rows."""
    row_elements = heads * all_rows * task.value_dim
    costs = matrix_costs(rows, all_rows, _token_bytes(task), task, hardware, parameters.kernel,
                         parameters.widened_ratio)
    return _kernel(costs, parameters, readers=round(all_rows / rows),
                   load_bytes_per_s=parameters.load_bytes_per_s * load_fraction,
                   row_cycles=parameters.kernel.row_cycles * row_elements / ROW_ELEMENTS / parameters.units)


def _vector_kernel(all_rows: float, task: AttentionTask, parameters: ChipKernel) -> UnitKernel:
    """The vector lanes' kernel of one query head an item."""
    costs = vector_costs(_token_bytes(task), task, parameters.kernel, parameters.widened_ratio)
    return _kernel(costs, parameters, readers=round(all_rows), load_bytes_per_s=math.inf, row_cycles=0.0)


def _kernel(costs: UnitCosts, parameters: ChipKernel, *, readers: int, load_bytes_per_s: float,
            row_cycles: float) -> UnitKernel:
    hz = parameters.clock_hz
    return UnitKernel(
        matrix=costs.matrix, readers=readers, setup_s=float(costs.setup) / hz, token_s=float(costs.compute) / hz,
        load_bytes_per_s=load_bytes_per_s, tile_tokens=round(costs.tile_tokens),
        floor_s=parameters.kernel.launch_cycles * float(costs.floor) / hz, rows_s=row_cycles / hz)


def _token_bytes(task: AttentionTask) -> float:
    return float(task.bytes_per_token_head)
