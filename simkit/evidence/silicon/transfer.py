"""Leave one chip out: fit all parameters on the other chips, carry them over by rule, and predict the one left out.

The rule is the one by which a profile without parameters of its own gets them: cycles and ratios are the geometric
mean of
the other chips' (a cycle is shorter on a faster clock), data paths are raised to what the chip's own DRAM asks for
(:meth:`simkit.hardware.kernel.DecodeKernel.provisioned`), DRAM reaches the fraction of peak that streaming benchmarks
reach on the chip, scaled as on the others; launches of a library take the mean of the other chips' seconds, being
made of latencies that no clock scales. Latency, units, clock, caches and peaks are its datasheet's, and which kernels
a library has for it is known from the library. Everything is fitted here and now, parameters of the family included: no
fitted parameter of the chip left out takes part. What stays from the shipped files are structural parameters (tile
and page sizes, how sharply a cache falls off) that scans over all chips set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.calibrate import (
    FAMILY_PARAMETERS,
    LAUNCH,
    FitRows,
    fit,
    parameters_of,
    with_parameters,
)
from simkit.evidence.silicon.compare import (
    SHIPPED_LADDERS,
    SHIPPED_SPREAD,
    SystemComparison,
    baseline_times_s,
    comparison_records,
)
from simkit.evidence.silicon.tables import MeasuredTimes, read_table, shipped_table
from simkit.foundation.errors import Location, UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.kernel import HIGHEST_FRACTION, DecodeKernel
from simkit.hardware.profile import HardwareProfile
from simkit.study.engines import DEFAULT

LEAST_CHIPS: Final = 3
SAMPLE: Final = 250  # rows a chip that the fit sees
NEUTRAL_CACHE_FRACTION: Final = 0.85
RUNS: Final = 8


def transfer(data: Path | None = None, *, sample: int = SAMPLE, seed: int = 0,
             profiles: Path | str | None = None) -> list[dict[str, Any]]:
    """Records as of :func:`simkit.evidence.silicon.compare.compare`, each chip predicted from the others.

    Parameters
    ----------
    data: a table of attention kernels of at least three systems instead of the shipped one; all its rows are scored.
    sample: rows a chip that the fits see, drawn with ``seed``.
    seed: of the draw.
    profiles: a folder searched before the shipped profiles.
    """
    table = read_table(data) if data else shipped_table(SHIPPED_SPREAD)
    ladders = table if data else shipped_table(SHIPPED_LADDERS)
    if table.kind != "decode_attention":
        raise UserError(f"transfer is between attention kernels, and this is a table of {table.kind}",
                        where=Location(file=table.name))
    chips = {system: load_hardware(system, profiles=profiles) for system in table.systems}
    chips = {system: chip for system, chip in chips.items() if chip.kernel is not None}
    if len(chips) < LEAST_CHIPS:
        raise UserError(f"{len(chips)} chips with a kernel section: at least {LEAST_CHIPS} are needed to leave one out",
                        where=Location(file=table.name))
    records: list[dict[str, Any]] = []
    for left_out, hardware in chips.items():
        others = [FitRows(rows=_drawn(table.of_system(system), sample, seed), hardware=chip)
                  for system, chip in chips.items() if system != left_out]
        carried = carried_over(others, hardware)
        rows = table.of_system(left_out)
        of_ladders = rows if data else ladders.of_system(left_out)
        records += _scored(left_out, rows, of_ladders, replace(hardware, kernel=carried), seed)
    return records


def _drawn(rows: MeasuredTimes, sample: int, seed: int) -> MeasuredTimes:
    return rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample]))


def carried_over(others: Sequence[FitRows], hardware: HardwareProfile) -> DecodeKernel:
    """The parameters that the other chips give one that nobody measured: fitted on their rows, then carried by rule."""
    own = {index: [name for name in parameters_of(chip.rows) if _calibrated(name, chip.hardware)]
           for index, chip in enumerate(others)}
    free: list[tuple[str, int | None]] = [(name, None) for name in FAMILY_PARAMETERS]
    free += [(name, index) for index in own for name in own[index]]
    fitted = fit(others, free, most_evaluations=RUNS)
    values: dict[tuple[str, int | None], float] = {
        key: parameter.value for key, parameter in zip(free, fitted, strict=True)}
    kernel = hardware.kernel
    assert kernel is not None  # noqa: S101  # chips without one are not compared
    parameters = {name: values[name, None] for name in FAMILY_PARAMETERS}
    for name in sorted({name for names in own.values() for name in names}):
        known = np.array([[values[name, index], others[index].hardware.compute.known_clock_hz]
                          for index in own if name in own[index]])
        clock_hz = hardware.compute.known_clock_hz
        scale = clock_hz / known[:, 1] if name.endswith(LAUNCH) else 1.0
        parameters[name] = float(np.exp(np.mean(np.log(known[:, 0] * scale))))
    parameters["dram_achieved_fraction"] = _dram_fraction(others, values, hardware)
    carried = with_parameters(kernel, parameters)
    peak = hardware.main_memory.chip_bandwidth_bytes_per_s or 0.0
    cycles = hardware.compute.known_clock_hz * hardware.compute.units
    # Structural parameters that a scan set for this chip would be knowledge of its rows: the family's stand.
    carried = replace(carried, tuned_for_bytes_per_s=peak, tile_tokens=64.0,
                      cache_effective_fraction=NEUTRAL_CACHE_FRACTION)
    return carried.provisioned(peak / cycles)


def _calibrated(name: str, hardware: HardwareProfile) -> bool:
    """Whether the rows identify the parameter: its profile states it, and as calibrated (A100's DRAM is hidden)."""
    stated = hardware.provenance.get(f"kernel.{name}")
    return stated is not None and stated.confidence == "calibration"


def _dram_fraction(others: Sequence[FitRows], values: Mapping[tuple[str, int | None], float],
                   hardware: HardwareProfile) -> float:
    """The chip's streaming fraction times what kernels reach of it elsewhere."""
    ratios = []
    for index, chip in enumerate(others):
        assert chip.hardware.kernel is not None  # noqa: S101  # FitRows were fitted
        reached = values.get(("dram_achieved_fraction", index), chip.hardware.kernel.dram_achieved_fraction)
        ratios.append(reached / chip.hardware.main_memory.achievable_fraction)
    return min(hardware.main_memory.achievable_fraction * float(np.exp(np.mean(np.log(ratios)))), HIGHEST_FRACTION)


def _scored(system: str, rows: MeasuredTimes, ladders: MeasuredTimes, hardware: HardwareProfile,
            seed: int) -> list[dict[str, Any]]:
    assert hardware.kernel is not None  # noqa: S101  # carried over just now
    predicted = FitRows(rows=rows, hardware=hardware).times_s(hardware.kernel)
    of_ladders = predicted if ladders is rows else FitRows(rows=ladders, hardware=hardware).times_s(hardware.kernel)
    compared = SystemComparison(
        system=system, profile=hardware, rows=rows, ladders=ladders, predicted_s=predicted,
        ladders_predicted_s=of_ladders, baseline_s=baseline_times_s(rows, hardware))
    return comparison_records(compared, engine=DEFAULT, target="best", seed=seed)
