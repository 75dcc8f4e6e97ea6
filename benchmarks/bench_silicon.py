"""Measured attention kernels predicted per second of one core, by engine.

Run: ``python benchmarks/bench_silicon.py [FILE.csv.gz]``; without a file the shipped kernels, repeated.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from simkit.evidence.silicon.attention_rows import attention_operators
from simkit.evidence.silicon.compare import SHIPPED_SPREAD, predicted_times_s
from simkit.evidence.silicon.tables import read_table, shipped_table
from simkit.hardware.catalog import load_hardware
from simkit.study.engines import ENGINES


def main() -> None:
    """Print rows per second for each system and engine."""
    table = read_table(Path(sys.argv[1])) if len(sys.argv) > 1 else shipped_table(SHIPPED_SPREAD)
    print(f"{'system':<12}{'rows':>8}{'roofline rows/s':>18}{'replay rows/s':>16}")
    for system in table.systems:
        rows = table.of_system(system)
        rows = rows.take(np.resize(np.arange(len(rows)), max(len(rows), 10_000)))
        hardware = load_hardware(system)
        operators = list(attention_operators(rows))
        start = time.process_time()
        for _, operator in operators:
            ENGINES["roofline"].alone_s(operator, hardware, None)
        roofline = len(rows) / (time.process_time() - start)
        few = rows.take(np.arange(20))
        predicted_times_s(few, hardware, "replay")  # pays for compilation
        start = time.process_time()
        predicted_times_s(few, hardware, "replay")
        print(f"{system:<12}{len(rows):>8,}{roofline:>18,.0f}{len(few) / (time.process_time() - start):>16,.0f}")


if __name__ == "__main__":
    main()
