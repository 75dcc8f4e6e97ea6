"""``simkit crossover``: records, the table with its units, and what it says when nothing crosses."""

import csv
import io
import json
from itertools import pairwise

import pytest

GROQ = ("crossover", "-H", "groq-lpu", "-M", "llama-2-70b", "-A", "gqa-8", "--against", "mha", "--below", "1.10",
        "--vary", "memory.sram.bandwidth")


def records_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_contract_command_gives_records_whose_value_simulate_confirms(cli):
    (record,) = records_of(cli(*GROQ, "--format", "json"))
    assert record["finding"] == "falls below"
    assert record["advantage"] == pytest.approx(1.10, abs=1e-6)
    assert record["times_own"] == pytest.approx(record["value"] / record["own_value"])
    told = records_of(cli("simulate", "-H", "groq-lpu", "-A", "mha,gqa-8", "--batch", "32", "--set",
                          f"memory.sram.bandwidth={record['value']!r} B/s", "--format", "json"))
    assert told[1]["speedup_vs_mha"] == pytest.approx(1.10, rel=1e-6)
    assert told[1]["chips"] == record["chips"]


def test_the_table_has_units_and_says_what_else_the_bandwidth_does(cli):
    result = cli(*GROQ)
    assert result.exit_code == 0
    assert "TB/s" in result.stdout
    assert "falls below" in result.stdout
    assert "weights and cache share memory.sram, and its bandwidth speeds both" in result.stdout


def test_all_crossings_are_rows_in_order(cli):
    records = records_of(cli("crossover", "--vary", "batch", "--below", "2", "--chips", "16", "--from", "1", "--to", "200",
                             "--format", "json"))
    values = [record["value"] for record in records]
    assert values == sorted(values)
    findings = [record["finding"] for record in records]
    assert all(one != other for one, other in pairwise(findings))


def test_when_there_is_none_it_says_so_with_the_range_it_looked_at(cli):
    result = cli("crossover", "-H", "h100-sxm", "--below", "1.0001", "--vary", "memory.hbm.bandwidth", "--to", "4 TB/s")
    assert result.exit_code == 0
    assert "above throughout" in result.stdout
    assert "no crossing of 1.0001 from" in result.stdout
    assert "4 TB/s" in result.stdout


def test_lists_ask_one_question_each_and_csv_is_json(cli):
    command = ("crossover", "-H", "h100-sxm,a100-sxm-80gb", "--vary", "kv_len", "--below", "1.5", "--batch", "1,8", "--chips", "8")
    records = records_of(cli(*command, "--format", "json"))
    assert {(record["hardware"], record["batch"]) for record in records} == {
        (chip, batch) for chip in ("h100-sxm", "a100-sxm-80gb") for batch in (1, 8)}
    rows = list(csv.DictReader(io.StringIO(cli(*command, "--format", "csv").stdout)))
    assert [row["finding"] for row in rows] == [record["finding"] for record in records]
    assert list(rows[0]) == list(records[0])


def test_the_default_is_the_bandwidth_of_each_chip_s_main_memory(cli):
    records = records_of(cli("crossover", "-H", "h100-sxm,groq-lpu", "--format", "json"))
    assert {record["hardware"]: record["vary"] for record in records} == {
        "h100-sxm": "memory.hbm.bandwidth", "groq-lpu": "memory.sram.bandwidth"}


@pytest.mark.parametrize(("options", "said"), [
    (["--vary", "memory.hbm.bandwith"], "did you mean 'memory.hbm.bandwidth'?"),
    (["--from", "8 Gb/s"], "a small b is bits"),
    (["--below", "-1"], "expected a ratio above 0"),
    (["--batch", "1..2000+1"], "more than the 1,000 of one call"),
    (["--against", "gqa-5"], "gqa-5"),
    (["-o", "out.xlsx"], "no format for '.xlsx'"),
])
def test_mistakes_are_one_line_and_exit_2(run_cli, options, said):
    result = run_cli("crossover", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
