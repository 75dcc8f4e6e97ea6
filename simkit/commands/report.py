"""``simkit report``: a study as a page with figures and data."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Final

import click

from simkit.commands import options
from simkit.commands.options import Profiles

FEW_FIGURES: Final = 3  # up to which a report takes less time than further processes take to start
MOST_WORKERS: Final = 4


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
    from simkit.sweep.executors import cores

    loaded = load_study(study or DEFAULT_STUDY, profiles=profiles.folder, studies=studies,
                        overrides=profiles.overrides)
    command = ["simkit", "report", *([study] if study else [])]
    for option, value in (("--profiles", profiles.folder), ("--studies", studies)):
        command += [option, value] if value else []
    for setting in profiles.settings:
        command += ["--set", setting]
    workers = min(cores(), MOST_WORKERS) if len(loaded.figures) > FEW_FIGURES else 1
    page = build_report(loaded, Path(output) if output else default_folder(loaded), force=force,
                        command=shlex.join(command), progress=partial(click.echo, err=True), workers=workers)
    click.echo(str(page))
