"""How many sequences fit: each layout on the same machine, the smallest that holds the study's batch of the largest."""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.dumbbell import Row, draw_rows
from simkit.report.drawing.study_points import (
    Omission,
    cache_home,
    evaluate,
    fits,
    for_each_chip,
    inputs_text,
    require_some,
    scalar,
)
from simkit.report.drawing.style import chips_words, count, decade_axis, layout_name, new_figure, times
from simkit.study.evaluate import Evaluated


def draw(context: FigureContext) -> DrawnFigure:
    """One row a chip, one mark a layout: the largest batch of the focus context."""
    request = context.request
    layouts = list(request.layouts)
    done, omissions = for_each_chip(
        request.hardware, lambda chip: {layout: evaluate(request, chip, layout) for layout in layouts})
    omissions += [Omission(chip=name, reason="the study's batch of its largest layout fits on no number of its chips")
                  for name, found in done.items() if not all(fits(point) for point in found.values())]
    users = {name: {layout: scalar(point, "max_batch") for layout, point in found.items()}
             for name, found in done.items() if all(fits(point) for point in found.values())}
    require_some(users, request, "its largest layout fits on none of its hardware")
    rows = [{"hardware": name, "attention": layout, "kv_len": request.focus_kv_len,
             "chips": scalar(done[name][layout], "chips"), "max_batch": int(most),
             "kv_copies": scalar(done[name][layout], "kv_copies")}
            for name, found in users.items() for layout, most in found.items()]
    first, others = layouts[0], layouts[1:]
    gains = {layout: {name: found[layout] / found[first] for name, found in users.items()} for layout in others}
    spread = "; ".join(f"{layout_name(layout)} between {_end(context, min(_pairs(gain)))} and "
                       f"{_end(context, max(_pairs(gain)))}" for layout, gain in gains.items())
    return DrawnFigure(
        title=request.title or f"Sequences of {count(request.focus_kv_len)} tokens that fit",
        figure=_figure(context, done, users, layouts), rows=rows,
        finding=f"On the smallest machine that holds {request.focus_batch} {layout_name(first)} sequences, the other "
                f"layouts hold more at once: {spread}. Gains fall short of the cache's reduction where chips outnumber "
                "KV heads and copy them; they pass it a little because K and V projections shrink as well.",
        how_to_read="Largest batch after weights and the runtime's reserve, whole sequences, on the same chips for all "
                    "layouts of a row.",
        inputs=inputs_text(request), omissions=omissions,
        alt="Dumbbell chart of sequences that fit. " + " ".join(
            f"{context.label(name)}: " + ", ".join(f"{layout_name(n)} {count(v)}" for n, v in found.items()) + "."
            for name, found in users.items()))


def _pairs(gain: dict[str, float]) -> list[tuple[float, str]]:
    return [(value, name) for name, value in gain.items()]


def _end(context: FigureContext, pair: tuple[float, str]) -> str:
    return f"{times(pair[0])} ({context.label(pair[1])})"


def _figure(context: FigureContext, done: dict[str, dict[str, Evaluated]], users: dict[str, dict[str, float]],
            layouts: list[str]) -> Any:
    figure = new_figure(0.6 + 0.28 * max(len(users), 2))
    axes = figure.add_subplot()
    decade_axis(axes, "x")
    rows = []
    for name, found in users.items():
        point = done[name][layouts[-1]]
        chips = scalar(point, "chips")
        rows.append(Row(style=context.styles[name], values=found,
                        under=f"{chips_words(chips)}, {cache_home(point)}"))
    texts = {place: " → ".join(count(row.values[layout]) for layout in layouts) for place, row in enumerate(rows)}
    draw_rows(axes, rows, layouts, texts)
    highest = max(max(row.values.values()) for row in rows)
    least = min(min(row.values.values()) for row in rows)
    low = int(np.floor(np.log10(max(least, 1.0))))
    axes.set_xlim(10.0**low * 0.8, highest * (highest / 10.0**low) ** 0.5)
    decades = [10.0**power for power in range(low, int(np.log10(highest)) + 1)]
    axes.set_xticks(decades, [count(value) for value in decades])
    axes.set_xlabel("sequences that fit at once")
    return figure
