"""Dollars and joules of a million tokens, layout by layout, on the chips whose prices and energies have a source."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.dumbbell import Row, draw_rows
from simkit.report.drawing.study_points import (
    Omission,
    cache_home,
    evaluate,
    for_each_chip,
    inputs_text,
    scalar,
)
from simkit.report.drawing.style import chips_words, layout_name, log_ticks, new_figure, times
from simkit.study.evaluate import Evaluated

_PANELS: Final = (("cost_usd_per_mtok", "US dollars a million tokens", "price"),
                  ("energy_j_per_token", "joules a token", "energy"))


def draw(context: FigureContext) -> DrawnFigure:
    """One panel for cost and one for energy, as far as the profiles know them."""
    request = context.request
    layouts = list(request.layouts)
    done, omissions = for_each_chip(
        request.hardware, lambda chip: {layout: evaluate(request, chip, layout) for layout in layouts})
    known = {field: {name: found for name, found in done.items()
                     if any(math.isfinite(scalar(point, field)) for point in found.values())}
             for field, _, _ in _PANELS}
    for field, _, word in _PANELS:
        unknown = [name for name in done if name not in known[field]]
        omissions += [Omission(chip=name, reason=f"no {word}: no source gives its figures, or no layout fits")
                      for name in unknown]
    rows = [{"hardware": name, "attention": layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": scalar(point, "chips"), "level": cache_home(point),
             **{field: scalar(point, field) for field, _, _ in _PANELS}}
            for name, found in done.items() for layout, point in found.items()]
    return DrawnFigure(
        title=request.title or "What a million tokens cost",
        figure=_figure(context, known, layouts), rows=rows, finding=_finding(context, known, layouts),
        how_to_read="Rent of all chips for the time of the tokens, at the profile's price per hour (the lowest public "
                    "one, see its source). All layouts of a row run on the same chips.",
        inputs=inputs_text(request), omissions=omissions,
        alt="Dumbbell chart. " + " ".join(
            f"{context.label(name)}: " + ", ".join(f"{layout_name(layout)} {scalar(point, field):.3g}"
                                                   for layout, point in found.items()) + f" {word}."
            for field, word, _ in _PANELS for name, found in known[field].items()))


def _figure(context: FigureContext, known: dict[str, dict[str, dict[str, Evaluated]]], layouts: list[str]) -> Any:
    shown = [(field, title) for field, title, _ in _PANELS if known[field]]
    height = sum(0.62 + 0.28 * len(known[field]) for field, _ in shown)
    figure = new_figure(max(height, 1.0))
    if not shown:
        figure.add_subplot().set_axis_off()
        figure.axes[0].text(0.5, 0.5, "no source gives prices or energies of these chips", ha="center")
        return figure
    panels = np.atleast_1d(figure.subplots(len(shown), 1, height_ratios=[len(known[field]) + 1 for field, _ in shown]))
    for axes, (field, title) in zip(panels, shown, strict=True):
        rows = []
        for name, found in known[field].items():
            chips = scalar(next(iter(found.values())), "chips")
            rows.append(Row(style=context.styles[name], under=chips_words(chips),
                            values={layout: scalar(point, field) for layout, point in found.items()}))
        texts = {place: " → ".join(f"{row.values[layout]:.3g}" for layout in layouts
                                   if math.isfinite(row.values[layout])) for place, row in enumerate(rows)}
        values = [value for row in rows for value in row.values.values() if math.isfinite(value)]
        low, high = min(values), max(values)
        ticks = [factor * 10.0**power for power in range(-4, 7) for factor in (1, 2, 5)
                 if low * 0.7 <= factor * 10.0**power <= high * 1.3]
        log_ticks(axes, "x", ticks, [f"{tick:g}" for tick in ticks])
        draw_rows(axes, rows, layouts, texts)
        axes.set_xlim(low * 0.7, high * (high / low) ** 0.6 * 1.3)
        axes.set_xlabel(title)
    return figure


def _finding(context: FigureContext, known: dict[str, dict[str, dict[str, Evaluated]]], layouts: list[str]) -> str:
    sentences = []
    for field, title, _ in _PANELS:
        gains = {name: scalar(found[layouts[0]], field) / scalar(found[layouts[1]], field)
                 for name, found in known[field].items()}
        gains = {name: gain for name, gain in gains.items() if math.isfinite(gain)}
        if not gains:
            continue
        least, best = (end((gain, name) for name, gain in gains.items())[1] for end in (min, max))
        lowest, cheapest = min((scalar(found[layouts[1]], field), name) for name, found in known[field].items()
                               if name in gains)
        sentences.append(
            f"{layout_name(layouts[1])} divides {title} by {times(gains[least])} ({context.label(least)}) to "
            f"{times(gains[best])} ({context.label(best)}); the least is {lowest:.3g} on "
            f"{context.label(cheapest)}.")
    return " ".join(sentences) or "0 of these chips have a price or an energy with a source."
