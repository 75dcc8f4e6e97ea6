"""``simkit profile``: list, show, check, schema, diff and new."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options
from simkit.commands.lazy_group import CommandGroup
from simkit.commands.options import Destination, Profiles
from simkit.foundation.errors import Location, UserError, UserErrorGroup

if TYPE_CHECKING:
    from simkit.hardware.parameters import ProfileParameter
    from simkit.hardware.profile import HardwareProfile

_BALANCE: Final = "flop/byte"
_COMPARED: Final = ("chips", "step_time_s", "attention_time_s", "tokens_per_s", "bound", "speedup_vs_mha")


@click.group(cls=CommandGroup)
def profile() -> None:
    """List, show, check, compare and write hardware profiles."""


@profile.command("list")
@options.profiles_folder
@options.records
def list_command(*, profiles: str | None, to: Destination) -> None:
    """Every profile of the catalogue, with the figures that decide where GQA pays."""
    from simkit.commands.console import Column
    from simkit.commands.emit import emit, readable
    from simkit.foundation.named_files import catalogue_files, user_folders
    from simkit.foundation.units import BYTES, BYTES_PER_S, COUNT
    from simkit.hardware.catalog import KIND, VARIABLE, load_hardware

    records = readable(catalogue_files(KIND, user_folders(profiles, VARIABLE)),
                       lambda path: _summary(load_hardware(path)))
    columns = {
        "name": Column(), "title": Column(optional=2), "kind": Column(), "memory": Column(optional=1),
        "capacity_bytes": Column("capacity", BYTES), "bandwidth_bytes_per_s": Column("bandwidth", BYTES_PER_S),
        "ridge_flop_per_byte": Column(_BALANCE, COUNT), "sharding": Column(optional=3),
        "max_chips": Column("max chips", COUNT),
    }
    emit(records, to, columns)


def _summary(chip: HardwareProfile) -> dict[str, Any]:
    memory = chip.main_memory
    return {
        "name": chip.name, "title": chip.title, "vendor": chip.vendor, "kind": chip.kind, "year": chip.year,
        "memory": memory.name, "capacity_bytes": memory.chip_capacity_bytes,
        "bandwidth_bytes_per_s": memory.chip_bandwidth_bytes_per_s,
        "ridge_flop_per_byte": chip.ridge_point_flop_per_byte(), "sharding": chip.sharding, "max_chips": chip.max_chips,
        "unknown": ", ".join(chip.missing) or None,
    }


@profile.command()
@click.argument("name")
@options.profiles
@options.records_or_figure
def show(*, name: str, profiles: Profiles, to: Destination) -> None:
    """The memory hierarchy of a profile as a diagram, and every figure with its source and the ridge points.

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
    from simkit.commands.console import Column
    from simkit.commands.emit import emit
    from simkit.hardware.parameters import profile_parameters

    figures = profile_parameters(chip)
    records = [*(_figure_record(chip, figure) for figure in figures), *_ridge_records(chip)]
    if to.is_table and to.output is None:
        click.echo(f"{chip.name}: {chip.title}, {chip.vendor} {chip.kind}" + (f", {chip.year}" if chip.year else ""))
        click.echo(f"file: {chip.file}")
        if chip.aliases:
            click.echo(f"in measured data: {', '.join(chip.aliases)}")
        click.echo()
        _print_hierarchy(chip)
        click.echo()
    columns = {
        "key": Column("figure"), "text": Column("value"), "confidence": Column(), "source": Column(),
        "note": Column(optional=1),
    }
    emit(records, to, columns)
    if to.is_table and to.output is None:
        for note in chip.notes:
            click.echo(f"note: {note}")


def _figure_record(chip: HardwareProfile, figure: ProfileParameter) -> dict[str, Any]:
    from simkit.commands.console import cell
    from simkit.commands.emit import unit_of

    provenance = figure.provenance
    text = "not known" if figure.value is None else cell(figure.value, figure.dimension)
    return {"profile": chip.name, "key": figure.key, "value": figure.value, "unit": unit_of(figure.dimension),
            "text": text, "confidence": provenance.confidence, "source": provenance.source, "note": provenance.note}


def _ridge_records(chip: HardwareProfile) -> Iterator[dict[str, Any]]:
    from simkit.commands.console import cell
    from simkit.foundation.units import COUNT

    for level in chip.memory:
        ridge = chip.ridge_point_flop_per_byte(level.name)
        text = "not known" if ridge is None else f"{cell(ridge, COUNT)} {_BALANCE}"
        yield {"profile": chip.name, "key": f"memory.{level.name}.ridge", "value": ridge, "unit": _BALANCE,
               "text": text, "confidence": "derived",
               "source": "matrix rate over this level's bandwidth, both as achieved",
               "note": f"for a bf16 workload, which runs in {chip.compute.matrix_dtype('bf16')} here"}


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

    folders = user_folders(profiles, VARIABLE)
    paths = ([find_file(name, kind=KIND, what="hardware profile", folders=folders) for name in files]
             or list(catalogue_files(KIND, folders).values()))
    errors = warnings = 0
    for path in paths:
        for severity, line in _problems(path, folders):
            click.echo(line)
            errors += severity == "error"
            warnings += severity == "warning"
    files_checked = "1 profile" if len(paths) == 1 else f"{len(paths)} profiles"
    click.echo(f"{files_checked} checked: {_count(errors, 'error')}, {_count(warnings, 'warning')}", err=True)
    if errors:
        click.get_current_context().exit(2)


