r"""Replicas in a steady state, in closed form: what one serves a second when ``D`` sequences decode in it.

In an iteration every decoding sequence gains ``g`` tokens, and arriving prompts add their time to it. A request takes
``n = output / g`` iterations and ``c`` seconds of prompt work, so that by Little's law, with ``S`` the step of ``D``
sequences of mean context,

.. math:: T = S(D) + D c / n, \qquad TPOT = T / g, \qquad \lambda = D / (n T), \qquad TTFT \ge k\, S(D) + c + f

``k`` iterations hold the chunks of a prompt, and one takes no more tokens than the policy's chunk; ``f`` is what the
last part of the last chunk is behind the first in a pipeline (:mod:`simkit.serving.event_loop`). Nothing waits and
nothing varies: a stream of the same mean rate does worse, so that these are bounds that leave out what cannot meet an
objective; :mod:`simkit.serving.event_loop` plays what is left. ``D = 0`` is one request alone.

A pool that only decodes has no ``c``. One that only computes prompts fills its iterations with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.serving import state as at
from simkit.serving.replica import Replica
from simkit.serving.requests import Stream
from simkit.serving.runtime import IDEAL
from simkit.serving.serve import Policy

BATCHES: Final = 32  # geometric; between them the bounds are read as straight lines


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Means of a stream: prompt and output tokens, and the context of a decoding sequence, where long outputs stay.

    ``least_prompt_tokens``, ``least_context_tokens``: what at least one of those that must meet an objective has.
    """

    prompt_tokens: float
    output_tokens: float
    context_tokens: float
    least_prompt_tokens: float
    least_context_tokens: float

    @classmethod
    def of(cls, stream: Stream, attainment_fraction: float) -> Lengths:
        """Of the first requests of a stream, of which that share must meet an objective."""
        part = next(stream.chunks())
        prompt, output = part.prompt_tokens.astype(float), part.output_tokens.astype(float)
        contexts, means = prompt + output / 2, (float(prompt.mean()), float(np.average(prompt + output / 2,
                                                                                       weights=output)))
        least = [min(float(np.quantile(column, attainment_fraction, method="lower")), mean)
                 for column, mean in zip((prompt, contexts), means, strict=True)]
        return cls(prompt_tokens=means[0], output_tokens=float(output.mean()), context_tokens=means[1],
                   least_prompt_tokens=least[0], least_context_tokens=least[1])


@dataclass(frozen=True, kw_only=True)
class Steady:
    """Replicas at rising ``batch``; all are arrays [replicas, batches], of one replica [batches].

    Parameters
    ----------
    batch: sequences that decode at once, up to what the blocks, the policy or its chunk of prompts allow.
    requests_per_s, in_flight: requests that it then serves, and that are in it, prompts included.
    ttft_s, tpot_s: the least that a request then takes.
    """

    batch: Any
    requests_per_s: Any
    in_flight: Any
    ttft_s: Any
    tpot_s: Any

    def of(self, which: int) -> Steady:
        """One of several replicas."""
        return Steady(batch=self.batch[which], requests_per_s=self.requests_per_s[which],
                      in_flight=self.in_flight[which], ttft_s=self.ttft_s[which], tpot_s=self.tpot_s[which])

    def most(self, load: Any, policy: Policy) -> float:
        """The most of ``requests_per_s`` or ``in_flight`` within the objective; 0 where one request alone is not."""
        over = np.maximum(self.tpot_s / policy.slo_tpot_s, self.ttft_s / policy.slo_ttft_s)
        if over[0] > 1.0:
            return 0.0
        beyond = int(np.argmax(over > 1.0))
        if beyond == 0:
            return float(load[-1])
        low, high = over[beyond - 1], over[beyond]
        return float(np.interp(1.0, [low, high], load[beyond - 1:beyond + 1]))


