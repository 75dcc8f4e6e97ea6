"""Silicon evidence: predicted times of kernels beside measured ones, per system and regime, and the naive roofline's.

Without a file, two compact tables answer: kernels drawn evenly over four chips, and whole ladders of head counts from
MHA to MQA, from which advantages come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.attention_rows import attention_times_s
from simkit.evidence.silicon.layer_rows import layer_times_s
from simkit.evidence.silicon.mixture_rows import mixture_operators, mixture_times_s
from simkit.evidence.silicon.product_rows import allreduce_times_s, dispatch_times_s, gemm_times_s
from simkit.evidence.silicon.score import (
    median_advantage_error,
    regimes,
    row_operators,
    score,
    streamed_bytes,
)
from simkit.evidence.silicon.tables import EXCHANGES, LAYERS, MeasuredTimes, read_table, shipped_table
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.study.engines import DEFAULT, engine_named

SHIPPED_SPREAD: Final = "silicon_decode_attention.csv"
SHIPPED_LADDERS: Final = "silicon_head_ladders.csv"
REPLAY_SAMPLE: Final = 200  # rows a system that the event-driven engine replays unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemComparison:
    """Rows of one system with their predictions; ``skip_reason`` says why there are none."""

    system: str
    profile: HardwareProfile | None
    rows: MeasuredTimes
    ladders: MeasuredTimes
    predicted_s: Any
    ladders_predicted_s: Any
    baseline_s: Any
    skip_reason: str | None = None


def compare(data: Path | None = None, *, engine: str = DEFAULT, target: str = "best", sample: int | None = None,
            seed: int = 0, profiles: Path | str | None = None,
            overrides: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One record per system and regime.

    Parameters
    ----------
    data: a table of measured kernels (CSV or CSV.GZ) instead of the shipped ones.
    engine: ``roofline`` or ``replay``; the replay takes 200 rows a system unless ``sample`` says otherwise.
    target: ``best`` of the frameworks, or one of them.
    sample: at most so many rows a system, drawn with ``seed``.
    seed: of the draw and of the bootstrap.
    profiles, overrides: as for :func:`simkit.hardware.catalog.load_hardware`.

    Returns records with the fields ``system, profile, engine, regime, rows, mape, median_ape, p90_ape, bias,
    advantage_median_ape, baseline_mape`` as the README's contract has them, all fractions; ``_low`` and ``_high`` ends
    of 5-95 % intervals;
    ``baseline_median_ape``; ``advantage_rows``; ``kernel`` (the table's kind), ``target``, ``rows_unmeasured``; and
    for a system that cannot be predicted ``skip_reason`` with no parameters.
    """
    records = []
    for compared in compare_systems(data, engine=engine, target=target, sample=sample, seed=seed, profiles=profiles,
                                    overrides=overrides):
        records += comparison_records(compared, engine=engine, target=target, seed=seed)
    return records


def compare_systems(data: Path | None = None, *, engine: str = DEFAULT, target: str = "best",
                    sample: int | None = None, seed: int = 0, profiles: Path | str | None = None,
                    overrides: Mapping[str, str] | None = None,
                    chips: Sequence[HardwareProfile] = ()) -> list[SystemComparison]:
    """The rows of each system beside their predictions; parameters as of :func:`compare`. Raises :class:`UserError`.

    ``chips`` are compared instead of the catalogue's, each with the rows of its name and aliases; a table of one
    system is any single chip's.
    """
    engine_named(engine)
    rows = read_table(data, target) if data else shipped_table(SHIPPED_SPREAD, target)
    ladders = rows if data else shipped_table(SHIPPED_LADDERS, target)
    if not engine_named(engine).closed_form and sample is None:
        sample = REPLAY_SAMPLE
    found = []
    for system, load in _profiles_of(rows.systems, chips, overrides, profiles):
        of_system = sampled(rows.of_system(system), sample, seed)
        own_ladders = of_system if data else sampled(ladders.of_system(system), sample, seed)
        found.append(_compared(system, of_system, own_ladders, engine, load))
    return found


def _profiles_of(systems: Sequence[str], chips: Sequence[HardwareProfile], overrides: Mapping[str, str] | None,
                 profiles: Path | str | None) -> Iterator[tuple[str, Callable[[], HardwareProfile]]]:
    """The systems to compare, each with what loads its profile."""
    if not chips:
        for system in systems:
            yield system, partial(load_hardware, system, overrides=overrides, profiles=profiles)
    for chip in chips:
        own = [systems[0]] if len(systems) == len(chips) == 1 else [one for one in systems_of(chip) if one in systems]
        if not own:
            raise UserError(f"{chip.name}: no rows of that name or of an alias of it; the table has "
                            + ", ".join(systems), hint="aliases: [NAME] in the profile says what a table calls it")
        for system in own:
            yield system, partial(_same, chip)


def _same(chip: HardwareProfile) -> HardwareProfile:
    return chip


def sampled(rows: MeasuredTimes, sample: int | None, seed: int) -> MeasuredTimes:
    """At most ``sample`` of the rows, in their order."""
    if sample is None or sample >= len(rows):
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample]))


