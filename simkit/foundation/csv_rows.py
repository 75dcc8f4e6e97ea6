"""Rows of a CSV table with their line numbers, cells of bounded length, comments left out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Final

from simkit.foundation.errors import Location, UserError

# NumPy gives every cell of a column the room of its longest: one long cell would fill the memory.
LONGEST_CELL: Final = 200


def table_rows(text: str, name: str, longest_cell: int = LONGEST_CELL) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is neither empty nor a comment (``#``).

    Raises :class:`UserError` with the line, in a file called ``name``, when it is not CSV or a cell is too long.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            if not cells or cells[0].startswith("#"):
                continue
            if max(map(len, cells)) > longest_cell:
                raise UserError(f"a cell longer than {longest_cell} characters",
                                where=Location(file=name, line=reader.line_num))
            yield reader.line_num, cells
    except csv.Error as problem:
        raise UserError(f"not CSV: {problem}", where=Location(file=name, line=reader.line_num + 1)) from None


def named_rows(text: str, name: str, needed: Sequence[str],
               longest_cell: int = LONGEST_CELL) -> Iterator[tuple[Location, dict[str, str]]]:
    """Where each row stands, and its cells by column. Raises :class:`UserError` where columns or cells are missing."""
    rows = table_rows(text, name, longest_cell)
    line, header = next(rows, (1, []))
    header = [cell.strip() for cell in header]
    missing = [column for column in needed if column not in header]
    if missing:
        words = "missing column " + ", ".join(f"'{column}'" for column in missing) if header else "the table is empty"
        raise UserError(words, where=Location(file=name, line=line),
                        hint="expected a header line with " + ", ".join(needed))
    for number, cells in rows:
        where = Location(file=name, line=number)
        if len(cells) != len(header):
            raise UserError(f"expected {len(header)} columns, found {len(cells)}", where=where)
        yield where, dict(zip(header, (cell.strip() for cell in cells), strict=True))


def number_cell(column: str, row: dict[str, str], where: Location, *, most: float, whole: bool = False) -> float:
    """A number above 0 in a row's column. Raises :class:`UserError`."""
    cell = row.get(column, "")
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise UserError(f"{column}: '{cell[:40]}' is not a number above 0 and up to {most:,.0f}", where=where)
    if whole and value != int(value):
        raise UserError(f"{column}: '{cell[:40]}' is not a whole number", where=where)
    return int(value) if whole else value
