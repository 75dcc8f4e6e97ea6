"""Served models beside measured systems: part 4's tolerance for dense models, and tables that are wrong."""

import pytest

from simkit.evidence.served_models import COLUMNS, compare, predict, prompts_over_peak, read_rows
from simkit.foundation.errors import UserError
from simkit.serving.runtime import IDEAL, load_runtime
from tests.reference_data import reference_path

DENSE = {"meta-llama/Llama-3.1-70B", "Qwen/Qwen3-32B"}
ROW = "h100_sxm,Qwen/Qwen3-32B,fp8,trtllm,1024,128,8,2,1,,1,165.1,11.87"


@pytest.fixture(scope="module")
def measured():
    return [row for row in read_rows(reference_path("serving_tpot.csv.gz")) if row.model in DENSE and row.comparable]


def test_dense_models_are_within_15_percent_at_the_median_but_for_tensorrt_in_8_bits_on_b200(measured):
    """AIConfigurator's rows of Llama-3.1-70B and Qwen3-32B (issue 8, tolerance of part 4): TPOT, a group at a time."""
    groups, every = {}, []
    for row in measured[::4]:
        error = abs(predict(row, load_runtime(row.framework))[0] / row.tpot_s - 1)
        groups.setdefault((row.system, row.model, row.framework, row.precision), []).append(error)
        every.append(error)
    assert len(groups) >= 7
    medians = {group: sorted(errors)[len(errors) // 2] for group, errors in groups.items()}
    # A known miss, told in docs/evidence.md: with measured products this one group comes out 18 % slow, and neither vLLM's
    # 8-bit steps on the same chip (11 %) nor TensorRT-LLM's in 4 bits (no bias) do.
    known = ("b200_sxm", "meta-llama/Llama-3.1-70B", "trtllm", "fp8")
    for group, median in medians.items():
        assert median <= (0.20 if group == known else 0.15), group
    assert sorted(every)[len(every) // 2] <= 0.08


def test_splits_that_no_constant_was_fitted_to_are_within_15_percent_at_the_median(measured):
    held_out = [row for row in measured if row.tp in {1, 4}][::4]
    errors = sorted(abs(predict(row, load_runtime(row.framework))[0] / row.tpot_s - 1) for row in held_out)
    assert len(errors) > 40
    assert errors[len(errors) // 2] <= 0.15


def test_clients_whose_lengths_differ_get_out_of_step_and_wait_less_for_each_other(tmp_path):
    # InferenceMAX draws lengths; one token less is not its pair, and eight equal clients send their prompts together.
    rows = [ROW.replace("1024,128", lengths) for lengths in ("1024,1024", "1024,1023")]
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")
    drawn, equal = (predict(row, IDEAL) for row in read_rows(tmp_path / "rows.csv"))
    assert drawn[1] < 0.6 * equal[1]
    assert drawn[0] == pytest.approx(equal[0], rel=0.05)
    outside = IDEAL.model_copy(update={"request_s": 0.05})
    assert predict(read_rows(tmp_path / "rows.csv")[1], outside)[1] == pytest.approx(equal[1] + 0.05)


def test_prompts_of_one_row_alone_exceed_the_peak_of_its_chips():
    rows = [row for row in read_rows(reference_path("serving_tpot.csv.gz")) if row.comparable]
    (found,) = [row for row in rows if prompts_over_peak(row) > 1]
    # 416 clients of 15 000 tokens each 7.5 s: 832 000 prompt tokens a second of a 32 G model on two chips.
    assert found.model == "nvidia/Qwen3-32B-NVFP4"
    assert prompts_over_peak(found) == pytest.approx(2.9, abs=0.1)
    assert max(prompts_over_peak(row) for row in rows if row is not found) < 0.5


def test_without_host_work_the_chip_alone_is_faster_than_what_was_measured(measured):
    faster = [predict(row, IDEAL)[0] < row.tpot_s for row in measured if row.framework != "sglang"][::10]
    assert sum(faster) >= 0.95 * len(faster)


def test_a_table_of_one_row_is_compared(tmp_path):
    (tmp_path / "rows.csv").write_text(",".join(COLUMNS) + "\n" + ROW + "\n" + ROW.replace("Qwen/Qwen3-32B", "a/b") + "\n",
                                       encoding="utf-8")
    known, unknown = compare(tmp_path / "rows.csv")
    assert (known["rows"], known["not_compared"]) == (1, 0)
    assert known["tpot_median_ape"] < 0.3
    assert (unknown["rows"], unknown["not_compared"], unknown["tpot_median_ape"]) == (0, 1, None)


@pytest.mark.parametrize("change", [(",8,2,1,,1,", ",8,0.5,1,,1,"), (",8,2,1,,1,", ",8,2,1,,0,"), ("fp8", "int5"), ("h100_sxm", "no_chip")])
def test_a_row_that_no_split_or_format_describes_is_counted_and_is_no_error(change, tmp_path):
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), ROW.replace(*change)]) + "\n", encoding="utf-8")
    (record,) = compare(tmp_path / "rows.csv")
    assert (record["rows"], record["not_compared"], record["over_peak"]) == (0, 1, 0)


