"""Verdicts on what people say, and the arithmetic behind them: expected figures are products that anyone can redo."""

import json

import pytest

from simkit.claims.tested_claims import claims_from_yaml, judge_claims, read_claims
from simkit.claims.verdict import verdict_over, within
from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml

GB = 1e9


@pytest.fixture(scope="module")
def records():
    return {record["id"]: record for record in judge_claims(read_claims())}


def test_every_claim_gets_one_of_three_verdicts_and_a_figure(records):
    for record in records.values():
        assert record["verdict"] in {"holds", "holds when", "does not hold"}
        assert record["figure"]
        if record["verdict"] == "holds when":
            assert record["condition"]


def test_a_llama_2_70b_cache_of_4096_tokens_is_10_74_gb_with_mha_and_not_2_5(records):
    # 2 x 80 layers x 64 heads x 128 x 4096 tokens x 2 bytes.
    record = records["cache-2.5-gb"]
    assert record["found"] == 2 * 80 * 64 * 128 * 4096 * 2
    assert record["found"] == pytest.approx(10.74 * GB, rel=1e-3)
    assert record["verdict"] == "does not hold"
    assert "1.342 GB" in record["condition"]  # what the model as trained has (GQA-8)


def test_mqa_brings_it_to_168_mb_and_not_to_40(records):
    assert records["mqa-cache-40-mb"]["found"] == 2 * 80 * 128 * 4096 * 2
    assert records["mqa-cache-40-mb"]["verdict"] == "does not hold"


def test_ratios_of_heads_are_ratios_of_bytes(records):
    assert records["mqa-64x"]["found"] == 64
    assert records["gqa-4x"]["found"] == 4
    assert {records[name]["verdict"] for name in ("mqa-64x", "gqa-4x")} == {"holds"}


def test_the_step_never_speeds_up_by_more_than_the_bytes_shrink_on_a_gpu(records):
    assert records["speed-in-proportion"]["verdict"] != "holds"
    assert records["speed-in-proportion"]["claimed"] == 8


def test_cache_reads_shrink_in_proportion_until_chips_outnumber_kv_heads(records):
    found = records["reads-in-proportion"]
    assert found["verdict"] == "holds when"
    assert found["found"] == pytest.approx(8)  # 64 KV heads on 8
    assert "tensor parallelism is 1, 2, 4 and 8" in found["condition"]
    # 138 GB of weights beside 10.7 GB of MHA's cache and 1.34 GB of GQA-8's (less the shrunken projections): 1.1 at batch 1.
    assert "1.11x at batch 1" in found["condition"]


def test_quality_is_what_papers_printed(records):
    # Ainslie et al., Table 1: 47.2 (MHA), 47.1 (GQA-8), 46.6 (MQA); Shazeer, Table 1: BLEU 28.4 (MHA), 28.5 (MQA).
    assert records["gqa-quality"]["verdict"] == "holds"
    assert records["gqa-quality"]["found"] == pytest.approx(100 * (1 - 47.1 / 47.2))
    assert records["mqa-quality"]["verdict"] == "holds when"
    assert records["mqa-quality"]["found"] == pytest.approx(100 * (1 - 46.6 / 47.2))


def test_users_grow_in_proportion_until_chips_outnumber_kv_heads(records):
    # Llama 3 8B has eight KV heads: sixteen chips store each of them twice (model.md section 2).
    for name in ("4x-users", "4x-longer-contexts"):
        assert records[name]["verdict"] == "holds when"
        assert records[name]["condition"].startswith("tensor parallelism is 1, 2, 4 and 8;")
        assert "on 16 chips the 8 KV heads are stored 2 times" in records[name]["condition"]


def test_a_128k_context_of_a_70b_takes_343_gb_with_mha(records):
    # 128 Ki tokens x 2.62 MB = 343.6 GB beside 138 GB of weights: one user fits in 8 x 80 GiB, a second does not.
    record = records["128k-of-a-70b"]
    assert record["verdict"] == "holds when"
    assert "and 1 with mha on 8 h100-sxm" in record["figure"]


def test_reductions_multiply_in_bytes_and_not_in_time(records):
    assert records["reductions-multiply"]["verdict"] == "holds"
    assert records["benefits-stack"]["verdict"] != "holds"


def test_techniques_and_fewer_kv_heads_stack_unless_both_take_the_same_time_away(records):
    """A split of sequences or a larger batch feeds what GQA leaves idle; a draft model shares the cache's reads too."""
    record = records["stacks-with-techniques"]
    assert record["verdict"] == "holds when"
    for technique in ("FlashAttention", "continuous batching", "fp8 weights"):
        assert f"{technique} on h100-sxm" in record["condition"]
    for technique in ("speculative decoding", "fp8 cache"):
        assert f"{technique} on h100-sxm" not in record["condition"]


