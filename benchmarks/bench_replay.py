"""Seconds of one core that replays take: layers of Llama-2-70B, a long context, and a whole study.

What is promised of a quiet core: a layer of 32 x 4096 tokens in 0.05 s, of 128 x 131072 in 1 s, exact replays in
proportion to their bytes, a study of 450 points in a minute and below a GiB (tests count the loads instead).

Run: ``make bench`` or ``python benchmarks/bench_replay.py``. The first line compiles (or loads the compiled loop from
the disk cache); all others are after warm-up. Studies run in two processes, one a core, as a sweep would.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from simkit.hardware.catalog import load_hardware
from simkit.study.point import decode_step
from simkit.study.replay_cache import without_cache

CHIPS = ("h100-sxm", "a100-sxm-80gb", "mi300x", "b200-sxm", "l40s", "tpu-v5e", "groq-lpu", "cerebras-wse3",
         "sambanova-sn40l", "generic-sram-asic")
LAYOUTS = ("mha", "gqa-8", "mqa")
BATCHES, CONTEXTS = (1, 8, 32, 64, 128), (1024, 8192, 32768)


def cpu_s(work: Callable[[], Any], turns: int = 3) -> float:
    """The fastest of a few turns, in seconds of this process's CPU time."""
    times = []
    for _ in range(turns):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def one_layer(layout: str, batch: int, kv_len: int, *, exact: bool = False) -> Callable[[], Any]:
    """A replay of one layer's attention on one H100, nothing remembered from the last turn."""
    from simkit.model.attention import parse_layout
    from simkit.model.catalog import load_model
    from simkit.replay.attention import replay_attention
    from simkit.replay.engine import task_of
    from simkit.step.build import build_step
    from simkit.step.machine import Machine
    from simkit.step.placement import Placement
    from simkit.study.scenario import parse_scenario
    from simkit.timing.single_points import scalar_operator

    chip, model = load_hardware("h100-sxm"), load_model("llama-2-70b")
    workload = parse_scenario().workload(
        chip, model, parse_layout(layout, model), batch=np.array([float(batch)]), kv_len=np.array([float(kv_len)]),
        q_len=np.array([1.0]), machine=Machine(chips=1.0, tp=1.0, pp=1.0))
    operator = scalar_operator(build_step(workload).attention_operators[0], 0, (1,))
    where = Placement(weights={"hbm": 1.0}, kv={"hbm": 1.0}, fits=True, max_batch=0)
    return lambda: replay_attention(operator, task_of(operator), where, chip, exact=exact)


def peak_memory_bytes() -> float:
    """Of this process alone: what getrusage says includes the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024.0 * int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def study_part(chip: str) -> tuple[int, float, float]:
    """All points of one chip: how many, CPU seconds, and this process's peak memory in bytes."""
    layout, batch, kv_len = (np.array(axis, dtype=kind) for axis, kind in zip(
        zip(*product(LAYOUTS, BATCHES, CONTEXTS), strict=True), (object, float, float), strict=True))
    begin = time.process_time()
    with without_cache():
        found = decode_step(chip, "llama-2-70b", attention=layout, batch=batch, kv_len=kv_len, engine="replay")
    return len(found["step_time_s"]), time.process_time() - begin, peak_memory_bytes()


def main() -> None:
    """Print the table."""
    begin = time.perf_counter()
    one_layer("mha", 1, 1024)()
    print(f"{'first use (compiles, or loads from disk)':<52}{time.perf_counter() - begin:>10.3f} s")
    for layout in LAYOUTS:
        print(f"{f'one layer, {layout}, 32 x 4096':<52}{cpu_s(one_layer(layout, 32, 4096)):>10.4f} s of CPU")
    for layout in LAYOUTS:
        print(f"{f'one layer, {layout}, 128 x 131072':<52}{cpu_s(one_layer(layout, 128, 131072)):>10.4f} s of CPU")
    exact = [cpu_s(one_layer("gqa-8", 128, kv_len, exact=True), turns=1) for kv_len in (32768, 65536, 131072)]
    print(f"{'exact, gqa-8, 128 x 32768, 65536, 131072':<52}{exact[0]:>10.3f} {exact[1]:.3f} {exact[2]:.3f} s of CPU")
    begin = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(study_part, CHIPS))
    points, used_s, peak_bytes = (sum(part[0] for part in parts), sum(part[1] for part in parts),
                                  max(part[2] for part in parts))
    print(f"{f'study of {points} points on two cores':<52}{time.perf_counter() - begin:>10.1f} s, "
          f"{used_s:.1f} s of CPU, peak memory {peak_bytes / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
