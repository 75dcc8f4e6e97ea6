r"""A replica in a steady state, in closed form: what it serves a second when ``D`` sequences decode in it.

In an iteration every decoding sequence gains ``g`` tokens, and arriving prompts add their time to it. A request takes
``n = output / g`` iterations and ``c`` seconds of prompt work, so that by Little's law, with ``S`` the step of ``D``
sequences of mean context,

.. math:: T = S(D) + D c / n, \qquad TPOT = T / g, \qquad \lambda = D / (n T), \qquad TTFT \ge k\, S(D) + c

``k`` iterations hold the chunks of a prompt, and one takes no more tokens than the policy's chunk. Nothing waits and
nothing varies: a stream of the same mean rate does worse, so that these are bounds that leave out what cannot meet an
objective; :mod:`simkit.serving.event_loop` plays what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.serving.replica import Replica
from simkit.serving.requests import Stream
from simkit.serving.serve import Policy

BATCHES: Final = 32  # geometric; between them the bounds are read as straight lines


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Means of a stream: prompt and output tokens, and the context of a decoding sequence, where long outputs stay."""

    prompt_tokens: float
    output_tokens: float
    context_tokens: float

    @classmethod
    def of(cls, stream: Stream) -> Lengths:
        """Of the first requests of a stream."""
        part = next(stream.chunks())
        prompt, output = part.prompt_tokens.astype(float), part.output_tokens.astype(float)
        return cls(prompt_tokens=float(prompt.mean()), output_tokens=float(output.mean()),
                   context_tokens=float(np.average(prompt + output / 2, weights=output)))


@dataclass(frozen=True, kw_only=True)
class Steady:
    """One replica at rising ``batch``; all are arrays over it.

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

    def most(self, load: Any, policy: Policy) -> float:
        """The most of ``requests_per_s`` or ``in_flight`` within the objective; 0 where one sequence is not."""
        over = np.maximum(self.tpot_s / policy.slo_tpot_s, self.ttft_s / policy.slo_ttft_s)
        if over[0] > 1.0:
            return 0.0
        beyond = int(np.argmax(over > 1.0))
        if beyond == 0:
            return float(load[-1])
        low, high = over[beyond - 1], over[beyond]
        return float(np.interp(1.0, [low, high], load[beyond - 1:beyond + 1]))


def steady(replica: Replica, policy: Policy, lengths: Lengths) -> Steady:
    """The steady states of a replica. Raises :class:`UserError` without room for its weights and one block."""
    kinds, page, verified = replica.block_kinds, replica.page_tokens, replica.verified_tokens
    of_one = sum(count * math.ceil(min(lengths.context_tokens, most) / page) for count, most in kinds)
    gain = min(replica.tokens_per_step, lengths.output_tokens)
    iterations = lengths.output_tokens / gain
    of_prompts = lengths.prompt_tokens / iterations  # tokens that arrive in an iteration, for each that decodes
    most = max(min(replica.total_blocks / of_one, policy.most_running,
                   max(policy.chunk_tokens / (verified + of_prompts), page / of_prompts)), 1.0)
    batch = np.unique(np.append(np.floor(np.geomspace(1.0, most, BATCHES)), most))
    runtime, rows = policy.runtime, np.minimum(lengths.prompt_tokens, np.maximum(
        policy.chunk_tokens - batch * verified, page))
    step_s, _, _ = replica.step_s(batch, lengths.context_tokens)
    step_s = runtime.whole_step_s(step_s, batch, replica.kernels, replica.exchanges)
    chunks = lengths.prompt_tokens / rows
    base_s, _, _ = replica.rows_s(batch * verified)
    more_s, _, _ = replica.rows_s(batch * verified + rows)
    attention_s, _ = replica.prefill_attention_s(rows, np.maximum(lengths.prompt_tokens / 2, rows))
    prompt_s = chunks * (more_s - base_s + attention_s) / runtime.prefill_fraction
    iteration_s = step_s + batch * prompt_s / iterations
    requests_per_s, ttft_s = batch / (iterations * iteration_s), np.ceil(chunks) * step_s + prompt_s
    return Steady(batch=batch, requests_per_s=requests_per_s, in_flight=batch + requests_per_s * ttft_s,
                  ttft_s=ttft_s + runtime.request_s, tpot_s=iteration_s / gain)
