"""``simkit evidence``: predictions beside measured data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from simkit.commands.lazy_group import CommandGroup, LazyCommand
from simkit.commands.options import destination, format_options

COMMANDS: Final = {
    "accelerators": LazyCommand(target="simkit.commands.evidence_accelerators:accelerators",
                                help="Requests, steps, kernels and exchanges of accelerators, beside predictions."),
    "published": LazyCommand(target="simkit.commands.evidence_published:published",
                             help="Figures that papers and vendors print, beside the engines' for the same setup."),
    "host": LazyCommand(target="simkit.commands.evidence_host:host",
                        help="Real decode attention on this machine, beside the prediction."),
    "serving": LazyCommand(target="simkit.commands.evidence_serving:serving",
                           help="Time to first token and per token of served models, beside measured systems."),
    "silicon": LazyCommand(target="simkit.commands.evidence_silicon:silicon",
                           help="Predicted times of kernels beside measured ones, and of the advantage over MHA."),
    "transfer": LazyCommand(target="simkit.commands.evidence_silicon:transfer",
                            help="Leave one chip out: a chip that nobody measured, predicted from the others."),
}


@click.group(cls=CommandGroup, lazy=COMMANDS)
def evidence() -> None:
    """Predictions beside measured data."""


@evidence.command()
@click.option("--data", metavar="FILE.csv", default=None, help="A table of runs instead of the shipped one.")
@format_options
def dram(*, data: str | None, form: str | None, output: str | None, force: bool) -> None:
    """The DRAM event model beside cycle-accurate simulators: error of the achieved bandwidth, pattern by pattern."""
    to = destination(form, output, force=force)
    from simkit.commands.console import Column
    from simkit.commands.emit import emit
    from simkit.evidence.dram import compare
    from simkit.foundation.units import COUNT

    columns = {
        "pattern": Column(heading="pattern"), "dram_type": Column(heading="DRAM"),
        "rows": Column(heading="rows", dimension=COUNT),
        "mean_relative_error": Column(heading="mean error", dimension=COUNT),
        "max_relative_error": Column(heading="max error", dimension=COUNT),
        "rank_correlation": Column(heading="rank correlation", dimension=COUNT),
        "cross_check_mean_relative_error": Column(heading="cross-check mean", dimension=COUNT, optional=1),
        "skipped": Column(heading="skipped", dimension=COUNT, optional=2),
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
