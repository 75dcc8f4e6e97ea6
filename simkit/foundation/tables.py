"""Records as people read them: values with units, aligned text, and dataframes of whichever library there is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib import import_module
from itertools import chain
from typing import Any, Final
from unicodedata import combining, east_asian_width

from simkit.foundation.errors import UserError, one_line
from simkit.foundation.units import BYTES, BYTES_PER_S, COUNT, FLOP_PER_S, SECONDS, WATTS, format_quantity

UNKNOWN: Final = "-"
_GAP: Final = "  "
MOST_ROWS: Final = 20  # of a table that Python shows by itself
_MOST_CHARACTERS, _MOST_BANDS, _MOST_ALIKE = 110, 3, 12
# What the end of a key says of its unit: the first that fits.
_ENDINGS: Final = {"_bytes_per_s": BYTES_PER_S, "_flop_per_s": FLOP_PER_S, "_bytes(_per_.*)?": BYTES, "_per_.*": COUNT,
                   "_s": SECONDS, "_w": WATTS}
_DATAFRAMES: Final = ("pandas", "polars")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: heading (empty: the name of its key), dimension of its numbers (None: text, or what the key says of
    them), and how soon it may be left out (0: never).

    ``liftable`` columns move into the heading on a terminal when all rows agree.
    """

    heading: str = ""
    dimension: str | None = None
    _: KW_ONLY
    optional: int = 0
    liftable: bool = False


class Records(list[dict[str, Any]]):
    """Records, one a row: a list of dicts that shows itself as a table and becomes a dataframe."""

    def to_dataframe(self) -> Any:
        """The records as a dataframe of pandas or polars. Raises :class:`UserError` where neither is installed."""
        for name in _DATAFRAMES:
            try:
                library = import_module(name)
            except ImportError:
                continue
            return library.DataFrame({key: [record.get(key) for record in self] for key in _keys(self)})
        raise UserError("a dataframe needs pandas or polars, and neither is installed", hint="pip install pandas")

    def __repr__(self) -> str:
        return shown(self)


def _keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(records)))


def shown(records: Sequence[Mapping[str, Any]], rows: int | None = None) -> str:
    """The first records as text: what all have in common, then a column for each key in which they differ.

    Keys without a value are left out. ``rows``: how many records there are in all, where these are the first of them.
    """
    count = len(records) if rows is None else rows
    records = records[:MOST_ROWS]
    dimensions = {key: dimension_of(key, records) for key in _keys(records)}
    texts = {key: [cell(record.get(key), dimension) for record in records] for key, dimension in dimensions.items()}
    texts = {key: column for key, column in texts.items() if set(column) - {UNKNOWN}}
    if len(records) == 1:
        return plain_table([Column("key"), Column("value")], [(key, column[0]) for key, column in texts.items()])
    alike = {key: column[0] for key, column in texts.items() if len(set(column)) == 1}
    bands: list[list[Column]] = [[]]
    width = 0
    for key in (key for key in texts if key not in alike):
        wide = max(map(text_width, (key, *texts[key]))) + len(_GAP)
        width += wide
        if width > _MOST_CHARACTERS and bands[-1]:
            bands.append([])
            width = wide
        bands[-1].append(Column(key, dimensions[key]))
    tables = [plain_table(band, list(zip(*(texts[column.heading] for column in band), strict=True)))
              for band in bands[:_MOST_BANDS] if band]
    counted = f"{count:,} record{'s' * (count != 1)}" + f", the first {len(records)} shown" * (count > len(records))
    left_out = sum(map(len, bands[_MOST_BANDS:]))
    said = ", ".join(f"{key} {text}" for key, text in list(alike.items())[:_MOST_ALIKE])
    more = f"; {left_out} more columns" if left_out else ""
    return "\n".join([*([f"all: {said}"] if said else []), *tables, counted + more])


def dimension_of(key: str, records: Sequence[Mapping[str, Any]]) -> str | None:
    """The dimension that a key's ending says of its numbers; None for text."""
    value = next((record[key] for record in records if record.get(key) is not None), None)
    if isinstance(value, str | bool):
        return None
    name = re.sub(r"_(low|high|likely)(_\d+)?$", "", key)
    return next((dimension for ending, dimension in _ENDINGS.items() if re.search(f"{ending}$", name)), COUNT)


def cell(value: Any, dimension: str | None) -> str:
    """One value as people read it; ``-`` when it is not known."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if dimension is None or isinstance(value, str | list | tuple | dict):
        return one_line(" ".join(str(value).splitlines()))
    return format_quantity(value, dimension)


def text_width(text: str) -> int:
    """Columns that a text takes on a terminal: two for a CJK letter, none for a combining mark."""
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def plain_table(columns: Sequence[Column], texts: Sequence[Sequence[str]], *, title: str | None = None) -> str:
    """Aligned text, numbers to the right, one line a row, all columns kept."""
    headings = [column.heading for column in columns]
    widths = [max(text_width(line[i]) for line in (headings, *texts)) for i in range(len(columns))]
    lines = [title] if title else []
    for line in (headings, *texts):
        cells = []
        for text, width, column in zip(line, widths, columns, strict=True):
            space = " " * (width - text_width(text))
            cells.append(text + space if column.dimension is None else space + text)
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines) + "\n"
