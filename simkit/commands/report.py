"""``simkit report``: a study as a page with figures and data."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import click

from simkit.commands import options
from simkit.commands.options import Profiles


@click.command()
@click.argument("study", required=False)
@click.option("-o", "--output", metavar="DIR", default=None, help="Folder to write.  [default: out/STUDY]")
@click.option("--force", is_flag=True, help="Replace files there that were changed or that no report wrote.")
@options.profiles
@click.option("--studies", metavar="DIR", default=None, help="A folder of studies searched before the shipped ones.")
def report(*, study: str | None, output: str | None, force: bool, profiles: Profiles, studies: str | None) -> None:
    """Run a study and write its page, its figures and the data behind them.

    STUDY is a name of the catalogue or a file; the default asks where GQA stops paying on inference ASICs.

    \b
    simkit report
    simkit report my-study.yaml -o out/my-study
    """
    from simkit.report.build import build_report, default_folder
    from simkit.study.study_file import DEFAULT_STUDY, load_study

    loaded = load_study(study or DEFAULT_STUDY, profiles=profiles.folder, studies=studies,
                        overrides=profiles.overrides)
    command = ["simkit", "report", *([study] if study else [])]
    for option, value in (("--profiles", profiles.folder), ("--studies", studies)):
        command += [option, value] if value else []
    for setting in profiles.settings:
        command += ["--set", setting]
    page = build_report(loaded, Path(output) if output else default_folder(loaded), force=force,
                        command=shlex.join(command), progress=partial(click.echo, err=True))
    click.echo(str(page))
