"""The program itself: help, versions, exit codes, pipes, interrupts, and how mistakes are told."""

import os
import re
import subprocess
import sys

import pytest

import simkit
from simkit.commands.console import arrange
from simkit.commands.main import COMMANDS, main
from simkit.foundation.tables import Column, plain_table


def test_help_lists_every_command_with_its_line(cli):
    text = cli("--help").stdout
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line.split()[0])}", text, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_imported_and_has_help(cli, name):
    result = cli(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")


def test_without_a_command_the_help_is_printed(cli):
    assert cli().stdout == cli("--help").stdout


def test_the_version_is_the_package_s(cli):
    assert cli("--version").stdout == f"simkit {simkit.__version__}\n"


@pytest.mark.parametrize(("arguments", "hint"), [
    (["simulat"], "'simulate'"), (["profile", "shw", "x"], "'show'"), (["simulate", "--bach", "1"], "--batch"),
])
def test_an_unknown_command_or_option_offers_the_nearest(cli, arguments, hint):
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert hint in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_a_bug_shows_its_traceback_and_is_exit_1(tmp_path):
    script = ("import sys; from simkit.commands import main as m; import simkit.study.grid as g\n"
              "def broken(*a, **k): raise ZeroDivisionError('a bug')\n"
              "g.Grid.columns = broken; sys.argv = ['simkit', 'simulate']; m.main()")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "a bug" in run.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_goes_away_is_met_quietly(tmp_path):
    command = f'"{sys.executable}" -m simkit simulate --batch 1..2000+1 --format csv | head -n 1'
    run = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert run.stdout.startswith("hardware,")
    assert run.stderr == ""


# Compiled code may drop the exception of a signal and raise its own: a converter of Matplotlib's met SIGTERM so.
DROPPED = """
    try: {kill}
    except BaseException: pass
    raise ValueError('Invalid affine transformation matrix')"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("name", "code", "last_words"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
@pytest.mark.parametrize("body", ["{kill}", DROPPED], ids=["raised", "replaced by an error"])
def test_a_signal_to_end_has_its_exit_code_and_no_traceback(tmp_path, name, code, last_words, body):
    script = ("import os, signal, sys; from simkit.commands import main as m; import simkit.study.grid as g\n"
              "def waiting(*a, **k): " + body.format(kill=f"os.kill(os.getpid(), signal.{name})") + "\n"
              # A shell starts background jobs, and so this test, with interrupts ignored.
              "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
              "g.Grid.columns = waiting; sys.argv = ['simkit', 'simulate']; m.main()")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert (run.returncode, run.stderr.strip()) == (code, last_words)


def test_an_ascii_terminal_is_not_fatal(run_cli):
    # Not with PYTHONUTF8=0: CPython 3.13 then imports no extension module (NumPy's) from a folder named beyond ASCII.
    run = run_cli("simulate", "-A", "mqa", env={"PYTHONIOENCODING": "ascii"})
    assert run.exit_code == 0
    assert "\\xb5s" in run.stdout or "ms" in run.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")  # noqa: PTH110
def test_a_full_disk_behind_stdout_is_one_line_and_exit_1(tmp_path):
    run = subprocess.run(["bash", "-c", f'"{sys.executable}" -m simkit profile list >/dev/full'], capture_output=True,
                         encoding="utf-8", cwd=tmp_path, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("error: cannot write to the standard output: ")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
def test_on_a_terminal_what_is_the_same_in_all_rows_is_the_heading_and_lines_fit(tmp_path):
    script = ("import os, pty, sys\n"
              "status = pty.spawn([sys.executable, '-m', 'simkit', 'simulate', '-A', 'mha,mqa', '--batch', '1,2'])\n"
              "sys.exit(os.waitstatus_to_exitcode(status))")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False,
                         stdin=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "90", "NO_COLOR": "1", "TERM": "xterm"})
    assert run.returncode == 0, run.stdout
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in run.stdout.splitlines()]
    assert lines[0].startswith("hardware h100-sxm  model llama-2-70b")
    assert max(map(len, lines)) <= 90
    assert any(line.startswith("not shown for width:") for line in lines)


def test_main_can_be_called_from_python_and_returns():
    assert main(["--version"], standalone_mode=False) == 0


def test_a_narrow_terminal_drops_the_optional_columns_and_lifts_what_is_the_same():
    columns = [Column(heading="hardware", liftable=True), Column(heading="batch"), Column(heading="a long heading", optional=2),
               Column(heading="step")]
    texts = [["h100", "1", "x", "1 ms"], ["h100", "2", "y", "2 ms"]]
    assert arrange(columns, texts, 80) == ([0], [1, 2, 3], [])
    assert arrange(columns, texts, 20) == ([0], [1, 3], [2])


def test_on_a_narrow_terminal_no_key_and_no_number_is_broken():
    columns = [Column("parameter"), Column("value", "bytes/s"), Column("confidence"), Column("source", optional=1), Column("unit")]
    texts = [[f"memory.level{i}.bandwidth", f"{i} TB/s", "measured" if i else "recalled", "a long source " * 9, "-"] for i in range(2)]
    # What is the same in every row goes to the heading before anything that differs is left out.
    assert arrange(columns, texts, 60) == ([3], [0, 1, 2, 4], [])
    assert arrange(columns, texts, 30) == ([3, 4], [0], [1, 2])


def test_piped_tables_keep_every_column_and_align_numbers_right():
    columns = [Column(heading="name"), Column(heading="time", dimension="seconds")]
    assert plain_table(columns, [["a", "10 ms"], ["long name", "1 µs"]]) == (
        "name        time\na          10 ms\nlong name   1 µs\n")
