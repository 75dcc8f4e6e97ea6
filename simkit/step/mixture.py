r"""Operators of a mixture of experts: router, and ``k`` of ``E`` experts beside those that every row uses.

Rows choose experts independently, and uniformly unless a workload states a load
(:mod:`simkit.step.expert_load`), so :math:`E (1 - (1 - k/E)^{Bq})` distinct ones are read. Of ``ep`` groups of experts
the busiest sets the step's pace, in rows and in experts read. Every chip routes all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.model.architecture import LayerGroup, Moe
from simkit.step.expert_load import busiest_group
from simkit.step.operators import GATE_FLOPS, Operator, ProductTask, gemm, norm
from simkit.step.sharding import busiest_distinct_experts, busiest_expert_share
from simkit.step.workload import DecodeWorkload


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What a step asks of the experts on the busiest of ``ep`` chips that hold different ones.

    ``choices`` rows over all of its experts, a row once for each that it chose, and ``distinct`` experts that any did;
    ``every``: distinct experts of all chips.
    """

    choices: Any
    distinct: Any
    every: Any


def mixture(workload: DecodeWorkload, group: LayerGroup, moe: Moe) -> list[Operator]:
    """Norm, router and experts of one kind of layer."""
    model, inner, own = workload.model, moe.latent_size, workload.of_rows
    # Every chip brings all rows to the experts' width, as it routes them; back goes what its own experts made.
    latent = [] if inner is None else [
        gemm(workload, "latent_down", group.count, model.hidden_size, workload.whole(inner)),
        gemm(workload, "latent_up", group.count, inner / workload.heads.ways, model.hidden_size)]
    return [
        *([] if model.parallel_block else [norm(own, group.count)]),
        gemm(own, "router", group.count, model.hidden_size, own.whole(moe.experts)),
        *latent[:1], *experts(workload, group.count, moe, routing_of(workload, moe)), *latent[1:],
    ]


def routing_of(workload: DecodeWorkload, moe: Moe) -> Routing:
    """Rows that choose independently, uniformly or by the workload's load."""
    rows, groups = workload.rows, workload.ep
    if workload.expert_load is not None:
        choices, distinct, every = busiest_group(workload.expert_load, moe, rows, groups)
        return Routing(choices=choices, distinct=distinct, every=every)
    return Routing(
        choices=rows * moe.top_k * busiest_expert_share(rows, moe.top_k, groups, moe.experts) / groups,
        distinct=busiest_distinct_experts(rows, moe.top_k, moe.experts, groups),
        every=distinct_experts(moe.experts, moe.top_k, rows))


def experts(workload: DecodeWorkload, count: int, moe: Moe, routing: Routing) -> list[Operator]:
    """Up-projections (with the gate) and down-projection of all experts, routed and shared, each a grouped product."""
    rows, ways, width = workload.rows, workload.heads.ways, moe.latent_size or workload.model.hidden_size
    # Shared experts read the hidden state: their columns count as so many of the routed experts' width.
    shared_size = moe.shared_size * workload.model.hidden_size / width
    computed = (routing.choices * workload.ep * moe.expert_size + rows * shared_size) / ways
    routed, bytes_a = workload.of_experts, workload.activation_bytes_per_element
    bytes_w = routed.weight_format.bytes_per_element
    read_bytes = (routing.distinct * workload.ep * moe.expert_size * bytes_w
                  + shared_size * workload.weight_format.bytes_per_element) / ways
    # Shared experts count as so many routed ones that every row chooses.
    own_size = moe.expert_size * workload.ep / ways
    shared = shared_size / ways / own_size
    batches = routing.distinct + shared
    mean_rows = (routing.choices + rows * shared) / batches
    # Where rows come by dispatch a chip has copies of those alone that chose its experts.
    sent = workload.is_data_parallel and bool(np.all(np.asarray(workload.ep) > 1))
    held = routing.choices * workload.ep / ways if sent else rows * moe.top_k
    entering = workload.of_rows.rows if sent else rows

    def one(name: str, matrices: int, width_in: Any, width_out: Any, vector_flops: Any) -> Operator:
        return Operator(
            name=name, count=count, matrix_flops=2.0 * matrices * width * computed, vector_flops=vector_flops,
            weight_bytes=1.0 * matrices * width * read_bytes,
            activation_bytes=((held + entering) * width + computed) * bytes_a,
            query_rows=rows * moe.top_k / routing.every, dtype=routed.gemm_dtype,
            product=ProductTask(m=mean_rows, n=width_out, k=width_in, batches=batches, weight_bytes=bytes_w,
                                input_bytes=routed.gemm_input_bytes, grouped=True,
                                routed_bytes=1.0 * held * width * bytes_a))

    return [
        one("experts_up", moe.matrices - 1, width, (moe.matrices - 1) * own_size, GATE_FLOPS * computed),
        one("experts_down", 1, own_size, width, 0.0),
    ]


def distinct_experts(count: int, top_k: int, rows: Any) -> Any:
    r"""Expected number of different experts that ``rows`` tokens choose: :math:`E (1 - (1 - k/E)^{rows})`."""
    return count * (1.0 - (1.0 - top_k / count) ** np.asarray(rows, dtype=float))
