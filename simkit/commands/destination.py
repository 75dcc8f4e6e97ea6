"""Where results go: ``--format``, ``-o`` and ``--force``, settled before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final

import click

from simkit.foundation.errors import UserError, did_you_mean

Command = Callable[..., Any]
FIGURE_SUFFIXES: Final = (".svg", ".png", ".pdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where records go and in which form: table, csv, json or a kind of figure."""

    form: str
    output: Path | None
    force: bool

    @property
    def is_table(self) -> bool:
        """True for a table that people read."""
        return self.form == "table"

    @property
    def for_people(self) -> bool:
        """True for a table on the standard output, where other words may stand around it."""
        return self.is_table and self.output is None

    @property
    def figure(self) -> Path | None:
        """The file of a figure that is asked for instead of records."""
        return self.output if figure_suffix(self.output) == self.form else None


def figure_suffix(path: str | Path | None) -> str | None:
    """The kind of figure that a file's name asks for; None for another file."""
    suffix = "" if path is None else Path(path).suffix.lower()
    return suffix.lstrip(".") if suffix in FIGURE_SUFFIXES else None


def destination(form: str | None, output: str | None, *, force: bool, figures: bool = False) -> Destination:
    """Settle the format and refuse an unwritable file before any work is done; ``figures``: it may be a figure."""
    from simkit.foundation.output import FORMATS, check_target

    if output is None:
        return Destination(form=form or "table", output=None, force=force)
    drawn = figure_suffix(output) if figures else None
    suffix = Path(output).suffix.lstrip(".").lower()
    if drawn is not None:
        if form is not None:
            raise UserError(f"--format {form} and -o {Path(output).name}: a figure is not a list of records",
                            hint="leave one of them out")
        form = drawn
    elif form is not None and suffix in FORMATS and suffix != form:
        raise UserError(f"--format {form} and -o {Path(output).name}: they name two formats", hint="leave out --format")
    elif form is None:
        if suffix and suffix not in (*FORMATS, "txt"):
            hint = did_you_mean(suffix, FORMATS)
            raise UserError(f"{output}: no format for '.{suffix}' files: expected .csv, .json or .txt, or --format",
                            hint=hint if hint and hint.startswith("did") else None)
        form = suffix if suffix in FORMATS else "table"
    check_target(output, force=force)
    return Destination(form=form, output=Path(output), force=force)


force: Final = click.option("--force", is_flag=True, help="Replace the output file when it exists.")
form: Final = click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default=None,
                             help="How records are written.  [default: table]")


def records(function: Command, *, figures: bool = False) -> Command:
    """``--format``, ``-o`` and ``--force``, for every command that gives records: ``to``.

    ``figures``: the file may be a figure.
    """

    @wraps(function)
    def with_destination(*args: Any, form: str | None, output: str | None, force: bool, **kwargs: Any) -> Any:
        return function(*args, to=destination(form, output, force=force, figures=figures), **kwargs)

    output = click.option("-o", "--output", metavar="FILE", default=None,
                          help="Write to a file; .csv and .json say the format by themselves.")
    return form(output(force(with_destination)))


records_or_figure: Final = partial(records, figures=True)
