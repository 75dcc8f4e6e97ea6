"""Refresh, compiled: when it is due, which command it needs next, and what it does to the banks.

A due refresh lets active requests finish, holds back all others, closes the banks it covers and refreshes them.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from simkit.replay.dram.candidates import on_rising_edge
from simkit.replay.dram.commands import occupy_bus, precharge
from simkit.replay.dram.queues import BANK_MASK
from simkit.replay.dram.timing import FAR, NONE

REFRESH_OFF: Final = 0
REFRESH_ALL_BANKS: Final = 1
REFRESH_PER_BANK: Final = 2


@njit
def push_due_refreshes(t, control, refreshes, banks, refresh_kind):
    """The refresh interval has passed: append what it asks for to the ring."""
    mask = refreshes.size - 1
    if control.refresh_head == control.refresh_tail:
        control.refresh_from = control.next_refresh
    if refresh_kind == REFRESH_ALL_BANKS:
        for pseudo in range(t.pseudo_channels):
            refreshes[control.refresh_tail & mask].pseudo = pseudo
            refreshes[control.refresh_tail & mask].bank = NONE
            control.refresh_tail += 1
        control.next_refresh += t.refresh_interval
        return
    # HBM3 and HBM4 refresh the same bank of every pseudo-channel together; the others take turns over all banks
    together = t.pseudo_channels if t.half_clock else 1
    turn = banks.size // together
    for pseudo in range(together):
        bank = control.next_refresh_bank + pseudo * turn
        refreshes[control.refresh_tail & mask].bank = bank
        refreshes[control.refresh_tail & mask].pseudo = banks[bank].pseudo
        control.refresh_tail += 1
    control.next_refresh_bank = (control.next_refresh_bank + 1) % turn
    control.next_refresh += t.bank_refresh_interval


@njit
def next_refresh_command(t, control, banks, pseudos, refreshes, floor):
    """Earliest command of the refresh at the head of the ring: (tick, banks must be closed first)."""
    head = refreshes[control.refresh_head & (refreshes.size - 1)]
    pseudo = head.pseudo
    tick = floor
    if head.bank >= 0:
        bank = head.bank
        if banks[bank].open_row >= 0:
            if banks[bank].active >= 0:
                return FAR, True
            return max(tick, banks[bank].precharge_ok, pseudos[pseudo].precharge_ok), True
        # activate_ok holds tRC and tRP to the start of an ACT, which ends later than a REF does
        tick = max(tick, banks[bank].activate_ok + t.activate_bus - t.row_bus, pseudos[pseudo].bank_refresh_ok)
    else:
        must_close = False
        for bank in range(banks.size):
            if banks[bank].pseudo == pseudo and banks[bank].open_row >= 0:
                if banks[bank].active >= 0:
                    return FAR, True
                must_close = True
                tick = max(tick, banks[bank].precharge_ok)
        if must_close:
            return max(tick, pseudos[pseudo].precharge_ok), True
        tick = max(tick, pseudos[pseudo].refresh_ok)
    return on_rising_edge(t, tick), False


@njit(inline="always")
def refresh_all_banks(t, control, counters, banks, pseudo, tick):
    """REFab: every bank of the pseudo-channel is busy for tRFC."""
    occupy_bus(t, control, tick, t.row_bus, False)
    counters.refreshes += 1
    for bank in range(banks.size):
        if banks[bank].pseudo == pseudo:
            banks[bank].activate_ok = max(banks[bank].activate_ok, tick + t.refresh_to_activate)


@njit(inline="always")
def refresh_one_bank(t, control, counters, banks, pseudos, bank, tick):
    """REFpb: one bank is busy for tRFCpb; ACT elsewhere and the next REFpb wait tRREFD."""
    occupy_bus(t, control, tick, t.row_bus, False)
    counters.refreshes += 1
    pseudo = banks[bank].pseudo
    banks[bank].activate_ok = max(banks[bank].activate_ok, tick + t.bank_refresh_to_activate)
    other = tick + t.bank_refresh_to_activate_other
    pseudos[pseudo].activate_ok = max(pseudos[pseudo].activate_ok, other)
    pseudos[pseudo].bank_refresh_ok = max(pseudos[pseudo].bank_refresh_ok, other)


@njit
def issue_refresh_command(t, control, counters, banks, queues, pseudos, slots, columns, column_place,
                          closed_banks, open_banks, refreshes, close_first, tick):
    """The next command of the refresh at the head of the ring: close its banks, or refresh them."""
    head = refreshes[control.refresh_head & (refreshes.size - 1)]
    pseudo, only_bank = head.pseudo, head.bank
    if close_first:
        for bank in range(banks.size):
            if banks[bank].open_row >= 0 and banks[bank].pseudo == pseudo and (only_bank < 0 or only_bank == bank):
                precharge(t, control, banks, queues, pseudos, slots, columns, column_place, closed_banks, open_banks,
                          bank, tick)
    else:
        if only_bank < 0:
            refresh_all_banks(t, control, counters, banks, pseudo, tick)
            control.refresh_until = tick + t.refresh_to_activate + t.activate_to_read
        else:
            refresh_one_bank(t, control, counters, banks, pseudos, only_bank, tick)
            control.refresh_until = tick + 1
        for place in range(control.closed_banks):
            closed_banks[place].ready = banks[closed_banks[place].order & BANK_MASK].activate_ok
        control.refresh_head += 1
