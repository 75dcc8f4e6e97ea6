"""``simkit sweep``: what it writes, says and refuses. That it survives its death is in tests/sweep/test_sweep.py."""

import csv
import json
import re

import pytest

STUDY = """
schema_version: 1
name: small
title: A sweep
question: Is it whole?
hardware: [h100-sxm]
models: [llama-3-8b]
layouts: [mha, gqa-8]
batch: {batch}
kv_len: [1k, 4k]
focus: {{batch: 8, kv_len: 1k}}
figures:
  - {{kind: roofline, batch: 8, kv_len: 1k}}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.format(batch="1..8*2"), encoding="utf-8")
    return path


def test_a_study_becomes_one_csv_whose_rows_are_simulate_s(cli, run_cli, study, tmp_path):
    result = run_cli("sweep", study, "-o", "out.csv")
    assert (result.exit_code, result.stdout) == (0, "out.csv\n")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    told = cli("simulate", "-M", "llama-3-8b", "-A", "mha,gqa-8", "--batch", "1..8*2", "--kv-len", "1k,4k", "--format", "csv")
    # A single question also gets the bounds of its time, which a sweep leaves out.
    asked = list(csv.DictReader(told.stdout.splitlines()))
    assert rows[1:] == [[row[name] for name in rows[0]] for row in asked]


def test_progress_goes_to_stderr_with_rate_and_time(cli, study):
    result = cli("sweep", study, "-o", "out.csv")
    assert re.search(r"16 of 16 points, [\d,.]+ points/s, \d+ s taken", result.stderr)
    assert "\r" not in result.stderr


def test_by_name_from_the_catalogue_as_parquet(cli, tmp_path):
    """In this process: tests/sweep has it on several."""
    from pyarrow import parquet

    result = cli("sweep", "speculative_vs_gqa", "-o", "out.parquet")
    assert result.exit_code == 0, result.stderr
    table = parquet.read_table(tmp_path / "out.parquet")
    manifest = json.loads((tmp_path / "out.parquet.manifest.json").read_text(encoding="utf-8"))["manifest"]
    assert table.num_rows == manifest["points"] == 3 * 3 * 15


def test_a_study_too_large_for_a_report_is_not_for_a_sweep(cli, tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(STUDY.format(batch="1..60000+1"), encoding="utf-8")
    assert "simkit sweep has no such bound" in cli("report", path, "-o", "r").stderr
    result = cli("sweep", path, "-o", "out.parquet")
    assert result.exit_code == 0, result.stderr
    assert "240,000 of 240,000 points" in result.stderr


def test_set_reaches_every_profile_and_engine_wins_over_the_study_s(cli, study, tmp_path):
    result = cli("sweep", study, "-o", "out.csv", "--engine", "replay", "--set", "overheads.kernel_launch=0s")
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["engine"] for row in csv.DictReader(stream)} == {"replay"}


@pytest.mark.parametrize(("options", "said"), [
    (["-o", "out.xlsx"], "expected a .parquet or .csv file"),
    (["-o", "out"], "expected a .parquet or .csv file"),
    (["-o", "missing/out.csv"], "its folder does not exist"),
    (["-o", "."], "expected a .parquet or .csv file"),
    (["-o", "there.csv"], "exists already; give --force"),
    (["-o", "out.csv", "--workers", "2", "--cluster", "tcp://x:1"], "give one of them"),
    (["-o", "out.csv", "--resume", "--force"], "give one of them"),
    (["-o", "out.csv", "--workers", "0"], "--workers"),
    (["-o", "out.csv", "--engine", "rooflien"], "did you mean 'roofline'?"),
    ([], "Missing option '-o'"),
])
def test_mistakes_are_one_line_and_exit_2(cli, study, tmp_path, options, said):
    (tmp_path / "there.csv").write_text("mine", encoding="utf-8")
    result = cli("sweep", study, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "there.csv").read_text(encoding="utf-8") == "mine"
    assert not list(tmp_path.glob("*.parts"))


def test_force_replaces_and_resume_of_what_is_done_does_nothing(cli, study, tmp_path):
    (tmp_path / "out.csv").write_text("mine", encoding="utf-8")
    assert cli("sweep", study, "-o", "out.csv", "--force").exit_code == 0
    written = (tmp_path / "out.csv").stat().st_mtime_ns
    assert cli("sweep", study, "-o", "out.csv", "--resume").exit_code == 0
    assert (tmp_path / "out.csv").stat().st_mtime_ns == written
