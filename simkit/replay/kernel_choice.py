r"""Which kernel, and how finely cut, a library would run: the least of what its own cost model says.

Kernel libraries choose the rows of an item, the pieces of a sequence and the unit before a launch, by heuristics that
aim at the least time. So does this: for every choice the time of the busiest unit, or of memory with what set-up
leaves exposed, and the combine pass. The chosen one is then replayed; its time is the replay's, never this estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simkit.hardware.kernel_shape import EVEN_WAVES, SPLITS, UNSPLIT_ITEMS
from simkit.replay.target import Machine
from simkit.replay.unit_kernel import ChipKernel, UnitKernel, unit_kernels
from simkit.step.operators import AttentionTask, Operator

# Assumed: libraries that measure their kernels settle what their cost model leaves this close.
CLOSE: Final = 1.15
RAGGED: Final = 1.5  # a longest sequence of so many means is worth cutting however many items there are


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """A kernel, the pieces of each sequence, and the time that the library's cost model expects."""

    unit: UnitKernel
    cut: NDArray[np.int64]
    estimate_s: float


def choose_kernels(operator: Operator, task: AttentionTask, machine: Machine, parameters: ChipKernel,
                  lengths: NDArray[np.int64], *, hit_share: float, alone: bool) -> list[KernelChoice]:
    """The kernel of least estimated time, then others whose best cut comes within ``CLOSE`` of it.

    Parameters
    ----------
    operator, task, machine, parameters: what is read, on which chip.
    lengths: tokens of each sequence.
    hit_share: share of the reads that a warm cache serves.
    alone: the kernel is timed by itself, so that its own launch floor counts.
    """
    heads = max(1, round(float(task.kv_heads)))
    kv_bytes = float(operator.kv_read_bytes)
    dram_s = kv_bytes * (1.0 - hit_share) / float(machine.path[-1].bytes_per_s)
    # Data paths that grow with the memory still end at what the cache itself delivers.
    cache_bytes_per_s = parameters.cache_bytes_per_s
    if machine.cache is not None:
        cache_bytes_per_s = min(cache_bytes_per_s, machine.path[machine.cache_server].bytes_per_s)
    choices: list[KernelChoice] = []
    for unit in unit_kernels(operator, task, machine.hardware, parameters, machine.load_fraction):
        if unit.readers > 1 and machine.cache is None and task.kernel != "per-query-head":
            continue  # every reader would read memory again
        memory_s = max(dram_s, kv_bytes * unit.readers / cache_bytes_per_s)
        own: list[KernelChoice] = []
        for cut in _cuts(lengths, heads * unit.readers, task, machine, parameters, unit):
            found = _estimate_s(lengths, cut, heads * unit.readers, unit, parameters, kv_bytes, memory_s)
            found += parameters.combine_s(partial_elements(task, cut)) + unit.rows_s + (unit.floor_s if alone else 0.0)
            own.append(KernelChoice(unit=unit, cut=cut, estimate_s=found))
        choices.append(min(own, key=lambda choice: choice.estimate_s))
    if not choices:
        raise ValueError(f"{machine.hardware.name}: no kernel for {task.query_rows} query rows")
    choices.sort(key=lambda choice: choice.estimate_s)
    return [choice for choice in choices if choice.estimate_s <= CLOSE * choices[0].estimate_s]


def partial_elements(task: AttentionTask, cut: NDArray[np.int64]) -> float:
    """Elements of partial results that the pieces of cut sequences leave for the combine pass."""
    pieces = float(cut[cut > 1].sum())
    return pieces * float(task.kv_heads) * float(task.query_rows) * task.value_dim


def _cuts(lengths: NDArray[np.int64], heads: int, task: AttentionTask, machine: Machine, parameters: ChipKernel,
          unit: UnitKernel) -> list[NDArray[np.int64]]:
    """Pieces of each sequence worth trying: one piece length for the whole batch, so that a giant is cut into many."""
    whole = np.ones(len(lengths), dtype=np.int64)
    mean, most = float(lengths.mean()), parameters.kernel.most_sequence_units
    ragged = lengths.max() > RAGGED * mean
    enough = len(lengths) * heads >= UNSPLIT_ITEMS * machine.units and not ragged
    if task.kernel in ("grouped-unsplit", "unfused") or enough:
        return [whole]
    tried = [splits for splits in SPLITS if splits == 1 or (splits <= most and mean / splits >= unit.tile_tokens)]
    found = [np.minimum(np.ceil(lengths * splits / mean), most).astype(np.int64) for splits in tried]
    return [whole, *(found if ragged else found[1:])]


def _estimate_s(lengths: NDArray[np.int64], cut: NDArray[np.int64], heads: int, unit: UnitKernel,
                parameters: ChipKernel, kv_bytes: float, memory_s: float) -> float:
    r"""Time of the busiest unit, or of memory and exposed set-up.

    .. math:: \max\big( w\,(t_{setup} + N_{tiles}\,c),\; T_{memory} + x\,w\,t_{setup} \big)
    """
    tokens = np.ceil(lengths / (cut * unit.tile_tokens)) * unit.tile_tokens
    token_bytes = kv_bytes / (float(lengths.sum()) * (heads / unit.readers))
    item_s = unit.setup_s + tokens * max(unit.token_s, token_bytes / unit.load_bytes_per_s)
    count = cut * float(heads)
    waves = float(count.sum()) / parameters.units
    if item_s.max() == item_s.min():
        waves = float(np.ceil(waves)) if waves < EVEN_WAVES else waves
        unit_s = waves * float(item_s[0])
    else:
        unit_s = max(float((count * item_s).sum()) / parameters.units, float(item_s.max()))
    return max(unit_s, memory_s + parameters.kernel.exposed_setup_fraction * waves * unit.setup_s)
