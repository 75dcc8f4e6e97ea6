"""What a report leaves in its folder, that it can be repeated, and that it deletes nothing that it did not write."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from simkit.foundation.errors import UserError
from simkit.report.build import MANIFEST, build_report


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    build_report(tiny, folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A small finished report that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def test_every_figure_is_there_in_all_four_forms_and_in_the_page(study, report) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    for figure in study.figures:
        assert f'id="figure-{figure.name}"' in page
        for form, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG"), ("csv", b"")):
            content = (report / "figures" / f"{figure.name}.{form}").read_bytes()
            assert content.startswith(start)
            assert len(content) > 100


def test_a_second_run_gives_the_same_bytes(study, report, tmp_path) -> None:
    some = replace(study, figures=study.figures[::6])  # drawing all of them again takes a minute
    build_report(some, tmp_path / "small", command="simkit report small.yaml")
    first, again = files_of(report), files_of(tmp_path / "small")
    drawn = [name for name in again if name.startswith(("figures", "data"))]
    assert len(some.figures) >= 4
    assert len(drawn) > 4 * len(some.figures)
    assert all(again[name] == first[name] for name in drawn)


def test_a_second_run_in_place_changes_nothing(tiny, copy) -> None:
    before = files_of(copy)
    build_report(tiny, copy)
    assert files_of(copy) == before


def test_nothing_is_left_beside_the_report(tiny, copy) -> None:
    build_report(tiny, copy)
    assert [path.name for path in copy.parent.iterdir()] == ["tiny"]


def test_a_user_s_own_file_in_the_folder_survives_a_rerun(tiny, copy) -> None:
    (copy / "my notes.txt").write_text("mine", encoding="utf-8")
    build_report(tiny, copy)
    assert (copy / "my notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_figure_that_the_study_no_longer_has_is_removed_and_one_that_was_changed_is_kept(tiny, copy) -> None:
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    for name in ("figures/old.csv", "figures/edited.csv"):
        (copy / name).write_text("a\n1\n", encoding="utf-8")
        manifest["files"][name] = manifest["files"]["index.html"]
    manifest["files"]["figures/old.csv"] = hashlib.sha256(b"a\n1\n").hexdigest()
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    build_report(tiny, copy)
    assert not (copy / "figures/old.csv").exists()
    assert (copy / "figures/edited.csv").exists()


def test_a_page_that_the_user_edited_is_not_overwritten_without_force(tiny, copy) -> None:
    (copy / "index.html").write_text("my own words", encoding="utf-8")
    before = files_of(copy)
    with pytest.raises(UserError, match=r"index\.html: was changed since the last report.*--force"):
        build_report(tiny, copy)
    assert files_of(copy) == before
    build_report(tiny, copy, force=True)
    assert (copy / "index.html").read_text(encoding="utf-8") != "my own words"


def test_a_folder_that_no_report_wrote_is_left_alone(tiny, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="files that no report wrote"):
        build_report(tiny, tmp_path)
    assert files_of(tmp_path) == {"thesis.tex": b"mine"}


def test_an_empty_folder_is_as_good_as_none(tiny, tmp_path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert build_report(tiny, folder) == folder / "index.html"


def test_a_file_in_the_way_is_an_error_that_names_it(tiny, tmp_path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="out: is not a folder"):
        build_report(tiny, tmp_path / "out")
    with pytest.raises(UserError, match="cannot write the report"):
        build_report(tiny, tmp_path / "out" / "below")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind (not root)")
def test_a_folder_without_permission_is_an_error_and_nothing_is_left(tiny, tmp_path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write the report: Permission denied"):
        build_report(tiny, closed / "report")


def test_a_manifest_cannot_make_a_report_delete_files_elsewhere(tiny, copy) -> None:
    outside = copy.parent / "precious.txt"
    outside.write_text("mine", encoding="utf-8")
    digest = hashlib.sha256(b"mine").hexdigest()
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"] |= {"../precious.txt": digest, str(outside): digest}
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    build_report(tiny, copy)
    assert outside.exists()


class _Page(HTMLParser):
    """Elements that must be closed are; ids are counted; outside addresses are collected."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.plots: list[dict[str, str]] = []

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        if "id" in given:
            self.ids.append(given["id"])
        self.addresses += [given[name] for name in ("href", "src", "xlink:href") if name in given]
        if tag == "svg":
            self.plots.append(given)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_with_ids_of_their_own_and_needs_no_network(study, report) -> None:
    page = _Page()
    page.feed((report / "index.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        assert address.startswith(("#", "figures/", "data/", "data:", "slides.html")), address
        if address.startswith("#"):
            assert address[1:] in page.ids
        elif not address.startswith("data:"):
            assert (report / address).is_file()
    assert len(page.plots) == len(study.figures)
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 40 for plot in page.plots)


def test_names_and_texts_from_the_study_are_escaped(report) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    for spoiled in ("<b>small", "<i>LPU", "<u>one"):
        assert spoiled not in page
    assert "A &lt;b&gt;small&lt;/b&gt; study &amp; its title" in page


def test_the_page_says_how_it_was_made_and_where_each_figure_of_a_profile_comes_from(report) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "simkit report small.yaml" in page
    assert re.search(r"numpy \d+\.\d+", page)
    assert "memory.hbm.bandwidth" in page
    assert "3.352 TB/s" in page
    assert "BabelStream" in page


def test_what_does_not_fit_is_said_in_words(report) -> None:
    # Eight L40S hold 384 GB: less than 138 GB of weights beside 32 MHA caches of 10.7 GB.
    page = (report / "index.html").read_text(encoding="utf-8")
    assert re.search(r"Left out: l40s: MHA at batch 32 fits on no number of chips", page)
