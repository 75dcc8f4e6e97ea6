"""The plainest possible event loop: at each step the earliest of a list of slots does what it is at.

It knows slots, servers and granules as objects and shares the rules of ``timeline``'s docstrings with the loop, and none of its
code: no arrays, no tournament, no counters that stand for a history.
"""

from dataclasses import dataclass, field
from itertools import count

import numpy as np

from simkit.replay.timeline import Items, Path

CAUSES = ("setup", "latency", "compute", "contention", "imbalance", "in_flight")  # then one column a server


@dataclass
class Server:
    s_per_byte: float
    latency_s: float
    one_a_unit: bool
    extra_share: float
    free_s: dict[int, float] = field(default_factory=dict)
    finished: list[tuple[float, float]] = field(default_factory=list)  # when, how many of the cache's bytes

    def queue(self, unit):
        return unit if self.one_a_unit else 0

    def takes_s(self, asked_bytes, moved_bytes):
        return (moved_bytes + self.extra_share * asked_bytes) * self.s_per_byte

    def serve(self, now, unit, asked_bytes, moved_bytes):
        """When it has served the load, and whether the load had to queue."""
        free = self.free_s.get(self.queue(unit), 0.0)
        end = max(free, now) + self.takes_s(asked_bytes, moved_bytes)
        self.free_s[self.queue(unit)] = end
        self.finished.append((end, moved_bytes))
        return end, free > now


@dataclass
class Granule:
    """What the cache knows of a part of a stream: bytes filled up to its last use, and of its fill the server that it waited
    for, until when, if it queued there, and its arrival.
    """

    filled: float
    fill: tuple[int, float, bool, float] = (0, 0.0, False, 0.0)


@dataclass
class Slot:
    number: int
    unit: int
    turn: int
    buffers: list[float]
    asks_s: float = 0.0
    item: int | None = None
    granules: list[int] = field(default_factory=list)  # tokens of those that are still to be loaded
    computing: tuple[float, float] = (0.0, 0.0)
    started_s: float = 0.0
    ended_s: float = 0.0
    retired: bool = False
    watched_done_s: float = 0.0


