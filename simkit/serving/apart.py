"""Prefill and decode apart: prompts on one pool of chips, their caches moved over a link, decoding on another.

Each replica of either pool runs the event loop of :mod:`simkit.serving.event_loop`; the one whose next event comes
first goes on, up to the next event of the other pool, so that nothing is known before it happens. Requests are dealt
in turn to the prefill replicas, ended prompts in turn to the decode replicas. These pull a cache when its blocks are
free, as DistServe does (arXiv 2401.09670, section 4.3); until then it fills the memory of those that computed it: a
full decode pool holds prefill back. Moved layer by layer, as Splitwise does (arXiv 2311.18677, section 4.3), a cache
follows its prompt while that is computed. Each replica has one port of the link's bandwidth for what it sends or
receives; one copy crosses it, and chips that hold the same heads copy them among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.serving import state as at
from simkit.serving.event_loop import advance
from simkit.serving.requests import Requests, Stream
from simkit.serving.serve import WORK, Served, Server, buffer_of, fresh_state, gathered
from simkit.timing.pools import Between

WHOLE: Final = "whole"
LAYERS: Final = "layers"


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A pool of replicas that compute prompts, and what joins it to those that decode.

    Parameters
    ----------
    server, replicas: one of them, and how many.
    link, link_words: bytes a second of a replica's port, each direction, and latency; as they were stated.
    moved: ``layers``, each as soon as it is computed, or ``whole``.
    """

    server: Server
    replicas: int
    link: Between
    link_words: str
    moved: str = LAYERS

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if self.moved not in (WHOLE, LAYERS):
            raise UserError(f"--kv-move '{self.moved[:20]}': expected {LAYERS} or {WHOLE}")


@dataclass
class _Pool:
    """Replicas as they are played: what changes, and when each goes on."""

    server: Server
    rules: at.Rules
    states: list[at.State]
    feeds: list[Iterator[Requests]]
    wakes_s: Any

    def __post_init__(self) -> None:
        """Begin with the first requests."""
        self.parts = [next(feed, None) for feed in self.feeds]
        self.following = [next(feed, None) for feed in self.feeds]
        none = Requests(arrival_s=np.zeros(0), prompt_tokens=np.zeros(0, dtype=np.int64),
                        output_tokens=np.zeros(0, dtype=np.int64))
        self.buffers = [buffer_of(part or none) for part in self.parts]

    def go_on(self, which: int, horizon_s: float) -> at.State:
        """Play one replica up to the horizon."""
        state = self.states[which]
        while advance(state, self.rules, self.server.tables, self.buffers[which], self.following[which] is not None,
                      horizon_s) == at.WANTS_REQUESTS:
            part, self.following[which] = self.following[which], next(self.feeds[which], None)
            state.tally[at.NEXT] = 0
            self.buffers[which] = buffer_of(part) if part is not None else self.buffers[which]
        self.wakes_s[which] = state.clock_s[at.WAKE]
        return state


def serve_apart(server: Server, prefill: Apart, stream: Stream, *, replicas: int = 1, keep_events: int = 0) -> Served:
    """Play a stream through a prefill pool and ``replicas`` of ``server``, which decode. Raises :class:`UserError`."""
    for one, pool in ((server, "decode"), (prefill.server, "prefill")):
        if one.policy.clients:
            raise UserError("--prefill beside --concurrency: prompts and outputs run on different replicas",
                            hint="give --rate or --trace")
        if one.replica.verified_tokens > 1 and pool == "prefill":
            raise UserError("--prefill beside --speculation: a draft model's own prompts are not moved")
    rules = server.rules()
    ports_s = np.zeros(prefill.replicas)
    moved_s = moved_bytes_per_block(server) / prefill.link.bandwidth_bytes_per_s
    of_prompts = prefill.server.rules()._replace(role=at.PREFILL_ONLY, most_blocks=rules.blocks)
    of_decode = rules._replace(
        role=at.DECODE_ONLY, prefix_blocks=0, kv_s_per_block=moved_s, kv_latency_s=prefill.link.latency_s,
        kv_last_share=1.0 if prefill.moved == WHOLE else 1.0 / server.replica.model.n_layers)
    handed = prefill.replicas * (of_prompts.most_running + 1)
    first = _Pool(prefill.server, of_prompts, [fresh_state(of_prompts, 0, ports_s, handed)
                                               for _ in range(prefill.replicas)],
                  [stream.every(prefill.replicas, which).chunks() for which in range(prefill.replicas)],
                  np.zeros(prefill.replicas))
    second = _Pool(server, of_decode, [fresh_state(of_decode, 0 if which else keep_events, ports_s, handed)
                                       for which in range(replicas)], [iter(()) for _ in range(replicas)],
                   np.full(replicas, math.inf))
    _play(first, second)
    served = gathered(server, stream, second.states, prefill=(prefill.server, first.states))
    return replace(served, record=served.record | _record(served.record, server, prefill, first, second))


