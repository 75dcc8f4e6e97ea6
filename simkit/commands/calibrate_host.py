"""``simkit calibrate host``: a profile of the machine that simkit runs on, from measurements."""

from __future__ import annotations

import re
from pathlib import Path

import click


@click.command()
@click.option("-o", "--output", metavar="PROFILE.yaml", required=True, help="The profile to write.")
@click.option("--name", metavar="NAME", default=None, help="Name of the profile.  [default: the file's]")
@click.option("--quick", is_flag=True, help="A quarter of the time, and figures that scatter more.")
@click.option("--force", is_flag=True, help="Replace the file when it exists.")
def host(*, output: str, name: str | None, quick: bool, force: bool) -> None:
    """Measure this machine and write its profile: caches, DRAM, arithmetic, exponentials, bytes in flight.

    Takes about 40 seconds, compiling included, on all cores that the process may use; other programs may run
    beside it.

    \b
    simkit calibrate host -o my-machine.yaml
    simkit evidence host --profile my-machine.yaml
    """
    from simkit.foundation.errors import UserError
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
    figures = measure_host(budget_s=QUICK_BUDGET_S if quick else WHOLE_BUDGET_S)
    write_text(output, profile_text(figures, chosen), force=force)
    click.echo(f"{output}: {figures.processor}, {figures.cores} cores, {len(figures.levels)} memory levels", err=True)
