r"""The law of grouping: what fewer KV heads buy against the ridge of the memory that holds the cache.

.. math:: S(g) = \frac{\max(1,\; R/I_1)}{\max(1,\; R/(g I_1))} \le \frac{R\, b_{kv}}{2q}, \qquad I_1 = 2q/b_{kv}

``R`` is the ridge (achievable arithmetic over achievable bandwidth), ``g`` the query heads that share a KV head. Full
below ``R = I_1`` nothing is gained, above ``R = g I_1`` all of it. Above: the attention kernel alone on one chip, in
every level that may hold the cache; beside it what silicon measured at equal query heads, and a second engine where
the request names one. Below: the whole decode step at the study's point, on the machine it needs. Of a chip made of
tiles a second engine that replays them draws the marks, and the request's own stands faint beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from simkit.evidence.silicon.head_ladders import MeasuredAdvantage, nearest_advantages
from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import parse_format
from simkit.report.drawing import study_points as ask
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, place_labels, spread
from simkit.report.drawing.ranges import BOUNDS, bounds_of, caption, columns_of, draw_range
from simkit.report.drawing.style import layout_name, times, tokens
from simkit.step.build import build_step
from simkit.step.operators import DecodeStep
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload
from simkit.study.engines import CLOSED_FORM, engine_named
from simkit.study.ranges import Timer, timed_together
from simkit.study.study_file import FigureRequest

_APART: Final = 1.16  # between marks of one axis, so that nearly equal ridges stand side by side
_OTHERS: Final = ("+", "2", "1", "3")  # marks of layouts beside the first
_OTHER_SIGNS: Final = ("+", "⅄", "Y", "≺")
_FAINT: Final = 0.4
_BELOW_ONE: Final = (0.0625, 0.125, 0.25, 0.5)
_RIDGES: Final = np.geomspace(0.25, 16384, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    chip: str
    engine: str
    beside: str | None
    level: str
    overflow: bool
    layout: str
    group_size: int
    ridge_flop_per_byte: float
    attention_speedup: float
    beside_speedup: float | None
    step_speedup: float | None
    beside_step_speedup: float | None
    attention_range: tuple[float, float] | None
    step_bounds: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A measured kernel's advantage at the ridge of the memory that its cache was in."""

    layout: str
    level: str
    ridge_flop_per_byte: float
    found: MeasuredAdvantage


def law_speedup(ridge_flop_per_byte: Any, group_size: int, mha_intensity_flop_per_byte: float) -> Any:
    """The law itself: attention speedup over MHA on a machine with only a compute roof and one bandwidth.

    >>> [float(law_speedup(ridge, 8, 1.0)) for ridge in (0.5, 4.0, 300.0)]
    [1.0, 4.0, 8.0]
    """
    headroom = np.asarray(ridge_flop_per_byte) / mha_intensity_flop_per_byte
    return np.maximum(1.0, headroom) / np.maximum(1.0, headroom / group_size)


