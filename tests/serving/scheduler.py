"""The scheduler of the event loop once more, one iteration at a time, in plain Python with lists and dictionaries.

Written from the rules in the documentation, not from the compiled code: no jumps, no closed forms, no shared helpers.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from simkit.serving import state as state_of
from simkit.serving.iteration import Tables

STEP_S, PER_SEQUENCE_S, PER_TOKEN_S, PER_ROW_S = 1e-2, 1e-4, 1e-6, 2e-5


@dataclass
class Sequence:
    place: int
    arrival: float
    prompt: int
    output: int
    target: int = 0
    filled: int = 0
    left: float = 0.0
    held: int = 0
    first: float | None = None
    swapped: bool = False
    late: float = 0.0

    def __post_init__(self) -> None:
        self.target, self.left = self.prompt, float(self.output)

    @property
    def decoding(self) -> bool:
        return self.filled >= self.target

    @property
    def cached(self) -> float:
        return self.prompt + self.output - self.left - 1


@dataclass
class Outcome:
    first: dict[int, float] = field(default_factory=dict)
    end: dict[int, float] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    preemptions: int = 0


def linear_tables(most_rows: int = 4096) -> Tables:
    """Times that are linear in everything, so that tables and formulas agree exactly up to rounding."""
    batch, kv_len = np.arange(1.0, 65.0), np.array([1.0, 16.0, 256.0, 4096.0])
    grid = STEP_S + PER_SEQUENCE_S * batch[:, None] + PER_TOKEN_S * batch[:, None] * kv_len[None, :]
    rows = np.arange(0.0, most_rows)
    chunk = np.array([1.0, 4096.0])
    zero = np.zeros((2, 4))
    return Tables(batch=batch, kv_len=kv_len, step_s=grid, attention_s=0.5 * grid, step_j=grid, row_s=PER_ROW_S * rows,
                  row_j=rows, end_s=0.0 * rows, chunk_tokens=chunk, end_tokens=kv_len, prefill_s=zero, prefill_j=zero, fixed_s=STEP_S)


def rules(**changes: object) -> state_of.Rules:
    """A small replica's rules."""
    plain = {
        "page": 4, "kind_counts": np.array([1]), "kind_limit_tokens": np.array([np.inf]), "blocks": 40, "watermark": 1,
        "most_running": 8, "chunk": 32, "verified": 1, "tokens_per_step": 1.0, "swap_s_per_block": 1e-3,
        "host_blocks": 0, "host_step_s": 0.0, "host_sequence_s": 0.0, "prefill_fraction": 1.0,
        "slo_ttft_s": math.inf, "slo_tpot_s": math.inf, "clients": 0, "stages": 1}
    return state_of.Rules(**(plain | changes))


def blocks_of(tokens: float, given: state_of.Rules) -> int:
    return sum(int(count) * math.ceil(min(tokens, most) / given.page)
               for count, most in zip(given.kind_counts, given.kind_limit_tokens, strict=True))


def run(requests: list[tuple[float, int, int]], given: state_of.Rules) -> Outcome:
    """Serve ``(arrival, prompt, output)`` in order; one token a step and sequence, times as in ``linear_tables``."""
    slow = Scheduler(given, [Sequence(place, *request) for place, request in enumerate(requests)])
    while slow.waiting or slow.running or slow.parked:
        slow.let_in()
        if slow.running:
            slow.make_room()
            slow.iterate()
    return slow.found


class Scheduler:
    """One replica."""

    def __init__(self, given: state_of.Rules, waiting: list[Sequence]) -> None:
        self.given, self.waiting, self.found = given, waiting, Outcome()
        self.running: list[Sequence] = []
        self.parked: list[Sequence] = []
        self.now = self.owed = 0.0
        self.in_host = 0

    @property
    def used(self) -> int:
        return sum(sequence.held for sequence in self.running)

    def fits(self, need: int) -> bool:
        return self.used + need + (self.given.watermark if self.running else 0) <= self.given.blocks

    def let_in(self) -> None:
        while len(self.running) < self.given.most_running:
            if not (self.let_back() if self.parked else self.let_new()):
                return

    def let_back(self) -> bool:
        back = self.parked[-1]
        need = back.held if back.swapped else blocks_of(back.target, self.given)
        if not self.fits(need):
            return False
        self.parked.pop()
        if back.swapped:
            back.swapped = False
            self.in_host -= need
            self.owed += need * self.given.swap_s_per_block
        back.held = need
        self.running.append(back)
        return True

    def let_new(self) -> bool:
        if not self.waiting:
            return False
        head = self.waiting[0]
        if head.arrival > self.now:
            if self.running:
                return False
            self.now = head.arrival
        if blocks_of(max(head.prompt, head.prompt + head.output - 1), self.given) > self.given.blocks:
            self.found.refused.append(head.place)
            self.waiting.pop(0)
            return True
        if not self.fits(blocks_of(head.prompt, self.given)):
            return False
        head.held = blocks_of(head.prompt, self.given)
        self.running.append(self.waiting.pop(0))
        return True

    def make_room(self) -> None:
        def wanted() -> int:
            return sum(max(blocks_of(s.cached + 1, self.given) - s.held, 0) for s in self.running if s.decoding)

        while self.used + wanted() > self.given.blocks:
            gone = self.running.pop()
            self.found.preemptions += 1
            if self.in_host + gone.held <= self.given.host_blocks and gone.filled > 0:
                gone.swapped = True
                self.in_host += gone.held
                self.owed += gone.held * self.given.swap_s_per_block
            else:
                gone.target, gone.filled, gone.held = int(gone.prompt + gone.output - gone.left), 0, 0
            self.parked.append(gone)

    def iterate(self) -> None:
        decoding = [sequence for sequence in self.running if sequence.decoding]
        for sequence in decoding:
            sequence.held = max(sequence.held, blocks_of(sequence.cached + 1, self.given))
        swapping, self.owed = self.owed, 0.0
        took = STEP_S + swapping
        took += PER_SEQUENCE_S * len(decoding) + PER_TOKEN_S * sum(s.cached + 1 for s in decoding)
        budget, ended, rows = max(self.given.chunk - len(decoding), self.given.page), [], 0
        for sequence in self.running:
            if not sequence.decoding and budget > 0:
                part = min(sequence.target - sequence.filled, budget)
                sequence.filled += part
                budget -= part
                took += PER_ROW_S * part
                rows += part
                if sequence.decoding:
                    ended.append(sequence)
                    sequence.late = rows
        self.now += took
        # Each part of the rows enters the first stage when the part before has left it.
        parts, of_stage = min(self.given.stages, math.ceil(rows / self.given.page)), (took - swapping) / self.given.stages
        for sequence in ended:
            sequence.late = of_stage * (math.ceil(parts * sequence.late / rows) - 1)
        for sequence in [*decoding, *ended]:
            sequence.left -= 1
            if sequence.first is None:
                sequence.first = self.found.first[sequence.place] = self.now + sequence.late
        for sequence in [s for s in self.running if s.decoding and s.left <= 0]:
            self.running.remove(sequence)
            self.found.end[sequence.place] = self.now + sequence.late
