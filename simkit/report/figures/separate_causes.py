r"""The causes that take a layout's advantage, each acting alone: chip by chip, the speedup if nothing else did.

With ``a`` the time of reading MHA's cache, ``g`` the reduction in cache bytes and :math:`t_0, t_1` what a cause adds to
the step of MHA and of the layout,

.. math:: S_{cause} = \frac{a + t_0}{a/g + t_1}, \qquad
          S_{ridge} = \frac{\max(a, c_0)}{\max(a/g, c_1)}, \qquad S_{replicas} = g\, r_0 / r_1

(``c``: the arithmetic of attention, ``r``: how often the cache is stored). Taken alone, so that no order of causes is
chosen; beside them the whole step, and how many more sequences the same machine holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import BOUNDS, bounds_of, caption, columns_of, range_words
from simkit.report.drawing.style import chips_words, layout_name, times
from simkit.roofline.engine import operator_times
from simkit.study.evaluate import Evaluated
from simkit.study.study_file import FigureRequest
from simkit.timing.roofs import OperatorTime
from simkit.timing.step_timing import COMPUTE, SPECIAL_FUNCTION

_ALONE: Final = ("ridge", "weights", "latency", "links", "replicas")
_HEADINGS: Final = {"ridge": "low\nridge", "weights": "weight\nreads", "latency": "fixed\nlatency",
                    "links": "links", "replicas": "KV\ncopies", "step": "whole\nstep", "users": "users\nthat fit"}
_PHRASES: Final = {"ridge": "a low ridge", "weights": "weights that share the bandwidth",
                   "latency": "a latency floor", "links": "the links between chips",
                   "replicas": "more chips than KV heads"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Causes:
    """One chip: speedups with each cause alone, of the whole step, and the gain in sequences that fit."""

    chip: str
    level: str
    chips: int
    reduction_factor: float
    speedup_of: dict[str, float]
    step_bounds: tuple[float, float] | None


def draw(context: FigureContext) -> DrawnFigure:
    """A table of chips and causes for the first layout of the request that is not MHA."""
    request = context.request
    layout = next(name for name in request.layouts if name != "mha")
    done, omissions = ask.for_each_chip(request.hardware, lambda chip: separate(request, chip, layout))
    found = sorted(done.values(), key=lambda item: -item.speedup_of["step"])
    ask.require_some(found, request, "MHA fits on none of its hardware")
    rows = [{"hardware": item.chip, "attention": layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": item.chips, "level": item.level, "bytes_reduction": item.reduction_factor,
             **{f"speedup_with_{cause}_alone": item.speedup_of[cause] for cause in _ALONE},
             "speedup_vs_mha": item.speedup_of["step"], **columns_of("speedup_vs_mha", item.step_bounds, BOUNDS),
             "own_batch_vs_mha": item.speedup_of["users"]} for item in found]
    return DrawnFigure(
        title=request.title or f"What takes {layout_name(layout)}'s advantage: each cause alone",
        figure=_figure(context, found), rows=rows, finding=_finding(context, found, layout),
        how_to_read="Each cell: the gain left if only this cause acted beside the reading of the cache; darker is "
                    "more. Whole step: all together. Users that fit: the largest batch over MHA's on the same chips. "
                    "Under each chip: how many serve the model, and where the cache lives."
                    + caption(request.hardware, bounds="Under the whole step"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Table of speedups. " + " ".join(
            f"{context.label(item.chip)}: " + ", ".join(f"{_HEADINGS[c].replace(chr(10), ' ')} {times(v)}"
                                                       for c, v in item.speedup_of.items()) + "." for item in found))


def separate(request: FigureRequest, chip: HardwareProfile, layout: str) -> Causes:
    """The causes of one chip at the focus point. Raises :class:`NoRoomError` where MHA does not fit."""
    base, ours = ask.evaluate(request, chip, "mha"), ask.evaluate(request, chip, layout)
    if not (ask.fits(base) and ask.fits(ours)):
        raise ask.NoRoomError(ask.no_room(request))
    reduction = ask.scalar(base, "kv_cache_bytes") / ask.scalar(ours, "kv_cache_bytes")
    read_s = _attention_s(base, _reading_s)
    arithmetic = [_attention_s(point, lambda timed: np.maximum(timed.compute_s, timed.special_s))
                  for point in (base, ours)]
    before, after = ask.split_time_s(base), ask.split_time_s(ours)
    # The weights' own arithmetic goes with their reads; attention's is the ridge's.
    before["weights"] += max(before["compute"] - _bound_by_arithmetic_s(base), 0.0)
    after["weights"] += max(after["compute"] - _bound_by_arithmetic_s(ours), 0.0)
    alone = {"ridge": max(read_s, arithmetic[0]) / max(read_s / reduction, arithmetic[1]),
             "replicas": reduction * ask.scalar(base, "kv_copies") / ask.scalar(ours, "kv_copies")}
    for cause in ("weights", "latency", "links"):
        alone[cause] = (read_s + before[cause]) / (read_s / reduction + after[cause])
    alone |= {"step": ask.scalar(ours, "speedup_vs_mha"),
              "users": ask.scalar(ours, "own_batch") / ask.scalar(base, "own_batch")}
    return Causes(chip=chip.name, level=ask.cache_home(ours), chips=int(ask.scalar(ours, "chips")),
                  reduction_factor=reduction, step_bounds=bounds_of(ours, "speedup_vs_mha"),
                  speedup_of={name: float(alone[name]) for name in (*_ALONE, "step", "users")})


def _attention_s(point: Evaluated, roof: Callable[[OperatorTime], Any]) -> float:
    """One roof of all attention operators of a single point, summed over the step."""
    return float(sum(operator.count * np.ravel(roof(operator_times(operator, point.placement, point.hardware)))[0]
                     for operator in point.step.operators if operator.attention is not None))


def _reading_s(timed: OperatorTime) -> Any:
    """The highest roof of the memory: of its levels, or of the load path that reads them."""
    return max(float(np.max(time)) for name, time in timed.roofs.items() if name not in (COMPUTE, SPECIAL_FUNCTION))


def _bound_by_arithmetic_s(point: Evaluated) -> float:
    times_s = point.timing.attention_cause_time_s
    return float(sum(np.ravel(np.asarray(times_s[name], dtype=float))[0] for name in (COMPUTE, SPECIAL_FUNCTION)))


def _figure(context: FigureContext, found: list[Causes]) -> Any:
    columns = (*_ALONE, "step", "users")
    figure = style.new_figure(0.5 + 0.26 * max(len(found), 2))
    axes = figure.add_subplot()
    whole = max(item.reduction_factor for item in found)
    # Pale to mid blue, so that dark text reads on every cell.
    shades = LinearSegmentedColormap.from_list("shades", ["#f3f6f9", "#bcd9ef", "#77aadd"])
    for row, item in enumerate(found):
        for column, name in enumerate(columns):
            value = item.speedup_of[name]
            strength = float(np.clip(np.log(max(value, 1.0)) / np.log(whole), 0.0, 1.0))
            x = column + (0.25 if name in ("step", "users") else 0.0)
            axes.barh(row, 0.94, left=x - 0.47, height=0.9, color=shades(strength), edgecolor=style.PAPER,
                      linewidth=0.0)
            words = range_words(item.step_bounds) if name == "step" else ""
            axes.text(x, row - (0.18 if words else 0.0), times(value), ha="center", va="center", color=style.FILL_INK,
                      fontsize=style.SMALL_POINTS, fontweight="bold" if name == "step" else "normal")
            if words:
                axes.text(x, row + 0.24, words, ha="center", va="center", fontsize=style.SMALL_POINTS - 1.0,
                          color=style.FILL_INK)
    axes.set_xlim(-0.5, len(columns) - 0.22)
    axes.set_ylim(len(found) - 0.5, -0.5)
    for column, name in enumerate(columns):
        x = column + (0.25 if name in ("step", "users") else 0.0)
        axes.text(x, -0.62, _HEADINGS[name], ha="center", va="bottom", fontsize=style.SMALL_POINTS, linespacing=0.95,
                  color=style.INK, fontweight="bold" if name == "step" else "normal")
    axes.set_yticks(np.arange(len(found)), [
        f"{context.marked(item.chip)}\n{chips_words(item.chips)}, {item.level}"
        for item in found], fontsize=style.SMALL_POINTS, linespacing=1.1)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axvline(len(_ALONE) - 0.375, color=style.SOFT_INK, linewidth=0.5)
    return figure


def _finding(context: FigureContext, found: list[Causes], layout: str) -> str:
    best, least = found[0], found[-1]
    text = (f"Of {layout_name(layout)}'s {best.reduction_factor:g}× the whole step keeps between "
            f"{times(least.speedup_of['step'])} ({context.label(least.chip)}) and {times(best.speedup_of['step'])} "
            f"({context.label(best.chip)}). What alone takes most: ")
    # Several causes may each suffice alone: all within half a per cent of the worst are named.
    least_of = {item.chip: min(item.speedup_of[cause] for cause in _ALONE) for item in found}
    parts = []
    for cause in _ALONE:
        names = [f"{context.label(item.chip)} ({times(item.speedup_of[cause])})" for item in found
                 if item.speedup_of[cause] <= 1.005 * least_of[item.chip]]
        if names:
            parts.append(f"{_PHRASES[cause]} on {', '.join(names)}")
    users = max(found, key=lambda item: item.speedup_of["users"])
    kept = [item for item in found if item.speedup_of["users"] >= 0.98 * item.reduction_factor]
    return (f"{text}{'; '.join(parts)}. In capacity the gap does not shrink on {len(kept)} of {len(found)} chips: up "
            f"to {times(users.speedup_of['users'])} as many sequences fit ({context.label(users.chip)}).")
