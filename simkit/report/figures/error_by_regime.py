"""Where a model's error sits: mean error by share of the cache that a kernel fills and by query heads a KV head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from simkit.evidence.silicon.compare import SystemComparison
from simkit.evidence.silicon.score import streamed_bytes
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.measured_kernels import inputs_of, measured_systems, name_of
from simkit.report.drawing.style import FILL_INK, INK, SMALL_POINTS, panel_grid

_OCCUPANCY: Final = (0.0, 0.05, 0.25, 0.6, 1.1, 2.0, 8.0, np.inf)
_OCCUPANCY_TEXTS: Final = ("<.05", ".05-.25", ".25-.6", ".6-1.1", "1.1-2", "2-8", ">8")
_GROUPS: Final = (0.0, 1.0, 4.0, 8.0, 16.0, 32.0, np.inf)
_GROUP_TEXTS: Final = ("1", "\u22644", "\u22648", "\u226416", "\u226432", ">32")
_LEAST_ROWS: Final = 5  # fewer say nothing about a cell
_GOOD: Final = 15.0  # per cent
_HIGHEST: Final = 40.0  # per cent; the colour scale ends here, the number in the cell does not
_COLOURS: Final = "YlOrRd"


def draw(context: FigureContext) -> DrawnFigure:
    """The shipped kernels of the request's chips, by what they read and how they group."""
    request = context.request
    systems, omissions = measured_systems(request)
    cells = {name_of(one): mean_error_by_cell(one) for one in systems}
    rows = [{"hardware": name, "kv_bytes_over_cache": _OCCUPANCY_TEXTS[row],
             "query_heads_per_kv_head": _GROUP_TEXTS[column], "mean_error_percent": float(value)}
            for name, table in cells.items() for (row, column), value in np.ndenumerate(table) if np.isfinite(value)]
    worst = {name: np.unravel_index(int(np.nanargmax(table)), table.shape) for name, table in cells.items()}
    said = ", ".join(f"{context.label(name)} {cells[name][at]:.0f} % (KV bytes {_OCCUPANCY_TEXTS[at[0]]} of the cache, "
                     f"query heads a KV head {_GROUP_TEXTS[at[1]]})" for name, at in worst.items())
    below = np.concatenate([table[np.isfinite(table)] for table in cells.values()])
    return DrawnFigure(
        title=request.title or "Where the error sits",
        figure=error_by_regime(systems, labels={name: context.label(name) for name in cells}), rows=rows,
        finding=f"{np.count_nonzero(below <= _GOOD)} of {below.size} fields have a mean error of at most {_GOOD:.0f} "
                f"%; the worst: {said}.",
        how_to_read="Number: mean of |predicted / measured - 1| in per cent, of the kernels in a field. Upwards: bytes "
                    "of KV cache that a kernel reads over the capacity of the last on-chip cache (below 1 the loop "
                    "finds them there); to the right: how many query heads share a KV head. Empty: fewer than "
                    f"{_LEAST_ROWS} kernels.",
        inputs=inputs_of(request, systems), omissions=omissions,
        alt=f"Heat maps of mean error, one panel a chip. Worst fields: {said}.")


def mean_error_by_cell(one: SystemComparison) -> Any:
    """Mean |error| in per cent, [occupancies, groups]; NaN where fewer than five rows lie."""
    assert one.profile is not None  # noqa: S101  # callers pass compared systems
    caches = [level for level in one.profile.memory if level.kind == "cache" and level.scope == "chip"]
    capacity = caches[-1].chip_capacity_bytes if caches else np.inf
    occupancy = np.digitize(streamed_bytes(one.rows) / capacity, _OCCUPANCY[1:-1], right=True)
    columns = one.rows.columns
    group = np.digitize(columns["n_q_heads"] / columns["n_kv_heads"], _GROUPS[1:-1], right=True)
    error = 100.0 * np.abs(one.predicted_s / one.rows.time_s - 1.0)
    cells = np.full((len(_OCCUPANCY_TEXTS), len(_GROUP_TEXTS)), np.nan)
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            inside = error[(occupancy == row) & (group == column)]
            if len(inside) >= _LEAST_ROWS:
                cells[row, column] = inside.mean()
    return cells


def error_by_regime(systems: Sequence[SystemComparison], *, labels: Mapping[str, str] | None = None) -> Figure:
    """One heat map a system of attention kernels: KV bytes over the last cache's capacity, query heads a KV head.

    Parameters: systems: compared ones; labels: short names of chips by profile.
    """
    shown = [one for one in systems if one.skip_reason is None and one.rows.kind == "decode_attention"]
    figure, panels = panel_grid(len(shown), (0.5, 1.75), "query heads a KV head", "KV bytes / cache")
    image: Any = None
    for axes, one in zip(panels, shown, strict=True):
        cells = mean_error_by_cell(one)
        image = axes.imshow(cells, origin="lower", aspect="auto", cmap=_COLOURS, vmin=0.0, vmax=_HIGHEST)
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=SMALL_POINTS,
                          color="#ffffff" if value > 0.75 * _HIGHEST else FILL_INK)
        axes.grid(visible=False)
        axes.set_xticks(range(len(_GROUP_TEXTS)), _GROUP_TEXTS)
        axes.set_yticks(range(len(_OCCUPANCY_TEXTS)), _OCCUPANCY_TEXTS)
        axes.tick_params(length=0)
        axes.set_title((labels or {}).get(name_of(one), one.system))
    if image is not None:
        bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.02, aspect=28, extend="max")
        bar.set_label("mean error [%]")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelcolor=INK)
    return figure
