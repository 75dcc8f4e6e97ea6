"""Replaying one attention operator on one chip: plan, DRAM pattern, event loop, combine pass, account of time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from simkit.hardware.profile import HardwareProfile
from simkit.replay import steady_state, timeline
from simkit.replay.dram_pattern import Pattern, PatternRate, gathered_rate, pattern_rate, tile_pattern
from simkit.replay.kernel_choice import combining_s, parameters_of
from simkit.replay.kernel_plan import LEAST_GRANULE_TOKENS, TILE_TOKENS, KernelPlan, plan_kernels
from simkit.replay.sram_banks import bank_fraction
from simkit.replay.steady_state import MOST_EVENTS, KernelLoop
from simkit.replay.target import ReplayTarget, Server, target_of
from simkit.step.operators import AttentionTask, Operator
from simkit.step.placement import Placement
from simkit.timing.kernel_cost import ChipKernel
from simkit.timing.roofs import compute_time_s, cyclic_hit_share, memory_times, special_function_time_s
from simkit.timing.step_timing import COMPUTE, LATENCY, LOAD_PATH, SPECIAL_FUNCTION

Start = Literal["cold", "warm"]
IMBALANCE: Final = "imbalance"
LAUNCH: Final = "launch"
CLEARLY: Final = 1.02  # beyond what an extrapolated steady state may miss
WORTH: Final = 1.03  # what a kernel that the cost model ranks second must be able to win to be replayed too


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionReplay:
    """What one execution of an attention operator did on one chip.

    ``stall_s`` sums to ``total_s``: launch, latency, one entry a memory level (waiting for its bandwidth), load_path
    (waiting because a unit keeps too few bytes in flight), compute, special_function, imbalance (slots idle after
    their last item). ``extrapolation_bound_s`` is how far the steady-state extrapolation may be off; 0 when every
    granule was replayed. ``events`` are (slot, item, start, end) and ``event_tokens`` the whole length of each of these
    items; slot ``s`` runs on unit ``s`` mod ``units``.
    ``binned_bytes`` [servers of ``path``, bins] the bytes in equal parts of ``replayed_s``, from the first dispatch on.
    """

    total_s: float
    stall_s: dict[str, float]
    level_bytes: dict[str, float]
    utilisation: dict[str, float]
    row_hit_fraction: float | None
    home_rate_fraction: float
    cycles: float | None
    items: int
    units: int
    splits: float
    replayed_fraction: float
    extrapolation_bound_s: float
    path: tuple[str, ...]
    replayed_s: float
    binned_bytes: NDArray[np.float64]
    events: NDArray[np.float64]
    event_tokens: NDArray[np.int64]
    pattern: Pattern | None = None
    """What the DRAM that holds the cache is asked for; None where it is none."""

    @property
    def cause_s(self) -> dict[str, float]:
        """The stall account in the contract's words: launch and imbalance are latency."""
        causes = dict(self.stall_s)
        causes[LATENCY] += causes.pop(LAUNCH) + causes.pop(IMBALANCE)
        return causes


def replay_attention(operator: Operator, task: AttentionTask, placement: Placement, hardware: HardwareProfile, *,
                     start: Start = "cold", alone: bool = False, exact: bool = False, most_events: int = MOST_EVENTS,
                     most_recorded_items: int = 0, bins: int = 0) -> AttentionReplay:
    """Replay one operator whose fields are single numbers.

    Parameters
    ----------
    operator, task, placement, hardware: what is read, where it lives, on which chip.
    start: ``cold`` (other layers' bytes went through the cache since) or ``warm`` (the kernel loops alone).
    alone: the kernel is timed by itself, so that its whole launch floor counts instead of a launch inside a step.
    exact: replay every granule instead of extrapolating the steady state.
    most_events: loads replayed before the steady state is extrapolated.
    most_recorded_items: work items whose start and end are kept for a timeline.
    bins: parts of the replayed time in which bytes are counted, for a timeline.

    A cache that straddles levels does so by layers: the operator is replayed in each home and the mean over the layers
    returned. Raises :class:`UserError` as :func:`simkit.replay.target.target_of` does.
    """
    shares = {name: float(share) for name, share in placement.kv.items()}
    shares = {name: share for name, share in shares.items() if share > 0} or {next(iter(shares)): 1.0}
    options: dict[str, Any] = {
        "alone": alone, "exact": exact, "most_events": most_events, "most_recorded_items": most_recorded_items,
        "bins": bins}
    replays = [
        (share, _best_of(target_of(hardware, name), operator, task, replace(placement, kv={name: 1.0}), start,
                         options))
        for name, share in shares.items()]
    if len(replays) == 1:
        return replays[0][1]
    return _layer_mean(replays)


