"""Where a decode step's time goes, layout by layout, on a few chips: cache, weights, arithmetic, links, latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import caption, columns_of, range_of
from simkit.report.drawing.stacked_bars import Bar, Panel, Part, stacked_bars
from simkit.report.drawing.study_points import (
    PART_NAMES,
    PARTS,
    Omission,
    cache_home,
    evaluate,
    fits,
    for_each_chip,
    inputs_text,
    machines_text,
    no_room,
    require_some,
    same_chips_text,
    scalar,
    split_time_s,
)
from simkit.report.drawing.style import cause_colour, layout_name
from simkit.study.evaluate import Evaluated
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, LOAD_PATH, SPECIAL_FUNCTION

_HOLDS_UP: Final = {COMPUTE: "arithmetic", LATENCY: "fixed latency", LINK: "links", LOAD_PATH: "the load path",
                    SPECIAL_FUNCTION: "exponentials"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    layout: str
    step_time_s: float
    range_s: tuple[float, float] | None
    parts_s: dict[str, float]
    point: Evaluated
    chips: float
    level: str


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one bar a layout, as shares of the longest step of that chip."""
    request = context.request
    shown = request.hardware

    def bars(chip: HardwareProfile) -> list[_Bar]:
        points = [(layout, evaluate(request, chip, layout)) for layout in request.layouts]
        return [_Bar(layout=layout, step_time_s=scalar(point, "step_time_s"), range_s=range_of(point, "step_time_s"),
                     parts_s=split_time_s(point), point=point, chips=scalar(point, "chips"), level=cache_home(point))
                for layout, point in points if fits(point)]

    done, omissions = for_each_chip(shown, bars)
    for name, found in list(done.items()):
        omissions += [Omission(chip=name, reason=no_room(request, layout_name(layout)))
                      for layout in request.layouts if layout not in {bar.layout for bar in found}]
        if not found:
            del done[name]
    require_some(done, request, "it fits on none of its hardware")
    rows = [{"hardware": name, "attention": bar.layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": bar.chips, "level": bar.level, "step_time_s": bar.step_time_s,
             **columns_of("step_time_s", bar.range_s),
             **{f"{part}_time_s": bar.parts_s[part] for part in PARTS}}
            for name, found in done.items() for bar in found]
    return DrawnFigure(
        title=request.title or "What a decode step waits for",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done),
        how_to_read="Each panel is scaled to its longest step or the end of its range. Fixed "
                    "latency is kernel launches and set-up, fabric and layer latency, and waiting stages. "
                    f"{same_chips_text(request)}"
                    + caption(shown, "a line is the range of a step's time, behind which the bar's own time stands"),
        inputs=inputs_text(request), omissions=omissions,
        alt="Stacked bars. " + " ".join(
            f"{context.label(name)} {layout_name(bar.layout)}: {format_quantity(bar.step_time_s, SECONDS)}, of which "
            + ", ".join(f"{PART_NAMES[p]} {bar.parts_s[p] / bar.step_time_s:.0%}" for p in PARTS) + "."
            for name, found in done.items() for bar in found))


def _figure(context: FigureContext, done: dict[str, list[_Bar]]) -> Any:
    panels = []
    for name, found in done.items():
        longest = max((bar.range_s or (0.0, bar.step_time_s))[1] for bar in found)
        panels.append(Panel(
            title=f"{context.marked(name)}: {machines_text(bar.point for bar in found)}",
            bars=[Bar(
                layout=bar.layout, time_s=bar.step_time_s,
                parts=[Part(name=PART_NAMES[part], colour=cause_colour(part), share=bar.parts_s[part] / longest)
                       for part in PARTS],
                range_shares=bar.range_s and (bar.range_s[0] / longest, bar.range_s[1] / longest)) for bar in found]))
    return stacked_bars(panels, xlabel="share of the longest that a step of that chip may take", slivers_of="first")


def _finding(context: FigureContext, done: dict[str, list[_Bar]]) -> str:
    sentences = []
    for name, found in done.items():
        last = found[-1]
        largest = max(PARTS, key=lambda part, bar=last: bar.parts_s[part])  # type: ignore[misc]
        shares = " and ".join(_attention(bar) for bar in (found[:1] if len(found) == 1 else (found[0], last)))
        sentences.append(
            f"On {context.label(name)} attention takes {shares}, where {PART_NAMES[largest]} "
            f"{'take' if largest in ('weights', 'links') else 'takes'} {last.parts_s[largest] / last.step_time_s:.0%}.")
    return " ".join(sentences)


def _attention(bar: _Bar) -> str:
    """The share of attention in a step, and what holds it up where that is not the memory of the cache."""
    bound = str(bar.point.select(("attention_bound",))["attention_bound"].item())
    held = "" if bound in bar.point.placement.kv else f" (held up by {_HOLDS_UP.get(bound, bound)})"
    return (f"{scalar(bar.point, 'attention_time_s') / bar.step_time_s:.1%} of {layout_name(bar.layout)}'s "
            f"{format_quantity(bar.step_time_s, SECONDS)}{held}")
