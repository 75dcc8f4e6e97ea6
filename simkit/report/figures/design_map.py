"""Hypothetical chips on a page: lines of equal advantage over two parameters, and fronts of tokens/s and silicon.

The line that is asked for is the thick one; a cross is the base chip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from simkit.foundation.errors import UserError
from simkit.foundation.units import format_quantity
from simkit.hardware.parameters import profile_parameters
from simkit.report.drawing import style
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.style import hues, layout_name, tokens
from simkit.study.design_answers import best_designs, columns_at, one_by_one
from simkit.study.designs import Axis
from simkit.study.grid import Grid

_POINTS: Final = 49  # along a figure
_LEVELS: Final = (1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
_MOST_PANELS: Final = 4
_LINE: Final = ("hardware", "model", "attention", "kv_dtype", "batch", "kv_len")


def draw_designs(grid: Grid, against: str, below: float, of: str, budget: Mapping[str, float] | None) -> Figure:
    """Lines of equal advantage; or, with a ``budget`` (which may be empty), fronts. Call inside ``house_style()``.

    Raises :class:`UserError` for lines over other than two parameters.
    """
    if budget is not None:
        return _fronts(best_designs(grid, budget, front=True))
    axes = grid.designs.axes if grid.designs is not None else ()
    if len(axes) != 2:
        raise UserError(f"lines of equal advantage are drawn over two parameters, and {len(axes)} are given",
                        hint="two ranges of --set; or --front")
    layouts = [name for name in grid.attention if name != against]
    panels = [(one, layout) for one in one_by_one(grid) for layout in layouts]
    figure = style.new_figure(2.7 * min(len(panels), _MOST_PANELS))
    drawn = figure.subplots(min(len(panels), _MOST_PANELS), squeeze=False).ravel()
    for place, (one, layout) in zip(drawn, islice(panels, _MOST_PANELS), strict=True):
        _lines(place, one, axes, (layout, against), below, of)
    return figure


def _lines(place: Any, grid: Grid, axes: Sequence[Axis], layouts: tuple[str, str], below: float, of: str) -> None:
    x, y = (np.unique(np.round(values)) if axis.whole else values for axis in axes for values in [
        np.geomspace(axis.start, axis.stop, _POINTS)])
    every = np.meshgrid(x, y)
    found = columns_at(grid, {axis.key: one.ravel() for axis, one in zip(axes, every, strict=True)},
                       (f"{of}_time_s",), layouts)
    time_s = np.where(found["fits"].all(axis=0), found[f"{of}_time_s"], np.nan)
    advantage = (time_s[1] / time_s[0]).reshape(every[0].shape)
    levels = sorted({below, *_LEVELS})
    drawn = place.contour(x, y, advantage, levels=levels,
                          colors=[style.INK if one == below else style.SOFT_INK for one in levels],
                          linewidths=[1.4 if one == below else 0.6 for one in levels])
    place.clabel(drawn, fmt=lambda value: f"{value:g}×", fontsize=style.SMALL_POINTS, inline_spacing=2)
    own = {one.key: one.value for one in profile_parameters(grid.hardware[0])}
    place.plot(own[axes[0].key], own[axes[1].key], "x", color=style.INK, markersize=4)
    for which, axis in zip(("x", "y"), axes, strict=True):
        getattr(place, f"set_{which}scale")("log")
        ticks = np.geomspace(axis.start, axis.stop, 5)
        getattr(place, f"set_{which}ticks")(ticks, [format_quantity(tick, axis.dimension, digits=2) for tick in ticks],
                                            minor=False)
        getattr(place, f"{which}axis").set_minor_locator(NullLocator())
        getattr(place, f"set_{which}label")(axis.key)
    place.set_title(f"{layout_name(layouts[0])} over {layout_name(layouts[1])}, {of}, like {grid.hardware[0].name}\n"
                    f"{grid.model[0].name}, {grid.batch[0]:g} × {tokens(grid.kv_len[0])} tokens, {grid.kv_dtype[0]}")


def _fronts(records: Sequence[dict[str, Any]]) -> Figure:
    figure = style.new_figure(2.6)
    axes, labels = figure.subplots(), []
    lines: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for one in records:
        lines.setdefault(tuple(one[name] for name in _LINE), []).append(
            (one["mm2"] * one["chips"], one["tokens_per_s"]))
    kinds = list(dict.fromkeys(key[2] for key in lines))
    for number, (key, line) in enumerate(lines.items()):
        colour, (x, y) = hues()[number % len(hues())], np.array(line).T
        axes.plot(x, y, style.DASHES[kinds.index(key[2]) % len(style.DASHES)], color=colour)
        differing = [str(one) for place, one in enumerate(key) if len({other[place] for other in lines}) > 1]
        labels.append(Label(x=float(x[-1]), y=float(y[-1]), colour=colour, text=" ".join(differing) or str(key[0])))
    for which, values in zip("xy", np.concatenate(list(lines.values())).T, strict=True):
        style.log_ticks(axes, which, style.round_ticks(min(values) / 1.5, max(values) * 1.5))
    axes.set_title("Designs that no other one beats")
    axes.set_xlabel("silicon of all chips [mm²]")
    axes.set_ylabel("tokens per second")
    place_labels(axes, labels, avoid=[(x, y) for x, y in (np.array(line).T for line in lines.values())])
    return figure
