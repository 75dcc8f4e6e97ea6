"""Exchanges between the chips that share a decode step: reductions, experts' dispatch, resharding, hops of stages."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from simkit.hardware.kernel_shape import PARTIAL_BYTES
from simkit.model.architecture import Moe
from simkit.step.mixture import routing_of
from simkit.step.operators import Collective
from simkit.step.workload import DecodeWorkload

LOGIT_BYTES: Final = 4  # logits are float32


def collectives_of(workload: DecodeWorkload) -> tuple[Collective, ...]:
    """Exchanges of a step: reductions after the embedding (its vocabulary is dealt out), every attention and every MLP;
    experts' dispatch, resharding, hops between stages.
    """
    model, heads, ends = workload.model, workload.heads, _dealt_ends(workload)
    hidden = workload.rows * model.hidden_size * workload.activation_bytes_per_element
    # As deployed: where attention leaves all rows on all chips each runs its own experts on them, and their sums are
    # added up as any MLP's; data-parallel rows go to their experts and back.
    moe_layers = sum(group.count for group in model.layer_groups if group.moe) * ("ffn" in workload.parts)
    sent = np.where((np.asarray(workload.ep) > 1) & workload.is_data_parallel, moe_layers, 0)
    found = [
        Collective(name="all_reduce", kind="all_reduce", count=_reductions(workload) - sent, bytes=hidden,
                   chips=workload.machine.tp),
        Collective(name="gather_logits", kind="all_gather", count=ends,
                   chips=workload.machine.tp, bytes=workload.rows * model.vocab_size * LOGIT_BYTES / heads.ways),
        Collective(name="stage_hop", kind="send", count=workload.machine.pp, chips=workload.machine.pp,
                   bytes=hidden / heads.ways),
    ]
    if moe_layers and model.moe is not None and workload.is_data_parallel:
        found += _of_experts(workload, model.moe, sent)
    if "attention" not in workload.parts:
        return tuple(found)
    kinds = [(workload.of(group), group.count) for group in workload.layer_groups if group.attends]
    layouts = {own.layout for own, _ in kinds}
    if len(layouts) == 1:
        kinds = [(kinds[0][0], sum(count for _, count in kinds))]
    return (*found, *(one for own, layers in kinds for one in _resharding(own, layers)))


def _of_experts(workload: DecodeWorkload, moe: Moe, layers: Any) -> list[Collective]:
    r"""Dispatch and combine: a chip gets the rows that chose its experts from all others, and sends back as many.

    The busiest chip, to which ``q`` of all choices go, sets the pace. A row has ``k`` choices, so that of
    :math:`rows\,k\,q` copies :math:`rows\,(1 - (1-q)^k)` remain where a row goes to a chip once.
    """
    rows, routing = workload.rows, routing_of(workload, moe)
    row = (moe.latent_size or workload.model.hidden_size) * workload.activation_bytes_per_element
    merged = rows * (1.0 - (1.0 - np.minimum(routing.choices / (rows * moe.top_k), 1.0)) ** moe.top_k)
    # As deployed, rows go out in the experts' format and come back in 16 bits.
    narrow = workload.of_experts.gemm_input_bytes / workload.activation_bytes_per_element
    sizes: dict[Literal["dispatch", "combine"], float] = {"dispatch": narrow, "combine": 1.0}
    return [Collective(name=f"expert_{kind}", kind=kind, count=layers, bytes=routing.choices * row * size,
                       merged_bytes=merged * row * size, chips=workload.machine.tp) for kind, size in sizes.items()]


def _dealt_ends(workload: DecodeWorkload) -> int:
    """1 where chips deal out the vocabulary; with attention data-parallel each has all of it, for its own rows."""
    return int("ends" in workload.parts and not workload.is_data_parallel)


def _reductions(workload: DecodeWorkload) -> int:
    """Blocks after which chips that share a layer add up their parts, and the embedding, of what these chips do."""
    model, parts = workload.model, workload.parts
    both = 1 if model.parallel_block else 2
    # Data-parallel rows are gathered for a feed-forward layer and their sums dealt out: one reduction in two halves.
    projects, feeds = "projections" in parts and not workload.is_data_parallel, "ffn" in parts
    return _dealt_ends(workload) + sum(
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
