"""Panels of stacked bars, a panel a chip and a bar a layout: parts named inside them, slivers beside one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.labels import name_parts, width_of
from simkit.report.drawing.ranges import draw_range
from simkit.report.drawing.study_points import machines_text
from simkit.report.drawing.style import FILL_INK, INK, PAPER, SMALL_POINTS, layout_name, new_figure, note
from simkit.study.evaluate import Evaluated
from simkit.timing.step_timing import COMPUTE, LATENCY, LOAD_PATH, SPECIAL_FUNCTION

STALLS: Final = {
    COMPUTE: ("arithmetic", "compute"), SPECIAL_FUNCTION: ("exponentials", "replicas"),
    LOAD_PATH: ("load path", "load_path"), LATENCY: ("set-up, first loads", "latency"),
    "imbalance": ("idle tail", "weights"), "launch": ("launch", "links")}
"""What a replayed kernel's units wait for beside memory levels: its name for readers, and its fill."""
_FARTHEST: Final = 1.12  # of a bar: ranges that go on have an arrow there, and say their end
_UNDER: Final = 0.47  # of the way to the next bar: a range stands under its bar, whose parts have names in them
_LEAST_NAMED: Final = 0.01  # a sliver that can hardly be seen needs no name


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One layout's time and its parts in the order of the bar, and where the time may end."""

    layout: str
    time_s: float
    parts_s: dict[str, float]
    point: Evaluated
    range_s: tuple[float, float] | None


def stacked_bars(context: FigureContext, done: Mapping[str, Sequence[Bar]], look: Callable[[Bar, str], tuple[str, str]],
                 *, to_longest: bool, of: str, xlabel: str) -> Any:
    """The figure: a panel a chip of ``done``, named with its machines after ``of``.

    ``look``: name and fill of a bar's part. ``to_longest``: bars are shares of their panel's longest, whose narrow
    parts are named above the first; else of their own time, and the last one's are named below.
    """
    rows = max(len(bars) for bars in done.values())
    ranged = any(bar.range_s is not None for bars in done.values() for bar in bars)
    figure = new_figure(0.35 + len(done) * (0.38 + 0.18 * rows))
    for axes, (chip, bars) in zip(np.atleast_1d(figure.subplots(len(done), 1, sharex=True)), done.items(), strict=True):
        last = len(bars) - 1
        axes.set_xlim(0, 1.56 if ranged else 1.17)
        for row, bar in enumerate(bars):
            scale_s = max(one.time_s for one in bars) if to_longest else bar.time_s
            end, slivers = _draw_bar(axes, row, [(*look(bar, part), part_s / scale_s)
                                                 for part, part_s in bar.parts_s.items()])
            if to_longest and row == 0:
                name_parts(axes, slivers, edge=-0.4, text_at=-0.62)
            if not to_longest and row == last:
                name_parts(axes, slivers, edge=row + 0.4, text_at=row + 0.62)
            words, gap_points = format_quantity(bar.time_s, SECONDS), 3
            if bar.range_s is not None:
                words += f" (up to {format_quantity(bar.range_s[1], SECONDS)})"
                low, high = bar.range_s[0] / scale_s, bar.range_s[1] / scale_s
                draw_range(axes, row + _UNDER, (low, min(high, _FARTHEST)), INK, along="x", width_points=0.7,
                           cap_points=3.0, opacity_fraction=1.0)
                if high > _FARTHEST:
                    axes.plot(_FARTHEST, row + _UNDER, ">", color=INK, markersize=3.0)
                    gap_points = 6
                end = max(end, min(high, _FARTHEST))
            note(axes, words, (end, row), (gap_points, 0), va="center", annotation_clip=False)
        axes.set_yticks(range(last + 1), [layout_name(bar.layout) for bar in bars], fontsize=SMALL_POINTS)
        axes.set_ylim(*((last + 0.6, -1.05) if to_longest else (last + 1.15, -0.55)))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"{context.marked(chip)}: {of}{machines_text(bar.point for bar in bars)}",
                       fontsize=SMALL_POINTS + 0.5)
    figure.axes[-1].set_xlabel(xlabel)
    return figure


def _draw_bar(axes: Any, row: int, parts: Sequence[tuple[str, str, float]]) -> tuple[float, list[tuple[str, float]]]:
    """Draw one bar of names, fills and shares; where it ends, and the parts too narrow for their names with their
    middles.
    """
    left, slivers = 0.0, []
    for name, colour, share in parts:
        axes.barh(row, share, left=left, height=0.8, color=colour, edgecolor=PAPER, linewidth=0.5)
        middle = left + share / 2
        if share > width_of(axes, name):
            axes.text(middle, row, name, ha="center", va="center", fontsize=SMALL_POINTS, color=FILL_INK)
        elif share > _LEAST_NAMED:
            slivers.append((name, middle))
        left += share
    return left, slivers
