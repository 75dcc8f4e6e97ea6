"""Predicted over measured time of every kernel, a panel a chip: where the model stands, and where kernels fall back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from simkit.evidence.silicon.compare import SystemComparison
from simkit.foundation.units import SECONDS, format_quantity
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.measured_kernels import inputs_of, kernel_row, measured_systems, name_of

_TICKS: Final = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
_MOST_POINTS: Final = 4000  # of a panel; more of a cloud is only darker
_BAND: Final = 1.15


def draw(context: FigureContext) -> DrawnFigure:
    """The shipped kernels of the request's chips, predicted over measured."""
    request = context.request
    systems, omissions = measured_systems(request)
    rows = [{**kernel_row(one, index), "naive_roofline_time_s": float(one.baseline_s[index])}
            for one in systems for index in range(len(one.rows))]
    said = ", ".join(f"{context.label(name_of(one))} {_percent(one.predicted_s, one)} (naive roofline "
                     f"{_percent(one.baseline_s, one)})" for one in systems)
    return DrawnFigure(
        title=request.title or "Predicted against measured attention kernels",
        figure=predicted_against_measured(systems, styles=context.styles), rows=rows,
        finding=f"Half of all kernels are predicted within: {said}.",
        how_to_read=f"Each point a kernel: coloured what the {request.engine} engine predicts, grey a roofline of "
                    "vendor peaks without launch, cache or kernel; both over what was measured, cut off at 4× and a "
                    "quarter. Band: within 15 %.",
        inputs=inputs_of(request, systems), omissions=omissions,
        alt=f"Scatter of predicted over measured time against measured time, one panel a chip. Median errors: {said}.")


def _percent(predicted_s: Any, one: SystemComparison) -> str:
    return f"{100 * np.median(np.abs(predicted_s / one.rows.time_s - 1.0)):.0f} %"


def predicted_against_measured(systems: Sequence[SystemComparison], *,
                               styles: Mapping[str, style.ChipStyle] | None = None) -> Figure:
    """One panel a system: points at the measured time, the naive roofline's in grey behind ours in the chip's colour.

    Parameters: systems: compared ones, skipped ones left out; styles: of a page's chips.
    """
    shown = [one for one in systems if one.skip_reason is None and one.profile is not None]
    found = styles or style.chip_styles([one.profile for one in shown if one.profile is not None],
                                  {name_of(one): one.system for one in shown})
    figure, panels = style.panel_grid(len(shown), (0.5, 1.7), "measured time", "predicted / measured")
    for axes, one in zip(panels, shown, strict=True):
        _panel(axes, one, found[name_of(one)])
    if shown:
        shortest, longest = (end(np.concatenate([one.rows.time_s for one in shown])) for end in (np.min, np.max))
        decades = style.round_ticks(shortest, longest, steps=(1,))
        style.log_ticks(panels[0], "x", decades, [format_quantity(decade, SECONDS) for decade in decades])
        panels[0].set_xlim(shortest / 1.4, longest * 1.4)
    return figure


def _panel(axes: Any, one: SystemComparison, look: style.ChipStyle) -> None:
    measured = one.rows.time_s
    drawn = np.random.default_rng(0).permutation(len(measured))[:_MOST_POINTS]
    for times, colour, size, above in ((one.baseline_s, style.SOFT_INK, 3, 1), (one.predicted_s, look.colour, 4, 2)):
        ratio = np.clip(times[drawn] / measured[drawn], _TICKS[0], _TICKS[-1])
        axes.scatter(measured[drawn], ratio, s=size, color=colour, alpha=0.35 if len(drawn) > 500 else 0.6,
                     linewidths=0, zorder=above, rasterized=len(drawn) > 500)
    axes.axhspan(1 / _BAND, _BAND, color=look.colour, alpha=0.10, linewidth=0, zorder=0)
    axes.axhline(1.0, color=style.INK, linewidth=0.7, zorder=3)
    style.log_ticks(axes, "y", _TICKS)
    axes.set_ylim(_TICKS[0] * 0.92, _TICKS[-1] * 1.08)
    axes.set_title(look.label)
    said = f"median error {_percent(one.predicted_s, one)}\nnaive roofline {_percent(one.baseline_s, one)}"
    style.note(axes, said, (0.98, 0.97), (0, 0), xycoords="axes fraction", ha="right", va="top", zorder=4)
