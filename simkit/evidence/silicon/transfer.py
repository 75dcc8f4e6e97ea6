"""Leave one chip out: fit all parameters on the other chips, carry them over by rule, and predict the one left out.

Cycles and ratios are the geometric mean of the other chips' (a cycle is shorter on a faster clock), but for what the
architecture decides, which a data sheet tells:

- what loads and what joins the pieces of a sequence is of the chips with the same copies. Before compute capability 9.0
  kernels copy asynchronously in pieces of 16 bytes and start one another through the host's queue; from it on they copy
  in bulk and start early (CUDA C++ Programming Guide: asynchronous copies; programmatic dependent launch);
- bulk copies are raised to what the chip's own DRAM asks for
  (:meth:`simkit.hardware.kernel.DecodeKernel.provisioned`), the others load at their own rate;
- cycles of the vector unit go with its lanes, which A100 has half as many of as the others;
- DRAM reaches the fraction of peak that streams reach on the chip, times what kernels reach of streams elsewhere, never
  more than all of it; launches of a library take the mean of the other chips' seconds, being made of latencies that no
  clock scales.

What only some of the others state is the family's figure on the rest. Latency, units, clock, caches and peaks are the
data sheet's, and which kernels a library has for the chip is known from the library. Everything is fitted here and now,
parameters of the family included: no fitted parameter of the chip left out takes part. What stays from the shipped
files are structural parameters (tile and page sizes, how sharply a cache falls off) that scans over all chips set.
"""

from __future__ import annotations

import math
import statistics
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
    kernel_of,
    parameter_value,
    parameters_of,
    with_parameters,
)
from simkit.evidence.silicon.compare import (
    SHIPPED_LADDERS,
    SHIPPED_SPREAD,
    SystemComparison,
    baseline_times_s,
    comparison_records,
    sampled,
)
from simkit.evidence.silicon.tables import MeasuredTimes, read_table, shipped_table
from simkit.foundation.errors import Location, UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.kernel import HIGHEST_FRACTION, DecodeKernel
from simkit.hardware.profile import HardwareProfile
from simkit.study.engines import DEFAULT

LEAST_CHIPS: Final = 3
SAMPLE: Final = 250  # rows a chip that the fit sees
BULK_COPIES: Final = 90  # compute capability times ten
SECTION: Final = {"decode_attention": "", "decode_gemm": "gemm."}  # where the parameters of a kind's kernels stand
DRAM: Final = "dram_achieved_fraction"
OF_COPIES: Final = ("load_bytes_per_cycle_per_unit", "split_combine_cycles")
NEUTRAL_CACHE_FRACTION: Final = 0.85
RUNS: Final = 8


def transfer(data: Path | None = None, *, sample: int = SAMPLE, seed: int = 0,
             profiles: Path | str | None = None) -> list[dict[str, Any]]:
    """Records as of :func:`simkit.evidence.silicon.compare.compare`, each chip predicted from the others.

    Parameters
    ----------
    data: a table of attention kernels or of products of at least three systems instead of the shipped one; all its rows
        are scored.
    sample: rows a chip that the fits see, drawn with ``seed``.
    seed: of the draw.
    profiles: a folder searched before the shipped profiles.
    """
    table = read_table(data) if data else shipped_table(SHIPPED_SPREAD)
    ladders = table if data else shipped_table(SHIPPED_LADDERS)
    if table.kind not in SECTION:
        raise UserError(f"transfer is of {' and '.join(SECTION)}, and this is a table of {table.kind}",
                        where=Location(file=table.name))
    chips = {system: load_hardware(system, profiles=profiles) for system in table.systems}
    chips = {system: chip for system, chip in chips.items() if chip.kernel is not None}
    if len(chips) < LEAST_CHIPS:
        raise UserError(f"{len(chips)} chips with a kernel section: at least {LEAST_CHIPS} are needed to leave one out",
                        where=Location(file=table.name))
    records: list[dict[str, Any]] = []
    for left_out, hardware in chips.items():
        others = [FitRows(rows=sampled(table.of_system(system), sample, seed), hardware=chip)
                  for system, chip in chips.items() if system != left_out]
        carried = carried_over(others, hardware)
        rows = table.of_system(left_out)
        of_ladders = rows if data else ladders.of_system(left_out)
        records += _scored(left_out, rows, of_ladders, replace(hardware, kernel=carried), seed)
    return records


