"""``simkit evidence accelerators``: decode as measured on accelerators, beside predictions."""

from __future__ import annotations

from pathlib import Path

import click

from simkit.commands.options import (
    destination,
    format_options,
    hardware_option,
    load_profiles,
    profile_loader,
    profile_options,
)


@click.command()
@click.option("--data", metavar="FILE.csv[.gz]", default=None,
              help="A table of measurements with the shipped one's columns.")
@click.option("--engine", default="roofline", show_default=True, metavar="ENGINE", help="roofline or replay.")
@click.option("--points", is_flag=True, help="One record a row, with what was assumed for it.")
@hardware_option(default=None)
@profile_options
@format_options
def accelerators(*, data: str | None, engine: str, points: bool, hardware: list[str], settings: tuple[str, ...],
                 profiles: str | None, form: str | None, output: str | None, force: bool) -> None:
    """Requests, steps, kernels, products and exchanges: errors of times by chip and series, and of the MHA/GQA ratio.

    Errors are of times, predicted over measured less 1, as fractions; naive: bytes and flops at the vendor's peaks.
    Rows that cannot be predicted are counted with the reason. -H compares its profiles only, each with the rows of
    its name and aliases.

    \b
    simkit evidence accelerators
    simkit evidence accelerators -H gaudi2 --points --format csv
    """
    to = destination(form, output, force=force)
    from simkit.commands.console import Column
    from simkit.commands.emit import emit
    from simkit.evidence.accelerators.compare import compare_rows, records
    from simkit.evidence.accelerators.compare import points as of_rows
    from simkit.evidence.silicon.compare import systems_of
    from simkit.foundation.units import COUNT

    load = profile_loader(settings, profiles)
    named = {name: chip for chip in load_profiles(hardware, settings, profiles) for name in systems_of(chip)}
    found = compare_rows(Path(data) if data else None, engine=engine, only=named or None,
                         chips=lambda name: named.get(name) or load(name))
    texts = {"chip": "chip", "series": "series", "quantity": "quantity"}
    columns = {name: Column(heading=heading, liftable=name == "chip") for name, heading in texts.items()}
    if points:
        columns |= {"model": Column(heading="model")} | {name: Column(heading=name, dimension=COUNT) for name in (
            "chips", "batch", "prompt_tokens", "output_tokens", "kv_len", "measured", "predicted", "error")}
        emit(of_rows(found), to, columns | {"why": Column(heading="why", optional=1)})
        return
    numbers = {"rows": "rows", "mape": "MAPE", "median_ape": "median", "bias": "bias", "ratio_rows": "pairs",
               "ratio_median_ape": "ratio", "baseline_mape": "naive MAPE", "baseline_ratio_median_ape": "naive ratio",
               "rows_unpredicted": "unpredicted"}
    columns |= {name: Column(heading=heading, dimension=COUNT) for name, heading in numbers.items()}
    emit(records(found), to, columns | {"why": Column(heading="why", optional=1)})
