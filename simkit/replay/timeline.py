"""The event loop: slots run work items, keep a bounded number of loads in flight, and share servers and arithmetic.

Events are ordered by (time, turn), so that equal inputs give equal results to the last bit. A load passes every
server on its way at once (cut-through): it arrives when the slowest of them has served it, plus the latency of the
level it came from. Servers work in the order of requests. A slot computes its granules in order; the next load may
start when a buffer is free. A unit computes one granule at a time, in the order in which they were asked for.

The loop's functions take arrays and numbers, not tuples of them: Numba counts references for each array that it takes
out of a tuple, which would cost twice as much as all else here (``benchmarks/bench_replay.py``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.jit_cache import compiled

# Columns of the stall account, in slot-seconds.
SETUP: Final = 0
WAIT_LATENCY: Final = 1
COMPUTE: Final = 2
CONTENTION: Final = 3
IMBALANCE: Final = 4
WAIT_IN_FLIGHT: Final = 5  # latency of loads that a full set of buffers held back: bytes in flight over latency
FIRST_SERVER: Final = 6  # one column a server on the path: waiting for its bandwidth

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
    and all of a range that is read again within ``reread_window_bytes`` of fills. Without one both are 0.
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


_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@compiled()
def _first_matches(leaves: int) -> _Ints:
    """A tournament of all slots: the earlier of ``winner[2 n]`` and ``winner[2 n + 1]`` at ``winner[n]``.

    At first all ask at once, in the order of their numbers.
    """
    winner = np.arange(-leaves, leaves)
    for place in range(leaves - 1, 0, -1):
        winner[place] = winner[2 * place]
    return winner


@compiled()
def _play_again(slot: int, time: _Floats, turn: _Ints, winner: _Ints) -> None:
    """Replay a slot's matches after its time changed: earliest first, of equals whoever has waited longer."""
    first, first_time, first_turn = slot, time[slot], turn[slot]
    place = slot + len(time)
    while place > 1:
        other = winner[place ^ 1]
        # Bitwise: which of two slots is earlier is a coin toss, and branches would be guessed wrong half of the time.
        earlier = (time[other] < first_time) | ((time[other] == first_time) & (turn[other] < first_turn))
        first = other if earlier else first
        first_time = time[other] if earlier else first_time
        first_turn = turn[other] if earlier else first_turn
        place >>= 1
        winner[place] = first


@compiled()
def _serve(now: float, unit: int, size_bytes: float, missed: float, deepest: int, cache_server: int,
           s_per_byte: _Floats, per_unit: _Ints, extra_share: _Floats, free: _Floats, binned_bytes: _Floats,
           bin_s: float) -> tuple[float, int, int]:
    """Pass one load through its servers: when the last of them has served it, which, and if it queued there."""
    served, slowest, queued = now, deepest, 0
    for server in range(deepest + 1):
        moved = missed if server > cache_server else size_bytes
        own = unit if per_unit[server] else 0
        begin = max(free[server, own], now)
        end = begin + (moved + size_bytes * extra_share[server]) * s_per_byte[server]
        if end > served:
            served, slowest, queued = end, server, int(free[server, own] > now)
        free[server, own] = end
        if binned_bytes.shape[1]:
            binned_bytes[server, min(int(end / bin_s), binned_bytes.shape[1] - 1)] += moved
    return served, slowest, queued


@compiled()
def _stand_idle(now: float, idle_s: float, per_unit: _Ints, free: _Floats) -> None:
    """A unit's part of every shared server does nothing while the unit sets up an item."""
    for server in range(len(per_unit)):
        if not per_unit[server]:
            free[server, 0] = max(free[server, 0], now) + idle_s


@compiled()
def _account_wait(now: float, served: float, slowest: int, queued: int, arrival: float, ready: float, busy: float,
                  held_back: int, stalls: _Floats) -> None:
    """Charge a slot's wait for a load to the bandwidth that it queued for, or to being served and pure latency.

    Latency is the first loads' of an item; that of one which was ``held_back`` until a buffer was free is waited for
    because too few bytes are in flight.

    Where loads queue, a shorter latency would only lengthen the queue: all of the wait is the server's. Computing that
    the slot did meanwhile was hidden behind the load: it is charged to the load too.
    """
    hidden = min(busy, ready - now)
    share = 1.0 if queued else (served - now) / (arrival - now)
    stalls[COMPUTE] -= hidden
    stalls[FIRST_SERVER + slowest] += (arrival - ready + hidden) * share
    stalls[WAIT_IN_FLIGHT if held_back else WAIT_LATENCY] += (arrival - ready + hidden) * (1.0 - share)


@compiled()
def _account_idle(idle_s: _Floats, watched: int, busy_s: float, busy_before_s: _Floats, stalls: _Floats) -> None:
    """Charge the slots' time after their last item to imbalance, or to the shared server that the others keep busy.

    Work for such a slot would only lengthen the queue of the ``watched`` server, which was busy for ``busy_s`` in all.
    """
    for slot in range(len(idle_s)):
        held_s = min(max(busy_s - busy_before_s[slot], 0.0), idle_s[slot])
        stalls[FIRST_SERVER + watched] += held_s
        stalls[IMBALANCE] += idle_s[slot] - held_s


