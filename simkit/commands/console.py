"""Tables for people: rich on a terminal, aligned plain text when piped. The only user of rich.

On a terminal, columns that are the same in every row go to the heading, and those of least interest are left out
when the window is narrow (and named). Piped text keeps every column.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import click

from simkit.foundation.errors import UserError, one_line
from simkit.foundation.tables import Column, cell, plain_table, text_width

_GAP: Final = 2
_LIVE_EVERY_S: Final = 0.2
_LOG_EVERY_S: Final = 5.0
_LONGEST_WORD, _LEAST_PROSE = 40, 14  # characters: beyond the first a text is prose, which takes at least the second
_RANGE: Final = re.compile(r" \([^()]* to [^()]*\)$")


def warn(message: str) -> None:
    """Say something on stderr that did not stop the work."""
    click.echo(f"warning: {one_line(message)}", err=True)


def warn_of(error: UserError) -> None:
    """The first line of a mistake that hides nothing else."""
    warn(str(error).splitlines()[0])


class ProgressLine:
    """How far a long run is, on stderr: one line that is rewritten on a terminal, a line now and then in a log."""

    def __init__(self, unit: str) -> None:
        self._unit, self._said_s, self._width = unit, -math.inf, 0
        self._live = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, *, done: int, of: int, kept: int, elapsed_s: float) -> None:
        """Say it, unless it was said a moment ago; ``kept`` of ``done`` stood there before this run."""
        finished = done >= of
        if elapsed_s - self._said_s < (_LIVE_EVERY_S if self._live else _LOG_EVERY_S) and not finished:
            return
        self._said_s = elapsed_s
        fresh = done - kept
        rate_per_s = fresh / elapsed_s if elapsed_s > 0 else 0.0
        parts = [f"{done:,} of {of:,} {self._unit}"]
        if kept:
            parts.append(f"{kept:,} from before")
        if fresh:
            shown = f"{rate_per_s:,.0f}" if rate_per_s >= 10 else f"{rate_per_s:.2g}"
            parts.append(f"{shown} {self._unit}/s")
            parts.append(f"{_clock(elapsed_s)} taken" if finished else f"{_clock((of - done) / rate_per_s)} left")
        elif elapsed_s >= 1:
            parts.append(f"{_clock(elapsed_s)} taken")
        line = ", ".join(parts)
        if self._live:
            click.echo("\r" + line.ljust(self._width), err=True, nl=finished)
            self._width = len(line)
        else:
            click.echo(line, err=True)

    def end(self) -> None:
        """Leave the line as it stands, so that what follows begins on its own."""
        if self._live and self._width:
            click.echo(err=True)
            self._width = 0


def _clock(seconds: float) -> str:
    """A duration as people say it: 42 s, 3 min 20 s, 7 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, title: str | None = None,
                stream: TextIO | None = None) -> None:
    """Print rows of raw values under their columns to stdout, or to ``stream`` as plain text."""
    texts = [[cell(value, column.dimension) for value, column in zip(row, columns, strict=True)] for row in rows]
    if stream is None and sys.stdout is not None and sys.stdout.isatty():
        _print_rich(list(columns), texts, title)
        return
    click.echo(plain_table(columns, texts, title=title), file=stream, nl=False)


def print_boxes(boxes: Sequence[Sequence[str]], paths: Sequence[str], *, foot: str | None = None) -> None:
    """Boxes of text one below the other, with what stands on the path from each to the one above it.

    ``paths`` has one entry fewer than ``boxes``; ``foot`` ends a path that leaves the last box. Lines are drawn with
    the plain characters of ASCII where the output cannot show others.
    """
    click.echo(_showable(stacked_boxes(boxes, paths, foot=foot)), nl=False)


