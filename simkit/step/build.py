"""Assembling a decode step: attention and MLP blocks of every kind of layer, the ends, and exchanges between chips."""

from __future__ import annotations

from typing import Final

import numpy as np

from simkit.hardware.kernel_shape import PARTIAL_BYTES
from simkit.model.architecture import LayerGroup
from simkit.step.attention_operators import attention_block
from simkit.step.mixture import mixture
from simkit.step.operators import GATE_FLOPS, SOFTMAX_FLOPS, Collective, DecodeStep, Operator, gemm, norm
from simkit.step.workload import DecodeWorkload

LOGIT_BYTES: Final = 4  # logits are float32


def build_step(workload: DecodeWorkload) -> DecodeStep:
    """Turn a workload into operators (the table of model.md section 1, per chip). Raises :class:`UserError`."""
    layers: list[Operator] = []
    for group in workload.layer_groups:
        layers += attention_block(workload, group)
        moe = workload.model.moe
        layers += mixture(workload, group, moe) if group.moe and moe is not None else _mlp(workload, group)
    return DecodeStep(workload=workload, layer_operators=tuple(layers), end_operators=_ends(workload),
                      collectives=_collectives(workload))


def _mlp(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    model = workload.model
    if model.mlp is None:
        return []
    width = model.mlp.size / workload.heads.ways
    first = width * (model.mlp.matrices - 1)
    return [
        *([] if model.parallel_block else [norm(workload, group.count)]),
        gemm(workload, "mlp_up", group.count, model.hidden_size, first,
             vector_flops=GATE_FLOPS * workload.rows * width),
        gemm(workload, "mlp_down", group.count, width, model.hidden_size),
    ]


def _ends(workload: DecodeWorkload) -> tuple[Operator, ...]:
    model, rows, ways = workload.model, workload.rows, workload.heads.ways
    vocabulary = model.vocab_size / ways
    row_bytes = 1.0 * rows * model.hidden_size
    return (
        Operator(name="embedding", count=1, weight_bytes=row_bytes / ways * workload.weight_format.bytes_per_element,
                 activation_bytes=row_bytes * workload.activation_bytes_per_element),
        norm(workload, 1),
        gemm(workload, "lm_head", 1, model.hidden_size, vocabulary),
        Operator(name="sampling", count=1, vector_flops=SOFTMAX_FLOPS * rows * vocabulary,
                 exponentials=1.0 * rows * vocabulary, activation_bytes=2.0 * LOGIT_BYTES * rows * vocabulary),
    )


def _collectives(workload: DecodeWorkload) -> tuple[Collective, ...]:
    """Exchanges of a step: reductions after the embedding (its vocabulary is dealt out), every attention and every MLP;
    experts' dispatch, resharding, hops between stages.
    """
    model, heads = workload.model, workload.heads
    hidden = workload.rows * model.hidden_size * workload.activation_bytes_per_element
    moe_layers = sum(group.count for group in model.layer_groups if group.moe)
    spread = np.asarray(workload.ep) > 1
    # Rows spread over expert chips need one reduction and gathering a layer, and a dispatch and a return of k copies.
    a_layer = (1 if model.parallel_block else 2) + (1 if model.cross_attention else 0)
    reductions = 1 + a_layer * model.n_layers - np.where(spread, moe_layers, 0)
    found = [
        Collective(name="all_reduce", kind="all_reduce", count=reductions, bytes=hidden, chips=workload.tp),
        Collective(name="gather_logits", kind="all_gather", count=1, chips=workload.tp,
                   bytes=workload.rows * model.vocab_size * LOGIT_BYTES / heads.ways),
        Collective(name="stage_hop", kind="send", count=workload.pp, bytes=hidden / heads.ways, chips=workload.pp),
    ]
    if moe_layers and model.moe is not None:
        # A chip sends k copies of its 1/tp of the rows to each of the tp/ep chips that share an expert.
        found.append(Collective(name="expert_exchange", kind="all_to_all", count=np.where(spread, 2 * moe_layers, 0),
                                bytes=hidden * model.moe.top_k / workload.ep, chips=workload.tp))
    return (*found, *_resharding(workload))


def _resharding(workload: DecodeWorkload) -> list[Collective]:
    """Batch sharding moves queries and new keys to the chips of their sequences, and outputs back; context sharding
    gathers the queries and combines the partial outputs.
    """
    heads, layout, layers = workload.heads, workload.layout, workload.model.n_layers
    core = layout.core
    mapping = workload.sharding
    if workload.static or (isinstance(mapping, str) and mapping == "heads"):
        return []
    bytes_a = workload.activation_bytes_per_element
    queries = workload.rows * workload.model.n_q_heads * core.key_dim * bytes_a / heads.ways
    outputs = workload.rows * workload.model.n_q_heads * core.value_dim / heads.ways
    found: list[Collective] = []
    # Points of every mapping may stand side by side: those that another one serves exchange among one chip, in no time.
    if not isinstance(mapping, str) or mapping == "batch":
        # What heads share every chip computes itself; keys and values are computed head by head.
        per_head = sum(array.elements for array in layout.arrays if not array.shared)
        new = workload.rows * workload.n_kv_heads * per_head * bytes_a / heads.ways
        found += [
            Collective(name="to_sequences", kind="all_to_all", count=layers, bytes=queries + new,
                       chips=heads.batch_ways),
            Collective(name="to_heads", kind="all_to_all", count=layers, bytes=outputs * bytes_a,
                       chips=heads.batch_ways),
        ]
    if not isinstance(mapping, str) or mapping == "context":
        found += [
            Collective(name="gather_queries", kind="all_gather", count=layers, bytes=queries, chips=heads.context_ways),
            Collective(name="combine_partials", kind="all_to_all", count=layers, chips=heads.context_ways,
                       bytes=outputs * heads.context_ways * PARTIAL_BYTES),
        ]
    return found
