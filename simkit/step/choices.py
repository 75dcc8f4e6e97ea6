r"""What surrounds or replaces attention over all entries: index scores, the choice of the best, a state's update.

Scores of an index over ``E`` entries take :math:`2 B q H d E` flops of ``H`` heads and read ``E`` keys of ``d``
elements; each is rectified, weighted and summed over the heads. The choice of the ``k`` largest reads every score
:data:`TOP_K_PASSES` times (radix select; DeepSeek-V3.2's and SGLang's kernels do so on 8 bits a pass). A state of ``S``
elements is read, decayed, written to and multiplied for every token, and stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from simkit.model.architecture import LayerGroup
from simkit.model.kinds.base import ArrayPart
from simkit.model.kinds.widths import State
from simkit.step.operators import Gather, Operator
from simkit.step.sharding import shard_heads
from simkit.step.workload import DecodeWorkload

PARTS_READ: Final[Mapping[str, tuple[ArrayPart, ...]]] = {
    "index_scores": ("index",), "top_k": ("index",), "convolution": ("state",), "state_update": ("state",)}
SCORE_BYTES: Final = 4  # fp32, as the published kernels write scores
INDEX_BYTES: Final = 4  # of an entry's number
TOP_K_PASSES: Final = 2  # one to find the digit at which the choice ends, one to gather; later ones see few values
INDEX_FLOPS: Final = 3  # rectify, weigh and add a head's score


def choice_of_entries(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    """Scores of an index and the choice of the best entries; nothing where a layer has no index of its own."""
    index, layout = workload.layout.indexer, workload.layout
    if index is None or index.shared:
        return []
    machine = workload.machine
    sequences, count = workload.attention_sequences, group.count
    entries = workload.mean_over_lengths(group, lambda kept: workload.on_chip(layout.entries(kept)))
    read = workload.mean_over_lengths(group, lambda kept: workload.read_bytes(kept, ("index",)))
    # Index heads of KV heads are dealt out with them; those of one choice for all heads every chip computes itself.
    heads = workload.whole(index.heads) if not index.by_kv_head else shard_heads(
        layout.n_q_heads, index.heads, machine.tp, static=workload.static, sharding=machine.mapping).kv_per_chip
    choices = heads if index.by_kv_head else 1.0
    scores = 1.0 * sequences * workload.q_len * heads * entries
    kept_scores = 1.0 * sequences * workload.q_len * choices * entries / index.block
    chosen = np.minimum(kept_scores, sequences * workload.q_len * choices * index.top_k)
    in_8_bits = index.key_bytes is not None
    pooled = layout.compression
    if pooled is not None and pooled.among_tokens:  # a block's score sums its entries' weights over the query heads
        summed = 1.0 * sequences * workload.q_len * workload.heads.q_per_chip * workload.mean_over_lengths(
            group, lambda kept: workload.on_chip(pooled.entries(kept)))
        return [Operator(name="top_k", count=count, vector_flops=summed + TOP_K_PASSES * kept_scores,
                         activation_bytes=(summed + TOP_K_PASSES * kept_scores) * SCORE_BYTES + chosen * INDEX_BYTES)]
    return [
        Operator(name="index_scores", count=count, matrix_flops=2.0 * scores * index.dim,
                 vector_flops=INDEX_FLOPS * scores, kv_read_bytes=1.0 * sequences * read,
                 activation_bytes=kept_scores * SCORE_BYTES, query_rows=workload.q_len * heads,
                 dtype="fp8" if in_8_bits else workload.activation_dtype),
        Operator(name="top_k", count=count, vector_flops=TOP_K_PASSES * kept_scores,
                 activation_bytes=TOP_K_PASSES * kept_scores * SCORE_BYTES + chosen * INDEX_BYTES),
    ]


def chosen_rows(workload: DecodeWorkload, group: LayerGroup, read_bytes: Any) -> Gather | None:
    """Rows of what an index chooses: entries lie wherever they were written, those of a block in a row."""
    index, layout = workload.layout.indexer, workload.layout
    if index is None:
        return None
    entries, chosen, gathered = (workload.mean_over_lengths(group, of_kept) for of_kept in (
        lambda kept: workload.on_chip(layout.entries(kept)), lambda kept: workload.on_chip(layout.chosen(kept)),
        lambda kept: workload.read_bytes(kept, ("entry",))))
    rows = [workload.bytes_of(one.array, 1.0) for one in workload.entry_reads]
    return Gather(row_tokens=index.block, row_bytes=index.block * sum(rows) / len(rows),
                  stride_rows=np.maximum(entries / np.maximum(chosen, 1.0), 1.0), share=gathered / read_bytes)


def state_update(workload: DecodeWorkload, group: LayerGroup, state: State) -> list[Operator]:
    """The short convolution and the recurrence: the state is read once a step, and stored after every token of it."""
    sequences, count = workload.attention_sequences, group.count
    arrays = {read.array.name: read.array for read in workload.layout.reads}
    held = workload.heads.kv_per_chip

    def moved(name: str) -> Any:
        array = arrays[name]
        return 1.0 * sequences * held * array.elements * (array.own_bytes or 0.0)

    found = []
    if "convolution" in arrays:
        channels = arrays["convolution"].elements / (state.conv_width - 1) * held
        found.append(Operator(
            name="convolution", count=count,
            vector_flops=2.0 * state.conv_width * channels * sequences * workload.q_len,
            kv_read_bytes=moved("convolution"), kv_write_bytes=moved("convolution") * workload.q_len,
            activation_bytes=2.0 * sequences * workload.q_len * channels * workload.activation_bytes_per_element))
    if not state.has_keys:
        return found
    elements = sequences * held * arrays["state"].elements
    rows = sequences * workload.q_len * held * (2 * state.key_dim + 2 * state.value_dim)
    found.append(Operator(
        name="state_update", count=count, vector_flops=1.0 * state.flops_per_element * elements * workload.q_len,
        kv_read_bytes=moved("state"), kv_write_bytes=moved("state") * workload.q_len,
        activation_bytes=1.0 * rows * workload.activation_bytes_per_element))
    return found