def _play(first: _Pool, second: _Pool) -> None:
    dealt, pools = 0, len(first.states)
    while True:
        prompts, decode = int(np.argmin(first.wakes_s)), int(np.argmin(second.wakes_s))
        prompts_s, decode_s = first.wakes_s[prompts], second.wakes_s[decode]
        if prompts_s == decode_s == math.inf:
            return
        if prompts_s < decode_s:
            state = first.go_on(prompts, decode_s)
            for row in state.handed[:state.tally[at.HANDED]]:
                which, dealt = dealt % len(second.states), dealt + 1
                to = second.states[which]
                row[at.ID], row[at.SENDER] = row[at.ID] * pools + prompts, prompts
                to.handed[to.tally[at.INBOX_END] % len(to.handed)] = row
                to.tally[at.INBOX_END] += 1
                second.wakes_s[which] = min(second.wakes_s[which], max(row[at.READY], to.clock_s[at.NOW]))
            state.tally[at.HANDED] = 0
        else:
            state = second.go_on(decode, prompts_s)
            for gone in state.sent[:state.tally[at.SENT]]:
                which = int(gone[at.FROM])
                to = first.states[which]
                to.sent[to.tally[at.FREES_END] % len(to.sent)] = gone
                to.tally[at.FREES_END] += 1
                first.wakes_s[which] = min(first.wakes_s[which], max(gone[at.AT], to.clock_s[at.NOW]))
            state.tally[at.SENT] = 0


def moved_bytes_per_block(server: Server) -> float:
    """Bytes of a block that cross the link: one copy of its keys and values."""
    replica = server.replica
    return replica.distinct_page_bytes / sum(count for count, _ in replica.block_kinds)


def _record(own: dict[str, Any], server: Server, prefill: Apart, first: _Pool, second: _Pool) -> dict[str, Any]:
    replica = prefill.server.replica

    def busy(pool: _Pool) -> float:
        worked_s = float(sum(state.clock_s[part] for state in pool.states for part in WORK))
        return worked_s / (own["duration_s"] * len(pool.states)) if own["duration_s"] > 0 else math.nan

    moved = sum(int(state.tally[at.MOVED_BLOCKS]) for state in second.states)
    handed = sum(int(state.tally[at.INBOX_FIRST]) for state in second.states)
    page_bytes = server.replica.distinct_page_bytes
    return {
        "prefill_hardware": replica.hardware.name, "prefill_replicas": prefill.replicas,
        "prefill_chips": float(replica.machine.chips) * prefill.replicas,
        "prefill_tp": float(replica.machine.tp), "prefill_pp": float(replica.machine.pp),
        "prefill_busy_share": busy(first), "decode_busy_share": busy(second),
        "prefill_kv_blocks": replica.total_blocks, "kv_link": prefill.link_words, "kv_moved": prefill.moved,
        "kv_bytes_per_token": page_bytes / server.replica.page_tokens,
        "kv_moved_bytes": moved * moved_bytes_per_block(server),
        "handover_mean_s": (sum(float(state.clock_s[at.HANDOVER]) for state in second.states) / handed if handed
                            else math.nan),
    }
