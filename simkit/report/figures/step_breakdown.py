"""Where a decode step's time goes, layout by layout, on a few chips: cache, weights, arithmetic, links, latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import BOUNDS, bounds_of, caption, columns_of
from simkit.report.drawing.stacked_bars import Bar, Panel, Part, stacked_bars
from simkit.report.drawing.style import cause_colour, layout_name
from simkit.study.evaluate import Evaluated
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, LOAD_PATH, SPECIAL_FUNCTION

_HOLDS_UP: Final = {COMPUTE: "arithmetic", LATENCY: "fixed latency", LINK: "links", LOAD_PATH: "the load path",
                    SPECIAL_FUNCTION: "exponentials"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    layout: str
    step_time_s: float
    bounds_s: tuple[float, float] | None
    parts_s: dict[str, float]
    point: Evaluated


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one bar a layout, as shares of the longest step of that chip."""
    request = context.request
    shown = request.hardware

    def bars(chip: HardwareProfile) -> list[_Bar]:
        return [_Bar(layout=layout, step_time_s=ask.scalar(point, "step_time_s"), parts_s=ask.split_time_s(point),
                     bounds_s=bounds_of(point, "step_time_s"), point=point)
                for layout, point in ask.every_layout(request, chip).items() if ask.fits(point)]

    done, omissions = ask.for_each_chip(shown, bars)
    for name, found in done.items():
        omissions += ask.left_out(request, name, [bar.layout for bar in found])
    done = {name: found for name, found in done.items() if found}
    ask.require_some(done, request, "it fits on none of its hardware")
    rows = [{"hardware": name, "attention": bar.layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": ask.scalar(bar.point, "chips"), "level": ask.cache_home(bar.point),
             "step_time_s": bar.step_time_s, **columns_of("step_time_s", bar.bounds_s, BOUNDS),
             **{f"{part}_time_s": bar.parts_s[part] for part in ask.PARTS}}
            for name, found in done.items() for bar in found]
    return DrawnFigure(
        title=request.title or "What a decode step waits for",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done),
        how_to_read="Each panel is scaled to its longest step. Fixed "
                    "latency is kernel launches and set-up, fabric and layer latency, and pipeline bubbles. "
                    f"{ask.same_chips_text(request)}"
                    + caption(shown, bounds="A line (an arrow: it goes on), behind which the bar's own time stands"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Stacked bars. " + " ".join(
            f"{context.label(name)} {layout_name(bar.layout)}: {format_quantity(bar.step_time_s, SECONDS)}, of which "
            + ", ".join(f"{ask.PART_NAMES[p]} {bar.parts_s[p] / bar.step_time_s:.0%}" for p in ask.PARTS) + "."
            for name, found in done.items() for bar in found))


def _figure(context: FigureContext, done: dict[str, list[_Bar]]) -> Any:
    panels = []
    for name, found in done.items():
        longest = max(bar.step_time_s for bar in found)
        panels.append(Panel(
            title=f"{context.marked(name)}: {ask.machines_text(bar.point for bar in found)}",
            bars=[Bar(
                layout=bar.layout, time_s=bar.step_time_s,
                parts=[Part(name=ask.PART_NAMES[part], colour=cause_colour(part), share=bar.parts_s[part] / longest)
                       for part in ask.PARTS],
                range_shares=bar.bounds_s and (bar.bounds_s[0] / longest, bar.bounds_s[1] / longest))
                for bar in found]))
    return stacked_bars(panels, xlabel="share of that chip's longest step", slivers_of="first")


def _finding(context: FigureContext, done: dict[str, list[_Bar]]) -> str:
    sentences = []
    for name, found in done.items():
        last = found[-1]
        largest = max(ask.PARTS, key=lambda part, bar=last: bar.parts_s[part])  # type: ignore[misc]
        shares = " and ".join(_attention(bar) for bar in (found[:1] if len(found) == 1 else (found[0], last)))
        sentences.append(
            f"On {context.label(name)} attention takes {shares}, where {ask.PART_NAMES[largest]} "
            f"{'take' if largest in ('weights', 'links') else 'takes'} {last.parts_s[largest] / last.step_time_s:.0%}.")
    return " ".join(sentences)


def _attention(bar: _Bar) -> str:
    """The share of attention in a step, and what holds it up where that is not the memory of the cache."""
    bound = str(bar.point.select(("attention_bound",))["attention_bound"].item())
    held = "" if bound in bar.point.placement.kv else f" (held up by {_HOLDS_UP.get(bound, bound)})"
    return (f"{ask.scalar(bar.point, 'attention_time_s') / bar.step_time_s:.1%} of {layout_name(bar.layout)}'s "
            f"{format_quantity(bar.step_time_s, SECONDS)}{held}")
