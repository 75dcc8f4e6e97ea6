"""The atlas of attention: what each kind reads of a context, and where it pays over plain GQA-8, chip by chip."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from simkit.foundation.units import BYTES
from simkit.report.drawing import study_points as ask
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.style import tokens
from simkit.study.atlas import BATCHES, CONTEXTS, PAYS, atlas

_COLUMNS: Final = 24
_CELL_POINTS: Final = 5.2
_ROW_INCHES: Final = 0.128
# Light to lighter blue: dark text stands on both, and one hue tells more from less to every eye.
_SHADES: Final = LinearSegmentedColormap.from_list("pays", ["#77aadd", "#f1f6fb"])
_NEVER: Final = "#c9ced4"


def draw(context: FigureContext) -> DrawnFigure:
    """Above a line a kind; below a row a kind and a column a chip, for contexts and for batches."""
    request = context.request
    every = atlas(request.hardware, batch=float(request.focus_batch), kv_len=float(request.focus_kv_len),
                  kv_dtype=request.kv_dtype, weight_dtype=request.weight_dtype)
    # Of more chips than there are columns those are drawn that the study gives a short name, in its order.
    drawn = [chip.name for chip in request.hardware]
    if len(drawn) > _COLUMNS:
        drawn = [chip for chip in context.styles if context.label(chip) != chip and chip in drawn][:_COLUMNS]
    found = [row for row in every if row["hardware"] in drawn]
    with_step = [row for row in every if not np.isnan(row["advantage"])]
    ask.require_some(with_step, request, every[0]["without_step"])
    lines: dict[str, Any] = {row["kind"]: row["reads"] for row in found}
    longest = {kind: float(read[-1]) for kind, read in lines.items()}
    least, most = (end(longest, key=lambda kind: longest[kind]) for end in (min, max))
    batch, context_tokens = style.count(request.focus_batch), tokens(request.focus_kv_len)
    paying = {kind: [row["advantage"] >= PAYS for row in with_step if row["kind"] == kind] for kind in lines}
    return DrawnFigure(
        title=request.title or "What each kind of attention reads, and where it pays over GQA-8",
        figure=_figure(context, lines, found, drawn), rows=[
            {key: value if value != np.inf else "unbounded" if key == "advantage" else "never"
             for key, value in row.items() if key != "reads"} for row in every],
        finding=f"At batch {batch} and {context_tokens} tokens these save a tenth of a token's chip-seconds or more: "
                + ", ".join(f"{kind} on {sum(pays)} of {len(pays)} chips" for kind, pays in paying.items() if any(pays))
                + f". Of {tokens(CONTEXTS[-1])} tokens a step reads {longest[most] / longest[least]:,.0f} times as "
                f"much with {most} as with {least}.",
        how_to_read="Above: cache, index keys and states of one sequence that one step reads, all layers. Below: the "
                    f"first of doubling contexts (at batch {batch}) and of doubling batches (at {context_tokens} "
                    "tokens) from which on a kind pays: with plain GQA-8 heads of 128 elements in all layers a token "
                    "would take 1.1 times the chip-seconds or more, each on the chips that hold it at the least cost. "
                    "–: never; blank: fits on no number of chips. The data has "
                    + (f"all {len(request.hardware)} chips, " if len(drawn) < len(request.hardware) else "")
                    + "attention alone where a model has no room, drafts and machine balances, what MQA would buy "
                    "beside the kind, and published quality. Models: "
                    + ", ".join(dict.fromkeys(f"{row['kind']} {row['model']}" for row in found)) + ".",
        inputs=f"Cache {request.kv_dtype}, weights {request.weight_dtype}; contexts may exceed a model's own.",
        alt="Lines of bytes read against context: " + ", ".join(
            f"{kind} {size:.3g} at 1M" for kind, size in longest.items())
            + ". Tables of the context and of the batch from which on a kind pays, a row a kind, a column a chip.")


def _figure(context: FigureContext, lines: dict[str, Any], found: list[dict[str, Any]], chips: list[str]) -> Any:
    table_inches = _ROW_INCHES * len(lines) + 0.75
    figure = style.new_figure(2.3 + 2 * table_inches)
    # Parts of their own: tables do without the margin of the lines' labels.
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.3, 2 * table_inches))
    upper, (contexts, batches) = parts[0].subplots(), parts[1].subplots(2, 1)
    style.decade_axis(upper, "y", BYTES)
    style.log_ticks(upper, "x", CONTEXTS[::5], [tokens(value) for value in CONTEXTS[::5]])
    for read in lines.values():
        upper.plot(CONTEXTS, read, color=style.INK, linewidth=0.9)
    upper.set(xlabel="context [tokens]", ylabel="read of a sequence in a step")
    margin_labels(upper, [Label(x=1, y=float(read[-1]), text=kind, colour=style.INK) for kind, read in lines.items()])
    _table(contexts, context, found, chips, "pays_from_kv_len", CONTEXTS, "k", "first context that pays [k tokens]")
    _table(batches, context, found, chips, "pays_from_batch", BATCHES, "", "first batch that pays")
    return figure


def _table(axes: Axes, context: FigureContext, found: list[dict[str, Any]], chips: list[str], column: str, values: Any,
           unit: str, title: str) -> None:
    """A cell for each kind and chip: the darker, the sooner a kind pays."""
    names = list(dict.fromkeys(row["kind"] for row in found))
    cells = np.full((len(names), len(chips)), np.nan)
    for row in found:
        cells[names.index(row["kind"]), chips.index(row["hardware"])] = row[column]
    never = LinearSegmentedColormap.from_list("never", [_NEVER, _NEVER])
    for shown, colours, norm in ((np.isfinite(cells), _SHADES, LogNorm(values[0], values[-1])),
                                 (np.isinf(cells), never, None)):
        axes.pcolormesh(np.ma.masked_where(~shown, np.where(shown & np.isfinite(cells), cells, 1.0)), cmap=colours,
                        norm=norm, edgecolors="white", linewidth=0.4)
    for (y, x), value in np.ndenumerate(cells):
        if not np.isnan(value):
            axes.annotate("–" if np.isinf(value) else tokens(value).removesuffix(unit), (x + 0.5, y + 0.5), ha="center",
                          va="center", fontsize=_CELL_POINTS, color=style.FILL_INK)
    axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=style.SMALL_POINTS)
    axes.set_xticks(np.arange(len(chips)) + 0.5, [context.label(chip) for chip in chips], rotation=90,
                    fontsize=style.SMALL_POINTS)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.set_title(title, loc="left")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
