"""Write again what README.md and docs/*.md take from the program itself: ``make docs``.

A page may hold, in this order of reading:

- a fenced ``sh`` block: its lines that start with ``simkit`` are run, one after another, in an empty folder
- a fenced ``python`` block: run there
- ``<!-- file: NAME -->`` and a fenced ``yaml`` or ``csv`` block: written to that folder as NAME
- ``<!-- prints -->`` and a fenced ``text`` block: what the last command or Python block printed
- ``<!-- fails: simkit ... -->`` and a fenced ``text`` block: what that command says when it refuses (exit code 2)
- ``<!-- output of: simkit ... -->`` and a table: that command's records
- ``<!-- generated: NAME -->`` to ``<!-- end -->``: one of :data:`GENERATED`

The tests do the same and compare, so that no command in a page can fail and no number can drift.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import click
from click.testing import CliRunner
from scipy.stats import binom

from simkit.commands.main import main as simkit
from simkit.evidence.accelerators.compare import Compared, compare_rows
from simkit.evidence.accelerators.compare import records as by_series
from simkit.evidence.accelerators.forecasts import read_forecasts
from simkit.evidence.accelerators.intervals import coverage
from simkit.foundation.tables import cell
from simkit.study.record import FIELDS
from tools.docs.atlas_tables import chips_table, kinds_table
from tools.docs.build_architecture import modules_table, rooms_table
from tools.docs.import_graph import REPOSITORY
from tools.docs.reference_tables import TABLES, markdown_table

_PART: Final = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n```(?:yaml|csv)\n(?P<text>.*?)```\n"
    r"|```sh\n(?P<sh>.*?)```\n"
    r"|```python\n(?P<python>.*?)```\n"
    r"|<!-- prints -->\n```text\n(?P<prints>.*?)```\n"
    r"|<!-- fails: (?P<fails>[^\n]*) -->\n```text\n(?P<refusal>.*?)```\n"
    r"|<!-- output of: (?P<command>[^\n]*) -->\n(?P<table>(?:\|[^\n]*\n)+)"
    r"|<!-- generated: (?P<generated>\S+) -->\n(?P<old>.*?)<!-- end -->\n",
    re.DOTALL)


def pages() -> list[Path]:
    """Every page that may hold commands."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def refreshed(text: str, folder: Path) -> str:
    """The page with everything in it that comes from the program made anew; ``folder`` is where its commands run.

    Raises :class:`RuntimeError` naming the command that fails.
    """
    # Pages are read at the root of a checkout: what they name there is there.
    for name in ("hardware_profiles", "simkit", "workloads"):
        (folder / name).symlink_to(REPOSITORY / name, target_is_directory=True)
    printed = ""

    def renew(part: re.Match[str]) -> str:
        nonlocal printed
        whole = part[0]
        if part["file"]:
            (folder / part["file"]).write_text(part["text"], encoding="utf-8")
        elif part["sh"]:
            for command in simkit_commands(part["sh"]):
                printed = run(command, folder)
        elif part["python"]:
            printed = run_python(part["python"], folder)
        elif part["prints"] is not None:
            return f"<!-- prints -->\n```text\n{printed}```\n"
        elif part["fails"]:
            said = run(shlex.split(part["fails"])[1:], folder, exit_code=2)
            return f"<!-- fails: {part['fails']} -->\n```text\n{said}```\n"
        elif part["command"]:
            records = json.loads(run([*shlex.split(part["command"])[1:], "--format", "json"], folder))
            return f"<!-- output of: {part['command']} -->\n{results_table(records)}"
        elif part["generated"]:
            return f"<!-- generated: {part['generated']} -->\n{GENERATED[part['generated']]()}<!-- end -->\n"
        return whole

    return _PART.sub(renew, text)


def simkit_commands(block: str) -> Iterator[list[str]]:
    """Arguments of each ``simkit`` line of a shell block; other programs (make, pip) are CI's to run."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["simkit"]:
            yield words[1:]


def run(arguments: list[str], folder: Path, *, exit_code: int = 0) -> str:
    """What a command prints (with its errors, where it is to fail), run in this process inside ``folder``."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(simkit, arguments, catch_exceptions=False)
    if result.exit_code != exit_code:
        raise RuntimeError(f"simkit {shlex.join(arguments)}: exit code {result.exit_code}: {result.output}")
    return result.output if exit_code else result.stdout


def run_python(code: str, folder: Path) -> str:
    """What a piece of Python prints, run in this process inside ``folder``."""
    stream = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(stream):
        exec(compile(code, "a page's Python", "exec"), {"__name__": "page"})
    return stream.getvalue()


def results_table(records: list[Mapping[str, Any]]) -> str:
    """Decode steps as a reader compares them."""
    def shown(record: Mapping[str, Any], name: str) -> str:
        return cell(record[name], FIELDS[name].dimension)

    def row(record: Mapping[str, Any]) -> list[str]:
        copies = "" if record["kv_copies"] == 1 else f", {shown(record, 'kv_copies')} copies"
        return [f"`{record['hardware']}`", shown(record, "chips"), f"`{record['attention']}`",
                shown(record, "kv_cache_bytes") + copies, shown(record, "step_time_s"),
                shown(record, "tokens_per_s_per_user"), shown(record, "speedup_vs_mha"), record["bound"]]

    return markdown_table(["chip", "chips", "layout", "KV cache", "step", "tok/s/user", "step vs MHA", "what binds"],
                          map(row, records))


