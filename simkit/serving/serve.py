"""Playing a request stream through replicas, and what comes out: rates, percentiles, occupancy, energy and money."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import BYTES, BYTES_PER_S, SECONDS, parse_quantity
from simkit.serving import state as state_of
from simkit.serving.event_loop import advance
from simkit.serving.histogram import BINS, distribution, mean_batch, quantile_s
from simkit.serving.iteration import Tables
from simkit.serving.replica import Replica
from simkit.serving.requests import PREFIX_TOKENS, Dealing, Requests, Stream
from simkit.serving.runtime import IDEAL, Runtime
from simkit.serving.scheduling import missed
from simkit.serving.step_grid import (
    CONTEXT_KNOTS,
    MOST_CONTEXT_KNOTS,
    PROMISED_ERROR,
    GridError,
    build_tables,
    measure_error,
    run_on,
)
from simkit.study.record import cost_usd_per_mtok

# vLLM keeps 1 % of its blocks free at admission, so that running sequences do not evict what was just let in
# (vllm/core/block_manager.py, watermark = 0.01).
WATERMARK_FRACTION: Final = 0.01
MOST_CACHED: Final = 2**24  # blocks of prompts in a tier: the tree of them must fit in memory
FIRST_BUCKET_S: Final = 1e-3  # of the time series; buckets double as a run grows longer
PERCENTILES: Final = (0.5, 0.9, 0.99)  # what serving objectives are stated in
WORK: Final = (state_of.DECODE, state_of.PREFILL, state_of.HOST, state_of.SWAP)  # clocks that count it
_TIMES: Final = (("ttft", state_of.TTFT), ("tpot", state_of.TPOT), ("latency", state_of.LATENCY),
                 ("queue", state_of.WAIT))


TIERS: Final = ("host", "ssd")  # nearest first
TURN, PREFIX = "turn", "prefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A memory below the chip's that keeps cached prompts; all figures are one chip's share."""

    name: str
    capacity_bytes: float
    bandwidth_bytes_per_s: float
    latency_s: float


