"""What a million hypothetical chips take on one core, and in how much memory.

Run: ``make bench`` or ``python benchmarks/bench_designs.py [DESIGNS]``. Processor time, which a shared machine leaves
as it is; a design is one chip under one layout and workload, its silicon, power and price with it.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace

from simkit.model.catalog import load_model
from simkit.study.design_answers import best_designs
from simkit.study.designs import Base, DesignSpace, read_axis
from simkit.study.grid import Grid

CASES = {
    "h100-sxm": (8, {"memory.hbm.bandwidth": "1TB/s..40TB/s", "memory.hbm.capacity": "40GB..640GB",
                     "compute.matrix.peak.bf16": "100TFLOP/s..4000TFLOP/s", "overheads.kernel_launch": "0.1us..10us"}),
    "sambanova-sn40l": (8, {"memory.hbm.bandwidth": "1TB/s..40TB/s", "memory.hbm.capacity": "40GB..640GB",
                            "compute.matrix.peak.bf16": "100TFLOP/s..4000TFLOP/s"}),
    "groq-lpu": (1600, {"memory.sram.bandwidth": "10TB/s..800TB/s", "memory.sram.capacity": "100MB..1GB",
                        "links.scale_up.bandwidth": "20GB/s..2TB/s"}),
}
MINUTE_S = 60.0


def main() -> None:
    """One line a chip: designs a minute of one core, the peak memory of this process, and the best design."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for name, (chips, ranges) in CASES.items():
        base = Base(name=name, node="n5")
        space = DesignSpace(bases=[base], sample=count,
                            axes=[read_axis(key, text, base.load()) for key, text in ranges.items()])
        grid = Grid(hardware=[base.load()], model=[load_model("llama-2-70b")], attention=("gqa-8",), batch=(32,),
                    chips=chips, baseline=False, designs=space)
        best_designs(replace(grid, designs=replace(space, sample=1024)))  # what is loaded once
        began = time.process_time()
        (best, *_) = best_designs(grid)
        took_s = time.process_time() - began
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name}: {count / took_s * MINUTE_S:,.0f} designs a minute of one core ({count:,} in {took_s:.1f} s), "
              f"{peak_mib:.0f} MiB, most tokens/s per {best['best_per']} at {best['mm2']:.0f} mm2")


if __name__ == "__main__":
    main()