def _best_of(target: ReplayTarget, operator: Operator, task: AttentionTask, placement: Placement, start: Start,
             options: dict[str, Any]) -> AttentionReplay:
    """The fastest of what a kernel may do with what it has: leave buffers idle, or not count on the cache.

    Granules are discrete, so that twice the buffers can happen to serve a queue in a worse order; a kernel that
    measured this would use half of them. Halving stops once a slot has one load in flight.
    """
    starts: tuple[Start, ...] = ("cold",) if start == "cold" else ("warm", "cold")
    token_bytes = float(task.bytes_per_token_head)
    replays: list[AttentionReplay] = []
    tried: set[Any] = set()
    buffered = target
    while True:
        before = len(replays)
        for one in starts:
            replays += _replays_in(buffered, operator, task, placement, start=one, replays=replays, tried=tried,
                                   **options)
        in_flight = _in_flight_bytes(buffered, task)
        single = in_flight < LEAST_GRANULE_TOKENS * token_bytes
        if replays and (not np.isfinite(in_flight) or (single and len(replays) == before)):
            return _fastest(replays)
        buffered = replace(buffered, load_fraction=buffered.load_fraction / 2,
                           outstanding_bytes_per_slot=buffered.outstanding_bytes_per_slot / 2)


def _fastest(replays: list[AttentionReplay]) -> AttentionReplay:
    """The fastest one; its bound covers what another, extrapolated one may take less in truth."""
    fastest = min(replays, key=lambda one: one.total_s)
    least_s = min(one.total_s - one.extrapolation_bound_s for one in replays)
    return replace(fastest, extrapolation_bound_s=max(fastest.extrapolation_bound_s, fastest.total_s - least_s))


def _in_flight_bytes(target: ReplayTarget, task: AttentionTask) -> float:
    """What one slot's loads may fill: what the profile says, and the load path of measured kernels."""
    parameters = parameters_of(task, target.hardware, target.home) if target.schedule == "dispatched" else None
    if parameters is None:
        return target.outstanding_bytes_per_slot
    in_flight = float(parameters.load_bytes_per_s * parameters.dram_latency_s * target.load_fraction)
    return min(target.outstanding_bytes_per_slot, in_flight)


def _replays_in(target: ReplayTarget, operator: Operator, task: AttentionTask, placement: Placement, *, start: Start,
                replays: list[AttentionReplay], tried: set[Any], alone: bool, exact: bool, most_events: int,
                most_recorded_items: int, bins: int) -> list[AttentionReplay]:
    """The ways to run the kernel on these buffers.

    Left out is what was tried before, or whose least possible time is clearly above that of the best one so far.
    """
    parameters = parameters_of(task, target.hardware, target.home) if target.schedule == "dispatched" else None
    hit_share = 0.0
    if start == "warm":
        hit_share = float(cyclic_hit_share(operator.kv_read_bytes, target.cache,
                                           None if parameters is None else parameters.kernel))
    target = _as_measured(_with_page_table(target, task, parameters), parameters)
    found: list[AttentionReplay] = []
    plans = plan_kernels(operator, task, target, parameters=parameters, hit_share=hit_share, alone=alone)
    for rank, plan in enumerate(plans):
        if (start, plan.name) in tried:
            continue
        tried.add((start, plan.name))
        best_s = min((one.total_s for one in (*replays, *found)), default=float("inf"))
        replayed = _replay_plan(
            target, plan, operator, task, placement, parameters=parameters, hit_share=hit_share,
            could_win_s=best_s * (CLEARLY if rank == 0 else 1.0 / WORTH), alone=alone, exact=exact,
            most_events=most_events, most_recorded_items=most_recorded_items, bins=bins)
        found += [] if replayed is None else [replayed]
    return found


