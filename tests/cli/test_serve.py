"""``simkit serve`` as a user types it: records, figures, a timeline, and what it says to mistakes."""

import csv
import io
import json

import click
import pytest

from simkit.commands.main import main
from simkit.commands.options import Whole

SMALL = ("serve", "-H", "h100-sxm", "-M", "llama-3.1-8b", "--chips", "1", "--requests", "60", "--max-seqs", "64")
TRACE = "arrival_s,prompt_tokens,output_tokens\n0,100,20\n0.1,200,30\n0.2,90000000,5\n0.3,50,10\n"


def records(text: str) -> list[dict]:
    return json.loads(text)


def test_records_hold_rates_percentiles_and_where_time_went(cli):
    result = cli(*SMALL, "-A", "mha,gqa-8", "--rate", "2,4", "--slo-ttft", "1", "--slo-tpot", "0.05", "--format", "json")
    assert result.exit_code == 0
    found = records(result.stdout)
    assert [(row["attention"], row["offered_requests_per_s"]) for row in found] == [
        ("mha", 2), ("mha", 4), ("gqa-8", 2), ("gqa-8", 4)]
    for row in found:
        assert row["finished"] == row["requests"] == 60
        assert row["ttft_p50_s"] <= row["ttft_p90_s"] <= row["ttft_p99_s"]
        assert row["grid_max_error"] < 0.02
        assert 0 < row["mean_kv_occupancy"] <= row["max_kv_occupancy"] <= 1


def test_the_table_says_the_grid_s_error_and_where_time_went(cli):
    result = cli(*SMALL, "--rate", "2", "--runtime", "vllm")
    assert result.exit_code == 0
    assert "runtime vllm; step times read from a grid, off by" in result.stdout
    assert "attention" in result.stdout
    assert "host" in result.stdout


def test_the_same_command_gives_the_same_bytes(cli):
    first, second = (cli(*SMALL, "--rate", "3", "--arrivals", "gamma:3", "--seed", "5", "--format", "csv") for _ in "ab")
    assert first.stdout == second.stdout
    (row,) = csv.DictReader(io.StringIO(first.stdout))
    assert row["trace"] == "azure-conv-2023"


def test_a_trace_is_served_and_a_giant_request_refused_aloud(cli, tmp_path):
    (tmp_path / "trace.csv").write_text(TRACE, encoding="utf-8")
    result = cli(*SMALL, "--trace", "trace.csv", "--format", "json")
    (row,) = records(result.stdout)
    assert (row["finished"], row["refused"]) == (3, 1)
    assert "1 of 4 requests refused: their cache never fits" in result.stderr
    assert "request 3 of its replica, with 90,000,005 tokens" in result.stderr


def test_the_largest_rate_meets_the_objective_and_more_heads_earn_less(cli):
    result = cli(*SMALL, "-A", "mha,mqa", "--find-max-rate", "--slo-ttft", "1", "--slo-tpot", "0.02", "--requests", "300",
                 "--format", "json")
    mha, mqa = records(result.stdout)
    assert mha["slo_attainment"] >= 0.9
    assert mqa["offered_requests_per_s"] > mha["offered_requests_per_s"]


def test_a_folder_gets_records_figures_and_their_data(cli, tmp_path):
    result = cli(*SMALL, "-A", "mha,gqa-8", "--rate", "2,8", "-o", "out", "--trace-out", "trace.json")
    assert result.exit_code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"serving.csv", "serving.json", "goodput.svg", "kv_occupancy.svg", "tpot_cdf.svg", "tpot_cdf.csv"} <= names
    made = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert {event["ph"] for event in made["traceEvents"]} == {"M", "X", "C"}
    again = cli(*SMALL, "--rate", "2", "-o", "out")
    assert again.exit_code == 2
    assert "exists already; give --force" in again.stderr


def test_a_closed_loop_keeps_its_clients_busy(cli):
    (row,) = records(cli(*SMALL, "--concurrency", "4", "--lengths", "100/50", "--format", "json").stdout)
    assert row["max_batch"] == 4
    assert row["mean_batch"] == pytest.approx(4, rel=0.1)
    assert row["offered_requests_per_s"] is None


@pytest.mark.parametrize(("words", "message"), [
    ((), "no requests: give --trace FILE, --rate R, --concurrency N or --find-max-rate"),
    (("--rate", "0"), "--rate"),
    (("--rate", "fast"), "--rate"),
    (("--rate", "1", "--arrivals", "poison"), "expected poisson or gamma:CV"),
    (("--rate", "1", "--lengths", "azure"), "did you mean 'azure-conv-2023'"),
    (("--rate", "1", "--policy", "drop"), "expected recompute or swap"),
    (("--rate", "1", "--runtime", "vlm"), "did you mean 'vllm'"),
    (("--rate", "1", "--find-max-rate"), "--find-max-rate needs an objective"),
    (("--concurrency", "2", "--find-max-rate", "--slo-ttft", "1"), "--concurrency fixes it by itself"),
    (("--trace", "nowhere.csv"), "nowhere.csv: no such file"),
    (("--rate", "1", "--chunk", "1M"), "at most 65536"),
    (("--rate", "1", "-M", "llama-3.1-8b,llama-2-7b"), "serving takes one model"),
    (("--rate", "1", "--chips", "fit-each"), "share their chips"),
    (("--rate", "1", "--swap-space", "4 apples"), "apples"),
    (("--rate", "1", "--engine", "oracle"), "unknown engine"),
])
def test_a_mistake_gets_one_line_and_exit_code_2(words, message, cli):
    result = cli(*SMALL, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize("name", ["serve", "plan", "simulate", "attention", "sweep", "design", "split"])
def test_every_whole_number_is_read_as_in_lists(name):
    for option in main.get_command(click.Context(main), name).params:
        if isinstance(option.type, click.IntRange):
            assert isinstance(option.type, Whole), option.name
            assert option.type.convert("1k", option, None) == 1024


def test_lists_of_chips_and_of_figures_are_served_each(cli):
    found = records(cli(*SMALL[:5], "--requests", "9", "--max-seqs", "2", "--chunk", "64", "--rate", "2", "--chips", "1,2",
                        "--set", "memory.hbm.bandwidth=2TB/s..4TB/s*2", "--format", "json").stdout)
    assert [(row["hardware"].partition("=")[2], row["chips"]) for row in found] == [
        ("2TB/s", 1), ("2TB/s", 2), ("4TB/s", 1), ("4TB/s", 2)]
