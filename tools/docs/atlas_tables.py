"""The tables of docs/atlas.md, from the data of the shipped figure: a line a kind, and a line a chip."""

from __future__ import annotations

import csv
from functools import cache

from simkit.foundation.units import BYTES, format_quantity
from simkit.hardware.catalog import list_hardware
from tools.docs.build_figures import FOLDER
from tools.docs.reference_tables import markdown_table

_NO_STEP = "·"


@cache
def _rows() -> tuple[dict[str, str], ...]:
    return tuple(csv.DictReader((FOLDER / "attention_atlas.csv").read_text(encoding="utf-8").splitlines()))


def kinds_table() -> str:
    """Every kind: its model, what it stores and reads, and its published quality."""
    kinds = {row["kind"]: row for row in _rows()}
    return markdown_table(
        ["kind", "model", "stored a token", "read of 32k tokens", "flop a byte", "published quality", "source"],
        ([row["kind"], f"`{row['model']}`", format_quantity(float(row["stored_bytes_per_token"]), BYTES),
          format_quantity(float(row["read_bytes_per_sequence"]), BYTES), f"{float(row['flop_per_byte']):.3g}",
          row["quality"] or "–", row["quality_source"] or "–"] for row in kinds.values()))


def chips_table() -> str:
    """Every chip: the first context [k tokens] from which on each kind pays; in brackets that of attention alone."""
    kinds = list(dict.fromkeys(row["kind"] for row in _rows()))
    cells = {(row["hardware"], row["kind"]): _cell(row) for row in _rows()}
    chips = [chip.name for chip in list_hardware() if (chip.name, kinds[0]) in cells]
    return markdown_table(["chip", *kinds], ([f"`{chip}`", *(cells[chip, kind] for kind in kinds)] for chip in chips))


def _cell(row: dict[str, str]) -> str:
    return _context(row["pays_from_kv_len"]) if row["pays_from_kv_len"] else (
        f"({_context(row.get('attention_pays_from_kv_len', ''))})")


def _context(tokens: str) -> str:
    return "–" if tokens == "never" else f"{float(tokens) / 1024:.0f}" if tokens else _NO_STEP
