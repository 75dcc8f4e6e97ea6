"""genz-llm as in ``tool_genz``, with its H100's bandwidths corrected for its unit of 2^30 bytes a second."""

from __future__ import annotations

import tool_genz
from tool_genz import kernel_times_s, step_times_s, version

tool_genz.SYSTEM = {"Flops": 989, "Memory_size": 80, "Memory_BW": 3.35e12 / 2**30, "ICN": 450e9 / 2**30,
                    "real_values": True}

__all__ = ["kernel_times_s", "step_times_s", "version"]
