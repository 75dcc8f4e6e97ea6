"""Commands that write files, small enough to be struck hundreds of times, and what must be true of their files after.

A case runs in a folder of its own that holds its inputs and files of the user's that no run has any business with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

BYSTANDERS = {"notes.txt": b"what the user wrote\n", "results.csv": b"batch\n1\n", ".hidden": b"\x00\x01"}
STUDY = """
schema_version: 1
name: small
title: {title}
question: Is it whole?
hardware: [h100-sxm, mi300x]
models: [llama-3-8b]
layouts: [mha, gqa-4, mqa]
batch: {batch}
kv_len: 1k..8k+1k
chips: 1
focus: {{batch: 8, kv_len: 1k}}
figures:
  - {{kind: roofline, batch: 8, kv_len: 1k}}
"""
# What an earlier run may have left under the final name, that --force allows to replace.
EARLIER = b"an earlier result\n"
LATER_DATE_S = 4_000_000_000  # a file from the year 2096, as a clock that was set back leaves them


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command: ``first`` are its words, ``resumed`` those added when it is run again after a fault."""

    name: str
    first: tuple[str, ...]
    output: str
    resumed: tuple[str, ...] = ("--force",)
    is_folder: bool = False
    workers: bool = False
    replaces: bool = True  # may be run with --force over EARLIER


_LOAD = ("-H", "h100-sxm", "-M", "llama-3.1-8b", "--rate", "4", "--lengths", "1k/200", "--requests", "100", "--slo-ttft", "1s",
         "--slo-tpot", "30ms")
CASES = (
    Case(name="sweep csv", first=("sweep", "sweep.yaml", "-o", "sweep.csv"), output="sweep.csv", resumed=("--resume",)),
    Case(name="sweep parquet", first=("sweep", "sweep.yaml", "-o", "sweep.parquet"), output="sweep.parquet",
         resumed=("--resume",)),
    Case(name="sweep, 2 workers", first=("sweep", "sweep.yaml", "-o", "sweep.csv", "--workers", "2"),
         output="sweep.csv", resumed=("--resume",), workers=True),
    Case(name="report", first=("report", "study.yaml", "-o", "out"), output="out", resumed=(), is_folder=True,
         replaces=False),
    Case(name="profile new", first=("profile", "new", "mine", "--like", "h100-sxm", "-o", "mine.yaml"),
         output="mine.yaml"),
    Case(name="calibrate", first=("calibrate", "kernels.csv", "--profile", "h100-sxm", "-o", "mine.yaml", "--plot",
                                  "mine.svg"), output="mine.yaml"),
    Case(name="trace", first=("trace", "-A", "gqa-8", "--batch", "2", "--kv-len", "1k", "-o", "step.json"),
         output="step.json"),
    Case(name="serve", first=("serve", "-M", "llama-3-8b", "-H", "h100-sxm", "--rate", "2,4", "--requests", "100", "-o",
                              "served"), output="served", is_folder=True, replaces=False),
    Case(name="replay, cached", first=("simulate", "--engine", "replay", "-H", "h100-sxm", "-M", "llama-3-8b", "-A",
                                       "mha,gqa-8", "--batch", "1,2", "--kv-len", "1k,2k", "--format", "csv", "-o",
                                       "replayed.csv"), output="replayed.csv"),
    Case(name="plan", first=("plan", *_LOAD, "--format", "csv", "-o", "plan.csv"), output="plan.csv"),
    Case(name="plan front", first=("plan", *_LOAD, "--front", "-o", "front.svg"), output="front.svg"),
    Case(name="design", first=("design", "-H", "h100-sxm", "-M", "llama-3.1-8b", "-A", "mha,gqa-8", "--batch", "8", "--set",
                               "memory.hbm.bandwidth=1TB/s..16TB/s", "--sample", "2000", "--format", "csv", "-o",
                               "designs.csv"), output="designs.csv"),
    Case(name="sweep of chips", first=("sweep", "sweep.yaml", "--set", "memory.hbm.bandwidth=2TB/s..8TB/s*2", "-o",
                                       "chips.csv"), output="chips.csv", resumed=("--resume",)),
    Case(name="timeline", first=("serve", "-M", "llama-3-8b", "-H", "h100-sxm", "--rate", "2", "--requests", "100",
                                 "--timeline-out", "requests.json"), output="requests.json"),
)


def lay_out(folder: Path) -> None:
    """Write the inputs and the bystanders."""
    folder.mkdir(parents=True)
    for name, content in BYSTANDERS.items():
        (folder / name).write_bytes(content)
    (folder / "sweep.yaml").write_text(STUDY.format(title="Points", batch="1..50+1"), encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY.format(title="Now", batch="1,8"), encoding="utf-8")
    (folder / "earlier.yaml").write_text(STUDY.format(title="Before", batch="1,16"), encoding="utf-8")
    table = resources.files("simkit.evidence").joinpath("data", "silicon_decode_attention.csv")
    head, *rows = [line for line in table.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    kept = [row for row in rows if row.startswith("h100_sxm")]
    (folder / "kernels.csv").write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")


def contents(path: Path) -> dict[str, str]:
    """Digests of a file or of a folder's files, by name; hidden files are a run's own scratch."""
    if path.is_file():
        return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {str(one.relative_to(path)): hashlib.sha256(one.read_bytes()).hexdigest()
            for one in sorted(path.rglob("*"))
            if one.is_file() and not any(part.startswith(".") for part in one.relative_to(path).parts)}


def scratch(folder: Path) -> list[str]:
    """What runs have left of their own: hidden files and folders that the user did not put there."""
    return sorted(one.name for one in folder.iterdir() if one.name.startswith(".") and one.name not in BYSTANDERS)
