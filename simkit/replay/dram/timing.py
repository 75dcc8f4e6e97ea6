"""From a parameter set to integer ticks between pairs of commands.

A tick is one CK, or half a CK where row commands may start on half clocks (HBM3, HBM4). The standards count a
delay from the end of one command to the end of the next, and the event model notes when commands start, so a
delay between commands that take a and b ticks on the bus becomes

.. math:: n' = n + (a - 1) - (b - 1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import UserError
from simkit.replay.dram.standards import DramStandard

FAR: int = 1 << 60  # later than any tick of a replay
NONE: int = -1  # no slot, bank, place or row
# What compiled searches pack into one integer, with a bit for active requests.
WAIT_BITS: int = 21  # ticks that a command must wait: tRFC, the longest delay, is 350 ns, 700 000 half clocks of 1 ps
AGE_BITS: int = 33  # requests that a channel can be sent
BANK_BITS: int = 8  # banks of a channel: 64 at the most in these standards, and more than 256 are refused below


class Ticks(NamedTuple):
    """Least ticks between the starts of two commands, and the shape of the channel; all integers."""

    ticks_per_clock: int
    dual_bus: int
    half_clock: int
    split_activate: int
    pseudo_channels: int
    stacks: int  # over all pseudo-channels
    groups: int  # over all pseudo-channels
    banks: int  # over all pseudo-channels
    burst: int
    read_done: int  # read command to its last data beat
    write_done: int
    activate_to_read: int
    activate_to_write: int
    activate_to_precharge: int
    activate_to_activate_same_bank: int
    activate_to_activate: int
    activate_to_activate_same_group: int
    four_activates: int
    precharge_to_activate: int
    precharge_to_precharge: int
    read_to_precharge: int
    write_to_precharge: int
    read_to_read: int
    read_to_read_same_group: int
    read_to_read_other_stack: int
    write_to_write: int
    write_to_write_same_group: int
    write_to_write_other_stack: int
    read_to_write: int
    write_to_read: int
    write_to_read_same_group: int
    precharge_to_refresh: int
    activate_to_refresh: int
    refresh_to_activate: int
    bank_refresh_to_activate: int
    bank_refresh_to_activate_other: int
    activate_to_bank_refresh_other: int
    refresh_interval: int
    bank_refresh_interval: int
    activate_bus: int
    column_bus: int
    row_bus: int  # PRE and REF
    activate_deadline: int
    data_clock_hold: int


def resolve(standard: DramStandard) -> Ticks:
    """Integer ticks of ``standard``; the one place where cycles become ticks."""
    half_clock = standard.command_bus == "row_and_column_half_clock"
    per_clock = 2 if half_clock else 1

    def ticks(cycles: float) -> int:
        return round(cycles * per_clock)

    activate = ticks(standard.activate_bus_cycles)
    column = ticks(standard.column_bus_cycles)
    row = ticks(standard.precharge_bus_cycles)

    def between(cycles: float, first: int, second: int) -> int:
        return max(1, ticks(cycles) + (first - 1) - (second - 1))

    s = standard
    if s.pseudo_channels * s.banks_per_pseudo_channel > 1 << BANK_BITS:
        raise UserError(f"{s.name}: more than {1 << BANK_BITS} banks behind one channel")
    if 2 * ticks(max(s.rfc_cycles, s.rfc_per_bank_cycles, s.rc_cycles + s.rp_cycles)) >= 1 << WAIT_BITS:
        raise UserError(f"{s.name}: its delays are too many clocks, use a slower clock")
    write_data = s.write_latency_cycles + s.burst_cycles
    pseudo = s.pseudo_channels
    return Ticks(
        ticks_per_clock=per_clock,
        dual_bus=int(s.command_bus.startswith("row_and_column")),
        half_clock=int(half_clock),
        split_activate=int(s.command_bus == "single_split_activate"),
        pseudo_channels=pseudo,
        stacks=pseudo * s.stacks,
        groups=pseudo * s.stacks * s.bank_groups,
        banks=pseudo * s.banks_per_pseudo_channel,
        burst=ticks(s.burst_cycles),
        read_done=ticks(s.read_latency_cycles + s.burst_cycles),
        write_done=ticks(write_data),
        activate_to_read=between(s.rcd_read_cycles, activate, column),
        activate_to_write=between(s.rcd_write_cycles, activate, column),
        activate_to_precharge=between(s.ras_cycles, activate, row),
        activate_to_activate_same_bank=ticks(s.rc_cycles),
        activate_to_activate=ticks(s.rrd_short_cycles),
        activate_to_activate_same_group=ticks(s.rrd_long_cycles),
        four_activates=ticks(s.faw_cycles),
        precharge_to_activate=between(s.rp_cycles, row, activate),
        precharge_to_precharge=ticks(s.precharge_to_precharge_cycles),
        read_to_precharge=between(s.read_to_precharge_cycles, column, row),
        write_to_precharge=between(write_data + s.write_recovery_cycles, column, row),
        read_to_read=ticks(max(s.burst_cycles, s.ccd_short_cycles)),
        read_to_read_same_group=ticks(s.ccd_long_cycles),
        read_to_read_other_stack=ticks(max(s.burst_cycles, s.ccd_other_stack_cycles)),
        write_to_write=ticks(max(s.burst_cycles, s.ccd_short_write_cycles)),
        write_to_write_same_group=ticks(s.ccd_long_write_cycles),
        write_to_write_other_stack=ticks(max(s.burst_cycles, s.ccd_other_stack_cycles)),
        read_to_write=ticks(s.read_to_write_cycles),
        write_to_read=ticks(write_data + s.wtr_short_cycles),
        write_to_read_same_group=ticks(write_data + s.wtr_long_cycles),
        precharge_to_refresh=ticks(s.rp_cycles),
        activate_to_refresh=between(s.rc_cycles, activate, row),
        refresh_to_activate=between(s.rfc_cycles, row, activate),
        bank_refresh_to_activate=between(s.rfc_per_bank_cycles, row, activate),
        bank_refresh_to_activate_other=between(s.refresh_to_activate_other_bank_cycles, row, activate),
        activate_to_bank_refresh_other=between(s.rrd_short_cycles, activate, row),
        refresh_interval=ticks(s.refi_cycles),
        bank_refresh_interval=ticks(s.refi_per_bank_cycles),
        activate_bus=activate,
        column_bus=column,
        row_bus=row,
        activate_deadline=ticks(s.activate_split_deadline_cycles),
        data_clock_hold=ticks(s.data_clock_hold_cycles),
    )


def as_record(ticks: Ticks) -> NDArray[Any]:
    """``ticks`` as a one-element array of records, the form that compiled code takes."""
    record = np.zeros(1, np.dtype([(field, np.int64) for field in Ticks._fields]))
    record[0] = tuple(ticks)
    return record
