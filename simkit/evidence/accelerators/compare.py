"""Every row of a table of measurements beside its prediction, and what they say by chip, series and quantity.

Errors are of times (rates are inverted): predicted over measured, less 1. The ratio of an MHA row to a grouped one at
the same point (:func:`simkit.evidence.accelerators.table.head_pairs`) drops what both share.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from simkit.evidence.accelerators.conditions import model_of
from simkit.evidence.accelerators.parts import (
    exchange_times,
    kernel_times,
    memory_times,
    operator_times,
    product_times,
)
from simkit.evidence.accelerators.table import TIMES, MeasuredRow, head_pairs, read_rows
from simkit.evidence.accelerators.whole_models import whole_model_times
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import Chips, load_hardware
from simkit.hardware.priors import rows_behind_ranges
from simkit.hardware.profile import HardwareProfile
from simkit.serving.runtime import IDEAL, Runtime, runtime_of
from simkit.study.engines import DEFAULT, engine_named


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Rows with what grows with their time: measured, predicted, by a naive roofline; NaN and why where unpredicted."""

    rows: list[MeasuredRow]
    measured: Any
    predicted: Any
    naive: Any
    why: list[str]
    assumed: list[str]
    runtimes: list[Runtime]
    fitted_chips: list[bool]

    @property
    def error(self) -> Any:
        """Predicted over measured, less 1."""
        return self.predicted / self.measured - 1.0

    def calibrated(self, place: int) -> bool:
        """Whether constants of a row's runtime or chip, or a range of its class, rest on this very row."""
        row = self.rows[place]
        return (self.fitted_chips[place] or (row.series in self.runtimes[place].calibrated_on and fitted(row))
                or not rows_behind_ranges().isdisjoint({row.id, row.series}))


def fitted(row: MeasuredRow) -> bool:
    """The half of a series' rows that runtimes may be fitted to, by a check sum of their ids."""
    return zlib.crc32(row.id.encode()) % 2 == 0


def compare_rows(data: Path | None = None, *, engine: str = DEFAULT, chips: Chips = load_hardware,
                 only: Collection[str] | None = None, constants: bool = True) -> Compared:
    """All rows of a table and their predictions.

    Parameters
    ----------
    data: the table; None: the shipped one.
    engine: by name.
    chips: gives a profile by its name.
    only: names of the chips wanted; None: all.
    constants: whether runtimes add their times; False leaves what they read and how they split.
    """
    return predict_rows([row for row in read_rows(data) if only is None or row.chip in only], engine=engine,
                        chips=chips, constants=constants)


def predict_rows(rows: list[MeasuredRow], *, engine: str = DEFAULT, chips: Chips = load_hardware,
                 runtime: Runtime | None = None, constants: bool = True) -> Compared:
    """Predictions of some rows; ``runtime``: one for all of them instead of that of each row's software."""
    engine_named(engine)
    found = Compared(rows=rows, measured=np.array([row.time_of(row.value) for row in rows]),
                     predicted=np.full(len(rows), np.nan), naive=np.full(len(rows), np.nan),
                     why=[""] * len(rows), assumed=[""] * len(rows), runtimes=[runtime or IDEAL] * len(rows),
                     fitted_chips=[False] * len(rows))
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[_group(row)].append(place)
    profile = cache(chips)
    for places in groups.values():
        own = [rows[place] for place in places]
        try:
            chip = profile(own[0].chip)
            own_runtime = runtime or runtime_of(own[0].software, own[0].series, chip.vendor)
            own_runtime = own_runtime if constants else own_runtime.without_constants
            for place in places:
                found.runtimes[place] = own_runtime
                found.fitted_chips[place] = _is_fitted(rows[place], chip)
            if own_runtime.profile:
                chip = load_hardware(chip.file or chip.name, overrides=own_runtime.profile)
            time, naive, assumed = _times(own, chip, own_runtime, engine)
        except UserError as error:
            for place in places:
                found.why[place] = error.message
            continue
        found.predicted[places], found.naive[places] = np.where(time > 0.0, time, np.nan), naive
        for place in places:
            known = np.isfinite(found.predicted[place])
            found.why[place] = "" if known else _unfit(rows[place])
            found.assumed[place] = assumed
    return found


def _is_fitted(row: MeasuredRow, chip: HardwareProfile) -> bool:
    """Whether parameters of the chip are calibrated on the table that a row is from, as their source says."""
    path = row.source.rpartition(":")[2]
    return bool(path) and any(one.confidence == "calibration" and path in (one.source or "")
                              for one in chip.provenance.values())


