"""Record what simkit answers today, and say later what has changed: the check of a change that should change nothing.

    python tools/record_answers.py record answers.json.gz     # before
    python tools/record_answers.py compare answers.json.gz    # after: exit 1 and a table when anything moved

A recording holds random decode steps (chips, models, layouts, formats, scenarios, both engines) with their arguments,
and every table behind the figures of the shipped studies. It asks through the public face alone, so that nothing
inside may hold it back. Recordings are not kept in the repository: they are of the commit that made them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
TOLERANCE: Final = 1e-9
REPLAY_SHARE: Final = 0.1  # a replayed point takes some hundred times as long as a closed form
LAYOUTS: Final = ("as-trained", "mha", "gqa-2", "gqa-4", "gqa-8", "mqa", "mla", "mla-expanded")
DTYPES: Final = ("bf16", "fp8", "int8", "int4", "int4-g128", "fp4", "int2-channel/int2")
WEIGHTS: Final = ("bf16", "fp8", "int4", "fp4")
CHANGES: Final[tuple[dict[str, Any], ...]] = (
    {"eviction": "streaming:4+1020"}, {"eviction": "h2o:512+512"}, {"eviction": "snapkv:1024+256"},
    {"eviction": "h2o:256+256", "layer_budgets": [1.5, 1.0, 0.5]}, {"page": 16}, {"page": 64}, {"reserve": 32768},
    {"lengths": "lognormal:0.8"}, {"lengths": "uniform:0.5"}, {"lengths": "8,1,1,1"},
    {"attention_kernel": "per-query-head"}, {"attention_kernel": "unfused"}, {"attention_kernel": "grouped-unsplit"},
    {"cache_order": "token-major"}, {"attention_sharding": "batch"}, {"attention_sharding": "context"},
    {"attention_sharding": "heads"}, {"ep": 4}, {"ep": 8}, {"speculation": "medusa=4,acceptance=0.6"},
    {"speculation": "draft=llama-3.2-1b,gamma=4,acceptance=0.8"})


def random_calls(count: int, seed: int) -> list[dict[str, Any]]:
    """Arguments of ``count`` calls of ``decode_step``, two points each so that arrays are met as well as numbers."""
    draw = random.Random(seed)
    chips = sorted(path.stem for path in (REPOSITORY / "hardware_profiles").glob("*.yaml"))
    models = sorted(path.stem for path in (REPOSITORY / "workloads" / "models").glob("*.yaml"))
    calls = []
    for number in range(count):
        replayed = number < count * REPLAY_SHARE
        call: dict[str, Any] = {
            "hardware": draw.choice(chips), "model": draw.choice(models), "attention": draw.choice(LAYOUTS),
            "batch": round(2 ** draw.uniform(0, 6 if replayed else 10)), "kv_dtype": draw.choice(DTYPES),
            "weight_dtype": draw.choice(WEIGHTS), "engine": "replay" if replayed else "roofline"}
        tokens = round(2 ** draw.uniform(0, 14 if replayed else 20))
        call["kv_len"] = tokens if draw.random() < 0.5 else [tokens, tokens + draw.randint(1, 5000)]
        if draw.random() < 0.2:
            call["q_len"] = draw.choice((2, 5, 8))
        chosen = draw.random()
        if chosen < 0.2:
            call["chips"] = draw.choice((1, 2, 4, 8, 16, 64))
        elif chosen < 0.3:
            call["chips"] = "fit-each"
        elif chosen < 0.4:
            call |= {"tp": draw.choice((1, 2, 4, 8)), "pp": draw.choice((1, 2))}
        for change in draw.sample(CHANGES, draw.choice((0, 0, 1, 1, 2))):
            call |= change
        calls.append(call)
    return calls


def answer(call: dict[str, Any], loaded: dict[tuple[str, str], Any], assume: str) -> dict[str, Any]:
    """What decode_step says, as plain values; a refusal is an answer too."""
    import numpy as np

    import simkit
    from simkit.errors import UserError

    arguments = {key: tuple(value) if key == "layer_budgets" else value for key, value in call.items()}
    for kind, load in (("hardware", partial(simkit.load_hardware, assume=assume)), ("model", simkit.load_model)):
        key = kind, arguments[kind]
        if key not in loaded:
            loaded[key] = load(arguments[kind])
        arguments[kind] = loaded[key]
    try:
        columns = simkit.decode_step(**arguments)
    except UserError as error:
        return {"refused": error.message}
    return {name: [None if isinstance(value, float) and math.isnan(value) else value for value in
                   np.ravel(column).tolist()] for name, column in columns.items()}


def study_tables(only: list[str] | None, assume: str) -> dict[str, list[list[str]]]:
    """Every CSV that a report of a shipped study writes, by study and file."""
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for study in sorted(path.stem for path in (REPOSITORY / "workloads" / "studies").glob("*.yaml")):
            if only is not None and study not in only:
                continue
            where = Path(folder) / study
            subprocess.run([sys.executable, "-m", "simkit", "report", study, "--assume", assume, "-o", str(where)],
                           check=False, cwd=REPOSITORY, capture_output=True,
                           env=os.environ | {"SIMKIT_CACHE": folder + "/cache"})
            # A study of claims has no figures: its report is refused and leaves no table.
            for path in sorted(where.rglob("*.csv")):
                with path.open(encoding="utf-8", newline="") as file:
                    tables[f"{study}/{path.name}"] = list(csv.reader(file))
            print(f"  {study}", file=sys.stderr)
    return tables


def relative_difference(before: Any, now: Any) -> float:
    """0 when equal, a ratio for numbers, infinite for anything else that differs."""
    if before == now:
        return 0.0
    try:
        one, two = float(before), float(now)
    except (TypeError, ValueError):
        return math.inf
    if math.isnan(one) and math.isnan(two):
        return 0.0
    return abs(one - two) / max(abs(one), abs(two))


class Differences:
    """The largest difference of each place and column beyond a tolerance, with an example."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.found: dict[tuple[str, str], tuple[float, str]] = {}

    def meet(self, place: str, column: str, before: Any, now: Any, example: str) -> None:
        """Compare one value with what it was."""
        worst = self.found.get((place, column), (self.tolerance, ""))[0]
        difference = relative_difference(before, now)
        if difference > worst:
            self.found[place, column] = difference, f"{before} -> {now}  {example}"

    def meet_point(self, entry: dict[str, Any], now: dict[str, Any]) -> None:
        """Compare the answer to one call; a column that is new is no difference."""
        call, before = entry["call"], entry["answer"]
        place, example = f"{call['hardware']} ({call['engine']})", json.dumps(call)
        for column, old in before.items():
            new = now.get(column, "absent")
            both = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
            for was, is_now in zip(old, new, strict=True) if both else ((str(old), str(new)),):
                self.meet(place, column, was, is_now, example)

    def meet_table(self, name: str, before: list[list[str]], now: list[list[str]]) -> None:
        """Compare two tables cell by cell."""
        if len(before) != len(now):
            self.meet(name, "rows", len(before), len(now), "")
            return
        for row, (old_row, new_row) in enumerate(zip(before, now, strict=True)):
            new_cells = dict(zip(now[0], new_row, strict=False))
            for column, cell in zip(before[0], old_row, strict=False):
                self.meet(name, column, cell, new_cells.get(column, "absent"), f"row {row}")


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20261130)
    parser.add_argument("--studies", help="names with commas, or none; default: all that are shipped")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--engine", choices=("roofline", "replay"), help="compare points of one engine only")
    parser.add_argument("--assume", choices=("priors", "ideal"), default="priors",
                        help="what stands for parameters that profiles do not state; ideal: as in older recordings")
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    os.environ.setdefault("SIMKIT_CACHE", tempfile.mkdtemp(prefix="simkit-recorder-"))
    studies = None if given.studies is None else [] if given.studies == "none" else given.studies.split(",")
    loaded: dict[tuple[str, str], Any] = {}
    if given.action == "record":
        points = [{"call": call, "answer": answer(call, loaded, given.assume)}
                  for call in random_calls(given.points, given.seed)]
        recording = {"points": points, "tables": study_tables(studies, given.assume)}
        with gzip.open(given.file, "wt", encoding="utf-8") as file:
            json.dump(recording, file)
        refused = sum("refused" in point["answer"] for point in points)
        print(f"{len(points)} points ({refused} refused), {len(recording['tables'])} tables")
        return 0
    with gzip.open(given.file, "rt", encoding="utf-8") as file:
        recording = json.load(file)
    wanted = [number for number, entry in enumerate(recording["points"][: given.points])
              if given.engine in (None, entry["call"]["engine"])]
    answers = {number: answer(recording["points"][number]["call"], loaded, given.assume)
               for number in wanted}
    differences = Differences(given.tolerance)
    for number, found in answers.items():
        differences.meet_point(recording["points"][number], found)
    for name, table in study_tables(studies, given.assume).items():
        differences.meet_table(name, recording["tables"].get(name, []), table)
    moved = sorted(differences.found.items())
    for (place, column), (worst, text) in moved:
        print(f"{place:<40} {column:<28} {worst:>10.2e}  {text[:200]}")
    print(f"{len(wanted)} points, {len(moved)} columns moved by more than {given.tolerance:g}")
    return 1 if moved else 0


if __name__ == "__main__":
    raise SystemExit(main())
