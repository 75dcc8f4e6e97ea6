"""Speculative decoding: expected tokens and speed-ups against Leviathan et al., drafts and heads on the same chips."""

import numpy as np
import pytest
import yaml

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.architecture import count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.placement import demand
from simkit.study.engines import engine_named
from simkit.study.evaluate import Points
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario
from simkit.study.speculation import Speculation, medusa_weight_bytes, parse_speculation, with_medusa_heads
from tests.reference_data import reference_path
from tests.step.test_operators import workload_of

POINT = {"attention": "gqa-8", "batch": 4, "kv_len": 4096, "chips": 8, "tp": 8, "baseline": False}


def test_expected_tokens_give_the_speed_ups_that_the_paper_predicts():
    """Leviathan et al. 2022 (arXiv 2211.17192), table 2: (1 - a^(g+1)) / ((1 - a)(g c + 1)) with a draft's relative cost c."""
    paper = yaml.safe_load(reference_path("published_results.yaml").read_text(encoding="utf-8"))["leviathan_2022"]
    for _task, draft, _temperature, gamma, alpha, _measured, predicted in paper["rows"]:
        tokens = Speculation(draft_tokens=gamma, acceptance=alpha, draft=None).tokens_per_step
        # alpha is printed with two digits, the speed-up with three.
        assert tokens / (gamma * paper["c_recalled"][draft] + 1) == pytest.approx(predicted, abs=0.01)


@pytest.mark.parametrize(("gamma", "alpha"), [(1, 0.5), (4, 0.8), (7, 0.62), (3, 0.0), (5, 1.0)])
def test_expected_tokens_are_those_of_simulated_acceptance(gamma, alpha):
    accepted = np.random.default_rng(gamma).random((200_000, gamma)) < alpha
    tokens = 1 + np.cumprod(accepted, axis=1).sum(axis=1)  # a run of accepted tokens and the target's own
    expected = Speculation(draft_tokens=gamma, acceptance=alpha, draft=None).tokens_per_step
    assert expected == pytest.approx(tokens.mean(), rel=0.005)


def test_a_step_is_one_verification_and_gamma_draft_steps():
    plain = decode_step("h100-sxm", "llama-2-70b", q_len=5, **POINT)
    draft = decode_step("h100-sxm", "llama-2-7b", **{**POINT, "attention": "as-trained"})
    both = decode_step("h100-sxm", "llama-2-70b", speculation="draft=llama-2-7b,gamma=4,acceptance=0.8", **POINT)
    assert both["q_len"] == 5
    assert float(both["step_time_s"]) == pytest.approx(float(plain["step_time_s"]) + 4 * float(draft["step_time_s"]), rel=1e-9)
    assert float(both["tokens_per_s"]) == pytest.approx(4 * (1 - 0.8**5) / 0.2 / float(both["step_time_s"]))
    assert float(both["max_batch"]) < float(plain["max_batch"])  # the draft's weights and cache take room


def test_a_draft_s_work_costs_energy():
    lit = {"power.idle": "0 W", "power.flop_energy": "1 pJ/FLOP", "memory.hbm.energy": "50 pJ/B"}
    verify = decode_step("h100-sxm", "llama-2-70b", q_len=5, overrides=lit, **POINT)
    draft = decode_step("h100-sxm", "llama-2-7b", overrides=lit, **{**POINT, "attention": "as-trained"})
    both = decode_step("h100-sxm", "llama-2-70b", speculation="draft=llama-2-7b,gamma=4,acceptance=1", overrides=lit, **POINT)
    # All 5 tokens are accepted: one verification of 5 rows and 4 draft steps of one.
    joules = [float(r["energy_j_per_token"]) * n for r, n in ((both, 5), (verify, 5), (draft, 4))]
    assert joules[0] == pytest.approx(joules[1] + joules[2], rel=1e-9)


def test_medusa_heads_cost_a_block_and_a_head_each():
    workload = workload_of("llama-2-7b", batch=2.0)
    step = build_step(workload)
    more = with_medusa_heads(step, 4)
    # Medusa (arXiv 2401.10774, section 2.1.1): a residual block D x D and an LM head D x V for each.
    assert medusa_weight_bytes(more) == 4 * (4096 * 4096 + 4096 * 32000) * 2
    flops = sum(op.matrix_flops for op in more.end_operators) - sum(op.matrix_flops for op in step.end_operators)
    assert flops == 2 * 2 * 4 * (4096 * 4096 + 4096 * 32000)


def test_the_blocks_of_medusa_heads_are_dealt_to_the_chips_like_the_vocabulary():
    block, head = with_medusa_heads(build_step(workload_of("llama-2-7b", batch=2.0, tp=4)), 3).end_operators[-2:]
    assert block.weight_bytes == 3 * 4096 * (4096 / 4) * 2
    assert head.weight_bytes == 3 * 4096 * (32000 / 4) * 2
    assert (block.query_rows, head.query_rows) == (2, 2)
    assert (block.count, head.count) == (1, 1)


def test_nothing_accepted_is_slower_and_everything_accepted_is_faster_while_memory_binds():
    plain = float(decode_step("h100-sxm", "llama-2-70b", **POINT)["tokens_per_s"])
    for words, gain in (("draft=llama-3.2-1b,gamma=4,acceptance=0", False), ("medusa=4,acceptance=0", False),
                        ("draft=llama-3.2-1b,gamma=4,acceptance=1", True), ("medusa=4,acceptance=1", True)):
        rate = float(decode_step("h100-sxm", "llama-2-70b", speculation=words, **POINT)["tokens_per_s"])
        assert (rate > plain) == gain, words


