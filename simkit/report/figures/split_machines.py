"""Where attention leaves an SRAM machine: the context up to which it is best there, by batch and number of KV heads.

A panel for each second pool. Below a layout's line the fastest assignment has attention and its cache on the second
pool; above it they are on the first, and feed-forward layers stay where they were.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.ranges import caption
from simkit.report.drawing.study_points import assumed_text
from simkit.report.drawing.style import count, hues, layout_name, log_ticks, panel_grid, times, tokens
from simkit.study.split import split_records

Records = list[dict[str, Any]]


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a second pool, one line a layout."""
    request = context.request
    first, chips = request.hardware[0], int(request.chips)
    home = f"{chips} × {context.label(first.name)}"
    found: dict[str, Records] = {}
    for second, number in request.ffn:
        found[f"{number} × {context.label(second.name)}"] = split_records(
            first, second, (chips, number), request.model, request.layouts, batch=request.batch,
            kv_len=request.kv_len, between=request.between, kv_dtype=request.kv_dtype,
            weight_dtype=request.weight_dtype)
    figure, panels = panel_grid(len(found), (1.75, 2.1), "sequences", "context [tokens]")
    for axes, records, (second, number) in zip(np.ravel(panels), found.values(), request.ffn, strict=False):
        axes.set_title(f"{number} × {context.marked(second.name)}")
        labels, curves = [], []
        for layout, colour in zip(request.layouts, hues(), strict=False):
            batch, low, high = _limits([one for one in records if one["attention"] == layout], request.kv_len)
            if len(batch):
                axes.fill_between(batch, low, high, color=colour, alpha=0.25, linewidth=0)
                axes.plot(batch, low, "o-", color=colour, markersize=2.6, linewidth=1.0)
                curves.append((batch, low))
                labels.append(Label(x=batch[-1], y=low[-1], text=layout_name(layout), colour=colour))
        log_ticks(axes, "x", request.batch[::2], [count(one) for one in request.batch[::2]])
        log_ticks(axes, "y", request.kv_len[::2], [tokens(one) for one in request.kv_len[::2]])
        axes.set_xlim(request.batch[0] / 1.2, request.batch[-1] * 1.2)
        axes.set_ylim(request.kv_len[0] / 1.4, request.kv_len[-1] * 1.4)
        place_labels(axes, labels, avoid=curves)
    drawn = (first, *(second for second, _ in request.ffn))
    finding = _finding(found, home, request.layouts)
    return DrawnFigure(
        title=request.title or "Where attention leaves the second pool", figure=figure,
        rows=[record for records in found.values() for record in records], finding=finding, alt=finding,
        how_to_read="Marks: the longest context tried at which attention is best on the second pool; the band reaches "
                    f"to the next one, at which it is on {home} or has no room on either. Marks at the top edge: it "
                    "never left."
                    + caption(drawn, "no range is drawn: where attention is best follows from the estimates"),
        inputs=f"{request.model.title}; cache {request.kv_dtype}, weights {request.weight_dtype}; first pool {home}; "
               f"between {request.between}; every assignment of attention, projections, feed-forward layers and ends "
               f"is tried, each in its best micro-batches; engine: roofline.{assumed_text(drawn)}")


def _limits(records: Records, contexts: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Of each batch the longest context with attention on the second pool and the next one that was tried."""
    rows = []
    for batch in dict.fromkeys(one["batch"] for one in records):
        there = [one["kv_len"] for one in records
                 if one["batch"] == batch and one["attention_on"] == one["ffn_hardware"]]
        if there:
            rows.append((batch, max(there), dict(pairwise(contexts)).get(max(there), max(there))))
    return tuple(np.array(rows, dtype=float).reshape(-1, 3).T)  # type: ignore[return-value]


def _finding(found: dict[str, Records], home: str, layouts: tuple[str, ...]) -> str:
    said = []
    for title, records in found.items():
        ends = {layout: dict(zip(*_limits([one for one in records if one["attention"] == layout], ())[:2], strict=True))
                for layout in layouts}
        common = [batch for batch in ends[layouts[-1]] if batch in ends[layouts[0]]]
        split = [one for one in records if one["fits"] and one["attention_on"] != one["ffn_on"]]
        gains = [min(one[f"{name}_alone_step_time_s"] or np.inf for name in ("first", "second")) / one["step_time_s"]
                 for one in split]
        reached = [gain for gain in gains if np.isfinite(gain)]
        text = f"{title}: "
        if common:
            few, many = (ends[layout][common[-1]] for layout in (layouts[-1], layouts[0]))
            text += (f"with {count(common[-1])} sequences attention stays up to {tokens(many)} tokens with "
                     f"{layout_name(layouts[0])} and {tokens(few)} with {layout_name(layouts[-1])}")
        if reached:
            text += f"; beyond, a step on both pools is up to {times(max(reached))} as fast as on the faster one"
        said.append(text)
    return f"Attention is best on the second pool while its memory lasts, then on {home}. " + ". ".join(said) + "."
