"""``simkit evidence host``: real MHA, GQA and MQA decode attention on this machine beside the prediction.

A compiled float32 kernel runs over caches from the nearest cache to DRAM with several head counts. Its time and its
measured advantage over MHA stand beside those that the closed-form engine gives on the calibrated profile, untuned: the
profile knows streams, a pointer chase, arithmetic and exponentials, and no attention kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.evidence.host.clock import Timing, time_loops
from simkit.evidence.host.measure import HEAD_DIM, between, measure_host, rows_of
from simkit.evidence.host.profile import profile_of
from simkit.evidence.silicon.attention_rows import one_layer
from simkit.evidence.silicon.score import BEYOND_CACHE, INTERVAL, RESAMPLES
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import parse_format
from simkit.roofline.engine import operator_times
from simkit.step.build import build_step
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload

N_Q_HEADS: Final = 32
KV_HEADS: Final = (32, 8, 1)
KV_LENGTHS: Final = (32, 128, 512, 2048, 8192)
QUICK_LENGTHS: Final = (32, 256, 2048)
MOST_MEMORY_SHARE: Final = 0.1
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPoint:
    """One shape on this machine: a batch of 1 whose MHA cache has ``2 n_q N d`` float32 elements."""

    n_kv_heads: int
    kv_len: int

    @property
    def kv_bytes(self) -> int:
        """Keys and values that one run reads."""
        return 2 * self.n_kv_heads * self.kv_len * HEAD_DIM * 4

    def pieces(self, threads: int) -> int:
        """Pieces of each head's tokens, so that every thread gets as many items of as many tokens."""
        return threads // int(np.gcd(self.n_kv_heads, threads))


def operator_of(point: HostPoint) -> Operator:
    """The attention operator of this point as the engines know it."""
    model = one_layer(N_Q_HEADS, HEAD_DIM)
    float32 = parse_format("fp32")
    workload = DecodeWorkload(
        model=model, layout=parse_layout("mha", model), n_kv_heads=point.n_kv_heads, batch=1, kv_len=point.kv_len,
        q_len=1, kv_format=float32, weight_format=float32, activation_dtype="fp32")
    return build_step(workload).attention_operators[0]


def predicted_s(point: HostPoint, profile: HardwareProfile) -> float:
    """The closed-form engine's time of the looped kernel; a core starts the rows of its items one after another."""
    rows = N_Q_HEADS * point.pieces(profile.compute.units) / profile.compute.units
    operator = replace(operator_of(point), launches=max(1, round(rows)))
    home = profile.main_memory.name
    placement = Placement(weights={home: 1.0}, kv={home: 1.0}, fits=True, max_batch=1.0)
    return float(operator_times(operator, placement, profile, start="warm", alone=True).total_s)


def measured(point: HostPoint, threads: int, budget_s: float) -> Timing:
    """Time of the kernel on ``threads`` cores at once, each with its own heads or pieces of heads."""
    return time_loops(_parts(point, threads), budget_s=budget_s)


def _parts(point: HostPoint, threads: int) -> list[Callable[[int], Any]]:
    from simkit.evidence.host.kernels import attend

    pieces = point.pieces(threads)
    items, tokens = point.n_kv_heads * pieces // threads, max(1, point.kv_len // pieces)
    rows = N_Q_HEADS // point.n_kv_heads

    def part() -> Callable[[int], Any]:
        queries = rows_of(items * rows).reshape(items, rows, HEAD_DIM) * np.float32(HEAD_DIM**-0.5)
        keys, values = (rows_of(items * tokens).reshape(items, tokens, HEAD_DIM) for _ in range(2))
        out = np.empty_like(queries)
        return lambda repeats: attend(queries, keys, values, out, repeats)

    return [part() for _ in range(threads)]


