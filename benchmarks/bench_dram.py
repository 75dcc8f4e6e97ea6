"""Requests per second and core of the DRAM event model beside the cycle-accurate simulators, pattern by pattern.

Run: ``make bench`` or ``python benchmarks/bench_dram.py [TABLE.csv]``. The simulator's speeds are those that its runs
recorded (column sim_req_per_cpu_s of the table); the model replays the same runs here, the fastest of a few turns;
both count seconds of one core, with the trace ready in memory. The ratio therefore also contains the two machines'
difference.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from simkit.evidence.dram import Comparison, read_runs, replay_runs

TURNS = 3


def rates(group: list[Comparison]) -> tuple[float, float]:
    """Requests per second of the model and of the simulator over the same runs."""
    timed = [comparison for comparison in group if comparison.run.simulator_requests_per_s]
    model = sum(c.requests for c in timed) / sum(c.replay_time_s for c in timed)
    simulator_s = sum(c.run.requests / c.run.simulator_requests_per_s for c in timed)
    return model, sum(c.run.requests for c in timed) / simulator_s


def main() -> None:
    """Print the table."""
    table = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    groups: dict[str, list[Comparison]] = defaultdict(list)
    for run in read_runs(table):
        # A neighbour on the core's other thread halves the speed of a turn: the fastest one had none.
        comparison = min(replay_runs([run] * TURNS), key=lambda one: one.replay_time_s)
        if comparison.skip_reason is None and comparison.run.simulator.startswith("ramulator"):
            groups[comparison.run.pattern].append(comparison)
    print(f"{'pattern':<22}{'runs':>5}{'model':>14}{'simulator':>14}{'times':>8}")
    print(f"{'':<22}{'':>5}{'requests/s':>14}{'requests/s':>14}")
    everything = [comparison for group in groups.values() for comparison in group]
    for pattern, group in [*sorted(groups.items()), ("all", everything)]:
        model, simulator = rates(group)
        print(f"{pattern:<22}{len(group):>5}{model:>14,.0f}{simulator:>14,.0f}{model / simulator:>8.0f}")


if __name__ == "__main__":
    main()
