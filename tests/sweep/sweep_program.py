"""The program ``simkit`` with parts of 500 points, so that a test's sweep has many of them to be killed between.

Worker processes read this file too, as ``__mp_main__``. The digest of the sources is pinned: whoever edits simkit while
its tests run should see other tests fail.
"""

import sys

from simkit.commands.main import main
from simkit.sweep import part_plan

part_plan.PART_POINTS[True] = 500
if "--cluster" not in sys.argv:  # a cluster's workers are other programs
    part_plan.source_digest = lambda _: "pinned"

if __name__ == "__main__":
    main()
