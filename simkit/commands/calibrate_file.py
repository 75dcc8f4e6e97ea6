"""``simkit calibrate FILE.csv``: fit a profile's kernel figures to measured kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.commands import options
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.evidence.silicon.calibrate import Calibration


@click.command("calibrate")
@click.argument("file", metavar="FILE.csv[.gz]")
@click.option("--profile", "name", required=True, metavar="NAME", help="The profile that the fit starts from.")
@click.option("-o", "--output", metavar="PROFILE.yaml", default=None, help="Write the profile with the fitted figures.")
@click.option("--plot", metavar="FILE.svg", default=None,
              help="Residuals before and after, .svg, .png or .pdf.  [default: beside PROFILE.yaml]")
@click.option("--keep", default="", metavar="FIGURE[,...]", help="Figures left as the profile has them.")
@click.option("--target", default="best", show_default=True, metavar="NAME",
              help="best of the frameworks, sglang, trtllm or vllm.")
@options.profiles_folder
@click.option("--force", is_flag=True, help="Replace output files that exist.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default=None,
              help="How the fitted figures are printed.  [default: table]")
def from_file(*, file: str, name: str, output: str | None, plot: str | None, keep: str, target: str,
              profiles: str | None, force: bool, form: str | None) -> None:
    """Fit a profile's kernel figures to measured kernel times, with intervals and a plot of the residuals.

    The table has the columns of `simkit evidence silicon --data`; tools/measure_gpu.py of the repository writes one.
    Figures that the rows cannot identify stay as the profile has them, and are named.
    """
    from simkit.commands.emit import emit
    from simkit.evidence.silicon.calibrate import calibrate as fit_rows
    from simkit.evidence.silicon.calibrated_profile import calibrated_text, rows_of_profile
    from simkit.evidence.silicon.tables import read_table
    from simkit.foundation.axis_syntax import split_names
    from simkit.foundation.output import check_target, write_text
    from simkit.foundation.tables import Column
    from simkit.foundation.units import COUNT
    from simkit.hardware.catalog import load_hardware
    from simkit.report.drawing.export import write_figure
    from simkit.report.figures.residuals import residual_figure

    if plot is None and output is not None:
        plot = str(Path(output).with_suffix(".residuals.svg"))
    if plot is not None and options.figure_suffix(plot) is None:
        raise UserError(f"--plot {plot}: expected a name that ends in {', '.join(options.FIGURE_SUFFIXES)}")
    for path in (output, plot):
        if path is not None:
            check_target(path, force=force)
    hardware = load_hardware(name, profiles=profiles)
    rows = rows_of_profile(read_table(Path(file), target), hardware)
    found = fit_rows(rows, hardware, split_names([keep]) if keep else [])
    records: list[dict[str, Any]] = [
        {"figure": figure.name, "start": figure.start, "value": figure.value, "low": low, "high": high}
        for figure in found.parameters for low, high in [figure.interval or (None, None)]]
    if output is not None:
        write_text(Path(output), calibrated_text(found, Path(output).stem, file), force=force)
    if plot is not None:
        write_figure(Path(plot), lambda: residual_figure(found), force=force)
    columns = {"figure": Column(), "start": Column("before", COUNT), "value": Column("fitted", COUNT),
               "low": Column("5 %", COUNT), "high": Column("95 %", COUNT)}
    emit(records, options.destination(form, None, force=False), columns, footer=_errors(found))


def _errors(found: Calibration) -> str:
    import numpy as np

    said = [f"{when}: MAPE {100 * error.mean():.1f} %, median {100 * np.median(error):.1f} %"
            for when, time_s in (("before", found.before_s), ("after", found.after_s))
            for error in [np.abs(time_s / found.rows.time_s - 1.0)]]
    if found.unidentified:
        said.append(f"not identified by these rows and left as before: {', '.join(found.unidentified)}")
    return f"{len(found.rows)} rows; " + "; ".join(said)
