"""Capacity against latency on a chip made of tiles: attention of a layer by the sequences that are held at once.

With few sequences there is room for copies of each KV head, and a layout with few heads is as fast as one with many.
As the memory fills, copies go and messages grow: what grouping saves in memory it gives back in time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.ranges import caption, draw_band, ranges_of
from simkit.report.drawing.study_points import evaluate, for_each_chip, inputs_text, require_some, scalar
from simkit.report.drawing.style import count, hues, layout_name, times
from simkit.study.evaluate import Evaluated


def draw(context: FigureContext) -> DrawnFigure:
    """Curves of the layouts on one chip. Raises :class:`UserError` when no chip of the request has tiles."""
    request = context.request

    def curves(chip: HardwareProfile) -> dict[str, Evaluated]:
        found = {}
        for layout in request.layouts:
            point = evaluate(request, chip, layout)
            most = scalar(point, "max_batch")
            batches = np.unique(np.append(2.0 ** np.arange(0.0, np.log2(max(most, 1.0)) + 1e-9), np.floor(most)))
            found[layout] = evaluate(request, chip, layout, batch=batches, chips=int(scalar(point, "chips")))
        return found

    done, omissions = for_each_chip([chip for chip in request.hardware if chip.fabric is not None], curves)
    names = [name for name, found in done.items()
             if all(one.timing.tile_mapping is not None for one in found.values())]
    require_some(names, request, "no chip here states a fabric and is timed by --engine spatial")
    name, found = names[0], done[names[0]]
    rows = [{"hardware": name, "attention": layout, "kv_len": request.focus_kv_len, "batch": batch,
             "head_copies": copies, "attention_s_a_layer": time_s}
            for layout, one in found.items() for batch, copies, time_s in zip(*_curve(one), strict=True)]
    return DrawnFigure(
        title=request.title or f"Capacity against latency on {context.label(name)}",
        figure=_figure(found), rows=rows, finding=_finding(context.label(name), found),
        how_to_read="Each curve ends where the memory is full. Numbers at marks: copies of each KV head; without one "
                    "there is a single copy." + caption([one.hardware for one in found.values()][:1],
                                                        "bands are the range of the time"),
        inputs=inputs_text(request), omissions=omissions,
        alt=" ".join(f"{layout_name(layout)}: {format_quantity(_curve(one)[2][0], SECONDS)} with one sequence, "
                     f"{format_quantity(_curve(one)[2][-1], SECONDS)} with {count(_curve(one)[0][-1])}."
                     for layout, one in found.items()))


def _curve(one: Evaluated) -> tuple[Any, Any, Any]:
    """Batch, copies of a head and attention seconds a layer of the points that fit."""
    fitting = np.ravel(one.fits)
    layers = sum(operator.count for operator in one.step.attention_operators)
    copies = np.broadcast_to(one.timing.tile_mapping.head_copies, fitting.shape)  # type: ignore[union-attr]
    return (np.ravel(one.select(("batch",))["batch"])[fitting], copies[fitting],
            np.ravel(one.timing.attention_time_s)[fitting] / layers)


def _figure(found: dict[str, Evaluated]) -> Any:
    figure = style.new_figure(2.4)
    axes = figure.subplots()
    labels, curves, numbered = [], [], []
    for (layout, one), colour in zip(found.items(), hues(), strict=False):
        batch, copies, time_s = _curve(one)
        axes.plot(batch, time_s, "o-", color=colour, markersize=3.0, linewidth=1.0)
        ends = ranges_of(one, "attention_time_s")
        fitting, scale = np.ravel(one.fits), time_s / np.ravel(one.timing.attention_time_s)[np.ravel(one.fits)]
        draw_band(axes, batch, ends and (ends[0][fitting] * scale, ends[1][fitting] * scale), colour)
        for x, y, number in zip(batch, time_s, copies, strict=True):
            if number > 1:
                style.note(axes, f"{number:.0f}", (x, y), (0, 4), ha="center")
                numbered.append((x, y))
        curves.append((batch, time_s))
        labels.append(Label(x=batch[-1], y=time_s[-1], text=layout_name(layout), colour=colour))
    most = max(batch.max() for batch, _ in curves)
    powers = [power for power in 4.0 ** np.arange(10) if power <= most]
    style.log_ticks(axes, "x", powers, [count(value) for value in powers])
    low, high = axes.get_ylim()
    ticks = style.round_ticks(max(low, 1e-9), high)  # the linear axis before may begin below 0
    style.log_ticks(axes, "y", ticks, [format_quantity(value, SECONDS) for value in ticks])
    axes.set_xlabel("sequences held at once")
    axes.set_ylabel("attention of a layer")
    # Numbers of copies stand over their marks: room for them, too.
    above = np.add(axes.transData.transform(numbered), (0, 7.0 * figure.dpi / 72.0)) if numbered else []
    place_labels(axes, labels, avoid=curves, markers=[tuple(axes.transData.inverted().transform(at)) for at in above])
    return figure


def _finding(label: str, found: dict[str, Evaluated]) -> str:
    first, *_, last = found
    (batch, _, time_s), (most, copies, few_s) = _curve(found[first]), _curve(found[last])
    return (f"On {label} {layout_name(last)} holds {times(most[-1] / batch[-1])} as many sequences as "
            f"{layout_name(first)}. With one sequence it takes {times(few_s[0] / time_s[0])} of "
            f"{layout_name(first)}'s attention, with {copies[0]:.0f} {'copy' if copies[0] == 1 else 'copies'} of a "
            f"head; with {count(batch[-1])}, as many as {layout_name(first)} holds, "
            f"{times(float(np.interp(batch[-1], most, few_s)) / time_s[-1])}.")
