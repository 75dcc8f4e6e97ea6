"""A few strikes of each kind, at moments drawn with a seed; ``tools/check.py faults`` strikes hundreds of times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("strikes.py")
pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "fork"), reason="signals, limits and forks are POSIX")


@pytest.mark.parametrize(("only", "trials"), [
    ("profile new", 16),  # two of each of eight faults
    ("sweep csv", 8),
    ("report", 8),  # tests/sweep/test_sweep_resume.py loses a worker
])
def test_what_is_struck_is_whole_or_not_there_and_ends_the_same_when_run_again(only, trials):
    run = subprocess.run([sys.executable, str(PROGRAM), str(trials), "--seed", "7", "--only", only], capture_output=True,
                         encoding="utf-8", check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split("|") for line in run.stdout.splitlines() if line.startswith("| ") and "trials" not in line]
    assert sum(int(row[2]) for row in rows) == trials
    assert sum(int(row[3]) for row in rows) >= trials // 4  # strikes that came too late prove nothing
