"""``simkit evidence transfer``: a chip that nobody measured, predicted from the others."""

from __future__ import annotations

from pathlib import Path

import click

from simkit.commands import options
from simkit.commands.evidence_silicon import emit_errors
from simkit.commands.options import Destination


@click.command()
@click.option("--data", metavar="FILE.csv[.gz]", default=None,
              help="Measured attention kernels or products of three systems or more instead of the shipped table.")
@click.option("--sample", type=click.IntRange(min=60), default=250, show_default=True, metavar="N",
              help="Rows a chip that the fits see; all rows are scored.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="Random seed for sampling.")
@options.profiles_folder
@options.records
def transfer(*, data: str | None, sample: int, seed: int, profiles: str | None, to: Destination) -> None:
    """Leave one chip out: how well a chip that nobody measured is predicted from its datasheet and the others.

    For each chip of the table all kernel figures are fitted anew on the other chips' rows (about a minute in all),
    carried over by rule, and scored on the chip's own rows.
    """
    from simkit.evidence.silicon.transfer import transfer as leave_one_out

    records = leave_one_out(Path(data) if data else None, sample=sample, seed=seed, profiles=profiles)
    emit_errors(records, to)
