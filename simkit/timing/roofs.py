"""The roofs above an operator, which of them binds, and how its time is shared out among causes: for every engine.

A dictionary of roofs holds seconds by cause; the highest of them is the operator's time, and it belongs to the roof
that binds (Williams, Waterman, Patterson 2009). Roofs within :data:`AS_HIGH` of the highest count as high: of those a
memory level binds before a kernel's load path, and that before arithmetic, the higher one of each kind, the first on
ties.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from simkit.timing.step_timing import COMPUTE, LATENCY, LOAD_PATH, SPECIAL_FUNCTION

AS_HIGH: Final = 0.95  # of the highest roof: rates are calibrated to a few per cent, which cannot tell such roofs apart
_NOT_A_LEVEL: Final = ((LOAD_PATH,), (COMPUTE, SPECIAL_FUNCTION))

def highest_s(times_s: Iterable[Any]) -> Any:
    """The highest of some roofs, point by point; 0 without one."""
    highest: Any = 0.0
    for time_s in times_s:
        highest = np.maximum(highest, time_s)
    return highest


def by_binding_roof(roofs: Mapping[str, Any], highest: Any) -> dict[str, Any]:
    """The highest roof's time given to the roof that binds; roofs that are 0 everywhere are left out.

    >>> shares = by_binding_roof({"compute": 1.0, "hbm": 0.96, "l2": 0.9}, 1.0)
    >>> {name: float(time_s) for name, time_s in shares.items()}
    {'hbm': 1.0, 'l2': 0.0, 'compute': 0.0}
    """
    shares: dict[str, Any] = {}
    roofs = {name: time_s for name, time_s in roofs.items() if np.ndim(time_s) > 0 or time_s != 0.0}
    levels = tuple(name for name in roofs if not any(name in kind for kind in _NOT_A_LEVEL))
    rest = highest
    for kind in (levels, *_NOT_A_LEVEL):
        own = {name: roofs[name] for name in kind if name in roofs}
        high = highest_s(own.values())
        for name, time_s in own.items():
            shares[name] = np.where((time_s >= high) & (high >= AS_HIGH * highest), rest, 0.0)
            rest = rest - shares[name]
    return shares


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time of one execution of an operator, by roof, and the bytes it moves at each level.

    ``unit_s`` are times of a measured kernel by cause, roofs like the others: its memory's, its units' load path or
    arithmetic.
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
        """What a kernel adds to the highest roof: set-up, uneven waves, ramps, the combine pass."""
        return np.maximum(self.body_s - self.highest_roof_s, 0.0)

    @cached_property
    def cause_s(self) -> dict[str, Any]:
        """The highest roof's time given to the roof that binds, launch and extras to latency."""
        shares = by_binding_roof(self.roofs, self.highest_roof_s)
        return shares | {LATENCY: shares.get(LATENCY, 0.0) + self.launch_s + self.extra_s}
