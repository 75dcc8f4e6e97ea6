"""Which kernel, and how finely cut, a library would run: the least of what its own cost model says.

Kernel libraries choose the rows of an item, the pieces of a sequence and the unit before a launch, by heuristics that
aim at the least time. So does this, by :mod:`simkit.timing.kernel_cost` on the batch's lengths. The chosen one is then
replayed; its time is the replay's, never this estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.hardware.kernel_shape import UNSPLIT_ITEMS
from simkit.hardware.profile import HardwareProfile, MemoryLevel
from simkit.replay.target import ReplayTarget
from simkit.step.operators import AttentionTask, Operator
from simkit.timing.attention_kernel import piece_counts
from simkit.timing.kernel_cost import (
    ChipKernel,
    KernelWork,
    MappedKernel,
    UnitKernel,
    busiest_unit_s,
    chip_kernel,
    combine_s,
    exposed_memory_s,
    kernel_work,
    kernels_of_library,
    mapped_kernel,
    matrix_kernel,
    memory_times,
    piece_s,
    vector_kernel,
    waves,
)

# Assumed: libraries that measure their kernels settle what their cost model leaves this close.
CLOSE: Final = 1.15
RAGGED: Final = 1.5  # a longest sequence of so many means is worth cutting however many items there are


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """A kernel, the pieces of each sequence, and the time that the library's cost model expects."""

    unit: UnitKernel
    cut: NDArray[np.int64]
    estimate_s: float


def parameters_of(task: AttentionTask, hardware: HardwareProfile, home: MemoryLevel) -> ChipKernel | None:
    """The chip's parameters for this operator, or None where nobody gives any."""
    bandwidth = home.chip_bandwidth_bytes_per_s
    if hardware.kernel is None or hardware.compute.clock_hz is None or bandwidth is None:
        return None
    return chip_kernel(hardware, hardware.kernel, home, float(bandwidth), latent=task.latent)


def choose_kernels(operator: Operator, task: AttentionTask, target: ReplayTarget, parameters: ChipKernel,
                   lengths: NDArray[np.int64], *, hit_share: float, alone: bool) -> list[KernelChoice]:
    """The kernel of least estimated time, then others whose best cut comes within ``CLOSE`` of it.

    Parameters
    ----------
    operator, task, target, parameters: what is read, on which chip.
    lengths: tokens of each sequence.
    hit_share: share of the reads that a warm cache serves.
    alone: the kernel is timed by itself, so that its own launch floor counts.
    """
    work, chip = work_of(operator, task, lengths, hit_share), _on_target(parameters, target)
    memory, pieces = memory_times(work, chip), piece_counts(task.kernel, chip.kernel)
    choices: list[KernelChoice] = []
    for unit in unit_kernels(work, chip):
        kernel, floor_s = mapped_kernel(unit, work, chip, memory), unit.floor_s if alone else 0.0
        own = [KernelChoice(unit=unit, cut=cut, estimate_s=estimate_s(kernel, lengths, cut, chip) + floor_s)
               for cut in _cuts(lengths, kernel, pieces)]
        choices.append(min(own, key=lambda choice: choice.estimate_s))
    choices.sort(key=lambda choice: choice.estimate_s)
    return [choice for choice in choices if choice.estimate_s <= CLOSE * choices[0].estimate_s]


def work_of(operator: Operator, task: AttentionTask, lengths: NDArray[np.int64], hit_share: float) -> KernelWork:
    """The work of one operator on sequences of these lengths.

    A machine may hold a fraction of a head: its rounded item then stands for that fraction's bytes.
    """
    kv_heads = float(task.kv_heads)
    work = kernel_work(task, heads=float(task.sequences) * kv_heads, rows=float(task.query_rows),
                       tokens=float(lengths.mean()), token_bytes=float(task.bytes_per_token_head),
                       cached_elements=float(task.cached_elements), hit_share=hit_share,
                       item_rows=float(operator.query_rows) if task.kernel == "per-query-head" else None)
    heads = max(1, round(kv_heads))
    return replace(work, heads=float(len(lengths) * heads),
                   token_bytes=float(operator.kv_read_bytes) / (float(lengths.sum()) * heads))


def unit_kernels(work: KernelWork, chip: ChipKernel) -> list[UnitKernel]:
    """Every kernel that a library could run on one problem, the most query rows an item first."""
    rows, matrix_exists, vector_exists = kernels_of_library(work, chip.kernel)
    found = [matrix_kernel(of_item, work, chip) for of_item in dict.fromkeys(rows[matrix_exists].tolist())]
    return [*found, vector_kernel(work, chip)] if vector_exists.any() else found


def estimate_s(kernel: MappedKernel, lengths: NDArray[np.int64], cut: NDArray[np.int64], chip: ChipKernel) -> float:
    """What the cost model says of sequences of these lengths in these pieces, launch apart."""
    items = cut * (kernel.per_unit / len(lengths))
    unit_s = busiest_unit_s(piece_s(kernel, lengths, cut), items)
    memory_s = exposed_memory_s(kernel, waves(items.sum()), chip)
    return float(max(unit_s, memory_s) + combining_s(kernel.row_elements, cut, chip) + kernel.beside_s)


def combining_s(row_elements: float, cut: NDArray[np.int64], chip: ChipKernel) -> float:
    """The second pass over what the pieces of cut sequences leave, of outputs of ``row_elements``; 0 when none was."""
    pieces = float(cut[cut > 1].sum())
    return float(combine_s(row_elements / len(cut) * pieces, chip)) if pieces else 0.0


def _on_target(parameters: ChipKernel, target: ReplayTarget) -> ChipKernel:
    """The chip's parameters at the rates of the machine's path, its load buffers used as far as the machine says."""
    cache_bytes_per_s = None
    if target.cache is not None:
        # Every reader's bytes pass the shared cache here; what measured kernels take of it is more on some chips, where
        # units keep what neighbours read. Data paths that grow with the memory end at what the cache delivers, too.
        cache_bytes_per_s = min(parameters.cache_bytes_per_s, target.path[target.cache_server].bytes_per_s)
    return replace(parameters, dram_bytes_per_s=float(target.path[-1].bytes_per_s),
                   cache_bytes_per_s=cache_bytes_per_s, load_fraction=target.load_fraction)


def _cuts(lengths: NDArray[np.int64], kernel: MappedKernel, pieces: Sequence[int]) -> list[NDArray[np.int64]]:
    """Pieces of each sequence worth trying: one piece length for the whole batch, so that a giant is cut into many."""
    whole, mean = np.ones(len(lengths), dtype=np.int64), float(lengths.mean())
    ragged = lengths.max() > RAGGED * mean
    if len(pieces) == 1 or (kernel.per_unit >= UNSPLIT_ITEMS and not ragged):
        return [whole]
    # A piece may be a token longer than the mean one: sequences that differ by rounding have as many pieces.
    found = [np.clip(np.ceil((lengths - 1) * count / mean), 1, pieces[-1]).astype(np.int64) for count in pieces]
    return [whole, *(found if ragged else found[1:])]