def silicon_evidence() -> str:
    """Errors of predicted kernel times and advantages at serving sizes, chip by chip."""
    records = json.loads(run(["evidence", "silicon", "--format", "json"], REPOSITORY))
    shown = ("mape", "median_ape", "advantage_median_ape", "baseline_mape")
    return markdown_table(
        ["measured on", "kernels", "mean error", "median", "of the speed-up over MHA", "mean error, naive roofline"],
        ([f"`{record['system']}`", str(record["rows"]), *(f"{100 * record[name]:.0f} %" for name in shown)]
         for record in records if record["regime"] == "serving" and record["mape"] is not None))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


@cache
def accelerators_compared() -> Compared:
    """What ``simkit evidence accelerators`` compares, once for all tables of it."""
    return compare_rows()


@cache
def accelerators_covered() -> list[dict[str, Any]]:
    """How often its rows lie within bounds, once too."""
    return coverage(accelerators_compared())


def accelerator_evidence() -> str:
    """Errors on accelerators by chip, series and quantity, and of the MHA-over-GQA ratio."""
    return markdown_table(
        ["chip", "series", "quantity", "rows", "mean / median error, %", "naive", "pairs", "error of the ratio",
         "naive", "not predicted"],
        ([f"`{one['chip']}`", one["series"], f"`{one['quantity']}`", str(one["rows"]),
          f"{_percent(one['mape'])} / {_percent(one['median_ape'])}", _percent(one["baseline_mape"]),
          str(one["ratio_rows"] or "-"), _percent(one["ratio_median_ape"]), _percent(one["baseline_ratio_median_ape"]),
          str(one["rows_unpredicted"] or "-")] for one in by_series(accelerators_compared())))


def accelerator_coverage() -> str:
    """How often measured rows lie within bounds that other chips' rows give: kind by kind, and chip by chip."""
    covered, whole = accelerators_covered(), ""
    by_chip: dict[str, list[int]] = {"all chips": [0, 0]}
    for one in covered:
        for name in (one["chip"], "all chips"):
            inside = by_chip.setdefault(name, [0, 0])
            inside[0] += one["rows"]
            inside[1] += round((one["inside_90"] or 0.0) * one["rows"])
    for name, (rows, within) in by_chip.items():
        if rows:
            said = "all" if within == rows else f"{within} of {rows}"
            rare = 100 * binom.cdf(within, rows, 0.9)
            said += "" if within >= 0.9 * rows else f" (were nine of ten right: so few in {rare:.2g} % of such samples)"
            whole += f"; {name} {said}" if whole else f"Chip by chip, rows to which nothing was fitted: {name} {said}"
    return whole + ".\n\n" + markdown_table(
        ["chip", "known by", "of", "rows", "inside 50 %", "inside 90 %", "90 % bound, times the prediction",
         "fitted rows", "inside 90 %"],
        ([f"`{one['chip']}`", one["known_by"], one["kind"], str(one["rows"]), _percent(one["inside_50"]),
          _percent(one["inside_90"]),
          "-" if one["low_90"] is None else f"{one['low_90']:.2f} to {one['high_90']:.2f}",
          str(one["rows_fitted"] or "-"), _percent(one["fitted_inside_90"])]
         for one in covered))


def forecasts() -> str:
    """The dated forecasts: steps and speed-ups over MHA with bounds, and the digest of what they followed from."""
    def shown(row: Mapping[str, Any], name: str, scale: float = 1.0) -> str:
        if row[f"{name}_likely"] is None or (name == "speedup_vs_mha" and row["attention"] == "mha"):
            return "-"
        likely, *ends = (f"{scale * row[f'{name}_{end}']:.3g}"
                         for end in ("likely", "low_50", "high_50", "low_90", "high_90"))
        return f"{likely} ({ends[0]} to {ends[1]}; {ends[2]} to {ends[3]})"

    headings = ["made", "chip", "chips", "model", "heads", "batch", "step, ms (50 %; 90 %)", "over MHA", "digest"]
    return markdown_table(headings, (
        [row["made"], *(f"`{row[name]}`" if isinstance(row[name], str) else str(row[name])
                        for name in ("chip", "chips", "model", "attention", "batch")),
         shown(row, "step_time_s", 1e3), shown(row, "speedup_vs_mha"), f"`{row['digest']}`"]
        for row in read_forecasts()))


GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    **TABLES, "silicon-evidence": silicon_evidence, "rooms": rooms_table, "modules": modules_table,
    "accelerator-evidence": accelerator_evidence, "accelerator-coverage": accelerator_coverage,
    "forecasts": forecasts, "atlas-kinds": kinds_table, "atlas-chips": chips_table}


def main() -> None:
    """Renew every page in place."""
    for page in pages():
        old = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            new = refreshed(old, Path(folder))
        if new != old:
            page.write_text(new, encoding="utf-8", newline="")
        click.echo(f"{page.relative_to(REPOSITORY)}: {'renewed' if new != old else 'up to date'}")


if __name__ == "__main__":
    main()
