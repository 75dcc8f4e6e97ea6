"""Replay requests on one DRAM channel: the Python interface of the event model.

>>> import numpy as np
>>> from simkit.replay.dram.standards import standard_named
>>> config = DramConfig(standard=standard_named("HBM3_6400"))
>>> result = replay_requests(config, np.arange(0, 1 << 20, 32))
>>> round(result.achieved_fraction_of_peak, 2)      # tRFC / tREFI and the reopening of rows cost the rest
0.9
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simkit.foundation.errors import UserError, did_you_mean
from simkit.replay.dram import refresh as refreshing
from simkit.replay.dram.channel import STUCK, serve
from simkit.replay.dram.mapping import AddressMapping, mapping_named
from simkit.replay.dram.standards import DramStandard
from simkit.replay.dram.state import TIME_COUNTERS, ChannelState, new_state
from simkit.replay.dram.timing import AGE_BITS, FAR, Ticks, as_record, resolve

Scheduler = Literal["rowhit", "frfcfs"]
Refresh = Literal["ab", "pb", "none"]

SCHEDULERS: Final = ("rowhit", "frfcfs")
REFRESHES: Final[dict[str, int]] = {
    "none": refreshing.REFRESH_OFF, "ab": refreshing.REFRESH_ALL_BANKS, "pb": refreshing.REFRESH_PER_BANK,
}

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DramConfig:
    """One channel and its controller.

    ``driven_pseudo_channels``: 1 models one pseudo-channel with the command buses to itself, 2 both behind shared
    ones. ``read_queue``/``write_queue`` are entries; ``scheduler`` ``rowhit`` (row-hit protection) or ``frfcfs``;
    ``refresh`` ``ab`` (all banks), ``pb`` (per bank) or ``none``; ``accept_per_tick`` requests may enter in one tick;
    write draining starts above ``write_high_mark`` of the write queue and ends below ``write_low_mark``.
    """

    standard: DramStandard
    mapping: str = "bg128"
    driven_pseudo_channels: int = 1
    read_queue: int = 64  # entries; the reference runs' base case, as are the three below
    write_queue: int = 64  # likewise
    scheduler: Scheduler = "rowhit"
    refresh: Refresh = "ab"
    accept_per_tick: int = 4  # likewise
    write_high_mark: float = 0.8  # Ramulator 2.1's wr_high_watermark
    write_low_mark: float = 0.2  # Ramulator 2.1's wr_low_watermark

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise UserError(f"unknown DRAM scheduler '{self.scheduler}'",
                            hint=did_you_mean(self.scheduler, SCHEDULERS))
        if self.refresh not in REFRESHES:
            raise UserError(f"unknown DRAM refresh '{self.refresh}'", hint=did_you_mean(self.refresh, REFRESHES))
        if self.refresh == "pb" and not self.standard.refi_per_bank_cycles:
            raise UserError(f"{self.standard.name} has no per-bank refresh interval in its parameter set")
        if self.refresh == "ab" and self.standard.rfc_cycles >= self.standard.refi_cycles:
            raise UserError(f"{self.standard.name}: a refresh takes {self.standard.rfc_cycles} clocks and is due every "
                            f"{self.standard.refi_cycles}, nothing else could be served")
        for name in ("read_queue", "write_queue", "accept_per_tick"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.driven_pseudo_channels <= self.standard.pseudo_channels:
            raise UserError(f"{self.standard.name} has {self.standard.pseudo_channels} pseudo-channel(s), "
                            f"cannot drive {self.driven_pseudo_channels}")
        if not 0.0 <= self.write_low_mark <= self.write_high_mark <= 1.0:
            raise UserError("write marks must satisfy 0 <= low <= high <= 1, "
                            f"got {self.write_low_mark} and {self.write_high_mark}")

    @property
    def peak_bandwidth_bytes_per_s(self) -> float:
        """Peak of the driven data buses together."""
        return self.driven_pseudo_channels * self.standard.peak_bandwidth_bytes_per_s

    @property
    def capacity_bytes(self) -> int:
        """Bytes behind the driven data buses."""
        return self.driven_pseudo_channels * self.standard.pseudo_channel_bytes

    def address_mapping(self) -> AddressMapping:
        """The mapping as bit fields."""
        return mapping_named(self.mapping, self.standard, driven_pseudo_channels=self.driven_pseudo_channels)


@dataclass(frozen=True, kw_only=True)
class DramResult:
    """What a channel did from its first tick until the end of the batch.

    ``elapsed_s`` runs until the last finished request's last data beat; ``time_s_by_cause`` says what the data buses
    did meanwhile and sums to ``elapsed_s`` (averaged over driven buses): ``busy`` moves data; the others wait, for
    ``refresh``, ``activation_limit`` (tRRD, tFAW), ``row_miss`` (tRP, tRCD, tRC), ``turnaround`` (read/write),
    ``bank_group`` (tCCD_L), ``no_request``, ``command_bus``, and ``pipeline`` (latency after the last command).
    ``request`` and ``completion_s`` are the requests that finished in this batch, in order of service.
    """

    config: DramConfig
    requests: int
    row_hits: int
    activates: int
    refreshes: int
    elapsed_s: float
    bytes_moved: int
    mean_read_latency_s: float
    time_s_by_cause: Mapping[str, float]
    request: IntArray
    completion_s: NDArray[np.float64]

    @cached_property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes moved over elapsed time; whole bursts count."""
        return self.bytes_moved / self.elapsed_s if self.elapsed_s else 0.0

    @cached_property
    def achieved_fraction_of_peak(self) -> float:
        """Bandwidth over the driven data buses' peak."""
        return self.bandwidth_bytes_per_s / self.config.peak_bandwidth_bytes_per_s

    @cached_property
    def row_hit_fraction(self) -> float:
        """Share of requests that found their row open."""
        return self.row_hits / self.requests if self.requests else 0.0


