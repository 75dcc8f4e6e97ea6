"""Longer checks, by hand: ``python tools/check.py`` lists them, ``python tools/check.py NAME [OPTIONS]`` runs one.

They run in ``.venv``, which is set up when it is not there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Check:
    """A program of the repository, the options that it takes, and what it is for."""

    program: str
    options: str
    purpose: str


CHECKS: Final = {
    "evidence-host": Check("tools/evidence_host.py", "", "time decode attention on this machine beside the prediction"),
    "faults": Check("tests/faults/strikes.py", "[TRIALS] [--only PART]",
                    "strike running commands: signals, full disks, lost workers, two at once (400 trials)"),
    "fresh": Check("tools/fresh.sh", "[PYTHON]",
                   "the README's commands as a new user on another Python, locale and read-only folder"),
    "fuzz": Check("tools/fuzz.py", "[--runs N] [TARGET ...]",
                  "every reader against made-up input, guided by coverage and blind (20000 runs each: an hour)"),
    "mutants": Check("tools/mutants.py", "[--sample N] [GROUP ...]",
                     "small changes to the physics, each of which some test should notice (two hours)"),
    "peers": Check("tools/peers/compare.py", "[ROWS]",
                   "simkit beside other tools, each installed into out/peers, not in simkit's own environment"),
    "record": Check("tools/record_answers.py", "record|compare FILE [...]",
                    "the program's answers before a change that should change none, and after it"),
    "slow": Check("tools/slow_tests.sh", "[PYTEST OPTIONS]",
                  "the tests that CI leaves out: whole tables and fits, against docs/evidence.md; more random cases"),
}


def listed() -> str:
    """A line a check with its options, and below it what it is for."""
    return "".join(f"{name} {check.options}".rstrip() + f"\n    {check.purpose}\n" for name, check in CHECKS.items())


def python() -> str:
    """The Python of ``.venv``, set up by ``make setup``; where there is no make, the one that runs this."""
    inside = REPOSITORY / ".venv" / "bin" / "python"
    if Path(sys.prefix) == REPOSITORY / ".venv" or os.name == "nt":
        return sys.executable
    subprocess.run(["make", "setup"], cwd=REPOSITORY, check=True)
    return str(inside)


def main() -> int:
    """Run the check that the first word names with the words behind it; its exit code."""
    name, *words = sys.argv[1:] or [""]
    if name in {"", "-h", "--help"}:
        print(f"{(__doc__ or '').splitlines()[0]}\n\n{listed()}", end="")
        return 0
    if name not in CHECKS:
        print(f"no such check: {name}\n\n{listed()}", end="", file=sys.stderr)
        return 2
    program = str(REPOSITORY / CHECKS[name].program)
    runner = "bash" if program.endswith(".sh") else python()
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return subprocess.run([runner, program, *words], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path},
                          check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
