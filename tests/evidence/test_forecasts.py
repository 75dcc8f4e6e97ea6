"""Dated forecasts: a made-up table scored by hand, rows that stay as they were, and the command that made them."""

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner

from simkit.commands.main import main
from simkit.errors import UserError
from simkit.evidence.accelerators.forecasts import (
    COLUMNS,
    QUESTION,
    answers,
    command_of,
    question_of,
    read_forecasts,
    score,
    summary,
)
from simkit.evidence.accelerators.table import MeasuredRow
from simkit.hardware.catalog import load_hardware

ASKED = {"chip": "tpu-v8i", "model": "llama-3.1-8b", "attention": "gqa-8", "weight_dtype": "fp8", "kv_dtype": "bf16",
         "chips": 1, "batch": 8, "kv_len": 4096}
ENDS = dict(zip(("likely", "low_50", "high_50", "low_90", "high_90"), (1.5, 1.2, 1.8, 1.0, 2.5), strict=True))
MADE_UP = {"made": "2026-01-01", **ASKED, "n_q_heads": 32, "n_kv_heads": 8, "digest": "none",
           **{f"step_time_s_{end}": value / 1e3 for end, value in ENDS.items()},
           **{f"speedup_vs_mha_{end}": value for end, value in ENDS.items()}}


def measured(value: float, **changes: object) -> MeasuredRow:
    given = {"series": "s", "chip": "tpu-v8i", "quantity": "step_s", "model": "llama-3.1-8b", "weight_dtype": "fp8",
             "kv_dtype": "bf16", "chips": 1.0, "batch": 8.0, "kv_len": 4000.0, "software": "a", **changes}
    return MeasuredRow(value=value, **given)  # type: ignore[arg-type]


def test_a_made_up_table_scores_as_by_hand(tmp_path: Path) -> None:
    with (tmp_path / "forecasts.csv").open("w") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerow(MADE_UP)
    rows = [measured(1.2e-3), measured(500.0, quantity="user_tokens_per_s", kv_len=None, prompt_tokens=4000.0, output_tokens=64.0, software="b"),
            measured(2.52e-3, n_kv_heads=32), measured(9.0, n_kv_heads=32, software="c"),  # MHA beside a, and of another's
            measured(7e-3, kv_len=8192.0), measured(7e-3, batch=16.0), measured(7e-3, weight_dtype="bf16"), measured(7e-3, chip="tpu-v7"),
            measured(7e-3, speculation="yes"), measured(7e-3, quantity="request_s"), measured(7e-3, model="no such model")]
    step, ratio = score(read_forecasts(tmp_path / "forecasts.csv"), rows)
    assert [(one["quantity"], one["rows"], one["inside"], one["state"]) for one in (step, ratio)] == [
        ("step_time_s", 2, "50", "inputs changed since"), ("speedup_vs_mha", 1, "90", "inputs changed since")]
    assert (step["measured"], step["error"]) == pytest.approx((1.6e-3, 1.5 / 1.6 - 1))  # the median of 1.2 and 2 ms
    assert (ratio["measured"], ratio["error"]) == pytest.approx((2.1, 1.5 / 2.1 - 1))
    assert summary([step, ratio]) == "2 of 2 measured: 1 inside 50 %, 2 inside 90 %"
    (alone,) = score([MADE_UP | {"n_kv_heads": 32}], [measured(3e-3, n_kv_heads=32)])
    assert (alone["inside"], summary([alone])) == ("none", "1 of 1 measured: 0 inside 50 %, 0 inside 90 %")


def test_frozen_rows_stay_when_the_chip_or_the_engine_changes() -> None:
    (today,) = answers([ASKED]).values()
    row = {"made": "2026-01-01", **today}

    def faster(name: str):
        return load_hardware(name, overrides={"memory.hbm.bandwidth": "9 TB/s"})

    slower = row | {"step_time_s_likely": row["step_time_s_likely"] * 1.01}
    for frozen, chips, states in ((row, load_hardware, {"reproduces"}), (row, faster, {"inputs changed since"}),
                                  (slower, load_hardware, {"engine changed since", "reproduces"}),
                                  (row | {"chip": "gone"}, load_hardware, {"no answer today"})):
        records = score([frozen], [], chips)
        assert {one["state"] for one in records} == states
        assert {one["likely"] for one in records} == {frozen["step_time_s_likely"], frozen["speedup_vs_mha_likely"]}


def test_shipped_rows_are_in_order_and_their_commands_still_print_those_whose_inputs_stand() -> None:
    rows = read_forecasts()
    assert [row["made"] for row in rows] == sorted(row["made"] for row in rows)
    assert len({(row["digest"], *question_of(row)) for row in rows}) == len(rows)
    for row in rows:
        for name in ("step_time_s", "speedup_vs_mha"):
            ends = [row[f"{name}_{end}"] for end in ("low_90", "low_50", "likely", "high_50", "high_90")]
            assert None in ends or ends == sorted(ends) or row["n_kv_heads"] == row["n_q_heads"], command_of(row)
    standing = [one for one in score(rows, []) if one["state"] == "reproduces" and one["quantity"] == "step_time_s"]
    for one in standing[::40]:
        printed = CliRunner().invoke(main, [*one["command"].split()[1:], "--format", "csv"], catch_exceptions=False)
        (record,) = csv.DictReader(io.StringIO(printed.stdout))
        assert [float(record[f"step_time_s_{end}"]) for end in ENDS] == pytest.approx([one[end] for end in ENDS], rel=1e-4)
        assert [record[{"chip": "hardware"}.get(name, name)] for name in QUESTION] == [str(one[name]) for name in QUESTION]


def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "forecasts.csv").write_text("made,chip\n2026-01-01,x\n")
    with pytest.raises(UserError, match=r"forecasts\.csv:1: missing column"):
        read_forecasts(tmp_path / "forecasts.csv")
