"""Times one tool from inside its own environment; standard library only, because no tool shares another's packages.

Run by ``compare.py``: ``python measure.py TOOL QUESTIONS.json ANSWERS.json``. A tool is a module ``tool_NAME.py`` here
with ``step_times_s(points)`` and ``kernel_times_s(kernels)``, both returning seconds, ``None`` where the tool cannot
answer, and, where it reads a ``config.json``, ``parameters_of(folder)``, which raises what the tool does where it does
not take one. Rates are of processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

LEAST_TIMED_S = 2.0
LONGEST_CALL_S = 10.0  # of a sweep, as the rate at the call before it says
MOST_TURNS = 200  # contexts of 512 tokens must stay contexts


def main() -> None:
    """Answer the questions; with ``--first`` only the first point, for the start-up time."""
    name, questions_file, answers_file = sys.argv[1:4]
    questions = json.loads(Path(questions_file).read_text(encoding="utf-8"))
    tool = importlib.import_module(f"tool_{name}")
    points = questions["points"]
    if "--first" in sys.argv:
        tool.step_times_s(points[:1])
        return
    steps = tool.step_times_s(points)
    rates = {"one": rate(tool, points, 1), "call": rate(tool, points, len(points))}
    sweep = questions["sweep"]
    rates["sweep"] = rate(tool, sweep, min(len(sweep), max(len(points), int(rates["call"] * LONGEST_CALL_S))))
    peak_mib = peak_memory_mib()
    begin = time.process_time()
    kernels = tool.kernel_times_s(questions["kernels"])
    kernels_s = time.process_time() - begin
    answers = {"version": tool.version(), "step_times_s": steps, "points_per_s": rates, "peak_mib": peak_mib,
               "kernel_times_s": kernels, "kernels_per_s": len(questions["kernels"]) / kernels_s,
               "parameters": taken(tool, questions["models"])}
    Path(answers_file).write_text(json.dumps(answers), encoding="utf-8")


def peak_memory_mib() -> float:
    """Resident maximum of this program; ``getrusage`` would count what its parent held when it was forked."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def rate(tool: Any, points: list[dict[str, int]], at_once: int) -> float:
    """Points per second of calls of ``at_once``: each round asks for other contexts, so that no cache answers."""
    done, spent = 0, 0.0
    for turn in range(1, MOST_TURNS + 1):
        others = [point | {"kv_len": point["kv_len"] - turn} for point in points]
        for start in range(0, len(others) - at_once + 1, at_once):
            asked = others[start:start + at_once]
            begin = time.process_time()
            tool.step_times_s(asked)
            spent += time.process_time() - begin
            done += at_once
            if spent >= LEAST_TIMED_S:
                return done / spent
    return done / spent


def taken(tool: Any, folders: list[str]) -> dict[str, float | None] | None:
    """Parameters of the models that the tool takes, ``None`` where it does not count them; without a reader nothing."""
    if not hasattr(tool, "parameters_of"):
        return None
    found: dict[str, float | None] = {}
    os.environ["HF_HUB_OFFLINE"] = "1"
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        for folder in folders:
            with contextlib.suppress(Exception, SystemExit):  # whatever it raises
                found[Path(folder).name] = tool.parameters_of(folder)
    return found


if __name__ == "__main__":
    main()
