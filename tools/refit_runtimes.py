"""Refit what serving runtimes add to a step (workloads/runtimes/*.yaml) to measured times per output token.

    python tools/refit_runtimes.py serving_tpot.csv.gz [--runtime vllm]

Rows: the dense models Llama-3.1-70B and Qwen3-32B on 2 and 8 chips, every second row of each runtime; the other half,
1 and 4 chips and every other model are never fitted. Least squares with a soft-L1 loss, nearly mean |log error|. Prints
the three parameters and the median error of the rows that were fitted and of the half that was not; writes no file.
Run it whenever the step itself changes: the gap of a kernel is what the step leaves out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simkit.evidence.served_models import MODELS, ServedModel, predict, read_rows
from simkit.serving.runtime import IDEAL, Runtime, load_runtime

FITTED_MODELS: Final = ("llama-3.1-70b", "qwen3-32b")
FITTED_CHIPS: Final = (2, 8)
UNIT_S: Final = 1e-6  # gaps and host work are searched in microseconds
LOSS_SCALE: Final = 0.02  # of |ln|: errors of more than that count linearly
STEP: Final = 0.05  # of a parameter, for the differences of the Jacobian
MOST_EVALUATIONS: Final = 8


def fitted_rows(rows: list[ServedModel], runtime: str) -> tuple[list[ServedModel], list[ServedModel]]:
    """The rows that a runtime is fitted to, and their other half."""
    found = [row for row in rows if row.comparable and row.framework == runtime
             and MODELS[row.model] in FITTED_MODELS and row.shared_by in FITTED_CHIPS]
    return found[::2], found[1::2]


def runtime_of(name: str, values: Any) -> Runtime:
    """A runtime with these parameters: microseconds a kernel, microseconds a sequence, the prefill's share."""
    gap_us, host_us, fraction = (float(value) for value in values)
    return IDEAL.model_copy(update={"name": name, "kernel_gap_s": gap_us * UNIT_S, "host_sequence_s": host_us * UNIT_S,
                                    "prefill_fraction": fraction})


def errors(rows: list[ServedModel], runtime: Runtime) -> Any:
    """Logarithms of predicted over measured time per output token."""
    return np.array([math.log(predict(row, runtime)[0] / row.tpot_s) for row in rows])


def refit(name: str, rows: list[ServedModel]) -> Runtime:
    """The runtime that fits the rows best."""
    now = load_runtime(name)
    start = np.array([max(now.kernel_gap_s / UNIT_S, 0.5), max(now.host_sequence_s / UNIT_S, 1.0),
                      min(now.prefill_fraction, 0.95)])
    found = least_squares(lambda values: errors(rows, runtime_of(name, values)), start, loss="soft_l1",
                          f_scale=LOSS_SCALE, diff_step=STEP, max_nfev=MOST_EVALUATIONS, x_scale=start,
                          bounds=([0.0, 0.0, 0.01], [1000.0, 100_000.0, 1.0]))
    return runtime_of(name, found.x)


def first_token_s(rows: list[ServedModel], runtime: Runtime) -> float:
    """What a request takes outside the engine: of least mean |log error| of TTFT, none above e."""
    predicted, measured = np.array([predict(row, runtime.model_copy(update={"request_s": 0.0}))[1] for row in rows]), (
        np.array([row.ttft_s for row in rows]))
    return min(np.arange(0.0, 0.4, 0.002).tolist(), key=lambda more: float(
        np.minimum(np.abs(np.log((predicted + more) / measured)), 1.0).mean()))


def main() -> int:
    """Refit and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--runtime", choices=("sglang", "trtllm", "vllm"), action="append")
    given = parser.parse_args()
    rows = read_rows(given.data)
    for name in given.runtime or ("sglang", "trtllm", "vllm"):
        started = time.monotonic()
        fitted, held_out = fitted_rows(rows, name)
        found = refit(name, fitted)
        print(f"{name}: request_s {first_token_s(fitted, found):.3f}")
        for label, runtime in (("before", load_runtime(name)), ("after", found)):
            of_fitted, of_others = (median(abs(np.expm1(errors(part, runtime)))) for part in (fitted, held_out))
            print(f"{name} {label}: kernel_gap_s {runtime.kernel_gap_s:.4g}, host_sequence_s "
                  f"{runtime.host_sequence_s:.4g}, prefill_fraction {runtime.prefill_fraction:.4g}; median error "
                  f"{of_fitted:.1%} of {len(fitted)} rows fitted, {of_others:.1%} of {len(held_out)} others")
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
