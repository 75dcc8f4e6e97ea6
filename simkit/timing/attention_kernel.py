"""Closed-form time of a decode-attention kernel on a chip whose kernels were measured: the best of all mappings.

Kernel libraries choose the rows of an item, the pieces of a sequence and the unit by heuristics; the least time of
:mod:`simkit.timing.kernel_cost` is what they aim at. Sequences have one length, their mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.kernel_shape import SPLITS, UNSPLIT_ITEMS
from simkit.hardware.parameters import arrays_of, with_arrays
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import AttentionTask
from simkit.timing.kernel_cost import (
    ChipKernel,
    KernelWork,
    MappedKernel,
    MemoryTimes,
    UnitKernel,
    chip_kernel,
    combine_s,
    exposed_memory_s,
    kernel_work,
    kernels_of_library,
    mapped_kernel,
    matrix_kernel,
    memory_times,
    tokens_of_piece_s,
    vector_kernel,
    waves,
)
from simkit.timing.roofs import last_shared_cache
from simkit.timing.step_timing import COMPUTE, LOAD_PATH

# Problems up to which all mappings at once, on more axes, take less time than a search that leaves most of them out.
FEW_PROBLEMS: Final = 500
UNSPLIT_KERNELS: Final = ("grouped-unsplit", "unfused")


_FIELDS: Final = tuple(entry.name for entry in fields(MappedKernel))
_COLUMNS: Final = _FIELDS[:-1]  # without what is of a problem and not of a kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """Seconds without the launch: ``body_s`` of the best mapping, and its roofs ``unit_s``: memory levels, and what its
    unit spends on the load path or on arithmetic, set-up apart.

    ``floor_s`` is the whole launch floor of that kernel looped alone (8-bit and narrow heads run other kernels).
    """

    body_s: Any
    unit_s: dict[str, Any]
    floor_s: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Best:
    """Of the best mapping: its time with the launch that counts, that launch, the kernel's floor, its memory's time,
    and where ``computing`` its unit's arithmetic, on whole tiles, else its unit's loads, of tokens that there are.
    """

    total_s: Any
    launch_s: Any
    floor_s: Any
    memory_s: Any
    tokens_s: Any
    computing: Any


def kernel_time(task: AttentionTask, hardware: HardwareProfile, kernel: DecodeKernel, home_bytes_per_s: Any, *,
                hit_share: Any = 0.0, alone: bool, item_rows: Any = None) -> KernelTime:
    """Time of one kernel, launch apart, for every point of the task's arrays.

    Parameters
    ----------
    task, hardware, kernel: what is read, on which chip, with which calibrated parameters.
    home_bytes_per_s: peak bandwidth of the level that holds the cache.
    hit_share: share of the reads that a warm cache serves; 0 inside a step.
    alone: the kernel loops by itself, so that its floor counts when mappings are compared; inside a step launches of
        all mappings cost the same.
    item_rows: query rows that every item takes, for kernels that leave no choice; None: what is fastest.
    """
    columns = [task.sequences, task.kv_heads, task.query_rows, task.tokens, task.bytes_per_token_head, hit_share,
               home_bytes_per_s, task.query_rows if item_rows is None else item_rows, task.cached_elements]
    varied = arrays_of((hardware.compute, hardware.memory)) if hardware.varied else ()
    shape, *others = {np.shape(column) for column in (*columns, *varied)}
    if others:
        shape = np.broadcast_shapes(shape, *others)
    sequences, kv_heads, rows, tokens, token_bytes, hits, bandwidth, taken, elements = (
        _flat(column, shape) for column in columns)
    if hardware.varied:
        flat: Any = partial(_flat, shape=shape)
        hardware = replace(hardware, compute=with_arrays(hardware.compute, flat),
                           memory=with_arrays(hardware.memory, flat))
    work = kernel_work(task, heads=sequences * kv_heads, rows=rows, tokens=tokens, token_bytes=token_bytes,
                       cached_elements=elements, hit_share=hits, item_rows=None if item_rows is None else taken)
    chip = chip_kernel(hardware, kernel, hardware.main_memory, bandwidth, latent=work.latent)
    pieces = piece_counts(task.kernel, chip.kernel)
    count, memory, cache = math.prod(shape), memory_times(work, chip), last_shared_cache(hardware)
    best = (_all_at_once if count <= FEW_PROBLEMS else _search)(work, chip, memory, pieces, count, alone=alone)
    unit_s = {LOAD_PATH: np.where(best.computing, 0.0, best.tokens_s),
              COMPUTE: np.where(best.computing, best.tokens_s, 0.0),
              hardware.main_memory.name: np.broadcast_to(memory.dram_s, count)}
    if cache is not None:
        unit_s[cache.name] = np.where(best.memory_s > memory.dram_s, best.memory_s, 0.0)
    return KernelTime(body_s=(best.total_s - best.launch_s).reshape(shape), floor_s=best.floor_s.reshape(shape),
                      unit_s={name: seconds.reshape(shape) for name, seconds in unit_s.items()})


def piece_counts(kernel_name: str, kernel: DecodeKernel) -> tuple[int, ...]:
    """Numbers of pieces that a library may cut a sequence into."""
    return (1,) if kernel_name in UNSPLIT_KERNELS else _pieces_up_to(kernel.most_sequence_units)


@lru_cache
def _pieces_up_to(most: float) -> tuple[int, ...]:
    return tuple(pieces for pieces in SPLITS if pieces <= most)


def _flat(value: Any, shape: tuple[int, ...]) -> Any:
    """One number for all problems, or one for each of them along one axis."""
    return float(value) if np.ndim(value) == 0 else np.broadcast_to(np.asarray(value, dtype=float), shape).ravel()


def _all_at_once(work: KernelWork, chip: ChipKernel, memory: MemoryTimes, pieces: tuple[int, ...], count: int, *,
                 alone: bool) -> _Best:
    """Every mapping of every problem, as arrays [kernels, pieces, problems]."""
    rows, matrix_exists, vector_exists = kernels_of_library(work, chip.kernel)
    # Kernels of the matrix unit, and of the vector lanes as the last one.
    matrix, vector = matrix_kernel(rows[:, np.newaxis], work, chip), vector_kernel(work, chip)
    columns = zip(_columns(mapped_kernel(matrix, work, chip, memory), matrix.floor_s),
                  _columns(mapped_kernel(vector, work, chip, memory), vector.floor_s), strict=True)
    table = np.empty((len(_COLUMNS) + 1, len(rows) + 1, 1, count))
    for column, (of_matrix, of_vector) in zip(table, columns, strict=True):
        column[:-1] = of_matrix
        column[-1] = of_vector
    *of_kernels, floor_s = table
    kernel = MappedKernel(**dict(zip(_COLUMNS, of_kernels, strict=True)), row_elements=work.row_elements)
    exists = np.empty(floor_s.shape, dtype=bool)
    exists[:-1, 0] = matrix_exists
    exists[-1] = vector_exists

    cut = _piece_axis(pieces)
    items = waves(kernel.per_unit * cut)
    tokens_s = items * tokens_of_piece_s(kernel, work.tokens, cut)
    unit_s = items * kernel.setup_s + tokens_s
    combining_s = combine_s(work.row_elements * cut, chip)
    combining_s[0] = 0.0  # one piece is whole
    beside_s = kernel.beside_s + floor_s if alone else kernel.beside_s
    total_s = np.maximum(unit_s, exposed_memory_s(kernel, items, chip)) + (combining_s + beside_s)
    np.copyto(total_s, np.inf, where=~exists)
    np.copyto(total_s[:, 1:], np.inf, where=kernel.per_unit >= UNSPLIT_ITEMS)

    every = np.arange(count)
    best = total_s.reshape(-1, count).argmin(axis=0)
    of_kernel, of_cut = np.divmod(best, len(pieces))
    computing = kernel.computing[of_kernel, 0, every] > 0.0
    loads_s = items.reshape(-1, count)[best, every] * kernel.token_s[of_kernel, 0, every] * work.tokens / cut[of_cut, 0]
    floor = floor_s[of_kernel, 0, every]
    return _Best(
        total_s=total_s.reshape(-1, count)[best, every], launch_s=floor if alone else 0.0, floor_s=floor,
        tokens_s=np.where(computing, tokens_s.reshape(-1, count)[best, every], loads_s), computing=computing,
        memory_s=kernel.memory_s[of_kernel, 0, every])


def _columns(kernel: MappedKernel, floor_s: Any) -> list[Any]:
    return [*(getattr(kernel, name) for name in _COLUMNS), floor_s]


@lru_cache
def _piece_axis(pieces: tuple[int, ...]) -> Any:
    return np.array(pieces, dtype=float)[:, np.newaxis]


def _search(work: KernelWork, chip: ChipKernel, memory: MemoryTimes, pieces: tuple[int, ...], count: int, *,
            alone: bool) -> _Best:
    """Kernel by kernel, leaving out mappings that can no longer be the best of their problem."""
    search = _Search(work=work, chip=chip, pieces=pieces, alone=alone, memory=memory, best=_Best(
        total_s=np.full(count, np.inf), launch_s=np.zeros(count), floor_s=np.zeros(count), memory_s=np.zeros(count),
        tokens_s=np.zeros(count), computing=np.zeros(count, dtype=bool)))
    rows, matrix_exists, vector_exists = kernels_of_library(work, chip.kernel)
    tried: list[UnitKernel] = []
    for of_item, exists in zip(rows, matrix_exists, strict=True):
        unit = matrix_kernel(of_item, work, chip)
        # More items that each cost the same never win.
        wanted = exists
        for other in tried:
            wanted = wanted & ~unit.costs_the_same_as(other)
        tried.append(unit)
        if np.any(wanted):
            search.keep_best(unit, wanted)
    if np.any(vector_exists):
        search.keep_best(vector_kernel(work, chip), vector_exists)
    return search.best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    work: KernelWork
    chip: ChipKernel
    pieces: tuple[int, ...]
    alone: bool
    memory: MemoryTimes
    best: _Best

    def keep_best(self, unit: UnitKernel, wanted: Any) -> None:
        """Try every number of pieces, and keep what is faster than the best so far.

        Set-up and combine pass grow with the pieces and only the unit's own time falls: a problem leaves the search
        when these alone, above its memory time, are no better than its best. That changes no result.
        """
        best, whole = self.best, mapped_kernel(unit, self.work, self.chip, self.memory)
        launch_s = unit.floor_s if self.alone else 0.0
        kernel, tokens, beside_s, bound = whole, self.work.tokens, whole.beside_s + launch_s, best.total_s
        chip = self.chip
        active: Any = None  # all
        for cut in self.pieces:
            items = waves(kernel.per_unit * cut)
            memory_s = exposed_memory_s(kernel, items, self.chip)
            later_s = beside_s if cut == 1 else combine_s(kernel.row_elements * cut, chip) + beside_s
            may = memory_s + later_s < bound
            if cut == self.pieces[0]:
                may = may & wanted
            elif cut == self.pieces[1]:
                may = may & (kernel.per_unit < UNSPLIT_ITEMS)
            kept = np.flatnonzero(may)
            if not len(kept):
                break
            if len(kept) < len(may):
                kernel = MappedKernel(*(_at(getattr(kernel, name), kept) for name in _FIELDS))
                tokens, beside_s, items, memory_s, later_s, bound = (
                    _at(column, kept) for column in (tokens, beside_s, items, memory_s, later_s, bound))
                chip = replace(chip, clock_hz=_at(chip.clock_hz, kept))
                active = kept if active is None else active[kept]
            tokens_s = items * tokens_of_piece_s(kernel, tokens, cut)
            total_s = np.maximum(items * kernel.setup_s + tokens_s, memory_s) + later_s
            won = np.flatnonzero(total_s < bound)
            if not len(won):
                continue
            bound[won] = _at(total_s, won)
            into = won if active is None else active[won]
            best.total_s[into] = bound[won]
            best.tokens_s[into] = _at(np.where(kernel.computing, tokens_s, items * kernel.token_s * tokens / cut), won)
            best.memory_s[into] = _at(whole.memory_s, into)
            best.launch_s[into] = _at(launch_s, into)
            best.floor_s[into] = _at(unit.floor_s, into)
            best.computing[into] = _at(whole.computing, into)


def _at(column: Any, places: Any) -> Any:
    """Entries of a column that may hold one number for all places."""
    return column if np.ndim(column) == 0 or len(column) == 1 else column[places]
