r"""The time of a decode-attention kernel under one mapping of its work onto a chip's units, for every engine.

A kernel is made of work items that start, load, multiply and combine. Each of ``B n_kv`` KV heads is read by ``m``
items (``readers``), each with its part of the query rows, and each sequence is cut into ``s`` pieces:

.. math:: T = \max\big(T_{unit},\; T_{memory} + x\, w(n/U)\, t_{setup}\big) + t_{combine} + t_{ramp} + t_{rows}

for ``n`` items on ``U`` units, of which a fraction ``x`` of the set-up is exposed. An item of piece ``i`` takes
:math:`t_i = t_{setup} + \lceil N_i / s_i \rceil_{tile}\, c`, with ``c`` the larger of load path and arithmetic a token,
and the busiest unit

.. math:: T_{unit} = \max\Big( \sum_i \tfrac{n_i}{U} t_i,\; \max_i\, w(\tfrac{C_i}{U})\, t_i \Big), \qquad
          w(r) = \max(r, \min(\lceil r \rceil, 8))

with :math:`C_i` items at least as long as ``i``: of ``k U + 1`` items one unit runs ``k + 1``. For items of one length
this is :math:`w(n/U)\, t`. Memory and caches take

.. math:: T_{memory} = \max\big( T_{DRAM},\; m\, b / \beta_{cache} \big), \qquad
          T_{DRAM} = \tfrac{(1 - h)\, b}{\beta} (1 + o/r)

for ``b`` bytes of which a warm cache serves ``h``, runs of ``r`` bytes and ``o`` bytes of overhead a run. Parameters:
:class:`simkit.hardware.kernel.DecodeKernel`, fitted to measured kernels, never to single shapes.


What an item costs its unit: :math:`t_{setup}`, and a token the larger of its load path (outstanding bytes over latency,
Little's law) and its arithmetic: matrix instructions on query rows padded to 16, with 8-bit elements converted where no
8-bit instruction takes them, and exponentials beside; or multiply-adds of the vector lanes, one query head an item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.kernel_shape import (
    COMBINE_UNIT_BYTES,
    EIGHT_BIT_BYTES,
    EVEN_WAVES,
    MATRIX_ROWS,
    NARROW_HEAD,
    PARTIAL_BYTES,
    ROW_ELEMENTS,
    ROW_LIMITS,
)
from simkit.hardware.profile import Compute, HardwareProfile, MemoryLevel
from simkit.step.operators import AttentionTask
from simkit.timing.roofs import last_shared_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWork:
    """What one attention kernel has to do; one problem an entry, numbers or flat arrays.

    ``heads`` KV heads of all sequences have ``rows`` query rows each and ``tokens`` of ``token_bytes`` cached.
    ``row_elements`` are those of the outputs, ``missed_share`` of the reads reaches memory. ``item_rows``: query rows
    that every item takes, for kernels that leave no choice. ``latent``: keys and values are read from one vector.
    """

    heads: Any
    rows: Any
    tokens: Any
    token_bytes: Any
    eight_bit: Any
    row_elements: Any
    missed_share: Any
    key_dim: int
    value_dim: int
    cache_width: int
    latent: bool
    item_rows: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipKernel:
    """A chip's kernel parameters, as they hold for one attention operator whose cache lives in one level.

    ``widened_ratio``: how much more bandwidth that level has than the kernels were tuned for. What loads grows with it:
    the units' load path and the shared cache; arithmetic does not.
    ``dram_bytes_per_s`` is what reads of that level reach, ``cache_bytes_per_s`` what all units take from the shared
    cache; None without one. ``load_fraction`` of the buffers of a unit's load path are in use.
    """

    kernel: DecodeKernel
    compute: Compute
    clock_hz: float
    units: int
    widened_ratio: Any
    dram_bytes_per_s: Any
    dram_latency_s: Any
    cache_bytes_per_s: Any
    load_fraction: float = 1.0

    @property
    def load_bytes_per_s(self) -> Any:
        """Of one unit's load path."""
        return (self.kernel.load_bytes_per_cycle_per_unit * self.widened_ratio * self.clock_hz) * self.load_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitKernel:
    """A kernel on one unit. ``readers`` items share a range of the cache, each with its part of the query rows.

    ``setup_s`` of an item, ``token_s`` of arithmetic a token, ``load_bytes_per_s`` of one unit (infinite where no
    parameter bounds it); an item takes whole tiles of ``tile_tokens``. ``floor_s`` is the launch floor of this kernel
    timed by itself, ``rows_s`` what queries, outputs and softmax states of the whole problem add.
    """

    matrix: bool
    readers: Any
    setup_s: Any
    token_s: Any
    load_bytes_per_s: Any
    tile_tokens: Any
    floor_s: Any
    rows_s: Any

    def costs_the_same_as(self, other: UnitKernel) -> Any:
        """Where an item of the other kernel, with at least as many query rows, costs the same in every respect."""
        return ((self.setup_s == other.setup_s) & (self.token_s == other.token_s)
                & (self.load_bytes_per_s == other.load_bytes_per_s) & (self.floor_s == other.floor_s))


