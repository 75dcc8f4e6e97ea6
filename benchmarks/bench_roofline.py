"""Whole-step points per second of the roofline engine on one core, and the memory of a sweep of any length.

Run: ``make bench`` or ``python benchmarks/bench_roofline.py [POINTS]``. One core: NumPy's own threads are not used by
these operations. Peak memory is the process's resident maximum after sweeps of growing length: it must not grow.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.grid import Grid

LAYOUTS = ["mha", "gqa-8", "mqa"]


def sweep_of(points: int, *, chips: int | str, baseline: bool) -> Grid:
    """A product of three layouts, 100 batches and as many contexts as it takes."""
    contexts = max(points // (len(LAYOUTS) * 100), 1)
    return Grid(hardware=[load_hardware("h100-sxm")], model=[load_model("llama-2-70b")], attention=LAYOUTS,
                 batch=list(range(1, 101)), kv_len=np.linspace(128, 131072, contexts).tolist(), chips=chips,
                 baseline=baseline)


def points_per_s(sweep: Grid) -> float:
    """Points over the processor time of one pass: what one core of its own would give."""
    start = time.process_time()
    done = sum(len(columns["step_time_s"]) for columns in sweep.chunks())
    return done / (time.process_time() - start)


def peak_mib() -> float:
    """Resident maximum of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print both tables."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    print("whole-step points per second, llama-2-70b on h100-sxm, one process")
    for label, chips, baseline in (("8 chips", 8, False), ("8 chips, MHA baseline beside every point", 8, True),
                                   ("fitting chips, MHA baseline", "fit", True)):
        sweep = sweep_of(300_000, chips=chips, baseline=baseline)
        rates = [points_per_s(sweep) for _ in range(3)]
        print(f"  {label:<42}{np.median(rates):>12,.0f}")
    print("peak resident memory after a sweep of that many points")
    for points in (most // 100, most // 10, most):
        points_per_s(sweep_of(points, chips=8, baseline=False))
        print(f"  {points:>12,}{peak_mib():>10.0f} MiB")


if __name__ == "__main__":
    main()
