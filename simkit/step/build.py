r"""A decode step's operators: the attention and MLP blocks of every kind of layer, and the ends.

Weight matrices of an attention block come from the list that its kind gives. What the whole machine moves and computes
follows from what its busiest chip does: every chip is as busy, except where sequences, KV heads or experts do not deal
out evenly; there the total counts what is really there: ``B`` sequences, one cache (or its replicas), the mean chip's
experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.model.architecture import LayerGroup
from simkit.model.kinds.base import ATTENDED, Expansion, Projection
from simkit.step.choices import PARTS_READ, choice_of_entries, chosen_rows, state_update
from simkit.step.collectives import LOGIT_BYTES, collectives_of
from simkit.step.layer_input import layer_input, streams
from simkit.step.mixture import mixture
from simkit.step.operators import (
    GATE_FLOPS,
    SOFTMAX_FLOPS,
    AttentionTask,
    DecodeStep,
    Gather,
    Operator,
    gemm,
    norm,
)
from simkit.step.workload import DecodeWorkload


def chip_heads(workload: DecodeWorkload, projection: Projection) -> Any:
    """How many heads' matrices one chip has; a part of one where a head's outputs are dealt out."""
    heads = workload.heads
    if projection.heads == "query":
        return workload.computed_q_heads
    if projection.heads == "attended":
        return heads.q_per_chip
    if projection.heads == "one":
        return workload.whole(1)
    if projection.heads == "group":
        return np.maximum(projection.groups / heads.ways,
                          0.0 if workload.static or projection.joined != "columns" else 1.0)
    # Where chips divide the batch or the context, new keys and values are computed head by head all the same.
    return workload.computed_kv_heads


def chip_elements(workload: DecodeWorkload) -> Any:
    """Weights of one attention block on one chip, repeated ones included; what expands a cache lies with the cache."""
    own = sum((1.0 * p.rows * p.columns * chip_heads(workload, p) for p in workload.layout.projections
               if ("projections" if p.product else "attention") in workload.parts), 0.0)
    return own * (2 if workload.model.cross_attention else 1)


def products(workload: DecodeWorkload, group: LayerGroup, *, after_core: bool) -> list[Operator]:
    """The products of a step before attention, or after it."""
    found: list[tuple[str, Any, Any, Any]] = []
    for projection in workload.layout.projections:
        if projection.after_core is not after_core or not projection.product:
            continue
        heads = chip_heads(workload, projection)
        width_in, width_out, batches = {
            "columns": (projection.rows, projection.columns * heads, 1),
            "rows": (projection.rows * heads, projection.columns, 1),
            "none": (projection.rows, projection.columns, heads)}[projection.joined]
        if found and found[-1][0] == projection.product:
            width_out = found.pop()[2] + width_out
        found.append((projection.product, width_in, width_out, batches))
    return [gemm(workload, name, group.count, width_in, width_out, batches=batches)
            for name, width_in, width_out, batches in found]


KV_APPEND: Final = "kv_append"
EXPAND_LATENT: Final = "expand_latent"
CROSS_ATTENTION: Final = "cross_attention"
ROTARY_FLOPS: Final = 3  # a rotation is 4 multiplies and 2 adds for 2 elements
SCORE_FLOPS: Final = 2  # H2O: add this step's probability to the running score, compare for the least one
OF_THE_CACHE: Final = (CROSS_ATTENTION, EXPAND_LATENT, KV_APPEND, "eviction_scores", *PARTS_READ)
UNFUSED_PASSES: Final = 4  # scores written, read by softmax, probabilities written, read for the values' product


def attention_block(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    """Norm, projections, append, attention (or a state's update) and output projection of one kind of layer."""
    own = workload.of(group)
    before, after = (products(own, group, after_core=later) for later in (False, True))
    if own.layout.state is not None:
        core = state_update(own, group, own.layout.state)
    else:
        expansion = own.layout.core.expansion
        core = [*([] if not own.layout.writes.appended else [_kv_append(own, group.count)]),
                *([] if expansion is None else [_expand(own, group, expansion)]),
                *(choice_of_entries(own, group) if own.layout.indexer else []), _attention(own, group),
                *_score_upkeep(own, group)]
    found = [norm(workload, group.count), *before, *core, *after]
    if group.shape is not None:  # what step_totals asks for; layers without a shape are as the workload has them
        found = [replace(operator, layers=group) for operator in found]
    return found + (_cross_attention(workload, group) if workload.model.cross_attention else [])


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
        vector_flops=SOFTMAX_FLOPS * scores, kv_read_bytes=1.0 * sequences * workload.read_bytes(workload.encoder_len),
        unpack_flops=1.0 * sequences * readers * tokens * workload.unpack_flops_per_token,
        cache_dtype=workload.native_cache_dtype,
        kv_reread_bytes=1.0 * sequences * workload.reread_bytes(workload.encoder_len, readers),
        widened_read_bytes=1.0 * sequences * workload.widened.read_bytes(workload.encoder_len),
        widened_reread_bytes=1.0 * sequences * workload.widened.reread_bytes(workload.encoder_len, readers),
        activation_bytes=sequences * workload.q_len * heads.q_per_chip * both_dims * bytes_a
        + (UNFUSED_PASSES * scores * bytes_a if workload.kernel == "unfused" else 0.0),
        query_rows=workload.q_len * (1.0 if by_query_head else heads.group_size), dtype=workload.activation_dtype,
        launches=3 if workload.kernel == "unfused" else 1)
    own_width = workload.computed_q_heads * workload.model.head_dim
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
    rotary_elements = (workload.computed_q_heads * writes.rotary_per_query_head
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
        lambda kv_len: policy.paging.table_bytes(workload.on_chip(layout.attended(policy.kept(kv_len, group)))),
        workload.kv_len)
    # Where entries are expanded first, they are read once for that, and no two query heads share a key.
    sharing = heads.group_size if core.shared_keys else 1.0
    by_query_head = workload.kernel == "per-query-head"
    readers = heads.q_per_chip if by_query_head and core.shared_keys else heads.kv_per_chip
    rereads: Any = 0.0
    wide_rereads: Any = 0.0
    shared_rereads: Any = 0.0
    wide = workload.widened
    gather = chosen_rows(workload, group, read) if layout.indexer else None
    shared = len({one.array.shared for one in workload.entry_reads}) > 1
    if by_query_head or shared or gather:
        rereads = sequences * workload.mean_over_lengths(group, lambda kept: workload.reread_bytes(kept, readers))
        wide_rereads = rereads if wide is workload else sequences * workload.mean_over_lengths(
            group, lambda kept: wide.reread_bytes(kept, readers))
    if shared:
        shared_rereads = sequences * workload.mean_over_lengths(
            group, lambda kept: workload.shared_reread_bytes(kept, readers))
    unpacked = sequences * readers * tokens * workload.unpack_flops_per_token
    both_dims = core.key_dim + core.value_dim
    bytes_a = workload.activation_bytes_per_element
    task = AttentionTask(
        sequences=sequences, kv_heads=heads.q_per_chip / sharing, query_rows=sharing * workload.q_len, tokens=tokens,
        key_dim=core.key_dim, value_dim=core.value_dim, latent=core.latent_kernel, arrays=len(workload.entry_reads),
        cached_elements=workload.elements_per_kv_head,
        bytes_per_token_head=read / tokens * (sharing / heads.q_per_chip), kernel=workload.kernel,
        page=policy.paging.page, length_factors=workload.length_factors(group),
        interleaved_heads=heads.kv_per_chip if workload.cache_order == "token-major" else 1,
        stride_tokens=_stride_tokens(workload, group, gather), shared_reread_bytes=shared_rereads, gather=gather)
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


