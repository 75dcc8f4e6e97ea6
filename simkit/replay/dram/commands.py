"""What each DRAM command does to a channel's state, compiled: the standard's delays, one function a command.

``t`` is the ``Ticks`` of the channel and ``tick`` the start of the command; the caller has checked that every delay
is met. Each function only raises the earliest ticks of the commands that must wait for it.
"""

from __future__ import annotations

from numba import njit

from simkit.replay.dram.queues import (
    gather_hits,
    list_column,
    relist_rows,
    scatter_hits,
    take_miss_for_activate,
    unlist_column,
)
from simkit.replay.dram.timing import NONE


@njit(inline="always")
def occupy_bus(t, control, tick, bus_ticks, is_column):
    """A command holds its command bus; with a single bus it holds both."""
    if not t.dual_bus:
        control.row_bus_free = tick + bus_ticks
        control.column_bus_free = tick + bus_ticks
    elif is_column:
        control.column_bus_free = tick + bus_ticks
    else:
        control.row_bus_free = tick + bus_ticks


@njit(inline="always")
def precharge(t, control, banks, queues, pseudos, slots, columns, column_place, closed_banks,
              open_banks, bank, tick):
    """PRE: close the row (tRP before the next ACT or REF, tPPD before the next PRE)."""
    occupy_bus(t, control, tick, t.row_bus, False)
    pseudo = banks[bank].pseudo
    banks[bank].open_row = NONE
    banks[bank].activate_ok = max(banks[bank].activate_ok, tick + t.precharge_to_activate)
    pseudos[pseudo].precharge_ok = max(pseudos[pseudo].precharge_ok, tick + t.precharge_to_precharge)
    pseudos[pseudo].refresh_ok = max(pseudos[pseudo].refresh_ok, tick + t.precharge_to_refresh)
    scatter_hits(queues, slots, bank)
    scatter_hits(queues, slots, banks.size + bank)
    unlist_column(control, columns, column_place, bank, 1)
    relist_rows(control, banks, queues, slots, closed_banks, open_banks, bank)


@njit(inline="always")
def activate(t, control, counters, banks, queues, groups, pseudos, slots, columns, column_place, closed_banks,
             open_banks, bank, tick):
    """ACT: open the row of the bank's oldest request, which leaves the queue and becomes active.

    tRCD to its reads and writes, tRAS to PRE, tRC to the next ACT of the bank, tRRD to other banks, and at most
    four ACT in tFAW.
    """
    occupy_bus(t, control, tick, t.activate_bus, False)
    queue = control.write_mode * banks.size + bank
    slot = take_miss_for_activate(queues, slots, queue)
    row = slots[slot].row
    if control.write_mode:
        control.queued_writes -= 1
    else:
        control.queued_reads -= 1
    control.active += 1
    counters.activates += 1
    # the wait that is not the bank's own: what tRRD, tFAW and the command bus added
    banks[bank].activate_wait = tick - max(banks[bank].activate_ok, slots[slot].arrival)
    banks[bank].active = slot
    banks[bank].open_row = row
    gather_hits(queues, slots, bank, row)
    gather_hits(queues, slots, banks.size + bank, row)
    banks[bank].read_ok = tick + t.activate_to_read
    banks[bank].write_ok = tick + t.activate_to_write
    banks[bank].precharge_ok = tick + t.activate_to_precharge
    banks[bank].activate_ok = tick + t.activate_to_activate_same_bank
    group = banks[bank].group
    groups[group].activate_ok = tick + t.activate_to_activate_same_group
    pseudo = banks[bank].pseudo
    pseudos[pseudo].activate_ok = max(pseudos[pseudo].activate_ok, tick + t.activate_to_activate,
                                      pseudos[pseudo].activate_3 + t.four_activates)
    pseudos[pseudo].activate_3 = pseudos[pseudo].activate_2
    pseudos[pseudo].activate_2 = pseudos[pseudo].activate_1
    pseudos[pseudo].activate_1 = tick
    pseudos[pseudo].refresh_ok = max(pseudos[pseudo].refresh_ok, tick + t.activate_to_refresh)
    pseudos[pseudo].bank_refresh_ok = max(pseudos[pseudo].bank_refresh_ok, tick + t.activate_to_bank_refresh_other)
    list_column(control, banks, slots, columns, column_place, bank, 0, slot)
    relist_rows(control, banks, queues, slots, closed_banks, open_banks, bank)


@njit(inline="always")
def transfer(t, control, banks, pseudos, column_ok, bank, is_write, tick):
    """RD or WR: one burst (tCCD_S/L/R, tWTR_S/L and read-to-write turnaround, tRTP or write recovery to PRE)."""
    occupy_bus(t, control, tick, t.column_bus, True)
    group, stack, pseudo = banks[bank].group_column, banks[bank].stack_column, banks[bank].pseudo
    if is_write:
        banks[bank].precharge_ok = max(banks[bank].precharge_ok, tick + t.write_to_precharge)
        column_ok[group + 1] = tick + t.write_to_write_same_group
        column_ok[group] = max(column_ok[group], tick + t.write_to_read_same_group)
        for other in range(pseudos[pseudo].stack_columns, pseudos[pseudo].stack_columns_end, 2):
            gap = t.write_to_write if other == stack else t.write_to_write_other_stack
            column_ok[other + 1] = max(column_ok[other + 1], tick + gap)
            column_ok[other] = max(column_ok[other], tick + t.write_to_read)
    else:
        banks[bank].precharge_ok = max(banks[bank].precharge_ok, tick + t.read_to_precharge)
        column_ok[group] = max(column_ok[group], tick + t.read_to_read_same_group)
        for other in range(pseudos[pseudo].stack_columns, pseudos[pseudo].stack_columns_end, 2):
            gap = t.read_to_read if other == stack else t.read_to_read_other_stack
            column_ok[other] = max(column_ok[other], tick + gap)
            column_ok[other + 1] = max(column_ok[other + 1], tick + t.read_to_write)
