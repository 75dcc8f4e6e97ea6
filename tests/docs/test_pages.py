"""README.md and docs/*.md: every simkit command in them runs, and what they show is what the program says today."""

import re
from pathlib import Path

import pytest

from simkit.study.record import FIELDS
from tests.reference_data import REPOSITORY
from tools.check import CHECKS
from tools.docs import build_pages

PAGES = build_pages.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_s_commands_run_and_it_shows_what_they_print(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    renewed = build_pages.refreshed(text, tmp_path)
    assert text == renewed, f"{page.name} is behind the program: make docs"


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    page = "```sh\nmake test   # not ours\nsimkit profile show h100-sxn\n```\n"
    with pytest.raises(RuntimeError, match="simkit profile show h100-sxn: exit code 2: error: unknown hardware profile"):
        build_pages.refreshed(page, tmp_path)


def test_what_a_page_shows_is_replaced_when_it_is_wrong(tmp_path: Path) -> None:
    page = "```sh\nsimkit --version\n```\n<!-- prints -->\n```text\nsimkit 0.0.0-wrong\n```\n"
    assert "0.0.0-wrong" not in build_pages.refreshed(page, tmp_path)


def test_a_page_s_python_runs_and_its_output_is_renewed(tmp_path: Path) -> None:
    page = "```python\nprint(6 * 7)\n```\n<!-- prints -->\n```text\n41\n```\n"
    assert build_pages.refreshed(page, tmp_path) == page.replace("41", "42")


def test_the_commands_of_a_block_are_read_as_a_shell_would() -> None:
    block = "make report\nsimkit simulate -H h100-sxm \\\n  --batch 1,32   # a comment\npip install .\n"
    assert list(build_pages.simkit_commands(block)) == [["simulate", "-H", "h100-sxm", "--batch", "1,32"]]


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


NOTES = [*PAGES, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "tests").rglob("README.md"))]


@pytest.mark.parametrize("page", NOTES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    """By its path from the root, from simkit/, or beside the page; a star stands for several."""
    named = set(re.findall(r"`([\w./*-]+\.py)`", page.read_text(encoding="utf-8")))
    missing = {name for name in named if not any(
        next(folder.glob(name), None) for folder in (REPOSITORY, REPOSITORY / "simkit", page.parent))}
    assert not missing


def test_every_target_of_make_and_every_check_that_a_page_names_is_there() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for page in NOTES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{page.name}: make {target}"
        for name in re.findall(r"tools/check\.py ([a-z-]+)", text):
            assert name in CHECKS, f"{page.name}: tools/check.py {name}"


def test_the_glossary_has_every_field_of_a_record() -> None:
    glossary = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in glossary for name in FIELDS)
