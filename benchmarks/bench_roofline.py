"""One point, points per second and memory: the roofline engine on one core, searches, and a sweep of any length.

Run: ``make bench`` or ``python benchmarks/bench_roofline.py [POINTS]``. One core: NumPy's own threads are not used by
these operations. A search asks the closed form for every mapping of every layout: its rows stand beside those whose
mapping is named. Peak memory is the process's resident maximum after sweeps of growing length: it must not grow.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.grid import Grid
from simkit.study.point import decode_step

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


def call_ms(calls: int = 60, **words: object) -> float:
    """Processor time of one call of ``decode_step`` for one point, as a program in a loop asks; contexts differ."""
    chip, model = load_hardware("h100-sxm"), load_model("llama-2-70b")

    def ask(kv_len: int) -> None:
        decode_step(chip, model, attention="gqa-8", batch=8, kv_len=kv_len, **words)

    ask(100)
    start = time.process_time()
    for number in range(calls):
        ask(1000 + number)
    return (time.process_time() - start) / calls * 1e3


def public_points_per_s(points: int, fields: list[str] | None) -> float:
    """Of one call of ``decode_step`` with arrays, MHA beside every point."""
    kv_len = np.linspace(128, 131072, points // 100)
    start = time.process_time()
    decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=np.arange(1, 101)[:, None], kv_len=kv_len, chips=8,
                tp=8, fields=fields)
    return points / (time.process_time() - start)


def peak_mib() -> float:
    """Resident maximum of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print both tables."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    print("one point of decode_step, ms: llama-2-70b gqa-8 on h100-sxm")
    for label, words in (("chips, tp and mapping named", {"chips": 8, "tp": 8, "attention_sharding": "heads"}),
                         ("8 chips, mapping searched", {"chips": 8}), ("chips and mapping searched", {})):
        print(f"  {label:<42}{call_ms(**words):>12.2f}")
    print("whole-step points per second, llama-2-70b on h100-sxm, one process")
    for label, fields in (("one call, a million points, 4 columns", ["step_time_s", "bound", "fits", "speedup_vs_mha"]),
                          ("one call, a million points, all columns", None)):
        print(f"  {label:<42}{public_points_per_s(1_000_000, fields):>12,.0f}{peak_mib():>10.0f} MiB")
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
