"""``simkit simulate``: the contract's records, and that table, CSV and JSON say the same."""

import csv
import io
import json
import re

import pytest

CONTRACT = ("simulate", "-H", "h100-sxm", "-M", "llama-2-70b", "-A", "mha,gqa-8,mqa", "--batch", "1,32",
            "--kv-len", "4k,32k", "--chips", "8", "--tp", "8")
# Names fixed by architecture.md, "One record, one vocabulary".
CONTRACT_FIELDS = [
    "hardware", "chips", "model", "attention", "n_q_heads", "n_kv_heads", "kv_dtype", "batch", "kv_len", "q_len",
    "engine", "step_time_s", "tokens_per_s", "tokens_per_s_per_user", "attention_time_s", "kv_cache_bytes",
    "kv_read_bytes", "weight_read_bytes", "flops", "arithmetic_intensity", "bound", "speedup_vs_mha", "max_batch",
    "energy_j_per_token", "cost_usd_per_mtok",
]


def records_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def table_rows(text):
    """A piped table as dicts: columns are two or more spaces apart."""
    lines = [line for line in text.splitlines() if "  " in line]
    heading, *rows = (re.split(r" {2,}", line.strip()) for line in lines)
    return [dict(zip(heading, row, strict=True)) for row in rows]


def test_the_contract_command_gives_twelve_records_with_the_contract_s_names(cli):
    records = records_of(cli(*CONTRACT, "--format", "json"))
    assert len(records) == 12
    for record in records:
        assert set(CONTRACT_FIELDS) <= set(record)
        assert record["chips"] == 8


def test_rows_come_in_the_order_hardware_model_dtype_attention_batch_context(cli):
    records = records_of(cli(
        "simulate", "-H", "h100-sxm,a100-sxm-80gb", "-M", "llama-2-7b,mistral-7b", "--kv-dtype", "bf16,fp8",
        "-A", "mha,mqa", "--batch", "1,2", "--kv-len", "1k,2k", "--format", "json"))
    keys = ("hardware", "model", "kv_dtype", "attention", "batch", "kv_len")
    axes = (["h100-sxm", "a100-sxm-80gb"], ["llama-2-7b", "mistral-7b"], ["bf16", "fp8"], ["mha", "mqa"], [1, 2],
            [1024, 2048])
    places = [tuple(axis.index(record[key]) for key, axis in zip(keys, axes, strict=True)) for record in records]
    assert places == sorted(places)
    assert len(set(places)) == 2**6


def test_the_cache_of_llama_2_70b_is_exact_to_the_byte(cli):
    """80 layers x heads x 128 x 2 tensors x 2 bytes x 4096 tokens (Touvron et al. 2023, table 1 and GQA paper)."""
    records = records_of(cli("simulate", "-A", "mha,gqa-8,mqa", "--kv-len", "4k", "--format", "json"))
    assert [record["kv_cache_bytes"] for record in records] == [10737418240, 1342177280, 167772160]


def test_attention_s_intensity_is_the_group_size_in_bf16(cli):
    """Each KV byte pair feeds 2 flops per query head of its group: 1, 8, 64 flops a byte."""
    records = records_of(cli("simulate", "-A", "mha,gqa-8,mqa", "--chips", "8", "--tp", "1", "--pp", "8", "--format", "json"))
    assert [record["arithmetic_intensity"] for record in records] == [1.0, 8.0, 64.0]


def test_counts_are_whole_numbers_and_unknown_figures_are_null_in_json(cli):
    result = cli("simulate", "-A", "mqa", "--format", "json")
    record = records_of(result)[0]
    for name in ("chips", "batch", "kv_len", "kv_cache_bytes", "n_q_heads", "n_kv_heads", "max_batch"):
        assert type(record[name]) is int, name
    assert "NaN" not in result.stdout
    assert "Infinity" not in result.stdout


def test_csv_holds_the_same_records_as_json(cli):
    records = records_of(cli(*CONTRACT, "--format", "json"))
    rows = list(csv.DictReader(io.StringIO(cli(*CONTRACT, "--format", "csv").stdout)))
    assert [list(row) for row in rows] == [list(record) for record in records]
    for row, record in zip(rows, records, strict=True):
        for name, value in record.items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, bool):
                assert row[name] == str(value).lower()
            elif isinstance(value, int | float):
                assert float(row[name]) == value
            else:
                assert row[name] == value


