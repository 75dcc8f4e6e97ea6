"""``simkit calibrate``: profiles from measurements, of this machine or in a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.commands import options
from simkit.commands.destination import FIGURE_SUFFIXES, destination, figure_suffix
from simkit.commands.lazy_group import CommandGroup
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.evidence.silicon.calibrate import Calibration


class FileOrCommand(CommandGroup):
    """Commands whose arguments begin with a table of measurements unless they begin with a subcommand."""

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """A known subcommand, or the fit to a file with everything that was written as its arguments."""
        if args[0] in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        return "FILE.csv", from_file, args


@click.group(cls=FileOrCommand, subcommand_metavar="host | FILE.csv --profile NAME [-o PROFILE.yaml]")
def calibrate() -> None:
    """Profiles from measurements: of this machine, or a profile's kernel parameters fitted to kernel times in a file.

    \b
    simkit calibrate host -o my-machine.yaml
    simkit calibrate my_kernels.csv --profile h100-sxm -o my-h100.yaml
    simkit calibrate my_kernels.csv --help
    """


@calibrate.command(short_help="Measure this machine and write its profile.")
@click.option("-o", "--output", metavar="PROFILE.yaml", required=True, help="The profile to write.")
@click.option("--name", metavar="NAME", default=None, help="Name of the profile.  [default: the file's]")
@click.option("--quick", is_flag=True, help="A quarter of the time, and numbers that scatter more.")
@click.option("--force", is_flag=True, help="Replace the file when it exists.")
def host(*, output: str, name: str | None, quick: bool, force: bool) -> None:
    """Measure this machine and write its profile: caches, DRAM, arithmetic, exponentials, bytes in flight.

    Takes about 40 seconds, compiling included, on all cores that the process may use; other programs may run
    beside it.

    \b
    simkit calibrate host -o my-machine.yaml
    simkit evidence host --profile my-machine.yaml
    """
    from simkit.foundation.output import check_target, write_text

    check_target(output, force=force)
    chosen = name or re.sub(r"[^A-Za-z0-9._-]", "-", Path(output).stem).lstrip("._-") or "this-machine"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", chosen):
        raise UserError(f"'{chosen[:70]}' is not a name for a profile",
                        hint="expected at most 64 letters, digits, '.', '_' and '-', such as my-machine")
    if Path(output).suffix not in (".yaml", ".yml"):
        raise UserError(f"{output}: a profile is a YAML file", hint="such as -o my-machine.yaml")
    from simkit.evidence.host.measure import QUICK_BUDGET_S, WHOLE_BUDGET_S, measure_host
    from simkit.evidence.host.profile import profile_text

    click.echo("measuring this machine", err=True)
    measured = measure_host(budget_s=QUICK_BUDGET_S if quick else WHOLE_BUDGET_S)
    write_text(output, profile_text(measured, chosen), force=force)
    click.echo(f"{output}: {measured.processor}, {measured.cores} cores, {len(measured.levels)} memory levels",
               err=True)


@click.command("calibrate")
@click.argument("file", metavar="FILE.csv[.gz]")
@click.option("--profile", "name", required=True, metavar="NAME", help="The profile that the fit starts from.")
@click.option("-o", "--output", metavar="PROFILE.yaml", default=None, help="Write the profile as fitted.")
@click.option("--plot", metavar="FILE.svg", default=None,
              help="Residuals before and after, .svg, .png or .pdf.  [default: beside PROFILE.yaml]")
@click.option("--keep", default="", metavar="NAME[,...]", help="Parameters left as the profile has them.")
@click.option("--target", default="best", show_default=True, metavar="NAME",
              help="best of the frameworks, sglang, trtllm or vllm.")
@options.profiles_folder
@click.option("--force", is_flag=True, help="Replace output files that exist.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default=None,
              help="How the fitted parameters are printed.  [default: table]")
def from_file(*, file: str, name: str, output: str | None, plot: str | None, keep: str, target: str,
              profiles: str | None, force: bool, form: str | None) -> None:
    """Fit a profile's kernel parameters to measured kernel times, with intervals and a plot of the residuals.

    The table has the columns of `simkit evidence silicon --data`; tools/measure_gpu.py of the repository writes one.
    Parameters that the rows cannot identify stay as the profile has them, and are named.
    """
    from simkit.commands.emit import emit
    from simkit.evidence.silicon.calibrate import calibrate as fit_rows
    from simkit.evidence.silicon.calibrated_profile import calibrated_text, rows_of_profile
    from simkit.evidence.silicon.tables import read_table
    from simkit.foundation.axis_syntax import split_names
    from simkit.foundation.output import check_target, write_text
    from simkit.foundation.tables import Column
    from simkit.hardware.catalog import load_hardware
    from simkit.report.drawing.export import write_figure
    from simkit.report.figures.residuals import residual_figure

    if plot is None and output is not None:
        plot = str(Path(output).with_suffix(".residuals.svg"))
    if plot is not None and figure_suffix(plot) is None:
        raise UserError(f"--plot {plot}: expected a name that ends in {', '.join(FIGURE_SUFFIXES)}")
    for path in (output, plot):
        if path is not None:
            check_target(path, force=force)
    hardware = load_hardware(name, profiles=profiles)
    rows = rows_of_profile(read_table(Path(file), target), hardware)
    found = fit_rows(rows, hardware, split_names([keep]) if keep else [])
    records: list[dict[str, Any]] = [
        {"figure": one.name, "start": one.start, "value": one.value, "low": low, "high": high}
        for one in found.parameters for low, high in [one.interval or (None, None)]]
    if output is not None:
        write_text(Path(output), calibrated_text(found, Path(output).stem, file), force=force)
    if plot is not None:
        write_figure(Path(plot), lambda: residual_figure(found), force=force)
    columns = {"figure": Column("parameter"), "start": Column("before"), "value": Column("fitted"),
               "low": Column("5 %"), "high": Column("95 %")}
    emit(records, destination(form, None, force=False), columns, footer=_errors(found))


def _errors(found: Calibration) -> str:
    import numpy as np

    said = [f"{when}: MAPE {100 * error.mean():.1f} %, median {100 * np.median(error):.1f} %"
            for when, time_s in (("before", found.before_s), ("after", found.after_s))
            for error in [np.abs(time_s / found.rows.time_s - 1.0)]]
    if found.unidentified:
        said.append("not identified by these rows and left as before: " + ", ".join(
            f"{name} (not told apart from {twin})" if twin else name for name, twin in found.unidentified.items()))
    return f"{len(found.rows)} rows; " + "; ".join(said)
