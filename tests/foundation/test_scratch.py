"""What runs write aside: gone with the run, gone later when the run was killed, and never the user's."""

import os
import subprocess
import sys
import threading

import pytest

from simkit.foundation import scratch as scratch_module
from simkit.foundation.errors import UserError
from simkit.foundation.library_caches import prepare_matplotlib, prepare_numba, temporary_folder
from simkit.foundation.output import atomic_file
from simkit.foundation.output_folder import settled, staged_folder
from simkit.foundation.scratch import held, scratch

needs_locks = pytest.mark.skipif(os.name != "posix", reason="locks that end with the process are POSIX")


@needs_locks
def test_what_a_killed_run_left_goes_when_the_next_one_writes_there(tmp_path):
    target = tmp_path / "out.csv"
    script = f"import os; from simkit.foundation.output import atomic_file\nwith atomic_file({str(target)!r}) as part: part.write_text('a'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert [path.suffix for path in tmp_path.iterdir()] == [".csv"]
    assert not target.exists()
    with atomic_file(target) as part:
        part.write_text("b", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@needs_locks
def test_what_a_living_run_writes_and_what_the_user_has_stays(tmp_path):
    mine = [".out.part", ".out.0a1b2c3d.part.bak", ".out.notes.part"]
    for name in mine:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    with scratch(tmp_path, ".out.", ".part", as_folder=False) as first, \
            scratch(tmp_path, ".out.", ".part", as_folder=False) as second:
        assert first.exists()
        assert second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)


@pytest.mark.parametrize("moment", ["held", "_remove"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_an_interrupt_while_it_is_made_or_removed_leaves_nothing(tmp_path, monkeypatch, moment, as_folder):
    whole, calls = getattr(scratch_module, moment), []

    def interrupted_once(*given, **options):
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return whole(*given, **options)

    monkeypatch.setattr(scratch_module, moment, interrupted_once)
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path, ".out.", ".part", as_folder=as_folder) as part:
        assert part.exists()
    assert calls
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_not_replaced_unasked(tmp_path):
    target = tmp_path / "out.csv"

    def write_while_another_does():
        with atomic_file(target) as part:
            part.write_text("ours", encoding="utf-8")
            target.write_text("another run's", encoding="utf-8")

    with pytest.raises(UserError, match="exists already"):
        write_while_another_does()
    assert target.read_text(encoding="utf-8") == "another run's"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_of_many_runs_into_one_new_file_exactly_one_writes_it(tmp_path):
    target, refused, ready = tmp_path / "out.csv", [], threading.Barrier(8)

    def write(text):
        try:
            with atomic_file(target) as part:
                part.write_text(text, encoding="utf-8")
                ready.wait()
        except UserError:
            refused.append(text)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert target.read_text(encoding="utf-8") not in refused


def test_a_folder_gets_its_name_whole_and_not_over_another(tmp_path):
    with staged_folder(tmp_path / "deep" / "out") as staging:
        (staging / "a.txt").write_text("a", encoding="utf-8")
        assert settled(staging, tmp_path / "deep" / "out")
    with staged_folder(tmp_path / "deep" / "out") as staging:
        assert not settled(staging, tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a.txt").exists()


@needs_locks
def test_a_folder_is_held_by_one(tmp_path):
    with held(tmp_path) as first, held(tmp_path) as second:
        assert first
        assert not second


def test_without_a_home_to_write_libraries_keep_their_files_in_a_folder_of_this_user(tmp_path, monkeypatch):
    not_a_folder = tmp_path / "home"
    not_a_folder.write_text("", encoding="utf-8")  # not even root can write into it
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("simkit.foundation.library_caches.__file__", str(not_a_folder / "simkit" / "library_caches.py"))
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(not_a_folder / "cache"))
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    prepare_numba()
    prepare_matplotlib()
    import numba

    for folder in (os.environ["NUMBA_CACHE_DIR"], os.environ["MPLCONFIGDIR"], numba.config.CACHE_DIR):
        assert os.path.commonpath([folder, tmp_path]) == str(tmp_path)
        assert os.access(folder, os.W_OK)


def test_a_home_that_can_be_written_is_left_alone(tmp_path, monkeypatch):
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "not there yet"))
    prepare_numba()
    prepare_matplotlib()
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert "MPLCONFIGDIR" not in os.environ


@needs_locks
def test_a_temporary_folder_that_others_may_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    open_to_all = tmp_path / f"simkit-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert open_to_all not in temporary_folder("numba").parents
