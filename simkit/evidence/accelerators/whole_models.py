r"""Measured requests and steps of whole models: the engine's step and prefill under the conditions of a table's rows.

.. math:: T_{request} = T_{prefill}(B, P) + (O - 1)\, \overline{T_{step}}(B, P \ldots P + O), \qquad
          T_{step} = T_{engine} + k\,t_{gap} + B\,t_{sequence} + t_{host}

for ``B`` prompts of ``P`` tokens that are answered by ``O``; the mean over the answer is Gauss and Legendre's. What the
runtime adds (``k`` kernels) is :class:`simkit.serving.runtime.Runtime`'s. Rows of one chip, model, split and software
are one broadcast.

The naive roofline beside it takes all chips at their peaks: bytes of weights and cache over bandwidth, or flops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from simkit.evidence.accelerators.conditions import formats_of, lengths_of, model_of
from simkit.evidence.accelerators.table import MeasuredRow
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.serving.replica import Replica, build_replicas
from simkit.serving.runtime import Runtime
from simkit.step.build import step_totals
from simkit.study.evaluate import FIT
from simkit.study.scenario import Scenario, parse_scenario

KNOTS: Final = 6  # of the mean over an answer: the step is linear between few kinks
SLOPE_TOKENS: Final = (512.0, 65536.0)  # ends of a slope whose source does not say them
RATE_WITH_PROMPT: Final = ("WaferLLM",)  # software whose stated rate of one user holds the prompt too


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model on the chips of one copy under a runtime: what rows of one group share."""

    replica: Replica
    runtime: Runtime

    @property
    def _peaks(self) -> tuple[Any, Any]:
        """Bytes and flops a second of all chips at the vendor's peaks."""
        chip, chips = self.replica.hardware, float(self.replica.machine.chips)
        dtype = chip.compute.matrix_dtype(self._gemm_dtype)
        bandwidth = chip.main_memory.chip_bandwidth_bytes_per_s
        return (np.nan if bandwidth is None else bandwidth * chips), chip.compute.matrix_peak_flop_per_s[dtype] * chips

    @cached_property
    def _gemm_dtype(self) -> str:
        return str(self.replica.points(1.0, 1.0).workload(self.replica.layout, self.replica.machine).gemm_dtype)

    def step_s(self, batch: Any, kv_len: Any) -> tuple[Any, Any]:
        """A step's time and the naive roofline's; NaN where weights and cache do not fit."""
        points, runtime = self.replica.points(batch, kv_len), self.runtime
        step, placement, timing = points.timed(self.replica.layout, self.replica.machine)
        totals, (bandwidth, peak) = step_totals(step), self._peaks
        naive = np.maximum((totals.weight_bytes + totals.kv_read_bytes) / bandwidth, totals.matrix_flops / peak)
        time = runtime.whole_step_s(timing.step_time_s, points.batch, self.replica.kernels, self.replica.exchanges)
        return np.where(placement.fits, time, np.nan), np.broadcast_to(naive, points.shape)

    def prefill_s(self, batch: Any, prompt: Any) -> tuple[Any, Any]:
        """Time of reading all prompts together, and the naive roofline's: their flops, or the weights once."""
        prompt, empty = np.maximum(prompt, 1.0), np.asarray(prompt) == 0.0
        rows = batch * prompt
        linear, _, _ = self.replica.rows_s(rows)
        attention, _ = self.replica.prefill_attention_s(prompt, prompt)
        points = self.replica.points(rows, 1.0)
        step = points.placed(self.replica.layout, self.replica.machine).step
        totals, (bandwidth, peak) = step_totals(step), self._peaks
        naive = np.maximum(totals.weight_bytes / bandwidth, totals.matrix_flops / peak)
        own = (linear + batch * attention) / self.runtime.prefill_fraction
        return np.where(empty, 0.0, own), np.where(empty, 0.0, np.broadcast_to(naive, points.shape))

    def mean_step_s(self, batch: Any, prompt: Any, output: Any) -> tuple[Any, Any]:
        """Mean of the steps whose contexts grow from the prompt by the answer."""
        if self.runtime.cache == "whole":
            return self.step_s(batch, prompt + output)
        places, weights = np.polynomial.legendre.leggauss(KNOTS)
        context = prompt[:, None] + output[:, None] * (places + 1.0) / 2.0
        times = self.step_s(np.broadcast_to(batch[:, None], context.shape), np.maximum(context, 1.0))
        own, naive = (one @ (weights / 2.0) for one in times)
        return own, naive

    def request_s(self, batch: Any, prompt: Any, output: Any) -> tuple[Any, Any]:
        """Time from the prompts to the last token of all answers."""
        prefill, steps = self.prefill_s(batch, prompt), self.mean_step_s(batch, prompt, output)
        own, naive = (first + (output - 1.0) * mean for first, mean in zip(prefill, steps, strict=True))
        return own, naive


