"""``simkit evidence silicon``: predicted kernel times beside measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.evidence.silicon.compare import SystemComparison

_FOOTER: Final = "errors in %; advantage: median error of the speed-up over MHA; naive: peak-rate roofline"


@click.command()
@click.option("--data", metavar="FILE.csv[.gz]", default=None,
              help="Measured kernels (attention, MLA, products, mixtures, all-reduces, modules of sparse attention, "
                   "recurrences, told apart by columns) instead of the shipped tables.")
@click.option("--engine", default="roofline", show_default=True, metavar="ENGINE", help="roofline or replay.")
@click.option("--target", default="best", show_default=True, metavar="NAME",
              help="best of the frameworks, sglang, trtllm or vllm.")
@click.option("--sample", type=click.IntRange(min=1), default=None, metavar="N",
              help="At most N rows a system, drawn at random; the replay engine takes 200 by itself.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="Random seed for sampling and intervals.")
@click.option("--figures", metavar="DIR", default=None,
              help="Also draw predicted_against_measured.svg and error_by_regime.svg there.")
@options.hardware(default=None)
@options.profiles
@options.records
def silicon(*, data: str | None, engine: str, target: str, sample: int | None, seed: int, figures: str | None,
            hardware: list[str], profiles: Profiles, to: Destination) -> None:
    """Measured kernels beside predictions: errors by system and regime, and of the advantage over MHA.

    Errors are |predicted / measured - 1|, as fractions in CSV and JSON; intervals (5-95 %) resample configurations.
    serving: at least 512 tokens and 4 sequences; beyond_cache: more bytes than twice the last on-chip cache. The
    baseline is the naive roofline at peak rates. Systems without a profile are listed with the reason; -H compares its
    profiles only, each with the rows of its name and aliases (or with all rows of a table of one system).

    \b
    simkit evidence silicon
    simkit evidence silicon --data my_kernels.csv --target vllm --format json
    """
    from simkit.commands.console import warn
    from simkit.evidence.silicon.compare import compare_systems, comparison_records

    found = compare_systems(Path(data) if data else None, engine=engine, target=target, sample=sample, seed=seed,
                            profiles=profiles.folder, overrides=profiles.overrides, chips=profiles.load(hardware))
    records = [record for one in found for record in comparison_records(one, engine=engine, target=target, seed=seed)]
    if figures is not None:
        _draw(found, Path(figures), force=to.force)
    for record in records:
        if record["skip_reason"]:
            warn(f"{record['system']}: {record['rows']} rows skipped: {record['skip_reason']}")
    emit_errors(records, to)


def _draw(found: list[SystemComparison], folder: Path, *, force: bool) -> None:
    from simkit.report.drawing.export import write_figure
    from simkit.report.figures.error_by_regime import error_by_regime
    from simkit.report.figures.predicted_against_measured import predicted_against_measured

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"--figures {folder}: {problem.strerror}") from None
    write_figure(folder / "predicted_against_measured.svg", lambda: predicted_against_measured(found), force=force)
    if any(one.rows.kind == "decode_attention" for one in found):
        write_figure(folder / "error_by_regime.svg", lambda: error_by_regime(found), force=force)


def emit_errors(records: list[dict[str, Any]], to: Destination) -> None:
    """Errors by system and regime; in tables as percentages."""
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT

    columns = {
        "system": Column(), "regime": Column(), "rows": Column(dimension=COUNT), "mape": Column("MAPE", COUNT),
        "mape_interval": Column("5-95 %", COUNT, optional=2), "median_ape": Column("median", COUNT),
        "median_interval": Column("5-95 %", COUNT, optional=3), "p90_ape": Column("p90", COUNT, optional=1),
        "bias": Column(dimension=COUNT, optional=1), "advantage_median_ape": Column("advantage", COUNT),
        "baseline_mape": Column("naive MAPE", COUNT), "baseline_median_ape": Column("median", COUNT, optional=1),
    }
    shown = [_for_people(record) for record in records] if to.is_table else records
    emit(shown, to, columns, footer=_FOOTER)


def _for_people(record: dict[str, Any]) -> dict[str, Any]:
    """Fractions as percentages, intervals in one cell."""
    shown = dict(record)
    for name in ("mape", "median_ape", "p90_ape", "bias", "advantage_median_ape", "baseline_mape",
                 "baseline_median_ape"):
        shown[name] = percent(record[name])
    for cell, name in (("mape_interval", "mape"), ("median_interval", "median_ape")):
        low, high = record[f"{name}_low"], record[f"{name}_high"]
        shown[cell] = None if low is None else f"{percent(low)}-{percent(high)}"
    return shown


def percent(fraction: float | None) -> str | None:
    """A fraction in per cent with one decimal."""
    return None if fraction is None else f"{100 * fraction:.1f}"
