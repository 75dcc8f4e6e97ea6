"""Per-bank request lists of a channel, compiled: no step has to scan the whole queue.

Each bank has, for reads and for writes, a list of requests for its open row (hits) and one of the others (misses),
both oldest first. Three compact lists name what has work in the direction being served: bursts that
could be next (each bank's active request, and the oldest of its hits), banks for an ACT (closed, with misses) and
perhaps for a PRE (open, with misses, no active request).
"""

from __future__ import annotations

from typing import Final

from numba import njit

from simkit.replay.dram.timing import AGE_BITS, BANK_BITS, NONE

PASSIVE_BIT: Final = AGE_BITS + BANK_BITS
BANK_MASK: Final = (1 << BANK_BITS) - 1
NO_NEWS: Final = 0
NEW_HIT: Final = 1
NEW_MISS: Final = 2


@njit(inline="always")
def place_of(table, address):
    """Flat bank number and row of a byte address, by ``AddressMapping.bit_table``."""
    row = (address >> table[0].shift) & table[0].mask
    bank = 0
    for field in range(1, table.size):
        part = address >> table[field].shift
        # a field that is not hashed shifts the whole row away
        part ^= row >> table[field].row_shift
        bank |= (part & table[field].mask) << table[field].place
    return bank, row


@njit(inline="always")
def preference(passive, age, bank):
    """The order of candidates at one tick as an integer, less is better: active requests first, then age."""
    return (passive << PASSIVE_BIT) | (age << BANK_BITS) | bank


@njit(inline="always")
def list_column(control, banks, slots, columns, column_place, bank, passive, slot):
    """Put a request, active or the oldest hit (``passive``), among the columns, or in its predecessor's place there."""
    place = column_place[2 * bank + passive]
    if place < 0:
        place = control.columns
        control.columns += 1
        column_place[2 * bank + passive] = place
    is_write = slots[slot].is_write
    columns[place].order = preference(passive, slots[slot].age, bank)
    columns[place].ready = banks[bank].write_ok if is_write else banks[bank].read_ok
    columns[place].group = banks[bank].group_column + is_write
    columns[place].stack = banks[bank].stack_column + is_write


@njit(inline="always")
def unlist_column(control, columns, column_place, bank, passive):
    """Take a bank's active request or its hits out of the columns, if they are there."""
    place = column_place[2 * bank + passive]
    if place >= 0:
        column_place[2 * bank + passive] = NONE
        control.columns -= 1
        last = control.columns
        if place != last:
            order = columns[last].order
            columns[place].order = order
            columns[place].ready = columns[last].ready
            columns[place].group = columns[last].group
            columns[place].stack = columns[last].stack
            column_place[2 * (order & BANK_MASK) + (order >> PASSIVE_BIT)] = place


@njit(inline="always")
def relist_hits(control, banks, queues, slots, columns, column_place, bank):
    """Bring ``bank``'s hits among the columns up to date; an active request in their direction goes before them."""
    slot = queues[control.write_mode * banks.size + bank].hit_head
    active = banks[bank].active
    if slot >= 0 and (active < 0 or slots[active].is_write != control.write_mode):
        list_column(control, banks, slots, columns, column_place, bank, 1, slot)
    else:
        unlist_column(control, columns, column_place, bank, 1)


@njit(inline="always")
def relist_rows(control, banks, queues, slots, closed_banks, open_banks, bank):
    """Bring ``bank``'s membership of the lists for ACT and PRE up to date."""
    miss = queues[control.write_mode * banks.size + bank].miss_head
    wanted = miss >= 0 and banks[bank].open_row < 0
    place = banks[bank].closed_place
    if wanted and place < 0:
        place = control.closed_banks
        control.closed_banks += 1
        banks[bank].closed_place = place
        closed_banks[place].order = preference(0, slots[miss].age, bank)
        closed_banks[place].ready = banks[bank].activate_ok
        closed_banks[place].group = banks[bank].group
        closed_banks[place].pseudo = banks[bank].pseudo
    elif place >= 0 and not wanted:
        banks[bank].closed_place = NONE
        control.closed_banks -= 1
        last = control.closed_banks
        if place != last:
            order = closed_banks[last].order
            closed_banks[place].order = order
            closed_banks[place].ready = closed_banks[last].ready
            closed_banks[place].group = closed_banks[last].group
            closed_banks[place].pseudo = closed_banks[last].pseudo
            banks[order & BANK_MASK].closed_place = place
    wanted = miss >= 0 and banks[bank].open_row >= 0 and banks[bank].active < 0
    place = banks[bank].open_place
    if wanted and place < 0:
        banks[bank].open_place = control.open_banks
        open_banks[control.open_banks] = bank
        control.open_banks += 1
    elif place >= 0 and not wanted:
        control.open_banks -= 1
        last = open_banks[control.open_banks]
        open_banks[place] = last
        banks[last].open_place = place
        banks[bank].open_place = NONE


