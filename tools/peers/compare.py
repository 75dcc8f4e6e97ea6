"""simkit beside other analytic models of LLM inference on one machine: speed, start-up, memory, and errors.

Run: ``python tools/check.py peers [ROWS]``. Every tool gets a virtual environment of its
own under ``out/peers`` and answers the same questions there (``measure.py``, ``tool_*.py``): decode steps of
Llama-2-70B with 64, 8 and 1 KV heads at four batches and four contexts on eight H100, and measured attention kernels
of one H100. Kernels are ROWS (2000) drawn with a seed from the big table where SIMKIT_REFERENCE names its folder, else
those that simkit ships; advantages come from the shipped ladders of head counts. A tool that cannot be installed is
skipped with the reason. Which published configurations a tool takes is asked of those that aiconfigurator ships and of
the reference's, each content once.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.compare import SHIPPED_LADDERS, SHIPPED_SPREAD, baseline_times_s
from simkit.evidence.silicon.score import median_advantage_error, regimes
from simkit.evidence.silicon.tables import MeasuredTimes, read_table, shipped_table
from simkit.hardware.catalog import load_hardware

HERE: Final = Path(__file__).resolve().parent
REPOSITORY: Final = HERE.parents[1]
ENVIRONMENTS: Final = REPOSITORY / "out" / "peers"
SYSTEM: Final = "h100_sxm"
SEED: Final = 0
BATCHES: Final = (1, 4, 16, 32)
CONTEXTS: Final = (512, 1024, 2048, 4096)
KV_HEADS: Final = (64, 8, 1)  # MHA, GQA-8, MQA; all 48 points fit on eight chips
SWEEP_BATCHES, SWEEP_CONTEXTS = range(1, 33), range(512, 4096, 16)
SHOWN: Final = (32, 4096)  # batch and context of the step that the table shows
STARTS: Final = 3
SHOWN_REFUSALS: Final = 8
NEAR: Final = 0.05  # how far a tool's parameters may be from simkit's, which tests hold against published numbers


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's module in this folder, the package that it needs, and what to call it in the table."""

    module: str
    package: str | None
    label: str


TOOLS: Final = (Tool("simkit", None, "simkit, roofline"), Tool("aiconfigurator", "aiconfigurator", "aiconfigurator"),
                Tool("aiconfigurator_sol", "aiconfigurator", "aiconfigurator, SOL"),
                Tool("genz", "genz-llm", "genz-llm"), Tool("genz_si", "genz-llm", "genz-llm, bandwidth in SI"),
                Tool("llm_analysis", "llm-analysis", "llm-analysis"), Tool("llm_flops", "llm-flops", "llm-flops"),
                Tool("mlsysim", "mlsysim", "mlsysim"), Tool("servcalc", "servcalc", "servcalc"))


