"""What decode kernels are made of on every chip: rows of an instruction, tiles, pieces of a sequence, partial results.

Both engines cut the same kernels, so they read the same shapes here; what differs from chip to chip is calibrated and
stands in the profile (:class:`simkit.hardware.kernel.DecodeKernel`).
"""

from __future__ import annotations

from typing import Final

# PTX ISA, mma: m16n8k16 of 16-bit operands, m16n8k32 of 8-bit ones. Packed query rows are free up to it.
MATRIX_ROWS: Final = 16
# Query rows of one item: whole matrix tiles, up to FlashInfer's 64 (FA2DetermineCtaTileQ), and half of one.
ROW_LIMITS: Final = (64, 32, 16, 8)
# Head dimensions up to it have kernels of their own, with ``narrow_head_*`` parameters: the measured tables' smallest.
NARROW_HEAD: Final = 64
# Pieces of a sequence: a grid of a third to a half between neighbours, up to FlashAttention's max_splits of 128.
SPLITS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# Items a unit from which equal sequences are not cut: FlashAttention's num_splits_heuristic stops at 0.8 of two.
UNSPLIT_ITEMS: Final = 2.0
# Assumed: from so many items a unit on units take items as they become free, and no last wave stands out.
EVEN_WAVES: Final = 8
# Partial outputs, maxima and sums are float32 and are combined so (FlashAttention 2, arXiv 2307.08691).
PARTIAL_BYTES: Final = 4
# An element of fewer than so many bytes, scales included, is an 8-bit one: between 1 and bf16's 2.
EIGHT_BIT_BYTES: Final = 1.5
# What profiles state parameters of: ``row_cycles`` are of so many elements.
ROW_ELEMENTS: Final = 128
# Likewise ``combine_cycles_per_64_bytes``.
COMBINE_UNIT_BYTES: Final = 64
