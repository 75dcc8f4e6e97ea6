"""Residuals of a calibration: predicted over measured time of each kernel, before and after the fit."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from simkit.evidence.silicon.calibrate import Calibration
from simkit.foundation.units import SECONDS
from simkit.report.drawing.style import INK, chip_styles, decade_axis, log_ticks, new_figure

_TICKS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)


def residual_figure(found: Calibration) -> Figure:
    """Two panels, before and after, over the measured time; a line at equality and the median error in the title."""
    figure = new_figure(2.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    measured = found.rows.time_s
    colour = chip_styles([found.hardware], {})[found.hardware.name].colour
    for axes, when, predicted in zip(panels, ("before", "after"), (found.before_s, found.after_s), strict=True):
        ratio = predicted / measured
        axes.scatter(measured, np.clip(ratio, _TICKS[0], _TICKS[-1]), s=5, color=colour, alpha=0.45, linewidths=0)
        axes.axhline(1.0, color=INK, linewidth=0.8)
        log_ticks(axes, "y", _TICKS)
        axes.set_ylim(_TICKS[0] * 0.95, _TICKS[-1] * 1.05)
        decade_axis(axes, "x", SECONDS)
        axes.set_title(f"{when}: median {100 * np.median(np.abs(ratio - 1.0)):.1f} %")
        axes.set_xlabel("measured time")
    panels[0].set_ylabel("predicted / measured")
    return figure
