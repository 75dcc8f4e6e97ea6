"""Attention's replayed time over its highest roof, context by context, as a stack of what the kernel waits for.

A stack that ends at 1 is a kernel at its roof; what stands above is what the closed form leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.replay.engine import replay_point
from simkit.report.drawing import study_points as ask
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import caption
from simkit.report.drawing.stacked_bars import STALLS
from simkit.report.drawing.style import layout_name, tokens
from simkit.study.engines import refuse_tiles
from simkit.study.evaluate import Evaluated
from simkit.timing.roofs import compute_time_s, memory_times, special_function_time_s
from simkit.timing.step_timing import COMPUTE, SPECIAL_FUNCTION

_HOME: Final = "home"
_NEARER: Final = "nearer"
# What the stack is made of, from the bottom: its name for readers, and its fill.
_PARTS: Final = {
    _HOME: ("memory of the cache", "cache"), _NEARER: ("nearer levels", "other"), **STALLS}
_AT_ITS_ROOF: Final = 1.1  # nothing to explain below
_MOST_SHOWN: Final = 4.0  # times the roof; higher stacks are cut and their height is written on them


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    layout: str
    kv_len: float
    roof_s: float
    replay_s: float
    parts_s: dict[str, float]
    level: str

    @property
    def ratio(self) -> float:
        return self.replay_s / self.roof_s


def draw(context: FigureContext) -> DrawnFigure:
    """One row a chip, one column for each of the first and last layout, one stack a context."""
    request = context.request
    layouts = list(dict.fromkeys((request.layouts[0], request.layouts[-1])))

    def stacks(chip: HardwareProfile) -> list[_Stack]:
        refuse_tiles(chip)
        return [stack for layout in layouts for stack in _stacks(
            ask.evaluate(request, chip, layout, kv_len=np.array(request.kv_len, dtype=float)), layout, request.kv_len)]

    done, omissions = ask.for_each_chip(request.hardware, stacks)
    omissions += [ask.Omission(chip=name, reason=ask.no_room(request, f"{layout_name(layout)} of {lengths} tokens"))
                  for name, found in done.items() for layout in layouts
                  if (lengths := _too_long(found, layout, request.kv_len))]
    done = {name: found for name, found in done.items() if found}
    ask.require_some(done, request, "it fits on none of its hardware")
    rows = [{"hardware": name, "attention": stack.layout, "batch": request.focus_batch, "kv_len": stack.kv_len,
             "level": stack.level, "roof_s": stack.roof_s, "replay_s": stack.replay_s,
             **{f"{part}_s": stack.parts_s.get(part, 0.0) for part in _PARTS}}
            for name, found in done.items() for stack in found]
    return DrawnFigure(
        title=request.title or "Replay beside roofline: where they differ, and why",
        figure=_figure(context, done, layouts), rows=rows, finding=_finding(context, done),
        how_to_read="One layer's attention on one chip: replayed time over the highest roof (the line at 1), split by "
                    "what the kernel's slots wait for. Cut stacks carry their height."
                    + caption(request.hardware, "no range is drawn, for replay and roof move together with them"),
        inputs=ask.inputs_text(request, point=False).replace(f"engine: {request.engine}", "engine: replay")
        + f" Batch {request.focus_batch}.", omissions=omissions,
        alt="Stacked bars over context. " + " ".join(
            f"{context.label(name)} {layout_name(stack.layout)} at {tokens(stack.kv_len)}: {stack.ratio:.2f} times."
            for name, found in done.items() for stack in found))


def _too_long(found: list[_Stack], layout: str, kv_lens: tuple[int, ...]) -> str:
    """The contexts of a layout that do not fit, in words."""
    fitting = {stack.kv_len for stack in found if stack.layout == layout}
    return ", ".join(tokens(kv_len) for kv_len in kv_lens if kv_len not in fitting)


def _stacks(point: Evaluated, layout: str, kv_lens: tuple[int, ...]) -> list[_Stack]:
    """One stack a context, of the first kind of layer."""
    operator, hardware = point.step.attention_operators[0], point.hardware
    shape = np.shape(point.step.workload.kv_len)
    level_s, _ = memory_times(operator, point.placement, hardware)
    roof: Any = np.zeros(shape)
    arithmetic_s = compute_time_s(operator, hardware, point.placement), special_function_time_s(operator, hardware)
    for time in (*arithmetic_s, *level_s.values()):
        roof = np.maximum(roof, time)
    found = []
    for index, kv_len in enumerate(kv_lens):
        if not np.broadcast_to(point.fits, shape).flat[index]:
            continue
        one = replay_point(operator, point.placement, hardware, index, shape)
        shares = {name: float(np.broadcast_to(share, shape).flat[index]) for name, share in point.placement.kv.items()}
        home = max(shares, key=lambda name, shares=shares: shares[name])  # type: ignore[misc]
        parts: dict[str, float] = {}
        for name, time in one.stall_s.items():
            part = name if name in _PARTS else _HOME if name == home else _NEARER
            parts[part] = parts.get(part, 0.0) + time
        found.append(_Stack(layout=layout, kv_len=float(kv_len), roof_s=float(roof.flat[index]), replay_s=one.total_s,
                            parts_s=parts, level=home))
    return found


def _figure(context: FigureContext, done: dict[str, list[_Stack]], layouts: list[str]) -> Any:
    figure = style.new_figure(0.55 + 0.78 * len(done))
    panels = np.atleast_2d(figure.subplots(len(done), len(layouts), sharex=True, sharey=True, squeeze=False))
    top = min(max(stack.ratio for found in done.values() for stack in found), _MOST_SHOWN)
    for row, (name, found) in enumerate(done.items()):
        for axes, layout in zip(panels[row], layouts, strict=True):
            mine = [stack for stack in found if stack.layout == layout]
            for place, stack in enumerate(mine):
                _bar(axes, place, stack)
            axes.axhline(1.0, color=style.INK, linewidth=0.8, zorder=4)
            # Every second context has room for its name.
            axes.set_xticks(range(0, len(mine), 2), [tokens(stack.kv_len) for stack in mine[::2]])
            axes.set_ylim(0, 1.12 * max(top, 1.2))
            axes.grid(visible=False, axis="x")
            axes.tick_params(axis="x", length=0)
            levels = ", then ".join(dict.fromkeys(stack.level for stack in mine))
            axes.set_title(f"{context.marked(name)} {layout_name(layout)}: {levels}", fontsize=style.SMALL_POINTS + 0.5)
    for axes in panels[-1]:
        axes.set_xlabel("cached tokens")
    figure.supylabel("replayed time over the roof", fontsize=style.SMALL_POINTS + 1)
    used = [part for part in _PARTS if any(stack.parts_s.get(part, 0.0) > 0.005 * stack.replay_s
                                           for found in done.values() for stack in found)]
    style.legend(figure, {_PARTS[part][0]: style.cause_colour(_PARTS[part][1]) for part in used}, 4)
    return figure


def _bar(axes: Any, place: int, stack: _Stack) -> None:
    bottom = 0.0
    for part, (_, colour) in _PARTS.items():
        height = stack.parts_s.get(part, 0.0) / stack.roof_s
        axes.bar(place, height, bottom=bottom, width=0.84, color=style.cause_colour(colour),
                 edgecolor=style.PAPER, linewidth=0.3)
        bottom += height
    if stack.ratio > _MOST_SHOWN:
        style.note(axes, f"{stack.ratio:.0f}×", (place, 1.0), (0, -1), xycoords=("data", "axes fraction"), ha="center",
             va="top", zorder=5)


def _finding(context: FigureContext, done: dict[str, list[_Stack]]) -> str:
    sentences = []
    for name, found in done.items():
        worst = max(found, key=lambda stack: stack.ratio)
        long = max((stack for stack in found if stack.layout == found[0].layout), key=lambda stack: stack.kv_len)
        if worst.ratio < _AT_ITS_ROOF:
            sentences.append(f"On {context.label(name)} attention stays within {worst.ratio - 1:.1%} of its roof.")
            continue
        above = {part: time for part, time in worst.parts_s.items() if part not in (_HOME, COMPUTE, SPECIAL_FUNCTION)}
        cause = max(above or worst.parts_s, key=lambda part, parts=worst.parts_s: parts[part])  # type: ignore[misc]
        sentences.append(
            f"On {context.label(name)} {layout_name(long.layout)} at {tokens(long.kv_len)} tokens takes "
            f"{long.ratio:.2f} times its roof; farthest from it is {layout_name(worst.layout)} at "
            f"{tokens(worst.kv_len)} with {worst.ratio:.1f} times, where {_PARTS[cause][0]} "
            f"{'take' if ',' in _PARTS[cause][0] else 'takes'} {worst.parts_s[cause] / worst.replay_s:.0%}.")
    return " ".join(sentences)