def _replay_plan(target: ReplayTarget, plan: KernelPlan, operator: Operator, task: AttentionTask,
                 placement: Placement, *, parameters: ChipKernel | None, hit_share: float, could_win_s: float,
                 alone: bool, exact: bool, most_events: int, most_recorded_items: int,
                 bins: int) -> AttentionReplay | None:
    """One plan run; None when its least possible time is above ``could_win_s``."""
    hardware, kv_bytes = target.hardware, float(operator.kv_read_bytes)
    rate = _dram_rate(target, plan, operator, task)
    arithmetic = {COMPUTE: float(compute_time_s(operator, hardware, placement)),
                  SPECIAL_FUNCTION: float(special_function_time_s(operator, hardware))}
    busiest = max(arithmetic, key=lambda name: arithmetic[name])
    once = _level_bytes(replace(operator, kv_reread_bytes=task.shared_reread_bytes), placement, hardware)
    loop = KernelLoop(
        target=target, plan=plan, home_rate_fraction=rate.fraction, compute_s=arithmetic[busiest],
        hit_share=hit_share,
        exposed_setup_share=0.0 if parameters is None else parameters.kernel.exposed_setup_fraction,
        extra_bytes=np.array([once[server.name] - kv_bytes for server in target.path]))
    if loop.least_s > could_win_s:
        return None
    events = np.zeros((most_recorded_items, timeline.EVENT_COLUMNS))
    run = loop.run(exact=exact, most_events=most_events, events=events, bins=bins)
    launch_s = hardware.overheads.kernel_launch_s
    if alone and plan.unit is not None:
        launch_s = plan.unit.floor_s
    stalls = {
        LAUNCH: operator.launches * launch_s,
        LATENCY: float(run.stalls[timeline.SETUP] + run.stalls[timeline.WAIT_LATENCY]),
        busiest: float(run.stalls[timeline.COMPUTE] + run.stalls[timeline.CONTENTION]),
        LOAD_PATH: float(run.stalls[timeline.WAIT_IN_FLIGHT] + run.stalls[steady_state.LOAD_PATH]),
        IMBALANCE: float(run.stalls[timeline.IMBALANCE]),
        **{server.name: float(run.stalls[steady_state.FIRST_LEVEL + i]) for i, server in enumerate(target.path)},
    }
    if parameters is None or plan.unit is None:
        through, combine_s = _combine(plan, target)
        stalls[through.name] += combine_s
    else:
        row_elements = float(task.sequences) * float(task.kv_heads) * float(task.query_rows) * task.value_dim
        stalls[LATENCY] += (combining_s(row_elements, plan.cut, parameters) + plan.unit.rows_s
                            + _ramp_s(parameters) * (1.0 - hit_share))
    total = sum(stalls.values())
    level_bytes = _moved(once, target, loop, run.home_share, kv_bytes)
    clock, ended = hardware.compute.clock_hz, int(np.count_nonzero(events[:, 3]))
    return AttentionReplay(
        total_s=total, stall_s=stalls, level_bytes=level_bytes, items=plan.items, units=target.units,
        splits=plan.splits,
        utilisation={server.name: level_bytes[server.name] / (total * server.bytes_per_s) for server in target.path}
        | {busiest: arithmetic[busiest] / total},
        row_hit_fraction=None if target.home.kind != "dram" else rate.row_hit_fraction,
        home_rate_fraction=rate.fraction, cycles=None if clock is None else total * clock,
        replayed_fraction=run.replayed_fraction, extrapolation_bound_s=run.bound_s,
        path=tuple(server.name for server in target.path), replayed_s=run.replayed_s, binned_bytes=run.binned_bytes,
        pattern=None if target.home.kind != "dram" else _tile_reads(target, plan, operator, task),
        events=events[:ended], event_tokens=plan.item_tokens[events[:ended, 1].astype(np.int64)])


def _ramp_s(parameters: ChipKernel) -> float:
    """Fill and drain of the DRAM's pipeline beyond the one latency that a replay itself waits for."""
    return float(max(parameters.kernel.dram_ramp_ratio - 1.0, 0.0) * parameters.dram_latency_s)


def _level_bytes(operator: Operator, placement: Placement, hardware: HardwareProfile) -> dict[str, float]:
    _, moved = memory_times(operator, placement, hardware)
    return {name: float(amount) for name, amount in moved.items()}


def _moved(once: dict[str, float], target: ReplayTarget, loop: KernelLoop, home_share: float,
           kv_bytes: float) -> dict[str, float]:
    """Bytes at each level: every read at levels up to the shared cache, what that did not serve beyond it."""
    names = [server.name for server in target.path]
    repeats = loop.tokens / loop.plan.distinct_tokens - 1.0
    found = dict(once)
    for place, name in enumerate(names):
        if place <= target.cache_server:
            found[name] += repeats * kv_bytes
        else:
            # Every byte once in a cold cache: this is the operators' count to the last bit.
            found[name] += (home_share - 1.0) * kv_bytes - home_share * loop.hit_share * kv_bytes
    return found


def _with_page_table(target: ReplayTarget, task: AttentionTask, parameters: ChipKernel | None) -> ReplayTarget:
    """A paged cache's first load waits for its page number; later ones are read ahead.

    Measured kernels were paged: their set-up holds that wait.
    """
    if task.page <= 1 or target.schedule == "static" or parameters is not None:
        return target
    return replace(target, item_setup_s=target.item_setup_s + target.path[-1].latency_s)


