"""Operators of what a layer takes of the token itself, beside the hidden state (Gemma 3n, Gemma 4 E2B and E4B)."""

from __future__ import annotations

from simkit.model.architecture import LayerGroup, LayerInput
from simkit.step.operators import GATE_FLOPS, Operator, gemm, norm
from simkit.step.workload import DecodeWorkload


def layer_input(workload: DecodeWorkload, group: LayerGroup, given: LayerInput) -> list[Operator]:
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


def streams(workload: DecodeWorkload, given: LayerInput) -> list[Operator]:
    """Square matrices that make residual streams of the embedding and join them before the LM head."""
    width, count = workload.model.hidden_size, given.stream_matrices
    return [gemm(workload, "stream_matrices", 1, width, width / workload.heads.ways, batches=count)] if count else []
