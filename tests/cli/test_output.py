"""Files are whole or not there; CSV cannot run in a spreadsheet; JSON is JSON."""

import csv
import io
import json
import os
import stat
from pathlib import Path

import pytest

from simkit.foundation.errors import UserError
from simkit.foundation.output import atomic_file, csv_text, json_text, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.csv"
    target.write_text("old", encoding="utf-8")
    def fail_half_way():
        with atomic_file(target, force=True) as part:
            part.write_text("half", encoding="utf-8")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_stands_is_replaced_only_by_force(tmp_path):
    write_text(tmp_path / "x", "1")
    with pytest.raises(UserError, match="exists already; give --force to replace it"):
        write_text(tmp_path / "x", "2")
    write_text(tmp_path / "x", "3", force=True)
    assert (tmp_path / "x").read_text(encoding="utf-8") == "3"


@pytest.mark.parametrize(("name", "message"), [
    ("gone/x", "its folder does not exist"), (".", "it is a folder"), ("file/x", "cannot write"), ("x" * 300, "cannot write"),
    ("a\0b", "cannot write"),
])
def test_an_unwritable_name_is_told_before_any_work(tmp_path, name, message):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX devices")
def test_a_device_is_never_replaced_not_even_by_force():
    with pytest.raises(UserError, match="not a regular file"):
        write_text("/dev/null", "x", force=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="POSIX links and modes")
def test_a_link_is_followed_and_a_new_file_has_the_usual_mode(tmp_path):
    (tmp_path / "real").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text(encoding="utf-8") == "new"
    (tmp_path / "plain").write_text("", encoding="utf-8")
    assert (tmp_path / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text):
    rows = list(csv.reader(io.StringIO(csv_text([{"model": text, "x": -1.5}]), newline="")))
    assert rows[1] == ["'" + text, "-1.5"]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\r\nb", "a,b", 'a"b', "a\u2028b"])
def test_a_record_is_one_row_whatever_its_text(text):
    rows = list(csv.reader(io.StringIO(csv_text([{"model": text, "x": 1}]), newline="")))
    assert len(rows) == 2
    assert rows[1][1] == "1"


def test_floats_survive_csv_and_json_bit_for_bit():
    value = 0.1 + 0.2
    assert json.loads(json_text([{"x": value}])) == [{"x": value}]
    assert float(csv_text([{"x": value}]).splitlines()[1]) == value


def test_json_refuses_what_is_not_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text([{"x": float("nan")}])
    assert json.loads(json_text([])) == []
