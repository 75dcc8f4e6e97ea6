"""The longer checks under tools/: each is listed and there, and what they are told to strike exists."""

import subprocess
import sys

import pytest

from tests.conftest import RUN_TIMEOUT_S
from tests.reference_data import REPOSITORY
from tools import check, mutants


def run(*words):
    return subprocess.run([sys.executable, str(REPOSITORY / "tools" / "check.py"), *words], capture_output=True,
                          encoding="utf-8", check=False, timeout=RUN_TIMEOUT_S)


def test_without_a_name_every_check_is_listed_with_its_options():
    listed = run()
    assert listed.returncode == 0
    for name, one in check.CHECKS.items():
        assert f"{name} {one.options}".strip() in listed.stdout.splitlines()
        assert (REPOSITORY / one.program).is_file()


def test_an_unknown_check_is_refused_with_the_list():
    refused = run("mutant")
    assert refused.returncode == 2
    assert refused.stderr.startswith("no such check: mutant\n")
    assert "mutants" in refused.stderr


def test_help_of_make_fits_a_screen_and_names_every_target():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = makefile.partition(".PHONY: help ")[2].splitlines()[0].split()
    said = [line for line in makefile.splitlines() if line.startswith('\t@echo "')]
    assert len(said) <= 24
    for target in targets:
        assert f"\n{target}:" in makefile
        assert any(line.startswith(f'\t@echo "make {target} ') for line in said), target


@pytest.mark.parametrize("name", mutants.groups())
def test_what_mutants_change_and_what_should_notice_is_there(name):
    group = mutants.groups()[name]
    changed = mutants.matching(group["mutate"], group.get("except", []))
    noticing = mutants.matching(group["tests"], group.get("tests_except", []))
    assert changed
    assert noticing
    assert not set(changed) & set(noticing)


def test_no_module_of_the_replay_is_struck_by_nobody_or_twice():
    struck = [path for name in ("replay", "loops")
              for path in mutants.matching(mutants.groups()[name]["mutate"], mutants.groups()[name].get("except", []))]
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "simkit" / "replay").rglob("[!_]*.py")}
    assert len(struck) == len(set(struck))
    assert set(struck) == modules - {"simkit/replay/dram/standards.py"}  # parameters of JEDEC's, compared with its tables


def test_a_path_that_was_moved_is_said():
    with pytest.raises(SystemExit, match=r"mutants\.toml: nothing is called simkit/decode: was it moved\?"):
        mutants.matching(["simkit/step", "simkit/decode"], [])
