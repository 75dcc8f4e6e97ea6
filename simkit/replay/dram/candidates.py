"""The earliest tick at which each kind of command could go, compiled; one function a kind, for one bank and for all.

A candidate is (tick, bank, age of its request); FAR means none. ``floor`` is the first tick that the command's bus is
free. Of two candidates at one tick the older request's is the better. A search over banks packs each candidate into one
integer whose order is the order of preference, so that the best is a minimum, found without a branch to mispredict.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from simkit.replay.dram.timing import AGE_BITS, BANK_BITS, FAR

NO_AGE: Final = FAR
# From the top: ticks after ``floor``, a bit that is 0 for active requests, age, bank.
_PASSIVE_BIT: Final = AGE_BITS + BANK_BITS
_TICK_BIT: Final = _PASSIVE_BIT + 1
_AGE_MASK: Final = (1 << AGE_BITS) - 1
_BANK_MASK: Final = (1 << BANK_BITS) - 1
_NO_KEY: Final = (1 << 63) - 1


@njit(inline="always")
def on_rising_edge(t, tick):
    """The first tick from ``tick`` on at which a full clock starts (odd ticks, where half clocks are counted)."""
    return tick | t.half_clock


@njit(inline="always")
def packed(wait, passive, age, bank):
    """A candidate as an integer: less is better."""
    return (wait << _TICK_BIT) | (passive << _PASSIVE_BIT) | (age << BANK_BITS) | bank


@njit(inline="always")
def column_ready(t, banks, groups, stacks, bank, is_write, floor):
    """Earliest RD or WR of an open bank."""
    group, stack = banks[bank].group, banks[bank].stack
    if is_write:
        tick = max(floor, banks[bank].write_ok, groups[group].write_ok, stacks[stack].write_ok)
    else:
        tick = max(floor, banks[bank].read_ok, groups[group].read_ok, stacks[stack].read_ok)
    return on_rising_edge(t, tick)


@njit(inline="always")
def column_candidate(t, control, banks, queues, groups, stacks, slots, bank, floor, only_active):
    """One bank's RD or WR: (tick, age, for its active request?); at equal ticks the active request goes first."""
    mode = control.write_mode
    slot = banks[bank].active
    best_tick, best_age, best_active = FAR, NO_AGE, 0
    if slot >= 0:
        best_tick = column_ready(t, banks, groups, stacks, bank, slots[slot].is_write, floor)
        best_age, best_active = slots[slot].age, 1
        if only_active or slots[slot].is_write == mode:
            return best_tick, best_age, best_active  # hits in its direction are ready no earlier
    if not only_active:
        slot = queues[mode * banks.size + bank].hit_head
        if slot >= 0:
            tick = column_ready(t, banks, groups, stacks, bank, mode, floor)
            if tick < best_tick:
                return tick, slots[slot].age, 0
    return best_tick, best_age, best_active


@njit(inline="always")
def next_column(t, control, banks, queues, groups, stacks, slots, column_banks, floor, only_active):
    """Best RD or WR of all banks: (tick, bank, age, active?); at equal ticks active first, then the oldest."""
    mode = control.write_mode
    first_queue = mode * banks.size
    best = _NO_KEY
    for place in range(control.column_banks):
        bank = column_banks[place]
        slot = banks[bank].active
        if slot >= 0:
            tick = column_ready(t, banks, groups, stacks, bank, slots[slot].is_write, floor)
            best = min(best, packed(tick - floor, 0, slots[slot].age, bank))
            if only_active or slots[slot].is_write == mode:
                continue  # hits in its direction are ready no earlier
        if not only_active:
            slot = queues[first_queue + bank].hit_head
            if slot >= 0:
                tick = column_ready(t, banks, groups, stacks, bank, mode, floor)
                best = min(best, packed(tick - floor, 1, slots[slot].age, bank))
    if best == _NO_KEY:
        return FAR, -1, NO_AGE, 0
    return (floor + (best >> _TICK_BIT), best & _BANK_MASK, (best >> BANK_BITS) & _AGE_MASK,
            1 - ((best >> _PASSIVE_BIT) & 1))


@njit(inline="always")
def activate_ready(t, banks, groups, pseudos, bank, floor):
    """Earliest ACT of a closed bank: tRC and tRP of the bank, tRRD, tFAW."""
    tick = max(floor, banks[bank].activate_ok, groups[banks[bank].group].activate_ok,
               pseudos[banks[bank].pseudo].activate_ok)
    return on_rising_edge(t, tick)


@njit(inline="always")
def next_activate(t, control, banks, groups, pseudos, closed_banks, floor):
    """Best ACT of all closed banks with requests: (tick, bank, age)."""
    best = _NO_KEY
    for place in range(control.closed_banks):
        bank = closed_banks[place].bank
        tick = activate_ready(t, banks, groups, pseudos, bank, floor)
        best = min(best, packed(tick - floor, 0, closed_banks[place].age, bank))
    if best == _NO_KEY:
        return FAR, -1, NO_AGE
    return floor + (best >> _TICK_BIT), best & _BANK_MASK, (best >> BANK_BITS) & _AGE_MASK


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
    best_tick, best_bank, best_age = FAR, -1, NO_AGE
    first_queue = control.write_mode * banks.size
    for place in range(control.open_banks):
        bank = open_banks[place]
        tick = precharge_ready(control, banks, queues, pseudos, slots, bank, floor, row_hit_first)
        if tick <= best_tick and tick < FAR:
            age = slots[queues[first_queue + bank].miss_head].age
            if tick < best_tick or age < best_age:
                best_tick, best_bank, best_age = tick, bank, age
    return best_tick, best_bank, best_age
