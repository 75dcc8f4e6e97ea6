"""Fit what serving runtimes of accelerators add to a step (workloads/runtimes/*.yaml) to half of their measured rows.

    python tools/refit_accelerator_runtimes.py            # every runtime that says what it was calibrated on
    python tools/refit_accelerator_runtimes.py --runtime neuron

Rows: those of the runtime's software in the series that its ``calibrated_on`` names, of every chip that it is for; of
them the half that :func:`simkit.evidence.accelerators.compare.fitted` picks. A request's time is linear in all
constants, or its steps take what the host issues (``issue_s``); the sum of |log error| (soft L1) is least. One set a
runtime: not a chip's, not a model's. A runtime whose file states no ``issue_s`` gets none. Prints constants and the
median errors of both halves; writes no file.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simkit.evidence.accelerators.compare import fitted, predict_rows
from simkit.evidence.accelerators.table import MeasuredRow, read_rows
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.serving.runtime import Runtime, list_runtimes, runtime_of

ADDED: Final = ("step_s", "kernel_gap_s", "exchange_gap_s", "host_sequence_s")
UNIT_S: Final = 1e-6
ALL_ISSUE_S: Final = 1e-3  # a kernel: no chip takes longer, so that steps are all issuing
LOSS_SCALE: Final = 0.05
WHOLE: Final = ("request_s", "step_s", "output_tokens_per_s", "user_tokens_per_s")


@cache
def vendor(chip: str) -> str:
    """Who makes a chip; empty where the catalogue does not have it."""
    try:
        return load_hardware(chip).vendor
    except UserError:
        return ""


def own_rows(runtime: Runtime) -> list[MeasuredRow]:
    """Rows of the shipped table that are the runtime's, in the series that it may be fitted to."""
    return [row for row in read_rows() if row.quantity in WHOLE and row.series in runtime.calibrated_on
            and runtime_of(row.software, row.series, vendor(row.chip)).name == runtime.name]


def refit(runtime: Runtime, names: list[str]) -> None:
    """Fit and print."""
    rows = own_rows(runtime)
    plain = runtime.without_constants

    def times(one: Runtime) -> Any:
        return predict_rows(rows, runtime=one).predicted

    base = times(plain)
    issues = runtime.issue_s > 0.0
    prefill = times(plain.model_copy(update={"prefill_fraction": 0.5})) - base
    columns = [(times(plain.model_copy(update={name: UNIT_S})) - base) for name in names]
    issued = (times(plain.model_copy(update={"issue_s": ALL_ISSUE_S})) - prefill) * UNIT_S / ALL_ISSUE_S
    measured = np.array([row.time_of(row.value) for row in rows])
    known = np.isfinite(base)
    half = np.array([fitted(row) for row in rows])
    fit = known & half

    def predicted(values: Any, where: Any) -> Any:
        steps = (base - prefill)[where]
        steps = steps + sum(value * column[where] for value, column in zip(values, columns, strict=False))
        return prefill[where] / values[-1] + (np.maximum(steps, values[-2] * issued[where]) if issues else steps)

    start = np.array([10.0] * len(names) + [10.0, 0.8])
    found = least_squares(lambda values: np.log(predicted(values, fit) / measured[fit]), start, loss="soft_l1",
                          f_scale=LOSS_SCALE, x_scale=start,
                          bounds=([0.0] * len(names) + [0.0, 0.05], [1e5] * len(names) + [1e3, 1.0]))
    print(runtime.name, "rows", int(fit.sum()), "+", int((known & ~half).sum()))
    for name, value in zip([*names, "issue_s"] if issues else names, found.x, strict=False):
        print(f"  {name}: {value * UNIT_S:.8f}")
    print(f"  prefill_fraction: {found.x[-1]:.3f}")
    for label, where in (("fitted", fit), ("held out", known & ~half)):
        if where.any():
            error, before = (time / measured[where] - 1 for time in (predicted(found.x, where), base[where]))
            print(f"  {label}: median {np.median(abs(error)):.3f}, before {np.median(abs(before)):.3f}")
    for chip in sorted({row.chip for row in rows}):
        where = known & np.array([row.chip == chip for row in rows])
        error = predicted(found.x, where) / measured[where] - 1
        print(f"    {chip}: {where.sum()} rows, median {np.median(abs(error)):.3f}, bias {np.median(error):+.3f}")


def main() -> None:
    """Refit those asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", action="append")
    parser.add_argument("--without", action="append", default=[], choices=ADDED)
    given = parser.parse_args()
    for runtime in list_runtimes():
        if runtime.calibrated_on and (not given.runtime or runtime.name in given.runtime):
            refit(runtime, [name for name in ADDED if name not in given.without])


if __name__ == "__main__":
    main()
