"""Panels of stacked bars, a panel a chip and a bar a layout: parts named inside them, slivers beside one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.report.drawing.labels import name_parts, width_of
from simkit.report.drawing.ranges import draw_range
from simkit.report.drawing.style import FILL_INK, INK, PAPER, SMALL_POINTS, layout_name, new_figure, note

_FARTHEST: Final = 1.12  # of a bar: ranges that go on have an arrow there, and say their end
_UNDER: Final = 0.47  # of the way to the next bar: a range stands under its bar, whose parts have names in them
_LEAST_NAMED: Final = 0.01  # a sliver that can hardly be seen needs no name


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a bar: its name, its fill, and its length as a share of the panel's width."""

    name: str
    colour: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One layout's parts, and the time that stands at the end of its bar.

    ``range_shares``: where the bar may end by what is assumed, as shares of the panel's width.
    """

    layout: str
    time_s: float
    parts: list[Part]
    range_shares: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chip's bars under a title."""

    title: str
    bars: list[Bar]


def stacked_bars(panels: list[Panel], *, xlabel: str, slivers_of: Literal["first", "last"]) -> Any:
    """The figure. ``slivers_of``: the bar of each panel whose narrow parts are named outside it."""
    rows = max(len(panel.bars) for panel in panels)
    figure = new_figure(0.35 + len(panels) * (0.38 + 0.18 * rows))
    for axes, panel in zip(np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True):
        last = len(panel.bars) - 1
        axes.set_xlim(0, 1.17 if all(bar.range_shares is None for one in panels for bar in one.bars) else 1.56)
        for row, bar in enumerate(panel.bars):
            end, slivers = _draw_bar(axes, row, bar)
            if slivers_of == "first" and row == 0:
                name_parts(axes, slivers, edge=-0.4, text_at=-0.62)
            if slivers_of == "last" and row == last:
                name_parts(axes, slivers, edge=row + 0.4, text_at=row + 0.62)
            words, gap_points = format_quantity(bar.time_s, SECONDS), 3
            if bar.range_shares is not None:
                scale_s = bar.time_s / sum(part.share for part in bar.parts)
                words += f" (up to {format_quantity(bar.range_shares[1] * scale_s, SECONDS)})"
                low, high = bar.range_shares
                draw_range(axes, row + _UNDER, (low, min(high, _FARTHEST)), INK, along="x", width_points=0.7,
                           cap_points=3.0, opacity_fraction=1.0)
                if high > _FARTHEST:
                    axes.plot(_FARTHEST, row + _UNDER, ">", color=INK, markersize=3.0)
                    gap_points = 6
                end = max(end, min(high, _FARTHEST))
            note(axes, words, (end, row), (gap_points, 0), va="center", annotation_clip=False)
        axes.set_yticks(range(last + 1), [layout_name(bar.layout) for bar in panel.bars], fontsize=SMALL_POINTS)
        axes.set_ylim(*((last + 0.6, -1.05) if slivers_of == "first" else (last + 1.15, -0.55)))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_title(panel.title, fontsize=SMALL_POINTS + 0.5)
    figure.axes[-1].set_xlabel(xlabel)
    return figure


def _draw_bar(axes: Any, row: int, bar: Bar) -> tuple[float, list[tuple[str, float]]]:
    """Draw one bar; where it ends, and the parts too narrow for their names with their middles."""
    left, slivers = 0.0, []
    for part in bar.parts:
        axes.barh(row, part.share, left=left, height=0.8, color=part.colour, edgecolor=PAPER, linewidth=0.5)
        middle = left + part.share / 2
        if part.share > width_of(axes, part.name):
            axes.text(middle, row, part.name, ha="center", va="center", fontsize=SMALL_POINTS, color=FILL_INK)
        elif part.share > _LEAST_NAMED:
            slivers.append((part.name, middle))
        left += part.share
    return left, slivers