def carried_over(others: Sequence[FitRows], hardware: HardwareProfile) -> DecodeKernel:
    """The parameters that the other chips give one that nobody measured: fitted on their rows, then carried by rule."""
    told = [parameters_of(chip.rows) for chip in others]
    section = SECTION[others[0].rows.kind]
    family = FAMILY_PARAMETERS if not section else ()
    free: list[tuple[str, int | None]] = [(name, None) for name in family]
    free += [(name, index) for index, chip in enumerate(others) for name in told[index]
             if _calibrated(name, chip.hardware)]
    fitted = fit(others, free, most_evaluations=RUNS)
    values: dict[tuple[str, int | None], float] = {
        key: parameter.value for key, parameter in zip(free, fitted, strict=True)}
    # What a chip's profile does not state of what its rows could speak about is the family's figure there.
    known = values | {(name, index): parameter_value(kernel_of(chip), name) for index, chip in enumerate(others)
                      for name in told[index] if f"kernel.{name}" not in chip.hardware.provenance}
    parameters = {name: values[name, None] for name in family}
    for name in {name for name, index in values if index is not None}:
        chips = [(known[name, index], chip.hardware) for index, chip in enumerate(others) if (name, index) in known]
        if name in OF_COPIES:
            chips = [entry for entry in chips if copies_in_bulk(entry[1]) == copies_in_bulk(hardware)] or chips
        parameters[name] = math.exp(statistics.fmean(
            math.log(value * _scale(name, chip, hardware)) for value, chip in chips))
    reached = f"{section}{DRAM}"
    parameters[reached] = _dram_fraction(reached, others, values, hardware)
    kernel = hardware.kernel
    assert kernel is not None  # noqa: S101  # chips without one are not compared
    peak = hardware.main_memory.chip_bandwidth_bytes_per_s or 0.0
    # Structural parameters that a scan set for this chip would be knowledge of its rows: the family's stand.
    carried = replace(with_parameters(kernel, parameters), tuned_for_bytes_per_s=peak, tile_tokens=64.0,
                      cache_effective_fraction=NEUTRAL_CACHE_FRACTION)
    share = peak / (hardware.compute.known_clock_hz * hardware.compute.units)
    return carried.provisioned(share) if copies_in_bulk(hardware) else carried


def copies_in_bulk(hardware: HardwareProfile) -> bool:
    """Compute capability 9.0 and above; a chip that states none is taken for a new one."""
    architecture = hardware.compute.architecture or ""
    return not architecture.startswith("sm_") or int(architecture.removeprefix("sm_")) >= BULK_COPIES


def _scale(name: str, known: HardwareProfile, hardware: HardwareProfile) -> float:
    """What a parameter of one chip is times on another."""
    if name.endswith(LAUNCH):
        return hardware.compute.known_clock_hz / known.compute.known_clock_hz
    lanes = _flops_per_cycle(hardware) / _flops_per_cycle(known)
    return {"vector_elements_per_cycle": lanes, "vector_elements_per_cycle_8bit": lanes,
            "vector_item_setup_cycles": 1.0 / lanes}.get(name, 1.0)


def _flops_per_cycle(hardware: HardwareProfile) -> float:
    """Of the vector unit of one SM."""
    compute = hardware.compute
    return float(compute.vector_peak_flop_per_s or 1.0) / (compute.units * compute.known_clock_hz)


def _calibrated(name: str, hardware: HardwareProfile) -> bool:
    """Whether the rows identify the parameter: its profile states it, and as calibrated (A100's DRAM is hidden)."""
    stated = hardware.provenance.get(f"kernel.{name}")
    return stated is not None and stated.confidence == "calibration"


def _dram_fraction(name: str, others: Sequence[FitRows], values: Mapping[tuple[str, int | None], float],
                   hardware: HardwareProfile) -> float:
    """The chip's streaming fraction times what kernels reach of it elsewhere."""
    ratios = []
    for index, chip in enumerate(others):
        reached = values.get((name, index), parameter_value(kernel_of(chip), name))
        ratios.append(min(reached / chip.hardware.main_memory.achievable_fraction, 1.0))
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
