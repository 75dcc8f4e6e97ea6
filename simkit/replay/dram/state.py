"""What a channel remembers: bank and bus readiness, queued requests, counters, as arrays of records.

Nothing here knows the physics: ``commands`` and ``queues`` change these records, ``channel`` decides when. A state
is carried from one batch of requests to the next by passing it again. All fields are int64; times are ticks.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simkit.replay.dram.timing import FAR, NONE, Ticks


def _record(*fields: str) -> np.dtype[Any]:
    return np.dtype([(field, np.int64) for field in fields], align=True)


CONTROL: Final = _record(
    "now",
    "accepted",  # requests accepted so far: the age of the next one
    "queued_reads", "queued_writes",  # requests that hold a queue slot
    "active",  # requests whose row was opened for them and that still wait for their burst
    "write_mode",
    "free_slot",  # head of the list of free request slots
    "row_bus_free", "column_bus_free",
    "next_refresh", "refresh_head", "refresh_tail",  # ring of due refreshes
    "next_refresh_bank",
    "refresh_from", "refresh_until",  # last interval in which refresh held the channel
    "columns", "closed_banks", "open_banks",  # lengths of the work lists
    "pending_activate", "activate_deadline",  # bank between the two parts of a split ACT, or -1
    "data_clock_until",
    "return_head", "return_tail", "outstanding_reads",  # ring of reads on their way back
    "nonempty_since", "last_done",
)

# Ticks by cause sum to the elapsed ticks of the driven data buses; the rest are plain counters.
COUNTERS: Final = _record(
    "busy", "refresh", "activation_limit", "row_miss", "turnaround", "bank_group", "no_request", "command_bus",
    "row_hits", "reads", "writes", "activates", "refreshes", "read_latency",
)
TIME_COUNTERS: Final = (
    "busy", "refresh", "activation_limit", "row_miss", "turnaround", "bank_group", "no_request", "command_bus",
)

BANK: Final = _record(
    "open_row", "active",  # -1: closed; slot of the request for which the row was opened, or -1
    "activate_ok", "precharge_ok", "read_ok", "write_ok",
    "activate_wait",  # ticks the bank's last ACT waited for tRRD, tFAW or the command bus alone
    "group", "stack", "pseudo",
    "group_column", "stack_column",  # places of its group's and stack's RD in ``column_ok``; WR follows
    "closed_place", "open_place",  # index in the work lists, -1: not in
)
# one per direction and bank, reads first: requests for the open row, and the others, oldest first
QUEUE: Final = _record("hit_head", "hit_tail", "miss_head", "miss_tail")
GROUP: Final = _record("activate_ok")
PSEUDO: Final = _record(
    "activate_ok", "precharge_ok", "refresh_ok", "bank_refresh_ok",
    "last_column", "last_was_write",  # of its last burst; -1 before the first
    "stack_columns", "stack_columns_end",  # its stacks' places in ``column_ok``
    "activate_1", "activate_2", "activate_3",  # ticks of the last ACTs, newest first
)
SLOT: Final = _record("row", "age", "arrival", "is_write", "next", "request")
# A burst that could be next: its preference (``queues``), the tick its bank is ready, and the places in ``column_ok``
# of its group and stack in its direction.
COLUMN: Final = _record("order", "ready", "group", "stack")
# A closed bank with requests: preference by its oldest, the tick it is ready, and what it shares with other banks.
CLOSED: Final = _record("order", "ready", "group", "pseudo")
REFRESH: Final = _record("pseudo", "bank")  # bank -1: all banks

Records = NDArray[Any]


class ChannelState(NamedTuple):
    """Records of one channel; lists of requests are linked by slot number and end with -1."""

    control: Records
    counters: Records
    banks: Records
    queues: Records
    groups: Records
    column_ok: NDArray[np.int64]  # earliest RD and WR of each group, then of each stack: [2 x (groups + stacks)]
    pseudos: Records
    slots: Records
    columns: Records
    column_place: NDArray[np.int64]  # in ``columns``, of each bank's active request and its hits, -1: not in
    closed_banks: Records
    open_banks: NDArray[np.int64]
    refreshes: Records
    returns: NDArray[np.int64]


def _ring_size(least: int) -> int:
    """A power of two, so that a place in the ring is a bit mask and not a division."""
    return 1 << (least - 1).bit_length()


def new_state(ticks: Ticks, *, read_queue: int, write_queue: int, first_refresh: int) -> ChannelState:
    """An idle channel with all banks closed, before tick 1. ``first_refresh`` is FAR when refresh is off."""
    bank_numbers = np.arange(ticks.banks, dtype=np.int64)
    banks = np.zeros(ticks.banks, BANK)
    for field in ("open_row", "active", "closed_place", "open_place"):
        banks[field] = NONE
    banks["group"] = bank_numbers * ticks.groups // ticks.banks
    banks["stack"] = bank_numbers * ticks.stacks // ticks.banks
    banks["pseudo"] = bank_numbers * ticks.pseudo_channels // ticks.banks
    banks["group_column"] = 2 * banks["group"]
    banks["stack_column"] = 2 * (ticks.groups + banks["stack"])

    queues = np.zeros(2 * ticks.banks, QUEUE)
    for field in ("hit_head", "miss_head"):
        queues[field] = NONE

    pseudos = np.zeros(ticks.pseudo_channels, PSEUDO)
    pseudos["last_column"] = 1 - ticks.burst
    pseudos["last_was_write"] = NONE
    stack_columns = 2 * (ticks.groups + np.arange(ticks.pseudo_channels + 1) * ticks.stacks // ticks.pseudo_channels)
    pseudos["stack_columns"], pseudos["stack_columns_end"] = stack_columns[:-1], stack_columns[1:]
    for field in ("activate_1", "activate_2", "activate_3"):
        pseudos[field] = -FAR

    slots = np.zeros(read_queue + write_queue + ticks.banks + 1, SLOT)
    slots["next"] = np.arange(1, slots.size + 1)
    slots["next"][-1] = NONE

    # Reads on their way: all that wait, once nobody counts any more, and those whose data come in a latency.
    on_their_way = slots.size + ticks.pseudo_channels * (ticks.read_done // ticks.burst + 1)
    control = np.zeros(1, CONTROL)
    control["now"] = control["nonempty_since"] = 1
    control["next_refresh"] = first_refresh
    control["pending_activate"] = NONE
    return ChannelState(
        control=control, counters=np.zeros(1, COUNTERS), banks=banks, queues=queues,
        groups=np.zeros(ticks.groups, GROUP), pseudos=pseudos, slots=slots,
        column_ok=np.zeros(2 * (ticks.groups + ticks.stacks), np.int64),
        columns=np.zeros(2 * ticks.banks, COLUMN), column_place=np.full(2 * ticks.banks, NONE, np.int64),
        closed_banks=np.zeros(ticks.banks, CLOSED),
        open_banks=np.zeros(ticks.banks, np.int64),
        refreshes=np.zeros(_ring_size(4 * ticks.banks), REFRESH),
        returns=np.zeros(_ring_size(on_their_way), np.int64),
    )
