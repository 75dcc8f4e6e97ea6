"""How many sequences fit: the largest batch of each layout on the chips that the study gives it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.dumbbell import Row, axis_end, draw_rows
from simkit.report.drawing.ranges import caption
from simkit.report.drawing.style import chips_words, count, decade_axis, layout_name, new_figure
from simkit.study.evaluate import FIT_EACH, Evaluated
from simkit.study.own_batch import at_own_batch

_NO_RANGE: Final = "sequences have no range, for what is assumed is times, or the share of memory that a runtime keeps"


def draw(context: FigureContext) -> DrawnFigure:
    """One row a chip, one mark a layout: the largest batch of the focus context."""
    request = context.request
    layouts = list(request.layouts)
    done, omissions = ask.for_each_chip(request.hardware, lambda chip: ask.every_layout(request, chip))
    for name, found in done.items():
        omissions += ask.left_out(request, name, [layout for layout, point in found.items() if ask.fits(point)])
    done = {name: found for name, found in done.items() if all(ask.fits(point) for point in found.values())}
    ask.require_some(done, request, "its largest layout fits on none of its hardware")
    users = {name: {layout: ask.scalar(point, "own_batch") for layout, point in found.items()}
             for name, found in done.items()}
    rows = [{"hardware": name, "attention": layout, "kv_len": request.focus_kv_len,
             "chips": ask.scalar(done[name][layout], "chips"), "own_batch": int(most),
             "max_batch": int(ask.scalar(done[name][layout], "max_batch")),
             "kv_copies": ask.scalar(done[name][layout], "kv_copies")}
            for name, found in users.items() for layout, most in found.items()]
    return DrawnFigure(
        title=request.title or f"Sequences of {count(request.focus_kv_len)} tokens that fit",
        figure=_figure(context, done, users, layouts), rows=rows, finding=_finding(context, users, layouts),
        how_to_read="Largest batch after weights and the runtime's reserve, whole sequences, each layout in the "
                    f"mapping onto the chips that holds the most. {ask.same_chips_text(request)}"
                    + caption(request.hardware, _NO_RANGE),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Dumbbell chart of sequences that fit. " + " ".join(
            f"{context.label(name)}: " + ", ".join(f"{layout_name(n)} {count(v)}" for n, v in found.items()) + "."
            for name, found in users.items()))


def _finding(context: FigureContext, users: dict[str, dict[str, float]], layouts: list[str]) -> str:
    request, first = context.request, layouts[0]
    if request.chips == FIT_EACH:
        where = f"with each layout on chips of its own that hold at least {request.focus_batch} of its sequences"
    elif isinstance(request.chips, int):
        where = f"on {chips_words(request.chips)}"
    else:
        where = f"on {ask.chips_text(request)} at batch {request.focus_batch}"
    ratios = "; ".join(f"{layout_name(layout)} " + context.span({
        name: found[layout] / found[first] for name, found in users.items()}) for layout in layouts[1:])
    return f"Sequences that fit {where}, over {layout_name(first)}'s: {ratios}."


def _figure(context: FigureContext, done: dict[str, dict[str, Evaluated]], users: dict[str, dict[str, float]],
            layouts: list[str]) -> Any:
    figure = new_figure(0.6 + (0.36 if context.request.chips == FIT_EACH else 0.28) * max(len(users), 2))
    axes = figure.add_subplot()
    decade_axis(axes, "x")
    rows = []
    for name, found in users.items():
        under = ask.machines_text((at_own_batch(point) for point in done[name].values()), between="\n")
        rows.append(Row(style=context.styles[name], values=found, under=under))
    texts = {place: " → ".join(count(row.values[layout]) for layout in layouts) for place, row in enumerate(rows)}
    draw_rows(axes, rows, layouts, texts)
    highest = max(max(row.values.values()) for row in rows)
    least = min(min(row.values.values()) for row in rows)
    low = int(np.floor(np.log10(max(least, 1.0))))
    axes.set_xlim(10.0**low * 0.8, axis_end(rows, texts, 10.0**low * 0.8))
    decades = [10.0**power for power in range(low, int(np.log10(highest)) + 1)]
    axes.set_xticks(decades, [count(value) for value in decades])
    axes.set_xlabel("sequences that fit at once")
    return figure
