r"""Attention of a prompt on a chip whose kernels were measured.

An item is ``M`` = 64 or 128 query rows of one head, which meet ``K`` tiles of as many keys up to the diagonal or in the
window; ``U`` units share all items, and the last one starts when the others are done (Graham 1966, "Bounds for certain
multiprocessing anomalies"). Libraries take the better ``M``. A score costs the matrix unit its products and the other
lanes ``s`` cycles of softmax, one after the other:

.. math:: c = \frac{2 (d_k + d_v)}{\pi_U} + s, \qquad
          T = \min_M \Big[ \frac{1}{U} \sum_{items} (K M^2 c + t_{item}) + (K_{max} M^2 c + t_{item}) \Big]
          + \frac{bytes}{\beta f}

Bytes are queries, outputs, and new keys and values. Parameters: :class:`simkit.hardware.kernel.PrefillKernel`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.hardware.kernel import PrefillKernel
from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import PromptTask

TILE_ROWS: Final = (64.0, 128.0)  # rows of FlashAttention 2 and 3, FlashInfer and TensorRT-LLM's prefill tiles
CUT_TILES: Final = 1.5  # tiles that a window touches besides its own length, as it begins and ends within some


def prompt_attention_s(task: PromptTask, hardware: HardwareProfile, kernel: PrefillKernel, dtype: str) -> Any:
    """Seconds of the kernel without its launch."""
    compute, width = hardware.compute, task.key_dim + task.value_dim
    hz, units = compute.known_clock_hz, compute.units
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)] / units / hz * kernel.matrix_efficiency
    score = 2.0 * width / rate + kernel.score_cycles
    heads: Any = task.sequences * task.query_heads
    best: Any = np.inf
    for rows in TILE_ROWS:
        items = np.ceil(task.new_tokens / rows)
        before = task.earlier_tokens / rows
        most = np.minimum(task.window_tokens / rows + CUT_TILES, before + items)
        growing = np.clip(np.floor(most - before), 0.0, items)  # items whose keys still reach the first token
        tiles = growing * (growing + 1.0) / 2.0 + growing * before + (items - growing) * most
        share = heads * (tiles * rows**2 * score + items * kernel.item_setup_cycles) / units
        best = np.minimum(best, share + most * rows**2 * score + kernel.item_setup_cycles)
    moved = task.sequences * task.new_tokens * width * (task.query_heads + task.kv_heads) * task.element_bytes
    memory: Any = hardware.main_memory.chip_bandwidth_bytes_per_s
    return best / hz + moved / (memory * kernel.activation_fraction)
