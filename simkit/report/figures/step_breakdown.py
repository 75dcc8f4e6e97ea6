"""Where a decode step's time goes, layout by layout, on a few chips: cache, weights, arithmetic, links, latency."""

from __future__ import annotations

from typing import Final

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import BOUNDS, bounds_of, caption, columns_of
from simkit.report.drawing.stacked_bars import Bar, stacked_bars
from simkit.report.drawing.style import cause_colour, layout_name
from simkit.study.evaluate import Evaluated
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, LOAD_PATH, SPECIAL_FUNCTION

_HOLDS_UP: Final = {COMPUTE: "arithmetic", LATENCY: "fixed latency", LINK: "links", LOAD_PATH: "the load path",
                    SPECIAL_FUNCTION: "exponentials"}


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one bar a layout, as shares of the longest step of that chip."""
    request = context.request

    def bar_of(_: HardwareProfile, layout: str, point: Evaluated) -> Bar:
        return Bar(layout=layout, time_s=ask.scalar(point, "step_time_s"), parts_s=ask.split_time_s(point),
                    range_s=bounds_of(point, "step_time_s"), point=point)

    drawn, omissions = ask.fitting_layouts(request, bar_of)
    done = {name: list(found.values()) for name, found in drawn.items()}
    rows = [{"hardware": name, "attention": bar.layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": ask.scalar(bar.point, "chips"), "level": ask.cache_home(bar.point),
             "step_time_s": bar.time_s, **columns_of("step_time_s", bar.range_s, BOUNDS),
             **{f"{part}_time_s": bar.parts_s[part] for part in ask.PARTS}}
            for name, found in done.items() for bar in found]
    return DrawnFigure(
        title=request.title or "What a decode step waits for",
        figure=stacked_bars(context, done, lambda _, part: (ask.PART_NAMES[part], cause_colour(part)), to_longest=True,
                            of="", xlabel="share of that chip's longest step"),
        rows=rows, finding=_finding(context, done),
        how_to_read="Each panel is scaled to its longest step. Fixed "
                    "latency is kernel launches and set-up, fabric and layer latency, and pipeline bubbles. "
                    f"{ask.same_chips_text(request)}"
                    + caption(request.hardware,
                              bounds="A line (an arrow: it goes on), behind which the bar's own time stands"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Stacked bars. " + " ".join(
            f"{context.label(name)} {layout_name(bar.layout)}: {format_quantity(bar.time_s, SECONDS)}, of which "
            + ", ".join(f"{ask.PART_NAMES[p]} {bar.parts_s[p] / bar.time_s:.0%}" for p in ask.PARTS) + "."
            for name, found in done.items() for bar in found))


def _finding(context: FigureContext, done: dict[str, list[Bar]]) -> str:
    sentences = []
    for name, found in done.items():
        last = found[-1]
        largest = max(ask.PARTS, key=lambda part, bar=last: bar.parts_s[part])  # type: ignore[misc]
        shares = " and ".join(_attention(bar) for bar in (found[:1] if len(found) == 1 else (found[0], last)))
        sentences.append(
            f"On {context.label(name)} attention takes {shares}, where {ask.PART_NAMES[largest]} "
            f"{'take' if largest in ('weights', 'links') else 'takes'} {last.parts_s[largest] / last.time_s:.0%}.")
    return " ".join(sentences)


def _attention(bar: Bar) -> str:
    """The share of attention in a step, and what holds it up where that is not the memory of the cache."""
    bound = str(bar.point.select(("attention_bound",))["attention_bound"].item())
    held = "" if bound in bar.point.placement.kv else f" (held up by {_HOLDS_UP.get(bound, bound)})"
    return (f"{ask.scalar(bar.point, 'attention_time_s') / bar.time_s:.1%} of {layout_name(bar.layout)}'s "
            f"{format_quantity(bar.time_s, SECONDS)}{held}")
