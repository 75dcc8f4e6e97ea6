"""``simkit evidence serving``: served models beside measured systems."""

from __future__ import annotations

from pathlib import Path

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles


@click.command()
@click.option("--data", metavar="FILE.csv[.gz]", required=True,
              help="Measured rows: system, model, precision, framework, isl, osl, concurrency, tp, pp, attention_dp, "
                   "moe_ep, ttft_ms, tpot_ms.")
@click.option("--runtime", default=None, metavar="NAME",
              help="One runtime for all rows.  [default: the calibrated one of each row's framework]")
@click.option("--engine", default="roofline", show_default=True, metavar="ENGINE", help="roofline or replay.")
@options.profiles
@options.records
def serving(*, data: str, runtime: str | None, engine: str, profiles: Profiles, to: Destination) -> None:
    """Whole systems in a closed loop: errors of TPOT and, beside it, of TTFT, by chip, model, framework and precision.

    The last two rows are over all dense models and over all mixtures of experts.

    Errors are |predicted / measured - 1|, as fractions in CSV and JSON. Rows of models and splits that the catalogue
    does not have, or that do not fit, are counted as not compared; "over peak" counts rows, compared like the others,
    whose prompts alone need more flops a second than their chips have: they are not what their labels say.

    \b
    simkit evidence serving --data serving_tpot.csv.gz
    simkit evidence serving --data serving_tpot.csv.gz --runtime ideal
    """
    from simkit.commands.emit import emit
    from simkit.evidence.served_models import compare
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT

    columns = {
        "system": Column(), "model": Column(), "framework": Column(), "precision": Column(),
        "rows": Column(dimension=COUNT), "tpot_median_ape": Column("TPOT median error", COUNT),
        "tpot_mape": Column("TPOT mean error", COUNT), "tpot_bias": Column("TPOT bias", COUNT),
        "ttft_median_ape": Column("TTFT median error", COUNT),
        "not_compared": Column("not compared", COUNT, optional=1), "over_peak": Column("over peak", COUNT, optional=2),
    }
    emit(compare(Path(data), runtime=runtime, engine=engine, chips=profiles.loader()), to, columns)