def _unfit(row: MeasuredRow) -> str:
    if row.quantity.startswith("slope") or row.op.startswith("slope"):
        return "the step does not grow with the context, or the longest does not fit"
    return f"does not fit on {row.chips or 1:g} x {row.chip}"


def _group(row: MeasuredRow) -> tuple[Any, ...]:
    """What rows of one broadcast share."""
    stated = tuple(value is None for value in (row.prompt_tokens, row.output_tokens, row.kv_len, row.batch))
    return (row.chip, row.series, row.quantity, row.op, row.model, row.software, row.chips,
            row.tp, row.pp, row.weight_dtype, row.kv_dtype, row.n_q_heads if not row.model else None, row.head_dim,
            *stated)


def _times(rows: Sequence[MeasuredRow], chip: HardwareProfile, runtime: Runtime,
           engine: str) -> tuple[Any, Any, str]:
    """Predicted and naive times of the rows of one group, and what is assumed. Raises :class:`UserError`."""
    one = rows[0]
    if one.quantity == "bandwidth_bytes_per_s":
        return memory_times(rows, chip)
    if one.quantity == "collective_s" and not one.model:
        return exchange_times(rows, chip)
    if one.quantity == "gemm_s" and one.m and one.n and one.k:
        return product_times(rows, chip)
    if one.quantity == "kernel_s" and not one.model:
        return kernel_times(rows, chip, runtime, engine)
    if one.quantity in ("kernel_s", "gemm_s", "collective_s"):
        return operator_times(rows, chip, runtime, engine)
    if one.quantity in TIMES or one.quantity in ("output_tokens_per_s", "user_tokens_per_s"):
        if one.speculation not in ("", "none"):
            raise UserError("whether the service speculates is not stated")
        return whole_model_times(rows, chip, runtime, engine)
    raise UserError(f"a {one.quantity[:40]} of {one.op[:40] or 'unknown kind'} is not predicted")


def records(found: Compared) -> list[dict[str, Any]]:
    """One record a chip, series and quantity, in the table's order; fractions, None where nothing was compared."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(found.rows):
        groups[row.chip, row.series, row.quantity].append(place)
    pairs = alike_pairs(found.rows)
    made = []
    for key, places in groups.items():
        known = [place for place in places if np.isfinite(found.predicted[place])]
        inside = set(known)
        own_pairs = [pair for pair in pairs if inside.issuperset(pair)]
        error, naive = found.error[known], (found.naive / found.measured - 1.0)[known]
        ratio, naive_ratio = (_ratio_errors(found.measured, times, own_pairs) for times in (
            found.predicted, found.naive))
        why = Counter(found.why[place] for place in places if place not in inside)
        made.append({
            "chip": key[0], "series": key[1], "quantity": key[2], "rows": len(known),
            "mape": _mean(np.abs(error)), "median_ape": _median(np.abs(error)), "bias": _median(error),
            "ratio_rows": len(own_pairs), "ratio_median_ape": _median(ratio), "baseline_mape": _mean(np.abs(naive)),
            "baseline_ratio_median_ape": _median(naive_ratio), "rows_unpredicted": len(places) - len(known),
            "why": "; ".join(f"{text} ({count})" for text, count in why.most_common()) or None})
    return made


def alike_pairs(rows: Sequence[MeasuredRow]) -> list[tuple[int, int]]:
    """Pairs of an MHA and a grouped row whose models are of one kind."""
    return [pair for pair in head_pairs(rows) if _alike(*(rows[place] for place in pair))]


def _alike(mha: MeasuredRow, grouped: MeasuredRow) -> bool:
    """Two models of one kind: a mixture beside a dense model would compare experts and not heads."""
    try:
        return not mha.model or (model_of(mha.model).moe is None) == (model_of(grouped.model).moe is None)
    except UserError:
        return False


def _ratio_errors(measured: Any, times: Any, pairs: Sequence[tuple[int, int]]) -> Any:
    if not pairs:
        return np.empty(0)
    mha, grouped = np.array(pairs).T
    return np.abs((times[mha] / times[grouped]) / (measured[mha] / measured[grouped]) - 1.0)


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if np.size(values) and np.isfinite(values).all() else None


def _median(values: Any) -> float | None:
    return float(np.median(values)) if np.size(values) and np.isfinite(values).all() else None
