"""Times one tool from inside its own environment; standard library only, because no tool shares another's packages.

Run by ``compare.py``: ``python measure.py TOOL QUESTIONS.json ANSWERS.json``. A tool is a module ``tool_NAME.py`` here
with ``step_times_s(points)`` and ``kernel_times_s(kernels)``, both returning seconds, ``None`` where the tool cannot
answer. Rates are of processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

LEAST_TIMED_S = 2.0


def main() -> None:
    """Answer the questions; with ``--first`` only the first point, for the start-up time."""
    name, questions_file, answers_file = sys.argv[1:4]
    questions = json.loads(Path(questions_file).read_text(encoding="utf-8"))
    tool = importlib.import_module(f"tool_{name}")
    points = questions["points"]
    if "--first" in sys.argv:
        tool.step_times_s(points[:1])
        return
    begin = time.process_time()
    steps = tool.step_times_s(points)
    first_s = time.process_time() - begin
    rate = repeated_rate(tool, points)
    peak_mib = peak_memory_mib()
    begin = time.process_time()
    kernels = tool.kernel_times_s(questions["kernels"])
    kernels_s = time.process_time() - begin
    answers = {"version": tool.version(), "step_times_s": steps, "first_points_per_s": len(points) / first_s,
               "points_per_s": rate, "peak_mib": peak_mib, "kernel_times_s": kernels,
               "kernels_per_s": len(questions["kernels"]) / kernels_s}
    Path(answers_file).write_text(json.dumps(answers), encoding="utf-8")


def peak_memory_mib() -> float:
    """Resident maximum of this program; ``getrusage`` would count what its parent held when it was forked."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def repeated_rate(tool: Any, points: list[dict[str, int]]) -> float:
    """Points per second once everything is loaded: each round asks for other contexts, so that no cache answers."""
    done, spent, turn = 0, 0.0, 0
    while spent < LEAST_TIMED_S:
        turn += 1
        others = [point | {"kv_len": point["kv_len"] - turn} for point in points]
        begin = time.process_time()
        tool.step_times_s(others)
        spent += time.process_time() - begin
        done += len(points)
        if turn >= 200:  # contexts of 512 tokens must stay contexts
            break
    return done / spent


if __name__ == "__main__":
    main()
