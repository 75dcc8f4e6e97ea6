"""Intervals of predictions, the same in every figure: bars, bands, columns of data, a word in the caption.

Whole steps at a study's point have their 90 % bounds (:mod:`simkit.study.likely`), which hold the range by what is
assumed; parts, other costs and what-ifs have that range, None where nothing is assumed. One of the two is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.labels import Coordinate
from simkit.report.drawing.style import BASES, basis_of, times
from simkit.study.evaluate import Evaluated

Range = tuple[Any, Any]
"""The low and the high end of a value, or of each value along a curve."""
ENDS: Final = ("low", "high")
BOUNDS: Final = "_90"  # after an end: of the bounds
RANGE: Final = "_range"  # the name of these marks among those of a figure; legends leave it out
_BAND_ALPHA: Final = 0.13


def range_of(evaluated: Evaluated, field: str) -> tuple[float, float] | None:
    """The range of a column of a single point."""
    found = ranges_of(evaluated, field)
    return None if found is None or not np.isfinite(found).all() else (float(found[0][0]), float(found[1][0]))


def ranges_of(evaluated: Evaluated, field: str) -> Range | None:
    """The range of a column at every point, flat."""
    if not evaluated.hardware.has_range:
        return None
    low, high = (np.ravel(column) for column in evaluated.select([f"{field}_{end}" for end in ENDS]).values())
    return low, high


def bounds_of(evaluated: Evaluated, field: str) -> tuple[float, float] | None:
    """The 90 % bounds of a single point's time or speed-up of a whole step; None where it has none."""
    found = evaluated.select([f"{field}_{end}{BOUNDS}" for end in ENDS])
    low, high = (float(np.ravel(one)[0]) for one in found.values())
    return (low, high) if np.isfinite(low + high) else None


def columns_of(field: str, ends: Range | None, of: str = "") -> dict[str, Any]:
    """A range, or with ``of=BOUNDS`` bounds, as the columns of a row, named as in records."""
    return dict(zip((f"{field}_{end}{of}" for end in ENDS), ends or (None, None), strict=True))


def draw_range(axes: Axes, at: Coordinate, ends: Range | None, colour: str, *, along: str = "y",
               width_points: float = 0.9, cap_points: float = 3.0, opacity_fraction: float = 0.6) -> None:
    """A bar from the low to the high end, at a place of the other axis."""
    if ends is None:
        return
    places, cap = [at, at], "|" if along == "x" else "_"
    x, y = (ends, places) if along == "x" else (places, ends)
    axes.plot(x, y, color=colour, marker=cap, markersize=cap_points, markeredgewidth=0.7, linewidth=width_points,
              alpha=opacity_fraction, zorder=2.5, solid_capstyle="butt", label=RANGE)


def draw_band(axes: Axes, x: Any, ends: Range | None, colour: str) -> None:
    """A pale band from the low to the high end along a curve."""
    if ends is not None:
        axes.fill_between(x, *ends, color=colour, alpha=_BAND_ALPHA, linewidth=0, zorder=1.5, label=RANGE)


def range_words(ends: Range | None) -> str:
    """The range of a ratio as a second line under it: ``1.91–2.2``; empty where both ends read alike."""
    low, high = ("", "") if ends is None else (times(end)[:-1] for end in ends)
    return "" if low == high else f"{low}–{high}"


def caption(chips: Iterable[HardwareProfile], drawn: str = "", *, bounds: str = "") -> str:
    """What fills of chips' marks mean, to follow on what a caption says of marks, and what shows the bounds.

    ``drawn``: what shows the range, or why there is none; ``bounds``: what shows the bounds of whole steps.
    """
    said = bounds and (f" {bounds}: 90 % bounds, from how far measured steps were from predictions on chips known as "
                       "well.")
    chips = list(chips)
    known = {basis_of(chip) for chip in chips}
    if not any(chip.assumed for chip in chips):
        drawn = ""
    elif drawn and not any(chip.has_range for chip in chips):
        drawn = "; with ideal values in their place they have no range"
    elif drawn:
        drawn = f"; {drawn}"
    key = ", ".join(f"{sign} {meaning}" for basis, (sign, meaning) in BASES.items() if basis in known)
    return f" Chips: {key}{drawn}.{said}" if key else said
