"""``simkit evidence accelerators``: decode as measured on accelerators, beside predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.hardware.profile import HardwareProfile


@click.command()
@click.option("--data", metavar="FILE.csv[.gz]", default=None,
              help="A table of measurements with the shipped one's columns.")
@click.option("--engine", default="roofline", show_default=True, metavar="ENGINE", help="roofline or replay.")
@click.option("--points", is_flag=True, help="One record a row: what was assumed for it, and bounds of its value.")
@click.option("--coverage", is_flag=True, help="How often rows lie within bounds that other chips' rows give.")
@options.hardware(default=None)
@options.profiles
@options.records
def accelerators(*, data: str | None, engine: str, points: bool, coverage: bool, hardware: list[str],
                 profiles: Profiles, to: Destination) -> None:
    """Requests, steps, kernels, products and exchanges: errors of times by chip and series, and of the MHA/GQA ratio.

    Errors are of times, predicted over measured less 1, as fractions; naive: bytes and flops at the vendor's peaks.
    Rows that cannot be predicted are counted with the reason. -H compares its profiles only, each with the rows of
    its name and aliases.

    \b
    simkit evidence accelerators
    simkit evidence accelerators -H gaudi2 --points --format csv
    """
    from simkit.commands.emit import emit
    from simkit.evidence.accelerators.compare import compare_rows, records
    from simkit.evidence.accelerators.intervals import coverage as covered
    from simkit.evidence.accelerators.intervals import points as of_rows
    from simkit.evidence.silicon.compare import systems_of
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT

    load = profiles.loader()
    named = {name: chip for chip in profiles.load(hardware) for name in systems_of(chip)}

    def chips(name: str) -> HardwareProfile:
        return named.get(name) or load(name)

    # Bounds of a chip's rows come from those of all others.
    only = None if points or coverage else named or None
    found = compare_rows(Path(data) if data else None, engine=engine, only=only, chips=chips)
    wanted = set(named)
    if wanted and not any(row.chip in wanted for row in found.rows):
        raise UserError(f"no rows of {', '.join(hardware)}, by name or alias", hint="the table's chips: simkit "
                        "evidence accelerators without -H lists them")
    texts = {"chip": "chip", "series": "series", "quantity": "quantity"}
    columns = {name: Column(heading, liftable=name == "chip") for name, heading in texts.items()}
    if points:
        columns |= {"model": Column()} | {name: Column(name, COUNT) for name in (
            "chips", "batch", "prompt_tokens", "output_tokens", "kv_len", "measured", "predicted", "error")}
        rows = [one for one in of_rows(found, chips) if not wanted or one["chip"] in wanted]
        emit(rows, to, columns | {"why": Column(optional=1)})
        return
    if coverage:
        shown = {"known_by": Column("known by"), "kind": Column()} | {
            name: Column(name.replace("_", " "), dimension=COUNT) for name in (
                "rows", "inside_50", "inside_90", "low_90", "high_90")}
        emit([one for one in covered(found, chips) if not wanted or one["chip"] in wanted], to,
             {"chip": columns["chip"]} | shown)
        return
    numbers = {"rows": "rows", "mape": "MAPE", "median_ape": "median", "bias": "bias", "ratio_rows": "pairs",
               "ratio_median_ape": "ratio", "baseline_mape": "naive MAPE", "baseline_ratio_median_ape": "naive ratio",
               "rows_unpredicted": "unpredicted"}
    columns |= {name: Column(heading, COUNT) for name, heading in numbers.items()}
    emit(records(found), to, columns | {"why": Column(optional=1)})