def test_the_table_agrees_with_json_to_its_digits(cli):
    records = records_of(cli(*CONTRACT, "--format", "json"))
    result = cli(*CONTRACT)
    rows = table_rows(result.stdout)
    factors = {"ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "s": 1.0, "GB": 1e9, "MB": 1e6, "TB": 1e12, "kB": 1e3, "B": 1.0}
    for row, record in zip(rows, records, strict=True):
        assert row["attention"] == record["attention"]
        for heading, name in (("step", "step_time_s"), ("attention time", "attention_time_s"),
                              ("KV cache", "kv_cache_bytes")):
            if record[name] is None:
                assert row[heading] == "-"
            else:
                number, unit = row[heading].split()
                assert float(number) * factors[unit] == pytest.approx(record[name], rel=6e-3)  # three digits
        assert row["batch"] == str(record["batch"])


def test_nothing_but_the_array_is_on_stdout_and_warnings_are_on_stderr(cli):
    result = cli(*CONTRACT, "--format", "json")
    json.loads(result.stdout)
    assert result.stderr.startswith("warning: llama-2-70b with mha")


def test_a_point_that_does_not_fit_stays_without_times_and_says_how_many_chips_would_do(cli):
    result = cli(*CONTRACT, "--format", "json")
    unfit = [record for record in json.loads(result.stdout) if not record["fits"]]
    assert [(record["attention"], record["batch"], record["kv_len"]) for record in unfit] == [("mha", 32, 32768)]
    assert unfit[0]["step_time_s"] is None
    assert unfit[0]["bound"] is None
    assert unfit[0]["kv_cache_bytes"] == 10737418240 * 32 * 8
    chips = int(re.search(r": (\d+) chips would do", result.stderr)[1])
    again = json.loads(cli("simulate", "-A", "mha", "--batch", "32", "--kv-len", "32k", "--chips", str(chips), "--format",
                           "json").stdout)
    assert again[0]["fits"] is True


def test_when_nothing_fits_that_is_the_error(cli):
    result = cli("simulate", "-A", "mha", "--chips", "1", "--format", "json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(r"error: llama-2-70b with mha .* does not fit on 1 chip of h100-sxm: \d+ chips would do\n", result.stderr)


def test_a_context_that_no_number_of_chips_holds_is_said_so(cli):
    result = cli("simulate", "-A", "mha", "--batch", "1M", "--kv-len", "1M")
    assert result.exit_code == 2
    assert "no number of chips of this system" in result.stderr


def test_a_chip_whose_link_no_source_gives_stands_alone_and_says_why(cli, tmp_path):
    (tmp_path / "alone.yaml").write_text("name: alone\nextends: h100-sxm\nsystem: {max_chips: 8}\n"
                                         "links: {scale_up: {bandwidth: null}, scale_out: null}\n", encoding="utf-8")
    result = cli("simulate", "-H", "alone.yaml", "-A", "gqa-8")
    assert result.exit_code == 2
    assert "no source gives links.scale_up.bandwidth, without which chips cannot share a model" in result.stderr
    assert cli("simulate", "-H", "alone.yaml", "-A", "gqa-8", "--set", "links.scale_up.bandwidth=450GB/s").exit_code == 0
    assert cli("profile", "check", "alone.yaml").stdout.count("joins") == 0


def test_compared_layouts_run_on_the_same_chips_unless_fit_each_says_otherwise(cli):
    arguments = ("simulate", "-A", "mha,mqa", "--batch", "64", "--kv-len", "8k", "--format", "json")
    assert len({record["chips"] for record in records_of(cli(*arguments))}) == 1
    assert len({record["chips"] for record in records_of(cli(*arguments, "--chips", "fit-each"))}) == 2


def test_set_changes_the_profile_for_the_run(cli):
    arguments = ("simulate", "-A", "mha", "--format", "json")
    usual, faster = (records_of(cli(*arguments, *extra))[0]["step_time_s"]
                     for extra in ((), ("--set", "memory.hbm.bandwidth=6.704TB/s")))
    assert 0.5 < faster / usual < 1.0  # twice the bandwidth: never more than twice as fast


def test_a_file_is_written_in_the_format_of_its_suffix_and_never_over_another(cli, tmp_path):
    assert cli(*CONTRACT, "-o", "points.csv").exit_code == 0
    assert cli(*CONTRACT, "-o", "points.json").exit_code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "points.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(json.loads((tmp_path / "points.json").read_text(encoding="utf-8"))) == 12
    assert cli(*CONTRACT, "-o", "points.csv").exit_code == 2
    assert cli(*CONTRACT, "-o", "points.csv", "--force").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["points.csv", "points.json"]


def test_a_profile_and_a_model_may_be_paths_and_a_folder_may_come_first(cli, tmp_path):
    cli("profile", "new", "mine", "--like", "h100-sxm", "-o", "mine.yaml")
    by_path = records_of(cli("simulate", "-H", "mine.yaml", "-A", "mha", "--format", "json"))
    by_folder = records_of(cli("simulate", "-H", "mine", "--profiles", tmp_path, "-A", "mha", "--format", "json"))
    shipped = records_of(cli("simulate", "-H", "h100-sxm", "-A", "mha", "--format", "json"))
    assert by_path == by_folder
    assert by_path[0]["step_time_s"] == shipped[0]["step_time_s"]


POINT = ("-M", "llama-2-70b", "-A", "gqa-8", "--batch", "8", "--kv-len", "4k", "--chips", "8")


def test_a_table_prints_a_range_where_it_matters_and_says_how_much_is_assumed(cli):
    told = cli("simulate", "-H", "gaudi3,mi300x", *POINT).stdout
    guess, measured = table_rows(told.rpartition("what binds")[0])
    assert re.fullmatch(r"[\d.]+ ms \([\d.]+ to [\d.]+ ms\)", guess["step"])
    assert "(" not in measured["step"]
    assert "parameters assumed by class: 8 of gaudi3 (simkit profile show lists them)" in told


def test_a_range_below_a_tenth_is_in_the_record_and_not_in_the_table(cli):
    """SN40L's launches and matrix rate move its step by 2 %."""
    told = cli("simulate", "-H", "sambanova-sn40l", *POINT[:-2], "--batch", "32").stdout
    record, = records_of(cli("simulate", "-H", "sambanova-sn40l", *POINT[:-2], "--batch", "32", "--format", "json"))
    assert 1 < record["step_time_s_high"] / record["step_time_s_low"] < 1.1
    assert " to " not in table_rows(told.rpartition("what binds")[0])[0]["step"]


def test_assume_ideal_is_named_and_has_no_range(cli):
    record, = records_of(cli("simulate", "-H", "gaudi3", *POINT, "--assume", "ideal", "--format", "json"))
    assert record["assumed"] == "ideal"
    assert record["step_time_s_low"] is record["step_time_s_high"] is None
    told = cli("simulate", "-H", "gaudi3", *POINT, "--assume", "ideal").stdout
    assert "ideal values for what these profiles do not state (--assume): gaudi3" in told
    after, = records_of(cli("simulate", "-H", "gaudi3", *POINT, "--format", "json"))  # the word ends with its command
    assert after["assumed"] != "ideal"


def test_two_ways_to_name_the_machine_are_refused(cli):
    """The budget won, unsaid."""
    result = cli("simulate", "--fewest", "--budget-chips", "4")
    assert result.exit_code == 2
    assert "give one of them" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_budget_above_the_largest_system_is_told_and_the_system_is_the_budget(cli):
    """It was cut in silence; a budget over several chips still serves those that have as many."""
    words = ("simulate", "-H", "l40s,h100-sxm", "-M", "llama-3-8b", "-A", "gqa-8", "--batch", "32", "--kv-len", "4k")
    told = cli(*words, "--budget-chips", "64", "--format", "json")
    assert told.stderr.splitlines() == [
        "warning: --budget-chips 64: l40s systems end at 8 chips: so does the budget"]
    whole = cli(*words, "--budget-chips", "8", "--format", "json")
    assert whole.stderr == ""
    assert records_of(told)[0]["chips"] == records_of(whole)[0]["chips"] <= 8
