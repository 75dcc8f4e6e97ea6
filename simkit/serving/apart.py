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
from simkit.serving.requests import Dealing, Requests, Stream
from simkit.serving.serve import WORK, Served, Server, buffer_of, fresh_state, gathered, lose
from simkit.study.pool_words import parse_between

WHOLE: Final = "whole"
LAYERS: Final = "layers"
NONE: Final = Requests(arrival_s=np.zeros(0), prompt_tokens=np.zeros(0, dtype=np.int64),
                       output_tokens=np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A pool of replicas that compute prompts, and what joins it to those that decode.

    Parameters
    ----------
    server, replicas: one of them, and how many; its policy says what of them is lost.
    link: bytes a second of a replica's port, each direction, and latency, as of ``--between``.
    moved: ``layers``, each as soon as it is computed, or ``whole``.
    """

    server: Server
    replicas: int
    link: str
    moved: str = LAYERS

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if self.moved not in (WHOLE, LAYERS):
            raise UserError(f"--kv-move '{self.moved[:20]}': expected {LAYERS} or {WHOLE}")
        parse_between(self.link)


@dataclass
class _Pool:
    """Replicas as they are played: what changes, and when each goes on."""

    server: Server
    rules: at.Rules
    states: list[at.State]
    feeds: list[Iterator[Requests]]
    dealing: Dealing

    def __post_init__(self) -> None:
        """Begin with the first requests."""
        self.living = list(range(len(self.states)))
        self.each = [self.rules._replace(lost_s=self.dealing.lost_s_of(which)) for which in self.living]
        self.parts = [next(feed, None) for feed in self.feeds]
        self.wakes_s: Any = np.array([0.0 if part is not None else one.lost_s
                                      for part, one in zip(self.parts, self.each, strict=True)])
        self.following = [next(feed, None) for feed in self.feeds]
        self.buffers = [buffer_of(part or NONE) for part in self.parts]

    def go_on(self, which: int, horizon_s: float) -> at.State:
        """Play one replica up to the horizon, or to its loss, after which it is none of the living."""
        state, rules = self.states[which], self.each[which]
        while (why := advance(state, rules, self.server.tables, self.buffers[which], self.following[which] is not None,
                              horizon_s)) == at.WANTS_REQUESTS:
            self.parts[which], self.following[which] = self.following[which], next(self.feeds[which], None)
            state.tally[at.NEXT] = 0
            self.buffers[which] = buffer_of(self.parts[which] or NONE)
        self.wakes_s[which] = min(state.clock_s[at.WAKE], rules.lost_s)
        if why == at.IS_LOST:
            waiting = [self.parts[which], self.following[which], *self.feeds[which]]
            lose(state, [part for part in waiting if part is not None])
            self.living.remove(which)
            self.wakes_s[which] = math.inf
        return state

    def take_in(self, which: int, row: Any) -> None:
        """A prompt that the other pool has ended waits for room in a replica."""
        to = self.states[which]
        to.handed[to.tally[at.INBOX_END] % len(to.handed)] = row
        to.tally[at.INBOX_END] += 1
        self.wake(which, row[at.READY])

    def wake(self, which: int, at_s: float) -> None:
        """Something comes to a replica at a time."""
        if which in self.living:
            self.wakes_s[which] = min(self.wakes_s[which], max(at_s, self.states[which].clock_s[at.NOW]))


def serve_apart(prefill: Apart, server: Server, stream: Stream, *, replicas: int = 1, keep_events: int = 0) -> Served:
    """Play a stream through a prefill pool and ``replicas`` of ``server``, which decode. Raises :class:`UserError`."""
    for one, pool in ((server, "decode"), (prefill.server, "prefill")):
        if one.policy.clients:
            raise UserError("--prefill beside --concurrency: prompts and outputs run on different replicas",
                            hint="give --rate or --trace")
        if one.replica.verified_tokens > 1 and pool == "prefill":
            raise UserError("--prefill beside --speculation: a draft model's own prompts are not moved")
    rules, link = server.rules(), parse_between(prefill.link)
    ports_s = np.zeros(prefill.replicas)
    moved_s = moved_bytes_per_block(server) / link.bandwidth_bytes_per_s
    of_prompts = prefill.server.rules()._replace(role=at.PREFILL_ONLY, most_blocks=rules.blocks)
    of_decode = rules._replace(
        role=at.DECODE_ONLY, prefix_blocks=0, kv_s_per_block=moved_s, kv_latency_s=link.latency_s,
        kv_last_share=1.0 if prefill.moved == WHOLE else 1.0 / server.replica.model.n_layers)
    handed = prefill.replicas * (of_prompts.most_running + 1)
    dealing, own = prefill.server.policy.dealing(prefill.replicas), server.policy.dealing(replicas)
    first = _Pool(prefill.server, of_prompts, [fresh_state(of_prompts, 0, ports_s, handed)
                                               for _ in range(prefill.replicas)],
                  [stream.share_of(which, dealing).chunks() for which in range(prefill.replicas)], dealing)
    second = _Pool(server, of_decode, [fresh_state(of_decode, 0 if which else keep_events, ports_s, handed)
                                       for which in range(replicas)], [iter(()) for _ in range(replicas)], own)
    _Handover(first, second).play()
    served = gathered(server, stream, second.states, prefill=(prefill.server, first.states))
    return replace(served, record=served.record | _record(served.record, server, prefill, first, second))


@dataclass
class _Handover:
    """What passes between the pools: ended prompts to decode, and word that a cache has gone back to prefill."""

    first: _Pool
    second: _Pool
    dealt: int = 0

    def play(self) -> None:
        """Whose next event comes first goes on, until none has any."""
        first, second = self.first, self.second
        while True:
            prompts, decode = int(np.argmin(first.wakes_s)), int(np.argmin(second.wakes_s))
            prompts_s, decode_s = first.wakes_s[prompts], second.wakes_s[decode]
            if prompts_s == decode_s == math.inf:
                return
            if prompts_s < decode_s:
                self._hand_on(prompts, first.go_on(prompts, decode_s))
            else:
                self._let_go(decode, second.go_on(decode, prompts_s))

    def _hand_on(self, which: int, state: at.State) -> None:
        for row in state.handed[:state.tally[at.HANDED]]:
            row[at.ID], row[at.SENDER] = row[at.ID] * len(self.first.states) + which, which
            self._hand(row, state.clock_s[at.NOW])
        state.tally[at.HANDED] = 0
        if which not in self.first.living:  # its memory held the caches that nobody has taken yet
            for other in self.second.living:
                rows = _untaken(self.second.states[other])
                state.tally[at.LOST] += (rows[:, at.SENDER] == which).sum()
                for row in rows[rows[:, at.SENDER] != which]:
                    self.second.take_in(other, row)

    def _let_go(self, which: int, state: at.State) -> None:
        for gone in state.sent[:state.tally[at.SENT]]:
            self._free(gone)
        state.tally[at.SENT] = 0
        if which not in self.second.living:
            for row in _untaken(state):
                self._hand(row, state.clock_s[at.NOW])

    def _hand(self, row: Any, now_s: float) -> None:
        """An ended prompt to the decode replica whose turn it is; where none is left, it is lost and its room free."""
        living = self.second.living
        if living:
            self.second.take_in(living[self.dealt % len(living)], row)
            self.dealt += 1
        else:
            self.second.states[0].tally[at.LOST] += 1
            self._free(np.array([now_s, row[at.SENDER], row[at.HELD], row[at.LEAF]]))

    def _free(self, gone: Any) -> None:
        """Blocks of a cache that has gone are free in the replica that computed it."""
        which = int(gone[at.FROM])
        if which in self.first.living:
            to = self.first.states[which]
            to.sent[to.tally[at.FREES_END] % len(to.sent)] = gone
            to.tally[at.FREES_END] += 1
            self.first.wake(which, gone[at.AT])


def _untaken(state: at.State) -> Any:
    """Empty a decode replica's ring of caches that it has not taken."""
    places = np.arange(state.tally[at.INBOX_FIRST], state.tally[at.INBOX_END]) % len(state.handed)
    state.tally[at.INBOX_END] = state.tally[at.INBOX_FIRST]
    return state.handed[places]


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
        "prefill_kv_blocks": replica.total_blocks, "kv_link": prefill.link.strip(), "kv_moved": prefill.moved,
        "kv_bytes_per_token": page_bytes / server.replica.page_tokens,
        "kv_moved_bytes": moved * moved_bytes_per_block(server),
        "handover_mean_s": (sum(float(state.clock_s[at.HANDOVER]) for state in second.states) / handed if handed
                            else math.nan),
    }