class DramChannel:
    """A channel that serves batches of requests and keeps its state, and its clock, between them."""

    def __init__(self, config: DramConfig) -> None:
        self.config = config
        self.mapping = config.address_mapping()
        self.ticks: Ticks = resolve(config.standard)
        first_refresh = {"none": FAR, "ab": self.ticks.refresh_interval, "pb": self.ticks.bank_refresh_interval}
        self.state: ChannelState = new_state(
            self.ticks, read_queue=config.read_queue, write_queue=config.write_queue,
            first_refresh=first_refresh[config.refresh])
        self.tick_s = config.standard.clock_period_ps * 1e-12 / self.ticks.ticks_per_clock
        self._tick_record = as_record(self.ticks)
        self._bit_table = self.mapping.bit_table()
        self._sent = 0

    def bank_and_row(self, address_bytes: IntArray) -> tuple[IntArray, IntArray]:
        """Flat bank numbers over pseudo-channel, stack, group and bank, and rows."""
        where = self.mapping.decode(address_bytes)
        standard = self.config.standard
        bank = where.pseudo_channel * standard.stacks + where.stack
        bank = bank * standard.bank_groups + where.group
        return bank * standard.banks_per_group + where.bank, where.row

    def submit(
        self,
        address_bytes: ArrayLike,
        *,
        is_write: ArrayLike | None = None,
        arrival_s: ArrayLike | None = None,
        max_outstanding_reads: int | None = None,
        drain: bool = True,
        completions: bool = True,
    ) -> DramResult:
        """Serve one burst at each address, in order.

        Parameters: ``address_bytes`` [n] inside this channel; ``is_write`` [n] or None (reads); ``arrival_s`` [n],
        ascending, on the channel's own clock (None: all there at once); ``max_outstanding_reads`` accepted and not yet
        returned; ``drain`` False stops when all are accepted and leaves the queue to the next batch; ``completions``
        False leaves the per-request times out of the result.
        Returns: a ``DramResult`` since the channel's start, with the requests that finished in this call; requests are
        numbered from 0 over all batches.
        """
        address = np.ascontiguousarray(address_bytes, dtype=np.int64)
        count = address.size
        write = np.zeros(1, np.int64) if is_write is None else np.ascontiguousarray(is_write, dtype=np.int64)
        arrival = np.zeros(1, np.int64)
        if arrival_s is not None:
            arrival = np.ceil(np.asarray(arrival_s, np.float64) / self.tick_s - 1e-6).astype(np.int64)
        for name, given, values in (("is_write", is_write, write), ("arrival_s", arrival_s, arrival)):
            if given is not None and values.size != count:
                raise UserError(f"{name} must have one entry per address ({count}), got {values.size}")
        if count and address.min() < 0:
            raise UserError(f"addresses must not be negative, got {address.min()}")
        if arrival.size > 1 and np.any(np.diff(arrival) < 0):
            raise UserError("arrival_s must ascend")
        if max_outstanding_reads is not None and max_outstanding_reads < 1:
            raise UserError(f"max_outstanding_reads must be at least 1, got {max_outstanding_reads}")

        if self._sent + count >= 1 << AGE_BITS:
            raise UserError(f"a channel takes fewer than {1 << AGE_BITS:,} requests, start a new one")

        config = self.config
        room = count + self.state.slots.size if completions else 0
        done_request, done_tick = np.empty(room, np.int64), np.empty(room, np.int64)
        finished = serve(  # type: ignore[no-untyped-call]  # compiled from NumPy records
            self._tick_record, self.state, self._bit_table, address, write, arrival, self._sent,
            config.read_queue, config.write_queue, config.accept_per_tick,
            FAR if max_outstanding_reads is None else max_outstanding_reads,
            math.floor(config.write_high_mark * config.write_queue),
            max(1, math.ceil(config.write_low_mark * config.write_queue)),
            config.scheduler == "rowhit", REFRESHES[config.refresh], drain, done_request, done_tick)
        if finished == STUCK:
            raise RuntimeError("the DRAM event loop found no command that could ever be issued")
        self._sent += count
        return self._result(done_request[:finished], done_tick[:finished])

    def _result(self, request: IntArray, tick: IntArray) -> DramResult:
        control, counters = self.state.control[0], self.state.counters[0]
        buses = self.config.driven_pseudo_channels
        elapsed = int(control["last_done"])
        causes = {cause: int(counters[cause]) / buses * self.tick_s for cause in TIME_COUNTERS}
        causes["pipeline"] = elapsed * self.tick_s - sum(causes.values())
        requests = int(counters["reads"] + counters["writes"])
        reads = int(counters["reads"])
        return DramResult(
            config=self.config,
            requests=requests,
            row_hits=int(counters["row_hits"]),
            activates=int(counters["activates"]),
            refreshes=int(counters["refreshes"]),
            elapsed_s=elapsed * self.tick_s,
            bytes_moved=requests * self.config.standard.burst_bytes,
            mean_read_latency_s=int(counters["read_latency"]) / reads * self.tick_s if reads else 0.0,
            time_s_by_cause=causes,
            request=request,
            completion_s=np.asarray(tick * self.tick_s, np.float64),
        )


def replay_requests(
    config: DramConfig,
    address_bytes: ArrayLike,
    *,
    is_write: ArrayLike | None = None,
    arrival_s: ArrayLike | None = None,
    max_outstanding_reads: int | None = None,
    completions: bool = True,
) -> DramResult:
    """Serve all requests on a fresh channel; see ``DramChannel.submit``."""
    return DramChannel(config).submit(address_bytes, is_write=is_write, arrival_s=arrival_s,
                                      max_outstanding_reads=max_outstanding_reads, completions=completions)