def compare_chips(chips: Sequence[HardwareProfile], table: str = SHIPPED_SPREAD, *, engine: str = DEFAULT,
                  sample: int | None = None, seed: int = 0) -> list[SystemComparison]:
    """Those of ``chips`` that a shipped table has, in the order of ``chips``; its rows are also the ladders.

    Parameters: table: :data:`SHIPPED_SPREAD` or :data:`SHIPPED_LADDERS`; engine, sample, seed: as of :func:`compare`.
    """
    measured = shipped_table(table)

    def one(system: str, chip: HardwareProfile) -> SystemComparison:
        rows = sampled(measured.of_system(system), sample, seed)
        return _compared(system, rows, rows, engine, lambda: chip)

    return [one(system, chip) for chip in chips for system in systems_of(chip) if system in measured.systems]


def systems_of(chip: HardwareProfile) -> tuple[str, ...]:
    """Names under which measurements may know a chip."""
    return tuple(dict.fromkeys((chip.name, *chip.aliases)))


def _compared(system: str, rows: MeasuredTimes, ladders: MeasuredTimes, engine: str,
              load: Callable[[], HardwareProfile]) -> SystemComparison:
    nothing = np.zeros(0)
    profile = None
    try:
        profile = load()
        predicted = predicted_times_s(rows, profile, engine)
        ladder_times = predicted if ladders is rows else predicted_times_s(ladders, profile, engine)
        baseline = baseline_times_s(rows, profile)
    except UserError as error:
        return SystemComparison(system=system, profile=profile, rows=rows, ladders=ladders, predicted_s=nothing,
                                ladders_predicted_s=nothing, baseline_s=nothing, skip_reason=str(error))
    return SystemComparison(system=system, profile=profile, rows=rows, ladders=ladders, predicted_s=predicted,
                            ladders_predicted_s=ladder_times, baseline_s=baseline)


def predicted_times_s(rows: MeasuredTimes, hardware: HardwareProfile, engine: str = DEFAULT) -> Any:
    """Predicted seconds of each row, as it was measured: alone, in a loop. Raises :class:`UserError`."""
    if rows.kind in ("decode_attention", "decode_mla"):
        return attention_times_s(rows, hardware, engine)
    if not engine_named(engine).closed_form:
        raise UserError(f"the {engine} engine replays attention; products and exchanges have the roofline engine only")
    if rows.kind in LAYERS:
        return layer_times_s(rows, hardware)
    if rows.kind == "decode_moe":
        return mixture_times_s(mixture_operators(rows), len(rows), hardware)
    ask = {"decode_gemm": gemm_times_s, "allreduce": allreduce_times_s, "expert_dispatch": dispatch_times_s}
    return ask[rows.kind](rows, hardware)


def baseline_times_s(rows: MeasuredTimes, hardware: HardwareProfile) -> Any:
    r"""Seconds of a peak roofline, :math:`\max(bytes/\beta_{peak}, flops/\pi_{peak})`: no launch, cache or kernel."""
    if rows.kind in EXCHANGES:
        link = hardware.scale_up
        return np.full(len(rows), np.nan) if link is None else streamed_bytes(rows) / link.bandwidth_bytes_per_s
    rate = hardware.main_memory.chip_bandwidth_bytes_per_s
    if rate is None:
        raise UserError(f"{hardware.name}: no source gives the bandwidth of its main memory")
    arithmetic_s = np.zeros(len(rows))
    for where, operator in row_operators(rows):
        arithmetic_s[where] += operator.matrix_flops / _peak(hardware, operator.dtype)
    return np.maximum(streamed_bytes(rows) / rate, arithmetic_s)


def _peak(hardware: HardwareProfile, dtype: str) -> float:
    return hardware.compute.matrix_peak_flop_per_s[hardware.compute.matrix_dtype(dtype)]


def comparison_records(compared: SystemComparison, *, engine: str, target: str, seed: int) -> list[dict[str, Any]]:
    """The records of one system, a regime each; parameters as of :func:`compare`."""
    rows, profile = compared.rows, compared.profile
    head = {"system": compared.system, "profile": None if profile is None else profile.name, "engine": engine}
    tail = {"kernel": rows.kind, "target": target if rows.kind == "decode_attention" else "best",
            "rows_unmeasured": rows.unmeasured, "skip_reason": compared.skip_reason}
    parameters = ("rows", "mape", "median_ape", "p90_ape", "bias", "advantage_median_ape", "baseline_mape",
               "baseline_median_ape", "mape_low", "mape_high", "median_ape_low", "median_ape_high", "advantage_rows")
    if profile is None or compared.skip_reason is not None:
        return [head | {"regime": "all"} | dict.fromkeys(parameters) | {"rows": len(rows)} | tail]
    ladder_masks = regimes(compared.ladders, profile)
    records = []
    for regime, mask in regimes(rows, profile).items():
        measured = score(rows, compared.predicted_s, mask, seed=seed)
        naive = score(rows, compared.baseline_s, mask, seed=seed)
        advantage, pairs = median_advantage_error(compared.ladders, compared.ladders_predicted_s, ladder_masks[regime])
        found = measured | {"advantage_median_ape": advantage, "advantage_rows": pairs, "baseline_mape": naive["mape"],
                            "baseline_median_ape": naive["median_ape"]}
        records.append(head | {"regime": regime} | {name: found[name] for name in parameters} | tail)
    return records
