"""The event loop of one DRAM channel, compiled: which command goes next, and when.

The loop never counts clock cycles. It knows, for each kind of command, the earliest tick at which one meets all
delays, and jumps to the least of them; after a command only what it changed is computed again. Rules of the
controller:

* among commands that are ready, the oldest request first; ``row_hit_first`` holds back a PRE while a hit of the same
  bank as old as the miss is queued (FR-FCFS with row-hit protection);
* the request for which a row is opened leaves the queue, becomes *active* and has priority for the data bus; a row is
  not closed before its active request is served; the window is thus the queue plus one request a bank;
* reads are served until the write queue passes its high mark or no read is queued, writes until it falls below the
  low mark (write draining);
* a due refresh lets active requests finish, holds back all others, closes the banks and refreshes;
* requests are accepted in order, a few a tick; the first that finds no room blocks those behind it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from numba import njit

from simkit.foundation.jit_cache import compiled, stamp_with_folder
from simkit.replay.dram.accounting import account, note_completion
from simkit.replay.dram.borrow import borrowed
from simkit.replay.dram.candidates import (
    NO_AGE,
    activate_ready,
    column_ready,
    next_activate,
    next_column,
    next_precharge,
    precharge_ready,
)
from simkit.replay.dram.commands import activate, occupy_bus, precharge, transfer
from simkit.replay.dram.intake import accept, next_acceptance, note_returned_reads
from simkit.replay.dram.queues import release, relist_all, relist_hits, relist_rows, take_hit, unlist_column
from simkit.replay.dram.refresh import issue_refresh_command, next_refresh_command, push_due_refreshes
from simkit.replay.dram.timing import FAR, NONE

STUCK: Final = -1  # result of ``serve`` if nothing can ever happen again; a bug, never a user's mistake


@njit(inline="always")
def direction_switches(control, high_mark, low_mark):
    """Write draining: is it time to change between serving reads and writes? Never while nothing is queued."""
    if control.write_mode:
        return control.queued_writes < low_mark and control.queued_reads > 0
    return control.queued_writes > high_mark or (control.queued_reads == 0 and control.queued_writes > 0)


@compiled()
def serve(  # noqa: C901, PLR0912, PLR0915 - one compiled loop; its steps are functions of other modules
    ticks, state, bit_table, address_of, write_of, arrival_of, first_request, read_queue, write_queue,
    accept_per_tick, outstanding_limit, high_mark, low_mark, row_hit_first, refresh_kind, drain,
    done_request, done_tick,
):
    """Serve a batch of requests in order; return how many finished (in ``done_request``, ``done_tick``).

    ``address_of``: bytes, [n]; ``write_of`` and ``arrival_of``: flags and ticks, [n] or [1] for all alike; a request is
    not accepted before its arrival tick. With ``drain`` the loop runs until all are served, without it until all are
    accepted. ``done_request`` and ``done_tick`` may have length 0: then nothing is noted.
    """
    t, control, counters = ticks[0], state.control[0], state.counters[0]
    banks, queues, slots = borrowed(state.banks), borrowed(state.queues), borrowed(state.slots)
    groups, pseudos, column_ok = borrowed(state.groups), borrowed(state.pseudos), borrowed(state.column_ok)
    columns, column_place, closed_banks = (
        borrowed(state.columns), borrowed(state.column_place), borrowed(state.closed_banks))
    open_banks, refreshes, returns = borrowed(state.open_banks), borrowed(state.refreshes), borrowed(state.returns)
    addresses, writes, arrivals, bits = (
        borrowed(address_of), borrowed(write_of), borrowed(arrival_of), borrowed(bit_table))
    total = addresses.size
    write_step = 1 if writes.size == total else 0
    arrival_step = 1 if arrivals.size == total else 0
    note_completions = done_tick.size > 0
    position, finished = 0, 0
    now = control.now
    accept_from = now
    was_refreshing = False
    # best candidate of each kind; a *_known of False asks for a new search
    column_known, activate_known, precharge_known = False, False, False
    column_tick, column_bank, column_age, column_active = FAR, NONE, NO_AGE, 0
    activate_tick, activate_bank, activate_age = FAR, NONE, NO_AGE
    precharge_tick, precharge_bank, precharge_age = FAR, NONE, NO_AGE

    while True:
        # requests enter before the commands of this tick
        next_accept = FAR
        if position < total:
            note_returned_reads(control, returns, now)
            if now >= accept_from:
                position, new_column, new_activate, new_precharge = accept(
                    control, banks, queues, slots, columns, column_place, closed_banks, open_banks, bits, addresses,
                    writes, arrivals, position, first_request, now, read_queue, write_queue, accept_per_tick,
                    outstanding_limit, precharge_bank)
                column_known = column_known and not new_column
                activate_known = activate_known and not new_activate
                precharge_known = precharge_known and not new_precharge
                accept_from = now + 1
            if position < total:
                next_accept = next_acceptance(
                    control, returns, writes[position * write_step], arrivals[position * arrival_step],
                    accept_from, read_queue, write_queue, outstanding_limit)
        if position >= total and (not drain or control.queued_reads + control.queued_writes + control.active == 0):
            break

        if control.next_refresh <= now:
            push_due_refreshes(t, control, refreshes, banks, refresh_kind)
        refreshing = control.refresh_head < control.refresh_tail
        switched = not refreshing and direction_switches(control, high_mark, low_mark)
        if switched:
            control.write_mode = 1 - control.write_mode
            relist_all(control, banks, queues, slots, columns, column_place, closed_banks, open_banks)
        if switched or refreshing != was_refreshing:
            column_known, activate_known, precharge_known = False, False, False
            was_refreshing = refreshing

        column_floor = max(now, control.column_bus_free)
        row_floor = max(now, control.row_bus_free)
        if not column_known or column_tick < column_floor:
            column_tick, column_bank, column_age, column_active = next_column(
                t, control, columns, column_ok, column_floor, refreshing)
            column_known = True
        close_first = False
        if refreshing:
            row_tick, close_first = next_refresh_command(t, control, banks, pseudos, refreshes, row_floor)
            row_bank, row_age = NONE, NO_AGE
        else:
            if not activate_known or activate_tick < row_floor:
                activate_tick, activate_bank, activate_age = next_activate(
                    t, control, groups, pseudos, closed_banks, row_floor)
                activate_known = True
            if not precharge_known or precharge_tick < row_floor:
                precharge_tick, precharge_bank, precharge_age = next_precharge(
                    control, banks, queues, pseudos, slots, open_banks, row_floor, row_hit_first)
                precharge_known = True
            row_tick, row_bank, row_age = precharge_tick, precharge_bank, precharge_age
            if control.pending_activate < 0 and (
                    activate_tick < row_tick or (activate_tick == row_tick and activate_age < row_age)):
                row_tick, row_bank, row_age = activate_tick, activate_bank, activate_age

        tick = min(column_tick, row_tick)
        second_part = False
        if control.pending_activate >= 0 and (row_floor < tick or control.activate_deadline <= tick):
            # the second part of a split ACT takes the first tick that nothing else wants, at latest its deadline
            tick = row_floor
            second_part = True
        wake = min(next_accept, control.next_refresh)
        if now < wake <= tick:
            now = wake
            continue
        if tick >= FAR:
            return STUCK
        if second_part:
            occupy_bus(t, control, tick, t.activate_bus, False)
            control.pending_activate = NONE
            now = tick + 1
            continue

        do_column = column_tick == tick
        do_row = row_tick == tick
        if do_column and do_row and not t.dual_bus:
            # one command bus: an active request, then refresh, then the older of the two
            if column_active or (not refreshing and column_age < row_age):
                do_row = False
            else:
                do_column = False
        now = tick + 1
        if do_column and do_row and (refreshing or row_bank == column_bank):
            do_row = False  # decided again after the column command, at the same tick
            now = tick
            accept_from = tick + 1

        if do_column:
            burst_tick = tick
            if t.data_clock_hold > 0:
                if tick >= control.data_clock_until:
                    burst_tick = tick + 1  # CAS first, to wake the data clock
                control.data_clock_until = burst_tick + t.data_clock_hold
            bank = column_bank
            if column_active:
                slot = banks[bank].active
                account(t, control, counters, banks, column_ok, pseudos, slots, bank, slot, True, burst_tick)
                banks[bank].active = NONE
                control.active -= 1
                unlist_column(control, columns, column_place, bank, 0)
                relist_rows(control, banks, queues, slots, closed_banks, open_banks, bank)
            else:
                slot = take_hit(queues, slots, control.write_mode * banks.size + bank)
                account(t, control, counters, banks, column_ok, pseudos, slots, bank, slot, False, burst_tick)
                if slots[slot].is_write:
                    control.queued_writes -= 1
                else:
                    control.queued_reads -= 1
            is_write = slots[slot].is_write
            transfer(t, control, banks, pseudos, column_ok, bank, is_write, burst_tick)
            relist_hits(control, banks, queues, slots, columns, column_place, bank)
            column_known = False
            if banks[bank].open_place >= 0:
                # serving may have freed this bank for a PRE, or moved the one that was best
                if bank == precharge_bank:
                    precharge_known = False
                elif precharge_known:
                    ready = precharge_ready(control, banks, queues, pseudos, slots, bank,
                                            max(now, control.row_bus_free), row_hit_first)
                    age = slots[queues[control.write_mode * banks.size + bank].miss_head].age
                    if ready < precharge_tick or (ready == precharge_tick and age < precharge_age):
                        precharge_tick, precharge_bank, precharge_age = ready, bank, age
            done = note_completion(t, control, counters, slots, returns, slot, burst_tick)
            if t.dual_bus and not refreshing and direction_switches(control, high_mark, low_mark):
                do_row = False  # the row command of this very tick is chosen in the new direction
                now = tick
                accept_from = tick + 1
            if note_completions:
                done_request[finished] = slots[slot].request
                done_tick[finished] = done
            finished += 1
            release(control, slots, slot)

        if do_row and refreshing:
            issue_refresh_command(t, control, counters, banks, queues, pseudos, slots, columns, column_place,
                                  closed_banks, open_banks, refreshes, close_first, tick)
        elif do_row and banks[row_bank].open_row < 0:
            activate(t, control, counters, banks, queues, groups, pseudos, slots, columns, column_place, closed_banks,
                     open_banks, row_bank, tick)
            activate_known = False
            if t.split_activate:
                control.pending_activate = row_bank
                control.activate_deadline = tick + t.activate_deadline
            if column_known:
                ready = column_ready(t, columns, column_ok, column_place[2 * row_bank],
                                     max(now, control.column_bus_free))
                age = slots[banks[row_bank].active].age
                if ready < column_tick or (ready == column_tick and (not column_active or age < column_age)):
                    column_tick, column_bank, column_age, column_active = ready, row_bank, age, 1
        elif do_row:
            precharge(t, control, banks, queues, pseudos, slots, columns, column_place, closed_banks, open_banks,
                      row_bank, tick)
            precharge_known = False
            if row_bank == column_bank:
                column_known = False
            if activate_known:
                ready = activate_ready(t, banks, groups, pseudos, row_bank, max(now, control.row_bus_free))
                age = slots[queues[control.write_mode * banks.size + row_bank].miss_head].age
                if ready < activate_tick or (ready == activate_tick and age < activate_age):
                    activate_tick, activate_bank, activate_age = ready, row_bank, age
    control.now = now
    return finished


stamp_with_folder(serve, Path(__file__).parent)
