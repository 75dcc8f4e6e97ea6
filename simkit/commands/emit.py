"""Records out: a table, CSV or JSON, to stdout or to a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import click

from simkit.commands.console import print_table
from simkit.commands.options import Destination
from simkit.foundation.output import csv_text, json_text, write_text
from simkit.foundation.tables import Column, cell, dimension_of, plain_table
from simkit.study.record import FIELDS, Field

WIDE: Final = 1.1  # a range is shown from this ratio of its ends
Records = Sequence[Mapping[str, Any]]


def from_fields(shown: Mapping[str, int], liftable: Collection[str], records: Records,
                fields: Mapping[str, Field] = FIELDS) -> dict[str, Column]:
    """Table columns for named fields; those that no record knows are left out.

    ``shown`` maps each name to how soon a narrow terminal may drop it (0: never).
    """
    columns = {}
    for name, optional in shown.items():
        if any(record.get(name) is not None for record in records):
            field = fields[name]
            columns[name] = Column(field.heading or "", field.dimension, optional=optional, liftable=name in liftable)
    return columns


def _with_range(record: Mapping[str, Any], name: str, column: Column) -> Any:
    """A value with the range that it has by what is assumed, where that matters."""
    value, low, high = (record.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if not record.get("assumed") or value is None or low is None or high is None or high <= WIDE * low:
        return value
    texts = [cell(end, column.dimension) for end in (low, high)]
    units = [text.partition(" ")[2] for text in texts]
    first = texts[0].partition(" ")[0] if units[0] == units[1] else texts[0]
    return f"{cell(value, column.dimension)} ({first} to {texts[1]})"


def _assumed(records: Records) -> str | None:
    """How many parameters of which chips are assumed, where records name them."""
    pools = ("hardware", "ffn_hardware", "prefill_hardware")
    found = {" + ".join(filter(None, map(record.get, pools))): record["assumed"]
             for record in records if record.get("assumed")}
    ideal = [chip for chip, keys in found.items() if keys == "ideal"]
    counted = [f"{keys.count(';') + 1} of {chip}" for chip, keys in found.items() if chip not in ideal]
    if ideal:
        return f"ideal values for what these profiles do not state (--assume): {', '.join(ideal)}"
    return f"parameters assumed by class: {', '.join(counted)} (simkit profile show lists them)" if counted else None


def emit(records: Records, to: Destination, columns: Mapping[str, Column], *, title: str | None = None,
         footer: str | None = None) -> None:
    """Write records in the form asked for; tables show ``columns``, CSV and JSON every key of the records.

    ``text``, and keys that end in ``_text``, are how a value is written in a table: only tables show them.
    """
    if not to.is_table:
        records = [{key: value for key, value in record.items() if key != "text" and not key.endswith("_text")}
                   for record in records]
        text = json_text(records) if to.form == "json" else csv_text(records)
        if to.output is None:
            click.echo(text, nl=False)
        else:
            write_text(to.output, text, force=to.force)
        return
    columns = {name: replace(column, heading=column.heading or name,
                             dimension=column.dimension or dimension_of(name, records))
               for name, column in columns.items()}
    rows = [[_with_range(record, name, column) for name, column in columns.items()] for record in records]
    footer = "\n".join(line for line in (footer, _assumed(records)) if line) or None
    layout = list(columns.values())
    if to.output is None:
        print_table(layout, rows, title=title)
        if footer:
            click.echo(footer)
        return
    texts = [[cell(value, column.dimension) for value, column in zip(row, layout, strict=True)] for row in rows]
    text = plain_table(layout, texts, title=title) + (footer + "\n" if footer else "")
    write_text(to.output, text, force=to.force)
