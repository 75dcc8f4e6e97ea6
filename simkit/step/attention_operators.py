"""Operators of an attention block: projections, the append to the cache, attention over it, and eviction's upkeep."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.model.architecture import LayerGroup
from simkit.model.kinds.base import Expansion
from simkit.step.operators import SOFTMAX_FLOPS, AttentionTask, Operator, gemm, norm
from simkit.step.projections import products
from simkit.step.workload import DecodeWorkload

KV_APPEND: Final = "kv_append"
EXPAND_LATENT: Final = "expand_latent"
CROSS_ATTENTION: Final = "cross_attention"
ROTARY_FLOPS: Final = 3  # a rotation is 4 multiplies and 2 adds for 2 elements
SCORE_FLOPS: Final = 2  # H2O: add this step's probability to the running score, compare for the least one
UNFUSED_PASSES: Final = 4  # scores written, read by softmax, probabilities written, read for the values' product


def attention_block(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    """Norm, projections, append, attention and output projection of one kind of layer."""
    expansion = workload.layout.core.expansion
    return [
        norm(workload, group.count),
        *products(workload, group, after_core=False),
        _kv_append(workload, group.count),
        *([] if expansion is None else [_expand(workload, group, expansion)]),
        _attention(workload, group),
        *_score_upkeep(workload, group),
        *products(workload, group, after_core=True),
        *(_cross_attention(workload, group) if workload.model.cross_attention else []),
    ]


def _cross_attention(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    r"""An encoder-decoder's second attention, over ``M`` encoder tokens: :math:`4 B q n_q M d` flops and
    :math:`2 B n_{kv} M d\,b_{kv}` bytes. Its keys and values were made once, before decoding, in the layout of the
    decoder's own (Ainslie et al. 2023, section 3.1); nothing is appended or evicted.
    """
    heads, layout, count = workload.heads, workload.layout, group.count
    sequences, tokens = workload.attention_sequences, workload.encoder_tokens
    scores = 1.0 * sequences * workload.q_len * heads.q_per_chip * tokens
    by_query_head = workload.kernel == "per-query-head"
    readers = heads.q_per_chip if by_query_head else heads.kv_per_chip
    both_dims = layout.core.key_dim + layout.core.value_dim
    bytes_a = workload.activation_bytes_per_element
    core = Operator(
        name=CROSS_ATTENTION, count=count, matrix_flops=2.0 * scores * both_dims, exponentials=scores,
        vector_flops=SOFTMAX_FLOPS * scores, kv_read_bytes=1.0 * sequences * workload.read_bytes(tokens),
        unpack_flops=1.0 * sequences * readers * tokens * workload.unpack_flops_per_token,
        cache_dtype=workload.native_cache_dtype,
        kv_reread_bytes=1.0 * sequences * workload.reread_bytes(tokens, readers),
        widened_read_bytes=1.0 * sequences * workload.widened.read_bytes(tokens),
        widened_reread_bytes=1.0 * sequences * workload.widened.reread_bytes(tokens, readers),
        activation_bytes=sequences * workload.q_len * heads.q_per_chip * both_dims * bytes_a
        + (UNFUSED_PASSES * scores * bytes_a if workload.kernel == "unfused" else 0.0),
        query_rows=workload.q_len * (1.0 if by_query_head else heads.group_size), dtype=workload.activation_dtype,
        launches=3 if workload.kernel == "unfused" else 1)
    own_width = workload.model.n_q_heads / heads.ways * workload.model.head_dim
    return [norm(workload, count), gemm(workload, "cross_q_projection", count, layout.hidden_size, own_width), core,
            gemm(workload, "cross_output_projection", count, own_width, layout.hidden_size)]


def _expand(workload: DecodeWorkload, group: LayerGroup, expansion: Expansion) -> Operator:
    """Every cached entry is multiplied up to this chip's keys and values, which attention then reads (un-absorbed MLA).

    A chip expands its own sequences (or tokens) for every head that it attends with: all of them when the batch or
    the context is sharded, so its copy of the up-projections is whole then.
    """
    tokens, heads = workload.attention_sequences * workload.tokens_read(group), workload.heads.q_per_chip
    columns = heads * expansion.columns
    return Operator(
        name=EXPAND_LATENT, count=group.count, matrix_flops=2.0 * tokens * expansion.rank * columns,
        weight_bytes=1.0 * expansion.rank * columns * workload.weight_format.bytes_per_element,
        activation_bytes=2.0 * tokens * columns * workload.activation_bytes_per_element,
        query_rows=tokens, dtype=workload.gemm_dtype)


def _kv_append(workload: DecodeWorkload, count: int) -> Operator:
    """Rotary embedding of the new queries and keys, and the write of the new entries: ``B q n_kv (d_k + d_v) b_kv``."""
    rows, heads, writes = workload.rows, workload.heads, workload.layout.writes
    own_kv = workload.computed_kv_heads
    rotary_elements = (workload.model.n_q_heads / heads.ways * writes.rotary_per_query_head
                       + own_kv * writes.rotary_per_kv_head + writes.rotary_shared)
    # Batch-sharded chips write their own sequences only; of a context-sharded group one chip takes the new tokens.
    new_tokens = np.ceil(workload.sequences / heads.batch_ways) * workload.q_len
    return Operator(
        name=KV_APPEND, count=count, vector_flops=1.0 * ROTARY_FLOPS * rows * rotary_elements,
        kv_write_bytes=1.0 * new_tokens * workload.appended_bytes,
        activation_bytes=2.0 * rows * rotary_elements * workload.activation_bytes_per_element)


def _attention(workload: DecodeWorkload, group: LayerGroup) -> Operator:
    r"""Attention over the cache: :math:`2 B q n_q N (d_k + d_v)` flops, :math:`B n_{kv} N (d_k + d_v) b_{kv}` bytes.

    With ``d_k = d_v = d`` these are ``4 B q n_q N d`` and ``2 B n_kv N d b_kv``; MLA reads its latent once for both.
    A ``per-query-head`` kernel reads a KV head again for every query head of its group, and every kernel reads what KV
    heads share again for each of them; an ``unfused`` one passes scores and probabilities through memory
    (FlashAttention, arXiv 2205.14135, saves these passes).
    """
    heads, layout, policy, core = workload.heads, workload.layout, workload.policy, workload.layout.core
    sequences, tokens = workload.attention_sequences, workload.tokens_read(group)
    scores = 1.0 * sequences * workload.q_len * heads.q_per_chip * tokens
    read = workload.layer_read_bytes(group)
    tables = sequences * policy.lengths.mean_of(
        lambda kv_len: policy.paging.table_bytes(np.ceil(policy.kept(kv_len, group) / heads.context_ways)),
        workload.kv_len)
    # Where entries are expanded first, they are read once for that, and no two query heads share a key.
    sharing = heads.group_size if core.shared_keys else 1.0
    by_query_head = workload.kernel == "per-query-head"
    readers = heads.q_per_chip if by_query_head and core.shared_keys else heads.kv_per_chip
    rereads: Any = 0.0
    wide_rereads: Any = 0.0
    shared_rereads: Any = 0.0
    wide = workload.widened
    if by_query_head or workload.has_mixed_arrays:
        rereads = sequences * workload.mean_over_lengths(group, lambda kept: workload.reread_bytes(kept, readers))
        wide_rereads = rereads if wide is workload else sequences * workload.mean_over_lengths(
            group, lambda kept: wide.reread_bytes(kept, readers))
    if workload.has_mixed_arrays:
        shared_rereads = sequences * workload.mean_over_lengths(
            group, lambda kept: workload.shared_reread_bytes(kept, readers))
    unpacked = sequences * readers * tokens * workload.unpack_flops_per_token
    both_dims = core.key_dim + core.value_dim
    bytes_a = workload.activation_bytes_per_element
    task = AttentionTask(
        sequences=sequences, kv_heads=heads.q_per_chip / sharing, query_rows=sharing * workload.q_len, tokens=tokens,
        key_dim=core.key_dim, value_dim=core.value_dim, latent=core.latent_kernel, arrays=len(layout.reads),
        cached_elements=workload.elements_per_kv_head,
        bytes_per_token_head=read / tokens * (sharing / heads.q_per_chip), kernel=workload.kernel,
        page=policy.paging.page, length_factors=policy.lengths.factors,
        interleaved_heads=heads.kv_per_chip if workload.cache_order == "token-major" else 1,
        stride_tokens=_stride_tokens(workload, group), shared_reread_bytes=shared_rereads)
    return Operator(
        name="attention", count=group.count, matrix_flops=2.0 * scores * both_dims,
        vector_flops=SOFTMAX_FLOPS * scores, unpack_flops=1.0 * unpacked, cache_dtype=workload.native_cache_dtype,
        exponentials=scores, kv_read_bytes=1.0 * sequences * read + tables, kv_reread_bytes=rereads,
        widened_read_bytes=1.0 * sequences * (read if wide is workload else wide.layer_read_bytes(group)) + tables,
        widened_reread_bytes=wide_rereads,
        activation_bytes=sequences * workload.q_len * heads.q_per_chip * both_dims * bytes_a
        + (UNFUSED_PASSES * scores * bytes_a if workload.kernel == "unfused" else 0.0),
        query_rows=workload.q_len * (1.0 if by_query_head else sharing), dtype=workload.activation_dtype,
        launches=3 if workload.kernel == "unfused" else 1, attention=task)


def _stride_tokens(workload: DecodeWorkload, group: LayerGroup) -> Any:
    """Distance in tokens of the kept ones: H2O keeps heavy hitters where they were written; windows and sinks are runs,
    and what SnapKV keeps is copied together after the prompt (arXiv 2306.14048, 2404.14469).
    """
    rule = workload.policy.eviction
    if rule is None or not rule.keeps_scores or group.window is not None:
        return 1.0
    return np.maximum(workload.kv_len / (workload.tokens_read(group) * workload.heads.context_ways), 1.0)


def _score_upkeep(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    """H2O: every kept token's running score is read, increased by this step's probabilities, compared and written."""
    on_chip = workload.score_bytes(group)
    if np.ndim(on_chip) == 0 and on_chip == 0.0:
        return []
    heads, sequences = workload.heads, workload.attention_sequences
    moved = 1.0 * sequences * on_chip
    scores = sequences * workload.q_len * heads.q_per_chip * workload.tokens_read(group)
    return [Operator(name="eviction_scores", count=group.count, vector_flops=SCORE_FLOPS * scores,
                     kv_read_bytes=moved, kv_write_bytes=moved)]
