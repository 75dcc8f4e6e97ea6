r"""Which decode kernels a library could run, and what a work item of each costs one compute unit.

An item costs its unit :math:`t_{setup}`, and a token the larger of its load path (outstanding bytes over latency,
Little's law) and its arithmetic: matrix instructions on query rows padded to 16, with 8-bit elements converted where no
8-bit instruction takes them, and exponentials beside; or multiply-adds of the vector lanes, one query head an item.
Parameters: :class:`simkit.hardware.kernel.DecodeKernel`. Everything broadcasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.kernel_shape import EIGHT_BIT_BYTES, MATRIX_ROWS, NARROW_HEAD, ROW_ELEMENTS, ROW_LIMITS
from simkit.hardware.profile import Compute, HardwareProfile, MemoryLevel
from simkit.step.operators import AttentionTask
from simkit.timing.looped_caches import last_shared_cache


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
