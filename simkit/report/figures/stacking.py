"""Cache reducers turned on one after another: what they save of a token's bytes, attention's time and the step's.

Bytes multiply. Time multiplies only until attention meets the ridge of the memory that holds the cache, and the step
follows as far as the cache is what it waits for.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import spread
from simkit.report.drawing.ranges import ENDS, caption, columns_of, draw_range
from simkit.report.drawing.study_points import NoRoomError, for_each_chip, inputs_text, no_room, require_some
from simkit.report.drawing.style import layout_name, times
from simkit.study.stacking import stack

_SERIES: Final = (("cache_saved", "bytes", ":"), ("attention_speedup", "attention", "--"),
                  ("step_speedup", "step", "-"))
_RANGED: Final = ("attention_speedup", "step_speedup")  # bytes are known


_Columns = dict[str, Any]  # a value a rung


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip: cumulative factors over the first rung."""
    request = context.request
    rungs = list(request.reducers)

    def ladder(chip: HardwareProfile) -> _Columns:
        columns = stack(chip, request.model, rungs, batch=float(request.focus_batch),
                        kv_len=float(request.focus_kv_len), chips=request.chips, engine=request.engine)
        if not np.all(columns["fits"]):
            raise NoRoomError(no_room(request, "a rung"))
        return columns

    done, omissions = for_each_chip(request.hardware, ladder)
    require_some(done, request, "it fits on none of its hardware")
    rows = [{"hardware": name, "rung": rung, "attention": str(found["attention"][place]),
             "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": float(found["chips"][place]),
             **{field: float(found[field][place]) for field, _, _ in _SERIES},
             **{name: end for field in _RANGED for name, end in columns_of(field, _range(found, field, place)).items()},
             "headroom": float(found["headroom"][place]),
             "step_time_s": float(found["step_time_s"][place])}
            for name, found in done.items() for place, rung in enumerate(rungs)]
    return DrawnFigure(
        title=request.title or "Do the reductions multiply? Stacking what shrinks the cache",
        figure=_figure(context, done, rungs), rows=rows, finding=_finding(context, done, rungs),
        how_to_read="Cumulative factors of a token over the first rung, all rungs on the same chips. Dotted: bytes of "
                    "cache read; dashed: attention's speed; bold: the whole step's." + (
            " Below 1×: de-quantising is vector work, and takes longer than the bytes that it saves."
            if any(np.min(found[field]) < 1 for found in done.values() for field, _, _ in _SERIES) else "")
        + caption(request.hardware, "bars are the range of a factor"),
        inputs=inputs_text(request), omissions=omissions,
        alt="Lines over rungs " + ", ".join(map(_rung, rungs)) + ". " + " ".join(
            f"{context.label(name)} ends at " + ", ".join(
                f"{word} {times(float(found[field][-1]))}" for field, word, _ in _SERIES) + "."
            for name, found in done.items()))


def _range(found: _Columns, field: str, place: int) -> tuple[float, float] | None:
    low, high = (float(found[f"{field}_{end}"][place]) for end in ENDS)
    return None if np.isnan(low) else (low, high)


def _rung(text: str) -> str:
    """A reducer as an axis writes it: MHA, GQA-8, fp8, int4, streaming, draft, medusa.

    >>> _rung("gqa-8"), _rung("evict=streaming:4+1020"), _rung("speculate=medusa=4;acceptance=0.6")
    ('GQA-8', 'streaming', 'medusa')
    """
    key, equals, value = text.partition("=")
    return re.split("[:=;]", value)[0] if equals else layout_name(key)


def _figure(context: FigureContext, done: dict[str, _Columns], rungs: list[str]) -> Any:
    figure = style.new_figure(2.6)
    panels = np.atleast_1d(figure.subplots(1, len(done), sharey=True))
    shown = [np.ravel([found[name] for field, _, _ in _SERIES for name in (field, *(
        f"{field}_{end}" for end in ENDS if field in _RANGED))]) for found in done.values()]
    highest, lowest = max(float(np.nanmax(one)) for one in shown), min(1.0, *(float(np.nanmin(one)) for one in shown))
    for axes, (name, found) in zip(panels, done.items(), strict=True):
        ends, look = [], context.styles[name]
        for field, word, line in _SERIES:
            values = found[field]
            axes.plot(range(len(rungs)), values, line, marker="o", **look.mark(2.8),
                      linewidth=1.8 if field == "step_speedup" else 1.0)
            for place in range(len(rungs)) if field in _RANGED else ():
                draw_range(axes, place, _range(found, field, place), look.colour)
            ends.append((float(values[-1]), word))
        style.ratio_ticks(axes, "y", lowest, highest * 1.05)
        axes.set_ylim(lowest * 0.85, highest * 1.35)
        # Names of curves that end together stand apart, each with a thread to its own.
        placed = spread([float(np.log(value)) for value, _ in ends], np.log(highest / lowest * 1.6) * 0.08,
                        float(np.log(lowest)), float(np.log(highest * 1.3)))
        last = len(rungs) - 1
        for (value, word), height in zip(ends, placed, strict=True):
            axes.plot([last, last + 0.55], [value, np.exp(height)], color=style.SOFT_INK, linewidth=0.4)
            style.note(axes, word, (last + 0.55, float(np.exp(height))), (1, 0), va="center",
                       fontsize=style.SMALL_POINTS - 0.5, color=style.SOFT_INK, annotation_clip=False)
        axes.set_xlim(-0.3, len(rungs) + 1.4 + 0.25 * len(done))
        axes.set_xticks(range(len(rungs)), [_rung(rung) for rung in rungs], rotation=60, ha="right",
                        rotation_mode="anchor", fontsize=style.SMALL_POINTS)
        axes.set_title(look.marked_label)
    panels[0].set_ylabel("over the first rung")
    return figure


def _finding(context: FigureContext, done: dict[str, _Columns], rungs: list[str]) -> str:
    sentences = []
    for name, columns in done.items():
        idle = [_rung(rung) for rung, before, after in zip(
            rungs[1:], columns["step_speedup"], columns["step_speedup"][1:], strict=False) if after < 1.02 * before]
        sentences.append(
            f"On {context.label(name)} with {times(float(columns['cache_saved'][-1]))} fewer bytes attention runs "
            f"{times(float(columns['attention_speedup'][-1]))} and the step "
            f"{times(float(columns['step_speedup'][-1]))} as fast"
            + (f"; the step gains less than 2 % from {', '.join(idle)}." if idle else "."))
    return " ".join(sentences)
