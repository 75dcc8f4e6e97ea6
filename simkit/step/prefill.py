r"""Operators of a prompt's chunk: attention of ``P`` new tokens over all that came before them, and the cost of a row.

The linear layers of a prefill are those of a decode step with more rows (:func:`row_operators` names what does not
belong to a row); attention is causal, so that token ``i`` of a chunk that ends at ``N`` sees :math:`N - P + i` tokens:

.. math:: pairs = \sum_{i=1}^{P} \min(N - P + i,\; W), \qquad F = 2\, n_q\, pairs\, (d_k + d_v)

Chunked prefill: Agrawal et al. 2024, "Sarathi-Serve" (arXiv 2403.02310); causal flops as FlashAttention counts them
(arXiv 2205.14135). The cache of earlier chunks is read once a chunk.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.model.architecture import LayerGroup
from simkit.step.build import EXPAND_LATENT
from simkit.step.operators import SOFTMAX_FLOPS, Operator
from simkit.step.workload import DecodeWorkload

# Operators of a decode step that a prompt's row does not run: they belong to sampled tokens or to the cache.
SAMPLED_ONLY: Final = ("lm_head", "gather_logits", "sampling", "medusa_blocks", "medusa_heads")
CACHE_ONLY: Final = ("attention", "eviction_scores", EXPAND_LATENT, "draft")


def prefill_attention(workload: DecodeWorkload, chunk_tokens: Any, end_tokens: Any) -> list[Operator]:
    """Attention cores of a chunk of one prompt, one operator for each kind of layer, as one chip runs them.

    Parameters
    ----------
    workload: model, layout, formats and split; its batch and context are not used.
    chunk_tokens: new tokens ``P`` of the chunk; arrays broadcast.
    end_tokens: context ``N`` at the chunk's end, the chunk included.

    A full pipeline works on ``pp`` parts of the chunk at once, so that a stage runs ``1/pp`` of it; chips that deal out
    the batch or the context deal out the chunk's work evenly.
    """
    return [operator for group in workload.layer_groups
            for operator in _of_group(workload, group, np.asarray(chunk_tokens, float), np.asarray(end_tokens, float))]


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


def _of_group(workload: DecodeWorkload, group: LayerGroup, chunk: Any, end: Any) -> list[Operator]:
    heads, core = workload.heads, workload.layout.prefill_core
    both_dims, expansion = core.key_dim + core.value_dim, core.expansion
    # A prompt is read in full: what an eviction rule drops goes after it. Windows are part of the model.
    window = np.inf if group.window is None else float(group.window)
    parts = heads.batch_ways * heads.context_ways * np.maximum(workload.machine.pp, 1)
    scores = causal_pairs(chunk, end, window) * heads.q_per_chip / parts
    seen = np.minimum(end, window + chunk)
    bytes_a = workload.activation_bytes_per_element
    found = [Operator(
        name="prefill_attention", count=group.count, matrix_flops=2.0 * scores * both_dims,
        vector_flops=1.0 * SOFTMAX_FLOPS * scores, exponentials=scores,
        kv_read_bytes=1.0 * workload.read_bytes(seen) / parts,
        activation_bytes=chunk * heads.q_per_chip * both_dims * bytes_a / parts,
        query_rows=np.maximum(chunk, 1.0) * heads.group_size, dtype=workload.activation_dtype)]
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
