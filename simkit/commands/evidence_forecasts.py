"""``simkit evidence forecasts``: dated predictions of steps that nobody has published, and what measurements say."""

from __future__ import annotations

from pathlib import Path

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles


@click.command()
@click.option("--data", metavar="FILE.csv[.gz]", default=None,
              help="Measured rows with the columns of evidence accelerators; only forecasts that they judge are shown.")
@click.option("--forecasts", "table", metavar="FILE.csv", default=None, help="Forecasts instead of the shipped ones.")
@options.profiles
@options.records
def forecasts(*, data: str | None, table: str | None, profiles: Profiles, to: Destination) -> None:
    """Predictions of steps on chips of which nobody has published any, with the bounds and digest of their day.

    With --data: the measured value, the error of the likely one, and the bound that holds it (50, 90 or none). Rows
    match by chip, model, KV heads, formats, chips, batch, and context within a tenth. state says whether today's
    profile, model, priors and residuals are still those of the day, and give the same answer.

    \b
    simkit evidence forecasts
    simkit evidence forecasts --data measured.csv --format csv
    """
    from simkit.commands.emit import emit
    from simkit.evidence.accelerators.forecasts import read_forecasts, score, summary
    from simkit.evidence.accelerators.table import read_rows
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT

    records = score(read_forecasts(Path(table) if table else None), read_rows(Path(data)) if data else [],
                    profiles.loader())
    footer = summary(records)
    if data:
        records = [one for one in records if one["measured"] is not None]
    columns = {name: Column(name.replace("_", " "), optional=optional, liftable=name != "attention")
               for name, optional in {"made": 3, "chip": 0, "model": 0, "attention": 0, "chips": 1}.items()}
    columns |= {name: Column(dimension=COUNT) for name in ("batch", "kv_len")} | {"quantity": Column(liftable=True)}
    columns |= {name: Column(name.replace("_", " "), COUNT) for name in (
        "low_90", "low_50", "likely", "high_50", "high_90", *(("measured", "error") if data else ()))}
    emit(records, to, columns | ({"inside": Column("inside %")} if data else {}) | {"state": Column(optional=2)},
         footer=footer)