def test_the_gap_is_smaller_where_a_latency_floor_or_a_low_ridge_rules_and_not_behind_hbm(records):
    record = records["smaller-gap-on-asics"]
    assert record["verdict"] == "holds when"
    kept, _, broken = record["condition"].partition("; not ")
    assert "groq-lpu" in kept
    assert "cerebras-wse3" in kept
    assert "sambanova-sn40l" in broken


def test_attention_gains_nine_tenths_of_eight_fold_from_a_ridge_of_nine_tenths_of_eight(records):
    # S(g) <= R b / (2 q), model.md section 3: in 16 bits the gain is the ridge, until it reaches g = 8.
    assert records["ridge-decides"]["found"] == pytest.approx(0.9 * 8, rel=0.01)


def test_uptraining_t5_xxl_takes_half_of_tpu_v3_s_peak_for_600_chip_days(records):
    # 0.05 x 6 x 11.1e9 x 1.05e12 flops over 123 TFLOP/s and 86400 s.
    record = records["uptraining-5-percent"]
    assert record["found"] == pytest.approx(0.05 * 6 * 11.1e9 * 1.05e12 / 123e12 / 86400, rel=0.01)
    assert record["verdict"] == "holds when"


def test_no_model_of_150_billion_parameters_is_in_the_gqa_paper(records):
    assert records["t5-xxl-150b"]["found"] == pytest.approx(11.1e9, rel=0.02)
    assert records["t5-xxl-150b"]["verdict"] == "does not hold"


def test_of_the_falcons_only_7b_is_mqa(records):
    condition = records["adopters-mqa"]["condition"]
    kept, _, broken = condition.partition("; not ")
    assert "falcon-7b" in kept
    assert "falcon-40b (gqa)" in broken
    assert "falcon-180b (gqa)" in broken
    assert records["adopters-gqa"]["verdict"] == "holds"


def test_a_verdict_over_a_grid_is_everywhere_nowhere_or_somewhere():
    assert verdict_over([[True, True], [True, True]]) == "holds"
    assert verdict_over([[True, False]]) == "holds when"
    assert verdict_over([]) == "does not hold"


def test_figures_agree_within_a_tolerance():
    assert within(1.05, 1.0, 0.1)


def fault_of(text):
    with pytest.raises(UserError) as caught:
        claims_from_yaml(parse_yaml(text, file="mine.yaml"))
    return str(caught.value)


def test_mistakes_are_answered_at_their_line():
    assert "mine.yaml:3" in fault_of("name: x\nclaims:\n  - {id: a, says: b, test: cashe_size}\n")
    assert "did you mean 'cache_size'?" in fault_of("claims:\n  - {id: a, says: b, test: cashe_size}\n")
    missing = fault_of("claims:\n  - id: a\n    says: b\n    test: cache_ratio\n    modle: llama-2-70b\n"
                       "    attention: mqa\n    claimed_ratio: 64\n")
    assert "mine.yaml:5" in missing
    assert "model" in missing
    assert "no claims" in fault_of("name: x\n")


@pytest.mark.parametrize(("wrong", "said"), [
    ("hardware: [h100-sx]", "unknown hardware profile 'h100-sx'; did you mean 'h100-sxm'?"),
    ("model: llama-2-71b", "unknown model 'llama-2-71b'"),
    ("techniques: [{name: x, after: {speculation: none such}}]", "speculation 'none such'"),
    ("attention: gqa-7", "gqa-7"),
])
def test_what_an_engine_refuses_of_a_claim_is_told_at_its_place(wrong, said):
    lines = ["claims:", "  - id: a", "    says: b", "    test: stacks_with", "    hardware: [h100-sxm]", "    model: llama-2-70b",
             "    attention: gqa-8", "    batch: 8", "    kv_len: 4096", "    techniques: [{name: x, after: {kv_dtype: fp8}}]"]
    key = wrong.partition(":")[0]
    text = "\n".join(f"    {wrong}" if line.startswith(f"    {key}:") else line for line in lines) + "\n"
    (claim,) = claims_from_yaml(parse_yaml(text, file="mine.yaml"))
    with pytest.raises(UserError) as caught:
        judge_claims([claim])
    assert str(caught.value).startswith("mine.yaml:2:")
    assert said in str(caught.value)


def test_the_command_prints_verdicts_for_people_and_records_for_programs(cli):
    result = cli("claims", "--only", "mqa-64x")
    assert result.exit_code == 0
    assert result.stdout.startswith("HOLDS: With 64 heads")
    records = json.loads(cli("claims", "--only", "mqa", "--format", "json").stdout)
    assert {"id", "statement", "verdict", "condition", "figure", "found", "claimed"} <= set(records[0])
    assert cli("claims", "--only", "nonsense").exit_code == 2
