"""Weight matrices of an attention block as one chip holds and multiplies them, from the list that its kind gives."""

from __future__ import annotations

from typing import Any

from simkit.model.architecture import LayerGroup
from simkit.model.kinds.base import Projection
from simkit.step.operators import Operator, gemm
from simkit.step.workload import DecodeWorkload


def chip_heads(workload: DecodeWorkload, projection: Projection) -> Any:
    """How many heads' matrices one chip has; a part of one where a head's outputs are dealt out."""
    heads = workload.heads
    if projection.heads == "query":
        return workload.model.n_q_heads / heads.ways
    if projection.heads == "attended":
        return heads.q_per_chip
    if projection.heads == "one":
        return workload.whole(1)
    # Where chips divide the batch or the context, new keys and values are computed head by head all the same.
    return workload.computed_kv_heads


def chip_elements(workload: DecodeWorkload) -> Any:
    """Weights of one attention block on one chip, repeated ones included."""
    own = sum(1.0 * p.rows * p.columns * chip_heads(workload, p) for p in workload.layout.projections)
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
