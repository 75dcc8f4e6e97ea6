"""docs/reference.md says everything that the program has, and the examples in its commands' help are right."""

import contextlib
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from simkit.commands.main import main as simkit
from tests.reference_data import REPOSITORY
from tools.docs.build_pages import pages, simkit_commands
from tools.docs.reference_tables import commands_of, help_words

COMMANDS = {" ".join(path): command for path, command in commands_of(simkit, ("simkit",))}
EXAMPLES = [line for command in COMMANDS.values() for line in help_words(command.help or "")[1]]
# Takes long, or files that only a user has: read by their command, and run by the tests of that command.
ONLY_READ = ("report", "sweep", "serve", "plan", "timeline", "calibrate", "evidence silicon", "evidence host", "evidence serving",
             "model import", "model convert", "evidence forecasts --data", "evidence accelerators", "simulate -M my-model.yaml")
ASKS = "simkit profile new my-chip"  # on a terminal: tests/cli/test_profile.py answers
READ = [line for line in EXAMPLES if line == ASKS or line.removeprefix("simkit ").startswith(ONLY_READ)]
# Those run in tests/docs/test_pages.py.
ON_A_PAGE = [["simkit", *words] for page in pages()
             for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
             for words in simkit_commands(block)]
REFERENCE = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")


def test_every_command_and_every_option_stands_in_the_reference():
    for name, command in COMMANDS.items():
        if name != "simkit":
            assert f"### {name}\n" in REFERENCE
        for option in command.params:
            if isinstance(option, click.Option) and name != "simkit":
                assert re.search(rf"`(-\w, )?{re.escape(max(option.opts, key=len))}`", REFERENCE), (name, option.opts)


def test_every_variable_that_the_program_reads_stands_in_the_reference():
    source = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "simkit").rglob("*.py"))
    assert {name for name in re.findall(r"SIMKIT_[A-Z]+", source) if f"`{name}`" not in REFERENCE} == set()


def test_every_key_of_a_file_says_what_it_means():
    rows = re.findall(r"^\| (`[^|]+`[ *]*) \| ([^|]*) \| *([^|]*) *\|$", REFERENCE, re.MULTILINE)
    assert len(rows) > 150
    assert [key for key, takes, meaning in rows if not takes.strip() or not meaning.strip()] == []


@pytest.mark.parametrize("example", [
    line for line in EXAMPLES if line not in READ and shlex.split(line) not in ON_A_PAGE])
def test_an_example_of_the_help_runs(example: str, tmp_path: Path) -> None:
    arguments = shlex.split(example)[1:]
    with contextlib.chdir(tmp_path):
        result = CliRunner().invoke(simkit, arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("example", READ)
def test_an_example_of_the_help_is_read_by_its_command(example: str) -> None:
    words = shlex.split(example)
    name = next(name for name in sorted(COMMANDS, key=len, reverse=True) if example.startswith(name))
    COMMANDS[name].make_context(name, words[len(name.split()):])
