"""Where a decode step's time goes, layout by layout, on a few chips: cache, weights, arithmetic, links, latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
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
    range_of,
    require_some,
    scalar,
    split_time_s,
)
from simkit.report.drawing.style import cause_colour, chips_words, layout_name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    layout: str
    step_time_s: float
    range_s: tuple[float, float] | None
    parts_s: dict[str, float]
    chips: float
    level: str


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one bar a layout, as shares of the longest step of that chip."""
    request = context.request
    shown = request.hardware

    def bars(chip: HardwareProfile) -> list[_Bar]:
        points = [(layout, evaluate(request, chip, layout)) for layout in request.layouts]
        return [_Bar(layout=layout, step_time_s=scalar(point, "step_time_s"), range_s=range_of(point, "step_time_s"),
                     parts_s=split_time_s(point), chips=scalar(point, "chips"), level=cache_home(point))
                for layout, point in points if fits(point)]

    done, omissions = for_each_chip(shown, bars)
    for name, found in list(done.items()):
        absent = [layout_name(x) for x in request.layouts if x not in {bar.layout for bar in found}]
        if absent:
            reason = f"no number of its chips holds the cache of {', '.join(absent)}"
            omissions.append(Omission(chip=name, reason=reason))
        if not found:
            del done[name]
    require_some(done, request, "it fits on none of its hardware")
    rows = [{"hardware": name, "attention": bar.layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": bar.chips, "level": bar.level, "step_time_s": bar.step_time_s,
             **dict(zip(("step_time_s_low", "step_time_s_high"), bar.range_s or (None, None), strict=True)),
             **{f"{part}_time_s": bar.parts_s[part] for part in PARTS}}
            for name, found in done.items() for bar in found]
    return DrawnFigure(
        title=request.title or "What a decode step waits for",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done),
        how_to_read="Each panel is scaled to its longest step or the end of its range; the time stands at the "
                    "end of its bar, and a line is the range of that time by what is assumed. Fixed "
                    "latency is kernel launches and set-up, fabric and layer latency, and waiting stages.",
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
            title=f"{context.label(name)}: {chips_words(found[0].chips)}, cache in {found[0].level}",
            bars=[Bar(
                layout=bar.layout, time_s=bar.step_time_s,
                parts=[Part(name=PART_NAMES[part], colour=cause_colour(part), share=bar.parts_s[part] / longest)
                       for part in PARTS],
                range_shares=bar.range_s and (bar.range_s[0] / longest, bar.range_s[1] / longest)) for bar in found]))
    return stacked_bars(panels, xlabel="share of the longest step of that chip", slivers_of="first")


def _finding(context: FigureContext, done: dict[str, list[_Bar]]) -> str:
    sentences = []
    for name, found in done.items():
        first, last = found[0], found[-1]
        largest = max(PARTS, key=lambda part, bar=last: bar.parts_s[part])  # type: ignore[misc]
        sentences.append(
            f"On {context.label(name)} the cache takes {first.parts_s['cache'] / first.step_time_s:.1%} of "
            f"{layout_name(first.layout)}'s {format_quantity(first.step_time_s, SECONDS)} and "
            f"{last.parts_s['cache'] / last.step_time_s:.1%} of {layout_name(last.layout)}'s "
            f"{format_quantity(last.step_time_s, SECONDS)}, where {PART_NAMES[largest]} "
            f"{'take' if largest in ('weights', 'links') else 'takes'} {last.parts_s[largest] / last.step_time_s:.0%}.")
    return " ".join(sentences)