def main() -> None:
    """Ask every tool and print both tables in Markdown."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rows, ladders = _measured(count)
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    questions, models = ENVIRONMENTS / "questions.json", _models()
    questions.write_text(json.dumps({
        "points": _points(BATCHES, CONTEXTS), "sweep": _points(SWEEP_BATCHES, SWEEP_CONTEXTS),
        "kernels": _kernels(rows) + _kernels(ladders), "models": models}), encoding="utf-8")
    answers: dict[str, dict[str, Any]] = {}
    for tool in TOOLS:
        python = Path(sys.executable) if tool.package is None else _installed(tool.package)
        if python is not None:
            print(f"asking {tool.label}", file=sys.stderr)
            answers[tool.label] = _ask(tool, python, questions)
    print(f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, Python {sys.version.split()[0]}, "
          f"{len(rows)} kernels of {rows.name}, seed {SEED}\n")
    _print_speed(answers)
    print()
    _print_models(answers, models)
    print()
    _print_errors(answers, rows, ladders)


def _measured(count: int) -> tuple[MeasuredTimes, MeasuredTimes]:
    """Rows to score, and the ladders of head counts that advantages need."""
    folder = os.environ.get("SIMKIT_REFERENCE")
    big = Path(folder) / "decode_attention.csv.gz" if folder else None
    rows = read_table(big) if big is not None and big.exists() else shipped_table(SHIPPED_SPREAD)
    rows = rows.of_system(SYSTEM)
    if len(rows) > count:
        rows = rows.take(np.sort(np.random.default_rng(SEED).permutation(len(rows))[:count]))
    return rows, shipped_table(SHIPPED_LADDERS).of_system(SYSTEM)


def _points(batches: Iterable[int], contexts: Iterable[int]) -> list[dict[str, int]]:
    """Every batch with every context in every layout."""
    return [{"n_kv_heads": heads, "batch": batch, "kv_len": kv_len}
            for heads in KV_HEADS for batch in batches for kv_len in contexts]


def _models() -> list[str]:
    """A folder for each distinct configuration: aiconfigurator's, with the quantisation file beside it, and ours."""
    python = _installed("aiconfigurator")
    shipped = python.parents[1].glob("lib/*/site-packages/aiconfigurator_core/model_configs") if python else ()
    reference = os.environ.get("SIMKIT_REFERENCE")
    sources = [*shipped, *([Path(reference) / "hf_configs"] if reference else [])]
    into = ENVIRONMENTS / "models"
    shutil.rmtree(into, ignore_errors=True)
    folders: dict[str, str] = {}
    known: set[str] = set()
    for file in (file for source in sources for file in sorted(source.glob("*.json"))):
        if file.name.endswith("hf_quant_config.json"):
            continue
        beside = file.with_name(file.name.replace("_config.json", "_hf_quant_config.json"))
        beside = beside if beside != file and beside.exists() else None
        content, plain = (json.dumps([json.loads(part.read_text(encoding="utf-8")) for part in parts], sort_keys=True)
                          for parts in ([file, *([beside] if beside else [])], [file]))
        if content in known or (beside is None and plain in known):
            continue
        known |= {content, plain}
        folder = into / file.name.removesuffix(".json").removesuffix("_config")
        folder.mkdir(parents=True)
        shutil.copyfile(file, folder / "config.json")
        if beside is not None:
            shutil.copyfile(beside, folder / "hf_quant_config.json")
        folders[folder.name] = str(folder)
    return list(folders.values())


def _kernels(rows: MeasuredTimes) -> list[dict[str, Any]]:
    texts = {"system", "kv_dtype"}
    return [{name: str(column[i]) if name in texts else int(column[i]) for name, column in rows.columns.items()}
            for i in range(len(rows))]


def _pinned(package: str) -> str:
    """The line of requirements.txt that names the package."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


def _installed(package: str) -> Path | None:
    """The Python of an environment that has the package; None, and a message, when it cannot be had."""
    folder = ENVIRONMENTS / package
    python = folder / "bin" / "python"
    wanted = _pinned(package)
    ready = folder / ".ready"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {wanted} into out/peers/{package}", file=sys.stderr)
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)],
                    [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"skipped: {wanted} cannot be installed here: {reason}", file=sys.stderr)
            return None
    ready.write_text(wanted, encoding="utf-8")
    return python


def _ask(tool: Tool, python: Path, questions: Path) -> dict[str, Any]:
    """The tool's answers, with ``startup_s`` and ``startup_cpu_s`` of a fresh process that answers one point."""
    told = ENVIRONMENTS / f"answers_{tool.module}.json"
    command = [str(python), str(HERE / "measure.py"), tool.module, str(questions), str(told)]
    starts = []
    for _ in range(STARTS):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        _run([*command, "--first"])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        starts.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                       time.perf_counter() - begin))
    _run(command)
    found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    found["startup_cpu_s"], found["startup_s"] = min(starts)
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ENVIRONMENTS)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def _print_speed(answers: dict[str, dict[str, Any]]) -> None:
    points = _points(BATCHES, CONTEXTS)
    print(f"| tool | version | points/s, 1 a call | {len(points)} a call | a sweep | kernels/s | start-up, one point | "
          f"peak memory | step of MHA / GQA-8 / MQA, {SHOWN[0]} x {SHOWN[1]} |\n|---|---|---|---|---|---|---|---|---|")
    for label, found in answers.items():
        steps = " / ".join(f"{1e3 * time_s:.3g}" for point, time_s in zip(points, found["step_times_s"], strict=True)
                           if (point["batch"], point["kv_len"]) == SHOWN)
        rates = " | ".join(_rounded(found["points_per_s"][name]) for name in ("one", "call", "sweep"))
        print(f"| {label} | {found['version']} | {rates} | {_rounded(found['kernels_per_s'])} | "
              f"{found['startup_cpu_s']:.1f} s | {found['peak_mib']:.0f} MiB | {steps} ms |")