def chip_kernel(hardware: HardwareProfile, kernel: DecodeKernel, home: MemoryLevel, home_bytes_per_s: Any, *,
                latent: bool) -> ChipKernel:
    """A chip's parameters for a cache that lives in ``home``, of peak ``home_bytes_per_s``; ``latent``: for MLA."""
    hz, units = hardware.compute.known_clock_hz, hardware.compute.units
    widened = np.maximum(home_bytes_per_s / kernel.tuned_for_bytes_per_s, 1.0)
    cached = last_shared_cache(hardware) is not None
    kernel = kernel.for_latents() if latent else kernel
    return ChipKernel(
        kernel=kernel, compute=hardware.compute, clock_hz=hz, units=units, widened_ratio=widened,
        dram_bytes_per_s=kernel.dram_achieved_fraction * home_bytes_per_s,
        dram_latency_s=0.0 if home.latency_s is None else home.latency_s,
        cache_bytes_per_s=kernel.cache_bytes_per_cycle_per_unit * units * hz * widened if cached else None)


def kernel_work(task: AttentionTask, *, heads: Any, rows: Any, tokens: Any, token_bytes: Any, cached_elements: Any,
                hit_share: Any = 0.0, item_rows: Any = None) -> KernelWork:
    """The work of an attention task, whose arrays are given as they are wanted."""
    return KernelWork(
        heads=heads, rows=rows, tokens=tokens, token_bytes=token_bytes,
        eight_bit=token_bytes < EIGHT_BIT_BYTES * cached_elements,
        row_elements=heads * rows * task.value_dim, missed_share=1.0 - hit_share, key_dim=task.key_dim,
        value_dim=task.value_dim, cache_width=cached_elements, latent=task.latent, item_rows=item_rows)


def row_groups(sizes: Any) -> Any:
    """Query rows that one item of the matrix unit may take [groupings, problems; 1 where all problems are alike]: all
    of a KV head's, or the largest equal part of them that fits a limit. Nested groupings share these parts, up to rows
    that the matrix unit pads anyway.

    >>> row_groups(np.array([8.0, 48.0])).tolist()
    [[8.0, 48.0], [8.0, 24.0], [8.0, 16.0], [8.0, 8.0]]
    """
    least, most = (sizes, sizes) if np.ndim(sizes) == 0 else (sizes.min(), sizes.max())
    binding = sum(limit < most for limit in ROW_LIMITS)  # limits that some size is above
    if least == most:
        return _equal_parts(float(most), binding)
    found, place = np.unique(sizes, return_inverse=True)
    return np.concatenate([_equal_parts(size, binding) for size in found.tolist()], axis=1)[:, place]


@lru_cache(maxsize=4096)
def _equal_parts(size: float, limits: int) -> Any:
    parts = (size if size <= limit else max(n for n in range(1, limit + 1) if size % n == 0)
             for limit in ROW_LIMITS[len(ROW_LIMITS) - limits:])
    found = np.array([size, *parts], dtype=float)[:, np.newaxis]
    found.flags.writeable = False  # shared by all who ask
    return found


