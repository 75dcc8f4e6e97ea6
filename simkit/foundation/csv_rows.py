"""Rows of a CSV table with their line numbers, cells of bounded length, comments left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
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