def _stride_tokens(workload: DecodeWorkload, group: LayerGroup, gather: Gather | None) -> Any:
    """Distance in tokens of the kept ones: H2O keeps heavy hitters where they were written; windows and sinks are runs,
    and what SnapKV keeps is copied together after the prompt (arXiv 2306.14048, 2404.14469).
    """
    rule = workload.policy.eviction
    if gather is not None and gather.row_tokens == 1:
        return gather.stride_rows
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


def build_step(workload: DecodeWorkload) -> DecodeStep:
    """Turn a workload into operators (the table of model.md section 1, per chip). Raises :class:`UserError`."""
    layers: list[Operator] = []
    for group in workload.layer_groups:
        layers += _here(workload, attention_block(workload.of_rows, group)) if group.attends else []
        moe = workload.model.moe
        if group.feeds and "ffn" in workload.parts:
            layers += mixture(workload, group, moe) if group.moe and moe is not None else _mlp(workload, group)
    return DecodeStep(workload=workload, layer_operators=tuple(layers),
                      end_operators=_ends(workload.of_rows) if "ends" in workload.parts else (),
                      collectives=collectives_of(workload))


def _here(workload: DecodeWorkload, block: list[Operator]) -> list[Operator]:
    """Of an attention block what the pool of these chips does: all of it, the cache's part or the other."""
    if {"attention", "projections"} <= set(workload.parts):
        return block
    return [one for one in block if ("attention" if _works_on_cache(one) else "projections") in workload.parts]


