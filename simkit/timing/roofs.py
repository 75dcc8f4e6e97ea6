"""The roofs above an operator, which of them binds, and how its time is shared out among causes: for every engine.

A dictionary of roofs holds seconds by cause; the highest of them is the operator's time, and it belongs to the roof
that binds, the first on ties (Williams, Waterman, Patterson 2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from simkit.timing.step_timing import COMPUTE, LATENCY, SPECIAL_FUNCTION


def highest_s(times_s: Iterable[Any]) -> Any:
    """The highest of some roofs, point by point; 0 without one."""
    highest: Any = 0.0
    for time_s in times_s:
        highest = np.maximum(highest, time_s)
    return highest


def by_binding_roof(roofs: Mapping[str, Any], highest: Any) -> dict[str, Any]:
    """The highest roof's time given to the roof that binds; roofs that are 0 everywhere are left out."""
    shares: dict[str, Any] = {}
    rest = highest
    for name, time_s in roofs.items():
        if np.ndim(time_s) == 0 and time_s == 0.0:
            continue
        shares[name] = np.where(time_s >= highest, rest, 0.0)
        rest = rest - shares[name]
    return shares


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time of one execution of an operator, by roof, and the bytes it moves at each level.

    ``unit_s`` are times of a measured kernel by cause, roofs like the others: its compute units', or its memory's.
    ``body_s`` is such a kernel's whole time but for the launch; 0 where nothing was measured.
    """

    compute_s: Any
    special_s: Any
    level_s: dict[str, Any]
    level_bytes: dict[str, Any]
    launch_s: Any
    unit_s: dict[str, Any]
    body_s: Any = 0.0

    @cached_property
    def roofs(self) -> dict[str, Any]:
        """All roofs by the name that binds."""
        roofs = {COMPUTE: self.compute_s, SPECIAL_FUNCTION: self.special_s, **self.level_s}
        for name, time in self.unit_s.items():
            roofs[name] = np.maximum(roofs.get(name, 0.0), time)
        return roofs

    @cached_property
    def highest_roof_s(self) -> Any:
        """The roof that binds, without the launch."""
        return highest_s(self.roofs.values())

    @cached_property
    def total_s(self) -> Any:
        """Launch plus the highest roof, or a measured kernel's own time where that is longer."""
        return self.launch_s + np.maximum(self.highest_roof_s, self.body_s)

    @property
    def extra_s(self) -> Any:
        """What a kernel adds to the highest roof: set-up that nothing hides, ramps, the combine pass."""
        return np.maximum(self.body_s - self.highest_roof_s, 0.0)

    @cached_property
    def cause_s(self) -> dict[str, Any]:
        """The highest roof's time given to the roof that binds (the first on ties), launch and extras to latency."""
        shares = by_binding_roof(self.roofs, self.highest_roof_s)
        return shares | {LATENCY: shares.get(LATENCY, 0.0) + self.launch_s + self.extra_s}
