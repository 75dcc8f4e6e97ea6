"""What a channel's data bus did and waited for, compiled: every tick between two bursts gets one cause."""

from __future__ import annotations

from numba import njit


@njit(inline="always")
def account(t, control, counters, banks, column_ok, pseudos, slots, bank, slot, is_active, tick):
    """Say what the data bus waited for before this burst; called before the command changes the state."""
    pseudo = banks[bank].pseudo
    is_write = slots[slot].is_write
    start = pseudos[pseudo].last_column + t.burst
    counters.busy += t.burst
    if not is_active:
        counters.row_hits += 1
    gap = tick - start
    if gap > 0:
        held = min(tick, control.refresh_until) - max(start, control.refresh_from)
        if held > 0:
            counters.refresh += held
            gap -= held
        # idle time that overlaps a refresh is charged to the refresh
        work = min(tick, control.nonempty_since)
        idle = work - start - max(0, min(work, control.refresh_until) - max(start, control.refresh_from))
        if idle > 0:
            counters.no_request += idle
            gap -= idle
        if pseudos[pseudo].last_was_write == 1 - is_write:
            counters.turnaround += gap
        elif is_active:
            limited = min(gap, banks[bank].activate_wait)
            counters.activation_limit += limited
            counters.row_miss += gap - limited
        elif tick <= column_ok[banks[bank].group_column + is_write] + 1:
            counters.bank_group += gap
        elif tick <= (banks[bank].write_ok if is_write else banks[bank].read_ok) + 1:
            counters.row_miss += gap
        else:
            counters.command_bus += gap
    pseudos[pseudo].last_column = tick
    pseudos[pseudo].last_was_write = is_write


@njit(inline="always")
def note_completion(t, control, counters, slots, returns, slot, tick):
    """Note a burst that starts at ``tick``; return the tick of its last beat.

    A write is complete for its sender once it is issued, so only reads extend the elapsed time to their last beat.
    """
    if slots[slot].is_write:
        counters.writes += 1
        control.last_done = max(control.last_done, tick)
        return tick + t.write_done
    done = tick + t.read_done
    counters.reads += 1
    counters.read_latency += done - slots[slot].arrival + 1  # a request is sent the tick before it is accepted
    control.last_done = max(control.last_done, done)
    mask = returns.size - 1
    returns[control.return_tail & mask] = done
    control.return_tail += 1
    return done
