"""The earliest tick at which each kind of command could go, compiled; one function a kind, for one bank and for all.

A candidate is (tick, bank, age of its request); FAR means none. ``floor`` is the first tick that the command's bus is
free. Of two candidates at one tick the older request's is the better. A search over banks packs each candidate into one
integer, the ticks that it must wait above its preference, so that the best is a minimum, found without a branch to
mispredict.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from simkit.replay.dram.queues import BANK_MASK, PASSIVE_BIT
from simkit.replay.dram.timing import AGE_BITS, BANK_BITS, FAR, NONE

NO_AGE: Final = FAR
_WAIT_BIT: Final = PASSIVE_BIT + 1
_AGE_MASK: Final = (1 << AGE_BITS) - 1
_NONE: Final = (1 << 63) - 1  # the largest integer: after every candidate


@njit(inline="always")
def on_rising_edge(t, tick):
    """The first tick from ``tick`` on at which a full clock starts (odd ticks, where half clocks are counted)."""
    return tick | t.half_clock


@njit(inline="always")
def column_ready(t, columns, column_ok, place, floor):
    """Earliest tick of an entry of the list of columns: RD or WR of its bank, group and stack."""
    return on_rising_edge(t, max(floor, columns[place].ready, column_ok[columns[place].group],
                                 column_ok[columns[place].stack]))


@njit(inline="always")
def next_column(t, control, columns, column_ok, floor, only_active):
    """Best RD or WR of all banks: (tick, bank, age, active?); at equal ticks active first, then the oldest."""
    best = _NONE
    for place in range(control.columns):
        if only_active and columns[place].order >> PASSIVE_BIT:
            continue
        tick = column_ready(t, columns, column_ok, place, floor)
        best = min(best, ((tick - floor) << _WAIT_BIT) | columns[place].order)
    if best == _NONE:
        return FAR, NONE, NO_AGE, 0
    return (floor + (best >> _WAIT_BIT), best & BANK_MASK, (best >> BANK_BITS) & _AGE_MASK,
            1 - ((best >> PASSIVE_BIT) & 1))


@njit(inline="always")
def activate_ready(t, banks, groups, pseudos, bank, floor):
    """Earliest ACT of a closed bank: tRC and tRP of the bank, tRRD, tFAW."""
    return on_rising_edge(t, max(floor, banks[bank].activate_ok, groups[banks[bank].group].activate_ok,
                                 pseudos[banks[bank].pseudo].activate_ok))


@njit(inline="always")
def next_activate(t, control, groups, pseudos, closed_banks, floor):
    """Best ACT of all closed banks with requests: (tick, bank, age)."""
    best = _NONE
    for place in range(control.closed_banks):
        tick = on_rising_edge(t, max(floor, closed_banks[place].ready, groups[closed_banks[place].group].activate_ok,
                                     pseudos[closed_banks[place].pseudo].activate_ok))
        best = min(best, ((tick - floor) << _WAIT_BIT) | closed_banks[place].order)
    if best == _NONE:
        return FAR, NONE, NO_AGE
    return floor + (best >> _WAIT_BIT), best & BANK_MASK, (best >> BANK_BITS) & _AGE_MASK


@njit(inline="always")
def precharge_ready(control, banks, queues, pseudos, slots, bank, floor, row_hit_first):
    """Earliest PRE of an open bank with misses and no active request; FAR while an older hit protects the row."""
    queue = control.write_mode * banks.size + bank
    hit = queues[queue].hit_head
    if row_hit_first and hit >= 0 and slots[hit].arrival <= slots[queues[queue].miss_head].arrival:
        return FAR
    return max(floor, banks[bank].precharge_ok, pseudos[banks[bank].pseudo].precharge_ok)


@njit(inline="always")
def next_precharge(control, banks, queues, pseudos, slots, open_banks, floor, row_hit_first):
    """Best PRE of all open banks with misses: (tick, bank, age)."""
    best_tick, best_bank, best_age = FAR, NONE, NO_AGE
    first_queue = control.write_mode * banks.size
    for place in range(control.open_banks):
        bank = open_banks[place]
        tick = precharge_ready(control, banks, queues, pseudos, slots, bank, floor, row_hit_first)
        if tick <= best_tick:
            age = slots[queues[first_queue + bank].miss_head].age
            if tick < best_tick or age < best_age:
                best_tick, best_bank, best_age = tick, bank, age
    return best_tick, best_bank, best_age