def _problems(path: Path, folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Severity and line of every remark on one file: what cannot be read, or else what cannot be true."""
    from simkit.hardware.document import profile_from_yaml
    from simkit.hardware.inherit import load_profile_source
    from simkit.hardware.lint import lint

    try:
        source = load_profile_source(path, folders).whole
        chip = profile_from_yaml(source)
    except UserError as error:
        for fault in error.errors if isinstance(error, UserErrorGroup) else (error,):
            where = fault.where or Location(file=str(path))
            yield "error", str(UserError(f"error: {fault.message}", where=where, hint=fault.hint))
        return
    for finding in lint(chip, source):
        yield finding.severity, str(finding)


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
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Its sequences.")
@click.option("--kv-len", default="4k", show_default=True, metavar="TOKENS", help="Its context.")
@options.profiles
@options.records
def diff(*, first: str, second: str, model: str, batch: int, kv_len: str, profiles: Profiles, to: Destination) -> None:
    """Figures in which two profiles differ, and what it does to a reference decode (MHA and GQA-8).

    --set applies to the second profile, so that a what-if can be compared with the chip itself:

    \b
    simkit profile diff h100-sxm h200-sxm
    simkit profile diff h100-sxm h100-sxm --set memory.hbm.bandwidth=8TB/s
    """
    from simkit.commands.console import Column
    from simkit.commands.emit import emit

    chips = (replace(profiles, settings=()).load([first])[0], profiles.load([second])[0])
    records = _figure_differences(*chips)
    records += _decode_differences(first, second, model, batch, kv_len, profiles)
    records = [record for record in records if record["first"] != record["second"]]
    columns = {"key": Column("figure"), "first_text": Column(first),
               "second_text": Column(second + " with --set" * bool(profiles.settings)),
               "ratio": Column(dimension="a plain number")}
    if not records and to.is_table:
        click.echo("no figure differs")
        return
    emit(records, to, columns)


def _difference(key: str, first: Any, second: Any, dimension: str | None) -> dict[str, Any]:
    from simkit.commands.console import cell
    from simkit.commands.emit import unit_of

    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
    return {"key": key, "first": first, "second": second, "unit": unit_of(dimension),
            "ratio": second / first if numbers and first else None,
            "first_text": cell(first, dimension), "second_text": cell(second, dimension)}


def _figure_differences(first: HardwareProfile, second: HardwareProfile) -> list[dict[str, Any]]:
    from simkit.hardware.parameters import profile_parameters

    left, right = ({figure.key: figure for figure in profile_parameters(chip)} for chip in (first, second))
    records = []
    for key in {**left, **right}:
        one, other = left.get(key), right.get(key)
        known = one or other
        records.append(_difference(key, one.value if one else None, other.value if other else None,
                                   known.dimension if known else None))
    return records


def _decode_differences(first: str, second: str, model: str, batch: int, kv_len: str,
                        profiles: Profiles) -> list[dict[str, Any]]:
    """The reference decode on both: on the chips that the one with less memory needs, or as many as each needs."""
    from simkit.study.point import decode_step
    from simkit.study.record import FIELDS, to_records

    point: Mapping[str, Any] = {"attention": ["mha", "gqa-8"], "batch": batch, "profiles": profiles.folder,
                                "kv_len": options.one_value(kv_len, "--kv-len")}
    machines = ((first, None), (second, profiles.overrides))
    results = [to_records(decode_step(name, model, overrides=overrides, **point)) for name, overrides in machines]
    most = max(record["chips"] for records in results for record in records)
    try:  # the same number of chips where both systems have it, so that a ratio is of chips and not of machines
        results = [to_records(decode_step(name, model, overrides=overrides, chips=most, **point))
                   for name, overrides in machines]
    except UserError:
        click.echo("the reference decode runs on as many chips as each needs: they differ", err=True)
    return [_difference(f"decode {one['attention']}: {FIELDS[name].heading or name}", one[name], other[name],
                        FIELDS[name].dimension)
            for one, other in zip(*results, strict=True) for name in _COMPARED]


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
    click.echo(f"{target}: written; edit its figures and sources, then: simkit profile check {target}", err=True)


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
