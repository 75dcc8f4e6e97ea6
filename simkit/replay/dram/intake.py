"""How requests enter a channel, compiled: in order, a few a tick, as queues and the sender's limit allow."""

from __future__ import annotations

from numba import njit

from simkit.replay.dram.queues import NEW_HIT, NEW_MISS, enqueue, place_of, relist_hits, relist_rows
from simkit.replay.dram.timing import FAR


@njit(inline="always")
def note_returned_reads(control, returns, now):
    """Reads whose last beat came before this tick are outstanding no longer."""
    mask = returns.size - 1
    while control.return_head < control.return_tail and returns[control.return_head & mask] < now:
        control.return_head += 1
        control.outstanding_reads -= 1


@njit(inline="always")
def has_room(control, is_write, read_queue, write_queue):
    """Is there a queue entry for the next request?"""
    return control.queued_writes < write_queue if is_write else control.queued_reads < read_queue


@njit(inline="always")
def accept(control, banks, queues, slots, columns, column_place, closed_banks, open_banks, bit_table, address_of,
           write_of, arrival_of, position, first_request, now, read_queue, write_queue, accept_per_tick,
           outstanding_limit, best_precharge_bank):
    """Take in what may enter at ``now``: (next position, and whether a column, ACT or PRE candidate may be new)."""
    write_step = 1 if write_of.size == address_of.size else 0
    arrival_step = 1 if arrival_of.size == address_of.size else 0
    new_column, new_activate, new_precharge = False, False, False
    last = min(address_of.size, position + accept_per_tick)
    while position < last and arrival_of[position * arrival_step] <= now:
        is_write = write_of[position * write_step]
        if not has_room(control, is_write, read_queue, write_queue):
            break
        if not is_write:
            if control.outstanding_reads >= outstanding_limit:
                break
            control.outstanding_reads += 1
        bank, row = place_of(bit_table, address_of[position])
        news = enqueue(control, banks, queues, slots, bank, row, is_write, first_request + position, now)
        if is_write == control.write_mode:
            if news == NEW_HIT:
                relist_hits(control, banks, queues, slots, columns, column_place, bank)
                new_column = True
            elif news == NEW_MISS:
                relist_rows(control, banks, queues, slots, closed_banks, open_banks, bank)
            if banks[bank].open_row < 0:
                new_activate |= news == NEW_MISS
            else:
                # a hit as old as the miss protects the row that was to be closed
                new_precharge |= news == NEW_MISS or bank == best_precharge_bank
        position += 1
    return position, new_column, new_activate, new_precharge


@njit(inline="always")
def next_acceptance(control, returns, is_write, arrival, accept_from, read_queue, write_queue, outstanding_limit):
    """First tick at which the next request may enter without a command being issued; FAR if only that can help."""
    if not has_room(control, is_write, read_queue, write_queue):
        return FAR
    tick = max(accept_from, arrival)
    if not is_write and control.outstanding_reads >= outstanding_limit:
        if control.return_head == control.return_tail:
            return FAR
        tick = max(tick, returns[control.return_head & (returns.size - 1)] + 1)
    return tick
