"""The plainest possible DRAM controller: every tick, look at every request, issue what is ready.

It notes the last command of each kind to each bank and asks of each whether its delay has passed. It shares the delays
(``Ticks``) and the rules of ``channel``'s docstring with the event loop, and none of its code: no per-bank lists, no
remembered candidates, no jumps.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from simkit.replay.dram.simulate import DramConfig
from simkit.replay.dram.timing import Ticks


@dataclass
class Bank:
    pseudo: int
    stack: int
    group: int
    row: int | None = None


@dataclass
class Request:
    number: int
    bank: int
    row: int
    write: bool
    arrival: int = 0
    accepted: int = 0


class Oracle:
    """One channel; commands are (tick, kind, bank). REF covers a pseudo-channel, REFpb a bank."""

    def __init__(self, config: DramConfig, t: Ticks) -> None:
        self.config, self.t = config, t
        self.banks = [Bank(pseudo=b // (t.banks // t.pseudo_channels), stack=b // (t.banks // t.stacks),
                           group=b // (t.banks // t.groups)) for b in range(t.banks)]
        self.tick = 1
        self.last: dict[tuple[str, int], int] = {}  # tick of the last command of each kind to each bank
        self.known: dict[tuple[str, int], int] = {}  # what ``earliest`` found since the last command
        self.activates: list[tuple[int, int]] = []  # tick, pseudo-channel
        self.shared_wait: dict[int, int] = {}  # ticks that a bank's last ACT waited for what it shares with others
        self.half_open: int | None = None  # bank between the two parts of its ACT
        self.deadline = 0
        self.clock_until = 0
        self.queue: list[Request] = []
        self.active: dict[int, Request] = {}
        self.refreshes: list[tuple[int, int | None]] = []  # pseudo-channel and bank (None: all), as they fell due
        self.banks_refreshed = 0
        self.write_mode = False
        self.refreshed: list[int] = []
        self.last_burst = 0
        self.done: dict[int, int] = {}
        self.reads_out: dict[int, int | None] = {}  # accepted reads, and the tick of their last beat

        self.waited: Counter[str] = Counter()  # ticks of the data buses by cause
        self.counts: Counter[str] = Counter()
        self.latencies: list[int] = []
        self.last_done = 0
        self.work_since = 1  # since when there is something to do
        self.hold = (0, 0)  # the last time that refresh held the channel
        self.bus: dict[int, tuple[int, bool | None]] = {}  # of each pseudo-channel: end and direction of the last burst

    def delay(self, before: str, after: str, same: str) -> int:
        """Ticks between two commands whose banks are the same bank, group, stack, or none of these."""
        t = self.t
        near_group, near_stack = same in {"bank", "group"}, same != "none"
        if (before, after) == ("ACT", "ACT"):
            if same == "bank":
                return t.activate_to_activate_same_bank
            return max(t.activate_to_activate, t.activate_to_activate_same_group if near_group else 0)
        everywhere = {("PRE", "PRE"): t.precharge_to_precharge, ("REF", "ACT"): t.refresh_to_activate,
                      ("PRE", "REF"): t.precharge_to_refresh, ("ACT", "REF"): t.activate_to_refresh,
                      ("RD", "WR"): t.read_to_write}
        if (before, after) in everywhere:
            return everywhere[before, after]
        if same == "bank":
            own = {("ACT", "RD"): t.activate_to_read, ("ACT", "WR"): t.activate_to_write,
                   ("ACT", "PRE"): t.activate_to_precharge, ("PRE", "ACT"): t.precharge_to_activate,
                   ("RD", "PRE"): t.read_to_precharge, ("WR", "PRE"): t.write_to_precharge,
                   ("ACT", "REFpb"): t.activate_to_refresh, ("PRE", "REFpb"): t.precharge_to_refresh,
                   ("REFpb", "ACT"): t.bank_refresh_to_activate,
                   ("REFpb", "REFpb"): t.bank_refresh_to_activate + t.activate_bus - t.row_bus}
            if (before, after) in own:
                return own[before, after]
        if before == "REFpb" and after in {"ACT", "REFpb"}:
            return t.bank_refresh_to_activate_other
        if (before, after) == ("ACT", "REFpb"):
            return t.activate_to_bank_refresh_other
        if (before, after) == ("RD", "RD"):
            return max(t.read_to_read if near_stack else t.read_to_read_other_stack,
                       t.read_to_read_same_group if near_group else 0)
        if (before, after) == ("WR", "WR"):
            return max(t.write_to_write if near_stack else t.write_to_write_other_stack,
                       t.write_to_write_same_group if near_group else 0)
        if (before, after) == ("WR", "RD"):
            return max(t.write_to_read, t.write_to_read_same_group if near_group else 0)
        return 0

    def relation(self, bank: int, other: int) -> str:
        mine, its = self.banks[bank], self.banks[other]
        return ("bank" if bank == other else "group" if mine.group == its.group
                else "stack" if mine.stack == its.stack else "none")

    def bus_free(self, column: bool) -> int:
        """First tick at which a column or a row command finds its bus free."""
        bus = {"ACT": self.t.activate_bus, "second part of ACT": self.t.activate_bus,
               "RD": self.t.column_bus, "WR": self.t.column_bus}
        return max([0, *(then + bus.get(before, self.t.row_bus) for (before, _), then in self.last.items()
                         if not self.t.dual_bus or column == (before in {"RD", "WR"}))])

    def earliest(self, kind: str, bank: int) -> int:
        if (kind, bank) not in self.known:
            pseudo = self.banks[bank].pseudo
            after = [self.bus_free(kind in {"RD", "WR"})]
            after += [then + self.delay(before, kind, self.relation(bank, other))
                      for (before, other), then in self.last.items() if self.banks[other].pseudo == pseudo]
            if kind == "ACT":
                near = [tick for tick, where in self.activates if where == pseudo]
                after += [tick + self.t.four_activates for tick in near[-4:-3]]
            tick = max(after)
            self.known[kind, bank] = tick + (self.t.half_clock and kind != "PRE" and tick % 2 == 0)
        return self.known[kind, bank]

    def ready(self, kind: str, bank: int) -> bool:
        if kind == "ACT" and self.half_open is not None:
            return False
        rising = not self.t.half_clock or kind == "PRE" or self.tick % 2 == 1
        return rising and self.tick >= self.earliest(kind, bank)

    def wanted(self, request: Request) -> str:
        row = self.banks[request.bank].row
        return "ACT" if row is None else ("WR" if request.write else "RD") if row == request.row else "PRE"

    def protected(self, request: Request, among: list[Request]) -> bool:
        if request.bank in self.active:
            return True
        return self.config.scheduler == "rowhit" and any(
            other.bank == request.bank and other.row == self.banks[request.bank].row
            and other.accepted <= request.accepted for other in among)

    def issue(self, kind: str, bank: int, request: Request | None = None) -> None:
        tick = self.tick
        if kind in {"RD", "WR"}:
            assert request is not None
            if self.t.data_clock_hold:
                tick += tick >= self.clock_until  # CAS first
                self.clock_until = tick + self.t.data_clock_hold
            self.burst(kind, tick, request)
        elif kind == "PRE":
            self.banks[bank].row = None
        elif kind == "ACT":
            assert request is not None
            self.counts["activates"] += 1
            own = [then + self.delay(before, "ACT", "bank") for (before, other), then in self.last.items()
                   if other == bank or (before == "REF" and self.banks[other].pseudo == self.banks[bank].pseudo)]
            self.banks[bank].row = request.row
            self.queue.remove(request)
            self.active[bank] = request
            self.shared_wait[bank] = tick - max([request.accepted, *own])
            self.activates.append((tick, self.banks[bank].pseudo))
            if self.t.split_activate:
                self.half_open, self.deadline = bank, tick + self.t.activate_deadline
        elif kind in {"REF", "REFpb"}:
            self.refreshed.append(tick)
            self.hold = (self.hold[0], tick + (self.t.refresh_to_activate + self.t.activate_to_read if kind == "REF" else 1))
        self.last[kind, bank] = tick
        self.known.clear()

    def burst(self, kind: str, tick: int, request: Request) -> None:
        opened = self.active.get(request.bank) is request
        self.last_burst = tick
        self.explain(kind, tick, request, opened)
        if opened:
            del self.active[request.bank]
        else:
            self.counts["row_hits"] += 1
            self.queue.remove(request)
        last_beat = tick + (self.t.write_done if request.write else self.t.read_done)
        self.done[request.number] = last_beat
        if request.write:
            self.last_done = max(self.last_done, tick)
        else:
            self.reads_out[request.number] = last_beat
            self.last_done = max(self.last_done, last_beat)
            self.latencies.append(last_beat - (request.accepted - 1))  # it was sent the tick before

    def explain(self, kind: str, tick: int, request: Request, opened: bool) -> None:
        """Every tick since the last burst has one cause: refresh, then nothing to do, then what this burst waited for."""
        bank = request.bank
        free_from, was_write = self.bus.get(self.banks[bank].pseudo, (1, None))
        self.bus[self.banks[bank].pseudo] = (tick + self.t.burst, request.write)
        self.waited["busy"] += self.t.burst
        held = [since for since in range(free_from, tick) if self.hold[0] <= since < self.hold[1]]
        idle = [since for since in range(free_from, tick) if since < self.work_since and since not in held]
        rest = max(0, tick - free_from) - len(held) - len(idle)
        self.waited["refresh"] += len(held)
        self.waited["no_request"] += len(idle)
        row_ok = self.last["ACT", bank] + (self.t.activate_to_write if request.write else self.t.activate_to_read)
        group_ok = max([0, *(then + self.delay(before, kind, "group") for (before, other), then in self.last.items()
                             if before in {"RD", "WR"} and not (before == "RD" and kind == "WR")
                             and self.banks[other].group == self.banks[bank].group)])
        if was_write is not None and was_write != request.write:
            self.waited["turnaround"] += rest
        elif opened:
            shared = min(rest, self.shared_wait[bank])
            self.waited["activation_limit"] += shared
            self.waited["row_miss"] += rest - shared
        elif tick <= group_ok + 1:
            self.waited["bank_group"] += rest
        elif tick <= row_ok + 1:
            self.waited["row_miss"] += rest
        else:
            self.waited["command_bus"] += rest

    def turn_round(self) -> None:
        """Write draining, between the two marks of the write queue; a refresh holds this back too."""
        if self.refreshes:
            return
        writes = sum(r.write for r in self.queue)
        reads = len(self.queue) - writes
        entries = self.config.write_queue
        if self.write_mode:
            self.write_mode = not (reads and (not writes or writes < self.config.write_low_mark * entries))
        else:
            self.write_mode = writes > self.config.write_high_mark * entries or (writes > 0 and not reads)

    def choose(self, *, columns: bool, rows: bool) -> bool:
        """Issue one command of the allowed kinds: active first, then refresh, then the oldest that is ready."""
        self.turn_round()
        if columns:
            for request in sorted(self.active.values(), key=lambda r: r.number):
                if self.ready(self.wanted(request), request.bank):
                    self.issue(self.wanted(request), request.bank, request)
                    return True
        if self.refreshes:
            return rows and self.refresh(*self.refreshes[0])
        among = [r for r in self.queue if r.write == self.write_mode]
        for request in among:
            kind = self.wanted(request)
            if not (columns if kind in {"RD", "WR"} else rows) or (
                    kind == "PRE" and self.protected(request, among)):
                continue
            if self.ready(kind, request.bank):
                self.issue(kind, request.bank, request)
                return True
        return False

    def refresh(self, pseudo: int, only: int | None) -> bool:
        """Close the banks of the refresh that is due, all in one tick, then refresh."""
        mine = [b for b, bank in enumerate(self.banks) if bank.pseudo == pseudo and only in {None, b}]
        open_banks = [b for b in mine if self.banks[b].row is not None]
        if open_banks:
            if any(b in self.active for b in open_banks) or not all(self.ready("PRE", b) for b in open_banks):
                return False
            for b in open_banks:
                self.issue("PRE", b)
            return True
        kind = "REF" if only is None else "REFpb"
        if not self.ready(kind, mine[0]):
            return False
        self.issue(kind, mine[0])
        self.refreshes.pop(0)
        return True

    def fall_due(self) -> None:
        t = self.t
        interval = {"ab": t.refresh_interval, "pb": t.bank_refresh_interval, "none": 0}[self.config.refresh]
        if not interval or self.tick % interval:
            return
        if not self.refreshes:
            self.hold = (self.tick, self.hold[1])
        if self.config.refresh == "ab":
            self.refreshes += [(pseudo, None) for pseudo in range(t.pseudo_channels)]
            return
        # HBM3 and HBM4, whose row commands count half clocks, refresh one bank of each pseudo-channel at once
        at_once = t.pseudo_channels if t.half_clock else 1
        turn = t.banks // at_once
        due = [self.banks_refreshed % turn + pseudo * turn for pseudo in range(at_once)]
        self.refreshes += [(self.banks[b].pseudo, b) for b in due]
        self.banks_refreshed += 1

    def accept(self, waiting: list[Request], most_outstanding: float) -> None:
        for _ in range(self.config.accept_per_tick):
            if not waiting or waiting[0].arrival > self.tick:
                return
            request = waiting[0]
            entries = self.config.write_queue if request.write else self.config.read_queue
            if sum(r.write == request.write for r in self.queue) >= entries:
                return
            if not request.write:
                if sum(done is None or done >= self.tick for done in self.reads_out.values()) >= most_outstanding:
                    return
                self.reads_out[request.number] = None
            if not self.queue and not self.active:
                self.work_since = self.tick
            request.accepted = self.tick
            self.queue.append(waiting.pop(0))

    def run(self, requests: list[Request], *, drain: bool = True, most_outstanding: float = np.inf) -> None:
        waiting = list(requests)
        while True:
            self.accept(waiting, most_outstanding)
            if not waiting and not (drain and (self.queue or self.active)):
                return
            self.fall_due()
            if self.t.dual_bus:
                self.choose(columns=True, rows=False)
                self.choose(columns=False, rows=True)
            else:
                self.turn_round()
                must = self.half_open is not None and self.tick >= self.deadline
                took = not must and self.choose(columns=True, rows=True)
                if not took and self.half_open is not None and self.tick >= self.bus_free(column=False):
                    self.issue("second part of ACT", self.half_open)
                    self.half_open = None
            self.tick += 1