def _as_measured(target: ReplayTarget, parameters: ChipKernel | None) -> ReplayTarget:
    """The path at the rates that measured kernels reach: of the home's peak, and out of the shared cache."""
    if parameters is None:
        return target
    path = [*target.path]
    if target.home is target.hardware.main_memory:
        path[-1] = replace(path[-1], bytes_per_s=min(path[-1].bytes_per_s, float(parameters.dram_bytes_per_s)))
    if target.cache is not None:
        cache = path[target.cache_server]
        measured = float(parameters.cache_bytes_per_s)
        path[target.cache_server] = replace(cache, bytes_per_s=min(cache.bytes_per_s, measured))
    return replace(target, path=tuple(path))


def _dram_rate(target: ReplayTarget, plan: KernelPlan, operator: Operator, task: AttentionTask) -> PatternRate:
    """Efficiency of DRAM channels, or of SRAM banks, on the reads of all running items."""
    if target.home.kind != "dram":
        return PatternRate(fraction=_bank_fraction(target, plan, task), row_hit_fraction=1.0)
    chosen, pattern = task.gather, _tile_reads(target, plan, operator, task)
    runs = pattern_rate(target.home, pattern)
    if chosen is None:
        return runs
    rows = gathered_rate(
        target.home, runs, streams=pattern.streams, row_bytes=float(chosen.row_bytes),
        stride_rows=float(chosen.stride_rows), tile_rows=max(1, _tile_tokens(plan) // chosen.row_tokens),
        footprint_bytes=float(operator.kv_read_bytes))
    share = float(chosen.share)
    return PatternRate(fraction=1.0 / (share / rows.fraction + (1.0 - share) / runs.fraction),
                       row_hit_fraction=share * rows.row_hit_fraction + (1.0 - share) * runs.row_hit_fraction)


def _tile_tokens(plan: KernelPlan) -> int:
    return min(TILE_TOKENS, int(plan.item_tokens.max()))


def _tile_reads(target: ReplayTarget, plan: KernelPlan, operator: Operator, task: AttentionTask) -> Pattern:
    """What all running items ask a DRAM for, tile by tile."""
    return tile_pattern(
        streams=min(plan.items, target.slots), bytes_per_token=plan.bytes_per_token, page_tokens=task.page,
        parts=task.arrays, tile_tokens=_tile_tokens(plan), neighbours=round(float(task.interleaved_heads)),
        footprint_bytes=float(operator.kv_read_bytes), stride_tokens=1.0 if task.gather else float(task.stride_tokens))


def _bank_fraction(target: ReplayTarget, plan: KernelPlan, task: AttentionTask) -> float:
    """What reads of the layout's addresses reach of a banked SRAM; one compiled program meets no bank twice."""
    if target.schedule == "static":
        return 1.0
    token_bytes = plan.bytes_per_token / task.arrays
    return bank_fraction(target.home, token_bytes=token_bytes, stride_tokens=float(task.stride_tokens),
                         row_bytes=token_bytes * max(1.0, float(task.interleaved_heads)))


def _combine(plan: KernelPlan, target: ReplayTarget) -> tuple[Server, float]:
    """Split items write partial results in fp32 and a second pass reads them, through the nearest shared level."""
    shared = [server for server in target.path if not server.per_unit and np.isfinite(server.bytes_per_s)]
    level = (shared or target.path)[0]
    if plan.combine_bytes == 0.0:
        return level, 0.0
    return level, plan.combine_bytes / level.bytes_per_s + 2 * level.latency_s


def _layer_mean(replays: list[tuple[float, AttentionReplay]]) -> AttentionReplay:
    """The mean layer of a model whose layers' caches lie in different levels; the timeline is the slowest one's."""
    def mean(tables: list[dict[str, float]]) -> dict[str, float]:
        names = dict.fromkeys(name for table in tables for name in table)
        return {name: sum(share * table.get(name, 0.0) for (share, _), table in zip(replays, tables, strict=True))
                for name in names}

    shown = max((one for _, one in replays), key=lambda one: one.total_s)
    stalls = mean([one.stall_s for _, one in replays])
    total = sum(stalls.values())
    return replace(
        shown, total_s=total, stall_s=stalls, level_bytes=mean([one.level_bytes for _, one in replays]),
        utilisation=mean([{name: busy * one.total_s / total for name, busy in one.utilisation.items()}
                          for _, one in replays]),
        cycles=None if shown.cycles is None else shown.cycles * total / shown.total_s,
        extrapolation_bound_s=sum(share * one.extrapolation_bound_s for share, one in replays))
