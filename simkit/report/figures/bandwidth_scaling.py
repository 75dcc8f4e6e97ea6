"""Where grouping stops paying: a layout's advantage when all memory is made faster, 1x to 100x, at fixed flops.

Every level's bandwidth grows together, so weights and cache go on sharing it. By the law of grouping the ratio then
stays as it is until something that does not grow binds: arithmetic (the ridge falls as bandwidth rises), launches and
layer latency, links. Where it ends, and by which part of the step, is what ``simkit crossover --vary memory`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.ranges import Range, caption, columns_of, draw_range, ranges_of
from simkit.report.drawing.style import INK, SOFT_INK, layout_name, log_ticks, new_figure, note, times
from simkit.study.causes import SHARES
from simkit.study.crossover import Comparison, solve
from simkit.study.engines import engine_named
from simkit.study.scenario import parse_scenario
from simkit.study.study_file import FigureRequest
from simkit.study.vary import MEMORY, faster_memory, variable

_FACTORS: Final = np.geomspace(1.0, 100.0, 41)
_BETWEEN_MARKS: Final = 13  # of the factors
_PAYS: Final = 1.10
_ATTENTION, _STEP = "attention_speedup_vs_mha", "speedup_vs_mha"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    chip: str
    level: str
    speedup: dict[str, Any]
    ranges: dict[str, Range | None]
    stops_at_factor: float | None
    ended_by: str | None


def _where_it_stops(request: FigureRequest, chip: HardwareProfile, layout: str,
                    chips: int) -> tuple[float | None, str | None]:
    """The factor at which the step's advantage first falls below 1.10, as ``simkit crossover --vary memory`` solves for
    it, and the part of the step that takes it; None when it never does.
    """
    workload = {"batch": float(request.focus_batch), "kv_len": float(request.focus_kv_len), "q_len": 1.0}
    comparison = Comparison(
        load=lambda _: chip, profile=chip, model=request.model, attention=layout, against="mha", of="step",
        workload=workload, chips=chips, tp=None, pp=None, engine=engine_named(request.engine),
        scenario=parse_scenario(kv_dtype=request.kv_dtype, weight_dtype=request.weight_dtype),
        varied=variable(MEMORY, chip, workload, start=float(_FACTORS[0]), stop=float(_FACTORS[-1])))
    falls = [record for record in solve(comparison, _PAYS) if record["value"] is not None
             and record["finding"].endswith("below")]
    return (falls[0]["value"], falls[0]["ended_by"]) if falls else (None, None)


def draw(context: FigureContext) -> DrawnFigure:
    """Attention alone above, the whole step below, one line a chip, for the first layout that is not MHA."""
    request = context.request
    layout = next(name for name in request.layouts if name != "mha")

    def curve(chip: HardwareProfile) -> _Curve:
        now = ask.evaluate(request, chip, "mha")
        if not ask.fits(now):
            raise ask.NoRoomError(ask.no_room(request))
        many = np.full(_FACTORS.shape, float(request.focus_batch))
        # Today's machine: which chips cost least may change with the factor, and only the memory is to.
        chips = int(ask.scalar(now, "chips"))
        found = ask.evaluate(request, faster_memory(chip, _FACTORS), layout, batch=many, chips=chips)
        speedup = found.select((_ATTENTION, _STEP))
        stops = (1.0, None) if speedup[_STEP][0] < _PAYS else _where_it_stops(request, chip, layout, chips)
        return _Curve(chip=chip.name, level=ask.cache_home(now), speedup=speedup, stops_at_factor=stops[0],
                      ranges={field: ranges_of(found, field) for field in speedup}, ended_by=stops[1])

    done, omissions = ask.for_each_chip(request.hardware, curve)
    curves = list(done.values())
    ask.require_some(curves, request, "MHA fits on none of its hardware")
    rows = [{"hardware": item.chip, "attention": layout, "level": item.level, "batch": request.focus_batch,
             "kv_len": request.focus_kv_len, "bandwidth_factor": float(factor),
             **{name: value for field, curve in item.speedup.items() for name, value in (
                 (field, float(curve[place])), *columns_of(field, _at(item.ranges[field], place)).items())}}
            for item in curves for place, factor in enumerate(_FACTORS)]
    return DrawnFigure(
        title=request.title or f"Where {layout_name(layout)} stops paying: faster memory at fixed flops",
        figure=_figure(context, curves, layout), rows=rows, finding=_finding(context, curves, layout),
        how_to_read="All memory levels of a chip made faster together; chips, flops, launches, latencies and links as "
                    "they are. Below the dotted line the layout buys less than 10 %. What stays above 1× is work of "
                    "the kernel that grouping also saves, such as tile padding."
                    + caption(request.hardware, "bars are the range of the speedup"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Lines of speedup over MHA against a bandwidth factor from 1 to 100. " + " ".join(
            f"{context.label(c.chip)}: step {times(c.speedup[_STEP][0])} to {times(c.speedup[_STEP][-1])}."
            for c in curves))


def _at(ends: Range | None, place: int) -> tuple[float, float] | None:
    """The range at one place of a curve."""
    return None if ends is None else (float(ends[0][place]), float(ends[1][place]))


def _figure(context: FigureContext, curves: list[_Curve], layout: str) -> Any:
    figure = new_figure(4.1)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, field, title in zip(panels, (_ATTENTION, _STEP),
                                  (f"{layout_name(layout)}, attention alone", f"{layout_name(layout)}, whole step"),
                                  strict=True):
        for number, item in enumerate(curves):
            style = context.styles[item.chip]
            axes.plot(_FACTORS, item.speedup[field], style.line, color=style.colour)
            # Each chip's marks and bars at places of its own, so that they stand beside each other.
            for place in range(1 + number * _BETWEEN_MARKS // len(curves), len(_FACTORS) - 1, _BETWEEN_MARKS):
                axes.plot(_FACTORS[place], item.speedup[field][place], style.marker, zorder=4,
                          **style.mark(3.6))
                draw_range(axes, _FACTORS[place], _at(item.ranges[field], place), style.colour)
        log_ticks(axes, "x", [1, 2, 5, 10, 20, 50, 100], ["1×", "2×", "5×", "10×", "20×", "50×", "100×"])
        highest = max(2.0, *(float(np.max(one)) for item in curves for one in (
            item.speedup[field], *(item.ranges[field] or ()))))
        ticks = [value for value in (1, 1.5, 2, 3, 4, 6, 8, 16, 32, 64) if value <= highest * 1.02]
        log_ticks(axes, "y", ticks, [f"{value:g}×" for value in ticks])
        axes.set_xlim(1, 100)
        axes.set_ylim(0.93, highest * 1.12)
        axes.set_title(title)
        axes.set_ylabel("speedup over MHA")
    panels[1].axhline(_PAYS, color=INK, linewidth=0.7, linestyle=":")
    note(panels[1], "10 %", (1.05, _PAYS), (0, 1), color=SOFT_INK, va="bottom")
    panels[1].set_xlabel("bandwidth of all its memory, against today's")
    for axes, field in zip(panels, (_ATTENTION, _STEP), strict=True):
        margin_labels(axes, [Label(x=100, y=float(item.speedup[field][-1]), colour=context.styles[item.chip].colour,
                                   text=f"{context.label(item.chip)} · {item.level}") for item in curves])
    return figure


def _finding(context: FigureContext, curves: list[_Curve], layout: str) -> str:
    ends = {item.chip: item.stops_at_factor for item in curves}
    now = [context.label(name) for name, factor in ends.items() if factor == 1.0]
    later = sorted((item.stops_at_factor, context.label(item.chip), SHARES[item.ended_by]) for item in curves
                   if item.stops_at_factor and item.ended_by)
    never = [item for item in curves if ends[item.chip] is None]
    parts = []
    if now:
        parts.append(f"it buys less than 10 % today on {', '.join(now)}")
    if later:
        parts.append("it would stop at " + ", ".join(
            f"{times(factor)} ({name}, by {cause})" for factor, name, cause in later))
    if never:
        parts.append("it still pays at 100× on " + ", ".join(
            f"{context.label(c.chip)} ({times(float(c.speedup[_STEP][0]))} today, "
            f"{times(float(c.speedup[_STEP][-1]))} then)" for c in never))
    return f"With all memory made faster at fixed flops, {layout_name(layout)} in the whole step: {'; '.join(parts)}."
