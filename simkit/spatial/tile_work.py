r"""What a tile does by itself: the roofs of the whole chip, as far as work deals out evenly, and what its engine adds.

.. math:: T = \max(\text{bytes}/\beta,\; \text{flops}/\pi,\; \text{exponentials}) \cdot u + \text{steps} \cdot c

``u`` is the busiest tile's share of the work times the tiles of the chip: 1 where everything deals out. A systolic
engine holds one operand and loads the next beside the work: every element once, whatever rows of the other stream past,
so few rows wait for the next load: :math:`\frac{F}{2 r} b / w_{fill}`. An engine that keeps partial sums in its memory
moves them with each product, and reads a matrix again for each row that multiplies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import Fabric
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.timing.roofs import (
    by_binding_roof,
    compute_time_s,
    highest_s,
    memory_times,
    special_function_time_s,
)
from simkit.timing.step_timing import COMPUTE, LATENCY, SPECIAL_FUNCTION

PARTIAL_BYTES: Final = 2.0  # of a partial sum in an engine's memory, 16 bits as the operands


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenWork:
    """Seconds of an operator that deals out evenly over all tiles: by memory level, of arithmetic, of loading what
    systolic engines hold, of exponentials. ``near``: levels beside the tiles, where the busiest one counts.
    """

    level_s: dict[str, Any]
    level_bytes: dict[str, Any]
    near: frozenset[str]
    compute_s: Any
    fill_s: Any
    special_s: Any
    far_bytes: Any

    def at(self, rows: list[int], shape: tuple[int, ...]) -> EvenWork:
        """Of some of the operators that it holds as arrays [operators, points]."""
        def of(value: Any) -> Any:
            if np.ndim(value) > len(shape):
                return value[rows]
            same = np.empty((len(rows), *shape))
            same[...] = value
            return same

        return EvenWork(
            level_s={name: of(one) for name, one in self.level_s.items()}, near=self.near,
            level_bytes={name: of(one) for name, one in self.level_bytes.items()}, compute_s=of(self.compute_s),
            fill_s=of(self.fill_s), special_s=of(self.special_s), far_bytes=of(self.far_bytes))


def clock_hz(fabric: Fabric, hardware: HardwareProfile) -> Any:
    """The fabric's clock; any, where it states nothing in cycles. Raises :class:`UserError` where one is missing."""
    if fabric.clock_hz is not None:
        return fabric.clock_hz
    if not fabric.has_rates:
        return 1.0
    return hardware.compute.known_clock_hz


def even_work(operator: Operator, placement: Placement, hardware: HardwareProfile, fabric: Fabric) -> EvenWork:
    """The roofs of operators, with what the fabric adds to each; of several as :func:`simkit.spatial.products.stacked`.

    Raises :class:`UserError` as ``memory_times``.
    """
    level_s, level_bytes = memory_times(operator, placement, hardware)
    hz, tile = clock_hz(fabric, hardware), fabric.tile
    near = frozenset(level.name for level in hardware.memory if level.kind == "sram")
    far_bytes: Any = 0.0
    for level in hardware.memory:
        resident = (operator.weight_bytes * placement.weights.get(level.name, 0.0)
                    + (operator.kv_read_bytes + operator.kv_reread_bytes) * placement.kv.get(level.name, 0.0))
        if level.name not in near:
            far_bytes = far_bytes + resident
            continue
        if tile.accumulates_in_memory and np.any(resident > 0):
            products = operator.matrix_flops / 2.0
            streamed = resident * operator.query_rows + 2.0 * PARTIAL_BYTES * products
            level_s[level.name] = level_s[level.name] * np.where(
                resident > 0, streamed / np.maximum(resident, 1.0), 1.0)
            level_bytes[level.name] = level_bytes[level.name] + np.where(resident > 0, streamed - resident, 0.0)
        if tile.port_bytes_per_cycle is not None:
            port_s = level_bytes[level.name] / (fabric.n_tiles * tile.port_bytes_per_cycle * hz)
            level_s[level.name] = np.maximum(level_s.get(level.name, 0.0), port_s)  # a rate that no source gives
    special_s = special_function_time_s(operator, hardware)
    if tile.exponential_cycles is not None:
        special_s = operator.exponentials * tile.exponential_cycles / (fabric.n_tiles * hz)
    fill_s: Any = 0.0
    if tile.fill_bytes_per_cycle is not None and operator.product is not None:
        elements = operator.matrix_flops / (2.0 * operator.query_rows)
        fill_s = elements * operator.product.input_bytes / (
            fabric.n_tiles * tile.engines * tile.fill_bytes_per_cycle * hz)
    return EvenWork(level_s=level_s, level_bytes=level_bytes, near=near, special_s=special_s, far_bytes=far_bytes,
                    fill_s=fill_s, compute_s=compute_time_s(operator, hardware, placement))


def local_s(work: EvenWork, fabric: Fabric, hz: Any, *, near: Any, compute: Any, special: Any, steps: Any,
            reached: Any, by_roof: bool = True) -> dict[str, Any]:
    """Seconds of the busiest tile by cause; the time is their sum.

    Parameters
    ----------
    work: as it would take on all tiles evenly.
    fabric, hz: the tiles and their clock.
    near, compute, special: the busiest tile's share of bytes beside it, products and exponentials, times all tiles.
    steps: vector instructions on that tile.
    reached: tiles that take in what comes from memory that all share.
    by_roof: False gives the highest roof without saying which it is.
    """
    tile = fabric.tile
    roofs = {name: time_s * near if name in work.near else time_s for name, time_s in work.level_s.items()}
    if tile.shared_bytes_per_cycle is not None:
        far_s = work.far_bytes / (reached * tile.shared_bytes_per_cycle * hz)
        far = [name for name in roofs if name not in work.near]
        roofs |= {name: np.maximum(roofs[name], far_s) for name in far[-1:]}
    fills_s, compute_s, special_s = work.fill_s * near, work.compute_s * compute, work.special_s * special
    compute_s = np.maximum(compute_s, fills_s) if tile.overlaps else compute_s + fills_s
    apart = {COMPUTE: compute_s, SPECIAL_FUNCTION: special_s}
    if tile.overlaps:
        roofs, apart = roofs | apart, {}
    highest = highest_s(roofs.values())
    found = by_binding_roof(roofs, highest) if by_roof else {"": highest}
    return found | apart | {LATENCY: steps * (tile.step_cycles / hz)}