@njit
def relist_all(control, banks, queues, slots, columns, column_place, closed_banks, open_banks):
    """Make the work lists anew, for the direction that is served from now on."""
    control.closed_banks = control.open_banks = 0
    for bank in range(banks.size):
        banks[bank].closed_place = banks[bank].open_place = NONE
        relist_hits(control, banks, queues, slots, columns, column_place, bank)
        relist_rows(control, banks, queues, slots, closed_banks, open_banks, bank)


@njit(inline="always")
def enqueue(control, banks, queues, slots, bank, row, is_write, request, tick):
    """Accept a request at ``tick`` into its bank's list; say whether it is now the first hit or miss there."""
    slot = control.free_slot
    control.free_slot = slots[slot].next
    slots[slot].row = row
    slots[slot].age = control.accepted
    slots[slot].arrival = tick
    slots[slot].is_write = is_write
    slots[slot].request = request
    slots[slot].next = NONE
    control.accepted += 1
    if control.queued_reads + control.queued_writes + control.active == 0:
        control.nonempty_since = tick
    if is_write:
        control.queued_writes += 1
    else:
        control.queued_reads += 1
    queue = is_write * banks.size + bank
    if banks[bank].open_row == row:
        first = queues[queue].hit_head < 0
        if first:
            queues[queue].hit_head = slot
        else:
            slots[queues[queue].hit_tail].next = slot
        queues[queue].hit_tail = slot
        return NEW_HIT if first else NO_NEWS
    first = queues[queue].miss_head < 0
    if first:
        queues[queue].miss_head = slot
    else:
        slots[queues[queue].miss_tail].next = slot
    queues[queue].miss_tail = slot
    return NEW_MISS if first else NO_NEWS


@njit(inline="always")
def take_hit(queues, slots, queue):
    """Remove and return the oldest request for the open row."""
    slot = queues[queue].hit_head
    queues[queue].hit_head = slots[slot].next
    return slot


@njit(inline="always")
def release(control, slots, slot):
    """Give a served request's slot back."""
    slots[slot].next = control.free_slot
    control.free_slot = slot


@njit(inline="always")
def take_miss_for_activate(queues, slots, queue):
    """Remove and return the oldest request of a closed bank."""
    slot = queues[queue].miss_head
    queues[queue].miss_head = slots[slot].next
    return slot


@njit(inline="always")
def gather_hits(queues, slots, queue, row):
    """A row was opened: move its requests from the miss list to the (empty) hit list, keeping their order."""
    previous = NONE
    slot = queues[queue].miss_head
    while slot >= 0:
        following = slots[slot].next
        if slots[slot].row == row:
            if previous < 0:
                queues[queue].miss_head = following
            else:
                slots[previous].next = following
            if following < 0:
                queues[queue].miss_tail = previous
            if queues[queue].hit_head < 0:
                queues[queue].hit_head = slot
            else:
                slots[queues[queue].hit_tail].next = slot
            queues[queue].hit_tail = slot
            slots[slot].next = NONE
        else:
            previous = slot
        slot = following


@njit(inline="always")
def scatter_hits(queues, slots, queue):
    """A row was closed: merge its requests that still wait back among the misses, by age."""
    hit = queues[queue].hit_head
    if hit < 0:
        return
    miss = queues[queue].miss_head
    tail = NONE
    while hit >= 0 or miss >= 0:
        if miss < 0 or (hit >= 0 and slots[hit].age < slots[miss].age):
            slot = hit
            hit = slots[hit].next
        else:
            slot = miss
            miss = slots[miss].next
        if tail < 0:
            queues[queue].miss_head = slot
        else:
            slots[tail].next = slot
        tail = slot
    slots[tail].next = NONE
    queues[queue].miss_tail = tail
    queues[queue].hit_head = NONE
