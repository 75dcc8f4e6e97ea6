"""Sweeps of a small study as processes, for tests that run, strike and resume them."""

import hashlib
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sweep_program.py")
STUDY = """
schema_version: 1
name: small
title: A sweep
question: Is it whole?
hardware: [h100-sxm, groq-lpu]
models: [llama-3-8b]
layouts: [mha, gqa-4, mqa]
batch: 1..100+1
kv_len: {kv_len}
focus: {{batch: 8, kv_len: 1k}}
figures:
  - {{kind: roofline, batch: 8, kv_len: 1k}}
"""
# 2 chips x 3 layouts x 100 batches: 40 contexts make 48 parts of 500 points.
CONTEXTS = 40
WHOLE_RUN_S = 120.0
needs_parquet = pytest.mark.skipif(
    find_spec("pyarrow") is None, reason="pyarrow is not installed: pip install 'simkit[parquet]' to run this test")
needs_cluster = pytest.mark.skipif(
    find_spec("distributed") is None, reason="Dask is not installed: pip install 'simkit[cluster]' to run this test")
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
    stdout, stderr = process.communicate(timeout=WHOLE_RUN_S)
    return process.returncode, stdout, stderr


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parts_of(output):
    return sorted(output.with_name(output.name + ".parts").glob("part-*"))


def workers_of(process):
    """Process numbers of its spawned workers."""
    found = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for pid in task.read_text().split():
            try:
                is_worker = "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
            except OSError:
                continue
            found += [int(pid)] if is_worker else []
    return found


def wait_for(condition, process, timeout_s=60.0):
    """True as soon as the condition holds, False when the process ended before."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(0.005)
    raise AssertionError("nothing happened in time")