def points_of(threads: int, most_bytes: float, lengths: Sequence[int] = KV_LENGTHS) -> list[HostPoint]:
    """Shapes whose MHA cache has at most so many bytes, tokens rounded up so that every thread gets as many of them.

    >>> sorted({point.kv_len for point in points_of(24, 1e9)})
    [48, 144, 528, 2064, 8208]
    """
    rounded = dict.fromkeys(-(-length // threads) * threads for length in lengths)
    return [HostPoint(n_kv_heads=heads, kv_len=length) for length in rounded for heads in KV_HEADS
            if HostPoint(n_kv_heads=max(KV_HEADS), kv_len=length).kv_bytes <= most_bytes]


Times = dict[HostPoint, Timing]


def compare(profile: HardwareProfile, *, budget_s: float = 20.0, quick: bool = False) -> list[dict[str, Any]]:
    """One record a shape: ``n_kv_heads, kv_len, kv_cache_bytes, measured_s, predicted_s, ape, advantage_measured,
    advantage_predicted, advantage_ape, baseline_ape, spread``.

    Parameters: profile: of this machine; budget_s: measuring time in all; quick: fewer shapes.
    Raises :class:`UserError` when the profile is not of a CPU.
    """
    if profile.kind != "cpu":
        raise UserError(f"{profile.name} is a profile of a {profile.kind}, and this kernel runs on a CPU",
                        hint="simkit calibrate host -o my-machine.yaml")
    times = _measured_times(profile, budget_s, quick=quick)
    return [_record(point, times, profile) for point in times]


def compare_here(*, budget_s: float = 20.0, quick: bool = False) -> list[dict[str, Any]]:
    """As :func:`compare`, on a profile of this machine measured before and after the kernels.

    A machine's clock and its neighbours change within a minute: the profile is the one half-way between.
    """
    before = measure_host(budget_s=budget_s / 2)
    times = _measured_times(profile_of(before), budget_s, quick=quick)
    profile = profile_of(between(before, measure_host(budget_s=budget_s / 2)))
    return [_record(point, times, profile) for point in times]


def _measured_times(profile: HardwareProfile, budget_s: float, *, quick: bool) -> Times:
    """Every shape that fits the machine, all once, then all again.

    A burst of other programs' work hits one round, and the middle one counts.
    """
    points = points_of(profile.compute.units, profile.main_memory.chip_capacity_bytes * MOST_MEMORY_SHARE,
                       QUICK_LENGTHS if quick else KV_LENGTHS)
    slot_s = budget_s / len(points) / ROUNDS
    rounds = [[measured(point, profile.compute.units, slot_s) for point in points] for _ in range(ROUNDS)]
    return {point: sorted(own, key=lambda timing: timing.time_s)[ROUNDS // 2]
            for point, own in zip(points, zip(*rounds, strict=True), strict=True)}


def _record(point: HostPoint, times: Times, profile: HardwareProfile) -> dict[str, Any]:
    mha = replace(point, n_kv_heads=max(KV_HEADS))
    ours, theirs = predicted_s(point, profile), times[point].time_s
    advantage, advantage_ours = times[mha].time_s / theirs, predicted_s(mha, profile) / ours
    naive = point.kv_bytes / (profile.main_memory.chip_bandwidth_bytes_per_s or float("nan"))
    caches = [level.chip_capacity_bytes for level in profile.memory if level.kind == "cache"]
    return {
        "profile": profile.name, "engine": "roofline", "n_q_heads": N_Q_HEADS, "n_kv_heads": point.n_kv_heads,
        "head_dim": HEAD_DIM, "batch": 1, "kv_len": point.kv_len, "kv_cache_bytes": point.kv_bytes,
        "regime": "beyond_cache" if point.kv_bytes > BEYOND_CACHE * max(caches, default=0.0) else "in_cache",
        "measured_s": theirs, "predicted_s": ours, "ape": abs(ours / theirs - 1), "ratio": ours / theirs,
        "advantage_measured": advantage, "advantage_predicted": advantage_ours,
        "advantage_ape": abs(advantage_ours / advantage - 1) if point != mha else None,
        "baseline_ape": abs(naive / theirs - 1), "spread": times[point].spread_fraction,
    }


def summarise(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Errors by regime, in the words of ``simkit evidence silicon``; fractions, not percent."""
    rows = []
    for regime in ("all", "beyond_cache", "in_cache"):
        own = [record for record in records if regime in ("all", record["regime"])]
        if not own:
            continue
        errors = np.array([record["ape"] for record in own])
        advantages = [record["advantage_ape"] for record in own if record["advantage_ape"] is not None]
        rows.append({
            "system": "host", "profile": own[0]["profile"], "engine": own[0]["engine"], "regime": regime,
            "rows": len(own), "mape": float(errors.mean()), "median_ape": float(np.median(errors)),
            **_median_interval(errors),
            "p90_ape": float(np.quantile(errors, 0.9)),
            "bias": float(np.mean([record["ratio"] - 1 for record in own])),
            "advantage_median_ape": float(np.median(advantages)) if advantages else None,
            "baseline_mape": float(np.mean([record["baseline_ape"] for record in own]))})
    return rows


def _median_interval(errors: Any) -> dict[str, float]:
    """Ends of the 5-95 % interval of the median, shapes drawn anew with replacement."""
    drawn = np.random.default_rng(0).choice(errors, size=(RESAMPLES, len(errors)))
    low, high = np.quantile(np.median(drawn, axis=1), INTERVAL)
    return {"median_ape_low": float(low), "median_ape_high": float(high)}