class Oracle:
    def __init__(self, items: Items, path: Path) -> None:
        self.items, self.path = items, path
        self.servers = [Server(*parameters) for parameters in zip(
            path.s_per_byte.tolist(), path.latency_s.tolist(), path.per_unit.astype(bool).tolist(), path.extra_share.tolist(),
            strict=True)]
        self.slots = [Slot(number=number, unit=number % path.units, turn=number, buffers=[0.0] * items.in_flight)
                      for number in range(path.units * path.slots_per_unit)]
        self.turns = count(len(self.slots))
        self.waiting = list(range(len(items.tokens)))
        self.unit_free_s = [0.0] * path.units
        self.cached: dict[tuple[int, int], Granule] = {}
        self.filled = 0.0
        self.account = dict.fromkeys((*CAUSES, *range(len(self.servers))), 0.0)
        self.home_tokens = 0
        self.events: list[tuple[int, int, float, float]] = []
        self.watched = self.watched_server()
        self.watched_busy_s = 0.0

    def watched_server(self):
        """Of home and cache the one that takes longer for the part of a first read that it serves."""
        home = len(self.servers) - 1
        cache = self.path.cache_server
        if cache < 0:
            return home
        home_s = self.servers[home].s_per_byte * (1.0 - self.path.hit_share)
        return cache if self.servers[cache].s_per_byte > home_s else home

    def run(self):
        while running := [slot for slot in self.slots if not slot.retired]:
            slot = min(running, key=lambda one: (one.asks_s, one.turn))
            slot.turn = next(self.turns)
            if slot.item is not None:
                self.load(slot, slot.asks_s)
            elif self.waiting:
                self.take_item(slot, slot.asks_s)
            else:
                self.retire(slot, slot.asks_s)
        total_s = max(slot.ended_s for slot in self.slots)
        for slot in self.slots:
            self.account_idle(slot, total_s)
        return total_s

    def take_item(self, slot, now):
        slot.item = self.waiting.pop(0)
        setup_s = float(self.items.setup_s[slot.item])
        whole, rest = divmod(int(self.items.tokens[slot.item]), self.items.granule_tokens)
        slot.granules = [self.items.granule_tokens] * whole + [rest] * (rest > 0)
        slot.started_s, slot.asks_s, slot.computing = now, now + setup_s, (now + setup_s, now + setup_s)
        self.account["setup"] += setup_s
        idle_s = setup_s * self.items.exposed_setup_share / self.path.units
        for server in self.servers:
            if idle_s > 0 and not server.one_a_unit:
                server.free_s[0] = max(server.free_s.get(0, 0.0), now) + idle_s

    def from_cache(self, slot, asked_bytes):
        """Bytes that the cache does not have, and the granule's entry: None where each stream has one reader."""
        missed = asked_bytes * (1.0 - self.path.hit_share)
        if not self.items.shared:
            return missed, None
        total = -(-int(self.items.tokens[slot.item]) // self.items.granule_tokens)
        name = int(self.items.stream[slot.item]), total - len(slot.granules)
        known = self.cached.get(name)
        if known is not None and self.filled - known.filled <= self.path.reread_window_bytes:
            missed = 0.0
        self.filled += missed
        granule = self.cached.setdefault(name, Granule(filled=0.0))
        granule.filled = self.filled
        return missed, granule

    def load(self, slot, now):
        tokens = slot.granules[0]
        asked_bytes = tokens * self.items.bytes_per_token
        missed_bytes, granule = self.from_cache(slot, asked_bytes)
        cache = self.path.cache_server
        passes = self.servers if cache < 0 or missed_bytes > 0 else self.servers[:cache + 1]
        served = []
        for number, server in enumerate(passes):
            moved = missed_bytes if 0 <= cache < number else asked_bytes
            served.append((*server.serve(now, slot.unit, asked_bytes, moved), number))
            if number == self.watched:
                self.watched_busy_s += server.takes_s(asked_bytes, moved)
        served_s = max(end for end, _, _ in served)
        queued, slowest = next((queued, number) for end, queued, number in served if end == served_s)
        arrival = served_s + passes[-1].latency_s
        if missed_bytes > 0:
            self.home_tokens += tokens
            if granule is not None:
                granule.fill = slowest, served_s, queued, arrival
        elif granule is not None and granule.fill[-1] > arrival:
            slowest, served_s, queued, arrival = granule.fill
        self.account_wait(slot, now, served_s, arrival, slowest, queued=queued)
        self.compute(slot, now, arrival, tokens)

    def account_wait(self, slot, now, served_s, arrival, slowest, *, queued):
        """From the end of the last granule until the load is here, and what the slot computed behind the load's back."""
        begin, end = slot.computing
        if arrival <= end:
            return
        behind = max(end - max(begin, now), 0.0)
        wait_s = arrival - end + behind
        self.account["compute"] -= behind
        of_server_s = wait_s if queued else wait_s * max(served_s - now, 0) / (arrival - now)
        self.account[slowest] += of_server_s
        before = -(-int(self.items.tokens[slot.item]) // self.items.granule_tokens) - len(slot.granules)
        self.account["latency" if before < self.items.in_flight else "in_flight"] += wait_s - of_server_s

    def compute(self, slot, now, arrival, tokens):
        can_begin = max(arrival, slot.computing[1])
        begin = max(can_begin, self.unit_free_s[slot.unit])
        end = begin + tokens * self.items.compute_s_per_token
        self.account["contention"] += begin - can_begin
        self.account["compute"] += end - begin
        self.unit_free_s[slot.unit] = end
        slot.computing = (begin, end)
        slot.buffers = [*slot.buffers[1:], end]
        slot.granules.pop(0)
        if slot.granules:
            slot.asks_s = max(now, slot.buffers[0])
            return
        self.events.append((slot.number, slot.item, slot.started_s, end))
        slot.item, slot.asks_s, slot.ended_s = None, end, end

    def retire(self, slot, now):
        slot.retired = True
        backlog_s = max(self.servers[self.watched].free_s.get(0, 0.0) - now, 0.0)
        slot.watched_done_s = self.watched_busy_s - backlog_s

    def account_idle(self, slot, total_s):
        """A slot without items waits for a shared server as long as that has work to do, and else for nothing."""
        idle_s = total_s - slot.ended_s
        work_s = 0.0 if self.servers[self.watched].one_a_unit else self.watched_busy_s - slot.watched_done_s
        self.account[self.watched] += min(work_s, idle_s)
        self.account["imbalance"] += idle_s - min(work_s, idle_s)

    def binned(self, bins, bin_s):
        """Bytes a server and part of the time; what ends after the last part counts there."""
        found = np.zeros((len(self.servers), bins))
        for row, server in zip(found, self.servers, strict=True):
            for end, moved in server.finished:
                row[min(int(end // bin_s), bins - 1)] += moved
        return found