def _mlp(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    model = workload.model
    if model.mlp is None:
        return []
    own = workload if model.moe else workload.of_experts
    width = (group.mlp_size or model.mlp.size) / workload.heads.ways
    first = width * (model.mlp.matrices - 1)
    return [
        *([] if model.parallel_block else [norm(workload, group.count)]),
        gemm(own, "mlp_up", group.count, model.hidden_size, first,
             vector_flops=GATE_FLOPS * workload.rows * width),
        gemm(own, "mlp_down", group.count, width, model.hidden_size),
        *([] if model.layer_input is None else layer_input(workload, group, model.layer_input)),
    ]


def _ends(workload: DecodeWorkload) -> tuple[Operator, ...]:
    model, rows, ways = workload.model, workload.rows, workload.heads.ways
    vocabulary = model.vocab_size / ways
    row_bytes = 1.0 * rows * model.hidden_size
    return (
        *([] if model.layer_input is None else streams(workload, model.layer_input)),
        Operator(name="embedding", count=1, weight_bytes=row_bytes / ways * workload.weight_format.bytes_per_element,
                 activation_bytes=row_bytes * workload.activation_bytes_per_element),
        norm(workload, 1),
        gemm(workload, "lm_head", 1, model.hidden_size, vocabulary),
        Operator(name="sampling", count=1, sums=rows, vector_flops=SOFTMAX_FLOPS * rows * vocabulary,
                 exponentials=1.0 * rows * vocabulary, activation_bytes=2.0 * LOGIT_BYTES * rows * vocabulary),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Bytes and flops of one step over all chips and microbatches."""

    weight_bytes: Any
    kv_read_bytes: Any
    kv_write_bytes: Any
    matrix_flops: Any


def step_totals(step: DecodeStep) -> StepTotals:
    r"""Totals of a step.

    A stage works microbatch by microbatch: it reads its weights for each of them, tokens and cache once in all. With
    ``b`` sequences on the busiest chip of :math:`p_b` that deal out a batch of ``B``, cache and attention of a chip
    count :math:`B/(b\,p_b)` times; of :math:`p_c` chips that deal out a context one writes a new token.
    """
    workload = step.workload
    ways, batch = workload.heads.ways, np.asarray(workload.batch, dtype=float)
    by_token = ways * batch / workload.sequences

    weights: Any = 0.0
    read: Any = 0.0
    written: Any = 0.0
    flops: Any = 0.0
    for op in _even(step).operators:
        weights = weights + op.count * op.weight_bytes
        flops = flops + op.count * op.matrix_flops * by_token
        if not _works_on_cache(op):
            continue
        own = workload if op.layers is None else workload.of(op.layers)
        by_sequence = ways * batch / (own.attention_sequences * own.heads.batch_ways)
        alike = op.count * by_sequence * own.evenness(PARTS_READ.get(op.name, ATTENDED))
        read = read + alike * op.kv_read_bytes
        written = written + alike * op.kv_write_bytes / (own.heads.context_ways if op.name == KV_APPEND else 1.0)
        if op.name != KV_APPEND:
            flops = flops + op.count * op.matrix_flops * (by_sequence - by_token)
    return StepTotals(weight_bytes=weights * ways * workload.microbatches, kv_read_bytes=read, kv_write_bytes=written,
                      matrix_flops=flops)


def _works_on_cache(operator: Operator) -> bool:
    """True for what a chip does for the sequences whose cache it holds, not for every row of its stage."""
    return operator.attention is not None or operator.name in OF_THE_CACHE


def _even(step: DecodeStep) -> DecodeStep:
    """The same step with its experts' work dealt out evenly: the mean chip's in place of the busiest one's."""
    if np.all(np.asarray(step.workload.ep) == 1):
        return step
    return replace(step, layer_operators=build_step(replace(step.workload, ep=1)).layer_operators)
