"""This machine timed beside its prediction, with the bounds that README.md states.

``python tools/check.py evidence-host``. By itself, not with the tests: others would be in this machine's caches.
Takes some minutes.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Final

from simkit.evidence.host.compare import compare, compare_here, summarise
from simkit.evidence.host.measure import measure_host
from simkit.evidence.host.profile import profile_of

GOAL_MEDIAN_APE: Final = 0.20  # the README's contract, untuned


def failures() -> list[str]:
    """Every bound that does not hold, in words."""
    found = []
    everything = summarise(compare_here())[0]
    print(f"decode attention: {everything['median_ape']:.1%} off in the median, {everything['mape']:.1%} in the mean, "
          f"a naive roofline {everything['baseline_mape']:.1%}")
    if everything["median_ape"] > GOAL_MEDIAN_APE:
        found.append(f"the median is to be {GOAL_MEDIAN_APE:.0%} at most")
    if everything["mape"] >= everything["baseline_mape"]:
        found.append("a naive roofline is no worse")
    measured = measure_host(budget_s=6.0)
    first, dram = measured.levels[0], measured.levels[-1]
    if not (first.bandwidth_bytes_per_s > dram.bandwidth_bytes_per_s and first.latency_s < dram.latency_s):
        found.append("the nearest cache is no faster than DRAM")
    profile = profile_of(measured)
    blind = replace(profile, memory=(profile.memory[0], profile.main_memory))
    with_caches, without = (summarise(compare(one, quick=True))[0]["mape"] for one in (profile, blind))
    print(f"in the mean with caches {with_caches:.1%}, without {without:.1%}")
    if with_caches >= without:
        found.append("a profile without caches is no worse")
    return found


def main() -> None:
    """Print the errors, then every row; exit 1 when a bound does not hold."""
    found = failures()
    subprocess.run([sys.executable, "-m", "simkit", "evidence", "host"], check=True)
    if found:
        raise SystemExit("; ".join(found))


if __name__ == "__main__":
    main()
