"""Operators of a layer's feed-forward block: an MLP or a mixture of experts, and what the layer takes of the token."""

from __future__ import annotations

from simkit.model.architecture import LayerGroup, LayerInput
from simkit.step.mixture import mixture
from simkit.step.operators import GATE_FLOPS, Operator, gemm, norm
from simkit.step.workload import DecodeWorkload


def feed_forward(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    """The block of one kind of layer; none where it is attention alone."""
    model = workload.model
    if not group.feeds:
        return []
    if group.moe and model.moe is not None:
        return mixture(workload, group, model.moe)
    own = [] if model.layer_input is None else _layer_input(workload, group, model.layer_input)
    return _mlp(workload, group) + own


def _mlp(workload: DecodeWorkload, group: LayerGroup) -> list[Operator]:
    model = workload.model
    if model.mlp is None:
        return []
    own = workload if model.moe else workload.of_experts
    width = model.mlp.size * group.mlp_factor / workload.heads.ways
    first = width * (model.mlp.matrices - 1)
    return [
        *([] if model.parallel_block else [norm(workload, group.count)]),
        gemm(own, "mlp_up", group.count, model.hidden_size, first,
             vector_flops=GATE_FLOPS * workload.rows * width),
        gemm(own, "mlp_down", group.count, width, model.hidden_size),
    ]


def _layer_input(workload: DecodeWorkload, group: LayerGroup, given: LayerInput) -> list[Operator]:
    """A row of the layer's table and a projection of the embedding, gated by the hidden state and projected to it.

    These are narrow: every chip computes them whole, and only tables are dealt out (Gemma 3n's reference code).
    """
    hidden, size, rows = workload.model.hidden_size, workload.whole(given.size), workload.rows
    row_bytes = rows * given.size / workload.heads.ways
    return [
        Operator(name="layer_input_rows", count=group.count,
                 weight_bytes=row_bytes * workload.weight_format.bytes_per_element,
                 activation_bytes=row_bytes * workload.activation_bytes_per_element),
        gemm(workload, "layer_input_projection", group.count, hidden, size),
        gemm(workload, "layer_input_gate", group.count, hidden, size, vector_flops=GATE_FLOPS * rows * size),
        gemm(workload, "layer_input_up", group.count, size, hidden),
        norm(workload, group.count),
        *([] if not given.side_rank else [
            gemm(workload, "side_down", group.count, hidden, workload.whole(given.side_rank)),
            gemm(workload, "side_up", group.count, workload.whole(given.side_rank), hidden)]),
    ]
