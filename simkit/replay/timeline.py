"""The event loop: slots run work items, keep a bounded number of loads in flight, and share servers and arithmetic.

Events are ordered by (time, turn), so that equal inputs give equal results to the last bit. A load passes every
server on its way at once (cut-through): it arrives when the slowest of them has served it, plus the latency of the
level it came from. Servers work in the order of requests. A slot computes its granules in order; the next load may
start when a buffer is free. A unit computes one granule at a time, in the order in which they were asked for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simkit.replay.dram.jit_cache import compiled

# Columns of the stall account, in slot-seconds.
SETUP: Final = 0
WAIT_LATENCY: Final = 1
COMPUTE: Final = 2
CONTENTION: Final = 3
IMBALANCE: Final = 4
FIRST_SERVER: Final = 5  # one column a server on the path: waiting for its bandwidth

EVENT_COLUMNS: Final = 4  # slot, item, start, end


class Items(NamedTuple):
    """Work items in dispatch order; ``stream`` numbers the range of the cache that an item reads.

    ``granules_per_stream`` are those of the longest stream; ``in_flight`` loads of ``granule_tokens`` a slot are
    under way at most; ``shared``: some stream has several readers. For ``exposed_setup_share`` of an item's set-up its
    unit's part of every shared server stands idle: no neighbour has loads to put there.
    """

    tokens: NDArray[np.int64]
    stream: NDArray[np.int64]
    granules_per_stream: int
    granule_tokens: int
    in_flight: int
    bytes_per_token: float
    compute_s_per_token: float
    setup_s: NDArray[np.float64]
    exposed_setup_share: float
    shared: bool


class Path(NamedTuple):
    """Servers from the unit outwards, the home last; slot ``s`` runs on unit ``s`` mod ``units``.

    ``extra_share``: bytes beside the cache's own that load each server (activations), as a share of them.
    ``cache_server``: the shared cache among them, or -1; it serves ``hit_share`` of each first read (0 when cold),
    and all of a range that is read again within ``reread_window_bytes`` of fills.
    """

    units: int
    slots_per_unit: int
    s_per_byte: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    per_unit: NDArray[np.int64]
    extra_share: NDArray[np.float64]
    cache_server: int
    hit_share: float
    reread_window_bytes: float


class Record(NamedTuple):
    """What the loop fills in.

    stalls: [servers + FIRST_SERVER] slot-seconds by cause.
    home_tokens: [1] tokens that came from the home at least in part.
    events: [n, 4] the first n finished items' slot, item, start, end; n may be 0.
    binned_bytes: [servers, bins] bytes that each server finished in each ``bin_s`` seconds; bins may be 0.
    """

    stalls: NDArray[np.float64]
    home_tokens: NDArray[np.int64]
    events: NDArray[np.float64]
    binned_bytes: NDArray[np.float64]
    bin_s: float


class _Slots(NamedTuple):
    """What each slot is at.

    Its item (-1: none) and granule, when its last granule was computed and for how long, when its item started and its
    last one ended, and when each of its buffers becomes free.
    """

    item: NDArray[np.int64]
    granule: NDArray[np.int64]
    ready: NDArray[np.float64]
    busy: NDArray[np.float64]
    started: NDArray[np.float64]
    ended: NDArray[np.float64]
    ring: NDArray[np.float64]


class _Heap(NamedTuple):
    """Who asks next: earliest time first; of equal times whoever has waited longer, so that slots take turns."""

    time: NDArray[np.float64]
    turn: NDArray[np.int64]
    slot: NDArray[np.int64]


class _Fills(NamedTuple):
    """Of each granule that several items read: bytes filled before its last use, and when it is there; bytes in all."""

    when: NDArray[np.float64]
    present: NDArray[np.float64]
    total: NDArray[np.float64]


@compiled()
def _sift_down(heap: _Heap, size: int) -> None:
    """Let the first entry sink to its place."""
    time, turn, slot = heap.time[0], heap.turn[0], heap.slot[0]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (heap.time[right] < heap.time[child] or (
                heap.time[right] == heap.time[child] and heap.turn[right] < heap.turn[child])):
            child = right
        if heap.time[child] < time or (heap.time[child] == time and heap.turn[child] < turn):
            _move(heap, child, place)
            place = child
        else:
            break
    heap.time[place], heap.turn[place], heap.slot[place] = time, turn, slot


@compiled()
def _move(heap: _Heap, source: int, target: int) -> None:
    heap.time[target], heap.turn[target], heap.slot[target] = heap.time[source], heap.turn[source], heap.slot[source]


@compiled()
def _load(now: float, unit: int, size_bytes: float, missed: float, path: Path, free: NDArray[np.float64],
          record: Record) -> tuple[float, int, int, float]:
    """Pass one load through its servers: when the last of them has served it, which, if it queued, and its latency."""
    home = len(path.s_per_byte) - 1
    deepest = home if missed > 0.0 or path.cache_server < 0 else path.cache_server
    served, slowest, queued = now, deepest, 0
    for server in range(deepest + 1):
        moved = missed if server > path.cache_server >= 0 else size_bytes
        own = unit if path.per_unit[server] else 0
        busy = (moved + size_bytes * path.extra_share[server]) * path.s_per_byte[server]
        taken = int(free[server, own] > now)
        free[server, own] = max(free[server, own], now) + busy
        if free[server, own] > served:
            served, slowest, queued = free[server, own], server, taken
        if record.binned_bytes.shape[1]:
            place = min(int(free[server, own] / record.bin_s), record.binned_bytes.shape[1] - 1)
            record.binned_bytes[server, place] += moved
    return served, slowest, queued, path.latency_s[deepest]


@compiled()
def _start_item(slot: int, now: float, item: int, items: Items, path: Path, slots: _Slots, free: NDArray[np.float64],
                stalls: NDArray[np.float64]) -> float:
    """Give a slot its next item: when it asks for its first load."""
    slots.item[slot], slots.granule[slot], slots.started[slot], slots.busy[slot] = item, 0, now, 0.0
    setup_s = items.setup_s[item]
    stalls[SETUP] += setup_s
    slots.ready[slot] = now + setup_s
    idle_s = items.exposed_setup_share * setup_s / path.units
    if idle_s > 0.0:
        for server in range(len(path.s_per_byte)):
            if not path.per_unit[server]:
                free[server, 0] = max(free[server, 0], now) + idle_s
    return float(now + setup_s)


@compiled()
def _missing(number: int, size_bytes: float, path: Path, fills: _Fills, now: float) -> tuple[float, float]:
    """Bytes of a granule that must come from the home, and when what is in the cache is there."""
    when, present = fills.when[number], now
    missed = size_bytes * (1.0 - path.hit_share)
    if when >= 0.0 and fills.total[0] - when <= path.reread_window_bytes:
        missed, present = 0.0, fills.present[number]
    fills.total[0] += missed
    fills.when[number] = fills.total[0]
    return missed, present


@compiled()
def _account_wait(slot: int, now: float, served: float, slowest: int, queued: int, arrival: float, slots: _Slots,
                  stalls: NDArray[np.float64]) -> None:
    """Charge a slot's wait for a load to the bandwidth that it queued for, or to being served and pure latency.

    Where loads queue, a shorter latency would only lengthen the queue: all of the wait is the server's. Computing that
    the slot did meanwhile was hidden behind the load: it is charged to the load too.
    """
    ready = slots.ready[slot]
    hidden = min(slots.busy[slot], max(ready - now, 0.0))
    share = 1.0 if queued else (served - now) / (arrival - now) if arrival > now else 0.0
    stalls[COMPUTE] -= hidden
    stalls[FIRST_SERVER + slowest] += (arrival - ready + hidden) * share
    stalls[WAIT_LATENCY] += (arrival - ready + hidden) * (1.0 - share)


@compiled()
def _end_item(slot: int, end: float, finished: int, slots: _Slots, events: NDArray[np.float64]) -> None:
    """Free a slot, and keep the item's start and end while there is room."""
    if finished < len(events):
        events[finished, 0], events[finished, 1] = slot, slots.item[slot]
        events[finished, 2], events[finished, 3] = slots.started[slot], end
    slots.item[slot] = -1
    slots.ended[slot] = end