def parse_tiers(texts: Sequence[str]) -> tuple[Tier, ...]:
    """``host=256GiB,50GB/s,10us`` and the like, nearest first. Raises :class:`UserError`."""
    found: dict[str, Tier] = {}
    for text in texts:
        name, _, figures = text.strip().lower().partition("=")
        parts = [part.strip() for part in text.partition("=")[2].split(",")]
        if name not in TIERS or len(parts) != 3 or name in found:
            raise UserError(f"--kv-tier '{text[:60]}': expected host or ssd, once each, as host=256GiB,50GB/s,10us",
                            hint=did_you_mean(name, TIERS))
        capacity, bandwidth, latency = (parse_quantity(part, dimension) for part, dimension in zip(
            parts, (BYTES, BYTES_PER_S, SECONDS), strict=True))
        if not (capacity > 0 and bandwidth > 0 and latency >= 0):
            raise UserError(f"--kv-tier {name}: {figures[:60]}: expected a capacity and a bandwidth above 0")
        found[name] = Tier(name=name, capacity_bytes=capacity, bandwidth_bytes_per_s=bandwidth, latency_s=latency)
    return tuple(found[name] for name in TIERS if name in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a replica is run.

    Parameters
    ----------
    preemption: ``recompute`` or ``swap``.
    chunk_tokens: most tokens of an iteration; longer prompts are cut.
    most_running: most sequences of an iteration.
    swap_bytes_per_s, swap_bytes: the way to the host's memory and the room there, of one chip.
    slo_ttft_s, slo_tpot_s: bounds that a good request meets.
    runtime: what the software adds.
    clients: requests in flight of a closed loop, each sending its next when one ends; 0: an open stream.
    prefix_cache: blocks of prompts stay while nothing else needs their room, and prompts that begin alike share them.
    deal: ``turn``, or ``prefix``: requests whose prompts begin alike to the same replica.
    lost, lost_s: replicas (None: all) that are lost with all that they hold, and when.
    tiers: where blocks go that have no room; what is found there is loaded where that is faster than computing it.
    """

    preemption: str = "recompute"
    chunk_tokens: int = 2048  # vLLM's default max_num_batched_tokens of its chunked prefill
    most_running: int = 1024  # vLLM's default max_num_seqs on large GPUs
    swap_bytes_per_s: float = 50e9  # assumed: about what PCIe 5 x16 carries
    swap_bytes: float = 4 * 2.0**30  # vLLM's default swap_space
    slo_ttft_s: float = math.inf
    slo_tpot_s: float = math.inf
    runtime: Runtime = IDEAL
    clients: int = 0
    prefix_cache: bool = False
    deal: str = "turn"
    lost: int | None = 0
    lost_s: float = math.inf
    tiers: tuple[Tier, ...] = ()

    def dealing(self, replicas: int) -> Dealing:
        """How requests are dealt to so many replicas. Raises :class:`UserError`."""
        if self.deal not in (TURN, PREFIX):
            raise UserError(f"--deal '{self.deal[:20]}': expected {TURN} or {PREFIX}")
        lost = replicas if self.lost is None else self.lost
        if lost > replicas:
            raise UserError(f"--lose: {lost} replicas of a pool that has {replicas}")
        return Dealing(replicas=replicas, by_prefix=self.deal == PREFIX, lost=lost, lost_s=self.lost_s)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a stream did to all replicas together; arrays are for figures and the timeline.

    Parameters
    ----------
    record: the flat record of the common vocabulary; a figure that cannot be known is NaN.
    histograms: [4, bins] of TTFT, TPOT, latency and queueing.
    bucket_s, series: of the first replica: bucket width; [buckets, 3] seconds, block- and sequence-seconds.
    events, spans: of the first replica, the first iterations and requests.
    first_refused: place in its replica's stream of the first request that can never fit, and its tokens; None.
    lost: more requests missed the objective than were allowed to, and the rest was not played.
    """

    record: dict[str, Any]
    histograms: NDArray[np.int64]
    bucket_s: float
    series: NDArray[np.float64]
    events: NDArray[np.float64]
    spans: NDArray[np.float64]
    first_refused: tuple[int, int] | None
    lost: bool = False

    def quantile_s(self, what: str, probability: float) -> float:
        """A quantile of ``ttft``, ``tpot``, ``latency`` or ``queue``."""
        return quantile_s(self.histograms[dict(_TIMES)[what]], probability)

    def distribution_s(self, what: str) -> tuple[Any, Any]:
        """``(seconds, share of requests at or below)`` of ``ttft``, ``tpot``, ``latency`` or ``queue``."""
        return distribution(self.histograms[dict(_TIMES)[what]])


@dataclass(frozen=True, kw_only=True)
class Server:
    """A replica with its tables: build once, serve many streams."""

    replica: Replica
    policy: Policy
    tables: Tables
    grid_error: GridError

    def rules(self) -> state_of.Rules:
        """The scheduler's rules in the event loop's terms."""
        replica, policy, runtime = self.replica, self.policy, self.policy.runtime
        if runtime.cache == "whole" or runtime.attention_kernel not in ("grouped", replica.scenario.kernel):
            raise UserError(f"--runtime {runtime.name}: attention does not read pages of grouped heads",
                            hint="simkit evidence accelerators knows it")
        chips, swapping = float(replica.machine.chips), policy.preemption == "swap"
        kinds, page, watermark = replica.block_kinds, replica.page_tokens, math.ceil(
            WATERMARK_FRACTION * replica.total_blocks)
        caching: dict[str, Any] = {}
        if policy.prefix_cache:
            if PREFIX_TOKENS % page:
                raise UserError(f"--prefix-cache: pages of {page} tokens do not fill a block of {PREFIX_TOKENS}",
                                hint="use a --page that divides it")
            # A layer with a window and a state are copied at the end of each block; the others' pages are shared.
            blocks = sum(count * math.ceil(min(PREFIX_TOKENS, most) / page) for count, most in kinds)
            block_bytes = blocks * replica.bytes_per_block
            caching = {
                "prefix_tokens": PREFIX_TOKENS, "prefix_blocks": blocks,
                "prefix_growing": sum(count * PREFIX_TOKENS // page for count, most in kinds if math.isinf(most)),
                # What is on its way down waits in the blocks that admission leaves free.
                "tiers": np.array([(min(tier.capacity_bytes * chips // block_bytes, MOST_CACHED),
                                    block_bytes / (tier.bandwidth_bytes_per_s * chips), tier.latency_s,
                                    watermark * replica.bytes_per_block / (tier.bandwidth_bytes_per_s * chips))
                                   for tier in policy.tiers]).reshape(-1, 4)}
        return state_of.Rules(
            page=page, kind_counts=np.array([count for count, _ in kinds], dtype=np.int64),
            kind_limit_tokens=np.array([most for _, most in kinds], dtype=float),
            blocks=replica.total_blocks, watermark=watermark, most_running=self.most_running,
            stages=round(float(replica.machine.pp)), chunk=policy.chunk_tokens,
            verified=replica.verified_tokens, tokens_per_step=replica.tokens_per_step,
            swap_s_per_block=replica.bytes_per_block / (policy.swap_bytes_per_s * chips),
            host_blocks=int(policy.swap_bytes * chips / replica.bytes_per_block) if swapping else 0,
            host_step_s=policy.runtime.host_step_s(replica.kernels, replica.exchanges),
            host_sequence_s=policy.runtime.host_sequence_s,
            prefill_fraction=policy.runtime.prefill_fraction, slo_ttft_s=policy.slo_ttft_s,
            slo_tpot_s=policy.slo_tpot_s, clients=policy.clients, request_s=runtime.request_s, **caching)

    @property
    def most_running(self) -> int:
        """Most sequences of an iteration: the policy's, no more than there are blocks."""
        return min(self.policy.most_running, self.replica.total_blocks)

    def most_running_of(self, stream: Stream) -> int:
        """Sequences of this stream's mean length that the blocks hold at once, by its first requests."""
        part = next(stream.chunks())
        kinds = self.replica.block_kinds
        mean_tokens = float(np.mean(part.prompt_tokens + part.output_tokens))
        of_one = sum(count * math.ceil(min(mean_tokens, most) / self.replica.page_tokens) for count, most in kinds)
        return min(self.most_running, max(self.replica.total_blocks // of_one, 1))


def build_server(replica: Replica, policy: Policy) -> Server:
    """Ask the engine for the tables and measure their error. Raises :class:`UserError`."""
    if policy.preemption not in ("recompute", "swap"):
        raise UserError(f"--policy '{policy.preemption[:20]}': expected recompute or swap")
    most = min(policy.most_running, replica.total_blocks)
    knots = CONTEXT_KNOTS
    while True:
        tables = build_tables(replica, most_running=most, chunk_tokens=policy.chunk_tokens, context_knots=knots)
        error = measure_error(replica, tables)
        # Kernels that split contexts have steps in them; a finer grid follows these where the promise asks for it.
        if error.max_relative_error < PROMISED_ERROR or knots >= MOST_CONTEXT_KNOTS:
            return Server(replica=replica, policy=policy, grid_error=error,
                          tables=run_on(tables, replica, policy.runtime))
        knots *= 4 if error.max_relative_error > 2 * PROMISED_ERROR else 2


def serve(server: Server, stream: Stream, *, replicas: int = 1, keep_events: int = 0,
          most_missed: int = state_of.NEVER) -> Served:
    """Play a stream through ``replicas`` equal replicas, dealt requests as the policy says.

    Parameters
    ----------
    server, stream: who serves what.
    replicas: copies of the server; in a closed loop each has the policy's clients.
    keep_events: iterations and requests of the first replica that are kept for a timeline.
    most_missed: requests of all replicas that may miss the objective; where more do, the rest is not played.
    """
    rules, left, dealing = server.rules(), most_missed, server.policy.dealing(replicas)
    states: list[state_of.State] = []
    while len(states) < replicas and left >= 0:
        which = len(states)
        states.append(_play(server, rules._replace(most_missed=left, lost_s=dealing.lost_s_of(which)),
                            stream.share_of(which, dealing), 0 if states else keep_events))
        left -= missed(states[-1].tally)
    return gathered(server, stream, states, lost=left < 0)


def gathered(server: Server, stream: Stream, states: list[state_of.State], *, lost: bool = False,
             prefill: tuple[Server, list[state_of.State]] | None = None) -> Served:
    """What all replicas did together; ``prefill``: those that computed the prompts, where these only decode."""
    first, every = states[0], [*states, *(prefill[1] if prefill else [])]
    refused = next(((int(state.tally[state_of.FIRST_REFUSED]), int(state.tally[state_of.REFUSED_TOKENS]))
                    for state in every if state.tally[state_of.REFUSED]), None)
    return Served(
        record=_record(server, stream, states, prefill),
        histograms=sum((state.histograms for state in every[1:]), first.histograms),
        bucket_s=float(first.clock_s[state_of.BUCKET]), series=first.series,
        events=first.events[:first.tally[state_of.EVENTS]],
        spans=first.spans[:first.tally[state_of.SPANS]], first_refused=refused, lost=lost)


def _play(server: Server, rules: state_of.Rules, stream: Stream, keep_events: int) -> state_of.State:
    state = fresh_state(rules, keep_events)
    parts: Iterator[Requests] = stream.chunks()
    part = next(parts, None)
    following = next(parts, None) if part is not None else None
    while part is not None and missed(state.tally) <= rules.most_missed:
        state.tally[state_of.NEXT] = 0
        if advance(state, rules, server.tables, buffer_of(part), following is not None,
                   np.inf) == state_of.IS_LOST:
            lose(state, [part, *([following] if following is not None else []), *parts])
            break
        part, following = following, next(parts, None) if following is not None else None
    return state


def lose(state: state_of.State, waiting: Sequence[Requests]) -> None:
    """A replica goes with what it holds and with the requests that wait for it, the first of which it has taken."""
    count = state.tally
    count[state_of.LOST] += (count[[state_of.RUNNING, state_of.PARKED, state_of.MOVING]].sum()
                             + sum(part.arrival_s.size for part in waiting) - count[state_of.NEXT])
    count[state_of.FREED] += count[state_of.USED]
    count[[state_of.RUNNING, state_of.PARKED, state_of.MOVING, state_of.USED, state_of.OWED, state_of.HOST_BLOCKS]] = 0


def buffer_of(part: Requests) -> state_of.Buffer:
    """Requests as the event loop reads them."""
    columns: Any = (part.arrival_s, part.prompt_tokens, part.output_tokens, part.numbers, part.first, part.blocks)
    return state_of.Buffer(*map(np.ascontiguousarray, columns))


def fresh_state(rules: state_of.Rules, keep_events: int, ports_s: NDArray[np.float64] | None = None,
                handed: int = 1) -> state_of.State:
    """An idle replica; of several pools with the ports of the senders, and room for so many prompts handed on."""
    def sequences(most: int) -> NDArray[np.float64]:
        return np.zeros((most, state_of.COLUMNS))

    cached, tiers = rules.cached_blocks, rules.tiers.shape[0]
    state = state_of.State(
        running_sequences=sequences(rules.most_running + 1), parked_sequences=sequences(rules.most_running + 1),
        moving_sequences=sequences(rules.most_running + 1), handed=sequences(handed),
        sent=np.zeros((handed, 4)), ports_s=np.zeros(1) if ports_s is None else ports_s,
        prefixes=state_of.Prefixes(
            entries=np.zeros((cached, state_of.ENTRY_COLUMNS), dtype=np.int64),
            slots=np.zeros(2 ** (2 * cached).bit_length(), dtype=np.int64),
            lists=np.zeros((tiers + 2, 3), dtype=np.int64), free_s=np.zeros((tiers, 2))),
        clock_s=np.zeros(state_of.CLOCKS), tally=np.zeros(state_of.COUNTS, dtype=np.int64),
        histograms=np.zeros((len(_TIMES), BINS), dtype=np.int64), batch_s=np.zeros(rules.most_running + 2),
        series=np.zeros((state_of.SERIES_BUCKETS, 3)), releases_s=np.zeros(max(rules.clients, 1)),
        events=np.zeros((keep_events, state_of.EVENT_COLUMNS)), spans=np.zeros((keep_events, state_of.SPAN_COLUMNS)))
    state.clock_s[state_of.START] = -1.0
    state.clock_s[state_of.BUCKET] = FIRST_BUCKET_S
    return state


def _record(server: Server, stream: Stream, states: list[state_of.State],
            prefill: tuple[Server, list[state_of.State]] | None) -> dict[str, Any]:
    """All replicas in one record; rates are over the time from the first arrival to the last token, of any replica."""
    replica, policy, replicas = server.replica, server.policy, len(states)
    every = [*states, *(prefill[1] if prefill else [])]
    clock = np.sum([state.clock_s for state in every], axis=0)
    count = np.sum([state.tally for state in every], axis=0)
    # A replica that no request reached has neither beginning nor end (START < 0): it is idle throughout.
    starts_s = [state.clock_s[state_of.START] for state in every if state.clock_s[state_of.START] >= 0.0]
    lasted_s = float(max(state.clock_s[state_of.NOW] for state in every) - min(starts_s, default=0.0))
    whole_s = lasted_s * len(every)
    chips = float(replica.machine.chips) * replicas
    pools = [(chip, number * count) for one, count in [(replica, replicas)] + (
        [(prefill[0].replica, len(prefill[1]))] if prefill else []) for chip, number in one.chip_groups]
    tokens = int(count[state_of.TOKENS_OUT])
    histograms = sum((state.histograms for state in every[1:]), states[0].histograms)
    batch_s = sum((state.batch_s for state in states[1:]), states[0].batch_s)
    blocks = replica.total_blocks
    held_s = float(sum(state.clock_s[state_of.BLOCK_SECONDS] for state in states))
    joules = float(clock[state_of.JOULES]) + sum(
        math.nan if chip.power.idle_w is None else chip.power.idle_w * number * lasted_s for chip, number in pools)
    requests = int(count[state_of.FINISHED] + count[state_of.REFUSED] + count[state_of.LOST])
    # Idle is the rest: a replica also idles before its first request and after its last.
    busy_s = float(sum(clock[part] for part in WORK))

    def per_s(amount: float) -> float:
        return amount / lasted_s if lasted_s > 0 else math.nan

    def share(seconds: float) -> float:
        return seconds / whole_s if whole_s > 0 else math.nan

    record: dict[str, Any] = {
        "hardware": replica.hardware.name,
        "assumed": ";".join(dict.fromkeys(chip.assumption for chip, _ in pools if chip.assumption)) or None,
        "chips": chips,
        "tp": float(replica.machine.tp),
        "pp": float(replica.machine.pp),
        "replicas": replicas, "model": replica.model.name, "attention": replica.attention,
        "n_kv_heads": replica.layout.n_kv_heads, "kv_dtype": replica.scenario.kv_dtype,
        "weight_dtype": replica.scenario.weight_dtype, "engine": replica.engine, "runtime": policy.runtime.name,
        "policy": policy.preemption, "trace": stream.name, "requests": requests,
        "finished": int(count[state_of.FINISHED]), "refused": int(count[state_of.REFUSED]),
        "lost": int(count[state_of.LOST]), "prompt_tokens": int(count[state_of.PROMPT_TOKENS]), "output_tokens": tokens,
        "duration_s": lasted_s, "requests_per_s": per_s(float(count[state_of.FINISHED])), "tokens_per_s": per_s(tokens),
        "prompt_tokens_per_s": per_s(float(count[state_of.PROMPT_TOKENS])),
        "slo_ttft_s": policy.slo_ttft_s, "slo_tpot_s": policy.slo_tpot_s,
        "slo_attainment": int(count[state_of.GOOD]) / max(requests, 1),
        "goodput_requests_per_s": per_s(float(count[state_of.GOOD])),
        "goodput_tokens_per_s": per_s(float(count[state_of.GOOD_TOKENS])),
    }
    for name, row in _TIMES:
        for probability in PERCENTILES:
            record[f"{name}_p{probability * 100:.0f}_s"] = quantile_s(histograms[row], probability)
    return record | {
        "mean_batch": mean_batch(batch_s), "max_batch": max(int(state.tally[state_of.MOST_BATCH]) for state in states),
        "kv_blocks": blocks, "block_tokens": replica.page_tokens,
        "mean_kv_occupancy": held_s / (lasted_s * replicas) / blocks if lasted_s > 0 else math.nan,
        "max_kv_occupancy": max(int(state.tally[state_of.MOST_USED]) for state in states) / blocks,
        "preemptions": int(count[state_of.PREEMPTED]), "swaps": int(count[state_of.SWAPPED_OUT]),
        "iterations": int(count[state_of.ITERATIONS]),
        "idle_share": max(share(whole_s - busy_s), 0.0),
        "attention_share": share(float(clock[state_of.ATTENTION])),
        "rest_of_decode_share": share(float(clock[state_of.DECODE] - clock[state_of.ATTENTION])),
        "prefill_share": share(float(clock[state_of.PREFILL])), "host_share": share(float(clock[state_of.HOST])),
        "swap_share": share(float(clock[state_of.SWAP])),
        "tokens_per_j": tokens / joules if joules > 0 else math.nan,
        "cost_usd_per_mtok": (sum(float(cost_usd_per_mtok(chip.price, number, per_s(tokens)))
                                  for chip, number in pools) if tokens else math.nan),
        "grid_mean_error": server.grid_error.mean_relative_error,
        "grid_max_error": server.grid_error.max_relative_error,
    } | _cached(prefill[0] if prefill else server, count) | {
        name: value * replicas if name == "ffn_chips" else value for name, value in replica.columns.items()}


def _cached(server: Server, count: NDArray[np.int64]) -> dict[str, Any]:
    """What came of the prompts' cached blocks, in a server that keeps them."""
    if not server.policy.prefix_cache:
        return {}
    tokens, rules = int(count[state_of.PROMPT_TOKENS]), server.rules()
    return {"prefix_hit_rate": int(count[state_of.HIT_TOKENS]) / max(tokens, 1),
            "prefix_loaded_share": int(count[state_of.LOADED]) * rules.prefix_tokens / max(tokens, 1),
            "prefix_room_tokens": rules.blocks // rules.prefix_blocks * rules.prefix_tokens,
            "kv_tiers": ", ".join(tier.name for tier in server.policy.tiers) or None}