def draw(context: FigureContext) -> DrawnFigure:
    """Chips on the curve of the law, attention alone above and the whole step below."""
    request = context.request
    layouts = [name for name in request.layouts if name != "mha"]
    done, omissions = ask.for_each_chip(request.hardware, lambda chip: _points(request, chip, layouts))
    points = [point for found in done.values() for point in found]
    measured = _measured(request, layouts)
    stepped = {point.chip for point in points if point.step_speedup is not None}
    omissions += [ask.Omission(chip=chip, reason="not in the lower panel: " + ask.no_room(request))
                  for chip in done if chip not in stepped]
    rows = [{"hardware": p.chip, "level": p.level, "attention": p.layout, "group_size": p.group_size,
             "batch": request.focus_batch, "kv_len": request.focus_kv_len, "from": p.engine,
             "ridge_flop_per_byte": p.ridge_flop_per_byte, "kernel_speedup_vs_mha": p.attention_speedup,
             "law_speedup_vs_mha": float(law_speedup(p.ridge_flop_per_byte, p.group_size, _mha_intensity(request))),
             "speedup_vs_mha": p.step_speedup,
             **columns_of("kernel_speedup_vs_mha", p.attention_range),
             **columns_of("speedup_vs_mha", p.step_bounds, BOUNDS),
             **({"beside": p.beside, "beside_kernel_speedup_vs_mha": p.beside_speedup} if request.beside else {})}
            for p in points]
    rows += [{"hardware": m.found.hardware, "level": "", "attention": m.layout,
              "group_size": request.model.n_q_heads // m.found.n_kv_heads, "batch": m.found.batch,
              "kv_len": m.found.kv_len, "from": "measured", "ridge_flop_per_byte": m.ridge_flop_per_byte,
              "kernel_speedup_vs_mha": m.found.measured_speedup,
              "predicted_kernel_speedup_vs_mha": m.found.predicted_speedup} for m in measured]
    return DrawnFigure(
        title=request.title or "The law of grouping: GQA's advantage against machine balance",
        figure=_figure(context, points, measured, layouts), rows=rows,
        finding=_finding(context, points, layouts) + _finding_of_measured(context, measured, layouts),
        how_to_read="Lines, the law: with ridge R [flop/byte] and b bytes a cached number, the speedup is R·b/2, at "
                    "least 1 and at most the reduction in bytes (dotted). "
                    f"Chips' own marks: {layout_name(layouts[0])}"
                    + "".join(f"; {sign}: {layout_name(name)}" for sign, name in zip(
                        _OTHER_SIGNS, layouts[1:], strict=False))
                    + ". Above, attention alone, in every memory level that may hold the cache; below, the whole step "
                    "at the study's point, cache in the level named. Marks of nearly equal ridges stand side by side; "
                    "the data has the ridges." + _words_for_marks(request, measured)
                    + caption(request.hardware, "above, upright lines are the range of their speedup",
                              bounds=f"Upright lines below, {layout_name(layouts[0])}"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Two log-log plots of speedup over MHA against the ridge point of the memory that holds the cache. "
            + "; ".join(f"{context.label(p.chip)} {p.level}: {p.attention_speedup:.2g} times in attention"
                        for p in points if p.layout == layouts[0]) + ".")


def _measured(request: FigureRequest, layouts: list[str]) -> list[_Measured]:
    """Measured kernels of the request's chips whose size is nearest to the study's point, a layout each."""
    heads = {name: parse_layout(name, request.model).n_kv_heads for name in layouts
             if parse_layout(name, request.model).keeps_keys_and_values}
    found = []
    for chip in request.hardware:
        if chip.main_memory.achievable_bytes_per_s is None or not heads:
            continue
        ridge = chip.ridge_point_flop_per_byte()
        advantages = nearest_advantages(chip, request.model, list(heads.values()), kv_dtype=request.kv_dtype,
                                        tokens=float(request.focus_batch * request.focus_kv_len))
        found += [_Measured(layout=name, level=chip.main_memory.name, ridge_flop_per_byte=ridge, found=advantage)
                  for advantage in advantages for name, count in heads.items() if count == advantage.n_kv_heads]
    return found


def _words_for_marks(request: FigureRequest, measured: list[_Measured]) -> str:
    words = f" Crosses: the {request.beside} engine, the same kernels." if request.beside else ""
    if request.beside and any(ask.asked_of(request, chip) is not request for chip in request.hardware):
        words += f" Chips made of tiles: marks are of the {request.beside} engine, faint ones of {request.engine}."
    if measured:
        sizes = sorted({(m.found.batch, m.found.kv_len) for m in measured})
        words += (f" Bars: measured kernels with {request.model.n_q_heads} query heads of {request.model.head_dim} "
                  "elements, of the sizes measured the nearest to the study's cached tokens ("
                  + ", ".join(f"{batch} × {kv_len}" for batch, kv_len in sizes)
                  + "), timed in a loop with a warm cache (NVIDIA AIConfigurator, ai-dynamo/aiconfigurator@095f58a).")
    return words


def _mha_intensity(request: FigureRequest) -> float:
    return 2.0 / parse_format(request.kv_dtype).bytes_per_element


def _points(request: FigureRequest, chip: HardwareProfile, layouts: list[str]) -> list[_Point]:
    points = []
    asked = ask.asked_of(request, chip)
    for layout in layouts:
        step = ask.evaluate(asked, chip, layout)
        home = ask.cache_home(step)
        for level in chip.homes("kv"):
            if level.achievable_bytes_per_s is None:
                continue
            speedup = _kernel_speedup(request, chip, level.name, layout, asked.engine)
            known = level.name == home and ask.fits(step) and np.isfinite(ask.scalar(step, "speedup_vs_mha"))
            points.append(_Point(
                chip=chip.name, engine=asked.engine, beside=asked.beside, level=level.name,
                overflow=level.overflow, layout=layout,
                group_size=request.model.n_q_heads // parse_layout(layout, request.model).n_kv_heads,
                ridge_flop_per_byte=chip.ridge_point_flop_per_byte(level.name),
                attention_speedup=speedup,
                beside_speedup=_beside_speedup(asked, chip, level.name, layout),
                step_speedup=ask.scalar(step, "speedup_vs_mha") if known else None,
                beside_step_speedup=ask.scalar(ask.evaluate(request, chip, layout), "speedup_vs_mha")
                if known and asked.engine != request.engine else None,
                attention_range=_kernel_range(asked, chip, level.name, layout, speedup),
                step_bounds=bounds_of(step, "speedup_vs_mha") if known else None))
    return points


def _beside_speedup(request: FigureRequest, chip: HardwareProfile, level: str, layout: str) -> float | None:
    """What the second engine says of the same kernel; None without one, or where it cannot replay the chip."""
    if request.beside is None:
        return None
    try:
        return _kernel_speedup(request, chip, level, layout, request.beside)
    except UserError:
        return None


def _kernel_speedup(request: FigureRequest, chip: HardwareProfile, level: str, layout: str, engine: str) -> float:
    """Over MHA, of the attention kernels of a step on one chip that holds all heads, the cache wholly in ``level``."""
    mha_s, ours_s = (float(np.ravel(engine_named(engine).evaluate(
        *_kernels(request, level, name), chip).attention_time_s)[0]) for name in ("mha", layout))
    return mha_s / ours_s


def _kernel_range(request: FigureRequest, chip: HardwareProfile, level: str, layout: str,
                  speedup: float) -> tuple[float, float] | None:
    """The range of the kernels' speed-up by what is assumed of the chip."""
    if not chip.has_range:
        return None
    engine = engine_named(request.engine)
    engine = engine if engine.broadcasts(chip) else CLOSED_FORM
    mha, ours = timed_together(chip, [
        Timer(shape=(), evaluate=partial(engine.evaluate, *_kernels(request, level, name)))
        for name in ("mha", layout)])
    ratios = np.append(np.ravel(mha.over(ours).attention_time_s), 1.0)
    return speedup * float(ratios.min()), speedup * float(ratios.max())


def _kernels(request: FigureRequest, level: str, layout: str) -> tuple[DecodeStep, Placement]:
    chosen = parse_layout(layout, request.model)
    workload = DecodeWorkload(
        model=request.model, layout=chosen, n_kv_heads=chosen.n_kv_heads, batch=float(request.focus_batch),
        kv_len=float(request.focus_kv_len), q_len=1.0, kv_format=parse_format(request.kv_dtype),
        weight_format=parse_format(request.weight_dtype))
    placement = Placement(weights={level: 1.0}, kv={level: 1.0}, fits=True, max_batch=1.0)
    whole = build_step(workload)
    return replace(whole, layer_operators=whole.attention_operators, end_operators=(), collectives=()), placement


def _figure(context: FigureContext, points: list[_Point], measured: list[_Measured], layouts: list[str]) -> Any:
    figure = style.new_figure(5.6)
    above, below = figure.subplots(2, 1, height_ratios=(1.15, 1.0))
    first = _mha_intensity(context.request)
    groups = {p.layout: p.group_size for p in points}
    top = max(groups.values())
    for layout in layouts:
        above.plot(_RIDGES, law_speedup(_RIDGES, groups[layout], first), color=style.SOFT_INK, linewidth=0.9, zorder=1)
    steps = [(p, p.step_speedup, p.step_bounds) for p in points if p.step_speedup is not None]
    for axes, ridges in ((above, (0.5, 16384.0)), (below, [p.ridge_flop_per_byte for p, _, _ in steps] or [1.0])):
        ends = min(ridges) / (1.0 if axes is above else 2.5), max(ridges) * (1.0 if axes is above else 2.5)
        ticks = style.round_ticks(*ends) if ends[1] < 3000 * ends[0] else [4.0**power for power in range(8)]
        style.log_ticks(axes, "x", ticks, [tokens(tick) for tick in ticks])
        axes.set_xlim(*ends)
    highest_above = max([top, *(m.found.measured_speedup for m in measured)])
    lowest_above = _lowest([(p.attention_speedup, p.attention_range) for p in points])
    ticks = [value for value in (*_BELOW_ONE, 1, 2, 4, 8, 16, 32, 64, 128, 256)
             if lowest_above <= value <= highest_above * 1.01]
    style.log_ticks(above, "y", ticks, [f"{value:g}×" for value in ticks])
    above.set_ylim(lowest_above, highest_above * 2.0)
    _scatter(context, above, [(p, p.attention_speedup, p.attention_range) for p in points], layouts,
             measured)
    for layout in layouts:
        style.note(above, f"{layout_name(layout)}: {groups[layout]:g}×", (0.55, groups[layout]), (0, 1.5),
                   color=style.SOFT_INK, va="bottom")
        above.plot([0.5, groups[layout] * first], [groups[layout]] * 2, color=style.SOFT_INK, linewidth=0.4,
                   linestyle=":")
    key = [f"● {layout_name(layouts[0])}",
           *(f"{sign} {layout_name(name)}" for sign, name in zip(_OTHER_SIGNS, layouts[1:], strict=False)),
           *(["▬ measured"] if measured else []),
           *([f"× {context.request.beside}"] if context.request.beside else []),
           *([f"faint: {context.request.engine}"] if any(p.beside == context.request.engine for p in points) else [])]
    style.note(above, "   ".join(key), (0.012, 0.985), (0, 0), xycoords="axes fraction", va="top")
    above.set_title("Attention alone, one chip")
    above.set_ylabel("speedup over MHA")
    highest = max((max(s, (ends or (s, s))[1]) for _, s, ends in steps), default=2.0)
    lowest = max(_lowest([(s, ends) for _, s, ends in steps]), 0.25)
    low_ticks = [v for v in (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if lowest <= v <= highest * 1.3]
    style.log_ticks(below, "y", low_ticks, [f"{v:g}×" for v in low_ticks])
    below.set_ylim(lowest, highest * 1.35)
    _scatter(context, below, [(p, s, ends if p.layout == layouts[0] else None) for p, s, ends in steps], layouts)
    below.set_title(f"Whole step, batch {context.request.focus_batch} × {context.request.focus_kv_len} tokens")
    below.set_ylabel("speedup over MHA")
    below.set_xlabel("ridge of the memory that holds the cache [flop/byte]")
    return figure


def _lowest(ranged: Sequence[tuple[float, tuple[float, float] | None]]) -> float:
    """Where an axis begins that shows all of these speed-ups, those below 1 too."""
    return 0.85 * min((min(speedup, (ends or (speedup,))[0]) for speedup, ends in ranged), default=1.0)


def _scatter(context: FigureContext, axes: Axes, ranged: list[tuple[_Point, float, tuple[float, float] | None]],
             layouts: list[str], measured: Sequence[_Measured] = ()) -> None:
    """Marks of chips with their ranges, layouts of one chip joined; on the kernel's axes another engine's and measured
    ones too.
    """
    at = _side_by_side([(p.chip, p.level, p.ridge_flop_per_byte) for p, _, _ in ranged])
    labels: list[Label] = []
    curves: list[tuple[Any, Any]] = []
    # Layouts' names stand at the left, above their lines.
    taken = [(x, 1.15 * point.group_size) for point, _, _ in ranged for x in (0.6, 0.8, 1.1, 1.5, 2.1)]
    for point, speedup, ends in ranged:
        look, x, order = context.styles[point.chip], at[point.chip, point.level], layouts.index(point.layout)
        if order == 0:
            axes.plot(x, speedup, look.marker, zorder=5, **look.mark(4.4))
            name = f"{context.label(point.chip)} · {point.level}"
            labels.append(Label(x=x, y=speedup, text=name, colour=look.colour))
        else:
            axes.plot(x, speedup, _OTHERS[order - 1], color=look.colour, markersize=6.0, markeredgewidth=0.9, zorder=4)
        taken.append((x, speedup))
        draw_range(axes, x, ends, look.colour)
        beside = point.beside_speedup if axes.get_xlim()[0] == 0.5 else point.beside_step_speedup
        if beside is not None and point.beside != context.request.beside:  # the request's own engine, of tiles
            axes.plot(x, beside, look.marker, color=look.colour, alpha=_FAINT, zorder=3, markersize=5.2,
                      markerfacecolor="none", markeredgewidth=0.7)
        elif beside is not None:
            axes.plot(x, beside, "x", color=style.INK, markersize=2.6, markeredgewidth=0.6, zorder=7)
    for mark in measured:
        x, colour = at[mark.found.hardware, mark.level], context.styles[mark.found.hardware].colour
        axes.plot(x, mark.found.measured_speedup, "_", markersize=9, markeredgewidth=1.6, color=colour, zorder=6)
        taken.append((x, mark.found.measured_speedup))
    for chip, level in at:
        reached = [speedup for point, speedup, _ in ranged if (point.chip, point.level) == (chip, level)]
        curves.append(([at[chip, level]] * 2, [min(reached), max(reached)]))
        axes.plot(*curves[-1], color=context.styles[chip].colour, linewidth=0.4, zorder=2)
    curves += [(_RIDGES[::8], law_speedup(_RIDGES[::8], size, _mha_intensity(context.request)))
               for size in sorted({point.group_size for point, _, _ in ranged})]
    place_labels(axes, labels, avoid=curves, markers=taken)


def _side_by_side(places: Sequence[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    """Where each chip's level stands: at its ridge, or a little beside it where others do."""
    ridges = {(chip, level): ridge for chip, level, ridge in places}
    logs = spread(list(np.log(list(ridges.values()))), np.log(_APART), np.log(_RIDGES[0]), np.log(_RIDGES[-1]))
    return dict(zip(ridges, np.exp(logs).tolist(), strict=True))


def _finding_of_measured(context: FigureContext, measured: list[_Measured], layouts: list[str]) -> str:
    shown = [m for m in measured if m.layout == layouts[0]]
    if not shown:
        return ""
    return (f" Measured kernels of {layout_name(layouts[0])} gain " + ", ".join(
        f"{times(m.found.measured_speedup)} on {context.label(m.found.hardware)} (predicted at that size: "
        f"{times(m.found.predicted_speedup)})" for m in shown) + ".")


def _finding(context: FigureContext, points: list[_Point], layouts: list[str]) -> str:
    ours = [p for p in points if p.layout == layouts[0]]
    # Of places by falling ridge, those before the first that keeps less.
    ours.sort(key=lambda p: -p.ridge_flop_per_byte)
    kept = [p.attention_speedup >= 0.8 * p.group_size for p in ours]
    full = ours[:kept.index(False) if False in kept else None]
    short = sorted((p for p in ours if p.attention_speedup < 0.5 * p.group_size), key=lambda p: p.attention_speedup)
    name, group = layout_name(layouts[0]), ours[0].group_size
    text = f"Attention alone keeps at least 80 % of {name}'s {group:g}× in {sum(kept)} of {len(ours)} places"
    if full:
        text += f", and in all with a ridge of {full[-1].ridge_flop_per_byte:,.0f} flop/byte or more"
    text += "."
    if short:
        text += " It keeps less than half on " + ", ".join(
            f"{context.label(p.chip)} in {p.level} (ridge {p.ridge_flop_per_byte:.2g}: {times(p.attention_speedup)})"
            for p in short) + "."
    slower = [context.label(p.chip) for p in short if p.attention_speedup < 1.0]
    if slower:
        text += (f" On {' and '.join(slower)} sharing a head costs time: its queries and outputs travel over the tiles "
                 "of a wider group.")
    steps = sorted((p for p in ours if p.step_speedup is not None), key=lambda p: p.step_speedup or 0.0)
    if steps:
        low, high = steps[0], steps[-1]
        text += (f" The whole step gains between {times(low.step_speedup or 0.0)} ({context.label(low.chip)}, "
                 f"{low.level}) and {times(high.step_speedup or 0.0)} ({context.label(high.chip)}, {high.level}).")
    return text
