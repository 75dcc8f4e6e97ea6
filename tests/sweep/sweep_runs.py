"""Sweeps of a small study as processes, for tests that run, strike and resume them."""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sweep_program.py")
STUDY = """
schema_version: 1
name: small
title: A sweep
question: Is it whole?
hardware: [h100-sxm, mi300x]
models: [llama-3-8b]
layouts: [mha, gqa-4, mqa]
batch: 1..20+1
kv_len: {kv_len}
chips: 1
focus: {{batch: 8, kv_len: 1k}}
figures:
  - {{kind: roofline, batch: 8, kv_len: 1k}}
"""
# 2 chips x 3 layouts x 20 batches: 40 contexts make 48 parts of 100 points. One chip: no search is repeated in each part.
CONTEXTS = 40
HANG_S = 600.0  # whoever takes longer, on a busy machine too, hangs
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes in Linux's /proc")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and file-size limits are POSIX")


def write_study(folder, contexts=CONTEXTS, name="study.yaml"):
    path = folder / name
    path.write_text(STUDY.format(kv_len=f"1k..{contexts}k+1k"), encoding="utf-8")
    return path


def start(study, output, *options, program=PROGRAM, **kwargs):
    return subprocess.Popen([sys.executable, str(program), "sweep", str(study), "-o", str(output), *options],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", cwd=study.parent, **kwargs)


def run(study, output, *options, **kwargs):
    process = start(study, output, *options, **kwargs)
    stdout, stderr = process.communicate(timeout=HANG_S)
    return process.returncode, stdout, stderr


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parts_of(output):
    return sorted(output.with_name(output.name + ".parts").glob("part-*"))


def workers_of(process):
    """Process numbers of its spawned workers."""
    found = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread or a worker may end meanwhile
            found += [int(pid) for pid in task.read_text().split()
                      if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]
    return found


def halted_after(parts):
    """Options of :func:`start` for a sweep that stands still once it has written that many parts of its own."""
    return {"env": {**os.environ, "SIMKIT_TEST_HALT_AFTER": str(parts)}}


def wait_for(condition, process):
    """True as soon as the condition holds, False when the process ended before."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(0.005)
    raise AssertionError("nothing happened in time")