def stacked_boxes(boxes: Sequence[Sequence[str]], paths: Sequence[str], *, foot: str | None = None) -> str:
    """The text of :func:`print_boxes`.

    >>> print(stacked_boxes([["SM"], ["HBM", "80 GB"]], ["3.35 TB/s"]), end="")
    ┌───────┐
    │ SM    │
    └──┬────┘
       │ 3.35 TB/s
    ┌──┴────┐
    │ HBM   │
    │ 80 GB │
    └───────┘
    """
    inner = max(text_width(line) for box in boxes for line in box)
    lines: list[str] = []
    for index, box in enumerate(boxes):
        down = index < len(paths) or foot is not None
        lines.append("┌" + ("──┴" if index else "───") + "─" * (inner - 1) + "┐")
        lines += ["│ " + line + " " * (inner - text_width(line)) + " │" for line in box]
        lines.append("└" + ("──┬" if down else "───") + "─" * (inner - 1) + "┘")
        if index < len(paths):
            lines.append("   │ " + paths[index])
    if foot is not None:
        lines.append("   └ " + foot)
    return "\n".join(lines) + "\n"


_ASCII: Final = str.maketrans({**dict.fromkeys("┌┐└┘┬┴", "+"), "─": "-", "│": "|", "×": "x", "µ": "u"})


def _showable(text: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII)
    return text


def _print_rich(columns: list[Column], texts: list[list[str]], title: str | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    lifted, kept, dropped = arrange(columns, texts, console.width)
    left_out = [columns[i].heading for i in dropped]
    if sum(_widths(columns, texts, kept)) > console.width:  # what is not known goes last, and is said
        bare = [[_RANGE.sub("", text) for text in row] for row in texts]
        if bare != texts:
            lifted, kept, dropped = arrange(columns, bare, console.width)
            texts, left_out = bare, [columns[i].heading for i in dropped] + ["ranges"]
    head = "  ".join([*([title] if title else []),
                      *(f"{columns[i].heading} {texts[0][i]}" for i in lifted)])
    table = Table(box=None, padding=(0, _GAP, 0, 0), title=Text(head) if head else None, title_justify="left",
                  title_style="bold", header_style="dim")
    for i in kept:
        table.add_column(Text(columns[i].heading), justify="left" if columns[i].dimension is None else "right",
                         overflow="fold", no_wrap=not _is_prose(columns, texts, i))
    for row in texts:
        table.add_row(*(Text(row[i]) for i in kept))
    console.print(table)
    if left_out:
        console.print(Text(f"not shown for width: {', '.join(left_out)} (--format csv has every column)", style="dim"))


def _is_prose(columns: Sequence[Column], texts: Sequence[Sequence[str]], i: int) -> bool:
    """Whether a column is read as sentences, which may run over several lines: never the first, which names rows."""
    return i > 0 and columns[i].dimension is None and max(text_width(row[i]) for row in texts) > _LONGEST_WORD


def _widths(columns: Sequence[Column], texts: Sequence[Sequence[str]], kept: Sequence[int]) -> list[int]:
    return [min(max(text_width(line[i]) for line in ([c.heading for c in columns], *texts)),
                _LEAST_PROSE if _is_prose(columns, texts, i) else sys.maxsize) + _GAP for i in kept]


def arrange(columns: Sequence[Column], texts: Sequence[Sequence[str]],
            width_columns: int) -> tuple[list[int], list[int], list[int]]:
    """Which columns go to the heading, stay, or are left out so that a line fits ``width_columns`` characters.

    Where a line is too long, any column that is the same in every row goes to the heading first.
    """
    alike = [i for i in range(len(columns)) if len(texts) > 1 and len({row[i] for row in texts}) == 1]
    lifted = [i for i in alike if columns[i].liftable]
    kept = [i for i in range(len(columns)) if i not in lifted]
    dropped: list[int] = []
    while sum(_widths(columns, texts, kept)) > width_columns:
        same = [i for i in kept if i in alike]
        if same:
            lifted = sorted([*lifted, same[0]])
            kept.remove(same[0])
        elif len(kept) > 1:  # at last any but the first, which names rows: a number is whole or not there
            first = max(kept[1:], key=lambda i: (columns[i].optional, i))
            kept.remove(first)
            dropped.append(first)
        else:
            break
    return lifted, kept, sorted(dropped)
