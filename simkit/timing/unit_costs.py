"""What a work item of a decode kernel costs one compute unit, in its clock cycles: the same for every engine.

Matrix instructions work on query rows padded to 16, with 8-bit elements converted where no 8-bit instruction takes
them, and exponentials beside; or the vector lanes take one query head an item. Parameters:
:class:`simkit.hardware.kernel.DecodeKernel`. Everything broadcasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.hardware.kernel import DecodeKernel
from simkit.hardware.kernel_shape import EIGHT_BIT_BYTES, MATRIX_ROWS, NARROW_HEAD, ROW_LIMITS
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import AttentionTask


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCosts:
    """Cycles of one unit: ``setup`` of an item, and of each token on its ``load`` path and in its ``compute``.

    An item takes whole tiles of ``tile_tokens``. ``floor``: launch of this kernel over that of the 16-bit matrix one.
    """

    matrix: bool
    setup: Any
    load: Any
    compute: Any
    tile_tokens: float
    floor: Any

    def costs_the_same_as(self, other: UnitCosts) -> Any:
        """Where an item of the other kernel, with at least as many query rows, costs the same in every respect."""
        same: Any = True
        for name in ("setup", "load", "compute", "floor"):
            same = same & (np.asarray(getattr(self, name)) == np.asarray(getattr(other, name)))
        return same


def row_groups(sizes: Any) -> list[Any]:
    """Query rows that one item of the matrix unit may take: all of a KV head's, or the largest equal part of them
    that fits a limit. Nested groupings share these parts, up to rows that the matrix unit pads anyway.

    >>> [groups.tolist() for groups in row_groups(np.array([8.0, 48.0]))]
    [[8.0, 48.0], [8.0, 24.0], [8.0, 16.0], [8.0, 8.0]]
    """
    found, place = np.unique(sizes, return_inverse=True)
    groups = [sizes]
    for limit in ROW_LIMITS:
        if found[-1] > limit:
            parts = [max(n for n in range(1, limit + 1) if size % n == 0) if size > limit else size for size in found]
            groups.append(np.array(parts, dtype=float)[place])
    return groups


def matrix_costs(rows: Any, group_rows: Any, token_bytes: Any, task: AttentionTask, hardware: HardwareProfile,
                 kernel: DecodeKernel, widened: Any) -> UnitCosts:
    """The matrix unit's kernel.

    Parameters
    ----------
    rows: query rows of an item.
    group_rows: all query rows of a KV head.
    token_bytes: cache bytes of a token and KV head.
    task, hardware, kernel: what is read, on which chip, with which parameters.
    widened: how much wider data paths are than those of the chip that the parameters were fitted on.
    """
    compute, width = hardware.compute, float(task.cache_key_dim + task.cache_value_dim)
    cycles = compute.known_clock_hz * compute.units
    eight = token_bytes < EIGHT_BIT_BYTES * width
    narrow = task.key_dim <= NARROW_HEAD
    # Kernels that multiply 8-bit operands as they are exist for shared heads.
    has_native = eight & (group_rows > 1) & (kernel.native_8bit_rows > 0)
    native = has_native & (rows <= kernel.native_8bit_rows)
    tiles = np.ceil(rows / MATRIX_ROWS) * MATRIX_ROWS
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")] / cycles
    matrix = tiles * (2.0 * (task.key_dim + task.value_dim) / (rate * kernel.matrix_efficiency))
    convert = np.where(eight & ~native, (width + kernel.dequantise_token_elements)
                       / (kernel.dequantise_elements_per_cycle * widened), 0.0)
    exponentials = 0.0 if compute.special_ops_per_s is None else tiles * (cycles / compute.special_ops_per_s)
    return UnitCosts(
        matrix=True, load=token_bytes / (kernel.load_bytes_per_cycle_per_unit * widened),
        compute=np.maximum(matrix + convert, exponentials), tile_tokens=kernel.tile_tokens,
        setup=kernel.item_setup_cycles * (kernel.narrow_head_setup_ratio if narrow else 1.0) * np.where(
            native, kernel.setup_ratio_native_8bit, np.where(eight, kernel.setup_ratio_8bit, 1.0)),
        # Libraries take that kernel for groups that fit one tile, in parts if need be.
        floor=(kernel.narrow_head_launch_ratio if narrow else 1.0) * np.where(eight, kernel.launch_ratio_8bit, 1.0)
        * np.where(has_native & (group_rows <= MATRIX_ROWS), kernel.launch_ratio_native_8bit, 1.0))


def vector_costs(token_bytes: Any, task: AttentionTask, kernel: DecodeKernel, widened: Any) -> UnitCosts:
    """The vector lanes' kernel of one query head an item; parameters as of :func:`matrix_costs`."""
    width = float(task.cache_key_dim + task.cache_value_dim)
    eight = token_bytes < EIGHT_BIT_BYTES * width
    elements = np.where(eight, kernel.vector_elements_per_cycle_8bit, kernel.vector_elements_per_cycle) * widened
    return UnitCosts(
        matrix=False, load=0.0, compute=width / elements + kernel.vector_token_cycles,
        setup=kernel.vector_item_setup_cycles * np.where(eight, kernel.vector_item_setup_ratio_8bit, 1.0),
        tile_tokens=kernel.vector_tile_tokens,
        floor=(kernel.narrow_head_launch_ratio if task.key_dim <= NARROW_HEAD else 1.0)
        * kernel.vector_launch_ratio * np.where(eight, kernel.launch_ratio_8bit, 1.0))
