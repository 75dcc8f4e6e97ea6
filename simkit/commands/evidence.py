"""``simkit evidence``: predictions beside measured data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from simkit.commands import options
from simkit.commands.lazy_group import CommandGroup
from simkit.commands.options import Destination

COMMANDS: Final = {
    "accelerators": "Requests, steps, kernels and exchanges of accelerators, beside predictions.",
    "forecasts": "Dated predictions with bounds of steps that nobody has published, and their score.",
    "published": "Figures that papers and vendors print, beside the engines' for the same setup.",
    "host": "Real decode attention on this machine, beside the prediction.",
    "serving": "Time to first token and per token of served models, beside measured systems.",
    "silicon": "Predicted times of kernels beside measured ones, and of the advantage over MHA.",
    "transfer": "Leave one chip out: a chip that nobody measured, predicted from the others.",
}


@click.group(cls=CommandGroup, lazy=COMMANDS, prefix="evidence_")
def evidence() -> None:
    """Predictions beside measured data."""


@evidence.command()
@click.option("--data", metavar="FILE.csv", default=None, help="A table of runs instead of the shipped one.")
@options.records
def dram(*, data: str | None, to: Destination) -> None:
    """The DRAM event model beside cycle-accurate simulators: error of the achieved bandwidth, pattern by pattern."""
    from simkit.commands.emit import emit
    from simkit.evidence.dram import compare
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT

    columns = {
        "pattern": Column(), "dram_type": Column("DRAM"), "rows": Column(dimension=COUNT),
        "mean_relative_error": Column("mean error", COUNT), "max_relative_error": Column("max error", COUNT),
        "rank_correlation": Column("rank correlation", COUNT),
        "cross_check_mean_relative_error": Column("cross-check mean", COUNT, optional=1),
        "skipped": Column(dimension=COUNT, optional=2),
    }
    records = compare(Path(data) if data else None)
    emit(records, to, columns, footer=_overall(records))


def _overall(records: list[dict[str, Any]]) -> str | None:
    """All rows that were replayed, in one line."""
    replayed = [record for record in records if record["rows"]]
    rows = sum(record["rows"] for record in replayed)
    if not rows:
        return None
    mean = sum(record["rows"] * record["mean_relative_error"] for record in replayed) / rows
    worst = max(record["max_relative_error"] for record in replayed)
    return f"all {rows} rows: mean error {mean:.2%}, largest {worst:.2%}"
