"""aiconfigurator's formulas ("speed of light") instead of its measurements: what it says of chips without any."""

from __future__ import annotations

import tool_aiconfigurator
from tool_aiconfigurator import kernel_times_s, parameters_of, step_times_s, version

tool_aiconfigurator.MODE = "SOL"

__all__ = ["kernel_times_s", "parameters_of", "step_times_s", "version"]