def steady(replica: Replica, policy: Policy, lengths: Lengths, role: int = at.BOTH) -> Steady:
    """The steady states of a replica, or of many: those whose machine has arrays [replicas, 1].

    Those without room for a block are as if they had one. ``role``: what it does of a request, as of
    :class:`simkit.serving.state.Rules`.
    """
    kinds, page, verified, runtime = replica.block_kinds, replica.page_tokens, replica.verified_tokens, policy.runtime
    pp, fraction = np.asarray(replica.machine.pp, dtype=float), runtime.prefill_fraction
    host = (0.0, 0.0) if runtime is IDEAL else (replica.kernels, replica.exchanges)
    alone_s = replica.fixed_step_s + runtime.host_step_s(*host)  # an iteration in which nothing decodes

    def rows_s(rows: Any) -> Any:
        return np.where(rows > 0, replica.rows_s(np.maximum(rows, 1.0))[0], 0.0)

    def prompt_s(tokens: float, batch: Any) -> tuple[Any, Any, Any]:
        """Rows of a chunk beside a batch, and the seconds of a prompt in linear layers and in attention."""
        rows = np.minimum(tokens, np.maximum(policy.chunk_tokens - batch * verified, page))
        attention_s, _ = replica.prefill_attention_s(rows, np.maximum(tokens / 2, rows))
        added_s = rows_s(batch * verified + rows) - rows_s(batch * verified)
        return rows, tokens / rows * added_s / fraction, tokens / rows * attention_s / fraction

    def ttft_s(batch: Any, before_s: Any) -> Any:
        tokens = lengths.least_prompt_tokens
        rows, linear_s, attention_s = prompt_s(tokens, batch)
        chunks = np.ceil(tokens / rows)
        last = tokens - (chunks - 1) * rows
        behind = (np.minimum(pp, np.ceil(last / page)) - 1) / pp
        return chunks * before_s + (linear_s + attention_s) * (1.0 + behind * last / tokens)

    if role == at.PREFILL_ONLY:
        nothing, full = np.zeros((*pp.shape[:-1], 2)), float(max(policy.chunk_tokens, page))
        _, _, attention_s = prompt_s(lengths.prompt_tokens, nothing)
        of_one_s = lengths.prompt_tokens / full * (alone_s + rows_s(nothing + full) / fraction) + attention_s
        return Steady(batch=nothing, requests_per_s=np.array([0.0, 1.0]) / of_one_s, in_flight=nothing,
                      ttft_s=ttft_s(nothing, alone_s) + runtime.request_s, tpot_s=nothing)
    of_one = sum(count * math.ceil(min(lengths.context_tokens, most) / page) for count, most in kinds)
    gain = min(replica.tokens_per_step, lengths.output_tokens)
    iterations = max(lengths.output_tokens - 1.0, 1.0) / gain  # the first token is the prompt's
    most = np.asarray(np.minimum(replica.blocks / of_one, policy.most_running))
    if role == at.BOTH:
        of_prompts = lengths.prompt_tokens / iterations  # of an iteration, for each sequence that decodes
        most = np.minimum(most, max(policy.chunk_tokens / (verified + of_prompts), page / of_prompts))
    most = np.maximum(most, 1.0).reshape(*pp.shape[:-1], 1)
    batch = np.concatenate([0.0 * most, np.floor(most ** np.linspace(0.0, 1.0, BATCHES)), most], axis=-1)
    contexts = np.where(batch == 0.0, lengths.least_context_tokens, lengths.context_tokens) + 0.0 * batch
    step_s = replica.time_s(np.maximum(batch, 1.0), contexts)
    if runtime is not IDEAL:
        step_s = replica.run_s(step_s, batch, contexts, runtime) + runtime.host_step_s(*host) + (
            runtime.host_sequence_s * batch)
    first_s, iteration_s = 0.0 * step_s, step_s
    if role == at.BOTH:
        first_s = ttft_s(batch, np.where(batch == 0.0, alone_s, step_s))
        iteration_s = step_s + batch / iterations * sum(prompt_s(lengths.prompt_tokens, batch)[1:])
    requests_per_s = batch / (iterations * iteration_s)
    return Steady(batch=batch, requests_per_s=requests_per_s, in_flight=batch + requests_per_s * first_s,
                  ttft_s=first_s + runtime.request_s, tpot_s=iteration_s / gain)
