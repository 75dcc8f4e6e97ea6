r"""Running the event loop over a kernel plan: every granule, or three shorter lengths and the line through two of them.

Once loads stream, each further granule of every item takes nearly the same time. Lengths ``n``, ``2 n`` and ``4 n``
granules of an item are replayed, whole rounds of a slot's buffers apart, so that they end in the same phase as all
``N``, and the line through the last two is followed. Its slope still creeps where queues settle: the bound is the time
that it takes when the slope goes on to change with every doubling as it did with the last one,

.. math:: \left| s_{4n,2n} - s_{2n,n} \right| \log_2 \frac{N}{4n}\,(N - 4n) + r\,s_{4n,2n}

and one round of ``r`` granules, anywhere in which the last slot may end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simkit.replay import timeline
from simkit.replay.kernel_plan import KernelPlan
from simkit.replay.target import ReplayTarget

MOST_EVENTS: Final = 100_000  # replayed before a kernel's steady state is extrapolated
# Where items differ, short runs may end with other items than the whole one; where they share reads, the cache holds
# another part of them: such a kernel is replayed whole while that stays below half a second.
UNEVEN: Final = 1.25  # assumed: the longest item over the shortest from which that is so
MOST_UNEVEN_EVENTS: Final = 3_000_000
LEAST_ROUNDS: Final = 2  # of a slot's buffers, so that the first loads' latency has passed


# Columns of a run's account after those of the event loop: the unit's load path, then the machine's path.
LOAD_PATH: Final = timeline.FIRST_SERVER
FIRST_LEVEL: Final = LOAD_PATH + 1

_Once = tuple[float, NDArray[np.float64], float]  # seconds, account, share of bytes from the home


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One kernel's time and account in seconds (slot means), and how much of it was replayed.

    ``home_share``: bytes that came from the home over the distinct ones. ``binned_bytes`` [servers, bins] and
    ``replayed_s`` describe the replayed part.
    """

    kernel_s: float
    stalls: NDArray[np.float64]
    home_share: float
    replayed_fraction: float
    bound_s: float
    replayed_s: float
    binned_bytes: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KernelLoop:
    """The event loop's inputs.

    ``extra_bytes`` load each server beside the cache's own bytes; ``compute_s`` is the arithmetic of the whole kernel
    on the whole chip; ``exposed_setup_share`` the part of an item's set-up in which its unit's part of memory is idle.
    The unit's load path is a server of its own before those of the machine's path.
    """

    target: ReplayTarget
    plan: KernelPlan
    home_rate_fraction: float
    hit_share: float
    compute_s: float
    extra_bytes: NDArray[np.float64]
    exposed_setup_share: float

    @cached_property
    def tokens(self) -> int:
        """Tokens read, repeated reads counted."""
        return int(self.plan.item_tokens.sum())

    @property
    def least_s(self) -> float:
        """What no order of events beats: the units' even share of the work, the longest item, the home's bytes."""
        plan, target = self.plan, self.target
        token_s = self._compute_s_per_token
        if plan.unit is not None:
            token_s = max(token_s, plan.bytes_per_token / plan.unit.load_bytes_per_s)
        work_s = float(self._setup_s.sum()) / target.slots + self.tokens * token_s / target.units
        missed = plan.distinct_tokens * plan.bytes_per_token * (1.0 - self.hit_share)
        servers = target.units if target.path[-1].per_unit else 1
        longest_s = float((self._setup_s + plan.item_tokens * token_s).max())
        return max(work_s, longest_s, missed * float(self._s_per_byte()[-1]) / servers)

    @property
    def _shared(self) -> bool:
        """Whether several items read one range, and the cache may serve all but the first."""
        return self.plan.items > self.plan.streams and self.target.cache is not None

    def run(self, *, exact: bool, most_events: int, events: NDArray[np.float64], bins: int) -> Run:
        """Replay all of it, or three lengths and the line through the longer two."""
        plan = self.plan
        whole = int(plan.granules.max())
        lengths = self._lengths(whole, most_events)
        if exact or lengths is None:
            seconds, stalls, home = self._once(whole, whole, events)
            return Run(kernel_s=seconds, stalls=stalls, home_share=home, replayed_fraction=1.0, bound_s=0.0,
                       replayed_s=seconds, binned_bytes=self._traffic(whole, whole, seconds, bins))
        runs = [self._once(length, whole, events if length == lengths[-1] else events[:0]) for length in lengths]
        times = [run[0] for run in runs]
        short, middle, long = lengths
        slope, before = (times[2] - times[1]) / (long - middle), (times[1] - times[0]) / (middle - short)
        beyond = whole - long

        def at_the_end(earlier: Any, last: Any) -> Any:
            return np.maximum(last + (last - earlier) * (beyond / (long - middle)), 0.0)

        # Set-up that binds short runs may hide behind memory in the whole one, which has its own least time.
        seconds = max(float(times[2] + slope * beyond), self.least_s)
        stalls = at_the_end(runs[1][1], runs[2][1])
        bound_s = abs(slope - before) * np.log2(whole / long) * beyond + plan.granules_in_flight * slope
        return Run(kernel_s=seconds, stalls=stalls * (seconds / stalls.sum()), replayed_fraction=long / whole,
                   bound_s=float(bound_s), replayed_s=float(times[2]),
                   home_share=float(np.clip(at_the_end(runs[1][2] * middle, runs[2][2] * long) / whole,
                                            1.0, self.tokens / plan.distinct_tokens)),
                   binned_bytes=self._traffic(long, whole, float(times[2]), bins))

    def _lengths(self, whole: int, most_events: int) -> list[int] | None:
        """Granules of the longest item to replay, each a whole number of buffer rounds short of all of them."""
        plan = self.plan
        rounds = plan.granules_in_flight
        events_a_granule = float(plan.granules.sum()) / whole
        uneven = whole > UNEVEN * float(plan.granules.min()) or self._shared
        if events_a_granule * whole <= (max(most_events, MOST_UNEVEN_EVENTS) if uneven else most_events):
            return None
        # Lengths n, 2 n and 4 n cost 7 n granules of every item.
        step = round(most_events / events_a_granule / 7 / rounds)
        # The usual item streams too, not only the longest: else its first loads would be most of a short run.
        least = int(np.ceil(LEAST_ROUNDS * whole / float(np.median(plan.granules))))
        lengths = [whole % rounds + count * max(step, least) * rounds for count in (1, 2, 4)]
        return lengths if sum(lengths) < whole else None

    def _traffic(self, length: int, whole: int, seconds: float, bins: int) -> NDArray[np.float64]:
        """Bytes that each server moved in each of ``bins`` parts of a run that takes ``seconds``."""
        moved = np.zeros((len(self.target.path), bins))
        if bins:
            self._once(length, whole, np.zeros((0, timeline.EVENT_COLUMNS)), moved, seconds / bins)
        return moved

    def _once(self, length: int, whole: int, events: NDArray[np.float64],
              binned_bytes: NDArray[np.float64] | None = None, bin_s: float = 1.0) -> _Once:
        """Run with the longest item cut to ``length`` of ``whole`` granules, and the others in proportion."""
        target, plan = self.target, self.plan
        tokens = plan.item_tokens
        if length < whole:
            granules = np.maximum(np.round(plan.granules * (length / whole)), 1).astype(np.int64)
            tokens = np.minimum(granules * plan.granule_tokens, tokens)
        window = 0.0 if target.cache is None else float(target.cache.usable_bytes)
        items = timeline.Items(
            tokens=tokens, stream=plan.item_stream, granule_tokens=plan.granule_tokens,
            granules_per_stream=int(-(-int(tokens.max()) // plan.granule_tokens)), in_flight=plan.granules_in_flight,
            bytes_per_token=plan.bytes_per_token, setup_s=self._setup_s, exposed_setup_share=self.exposed_setup_share,
            shared=self._shared,
            compute_s_per_token=self._compute_s_per_token)
        path = timeline.Path(
            units=target.units, slots_per_unit=target.slots_per_unit, s_per_byte=self._s_per_byte(),
            per_unit=np.array([1, *(int(server.per_unit) for server in target.path)], dtype=np.int64),
            latency_s=np.array([0.0, *(server.latency_s for server in target.path)]),
            cache_server=-1 if target.cache is None else target.cache_server + 1,
            extra_share=np.concatenate(([0.0], self.extra_bytes / (self.tokens * plan.bytes_per_token))),
            hit_share=self.hit_share, reread_window_bytes=window * length / whole)
        bins = 0 if binned_bytes is None else binned_bytes.shape[1]
        record = timeline.Record(
            stalls=np.zeros(timeline.FIRST_SERVER + 1 + len(target.path)), home_tokens=np.zeros(1, dtype=np.int64),
            events=events, bin_s=bin_s, binned_bytes=np.zeros((1 + len(target.path), bins)))
        seconds = timeline.run_items(items, path, record)
        distinct = plan.distinct_tokens * (float(tokens.sum()) / self.tokens)
        if binned_bytes is not None:
            binned_bytes += record.binned_bytes[1:]
        return float(seconds), record.stalls / target.slots, float(record.home_tokens[0]) / distinct

    def _s_per_byte(self) -> NDArray[np.float64]:
        """Of one server of each kind; the home's with the losses of the access pattern."""
        target = self.target
        load = 0.0 if self.plan.unit is None else 1.0 / self.plan.unit.load_bytes_per_s
        times = np.array([load, *(
            (target.units if server.per_unit else 1) / server.bytes_per_s for server in target.path)])
        times[-1] /= self.home_rate_fraction
        return times

    @cached_property
    def _compute_s_per_token(self) -> float:
        """Of one item on its unit: at least its even part of the chip's arithmetic."""
        even = self.compute_s * self.target.units / self.tokens
        return even if self.plan.unit is None else max(even, self.plan.unit.token_s)

    @cached_property
    def _setup_s(self) -> NDArray[np.float64]:
        """Of each item; what is left of its last tile is loaded and computed without use."""
        plan, unit = self.plan, self.plan.unit
        if unit is None:
            return np.full(plan.items, self.target.item_setup_s)
        # Timed kernels waited for their first loads inside their set-up; here these are waited for when they are made.
        waited = self.target.path[-1].latency_s
        if self.hit_share == 1.0:
            waited = self.target.path[self.target.cache_server].latency_s
        rest = -plan.item_tokens % unit.tile_tokens
        token_s = max(self._compute_s_per_token, plan.bytes_per_token / unit.load_bytes_per_s)
        return np.asarray(self.target.item_setup_s + max(unit.setup_s - waited, 0.0) + rest * token_s)
