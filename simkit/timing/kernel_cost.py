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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.hardware.kernel_shape import COMBINE_UNIT_BYTES, EVEN_WAVES, PARTIAL_BYTES
from simkit.timing.unit_costs import ChipKernel, KernelWork, UnitKernel


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
