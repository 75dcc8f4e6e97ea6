"""``simkit profile``: list, show, check, schema, diff and new."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from simkit.commands import options
from simkit.commands.lazy_group import CommandGroup
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import UserError

if TYPE_CHECKING:
    from simkit.hardware.profile import HardwareProfile


@click.group(cls=CommandGroup)
def profile() -> None:
    """List, show, check, compare and write hardware profiles."""


@profile.command("list")
@options.profiles_folder
@options.records
def list_command(*, profiles: str | None, to: Destination) -> None:
    """Every profile of the catalogue, with the parameters that decide where GQA pays."""
    from simkit.commands.console import warn_of
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.hardware.catalog import list_hardware
    from simkit.hardware.summary import BALANCE, summaries

    columns = {
        "name": Column(), "title": Column(optional=2), "kind": Column(), "memory": Column(optional=1),
        "capacity_bytes": Column("capacity"), "bandwidth_bytes_per_s": Column("bandwidth"),
        "ridge_flop_per_byte": Column(BALANCE), "sharding": Column(optional=3),
        "max_chips": Column("max chips"),
    }
    emit(summaries(list_hardware(profiles, warn_of)), to, columns)


@profile.command()
@click.argument("name")
@options.profiles
@options.records_or_figure
def show(*, name: str, profiles: Profiles, to: Destination) -> None:
    """The memory hierarchy of a profile as a diagram, and every parameter with its source and the ridge points.

    With -o FILE.svg, .png or .pdf the diagram alone.

    \b
    simkit profile show h100-sxm
    simkit profile show groq-lpu --format json
    simkit profile show h100-sxm -o h100-sxm.svg
    """
    (chip,) = profiles.load([name])
    if to.figure is not None:
        from simkit.report.drawing.export import write_figure
        from simkit.report.figures.memory_hierarchy import draw_hierarchy

        write_figure(to.figure, lambda: draw_hierarchy(chip).figure, force=to.force)
        click.echo(str(to.figure))
        return
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.hardware.summary import parameter_records

    if to.is_table and to.output is None:
        click.echo(f"{chip.name}: {chip.title}, {chip.vendor} {chip.kind}" + (f", {chip.year}" if chip.year else ""))
        click.echo(f"file: {chip.file}")
        if chip.aliases:
            click.echo(f"in measured data: {', '.join(chip.aliases)}")
        click.echo()
        _print_hierarchy(chip)
        click.echo()
    columns = {
        "key": Column("parameter"), "text": Column("value"), "confidence": Column(), "source": Column(),
        "note": Column(optional=1),
    }
    emit(parameter_records(chip), to, columns)
    if to.is_table and to.output is None:
        for note in chip.notes:
            click.echo(f"note: {note}")


def _print_hierarchy(chip: HardwareProfile) -> None:
    """The memory levels between the compute units and other chips, as boxes."""
    from simkit.commands.console import print_boxes
    from simkit.hardware.hierarchy import compute_words, fabric_rows, level_words, link_words

    levels = [level_words(chip, level) for level in chip.memory]
    boxes = [list(compute_words(chip)), *([item.heading, item.size, f"holds {item.holds}"] for item in levels)]
    link = link_words(chip)
    print_boxes(boxes, [f"{item.path}; {item.ridge}" for item in levels], foot=link and f"other chips: {link}")
    for row in fabric_rows(chip):
        click.echo(f"  {row}")


@profile.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@options.profiles_folder
def check(*, files: tuple[str, ...], profiles: str | None) -> None:
    """Check profiles (all of the catalogue when none is named): every problem at once, as file:line:column.

    Exit code 2 when there are errors; warnings alone leave it at 0.
    """
    from simkit.foundation.named_files import catalogue_files, find_file, user_folders
    from simkit.hardware.catalog import KIND, VARIABLE
    from simkit.hardware.lint import check_profile

    folders = user_folders(profiles, VARIABLE)
    paths = ([find_file(name, kind=KIND, what="hardware profile", folders=folders) for name in files]
             or list(catalogue_files(KIND, folders).values()))
    errors = warnings = 0
    for path in paths:
        for finding in check_profile(path, folders):
            click.echo(str(finding))
            errors += finding.severity == "error"
            warnings += finding.severity == "warning"
    files_checked = "1 profile" if len(paths) == 1 else f"{len(paths)} profiles"
    click.echo(f"{files_checked} checked: {_count(errors, 'error')}, {_count(warnings, 'warning')}", err=True)
    if errors:
        click.get_current_context().exit(2)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@profile.command()
@click.option("-o", "--output", metavar="FILE", default=None, help="Write to a file instead of the standard output.")
@options.force
def schema(*, output: str | None, force: bool) -> None:
    """The JSON Schema of a profile, for editors that complete and check while typing."""
    import json

    from simkit.foundation.output import write_text
    from simkit.hardware.json_schema import profile_json_schema

    text = json.dumps(profile_json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text, force=force)


@profile.command()
@click.argument("first")
@click.argument("second")
@click.option("-M", "--model", default=options.DEFAULT_MODEL, show_default=True, metavar="NAME",
              help="Model of the reference decode.")
@options.point()
@options.profiles
@options.records
def diff(*, first: str, second: str, profiles: Profiles, to: Destination, **point: Any) -> None:
    """Parameters in which two profiles differ, and what it does to a reference decode (MHA and GQA-8).

    --set applies to the second profile, so that a what-if can be compared with the chip itself:

    \b
    simkit profile diff h100-sxm h200-sxm
    simkit profile diff h100-sxm h100-sxm --set memory.hbm.bandwidth=8TB/s
    """
    from simkit.commands.emit import emit
    from simkit.foundation.tables import Column
    from simkit.study.compare_profiles import compare_profiles

    records = compare_profiles(replace(profiles, settings=()).load([first]), profiles.load([second]), **point)
    columns = {"key": Column("parameter"), "first_text": Column(first),
               "second_text": Column(second + " with --set" * bool(profiles.settings)),
               "ratio": Column()}
    if not records and to.is_table:
        click.echo("no parameter differs")
        return
    unlike = any(record["key"].endswith(": chips") for record in records)
    emit(records, to, columns, footer="the reference decode runs on as many chips as each needs" if unlike else None)


@profile.command()
@click.argument("name")
@click.option("--like", default=None, metavar="PROFILE",
              help="The profile to start from, with its comments; without it, questions on a terminal.")
@click.option("-o", "--output", metavar="FILE", default=None, help="File to write.  [default: NAME.yaml]")
@options.force
@options.profiles_folder
def new(*, name: str, like: str | None, output: str | None, force: bool, profiles: str | None) -> None:
    """Write a commented profile that starts as a copy of another, or from answers to questions.

    \b
    simkit profile new my-chip --like h100-sxm -o my-chip.yaml
    simkit profile new my-chip
    """
    from simkit.foundation.output import check_target, write_text
    from simkit.hardware.authoring import copy_profile, require_name
    from simkit.hardware.questions import ask_profile

    require_name(name)
    target = output or f"{name}.yaml"
    check_target(target, force=force)
    if like is not None:
        text = copy_profile(name, like, profiles=profiles)
    elif _on_a_terminal():
        text = ask_profile(name, _ask, lambda words: click.echo(words, err=True))
    else:
        raise UserError("questions need a terminal, and the standard input is none",
                        hint=f"name a profile to start from: simkit profile new {name[:40]} --like h100-sxm")
    write_text(target, text, force=force)
    click.echo(f"{target}: written; edit its parameters and sources, then: simkit profile check {target}", err=True)


def _on_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(question: str, read: Callable[[str], str], *, default: str | None = None) -> str:
    """One question on stderr, put again until the answer can be read."""

    def checked(text: str) -> str:
        try:
            return read(text)
        except UserError as error:
            raise click.BadParameter(f"{error.message}; {error.hint}" if error.hint else error.message) from None

    answer: str = click.prompt(question, default=default, show_default=bool(default), value_proc=checked, err=True)
    return answer
