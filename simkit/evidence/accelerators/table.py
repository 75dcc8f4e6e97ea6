"""The table of measured decode on accelerators: one row a figure, empty cells where a source says nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Final

from simkit.foundation.csv_rows import named_rows, number_cell
from simkit.foundation.input_file import read_text

SHIPPED: Final = "accelerators.csv.gz"
MOST_BYTES: Final = 50_000_000
LONGEST_CELL: Final = 2_000  # notes are sentences
MOST: Final = 1e15
NEEDED: Final = ("series", "chip", "quantity", "value")
# Quantities of which more is faster; their inverse is a time.
RATES: Final = ("output_tokens_per_s", "user_tokens_per_s", "bandwidth_bytes_per_s")
TIMES: Final = ("request_s", "step_s", "kernel_s", "collective_s", "gemm_s", "slope_s_per_token", "cycles")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One measured figure; texts are empty and numbers None where the table is silent. SI units."""

    series: str
    chip: str
    quantity: str
    value: float
    id: str = ""
    model: str = ""
    weight_dtype: str = ""
    kv_dtype: str = ""
    op: str = ""
    software: str = ""
    source: str = ""
    speculation: str = ""
    chips: float | None = None
    tp: float | None = None
    pp: float | None = None
    layers: int | None = None
    n_q_heads: int | None = None
    n_kv_heads: int | None = None
    head_dim: int | None = None
    batch: float | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    kv_len: float | None = None
    moved_bytes: float | None = None
    m: int | None = None
    n: int | None = None
    k: int | None = None

    def time_of(self, value: float) -> float:
        """What grows with time of a value of this row's quantity: rates inverted."""
        return 1.0 / value if self.quantity in RATES else value


_TEXTS: Final = tuple(one.name for one in fields(MeasuredRow) if one.type == "str")
_NUMBERS: Final = {one.name: str(one.type) for one in fields(MeasuredRow) if one.name not in _TEXTS}
_COLUMNS: Final = {"moved_bytes": "bytes"}  # where a field is not called as its column


def read_rows(path: Path | None = None) -> list[MeasuredRow]:
    """All rows of a table, the shipped one by default. Raises :class:`UserError` with file and line."""
    file = str(path or resources.files("simkit.evidence").joinpath("data", SHIPPED))
    found = []
    text = read_text(file, most_bytes=MOST_BYTES, unpack=True)
    for where, row in named_rows(text, file, NEEDED, LONGEST_CELL):
        numbers = {name: number_cell(column, row, where, most=MOST, whole=kind.startswith("int"))
                   for name, kind in _NUMBERS.items()
                   if row.get(column := _COLUMNS.get(name, name)) or name == "value"}
        texts = {name: row.get(name, "") for name in _TEXTS}
        found.append(MeasuredRow(**texts, **numbers))  # type: ignore[arg-type]  # whole numbers are whole
    return found


def head_pairs(rows: Sequence[MeasuredRow]) -> list[tuple[int, int]]:
    """Places of an MHA and a grouped row of one point: same query heads, chips, software, lengths and formats.

    What may differ is the model and its KV heads. The rows' own columns say what the heads are.
    """
    same: dict[tuple[object, ...], list[int]] = defaultdict(list)
    free = ("id", "model", "n_kv_heads", "value")
    kept = [one.name for one in fields(MeasuredRow) if one.name not in free]
    for place, row in enumerate(rows):
        if row.n_q_heads and row.n_kv_heads and row.op in ("", "attention", "step"):
            same[tuple(getattr(row, name) for name in kept)].append(place)
    return [(mha, grouped) for places in same.values() for mha in places for grouped in places
            if rows[mha].n_kv_heads == rows[mha].n_q_heads and rows[grouped].n_kv_heads != rows[grouped].n_q_heads]
