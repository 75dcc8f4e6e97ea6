"""Python for people: the command line has nothing that Python does not, results that show themselves, notebooks that run."""

import ast
import inspect
import re
import sys
from importlib import import_module

import click
import numpy as np
import pytest

import simkit
from simkit.commands.calibrate import from_file
from simkit.commands.main import main
from simkit.foundation.tables import Records
from simkit.study.scenario import parse_scenario
from tests.reference_data import REPOSITORY
from tools.docs.notebooks import NOTEBOOKS, fresh, outputs

# What only a command line has: where profiles come from (Python loads them), and where results go.
EDGE = {"form", "output", "force", "settings", "profiles", "no_cache", "assume", "workload", "fewest", "budget_chips"}


def leaves(group: click.Group = main, above: str = "") -> dict[str, click.Command]:
    """Every command by its whole name, ``calibrate FILE`` among them."""
    found = {"calibrate": from_file} if not above else {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        found |= leaves(command, f"{above}{name} ") if isinstance(command, click.Group) else {above + name: command}
    return found


COMMANDS = leaves()
HOWTO = (REPOSITORY / "docs" / "howto.md").read_text(encoding="utf-8")
ASKED = {name: re.findall(r"`(\w+)`", words) for name, words in re.findall(r"^\| `([\w ]+)` \| (.*) \|$", HOWTO, re.MULTILINE)}


def test_every_command_has_its_python() -> None:
    assert set(ASKED) == set(COMMANDS)
    assert {name for names in ASKED.values() for name in names} <= set(dir(simkit))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_goes_through_what_python_calls(name: str) -> None:
    tree = ast.parse(inspect.getsource(import_module(inspect.unwrap(COMMANDS[name].callback).__module__)))
    imported = {(node.module, one.name) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names}
    homes = {public: simkit._HOMES[public].partition(":") for public in ASKED[name]}
    assert any((module, own or public) in imported for public, (module, _, own) in homes.items()), homes


@pytest.mark.parametrize("name", ["simulate", "attention", "capacity", "crossover", "stack", "timeline", "roofline", "profile diff"])
def test_an_option_is_an_argument(name: str) -> None:
    function = getattr(simkit, ASKED[name][0])
    taken = {*inspect.signature(function).parameters, *inspect.signature(parse_scenario).parameters}
    assert {option.name for option in COMMANDS[name].params} - EDGE <= taken | {"first", "second", "bounds"}  # bounds: columns that records always have


def test_what_python_has_is_listed_and_loads() -> None:
    assert {"simulate", "draw", "load_hardware", "UserError"} <= set(dir(simkit))
    assert not [name for name in dir(simkit) if name in simkit._HOMES and not inspect.getdoc(getattr(simkit, name))]
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = simkit.simulat


def test_results_show_themselves_and_become_dataframes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        DataFrame = dict

    step = simkit.decode_step("h100-sxm", "llama-2-70b", attention=[["mha"], ["gqa-8"]], batch=[1, 32], kv_len=4096)
    text = repr(step)
    assert text.startswith("all: hardware h100-sxm")
    assert max(map(len, text.splitlines()[1:])) <= 110
    assert text.splitlines()[1].split()[:2] == ["chips", "tp"]
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    with pytest.raises(simkit.UserError, match="needs pandas or polars, and neither is installed"):
        step.to_dataframe()
    monkeypatch.setitem(sys.modules, "polars", Library)
    assert step.to_dataframe()["batch"] == [1, 32, 1, 32]
    assert step.to_records() == simkit.simulate("h100-sxm", "llama-2-70b", attention=["mha", "gqa-8"], batch=[1, 32])
    assert repr(Records()) == "0 records"
    assert repr(Records([{"a": None, "time_s": 0.002}])) == "key     value\ntime_s  2 ms\n"


def test_progress_is_told_to_the_last_point() -> None:
    told = []
    simkit.simulate("h100-sxm", "llama-2-70b", batch=[1, 2], chips=[4, 8], progress=lambda done, of: told.append((done, of)))
    assert told == [(2, 4), (4, 4)]


@pytest.mark.parametrize("asked", [
    {"hardware": 5}, {"hardware": None}, {"model": 3.5}, {"attention": 8}, {"batch": "many"}, {"batch": None}, {"kv_len": [0]},
    {"kv_dtype": 16}, {"chips": "all"}, {"chips": 2.5}, {"engine": 1}, {"tp": "two"}, {"tp": 1.5}, {"page": "x"}, {"lengths": 3},
    {"speculation": 4}, {"weight_dtype": None}, {"eviction": 1.0}, {"ep": "all"}, {"attention_sharding": 2}, {"encoder_len": "x"},
    {"colour": "red"},
], ids=str)
@pytest.mark.parametrize("function", ["decode_step", "simulate"])
def test_a_wrong_type_is_the_user_s_mistake(function: str, asked: dict[str, object]) -> None:
    with pytest.raises(simkit.UserError):
        getattr(simkit, function)(**{"hardware": "h100-sxm", "model": "llama-2-70b", **asked})


def test_a_figure_is_matplotlib_s() -> None:
    figure = simkit.draw("roofline", ["h100-sxm", "groq-lpu"])
    assert type(figure).__module__ == "matplotlib.figure"
    with pytest.raises(simkit.UserError, match="did you mean 'roofline'"):
        simkit.draw("rofline", "h100-sxm")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says_today(path: object, tmp_path: object) -> None:
    assert outputs(path) == fresh(path, tmp_path), f"{path} is behind the program: make docs"


def test_numbers_of_numpy_are_numbers() -> None:
    assert simkit.decode_step("h100-sxm", "llama-2-70b", batch=np.int64(4))["batch"] == 4