@compiled()
def _load_granule(slot: int, now: float, tokens: int, items: Items, path: Path, fills: _Fills, slots: _Slots,
                  free: NDArray[np.float64], record: Record) -> float:
    """Ask for a slot's next granule: when it is there and the slot is ready for it."""
    size_bytes = tokens * items.bytes_per_token
    missed, present = size_bytes * (1.0 - path.hit_share), now
    number = 0
    if items.shared:
        number = items.stream[slots.item[slot]] * items.granules_per_stream + slots.granule[slot]
        missed, present = _missing(number, size_bytes, path, fills, now)
    if missed > 0.0:
        record.home_tokens[0] += tokens
    served, slowest, queued, latency = _load(now, slot % path.units, size_bytes, missed, path, free, record)
    arrival = max(served + latency, present)  # a second reader waits for the fill that is under way
    if missed > 0.0:
        fills.present[number] = arrival
    if arrival > slots.ready[slot]:
        _account_wait(slot, now, served, slowest, queued, arrival, slots, record.stalls)
    return max(arrival, float(slots.ready[slot]))


@compiled()
def run_items(items: Items, path: Path, record: Record) -> float:
    """Run all items; returns the time from the first dispatch to the last result."""
    count, size = path.units * path.slots_per_unit, path.units * path.slots_per_unit
    heap = _Heap(np.zeros(count), np.arange(count), np.arange(count))
    free, unit_free = np.zeros((len(path.s_per_byte), path.units)), np.zeros(path.units)
    slots = _Slots(np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count), np.zeros(count),
                   np.zeros(count), np.zeros(count), np.zeros((count, items.in_flight)))
    known = (items.stream.max() + 1) * items.granules_per_stream if items.shared else 1
    fills = _Fills(np.full(known, -1.0), np.zeros(known), np.zeros(1))
    next_item, finished, turn = 0, 0, count
    while size > 0:
        now, slot = heap.time[0], heap.slot[0]
        heap.turn[0] = turn
        turn += 1
        if slots.item[slot] < 0:
            if next_item < len(items.tokens):
                # Its first load waits its turn in the heap: servers see requests in order of time.
                heap.time[0] = _start_item(slot, now, next_item, items, path, slots, free, record.stalls)
                next_item += 1
            else:
                size -= 1
                _move(heap, size, 0)
            _sift_down(heap, size)
            continue
        unit, place = slot % path.units, slots.granule[slot] % items.in_flight
        left = items.tokens[slots.item[slot]] - slots.granule[slot] * items.granule_tokens
        tokens = min(items.granule_tokens, left)
        there = _load_granule(slot, now, tokens, items, path, fills, slots, free, record)
        begin = max(there, unit_free[unit])
        busy = tokens * items.compute_s_per_token
        record.stalls[CONTENTION] += begin - there
        record.stalls[COMPUTE] += busy
        slots.busy[slot] = busy
        slots.ready[slot] = slots.ring[slot, place] = unit_free[unit] = begin + busy
        slots.granule[slot] += 1
        if left > tokens:
            # The buffer that the next load needs is free when its last granule was computed.
            heap.time[0] = max(now, slots.ring[slot, slots.granule[slot] % items.in_flight])
        else:
            _end_item(slot, begin + busy, finished, slots, record.events)
            finished += 1
            heap.time[0] = begin + busy
        _sift_down(heap, size)
    last = slots.ended.max()
    record.stalls[IMBALANCE] += (last - slots.ended).sum()
    return float(last)