@compiled()
def run_items(items: Items, path: Path, record: Record) -> float:  # noqa: C901, PLR0912, PLR0915  # one loop
    """Run all items; returns the time from the first dispatch to the last result."""
    count = running = path.units * path.slots_per_unit
    item_tokens, stream, item_setup_s, shared = items.tokens, items.stream, items.setup_s, items.shared
    granule_tokens, in_flight, granules_per_stream = items.granule_tokens, items.in_flight, items.granules_per_stream
    bytes_per_token, compute_s_per_token = items.bytes_per_token, items.compute_s_per_token
    s_per_byte, latency_s, per_unit, extra_share = path.s_per_byte, path.latency_s, path.per_unit, path.extra_share
    cache_server, home, miss_share = path.cache_server, len(path.s_per_byte) - 1, 1.0 - path.hit_share
    stalls, events, binned_bytes, bin_s = record.stalls, record.events, record.binned_bytes, record.bin_s

    leaves = 1
    while leaves < count:
        leaves *= 2
    # When each slot asks next, which of them waited longest, and the tournament of all.
    asks_at, turn = np.full(leaves, np.inf), np.arange(leaves)
    winner = _first_matches(leaves)
    asks_at[:count] = 0.0
    # What each slot is at: its item (-1: none), granule and next buffer; when its last granule was computed and for how
    # long, when its item started and its last one ended, and when each of its buffers becomes free.
    unit_of, item_of = np.arange(count) % path.units, np.full(count, -1, np.int64)
    granule_of, buffer_of = np.zeros(count, np.int64), np.zeros(count, np.int64)
    ready, busy, started, ended = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
    buffer_free = np.zeros((count, in_flight))
    free, unit_free = np.zeros((home + 1, path.units)), np.zeros(path.units)
    # Of each granule that several items read: bytes filled before its last use, and when it is there, which server made
    # its fill wait until when, and if it queued there; bytes in all.
    known = (stream.max() + 1) * granules_per_stream if shared else 1
    filled_before, present_at, filled = np.full(known, -1.0), np.zeros(known), 0.0
    fill_served, fill_slowest, fill_queued = np.zeros(known), np.zeros(known, np.int64), np.zeros(known, np.int64)

    # What a slot without items cannot change: the server that all share and that takes longest for a load.
    watched, watched_busy_s, watched_before_s = home, 0.0, np.zeros(count)
    if cache_server >= 0 and s_per_byte[cache_server] > s_per_byte[home] * miss_share:
        watched = cache_server

    next_item, finished, asked, home_tokens = 0, 0, count, 0
    while running > 0:
        slot = winner[1]
        now, item, unit = asks_at[slot], item_of[slot], unit_of[slot]
        turn[slot] = asked
        asked += 1
        if item < 0 and next_item == len(item_tokens):
            running -= 1
            watched_before_s[slot] = watched_busy_s - max(free[watched, 0] - now, 0.0)
            asks_at[slot] = np.inf
        elif item < 0:
            # Its first load waits its turn: servers see requests in order of time.
            setup_s = item_setup_s[next_item]
            stalls[SETUP] += setup_s
            _stand_idle(now, items.exposed_setup_share * setup_s / path.units, per_unit, free)
            item_of[slot], granule_of[slot], buffer_of[slot] = next_item, 0, 0
            started[slot] = now
            ready[slot] = asks_at[slot] = now + setup_s
            next_item += 1
        else:
            left = item_tokens[item] - granule_of[slot] * granule_tokens
            tokens = min(granule_tokens, left)
            size_bytes = tokens * bytes_per_token
            missed, present, number = size_bytes * miss_share, now, 0
            if shared:
                number = stream[item] * granules_per_stream + granule_of[slot]
                if filled_before[number] >= 0.0 and filled - filled_before[number] <= path.reread_window_bytes:
                    missed, present = 0.0, present_at[number]
                filled += missed
                filled_before[number] = filled
            deepest = home if missed > 0.0 else cache_server
            served, slowest, queued = _serve(now, unit, size_bytes, missed, deepest, cache_server, s_per_byte,
                                             per_unit, extra_share, free, binned_bytes, bin_s)
            if watched <= deepest:
                moved = missed if watched > cache_server else size_bytes
                watched_busy_s += (moved + size_bytes * extra_share[watched]) * s_per_byte[watched]
            arrival = served + latency_s[deepest]
            if missed > 0.0:
                home_tokens += tokens
                present_at[number], fill_served[number] = arrival, served
                fill_slowest[number], fill_queued[number] = slowest, queued
            elif present > arrival:
                # A second reader waits for the fill that is under way, and for what that waits for.
                arrival, served = present, max(fill_served[number], now)
                slowest, queued = fill_slowest[number], fill_queued[number]
            if arrival > ready[slot]:
                held_back = int(granule_of[slot] >= in_flight)
                _account_wait(now, served, slowest, queued, arrival, ready[slot], busy[slot], held_back, stalls)
            there = max(arrival, ready[slot])
            begin = max(there, unit_free[unit])
            stalls[CONTENTION] += begin - there
            busy[slot] = tokens * compute_s_per_token
            stalls[COMPUTE] += busy[slot]
            end = begin + busy[slot]
            ready[slot] = buffer_free[slot, buffer_of[slot]] = unit_free[unit] = end
            granule_of[slot] += 1
            buffer_of[slot] = buffer_of[slot] + 1 if buffer_of[slot] + 1 < in_flight else 0
            if left > tokens:
                # The buffer that the next load needs is free when its last granule was computed.
                asks_at[slot] = max(now, buffer_free[slot, buffer_of[slot]])
            else:
                if finished < len(events):
                    events[finished, 0], events[finished, 1] = slot, item
                    events[finished, 2], events[finished, 3] = started[slot], end
                finished += 1
                item_of[slot] = -1
                ended[slot] = asks_at[slot] = end
        _play_again(slot, asks_at, turn, winner)
    record.home_tokens[0] += home_tokens
    last = ended.max()
    _account_idle(last - ended, watched, 0.0 if per_unit[watched] else watched_busy_s, watched_before_s, stalls)
    return float(last)
