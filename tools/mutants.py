"""Small changes to the physics, each of which some test should notice: the groups of ``mutants.toml``.

``python tools/check.py mutants [--sample N] [GROUP ...]``. Two hours for 300 of each group; files must not change
meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
GROUPS: Final = Path(__file__).with_suffix(".toml")
NEEDS: Final = ("cosmic-ray==8.7.0", "coverage==7.17.5")  # of nothing else in the repository


def groups() -> dict[str, dict[str, Any]]:
    """Each group by its name, as the file has it."""
    return tomllib.loads(GROUPS.read_text(encoding="utf-8"))


def matching(patterns: list[str], left_out: list[str]) -> list[str]:
    """Files and folders of the repository that patterns name, in order. Raises SystemExit for one that names none."""
    names = {pattern: sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob(pattern))
             for pattern in (*patterns, *left_out)}
    for pattern, found in names.items():
        if not found:
            raise SystemExit(f"{GROUPS.name}: nothing is called {pattern}: was it moved?")
    out = {name for pattern in left_out for name in names[pattern]}
    return [name for pattern in patterns for name in names[pattern] if name not in out]


def command(name: str, sample: int) -> list[str]:
    """The pytest run of one group."""
    group = groups()[name]
    mutated = matching(group["mutate"], group.get("except", []))
    return [
        sys.executable, "-m", "pytest", "-p", "tests.mutation.plugin", "--quiet",
        "--override-ini", "addopts=--import-mode=importlib", "--mutants-sample", str(sample),
        "--mutants-map", f"out/mutants/{name}.json", "--mutants-out", f"out/mutants/{name}.jsonl",
        "--mutants-seconds", str(group.get("seconds", 60)),
        *(word for path in mutated for word in ("--mutate", path)),
        *matching(group["tests"], group.get("tests_except", []))]


def main() -> None:
    """Strike each group; what an earlier run left goes."""
    parser = argparse.ArgumentParser(prog="check.py mutants", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(groups())}; all when left out")
    parser.add_argument("--sample", type=int, default=300,
                        help="mutants of each group, drawn by seed; 0: all (five hours)")
    chosen = parser.parse_args()
    unknown = set(chosen.groups) - set(groups())
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    commands = {name: command(name, chosen.sample) for name in chosen.groups or groups()}
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *NEEDS], check=True)
    for name, words in commands.items():
        for left in (REPOSITORY / "out" / "mutants").glob(f"{name}.json*"):
            left.unlink()
        interpreted = {"NUMBA_DISABLE_JIT": "1"} if groups()[name].get("interpreted") else {}
        subprocess.run(words, cwd=REPOSITORY, env={**os.environ, "CI": "1", **interpreted}, check=True)


if __name__ == "__main__":
    main()
