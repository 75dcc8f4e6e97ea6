"""A load and how it is served, in the words of the command line: what Python and the commands ask with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from simkit.foundation.axis_syntax import parse_axis, parse_one
from simkit.foundation.errors import UserError
from simkit.serving.ask import Load, parse_losses
from simkit.serving.generate import generate, parse_arrivals, parse_lengths, parse_shared_prefix
from simkit.serving.requests import Stream
from simkit.serving.runtime import load_runtime
from simkit.serving.serve import Policy, parse_tiers
from simkit.serving.traces import read_trace

DEFAULT_LENGTHS: Final = "azure-conv-2023"
DEFAULT_REQUESTS: Final = 2000  # assumed: enough for a steady 99th percentile, seconds to play
MOST_CHUNK: Final = 65_536


def load_of(*, requests_per_s: str | float | None = None, lengths: str = DEFAULT_LENGTHS, arrivals: str = "poisson",
            speed_up_factor: float = 1.0, requests: int | None = None, seed: int = 0, trace_file: str | None = None,
            shared_prefix: str | None = None) -> Load:
    """The requests and their rates.

    Parameters
    ----------
    requests_per_s: a number, or a list or range such as ``1..16*2``.
    lengths: a shipped law, or ``PROMPT/OUTPUT``, such as ``lognormal:1000:0.8/512``.
    arrivals: ``poisson`` or ``gamma:CV``.
    speed_up_factor: of arrivals.
    requests: how many; None: 2000, or the whole trace.
    seed: of the random stream.
    trace_file: requests from a file instead.
    shared_prefix: ``TOKENS[:N]``, one of N beginnings before each prompt.

    Raises :class:`UserError` on bad input.
    """
    scale = speed_up_factor
    rates = () if requests_per_s is None else tuple(
        scale * value for value in parse_axis(str(requests_per_s), what="--rate", minimum=1e-6, whole=False))
    if trace_file is not None:
        if shared_prefix:
            raise UserError("--shared-prefix beside --trace: a trace says itself which prompts begin alike")
        stream = read_trace(trace_file)
        if requests is not None:
            stream = stream.first(requests)
        own = stream.mean_rate_per_s()
        if own == float("inf") and (rates or scale != 1.0):
            raise UserError(f"{trace_file}: all requests arrive at once: there is no rate to change")
        # Requests that all come at once have no rate; as they are, they are served at factor 1.
        own = 1.0 if own == float("inf") else own
        return Load(stream=stream, own_requests_per_s=own, rates_requests_per_s=rates or (own * scale,))
    law, gap_cv, own = parse_lengths(lengths), parse_arrivals(arrivals), rates[0] if rates else 1.0
    prefix = None if shared_prefix is None else parse_shared_prefix(shared_prefix)

    def more(count: int) -> Stream:
        return generate(law, requests_per_s=own, gap_cv=gap_cv, requests=count, seed=seed, shared_prefix=prefix)

    return Load(stream=more(requests or DEFAULT_REQUESTS), own_requests_per_s=own, rates_requests_per_s=rates,
                more=more)


def policy_of(*, slo_ttft_s: float | None = None, slo_tpot_s: float | None = None, runtime: str = "ideal",
              policy: str = "recompute", chunk: str | int = "2k", max_seqs: int = 1024,
              swap_space_bytes: float = 4 * 2.0**30, swap_bytes_per_s: float = 50e9, concurrency: int | None = None,
              prefix_cache: bool = False, kv_tiers: Sequence[str] = (), deal: str = "turn",
              losses: Sequence[str] = ()) -> Policy:
    """How a replica is run, and the objective.

    Parameters
    ----------
    slo_ttft_s, slo_tpot_s: the objective in seconds: time to the first token, and per token after it.
    runtime: host work of a step: ``ideal``, ``vllm``, ``trtllm``, ``sglang``, or a YAML file.
    policy: preempted caches: ``recompute`` or ``swap``.
    chunk, max_seqs: most tokens and most sequences of an iteration.
    swap_space_bytes, swap_bytes_per_s: host memory a chip, and the way there.
    concurrency: clients of a closed loop instead of a rate.
    prefix_cache, kv_tiers: whether cached prompts are kept, and where they go: ``NAME=SIZE,RATE,LATENCY``.
    deal: to which replica a request goes, as of :class:`simkit.serving.serve.Policy`.
    losses: replicas that fail, as of :func:`simkit.serving.ask.parse_losses`.

    Raises :class:`UserError` on bad input.
    """
    tiers = parse_tiers(tuple(kv_tiers))
    if tiers and not prefix_cache:
        raise UserError("--kv-tier goes with --prefix-cache: cached prompts are what tiers hold")
    tokens = parse_one(str(chunk), what="--chunk")
    if not 1 <= tokens <= MOST_CHUNK:
        raise UserError(f"--chunk {tokens}: at least 1 and at most {MOST_CHUNK} tokens of an iteration")
    lost, lost_s = parse_losses(losses).get("replicas", (0, math.inf))
    return Policy(preemption=policy, chunk_tokens=tokens, most_running=max_seqs,
                  swap_bytes_per_s=swap_bytes_per_s, swap_bytes=swap_space_bytes, slo_ttft_s=slo_ttft_s or math.inf,
                  slo_tpot_s=slo_tpot_s or math.inf, runtime=load_runtime(runtime), clients=concurrency or 0,
                  prefix_cache=prefix_cache, tiers=tiers, deal=deal, lost=lost, lost_s=lost_s)
