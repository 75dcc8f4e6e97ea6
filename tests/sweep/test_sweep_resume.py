"""Sweeps that were killed, ran out of disk or lost a worker end with the same bytes; others refuse to be resumed."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from simkit.foundation.errors import UserError
from simkit.foundation.named_files import catalogue_files
from simkit.study.study_file import load_study
from simkit.sweep import part_plan
from simkit.sweep.sweep_run import run_sweep
from tests.sweep.sweep_runs import (
    HANG_S,
    digest,
    halted_after,
    needs_posix,
    needs_proc,
    parts_of,
    run,
    start,
    wait_for,
    workers_of,
    write_study,
)

pytestmark = pytest.mark.usefixtures("small_parts")


@needs_posix
@pytest.mark.parametrize(("form", "workers"), [("csv", "2"), ("parquet", "1")])
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bytes(whole, tmp_path, form, workers):
    _, outputs = whole
    study, output = write_study(tmp_path), tmp_path / f"whole.{form}"
    chance = random.Random(f"{form} {workers}")
    for _ in range(2):
        before, more = len(parts_of(output)), chance.randint(1, 22)  # of 48: it is never done
        process = start(study, output, "--resume", "--workers", workers, **halted_after(more))
        wanted = before + chance.randint(1, more)  # at work still, or standing
        assert wait_for(lambda wanted=wanted: len(parts_of(output)) >= wanted, process)
        assert process.poll() is None
        process.kill()
        process.communicate()
    code, _, stderr = run(study, output, "--resume", "--workers", workers)
    assert code == 0, stderr
    assert digest(output) == digest(outputs[form])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.yaml", output.name, f"{output.name}.manifest.json"]


@needs_posix
def test_killed_while_the_parts_are_joined_it_ends_with_the_same_bytes(whole, tmp_path):
    _, outputs = whole
    study, output = write_study(tmp_path), tmp_path / "whole.csv"
    joined = tmp_path / "whole.csv.parts" / "joined.csv"
    process = start(study, output)
    wait_for(lambda: joined.exists() or output.exists(), process)
    process.kill()
    process.communicate()
    code, _, stderr = run(study, output, "--resume")
    assert code == 0, stderr
    assert digest(output) == digest(outputs["csv"])


@needs_proc
def test_workers_end_when_the_program_is_killed(tmp_path):
    study, output = write_study(tmp_path), tmp_path / "a.csv"
    process = start(study, output, "--workers", "2", **halted_after(3))
    assert wait_for(lambda: len(workers_of(process)) == 2 and parts_of(output), process)
    children = workers_of(process)
    process.kill()
    process.communicate()

    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def none_alive():
        return not any(alive(pid) for pid in children)

    deadline = time.monotonic() + HANG_S
    while not none_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert none_alive()


@needs_proc
def test_a_worker_that_dies_is_told_and_the_rest_resumed(whole, tmp_path):
    _, outputs = whole
    study, output = write_study(tmp_path), tmp_path / "whole.csv"
    process = start(study, output, "--workers", "2", **halted_after(3))
    assert wait_for(lambda: len(parts_of(output)) == 3 and workers_of(process), process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    (tmp_path / "go on").touch()
    _, stderr = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert "a worker was lost" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert parts_of(output)
    code, _, stderr = run(study, output, "--resume", "--workers", "2")
    assert code == 0, stderr
    assert digest(output) == digest(outputs["csv"])
    assert "from before" in stderr


@needs_posix
@pytest.mark.parametrize("limit_bytes", [20_000, 1_000_000])  # no part fits; parts fit and the joined file does not
def test_when_no_more_can_be_written_it_says_so_and_resumes(whole, tmp_path, limit_bytes):
    import resource

    _, outputs = whole
    study, output = write_study(tmp_path), tmp_path / "whole.csv"
    code, _, stderr = run(study, output, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)))
    assert code == 2
    assert "cannot write: File too large" in stderr
    assert "--resume" in stderr
    assert not output.exists()
    code, _, stderr = run(study, output, "--resume")
    assert code == 0, stderr
    assert digest(output) == digest(outputs["csv"])


@needs_posix
def test_a_full_disk_is_told_and_the_run_resumed_when_there_is_room(whole, tmp_path):
    _, outputs = whole
    small = tmp_path / "disk"
    small.mkdir()
    size = outputs["csv"].stat().st_size
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", str(small)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one: run this test as root")
    try:
        study, output = write_study(tmp_path), small / "whole.csv"
        code, _, stderr = run(study, output)
        assert code == 2
        assert "No space left on device" in stderr
        assert parts_of(output)
        subprocess.run(["mount", "-o", f"remount,size={size * 4}", str(small)], check=True)
        code, _, stderr = run(study, output, "--resume")
        assert code == 0, stderr
        assert "from before" in stderr
        assert digest(output) == digest(outputs["csv"])
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.fixture
def unfinished(tmp_path):
    """A study, an output, and a sweep of it that stopped after a few parts."""
    study, output = write_study(tmp_path, contexts=10), tmp_path / "out.csv"
    stopped = Stopped()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(load_study(study, most_points=None).grid(), output, progress=stopped)
    return study, output


class Stopped:
    """Progress that interrupts as a user would, after the third part."""

    def __call__(self, progress):
        if progress.done_points >= 300:
            raise KeyboardInterrupt


def resumed(study, output, **overrides):
    return run_sweep(load_study(study, most_points=None, **overrides).grid(), output, resume=True)


@pytest.mark.parametrize(("old", "new", "said"), [
    ("batch: 1..20+1", "batch: 1..21+1", "the study has changed (batch)"),
    ("gqa-4", "gqa-2", "the study has changed (attention)"),
    ("hardware: [h100-sxm, mi300x]", "hardware: [h100-sxm, tpu-v5e]", "the study has changed (hardware)"),
    ("hardware: [h100-sxm, mi300x]", "hardware: [mi300x, h100-sxm]", "the study has changed (hardware)"),
    ("models: [llama-3-8b]", "models: [mistral-7b]", "the study has changed (models)"),
    ("focus:", "kv_dtype: fp8\nfocus:", "the study has changed (kv_dtype)"),
    ("focus:", "weight_dtype: fp8\nfocus:", "the study has changed (scenario)"),
    ("chips: 1", "chips: 8", "the study has changed (chips)"),
])
def test_a_changed_study_refuses_to_resume_and_says_what_changed(unfinished, old, new, said):
    study, output = unfinished
    study.write_text(study.read_text().replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        resumed(study, output)
    assert "--force" in str(caught.value)
    assert parts_of(output)


def test_a_changed_profile_refuses_to_resume_and_is_named(unfinished):
    study, output = unfinished
    with pytest.raises(UserError, match="the profile mi300x has changed"):
        resumed(study, output, profiles=_changed_chip(study.parent))


def _changed_chip(folder):
    """A folder with a profile mi300x of half as many chips a system."""
    own = folder / "profiles"
    own.mkdir()
    text = catalogue_files("hardware_profiles")["mi300x"].read_text(encoding="utf-8")
    changed = re.sub(r"(max_chips: \{value: )\d+", r"\g<1>4", text)
    assert changed != text
    (own / "mi300x.yaml").write_text(changed, encoding="utf-8")
    return own


def test_words_for_people_may_change(unfinished):
    study, output = unfinished
    study.write_text(study.read_text().replace("title: A sweep", "title: Another title  # and a comment"), encoding="utf-8")
    assert resumed(study, output).exists()


def test_other_sources_refuse_to_resume(unfinished, monkeypatch):
    study, output = unfinished
    monkeypatch.setattr(part_plan, "source_digest", lambda _: "changed")
    with pytest.raises(UserError, match="its source text"):
        resumed(study, output)


def test_a_finished_result_is_left_alone_by_resume_unless_it_is_of_another_study(unfinished):
    study, output = unfinished
    resumed(study, output)
    stamp = output.stat().st_mtime_ns
    resumed(study, output)
    assert output.stat().st_mtime_ns == stamp
    study.write_text(study.read_text().replace("gqa-4", "gqa-2"), encoding="utf-8")
    with pytest.raises(UserError, match="the study has changed"):
        resumed(study, output)


def test_damaged_parts_are_made_again(unfinished, whole):
    study, output = unfinished
    first, second, *_ = parts_of(output)
    first.write_bytes(first.read_bytes()[:-7])
    second.write_bytes(second.read_bytes().replace(b"hbm", b"hbx"))
    damaged = resumed(study, output)
    again = run_sweep(load_study(study, most_points=None).grid(), study.with_name("again.csv"))
    assert digest(damaged) == digest(again)


def test_nothing_that_stands_there_is_replaced_unasked(unfinished):
    study, output = unfinished
    sweep = load_study(study, most_points=None).grid()
    with pytest.raises(UserError, match="an unfinished sweep stands there"):
        run_sweep(sweep, output)
    output.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        run_sweep(sweep, output, resume=True)
    assert output.read_text() == "mine"
    run_sweep(sweep, output, force=True)
    assert output.read_text().startswith("hardware,")
    with pytest.raises(UserError, match="exists already"):
        run_sweep(sweep, output)


@needs_posix
def test_two_runs_into_one_file_do_not_mix(unfinished):
    import fcntl

    study, output = unfinished
    lock = os.open(output.with_name("out.csv.parts"), os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another sweep is writing there"):
        resumed(study, output)
    os.close(lock)
