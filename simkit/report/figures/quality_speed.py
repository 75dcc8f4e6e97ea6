"""Quality beside speed, from published measurements of both; simkit predicts only the speed.

The request's own predictions (whole step at the focus point, first chip) stand on the speed axis below, without a
quality, so that nobody reads one into the other.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.claims.published_quality import Published, published_points
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.ranges import BOUNDS, bounds_of, caption, columns_of, draw_range
from simkit.report.drawing.style import INK, SOFT_INK, layout_name, log_ticks, new_figure, note, times

_MARKERS: Final = ("o", "s", "^", "D")


def draw(context: FigureContext) -> DrawnFigure:
    """Published quality and speed, and the speed that the request predicts."""
    request = context.request
    points = published_points()
    layouts = [name for name in request.layouts if name != "mha"]
    done, omissions = ask.for_each_chip(request.hardware[:1], lambda chip: {
        layout: point for layout in layouts if ask.fits(point := ask.evaluate(request, chip, layout))})
    chip, points_of = next(iter(done.items()))
    predicted = {name: value for name, point in points_of.items()
                 if np.isfinite(value := ask.scalar(point, "speedup_vs_mha"))}
    ranges = {name: bounds_of(points_of[name], "speedup_vs_mha") for name in predicted}
    rows: list[dict[str, Any]] = [
        {"kind": "published", "comparison": p.comparison, "variant": p.variant, "speedup": p.speedup,
         "score": p.score_points, "score_change_percent": p.score_change_percent, "source": p.source} for p in points]
    rows += [{"kind": "predicted", "comparison": request.model.name, "variant": layout, "speedup": value,
              **columns_of("speedup", ranges[layout], BOUNDS), "hardware": chip, "batch": request.focus_batch,
              "kv_len": request.focus_kv_len}
             for layout, value in predicted.items()]
    gqa = next(p for p in points if p.variant.startswith("GQA"))
    mqa = next(p for p in points if p.comparison == gqa.comparison and p.variant.startswith("MQA"))
    ours = ", ".join(f"{layout_name(layout)} {times(value)}" for layout, value in predicted.items())
    if not predicted:
        omissions.append(ask.Omission(chip=chip, reason=ask.no_room(request)))
    return DrawnFigure(
        title=request.title or "Quality beside speed, as published",
        figure=_figure(context, points, predicted, ranges, chip), rows=rows,
        finding=f"In the GQA paper {gqa.variant} keeps {100 + gqa.score_change_percent:.1f} % of MHA's score at "
                f"{times(gqa.speedup)} its speed, {mqa.variant} {100 + mqa.score_change_percent:.1f} % at "
                f"{times(mqa.speedup)}."
                + (f" For {request.model.title} on {context.label(chip)} the engine predicts {ours}: what grouping "
                   "buys depends on the machine and the point, what it costs on the training." if predicted else ""),
        how_to_read="Marks: " + "; ".join(
            f"{_MARKERS_WORDS[i]} {p.what} ({p.source})" for i, p in enumerate(_firsts(points)))
        + ". Ticks at the bottom: this study's predicted speedups, which have no quality."
        + caption(request.hardware[:1], bounds="Bars at the ticks"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Scatter of score change against speedup over MHA. " + " ".join(
            f"{p.variant}: {times(p.speedup)}, {p.score_change_percent:+.1f} %." for p in points))


_MARKERS_WORDS: Final = ("circle:", "square:", "triangle:", "diamond:")


def _firsts(points: list[Published]) -> list[Published]:
    return list({p.comparison: p for p in reversed(points)}.values())[::-1]


def _figure(context: FigureContext, points: list[Published], predicted: dict[str, float],
            ranges: dict[str, tuple[float, float] | None], chip: str) -> Any:
    figure = new_figure(2.9)
    axes = figure.add_subplot()
    order = [p.comparison for p in _firsts(points)]
    for p in points:
        place = order.index(p.comparison)
        axes.plot(p.speedup, p.score_change_percent, _MARKERS[place], color=INK, markersize=4.6, zorder=4)
    axes.plot(1.0, 0.0, "+", color=INK, markersize=8, zorder=4)
    low = min(-1.0, *(p.score_change_percent for p in points)) - 1.1
    ticks = [1, 2, 4, 8, 16]
    log_ticks(axes, "x", ticks, [f"{tick}×" for tick in ticks])
    axes.set_xlim(0.9, max(16.0, *(p.speedup for p in points)) * 1.1)
    axes.set_ylim(low, 1.2)
    axes.axhline(0.0, color=SOFT_INK, linewidth=0.6, zorder=0)
    axes.set_xlabel("speed over MHA")
    axes.set_ylabel("score over MHA's [%]")
    style = context.styles[chip]
    for layout, value in predicted.items():
        axes.plot([value, value], [low, low + 0.25], color=style.colour, linewidth=1.6, zorder=3)
        draw_range(axes, low + 0.12, ranges[layout], style.colour, along="x", width_points=2.0, cap_points=5.0)
    labels = [Label(x=1.0, y=0.0, text="MHA", colour=INK)]
    labels += [Label(x=p.speedup, y=p.score_change_percent, text=p.variant, colour=INK)
               for p in points]
    if predicted:
        names = ", ".join(layout_name(layout) for layout in predicted)
        note(axes, f"predicted, {context.marked(chip)}: {names}", (min(predicted.values()), low + 0.25), (0, 2),
             color=style.colour, va="bottom", ha="left")
    place_labels(axes, labels, avoid=[(np.array([0.9, 20.0]), np.array([0.0, 0.0]))])
    return figure