def kernels_of_library(work: KernelWork, kernel: DecodeKernel) -> tuple[Any, Any, Any]:
    """Query rows an item of the matrix unit's kernels, where each exists, and where the vector lanes' kernel does.

    The first two are [kernels, problems], the last [problems]. A group for which a library has neither runs one query
    head an item on the vector lanes; kernels for latents are else written for the matrix unit alone.
    """
    if work.item_rows is not None:
        rows = np.atleast_1d(work.item_rows)[np.newaxis]
        return rows, np.ones(rows.shape, dtype=bool), np.full(rows.shape[1:], not work.latent)
    rows = row_groups(work.rows)
    shared = (work.rows >= kernel.matrix_least_group) & (work.rows <= kernel.matrix_most_group)
    exists = (rows <= kernel.most_item_rows) & shared
    lacking = ~exists.any(axis=0)
    return rows, exists, lacking if work.latent else lacking | (work.rows <= kernel.vector_most_group)


def matrix_kernel(rows: Any, work: KernelWork, chip: ChipKernel) -> UnitKernel:
    """The matrix unit's kernel of ``rows`` of a KV head's query rows an item."""
    kernel, compute, hz = chip.kernel, chip.compute, chip.clock_hz
    cycles = hz * chip.units
    tiles = np.ceil(rows / MATRIX_ROWS) * MATRIX_ROWS
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")] / cycles
    token = tiles * (2.0 * (work.key_dim + work.value_dim) / (rate * kernel.matrix_efficiency))
    setup, launch = kernel.item_setup_cycles, kernel.launch_cycles
    if work.key_dim <= NARROW_HEAD:
        setup, launch = setup * kernel.narrow_head_setup_ratio, launch * kernel.narrow_head_launch_ratio
    if np.any(work.eight_bit):
        # Kernels that multiply 8-bit operands as they are exist for shared heads.
        has_native = work.eight_bit & (work.rows > 1) & (kernel.native_8bit_rows > 0)
        native = has_native & (rows <= kernel.native_8bit_rows)
        token = token + np.where(work.eight_bit & ~native, (work.cache_width + kernel.dequantise_token_elements)
                                 / kernel.dequantise_elements_per_cycle, 0.0)
        setup = setup * np.where(native, kernel.setup_ratio_native_8bit,
                                 np.where(work.eight_bit, kernel.setup_ratio_8bit, 1.0))
        # Libraries take that kernel for groups that fit one tile, in parts if need be.
        launch = launch * np.where(work.eight_bit, kernel.launch_ratio_8bit, 1.0) * np.where(
            has_native & (work.rows <= MATRIX_ROWS), kernel.launch_ratio_native_8bit, 1.0)
    if compute.special_ops_per_s is not None:
        token = np.maximum(token, tiles * (cycles / compute.special_ops_per_s))
    return UnitKernel(
        matrix=True, readers=work.rows / rows, setup_s=setup / hz, token_s=token / hz,
        load_bytes_per_s=chip.load_bytes_per_s, tile_tokens=kernel.tile_tokens, floor_s=launch / hz,
        rows_s=kernel.row_cycles * work.row_elements / ROW_ELEMENTS / chip.units / hz)


