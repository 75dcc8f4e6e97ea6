"""``simkit evidence published``: figures that papers and vendors print, beside the engines' for the same setup."""

from __future__ import annotations

from pathlib import Path

import click

from simkit.commands import options
from simkit.commands.options import Destination


@click.command()
@click.option("--data", metavar="FILE.yaml", default=None,
              help="A table of published figures instead of the shipped one.")
@click.option("--only", metavar="ID", default=None, help="Rows whose id starts with this, such as groq or cs336.mha.")
@options.assume
@options.records
def published(*, data: str | None, only: str | None, to: Destination) -> None:
    """Figures that papers and vendors print: theirs, ours, their ratio, what was assumed, and whether it holds.

    Exact rows are arithmetic, calib rows may have been fitted, predict rows never are; shape rows keep an order, and
    plain decode must not reach the negative ones. Ratios are ours over theirs.

    \b
    simkit evidence published --only scaling-book
    """
    from simkit.commands.emit import emit
    from simkit.evidence.published import compare, summary
    from simkit.evidence.published_table import read_published
    from simkit.foundation.errors import UserError
    from simkit.foundation.tables import Column
    from simkit.foundation.units import BYTES, COUNT, SECONDS, format_quantity

    path = Path(data) if data else None
    records = compare(path, only=only)
    if not records:
        papers = dict.fromkeys(row.id.partition(".")[0] for row in read_published(path))
        raise UserError(f"no row's id begins with '{only}'", hint="known: " + ", ".join(papers))
    columns = {
        "id": Column("row"), "quantity": Column(optional=3), "published_text": Column("published"),
        "ours_text": Column("ours"), "ratio": Column(dimension=COUNT), "tolerance": Column(dimension=COUNT),
        "split": Column(), "verdict": Column(), "note": Column(optional=2),
    }
    assumed = {record["paper"]: record["assumptions"] for record in records}

    def text(value: float | None, unit: str) -> str | None:
        dimension = {"s": SECONDS, "B": BYTES}.get(unit, COUNT)
        return None if value is None else format_quantity(value, dimension, digits=4)

    records = [{**record, "published_text": text(record["published"], record["unit"]),
                "ours_text": text(record["ours"], record["unit"])} for record in records]
    lines = [f"{paper}\n  assumed: {assumptions}" for paper, assumptions in assumed.items()]
    emit(records, to, columns, footer="\n".join([*lines, summary(records)]))