@pytest.mark.parametrize(("text", "says"), [
    ("draft=llama-2-7b", "expected none, draft=MODEL"), ("gamma=4,acceptance=0.5", "expected none, draft=MODEL"),
    ("medusa=4,acceptance=1.5", "not a probability"), ("medusa=4,acceptance=-0.5", "not a probability"),
    ("medusa=1001,acceptance=0.5", "expected 1 to 1000"), ("medusa=0,acceptance=0.5", "expected 1 to 1000"),
    ("medusa=4,acceptence=0.5", "unknown word 'acceptence'"), ("medusa=4,medusa=4,acceptance=0.5", "expected none"),
    ("draft=lama-2-7b,gamma=4,acceptance=0.5", "unknown model"), ("medusa=x,acceptance=0.5", "expected none")])
def test_a_speculation_that_makes_no_sense_is_refused_in_words(text, says):
    with pytest.raises(UserError, match=says):
        parse_speculation(text)


def test_words_are_read():
    assert parse_speculation("none") is None
    assert [parse_speculation(f"medusa={n},acceptance={a}").tokens_per_step for n, a in ((1, 0), (1, 1), (1000, 0))] == [1, 2, 1]
    read = parse_speculation("draft=llama-2-7b,gamma=4,acceptance=0.8")
    assert (read.draft_tokens, read.acceptance, read.draft) == (4, 0.8, load_model("llama-2-7b"))


MTP = {"attention": "as-trained", "batch": 4, "kv_len": 4096, "chips": 8, "tp": 8, "baseline": False, "weight_dtype": "fp8"}


def test_a_models_own_layer_drafts_with_one_layer_and_the_models_own_ends():
    """DeepSeek-V3 (arXiv 2412.19437): 671 billion, and a layer of 14 that shares 1.85 of embedding and LM head."""
    model = load_model("deepseek-v3")
    draft = parse_speculation("mtp=1,acceptance=0.85").draft_of(model)
    layout = parse_layout("as-trained", draft)
    assert draft.n_layers == 1
    with_ends = count_parameters(draft, layout).total + 2 * 7168**2
    assert with_ends == pytest.approx(14e9, rel=0.05)
    plain = decode_step("h200-sxm", "deepseek-v3", q_len=2, **MTP)
    own = decode_step("h200-sxm", "deepseek-v3", speculation="mtp=1,acceptance=0.85", **MTP)
    assert float(own["tokens_per_s"]) == pytest.approx(4 * 1.85 / float(own["step_time_s"]))
    # One more layer of 61, an LM head and a projection.
    assert 1 + 1 / 61 < float(own["step_time_s"]) / float(plain["step_time_s"]) < 1.1
    assert float(own["max_batch"]) < float(plain["max_batch"])


def test_as_many_own_layers_are_held_as_propose():
    """Weights of the layers and their projections, once for each that is used; their caches too."""
    def more(proposals, name):
        points = Points(hardware=load_hardware("h200-sxm"), model=load_model(name), batch=4.0, kv_len=4096.0, q_len=1.0,
                        engine=engine_named("roofline"),
                        scenario=parse_scenario(weight_dtype="fp8", speculation=f"mtp={proposals},acceptance=0.5"))
        layout, machine = parse_layout("as-trained", points.model), Machine.split(tp=8)
        both, alone = points.demand(layout, machine), demand(points.workload(layout, machine))
        # Of states and of a window, each token that is verified counts: the alone demand has the same q_len.
        return both.weight_bytes - alone.weight_bytes, both.kv_bytes - alone.kv_bytes
    one, two, three, nine = (more(n, "mimo-v2-flash") for n in (1, 2, 3, 9))
    assert (two[0], three[0]) == (pytest.approx(2 * one[0]), pytest.approx(3 * one[0]))
    assert (two[1], three[1]) == (pytest.approx(2 * one[1]), pytest.approx(3 * one[1]))
    assert nine == three
    # Xiaomi: 0.33 billion a layer; a window of 128 tokens with 8 heads of 192 and 128 elements.
    assert one[0] * 8 == pytest.approx(0.33e9, rel=0.03)
    assert one[1] * 8 == pytest.approx(4 * 128 * 8 * (192 + 128) * 2)


def test_acceptance_by_file_is_what_the_file_says(tmp_path):
    assert parse_speculation("mtp=1,acceptance=deepseek-v3").tokens_per_step == 1.85
    assert parse_speculation("draft=llama-2-7b,gamma=7,acceptance=deepseek-v3").tokens_per_step == 3.2
    with pytest.raises(UserError, match="no tokens of 2 proposals: the file has 1, 7"):
        parse_speculation("mtp=2,acceptance=deepseek-v3")
    file = tmp_path / "mine.yaml"
    file.write_text("schema_version: 1\nsource: a test\ntokens_per_step: {2: 3.5}\n")
    with pytest.raises(UserError, match="tokens of 2 proposals: expected at most one more"):
        parse_speculation(f"medusa=2,acceptance={file}")
    with pytest.raises(UserError, match="llama-2-7b states no layers that predict further tokens"):
        decode_step("h100-sxm", "llama-2-7b", speculation="mtp=1,acceptance=0.8", batch=1, kv_len=128)
