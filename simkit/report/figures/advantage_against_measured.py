"""The advantage itself: what fewer KV heads bought on silicon against what the engine says, kernel by kernel."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from simkit.evidence.silicon.compare import SHIPPED_LADDERS, SystemComparison
from simkit.evidence.silicon.score import advantages, regimes
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.measured_kernels import inputs_of, kernel_row, measured_systems, name_of
from simkit.report.drawing.style import INK, SMALL_POINTS, SOFT_INK, log_ticks, panel_grid

_TICKS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_NAMED_TICKS: Final = (1.0, 4.0, 16.0, 64.0)
_LEAST: Final = 0.5
_BAND: Final = 1.15


def draw(context: FigureContext) -> DrawnFigure:
    """Advantage over MHA at equal query heads, predicted against measured, a panel a chip."""
    request = context.request
    systems, omissions = measured_systems(request, SHIPPED_LADDERS)
    rows: list[dict[str, Any]] = []
    errors: dict[str, tuple[float, float]] = {}
    for one in systems:
        where, measured, predicted = _advantages(one)
        serving = _serving(one)[where]
        error = np.abs(predicted / measured - 1.0)
        errors[name_of(one)] = float(np.median(error)), float(np.median(error[serving]))
        rows += [{**kernel_row(one, int(index)), "serving": bool(is_serving),
                  "measured_speedup_vs_mha": float(ours), "predicted_speedup_vs_mha": float(theirs)}
                 for index, ours, theirs, is_serving in zip(where, measured, predicted, serving, strict=True)]
    said = ", ".join(f"{context.label(name)} {100 * serving:.0f} % ({100 * every:.0f} % with the small ones)"
                     for name, (every, serving) in errors.items())
    return DrawnFigure(
        title=request.title or "The advantage over MHA, predicted against measured",
        figure=_figure(context, systems, errors), rows=rows,
        finding=f"Median error of the predicted speed-up over MHA, for kernels of serving sizes: {said}.",
        how_to_read="Each mark is a kernel with fewer KV heads than query heads: how much faster it is than MHA with "
                    "equal query heads, batch, length and format. Filled: serving sizes (512 tokens and 4 sequences or "
                    "more); rings: smaller ones. Line: equality; band: within 15 %. Above the ratio of bytes: MHA's "
                    "kernel was a slow one.",
        inputs=inputs_of(request, systems), omissions=omissions,
        alt=f"Scatter of predicted against measured speedup over MHA, one panel a chip. Median errors: {said}.")


def _advantages(one: SystemComparison) -> tuple[Any, Any, Any]:
    where, measured = advantages(one.rows, one.rows.time_s)
    _, predicted = advantages(one.rows, one.predicted_s)
    return where, measured, predicted


def _serving(one: SystemComparison) -> Any:
    assert one.profile is not None  # noqa: S101  # measured_systems gives compared ones
    return regimes(one.rows, one.profile)["serving"]


def _figure(context: FigureContext, systems: list[SystemComparison], errors: dict[str, tuple[float, float]]) -> Figure:
    figure, panels = panel_grid(len(systems), (0.4, 1.75), "measured over MHA", "predicted over MHA")
    for axes, one in zip(panels, systems, strict=True):
        style = context.styles[name_of(one)]
        where, measured, predicted = _advantages(one)
        serving = _serving(one)[where]
        low, high = _LEAST, _TICKS[-1] * 1.5
        ends = np.array([low, high])
        axes.fill_between(ends, ends / _BAND, ends * _BAND, color=style.colour, alpha=0.12, linewidth=0, zorder=0)
        axes.plot(ends, ends, color=INK, linewidth=0.7, zorder=1)
        for chosen, filled in ((~serving, False), (serving, True)):
            axes.plot(np.clip(measured[chosen], low, high), np.clip(predicted[chosen], low, high), style.marker,
                      color=style.colour, markersize=2.2, markeredgewidth=0.0 if filled else 0.4, alpha=0.8,
                      markerfacecolor=style.colour if filled else "none", zorder=3 if filled else 2)
        for which in ("x", "y"):
            log_ticks(axes, which, _TICKS, [f"{tick:g}×" if tick in _NAMED_TICKS else "" for tick in _TICKS])
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_title(style.label)
        axes.text(0.97, 0.03, f"median error {100 * errors[name_of(one)][1]:.0f} %", transform=axes.transAxes,
                  ha="right", va="bottom", fontsize=SMALL_POINTS, color=SOFT_INK)
    return figure