def _rounded(value: float) -> str:
    """Three digits: more would be of this one run."""
    return f"{float(f'{value:.3g}'):,.0f}".replace(",", " ")


def _print_models(answers: dict[str, dict[str, Any]], models: list[str]) -> None:
    """Configurations that each tool takes, and of those that it counts the parameters of, how many it gets right."""
    ours = next((found["parameters"] for found in answers.values()), {})
    print(f"| tool | takes, of {len(models)} configurations | parameters within {100 * NEAR:.0f} % of simkit's |\n"
          "|---|---|---|")
    for label, found in answers.items():
        taken = found["parameters"]
        if taken is None:
            print(f"| {label} | reads none | |")
            continue
        counted = [name for name, parameters in taken.items() if parameters is not None and name in ours]
        right = sum(abs(taken[name] / ours[name] - 1) <= NEAR for name in counted)
        print(f"| {label} | {len(taken)} | {right if counted or not taken else 'not counted'} |")
        if refused := sorted({Path(folder).name for folder in models} - {*taken}):
            print(f"{label} refuses {', '.join(refused[:SHOWN_REFUSALS])}"
                  f"{', ...' if len(refused) > SHOWN_REFUSALS else ''}", file=sys.stderr)


def _print_errors(answers: dict[str, dict[str, Any]], rows: MeasuredTimes, ladders: MeasuredTimes) -> None:
    """Errors over the rows that every tool answers, so that none is scored on easier ones."""
    hardware = load_hardware(SYSTEM)
    predicted = {label: np.array(found["kernel_times_s"], dtype=float) for label, found in answers.items()}
    predicted["peak roofline (naive)"] = np.concatenate([baseline_times_s(rows, hardware),
                                                         baseline_times_s(ladders, hardware)])
    all_answered = np.all([np.isfinite(times) for times in predicted.values()], axis=0)
    masks, ladder_masks = regimes(rows, hardware), regimes(ladders, hardware)
    print("Mean / median error in %, and median error of the advantage over MHA (all regimes, shipped ladders):\n")
    print(f"| tool | answered of {len(rows)} | " + " | ".join(masks) + " | advantage |")
    print("|---" * (len(masks) + 3) + "|")
    for label, times in predicted.items():
        own, of_ladders = times[:len(rows)], times[len(rows):]
        error = np.abs(own / rows.time_s - 1.0)
        cells = []
        for mask in masks.values():
            scored = error[mask & all_answered[:len(rows)]]
            cells.append(f"{100 * scored.mean():.1f} / {100 * np.median(scored):.1f}" if len(scored) else "")
        advantage, _ = median_advantage_error(ladders, of_ladders, ladder_masks["all"] & all_answered[len(rows):])
        cells.append("" if advantage is None else f"{100 * advantage:.1f}")
        print(f"| {label} | {int(np.isfinite(own).sum())} | " + " | ".join(cells) + " |")
    counts = ", ".join(f"{name} {int((mask & all_answered[:len(rows)]).sum())}" for name, mask in masks.items())
    print(f"\nRows scored: {counts}.")


if __name__ == "__main__":
    main()
