"""Rows of chips with one mark a layout (or a measure) on a logarithmic axis, joined by a line: what changes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from matplotlib.axes import Axes

from simkit.foundation.errors import UserError
from simkit.report.drawing.ranges import Range, draw_range
from simkit.report.drawing.style import COLUMN_WIDTH_INCHES, SMALL_POINTS, ChipStyle, layout_name, note

# Marker, its size in points, and the letter that the key shows for it; a bar can be seen across a diamond.
_MARKS: Final = (("o", 4.6, "●"), ("D", 3.8, "◆"), ("|", 9.0, "┃"), ("^", 4.6, "▲"), ("s", 3.8, "■"), ("v", 4.6, "▼"))
_APART: Final = 0.17  # of a row, between marks of one row that have a range each
_KEY_LETTERS: Final = 42  # of a line of the key
_LETTER_INCHES: Final = 0.05  # of a small text


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One chip: its style, the line under its name, and a value for each column (NaN where there is none).

    ``ranges``: ends of a value, by column; None where there are none.
    """

    style: ChipStyle
    under: str
    values: dict[str, float]
    ranges: Mapping[str, Range | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What stands beside the row: two lines or more."""
        return f"{self.style.label}\n{self.under}{', assumed' if self.style.assumed else ''}"

    @property
    def last(self) -> float:
        """The largest value or end of a range; NaN where nothing is known."""
        known = [*self.values.values(), *(ends[1] for ends in self.ranges.values() if ends is not None)]
        return max((value for value in known if math.isfinite(value)), default=math.nan)

    def heights(self, place: int, columns: Sequence[str]) -> dict[str, float]:
        """Where each column stands: side by side as far as several have a range, whose bars would hide each other."""
        ranged = [column for column in columns if self.ranges.get(column) is not None]
        if len(ranged) < 2:
            return dict.fromkeys(columns, float(place))
        return {column: place + _APART * (columns.index(column) - (len(columns) - 1) / 2) for column in columns}


def draw_rows(axes: Axes, rows: list[Row], columns: Sequence[str], texts: dict[int, str],
              names: Mapping[str, str] | None = None) -> None:
    """Draw the rows top down; ``texts`` stand beside the last mark of a row.

    ``names``: columns as the key calls them; None: the columns are layouts. Raises :class:`UserError` where there are
    more columns than marks.
    """
    if len(columns) > len(_MARKS):
        raise UserError(f"{len(columns)} layouts in one row of a figure: there are marks for {len(_MARKS)}",
                        hint="give this figure fewer 'layouts' of its own")
    columns = tuple(columns)
    mark_of = dict(zip(columns, _MARKS, strict=False))
    names = names or {column: layout_name(column) for column in columns}
    for place, row in enumerate(rows):
        known = [(column, row.values[column]) for column in columns if math.isfinite(row.values[column])]
        if not known:
            continue
        at = row.heights(place, columns)
        axes.plot([value for _, value in known], [at[column] for column, _ in known], color=row.style.colour,
                  linewidth=1.0, zorder=2)
        for order, (column, value) in enumerate(known):
            marker, size_points, _ = mark_of[column]
            axes.plot(value, at[column], marker, zorder=3 + order, **row.style.mark(size_points))
            draw_range(axes, at[column], row.ranges.get(column), row.style.colour, along="x", width_points=2.8,
                       cap_points=6.0, opacity_fraction=0.5)
        if place in texts:
            note(axes, texts[place], (row.last, place), (5, 0), va="center", annotation_clip=False)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=SMALL_POINTS, linespacing=1.1)
    key = _key([f"{mark_of[column][2]} {names[column]}" for column in columns])
    axes.set_ylim(len(rows) - 0.4, -0.7 - 0.4 * len(key))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    note(axes, "\n".join(key), (0.0, 1.0), (2, -3), xycoords="axes fraction", va="top")


def axis_end(rows: Sequence[Row], texts: Mapping[int, str], low: float) -> float:
    """The right end of an axis from ``low`` on which every row's text has room behind its last mark."""
    names = max(len(line) for row in rows for line in row.name.split("\n"))
    width_inches = max(COLUMN_WIDTH_INCHES - _LETTER_INCHES * names - 0.2, 1.0)
    spans = [0.0]
    for place, row in enumerate(rows):
        text = min((_LETTER_INCHES * len(texts.get(place, "")) + 0.12) / width_inches, 0.85)
        spans.append(0.0 if math.isnan(row.last) else math.log(row.last / low) / (1.0 - text))
    return low * math.exp(max(*spans, 0.1))


def _key(words: Sequence[str]) -> list[str]:
    """The words in lines that fit above a figure one column wide."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 2 <= _KEY_LETTERS:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines
