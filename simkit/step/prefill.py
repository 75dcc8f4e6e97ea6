r"""Operators of a prompt's chunk: attention of ``P`` new tokens over all that came before them, and the cost of a row.

The linear layers of a prefill are those of a decode step with more rows (:func:`row_operators` names what does not
belong to a row); attention is causal, so that token ``i`` of a chunk that ends at ``N`` sees :math:`N - P + i` tokens:

.. math:: pairs = \sum_{i=1}^{P} \min(N - P + i,\; W), \qquad F = 2\, n_q\, pairs\, (d_k + d_v)

Chunked prefill: Agrawal et al. 2024, "Sarathi-Serve" (arXiv 2403.02310); causal flops as FlashAttention counts them
(arXiv 2205.14135). The cache of earlier chunks is read once a chunk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.model.architecture import LayerGroup
from simkit.model.kinds.widths import State
from simkit.step.build import EXPAND_LATENT
from simkit.step.choices import INDEX_FLOPS
from simkit.step.operators import ATTENTION_PARTS, SOFTMAX_FLOPS, Operator, PromptTask
from simkit.step.workload import DecodeWorkload

# Operators of a decode step that a prompt's row does not run: they belong to sampled tokens or to the cache.
SAMPLED_ONLY: Final = ("lm_head", "gather_logits", "sampling", "medusa_blocks", "medusa_heads")
CACHE_ONLY: Final = (*ATTENTION_PARTS, "eviction_scores", EXPAND_LATENT, "draft")
STATE_PIECE: Final = 64  # tokens between stored states: the chunk of the published kernels (flash-linear-attention)


def prefill_attention(workload: DecodeWorkload, chunk_tokens: Any, end_tokens: Any,
                      prompts: Any = 1.0) -> list[Operator]:
    """Attention cores of a chunk of one prompt, one operator for each kind of layer, as one chip runs them.

    Parameters
    ----------
    workload: model, layout, formats and split; its batch and context are not used.
    chunk_tokens: new tokens ``P`` of the chunk; arrays broadcast.
    end_tokens: context ``N`` at the chunk's end, the chunk included.
    prompts: so many alike run together.

    A full pipeline works on ``pp`` parts of the chunk at once, so that a stage runs ``1/pp`` of it; chips that deal out
    the batch or the context deal out the chunk's work evenly.
    """
    return [operator for group in workload.layer_groups if group.attends
            for operator in _of_group(workload.of(group), group, np.asarray(chunk_tokens, float),
                                      np.asarray(end_tokens, float), prompts)]


def causal_pairs(chunk_tokens: Any, end_tokens: Any, most_tokens: float = np.inf) -> Any:
    r"""Query-key pairs of a chunk: :math:`\sum_{i=1}^{P} \min(N - P + i, W)`.

    >>> float(causal_pairs(4, 4)), float(causal_pairs(2, 10)), float(causal_pairs(4, 4, 2))
    (10.0, 19.0, 7.0)
    """
    start, end = np.asarray(end_tokens, float) - chunk_tokens, np.asarray(end_tokens, float)
    if not np.isfinite(most_tokens):
        return (end * (end + 1) - start * (start + 1)) / 2
    low, high = np.minimum(start, most_tokens), np.minimum(end, most_tokens)
    below = (high * (high + 1) - low * (low + 1)) / 2
    return below + most_tokens * (np.asarray(chunk_tokens, float) - (high - low))


def _of_group(workload: DecodeWorkload, group: LayerGroup, chunk: Any, end: Any, prompts: Any) -> list[Operator]:
    heads, layout = workload.heads, workload.layout
    core, index, pooled = layout.prefill_core, layout.indexer, layout.compression
    both_dims, expansion = core.key_dim + core.value_dim, core.expansion
    bytes_a = workload.activation_bytes_per_element
    parts = heads.batch_ways * heads.context_ways * np.maximum(workload.machine.pp, 1) / prompts
    if layout.state is not None:
        return [_chunked_state(workload, group, layout.state, chunk / parts)]
    # A prompt is read in full: what an eviction rule drops goes after it. Windows are part of the model.
    window = np.inf if group.window is None else float(group.window)
    beside = pooled is not None and pooled.among_tokens
    ratio = 1 if pooled is None or beside else pooled.ratio
    most = np.inf if index is None else float(index.most_entries * ratio)
    pairs = causal_pairs(chunk, end, min(window, most)) / ratio
    if pooled is not None:
        pairs = (pairs + causal_pairs(chunk, end, float(pooled.window))
                 + beside * causal_pairs(chunk, end) / pooled.ratio)
    scores = pairs * heads.q_per_chip / parts
    seen = np.minimum(end, window + chunk)
    found = [Operator(
        name="prefill_attention", count=group.count, matrix_flops=2.0 * scores * both_dims,
        vector_flops=1.0 * SOFTMAX_FLOPS * scores, exponentials=scores,
        kv_read_bytes=1.0 * replace(workload, q_len=np.maximum(chunk, 1.0)).read_bytes(seen)
        * (heads.context_ways / parts),
        activation_bytes=chunk * heads.q_per_chip * both_dims * bytes_a / parts,
        # Each query gathers what it has chosen, so only its own heads share what is read.
        query_rows=heads.group_size * (np.maximum(chunk, 1.0) if index is None else 1.0),
        dtype=workload.activation_dtype,
        # Nobody measured kernels that choose or pool what they read.
        prompt=None if index is not None or pooled is not None else PromptTask(
            sequences=1.0 / parts, query_heads=heads.q_per_chip, kv_heads=heads.kv_per_chip, new_tokens=chunk,
            earlier_tokens=end - chunk, window_tokens=window, key_dim=core.key_dim, value_dim=core.value_dim,
            element_bytes=bytes_a))]
    if index is not None and layout.has_index_keys:
        scored = causal_pairs(chunk, end) / ratio * index.heads / parts
        found.append(Operator(
            name="prefill_index", count=group.count, matrix_flops=2.0 * scored * index.dim,
            vector_flops=INDEX_FLOPS * scored, query_rows=np.maximum(chunk, 1.0) * index.heads,
            kv_read_bytes=1.0 * workload.read_bytes(end, ("index",)) * (heads.context_ways / parts),
            dtype=workload.activation_dtype if index.key_bytes is None else "fp8"))
    if expansion is not None:
        # The chunk's own entries are expanded by its rows' up-projections; those of earlier chunks once more.
        earlier = (seen - chunk) / parts
        width = heads.q_per_chip * expansion.columns
        found.append(Operator(
            name="prefill_expand_latent", count=group.count, matrix_flops=2.0 * earlier * expansion.rank * width,
            weight_bytes=(earlier > 0) * expansion.rank * width * workload.weight_format.bytes_per_element,
            activation_bytes=2.0 * earlier * width * bytes_a, query_rows=np.maximum(earlier, 1.0),
            dtype=workload.gemm_dtype))
    return found


def _chunked_state(workload: DecodeWorkload, group: LayerGroup, state: State, tokens: Any) -> Operator:
    r"""A recurrence over many tokens as products of pieces of ``C`` = 64: :math:`2 C (d_k + d_v) + 4 d_k d_v` flops a
    token and head, and for delta rules half as much again for the products that undo writes (Yang et al. 2024, arXiv
    2406.06484, section 3; flash-linear-attention's pieces). The state is read and written once.
    """
    held = workload.heads.kv_per_chip
    if not state.has_keys:
        channels = tokens * held * state.value_dim
        return Operator(name="prefill_convolution", count=group.count,
                        kv_write_bytes=workload.read_bytes(1.0, ("state",)),
                        vector_flops=2.0 * (state.conv_width + 1) * channels,
                        activation_bytes=4.0 * channels * workload.activation_bytes_per_element)
    of_token = 2.0 * STATE_PIECE * (state.key_dim + state.value_dim) + 4.0 * state.key_dim * state.value_dim
    moved = 1.0 * workload.read_bytes(1.0, ("state",))
    delta = 1.5 if state.takes_back else 1.0
    return Operator(
        name="prefill_state", count=group.count, matrix_flops=delta * of_token * tokens * held,
        kv_read_bytes=moved, kv_write_bytes=moved,
        activation_bytes=2.0 * tokens * held * (state.key_dim + state.value_dim)
        * workload.activation_bytes_per_element,
        query_rows=STATE_PIECE, dtype=workload.activation_dtype)