def vector_kernel(work: KernelWork, chip: ChipKernel) -> UnitKernel:
    """The vector lanes' kernel of one query head an item."""
    kernel, hz = chip.kernel, chip.clock_hz
    elements: Any
    setup: Any
    launch: Any
    elements, setup, launch = kernel.vector_elements_per_cycle, kernel.vector_item_setup_cycles, kernel.launch_cycles
    if work.key_dim <= NARROW_HEAD:
        launch = launch * kernel.narrow_head_launch_ratio
    if np.any(work.eight_bit):
        elements = np.where(work.eight_bit, kernel.vector_elements_per_cycle_8bit, elements)
        setup = setup * np.where(work.eight_bit, kernel.vector_item_setup_ratio_8bit, 1.0)
        launch = launch * np.where(work.eight_bit, kernel.launch_ratio_8bit, 1.0)
    return UnitKernel(
        matrix=False, readers=work.rows, setup_s=setup / hz, tile_tokens=kernel.vector_tile_tokens,
        token_s=(work.cache_width / elements + kernel.vector_token_cycles) / hz,
        load_bytes_per_s=math.inf, floor_s=launch * kernel.vector_launch_ratio / hz, rows_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTimes:
    """Seconds: of the reads that reach memory, of all reads out of the shared cache by one reader, and of the ramp."""

    dram_s: Any
    cache_s: Any
    ramp_s: Any


@dataclass(frozen=True, slots=True)
class MappedKernel:
    """A kernel on the whole problem, before sequences are cut; fields broadcast.

    ``per_unit`` items a unit; ``setup_s`` of an item and ``token_s`` of a token on its unit, ``computing`` where
    arithmetic takes longer than the load path; ``memory_s`` of memory and caches, ``beside_s`` of ramp and rows;
    ``row_elements`` of partial results a piece.
    """

    per_unit: Any
    setup_s: Any
    token_s: Any
    tile_tokens: Any
    memory_s: Any
    beside_s: Any
    computing: Any
    row_elements: Any


def waves(items_per_unit: Any) -> Any:
    """Items of the busiest unit, ``w(r)`` above: whole ones, until so many that no last wave stands out."""
    return np.maximum(items_per_unit, np.minimum(np.ceil(items_per_unit), EVEN_WAVES))


def piece_s(kernel: MappedKernel, tokens: Any, pieces: Any) -> Any:
    """Seconds of an item on its unit, ``t_i`` above: set-up and whole tiles."""
    return kernel.setup_s + tokens_of_piece_s(kernel, tokens, pieces)


def tokens_of_piece_s(kernel: MappedKernel, tokens: Any, pieces: Any) -> Any:
    """The tiles' part of that, on the load path or on arithmetic, whichever takes longer."""
    tile = kernel.tile_tokens
    return np.ceil(tokens / (pieces * tile)) * tile * kernel.token_s


def busiest_unit_s(item_s: Any, per_unit: Any) -> Any:
    """Seconds of the busiest unit, ``T_unit`` above, for kinds of items along one axis."""
    longest_first = np.argsort(-item_s)
    item_s, per_unit = item_s[longest_first], per_unit[longest_first]
    return max((per_unit * item_s).sum(), (waves(np.cumsum(per_unit)) * item_s).max())


def memory_times(work: KernelWork, chip: ChipKernel) -> MemoryTimes:
    """What memory and the shared cache take; without such a cache every reader reads memory."""
    kernel = chip.kernel
    # K and V of a page lie apart: a run is half of a page's bytes.
    run_bytes = kernel.page_tokens * work.token_bytes / 2.0
    kv_bytes = work.heads * work.tokens * work.token_bytes
    dram_s = kv_bytes * work.missed_share / chip.dram_bytes_per_s * (1.0 + kernel.dram_run_overhead_bytes / run_bytes)
    return MemoryTimes(dram_s=dram_s, ramp_s=kernel.dram_ramp_ratio * chip.dram_latency_s * work.missed_share,
                       cache_s=dram_s if chip.cache_bytes_per_s is None else kv_bytes / chip.cache_bytes_per_s)


def mapped_kernel(unit: UnitKernel, work: KernelWork, chip: ChipKernel, memory: MemoryTimes) -> MappedKernel:
    """What the unit's kernel costs the problem."""
    load_s = work.token_bytes / unit.load_bytes_per_s
    return MappedKernel(
        per_unit=work.heads * (unit.readers / chip.units), setup_s=unit.setup_s, tile_tokens=unit.tile_tokens,
        token_s=np.maximum(load_s, unit.token_s), memory_s=np.maximum(memory.dram_s, memory.cache_s * unit.readers),
        beside_s=memory.ramp_s + unit.rows_s, row_elements=work.row_elements, computing=unit.token_s >= load_s)


def exposed_memory_s(kernel: MappedKernel, items: Any, chip: ChipKernel) -> Any:
    """Memory's time with what it cannot hide of the set-up of ``items`` of the busiest unit."""
    return kernel.memory_s + chip.kernel.exposed_setup_fraction * (items * kernel.setup_s)


def combine_s(partial_elements: Any, chip: ChipKernel) -> Any:
    """The second pass over the partial results of items that were cut."""
    kernel = chip.kernel
    unit_lines = partial_elements * (PARTIAL_BYTES / (COMBINE_UNIT_BYTES * chip.units))
    return (kernel.split_combine_cycles + kernel.combine_cycles_per_64_bytes * unit_lines) / chip.clock_hz
