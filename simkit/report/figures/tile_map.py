"""Where KV heads lie on a chip made of tiles: the region of one layer, layout by layout, each head's tiles in it.

Drawn from the mapping that the spatial engine chose. A head of one sequence takes ``t_n`` tiles for its tokens times
``t_d`` for its dimension; copies of it are drawn as heads of their own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.style import hues, layout_name, times
from simkit.study.evaluate import Evaluated
from simkit.timing.step_timing import LINK, words_of

MOST_DRAWN: Final = 4096  # groups of tiles in a panel; beyond that they are specks


def draw(context: FigureContext) -> DrawnFigure:
    """One chip with a fabric, a panel a layout. Raises :class:`UserError` when no chip of the request has one."""
    request = context.request

    done, omissions = ask.for_each_chip([chip for chip in request.hardware if chip.fabric is not None],
                                    lambda chip: ask.every_layout(request, chip))
    chips = [chip for chip, found in done.items()
             if all(ask.fits(one) and one.timing.tile_mapping is not None for one in found.values())]
    ask.require_some(chips, request, "no chip here states a fabric and is timed by --engine spatial")
    chip = next(one for one in request.hardware if one.name == chips[0])
    found = done[chip.name]
    rows = [_row(chip, layout, one) for layout, one in found.items()]
    slowest, fastest = (end(rows, key=lambda row: row["attention_s_a_layer"]) for end in (max, min))
    return DrawnFigure(
        title=request.title or f"Where KV heads lie on {context.label(chip.name)}",
        figure=_figure(chip, rows), rows=rows,
        finding=f"On {context.label(chip.name)} attention of one layer takes {_words(fastest)} and {_words(slowest)}, "
                f"{times(slowest['attention_s_a_layer'] / fastest['attention_s_a_layer'])} as long. Messages between "
                "tiles are " + ", ".join(f"{row['message_share']:.0%} of {layout_name(row['attention'])}'s"
                                         for row in rows) + ".",
        how_to_read="A panel is the chip; the dark frame is the tiles of one layer, pale frames those of others. A "
                    "rectangle is the tiles that hold one KV head of one sequence, or one copy of it; hues tell heads "
                    "apart, those of later rounds are not drawn. Sums run inside a rectangle.",
        inputs=ask.inputs_text(request), omissions=omissions,
        alt=" ".join(f"{layout_name(row['attention'])}: {row['tile_mapping']}." for row in rows))


def _words(row: dict[str, Any]) -> str:
    return f"{format_quantity(row['attention_s_a_layer'], SECONDS)} with {layout_name(row['attention'])}"


def _row(chip: HardwareProfile, layout: str, one: Evaluated) -> dict[str, Any]:
    timing, mapping = one.timing, one.timing.tile_mapping
    layers = sum(operator.count for operator in one.step.attention_operators)
    attention_s = float(np.ravel(timing.attention_time_s)[0])
    task = one.step.attention_operators[0].attention
    items = 0.0 if task is None else float(np.ravel(np.asarray(task.sequences * task.kv_heads))[0])
    sides = {name: float(np.ravel(np.asarray(getattr(mapping, name)))[0])
             for name in ("along", "across", "token_ways", "dim_ways", "head_copies")}
    return {"hardware": chip.name, "attention": layout, "n_kv_heads": ask.scalar(one, "n_kv_heads"), **sides,
            "items": items, "attention_s_a_layer": attention_s / layers,
            "message_share": float(np.ravel(np.asarray(timing.attention_cause_time_s[LINK]))[0]) / attention_s,
            "step_time_s": ask.scalar(one, "step_time_s"),
            "tile_mapping": words_of(mapping, 0)}


def _figure(chip: HardwareProfile, rows: list[dict[str, Any]]) -> Any:
    width, height = (1, 1) if chip.fabric is None else chip.fabric.sides
    panel = (style.COLUMN_WIDTH_INCHES - 0.15) / len(rows)
    figure = style.new_figure(min(max(panel * height / width, 0.6), 2.6) + 0.65)
    for index, row in enumerate(rows):
        axes = figure.add_subplot(1, len(rows), index + 1)
        _panel(axes, (width, height), row)
    return figure


def _panel(axes: Axes, chip: tuple[int, int], row: dict[str, Any]) -> None:
    axes.set_xlim(0, chip[0])
    axes.set_ylim(chip[1], 0)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(style.GRID)
    along, across = row["along"], row["across"]
    colours = hues()
    for left in np.arange(0, chip[0] - along + 1, along):
        for top in np.arange(0, chip[1] - across + 1, across):
            axes.add_patch(Rectangle((left, top), along, across, fill=False, edgecolor=style.PAPER, linewidth=0.6))
    for number, (x, y, w, h) in enumerate(_groups(row)):
        axes.add_patch(Rectangle((x, y), w, h, facecolor=colours[number % len(colours)], edgecolor="none", alpha=0.75))
    axes.add_patch(Rectangle((0, 0), along, across, fill=False, edgecolor=style.INK, linewidth=0.8))
    axes.set_title(layout_name(row["attention"]), fontsize=style.SMALL_POINTS + 1, fontweight="bold", color=style.INK)
    axes.set_xlabel(f"{along:.0f}×{across:.0f} tiles\nof {chip[0]}×{chip[1]}\n"
                    f"a head on {row['token_ways']:.0f}×{row['dim_ways']:.0f}\n"
                    f"{row['head_copies']:.0f} {'copy' if row['head_copies'] == 1 else 'copies'}\n"
                    f"{format_quantity(row['attention_s_a_layer'], SECONDS)} a layer",
                    fontsize=style.SMALL_POINTS, color=style.SOFT_INK)


def _groups(row: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """Rectangles of items in their region, row by row: the dimension along, tokens across, folded where too long."""
    along, across = row["along"], row["across"]
    wide, high = row["dim_ways"], row["token_ways"]
    if high > across:
        wide, high = wide * np.ceil(high / across), across
    a_row, rows = int(along // wide), int(across // high)
    count = int(min(np.ceil(row["items"] * row["head_copies"]), a_row * rows, MOST_DRAWN))
    return [((n % a_row) * wide, (n // a_row) * high, wide, high) for n in range(count)] if a_row else []
