"""Processor seconds of whole processes: the help, and one point, beside Python and the libraries that they import.

Run: ``make bench`` or ``python benchmarks/bench_start.py``. The least of a few runs: machines are shared. The promises:
help in 0.3 s, and a point in 3.5 times what its libraries alone take to import (a second where that is 0.29 s).
"""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAMS = {
    "python": ("-c", "pass"), "numpy, pydantic, yaml and click": ("-c", "import numpy, pydantic, yaml, click"),
    "simkit --help": ("-m", "simkit", "--help"),
    "simkit simulate, one point": ("-m", "simkit", "simulate", "-A", "gqa-8", "--format", "json"),
}


def processor_s(arguments: tuple[str, ...], turns: int = 5) -> float:
    """The least processor time of a few runs of Python with these arguments."""
    found = []
    for _ in range(turns):
        process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}")
        found.append(usage.ru_utime + usage.ru_stime)
    return min(found)


def main() -> None:
    """Print the table."""
    for name, arguments in PROGRAMS.items():
        print(f"{name:<36}{processor_s(arguments):>8.3f} s of processor time")


if __name__ == "__main__":
    main()
