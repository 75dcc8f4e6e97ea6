"""The program ``simkit`` with parts of 100 points, so that a test's sweep has many of them to be killed between.

Worker processes read this file too, as ``__mp_main__``. The digest of the sources is pinned: whoever edits simkit while
its tests run should see other tests fail.
"""

import os
import sys
import time
from pathlib import Path

from simkit.commands.main import main
from simkit.sweep import part_plan, sweep_run

if __name__ in {"__main__", "__mp_main__"}:  # not where it is collected for its examples, beside other tests
    part_plan.PART_POINTS[True] = 100
    if "--cluster" not in sys.argv:  # a cluster's workers are other programs
        part_plan.source_digest = lambda _: "pinned"


def halt_after(parts, go_on):
    """Stand still when the parts are written: what is to happen in the middle happens there, however slow the tester.

    Go on as soon as a file of that name is there.
    """
    write, left = sweep_run._write_whole, [parts]

    def counted(path, content):
        write(path, content)
        left[0] -= path.name.startswith("part-")
        while left[0] <= 0 and not go_on.exists():
            time.sleep(0.005)

    sweep_run._write_whole = counted


if __name__ == "__main__":
    if "SIMKIT_TEST_HALT_AFTER" in os.environ:
        halt_after(int(os.environ["SIMKIT_TEST_HALT_AFTER"]), Path("go on"))
    main()
