"""Exchanges between the chips that share a decode step: reductions, experts' dispatch, resharding, hops of stages."""

from __future__ import annotations

from typing import Final

import numpy as np

from simkit.hardware.kernel_shape import PARTIAL_BYTES
from simkit.step.operators import Collective
from simkit.step.workload import DecodeWorkload

LOGIT_BYTES: Final = 4  # logits are float32


def collectives_of(workload: DecodeWorkload) -> tuple[Collective, ...]:
    """Exchanges of a step: reductions after the embedding (its vocabulary is dealt out), every attention and every MLP;
    experts' dispatch, resharding, hops between stages.
    """
    model, heads = workload.model, workload.heads
    hidden = workload.rows * model.hidden_size * workload.activation_bytes_per_element
    feeds = "ffn" in workload.parts
    moe_layers = sum(group.count for group in model.layer_groups if group.moe) * feeds
    spread = np.asarray(workload.ep) > 1
    # Rows spread over expert chips need one reduction and gathering a layer, and a dispatch and a return of k copies.
    reductions = _reductions(workload) - np.where(spread, moe_layers, 0)
    found = [
        Collective(name="all_reduce", kind="all_reduce", count=reductions, bytes=hidden, chips=workload.machine.tp),
        Collective(name="gather_logits", kind="all_gather", count=1 * ("ends" in workload.parts),
                   chips=workload.machine.tp, bytes=workload.rows * model.vocab_size * LOGIT_BYTES / heads.ways),
        Collective(name="stage_hop", kind="send", count=workload.machine.pp, chips=workload.machine.pp,
                   bytes=hidden / heads.ways),
    ]
    if moe_layers and model.moe is not None:
        # A chip sends k copies of its 1/tp of the rows to each of the tp/ep chips that share an expert.
        width = (model.moe.latent_size or model.hidden_size) / model.hidden_size
        sent = hidden * model.moe.top_k / workload.ep * width
        # As deployed beside data-parallel attention, rows go out in the experts' format and come back in 16 bits.
        narrow = workload.of_experts.gemm_input_bytes / workload.activation_bytes_per_element
        found += [Collective(name=name, kind="all_to_all", count=np.where(spread, count * moe_layers, 0), bytes=bytes_,
                             chips=workload.machine.tp) for name, count, bytes_ in (
            (("expert_dispatch", 1, sent * narrow), ("expert_combine", 1, sent)) if workload.is_data_parallel else
            (("expert_exchange", 2, sent),))]
    if "attention" not in workload.parts:
        return tuple(found)
    kinds = [(workload.of(group), group.count) for group in workload.layer_groups if group.attends]
    layouts = {own.layout for own, _ in kinds}
    if len(layouts) == 1:
        kinds = [(kinds[0][0], sum(count for _, count in kinds))]
    return (*found, *(one for own, layers in kinds for one in _resharding(own, layers)))


def _reductions(workload: DecodeWorkload) -> int:
    """Blocks after which chips that share a layer add up their parts, and the embedding, of what these chips do."""
    model, parts = workload.model, workload.parts
    both = 1 if model.parallel_block else 2
    # Data-parallel rows are gathered for a feed-forward layer and their sums dealt out: one reduction in two halves.
    projects, feeds = "projections" in parts and not workload.is_data_parallel, "ffn" in parts
    return ("ends" in parts) + sum(
        group.count * (min(both, group.attends * projects + group.feeds * feeds)
                       + group.attends * projects * model.cross_attention) for group in model.layer_groups)


def _resharding(workload: DecodeWorkload, layers: int) -> list[Collective]:
    """Batch sharding moves queries and new keys to the chips of their sequences, and outputs back; context sharding
    gathers the queries and combines the partial outputs.
    """
    heads, layout = workload.heads, workload.layout
    core = layout.core
    mapping = workload.machine.mapping
    if workload.static or (isinstance(mapping, str) and mapping in ("heads", "data")):
        return []
    bytes_a = workload.activation_bytes_per_element
    queries = workload.rows * layout.n_q_heads * core.key_dim * bytes_a / heads.ways
    outputs = workload.rows * layout.n_q_heads * core.value_dim / heads.ways
    found: list[Collective] = []
    # Points of every mapping may stand side by side: those that another one serves exchange among one chip, in no time.
    if (not isinstance(mapping, str) or mapping == "batch") and "projections" in workload.parts:
        # From another pool each chip is sent its own sequences. What
        # heads share every chip computes itself; keys and values are computed head by head.
        per_head = sum(array.elements for array in layout.writes.appended if not array.shared)
        new = workload.rows * workload.n_kv_heads * per_head * bytes_a / heads.ways
        found += [
            Collective(name="to_sequences", kind="all_to_all", count=layers, bytes=queries + new,
                       chips=heads.batch_ways, within=heads.ways),
            Collective(name="to_heads", kind="all_to_all", count=layers, bytes=outputs * bytes_a,
                       chips=heads.batch_ways, within=heads.ways),
        ]
    if not isinstance(mapping, str) or mapping == "context":
        found += [
            Collective(name="gather_queries", kind="all_gather", count=layers, bytes=queries, chips=heads.context_ways,
                       within=heads.ways),
            Collective(name="combine_partials", kind="all_to_all", count=layers, chips=heads.context_ways,
                       bytes=outputs * heads.context_ways * PARTIAL_BYTES, within=heads.ways),
        ]
    return found