def served(row: MeasuredRow, chip: HardwareProfile, runtime: Runtime, engine: str) -> tuple[Served, float, str]:
    """What a group of rows shares, the copies of the model, and what is assumed. Raises :class:`UserError`."""
    model = model_of(row.model)
    weights, cache, assumed = formats_of(row, model)
    scenario: Scenario = replace(
        parse_scenario(attention_kernel=runtime.attention_kernel,
                       attention_sharding=chip.attention_sharding or "heads"),
        kv_dtype=cache.name, weight_dtype=weights.name, key_format=cache, value_format=cache,
        weight_formats=(weights, weights))
    if any(part is not None and part % 1 for part in (row.chips if row.tp is None else None, row.tp, row.pp)):
        raise UserError("a part of a chip is not predicted")
    layers_split = runtime.split == "layers" and row.chips is not None
    pp = int(row.chips or 1) if layers_split else int(row.pp or 1)
    tp = None if row.chips is None else 1 if layers_split else int(row.tp or max(row.chips / pp, 1.0))
    copies = 1.0 if row.chips is None or tp is None else max(row.chips // (tp * pp), 1.0)
    (replica,) = build_replicas(chip, model, ["as-trained"], scenario=scenario, engine=engine, tp=tp,
                                chips=FIT if tp is None else tp * pp, pp=None if tp is None else pp)
    if tp is None or (row.tp is None and row.chips != 1):
        assumed += "; " * bool(assumed) + ("as many chips as fit" if tp is None else "all chips share a layer")
    return Served(replica=replica, runtime=runtime), copies, assumed


def whole_model_times(rows: Sequence[MeasuredRow], chip: HardwareProfile, runtime: Runtime,
                      engine: str) -> tuple[Any, Any, str]:
    """Predicted and naive seconds (or cycles) of the rows of one group, and what is assumed of them.

    All rows have one quantity, operation, model, split, formats and software. Raises :class:`UserError`.
    """
    one = rows[0]
    if any(row.batch is None for row in rows) and one.quantity != "slope_s_per_token":
        raise UserError("the batch is not stated")
    at, copies, assumed = served(one, chip, runtime, engine)
    batch = np.array([max((row.batch or 1.0) / copies, 1.0) for row in rows])
    time, naive, more = _quantity(at, rows, batch)
    scale: Any = chip.compute.known_clock_hz if one.quantity == "cycles" else 1.0
    if one.quantity == "output_tokens_per_s":
        # Seconds of a token of the whole system.
        scale = 1.0 / (batch * copies)
    return time * scale, naive * scale, "; ".join(part for part in (assumed, more) if part)


def _quantity(at: Served, rows: Sequence[MeasuredRow], batch: Any) -> tuple[Any, Any, str]:
    one = rows[0]
    if one.quantity == "slope_s_per_token" or one.op == "slope a token":
        low, high = (at.step_s(batch, np.full(len(rows), tokens)) for tokens in SLOPE_TOKENS)
        own, naive = ((last - first) / (SLOPE_TOKENS[1] - SLOPE_TOKENS[0])
                      for first, last in zip(low, high, strict=True))
        return own, naive, "slope from 512 to 65536 tokens"
    if one.op == "step at no context":
        return *at.step_s(batch, np.ones(len(rows))), ""
    if one.kv_len is not None:
        return *at.step_s(batch, np.array([row.kv_len for row in rows])), ""
    asked = [lengths_of(row) for row in rows]
    prompt = np.array([tokens for tokens, _, _ in asked])
    if one.output_tokens is None and asked[0][1] is None:
        return *at.step_s(batch, prompt), ""
    output = np.array([tokens or 1.0 for _, tokens, _ in asked])
    with_prompt = one.quantity in ("request_s", "output_tokens_per_s") or one.software.startswith(RATE_WITH_PROMPT)
    own, naive = (at.request_s if with_prompt else at.mean_step_s)(batch, prompt, output)
    if one.op == "pipeline interval":
        own, naive = own / batch, naive / batch
    if with_prompt and one.quantity != "request_s":
        own, naive = own / output, naive / output
    return own, naive, asked[0][2]
