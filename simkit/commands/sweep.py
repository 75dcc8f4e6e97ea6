"""``simkit sweep``: every point of a study into one file, in parts that survive the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.commands import options
from simkit.commands.options import Profiles

if TYPE_CHECKING:
    from simkit.study.grid import Grid


def destination(function: options.Command) -> options.Command:
    """``--resume``, ``--workers`` and ``--cluster``: how a file of every point is made."""
    for option in (
            click.option("--cluster", metavar="ADDRESS", default=None,
                         help="A Dask scheduler, such as tcp://host:8786, instead of processes here."),
            click.option("--workers", type=options.Whole(1, 1024), default=None, metavar="N",
                         help="Processes on this machine.  [default: one, this one]"),
            click.option("--resume", is_flag=True, help="Go on with the finished parts of an earlier run.")):
        function = option(function)
    return function


@click.command()
@click.argument("study")
@click.option("-o", "--output", metavar="FILE", required=True, help="A .parquet or .csv file.")
@destination
@click.option("--engine", default=None, metavar="ENGINE", help="roofline or replay.  [default: the study's]")
@click.option("--no-cache", is_flag=True, help="Replay every point, also those kept on disk (SIMKIT_CACHE).")
@click.option("--force", is_flag=True, help="Replace the file and unfinished parts that stand there.")
@options.profiles
@click.option("--studies", metavar="DIR", default=None, help="A folder of studies searched before the shipped ones.")
@click.pass_context
def sweep(ctx: click.Context, /, *, study: str, output: str, engine: str | None, no_cache: bool, profiles: Profiles,
          studies: str | None, **how: Any) -> None:
    """Evaluate every point of STUDY: its chips, models and layouts at every batch and context.

    Points are computed in parts beside the file (FILE.parts) and joined at the end. A run that was killed, ran out of
    disk or lost a worker goes on with --resume and ends with the same bytes; so does any number of workers.

    \b
    simkit sweep gqa_on_asics -o results.parquet --workers 2
    simkit sweep my-study.yaml -o results.csv --resume
    """
    from simkit.study.engines import engine_named
    from simkit.study.study_file import load_study

    if engine is not None:
        engine_named(engine)
    loaded = {suffix: load_study(study, profiles=profiles.folder, studies=studies, overrides=overrides,
                                 most_points=None) for suffix, overrides in profiles.variants.items()}
    hardware = tuple(replace(chip, name=chip.name + suffix) for suffix, one in loaded.items() for chip in one.hardware)
    write_points(ctx, replace(next(iter(loaded.values())), hardware=hardware).grid(engine=engine), output,
                 cache=not no_cache, **how)


def write_points(ctx: click.Context, grid: Grid, output: str, *, cache: bool = True, **how: Any) -> None:
    """Every point of a grid into a file; ``how``: ``resume``, ``force``, ``workers`` and ``cluster``."""
    from simkit.commands.console import ProgressLine
    from simkit.commands.lazy_group import FAILED
    from simkit.foundation.errors import UserError
    from simkit.sweep import executors
    from simkit.sweep.sweep_run import Progress, WorkerLostError, run_sweep

    for one, other in (("workers", "cluster"), ("resume", "force")):
        if how[one] and how[other]:
            raise UserError(f"--{one} and --{other}: give one of them")
    line, workers = ProgressLine("points"), how["workers"]

    def tell(progress: Progress) -> None:
        line(done=progress.done_points, of=progress.points, kept=progress.kept_points, elapsed_s=progress.elapsed_s)

    if how["cluster"] is not None:
        place = executors.cluster(how["cluster"])
    else:
        place = executors.here() if workers in {None, 1} else executors.processes(workers or 1)
    try:
        with place as given:
            written = run_sweep(grid, Path(output), workers=given, resume=how["resume"], force=how["force"],
                                cache=cache, progress=tell)
    except WorkerLostError as error:
        line.end()
        click.echo(f"error: {error}", err=True)
        ctx.exit(FAILED)
    except BaseException:
        line.end()
        raise
    click.echo(str(written))
