"""Predicted over measured time of every kernel, a panel a chip: where the model stands, and where kernels fall back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from simkit.evidence.silicon import SystemComparison
from simkit.report.style import INK, SMALL_POINTS, SOFT_INK, ChipStyle, chip_styles, decade_axis, new_figure
from simkit.units import SECONDS

_TICKS: Final = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
_MOST_POINTS: Final = 4000  # of a panel; more of a cloud is only darker
_BAND: Final = 1.15


def predicted_against_measured(systems: Sequence[SystemComparison], *, seed: int = 0) -> Figure:
    """One panel a system: points at the measured time, the naive roofline's in grey behind ours in the chip's colour.

    Parameters: systems: compared ones, skipped ones left out; seed: of the draw when there are many rows.
    """
    shown = [one for one in systems if one.skip_reason is None and one.profile is not None]
    styles = chip_styles([one.profile for one in shown if one.profile is not None], {})
    columns = min(len(shown), 2) or 1
    lines = -(-len(shown) // columns) or 1
    figure = new_figure(0.5 + 1.7 * lines)
    panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    for axes, one in zip(panels, shown, strict=False):
        assert one.profile is not None  # noqa: S101  # shown ones have theirs
        _panel(axes, one, styles[one.profile.name], seed)
    for axes in panels[len(shown):]:
        axes.set_visible(False)
    for place, axes in enumerate(panels[:len(shown)]):
        if place % columns == 0:
            axes.set_ylabel("predicted / measured")
        if place + columns >= len(shown):
            axes.set_xlabel("measured time")
            axes.tick_params(axis="x", labelbottom=True)  # a shared axis hides them above an empty place
    return figure


def _panel(axes: Any, one: SystemComparison, style: ChipStyle, seed: int) -> None:
    measured = one.rows.time_s
    drawn = np.random.default_rng(seed).permutation(len(measured))[:_MOST_POINTS]
    for times, colour, size, above in ((one.baseline_s, SOFT_INK, 3, 1), (one.predicted_s, style.colour, 4, 2)):
        ratio = np.clip(times[drawn] / measured[drawn], _TICKS[0], _TICKS[-1])
        axes.scatter(measured[drawn], ratio, s=size, color=colour, alpha=0.35, linewidths=0, zorder=above,
                     rasterized=True)
    axes.axhspan(1 / _BAND, _BAND, color=style.colour, alpha=0.10, linewidth=0, zorder=0)
    axes.axhline(1.0, color=INK, linewidth=0.7, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_ylim(_TICKS[0] * 0.95, _TICKS[-1] * 1.05)
    decade_axis(axes, "x", SECONDS)
    error = np.abs(one.predicted_s / measured - 1.0)
    naive = np.abs(one.baseline_s / measured - 1.0)
    axes.set_title(one.system)
    axes.text(0.98, 0.04, f"median error {100 * np.median(error):.0f} %\nnaive roofline {100 * np.median(naive):.0f} %",
              transform=axes.transAxes, ha="right", va="bottom", fontsize=SMALL_POINTS, color=INK, zorder=4)
