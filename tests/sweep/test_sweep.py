"""Sweeps in parts: whoever computes them, in whatever order and form, the bytes are the same."""

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.foundation.output import csv_text
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.grid import Grid
from simkit.study.record import to_records
from simkit.study.study_file import load_study
from simkit.sweep import executors, part_plan
from simkit.sweep.part_files import encode
from simkit.sweep.sweep_run import WorkerLostError, run_sweep
from tests.sweep.sweep_runs import (
    CONTEXTS,
    HANG_S,
    STUDY,
    digest,
    halted_after,
    parts_of,
    run,
    start,
    wait_for,
    write_study,
)

pytestmark = pytest.mark.usefixtures("small_parts")


def test_every_point_is_there_once_in_the_documented_order_as_simulate_gives_it(whole):
    _, outputs = whole
    with outputs["csv"].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 20 * CONTEXTS
    for place in (0, 99, 100, 2_399, 2_400, len(rows) - 1):
        row = rows[place]
        group, rest = divmod(place, 20 * CONTEXTS)
        assert row["hardware"] == ["h100-sxm", "mi300x"][group // 3]
        assert row["attention"] == ["mha", "gqa-4", "mqa"][group % 3]
        assert (int(row["batch"]), int(row["kv_len"])) == (rest // CONTEXTS + 1, (rest % CONTEXTS + 1) * 1024)
        alone = simkit.decode_step(row["hardware"], "llama-3-8b", attention=["mha", "gqa-4", "mqa"],
                                   batch=int(row["batch"]), kv_len=int(row["kv_len"]), chips=1)
        assert float(row["step_time_s"]) == alone["step_time_s"][group % 3]


def test_parquet_holds_the_same_figures_as_csv_in_fixed_types(whole):
    import pyarrow.parquet as pq

    _, outputs = whole
    table = pq.read_table(outputs["parquet"])
    with outputs["csv"].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert table.column_names == list(rows[0])
    assert {str(table.schema.field(name).type) for name in ("batch", "kv_len", "chips")} == {"int64"}
    assert str(table.schema.field("bound").type) == "string"
    for place in range(0, len(rows), 997):
        for name, value in table.slice(place, 1).to_pylist()[0].items():
            said = rows[place][name]
            assert (said == "" if value is None else said == str(value).lower() if isinstance(value, bool)
                    else said == value if isinstance(value, str) else float(said) == value), name


def test_the_manifest_beside_the_result_names_what_it_follows_from(whole):
    _, outputs = whole
    note = json.loads(outputs["csv"].with_name("whole.csv.manifest.json").read_text())
    assert note["sha256"] == digest(outputs["csv"])
    assert [name for name, _ in note["manifest"]["hardware"]] == ["h100-sxm", "mi300x"]
    assert note["manifest"]["made_with"]["simkit"] == simkit.__version__
    assert not parts_of(outputs["csv"])
    assert not outputs["csv"].with_name("whole.csv.parts").exists()


def test_any_number_of_processes_gives_the_same_bytes(whole, tmp_path):
    """Three of them; test_sweep_resume.py has two, killed and resumed."""
    _, outputs = whole
    mine = tmp_path / "a.parquet"
    code, _, stderr = run(write_study(tmp_path), mine, "--workers", "3")
    assert code == 0, stderr
    assert digest(mine) == digest(outputs["parquet"])


def test_any_executor_of_concurrent_futures_will_do(whole, tmp_path):
    study, outputs = whole
    with ThreadPoolExecutor(2) as executor:
        mine = run_sweep(load_study(study, most_points=None).grid(), tmp_path / "a.csv",
                         workers=executors.Workers(executor=executor, in_flight=3))
    assert digest(mine) == digest(outputs["csv"])


def test_a_part_is_the_same_whoever_computes_it_and_holds_little(whole):
    study, _ = whole
    sweep = load_study(study, most_points=None).grid()
    plan = part_plan.plan_of(sweep, "csv")
    payload = plan.payload(sweep)
    assert part_plan.compute_part(payload, 7) == part_plan.compute_part(payload, 7)
    assert sum(plan.points_of(index) for index in range(plan.parts)) == len(sweep)
    assert len(payload) < 100_000


def test_a_worker_of_another_version_is_refused(whole, monkeypatch):
    study, _ = whole
    sweep = load_study(study, most_points=None).grid()
    payload = part_plan.plan_of(sweep, "csv").payload(sweep)
    monkeypatch.setattr(part_plan, "__version__", "0.0.1")
    with pytest.raises(UserError, match=r"has simkit 0\.0\.1, not"):
        part_plan.compute_part(payload, 0)


def test_a_replayed_sweep_is_the_same_with_and_without_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMKIT_CACHE", str(tmp_path / "cache"))
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(kv_len="1k").replace("1..20+1", "1..4*2").replace("mi300x", "tpu-v5e"))
    sweep = load_study(study).grid(engine="replay")
    without = run_sweep(sweep, tmp_path / "without.csv", cache=False)
    assert not (tmp_path / "cache").exists()
    kept = run_sweep(sweep, tmp_path / "kept.csv")
    again = run_sweep(sweep, tmp_path / "again.csv")
    assert digest(without) == digest(kept) == digest(again)


def test_without_pyarrow_csv_works_and_parquet_says_what_to_install(tmp_path):
    study = write_study(tmp_path, contexts=1)
    program = tmp_path / "without.py"
    program.write_text("import sys\nsys.modules['pyarrow'] = None\nfrom simkit.commands.main import main\nmain()\n")
    code, _, stderr = run(study, tmp_path / "a.csv", program=program)
    assert code == 0, stderr
    code, _, stderr = run(study, tmp_path / "a.parquet", program=program)
    assert code == 2
    assert "pip install 'simkit[parquet]'" in stderr


def _address(file):
    """What the scheduler wrote there, None until it has written all of it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError):
        return None


@pytest.fixture
def dask_cluster(tmp_path):
    """A scheduler and two workers, each a process of its own; yields the address and the workers."""
    address_file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    scheduler = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                                  "--no-dashboard", "--scheduler-file", str(address_file)], **quiet)
    processes = [scheduler]
    try:
        assert wait_for(lambda: _address(address_file), scheduler)
        address = _address(address_file)
        environment = {**os.environ, "PYTHONPATH": str(Path(simkit.__file__).parents[1])}
        workers = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1",
                                     "--no-dashboard", "--local-directory", str(tmp_path / f"w{n}")], env=environment, **quiet)
                   for n in range(2)]
        processes += workers
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=HANG_S)
        yield address, workers
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # a worker that lost its scheduler may hang on the way out
                process.kill()
                process.wait()


def test_a_dask_cluster_gives_the_same_bytes_also_when_it_loses_a_worker(whole, tmp_path, dask_cluster):
    _, outputs = whole
    address, workers = dask_cluster
    study = write_study(tmp_path)
    output = tmp_path / "lost.parquet"
    process = start(study, output, "--cluster", address, **halted_after(4))
    assert wait_for(lambda: len(parts_of(output)) > 3, process)
    workers[0].kill()
    (tmp_path / "go on").touch()
    _, stderr = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, stderr
    assert digest(output) == digest(outputs["parquet"])


def test_a_cluster_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "CONNECT_S", 1.0)
    with pytest.raises(UserError, match="no Dask scheduler answers there"), executors.cluster("tcp://127.0.0.1:9"):
        pass


def test_memory_does_not_grow_with_the_sweep(tmp_path):
    """Parts in flight are bounded: six times as many points take nowhere near six times the memory."""
    import tracemalloc

    # What is loaded and compiled once is not the sweep's.
    run_sweep(load_study(write_study(tmp_path, contexts=2), most_points=None).grid(), tmp_path / "first.parquet")
    peaks = []
    for contexts in (5, 30):
        sweep = load_study(write_study(tmp_path, contexts=contexts), most_points=None).grid()
        tracemalloc.start()
        run_sweep(sweep, tmp_path / f"{contexts}.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 2


def test_progress_counts_every_point_once(tmp_path):
    seen = []
    sweep = load_study(write_study(tmp_path, contexts=10), most_points=None).grid()
    run_sweep(sweep, tmp_path / "a.csv", progress=seen.append)
    done = [one.done_points for one in seen]
    assert done == sorted(done)
    assert sorted(set(done)) == [100 * n for n in range(13)]
    assert all(one.points == len(sweep) == 1200 and one.kept_points == 0 for one in seen)


def test_a_csv_of_columns_is_that_of_records():
    sweep = Grid(hardware=[load_hardware("h100-sxm"), load_hardware("groq-lpu")], model=[load_model("llama-3-8b")],
                 attention=("mha", "gqa-8"), batch=(1, 7, 900), kv_len=(1000, 99_999))  # some fit, tp is a fraction
    for columns in (*sweep.chunks(), {"batch": np.array([1.0, 2.5]), "model": np.array(["=a", 'b,"c"'], dtype=object)}):
        assert encode([columns], "csv").decode() == csv_text(to_records(columns))


def test_chunks_of_any_size_hold_the_same_figures():
    sweep = load_study("gqa_on_asics").grid()
    at_once = list(sweep.between(100, 220))
    in_small = list(sweep.between(100, 220, points=7))
    for name in ("step_time_s", "batch", "speedup_vs_mha"):
        joined = [np.concatenate([np.ravel(chunk[name]) for chunk in chunks]) for chunks in (at_once, in_small)]
        assert np.array_equal(*joined, equal_nan=True)


def test_a_lost_worker_s_error_is_no_user_error():
    assert not issubclass(WorkerLostError, UserError)