@pytest.mark.parametrize("cell", ["-2", "nan", "two"])
def test_a_split_that_is_no_number_is_an_error_with_its_line(cell, tmp_path):
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), ROW.replace(",8,2,1,", f",8,{cell},1,")]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"rows\.csv:2: tp: '{cell}' is not a number"):
        read_rows(tmp_path / "rows.csv")


def test_any_chip_whose_profile_has_the_alias_is_compared(tmp_path):
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), ROW.replace("h100_sxm", "gaudi2")]) + "\n", encoding="utf-8")
    assert compare(tmp_path / "rows.csv")[0]["rows"] == 1


def test_groups_are_summed_up_by_dense_models_and_mixtures_of_experts(tmp_path):
    moe = ROW.replace("Qwen/Qwen3-32B", "Qwen/Qwen3-235B-A22B-FP8").replace(",8,2,1,,1,", ",8,8,1,,1,")
    rows = [ROW, ROW.replace(",trtllm,", ",vllm,"), ROW.replace("11.87", "5.935"), moe]
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")
    *groups, dense = compare(tmp_path / "rows.csv")
    assert [record["rows"] for record in groups] == [2, 1, 1]
    assert (dense["system"], dense["model"], dense["rows"]) == ("all", "dense models", 3)
    assert dense["tpot_bias"] == pytest.approx(sum(record["rows"] * record["tpot_bias"] for record in groups[:2]) / 3)


def test_prompts_that_no_chip_could_compute_are_counted(tmp_path):
    """NVIDIA's figures: 989 TFLOP/s bf16 of an H100; Qwen3-32B has 31.2 G parameters beside its input embedding."""
    slow, fast = ROW.replace(",fp8,", ",bf16,"), ROW.replace(",fp8,", ",bf16,").replace("165.1,11.87", "10,0.05")
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), slow, fast]) + "\n", encoding="utf-8")
    possible, impossible = read_rows(tmp_path / "rows.csv")
    seconds = 0.1651 + 127 * 0.01187
    assert prompts_over_peak(possible) == pytest.approx(8 / seconds * 1024 * 2 * 32.0e9 / (2 * 989e12), rel=0.03)
    assert prompts_over_peak(impossible) > 1
    (record,) = compare(tmp_path / "rows.csv")
    assert (record["rows"], record["over_peak"]) == (2, 1)


def test_a_split_written_as_its_square_is_read_as_one_node(tmp_path):
    whole = ROW.replace(",8,2,1,,1,", ",8,8,1,1,8,")
    square, wide = whole.replace(",8,8,1,1,8,", ",8,64,1,1,8,"), whole.replace(",8,8,1,1,8,", ",8,16,1,1,8,")
    (tmp_path / "rows.csv").write_text("\n".join([",".join(COLUMNS), whole, square, wide]) + "\n", encoding="utf-8")
    assert [row.shared_by for row in read_rows(tmp_path / "rows.csv")] == [8, 8, 16]


def test_most_squares_stand_in_the_table_a_second_time_with_the_same_times():
    rows = [row for row in read_rows(reference_path("serving_tpot.csv.gz")) if row.attention_dp == 1]
    plain = {(row.framework, row.precision, row.prompt_tokens, row.output_tokens, row.clients, row.tp, row.moe_ep,
              row.tpot_s, row.ttft_s) for row in rows if row.tp == row.shared_by}
    squares = [row for row in rows if row.tp != row.shared_by]
    twice = [(row.framework, row.precision, row.prompt_tokens, row.output_tokens, row.clients, row.shared_by, row.moe_ep,
              row.tpot_s, row.ttft_s) in plain for row in squares]
    assert len(squares) == 160
    assert sum(twice) >= 58  # of 61 that have a counterpart with the same labels at all


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2\n", r"rows\.csv:1: missing column 'system'"),
    (",".join(COLUMNS) + "\n" + ROW.replace("1024", "many") + "\n", r"rows\.csv:2: isl: 'many' is not a number"),
])
def test_a_wrong_table_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        compare(tmp_path / "rows.csv")


def test_a_missing_table_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "rows.csv")
