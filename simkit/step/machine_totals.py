r"""What a whole machine moves and computes in a step, from operators that say what its busiest chip does.

Every chip is as busy as the busiest except where sequences, KV heads or experts do not deal out evenly; there
the total counts what is really there: ``B`` sequences, one cache (or its replicas), the mean chip's experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.step.attention_operators import CROSS_ATTENTION, EXPAND_LATENT, KV_APPEND
from simkit.step.build import build_step
from simkit.step.operators import DecodeStep, Operator


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
    operators = _even(step).operators
    heads = workload.heads
    ways, batch = heads.ways, np.asarray(workload.batch, dtype=float)
    by_token = ways * batch / workload.sequences
    by_sequence = ways * batch / (workload.attention_sequences * heads.batch_ways)

    weights: Any = 0.0
    read: Any = 0.0
    written: Any = 0.0
    appended: Any = 0.0
    of_tokens: Any = 0.0
    of_cache: Any = 0.0
    for op in operators:
        weights = weights + op.count * op.weight_bytes
        read = read + op.count * op.kv_read_bytes
        if op.name == KV_APPEND:
            appended = appended + op.count * op.kv_write_bytes
        else:
            written = written + op.count * op.kv_write_bytes
        if _works_on_cache(op):
            of_cache = of_cache + op.count * op.matrix_flops
        else:
            of_tokens = of_tokens + op.count * op.matrix_flops
    return StepTotals(
        weight_bytes=weights * ways * workload.microbatches,
        kv_read_bytes=read * by_sequence * workload.evenness,
        kv_write_bytes=(written + appended / heads.context_ways) * by_sequence * workload.evenness,
        matrix_flops=of_tokens * by_token + of_cache * by_sequence)


def _works_on_cache(operator: Operator) -> bool:
    """True for what a chip does for the sequences whose cache it holds, not for every row of its stage."""
    return operator.attention is not None or operator.name in (CROSS_ATTENTION, EXPAND_LATENT)


def _even(step: DecodeStep) -> DecodeStep:
    """The same step with its experts' work dealt out evenly: the mean chip's in place of the busiest one's."""
    if np.all(np.asarray(step.workload.ep) == 1):
        return step
    return replace(step, layer_operators=build_step(replace(step.workload, ep=1)).layer_operators)
