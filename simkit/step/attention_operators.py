"""Operators of an attention block: projections, the append to the cache, attention over it, and eviction's upkeep."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.model.architecture import LayerGroup, Mla
from simkit.step.operators import SOFTMAX_FLOPS, AttentionTask, Operator, gemm, norm
from simkit.step.workload import DecodeWorkload

KV_APPEND: Final = "kv_append"
EXPAND_LATENT: Final = "expand_latent"
CROSS_ATTENTION: Final = "cross_attention"
ROTARY_FLOPS: Final = 3  # a rotation is 4 multiplies and 2 adds for 2 elements
SCORE_FLOPS: Final = 2  # H2O: add this step's probability to the running score, compare for the least one
UNFUSED_PASSES: Final = 4  # scores written, read by softmax, probabilities written, read for the values' product


def attention_block(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    """Norm, projections, append, attention and output projection of one kind of layer."""
    first = norm(workload, group.count)
    if workload.layout.kind == "mla" and workload.model.mla is not None:
        return [first, *_latent_block(workload, group, workload.model.mla)]
    model, heads, count = workload.model, workload.heads, group.count
    d, width = model.head_dim, model.hidden_size
    own_q = model.n_q_heads / heads.ways
    own_kv = heads.kv_per_chip if workload.sharding == "heads" else workload.n_kv_heads / heads.ways
    return [
        first,
        gemm(workload, "qkv_projection", count, width, (own_q + 2 * own_kv) * d),
        _kv_append(workload, count, rotary_elements=(own_q + own_kv) * d),
        _attention(workload, group, key_dim=d, value_dim=d),
        *_score_upkeep(workload, group),
        gemm(workload, "output_projection", count, own_q * d, width),
        *(_cross_attention(workload, group, own_q * d) if model.cross_attention else []),
    ]


def _cross_attention(workload: DecodeWorkload, group: LayerGroup, own_width: Any) -> list[Operator]:
    r"""An encoder-decoder's second attention, over ``M`` encoder tokens: :math:`4 B q n_q M d` flops and
    :math:`2 B n_{kv} M d\,b_{kv}` bytes. Its keys and values were made once, before decoding, in the layout of the
    decoder's own (Ainslie et al. 2023, section 3.1); nothing is appended or evicted.
    """
    width, heads, count = workload.model.hidden_size, workload.heads, group.count
    sequences, tokens = workload.attention_sequences, workload.encoder_tokens
    scores = 1.0 * sequences * workload.q_len * heads.q_per_chip * tokens
    stored = 1.0 * sequences * heads.kv_per_chip * workload.cache_bytes(tokens)
    by_query_head = workload.kernel == "per-query-head"
    repeats = heads.group_size if by_query_head else 1.0
    unpacked = sequences * heads.kv_per_chip * tokens * workload.unpack_flops_per_token * repeats
    both_dims = workload.layout.head_dim + workload.layout.v_head_dim
    bytes_a = workload.activation_bytes_per_element
    core = Operator(
        name=CROSS_ATTENTION, count=count, matrix_flops=2.0 * scores * both_dims, exponentials=scores,
        vector_flops=SOFTMAX_FLOPS * scores, kv_read_bytes=stored,
        unpack_flops=1.0 * unpacked, cache_dtype=workload.native_cache_dtype,
        kv_reread_bytes=(repeats - 1.0) * stored,
        activation_bytes=sequences * workload.q_len * heads.q_per_chip * both_dims * bytes_a
        + (UNFUSED_PASSES * scores * bytes_a if workload.kernel == "unfused" else 0.0),
        query_rows=workload.q_len * (1.0 if by_query_head else heads.group_size), dtype=workload.activation_dtype,
        launches=3 if workload.kernel == "unfused" else 1)
    return [norm(workload, count), gemm(workload, "cross_q_projection", count, width, own_width), core,
            gemm(workload, "cross_output_projection", count, own_width, width)]


def _latent_block(workload: DecodeWorkload, group: LayerGroup, mla: Mla) -> list[Operator]:
    """MLA (DeepSeek-V2, section 2.1): up-projections absorbed into query and output, or K and V expanded each step."""
    width, count = workload.model.hidden_size, group.count
    n = workload.model.n_q_heads / workload.heads.ways
    qk = mla.nope_head_dim + mla.rope_head_dim
    query = ([gemm(workload, "q_down_projection", count, width, workload.whole(mla.q_lora_rank)),
              gemm(workload, "q_up_projection", count, mla.q_lora_rank, n * qk)]
             if mla.q_lora_rank else [gemm(workload, "q_up_projection", count, width, n * qk)])
    latent = gemm(workload, "kv_down_projection", count, width, workload.whole(mla.latent_dim))
    append = _kv_append(workload, count, rotary_elements=(n + 1) * mla.rope_head_dim)
    output = gemm(workload, "output_projection", count, n * mla.v_head_dim, width)
    upkeep = _score_upkeep(workload, group)
    if not workload.layout.absorbed:
        core = _attention(workload, group, key_dim=qk, value_dim=mla.v_head_dim)
        return [*query, latent, append, _expand_latent(workload, group, mla), core, *upkeep, output]
    return [
        *query,
        latent,
        gemm(workload, "absorb_key", count, mla.nope_head_dim, mla.kv_lora_rank, batches=n),
        append,
        _attention(workload, group, key_dim=mla.latent_dim, value_dim=mla.kv_lora_rank),
        *upkeep,
        gemm(workload, "absorb_value", count, mla.kv_lora_rank, mla.v_head_dim, batches=n),
        output,
    ]


def _expand_latent(workload: DecodeWorkload, group: LayerGroup, mla: Mla) -> Operator:
    """Un-absorbed MLA: every cached latent is multiplied up to this chip's keys and values, which attention then reads.

    A chip expands its own sequences (or tokens) for every head that it attends with: all of them when the batch or
    the context is sharded, so its copy of the up-projections is whole then.
    """
    tokens, heads = workload.attention_sequences * workload.tokens_read(group), workload.heads.q_per_chip
    per_head = mla.nope_head_dim + mla.v_head_dim
    return Operator(
        name=EXPAND_LATENT, count=group.count, matrix_flops=2.0 * tokens * mla.kv_lora_rank * heads * per_head,
        weight_bytes=1.0 * mla.kv_lora_rank * heads * per_head * workload.weight_format.bytes_per_element,
        activation_bytes=2.0 * tokens * heads * per_head * workload.activation_bytes_per_element,
        query_rows=tokens, dtype=workload.gemm_dtype)


def _kv_append(workload: DecodeWorkload, count: int, rotary_elements: Any) -> Operator:
    """Rotary embedding of the new queries and keys, and the write of the new K and V: ``2 B q n_kv d b_kv`` bytes."""
    rows, heads = workload.rows, workload.heads
    # Batch-sharded chips write their own sequences only; of a context-sharded group one chip takes the new tokens.
    new_tokens = np.ceil(workload.sequences / heads.batch_ways) * workload.q_len
    return Operator(
        name=KV_APPEND, count=count, vector_flops=1.0 * ROTARY_FLOPS * rows * rotary_elements,
        kv_write_bytes=1.0 * heads.kv_per_chip * new_tokens * workload.appended_bytes,
        activation_bytes=2.0 * rows * rotary_elements * workload.activation_bytes_per_element)


def _attention(workload: DecodeWorkload, group: LayerGroup, *, key_dim: int, value_dim: int) -> Operator:
    r"""Attention over the cache: :math:`2 B q n_q N (d_k + d_v)` flops, :math:`B n_{kv} N (d_k + d_v) b_{kv}` bytes.

    With ``d_k = d_v = d`` these are ``4 B q n_q N d`` and ``2 B n_kv N d b_kv``; MLA reads its latent once for both.
    A ``per-query-head`` kernel reads a KV head again for every query head of its group; an ``unfused`` one passes
    scores and probabilities through memory (FlashAttention, arXiv 2205.14135, saves these passes).
    """
    heads, layout, policy = workload.heads, workload.layout, workload.policy
    sequences, tokens = workload.attention_sequences, workload.tokens_read(group)
    scores = 1.0 * sequences * workload.q_len * heads.q_per_chip * tokens
    stored = 1.0 * sequences * heads.kv_per_chip * workload.layer_cache_bytes(group)
    tables = sequences * policy.lengths.mean_of(
        lambda kv_len: policy.paging.table_bytes(np.ceil(policy.kept(kv_len, group) / heads.context_ways)),
        workload.kv_len)
    # Latents are expanded before the core runs: they are read once, and no two query heads share a key.
    expanded = layout.kind == "mla" and not layout.absorbed
    sharing = 1.0 if expanded else heads.group_size
    by_query_head = workload.kernel == "per-query-head"
    rereads = (sharing - 1.0) * stored if by_query_head else 0.0
    unpacked = sequences * heads.kv_per_chip * tokens * workload.unpack_flops_per_token
    bytes_a = workload.activation_bytes_per_element
    task = AttentionTask(
        sequences=sequences, kv_heads=heads.q_per_chip / sharing, query_rows=sharing * workload.q_len, tokens=tokens,
        key_dim=key_dim, value_dim=value_dim, cache_key_dim=layout.head_dim,
        cache_value_dim=0 if layout.kind == "mla" else layout.v_head_dim,
        bytes_per_token_head=workload.layer_cache_bytes(group) / tokens
        * (heads.kv_per_chip * sharing / heads.q_per_chip),
        kernel=workload.kernel, page=policy.paging.page, length_factors=policy.lengths.factors,
        interleaved_heads=heads.kv_per_chip if workload.cache_order == "token-major" else 1,
        stride_tokens=_stride_tokens(workload, group))
    return Operator(
        name="attention", count=group.count, matrix_flops=2.0 * scores * (key_dim + value_dim),
        vector_flops=SOFTMAX_FLOPS * scores, unpack_flops=1.0 * unpacked * (sharing if by_query_head else 1.0),
        cache_dtype=workload.native_cache_dtype, exponentials=scores,
        kv_read_bytes=stored + tables, kv_reread_bytes=rereads,
        activation_bytes=sequences * workload.q_len * heads.q_per_chip * (key_dim + value_dim) * bytes_a
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
    per_head = workload.score_bytes(group)
    if np.ndim(per_head) == 0 and per_head == 0.0:
        return []
    heads, sequences = workload.heads, workload.attention_sequences
    moved = 1.0 * sequences * heads.kv_per_chip * per_head
    scores = sequences * workload.q_len * heads.q_per_chip * workload.tokens_read(group)
    return [Operator(name="eviction_scores", count=group.count, vector_flops=SCORE_FLOPS * scores,
                     kv_read_bytes=moved, kv_write_bytes=moved)]
