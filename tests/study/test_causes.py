"""What a layout saves by part adds up, and each part is what its name says."""

from dataclasses import replace

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.model.architecture import Mlp, count_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.equal_parameters import with_parameters_of_mha
from simkit.study.causes import CAUSE_FIELDS, GAINS, attention_shares_s, gains_s, step_shares_s
from simkit.study.crossover import crossover
from simkit.study.evaluate import evaluate_group
from simkit.study.scenario import parse_scenario

CHIPS = ("h100-sxm", "a100-sxm-80gb", "mi300x", "tpu-v5e", "cerebras-wse3", "groq-lpu", "sambanova-sn40l")


def point(chip, layout="gqa-8", batch=32.0, kv_len=4096.0, model="llama-2-70b", **scenario):
    hardware = load_hardware(chip) if isinstance(chip, str) else chip
    return evaluate_group(hardware, load_model(model), layout, rivals=["mha", layout], batch=batch, kv_len=kv_len, q_len=1.0,
                          scenario=parse_scenario(**scenario))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("layout", ["gqa-8", "mqa"])
def test_the_parts_of_a_gain_add_up_to_it_and_nothing_is_left_over(chip, layout):
    found = point(chip, layout, kv_len=2048.0)
    gains = gains_s(found)
    whole = float(found.mha.timing.step_time_s) - float(found.timing.step_time_s)
    assert set(gains) == set(GAINS)
    assert float(sum(gains.values())) == pytest.approx(whole, rel=1e-9)
    assert float(gains["other"]) == 0.0  # the MLP, the norms and the ends are the same
    assert float(gains["kv_weights"]) > 0.0


@pytest.mark.parametrize("chip", CHIPS)
def test_the_shares_of_a_step_and_of_attention_add_up(chip):
    timing = point(chip, kv_len=2048.0).timing
    assert float(sum(step_shares_s(timing).values())) == pytest.approx(float(timing.step_time_s), rel=1e-12)
    assert float(sum(attention_shares_s(timing).values())) == pytest.approx(float(timing.attention_time_s), rel=1e-12)


@pytest.mark.parametrize("chip", CHIPS)
def test_one_cached_token_gains_nothing_by_its_cache(chip):
    """The 1.13x of smaller K and V projections at one token is not the cache's."""
    found = point(chip, kv_len=1.0)
    assert float(CAUSE_FIELDS["cache_speedup_vs_mha"].value_of(found)) == pytest.approx(1.0, abs=0.002)


def test_the_cache_s_part_grows_with_the_context_and_the_weights_part_does_not():
    short, long = (gains_s(replace_chips("h100-sxm", kv_len)) for kv_len in (2048.0, 8192.0))
    assert float(long["cache"]) == pytest.approx(4 * float(short["cache"]), rel=0.03)
    assert float(long["kv_weights"]) == pytest.approx(float(short["kv_weights"]), rel=1e-9)


def replace_chips(chip, kv_len):
    return evaluate_group(load_hardware(chip), load_model("llama-2-70b"), "gqa-8", rivals=["mha", "gqa-8"], batch=32.0,
                          kv_len=kv_len, q_len=1.0, chips=16)


def test_padding_that_grouping_saves_is_arithmetic_and_not_cache():
    """A matrix unit of 320 rows and nothing else computes MHA's one row a head 320 times: GQA-8 pays for an eighth of that."""
    groq = load_hardware("groq-lpu", overrides={"compute.matrix.tile_rows": "320"})
    found = point(replace(groq, compute=replace(groq.compute, vector_peak_flop_per_s=None)))
    gains = {part: float(seconds) for part, seconds in gains_s(found).items()}
    assert gains["arithmetic"] > 10 * abs(gains["cache"])


def test_columns_are_given_to_those_who_name_them_and_to_nobody_else():
    plain = simkit.decode_step("h100-sxm", "llama-2-7b", attention="gqa-8")
    assert not set(plain) & set(CAUSE_FIELDS)
    asked = simkit.decode_step("h100-sxm", "llama-2-7b", attention=["mha", "gqa-8"], kv_len=8192,
                               fields=["step_time_s", *CAUSE_FIELDS])
    saved = sum(asked[f"gain_{part}_s"][1] for part in GAINS)
    assert saved == pytest.approx(asked["step_time_s"][0] - asked["step_time_s"][1], rel=1e-12)
    assert [float(asked[f"gain_{part}_s"][0]) for part in GAINS] == [0.0] * len(GAINS)


def test_a_gain_is_not_known_where_a_layout_does_not_fit():
    found = simkit.decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", kv_len=8192, batch=32, chips=4,
                               fields=["fits", *CAUSE_FIELDS])
    assert found["fits"]
    assert all(np.isnan(found[name]) for name in CAUSE_FIELDS)


def test_mlps_are_widened_as_shazeer_widened_them():
    """Shazeer 2019, section 4.3: 1024 wide, 8 heads of 128, MLPs of 8192; his multi-query model has 9088."""
    model = replace(load_model("llama-2-7b"), hidden_size=1024, n_q_heads=8, n_kv_heads=8, head_dim=128,
                    mlp=Mlp(size=8192, gated=False))
    wider = with_parameters_of_mha(model, parse_layout("mqa", model))
    assert wider.mlp.size == 9088
    assert with_parameters_of_mha(model, parse_layout("mha", model)) == model
    assert count_parameters(wider, parse_layout("mqa", wider)) == count_parameters(model, parse_layout("mha", model))


def test_at_equal_parameters_one_cached_token_gains_next_to_nothing():
    """Smaller K and V products are paid back by the MLP: what is left are launches and padding."""
    plain, equal = (simkit.decode_step("mi300x", "llama-2-70b", attention=["mha", "gqa-8"], kv_len=1, batch=32, comparison=kind)
                    for kind in ("mha", "mha-equal-parameters"))
    assert plain["speedup_vs_mha"][1] > 1.1
    assert equal["speedup_vs_mha"][1] == pytest.approx(1.0, abs=0.01)
    assert equal["step_time_s"][0] == plain["step_time_s"][0]
    assert equal["weight_read_bytes"][1] == pytest.approx(equal["weight_read_bytes"][0], rel=1e-4)
    assert set(equal["baseline"]) == {"mha-equal-parameters"}
    assert set(plain["baseline"]) == {"mha"}


def test_at_equal_parameters_the_wider_mlp_is_a_loss_in_the_account():
    found = point("h100-sxm", comparison="mha-equal-parameters")
    gains = {part: float(seconds) for part, seconds in gains_s(found).items()}
    assert gains["other"] < 0.0 < gains["kv_weights"]
    assert sum(gains.values()) == pytest.approx(float(found.mha.timing.step_time_s) - float(found.timing.step_time_s), rel=1e-9)


def test_experts_are_not_widened():
    with pytest.raises(UserError, match="experts"):
        simkit.decode_step("h100-sxm", "mixtral-8x7b", attention="gqa-2", comparison="mha-equal-parameters")
    with pytest.raises(UserError, match="expected one of mha, mha-equal-parameters"):
        simkit.decode_step("h100-sxm", "llama-2-7b", comparison="mqa")


@pytest.mark.parametrize(("chip", "vary", "of", "below", "cause"), [
    ("h100-sxm", "memory", "step", 1.5, "launches"), ("tpu-v6e", "memory", "step", 1.5, "links"),
    ("h100-sxm", "batch", "step", 1.3, "weights"), ("mi300x", "memory", "attention", 4.0, "arithmetic")])
def test_what_ends_an_advantage_is_the_part_whose_share_grew(chip, vary, of, below, cause):
    record = crossover(chip, load_model("llama-2-70b"), attention="gqa-8", below=below, vary=vary, batch=32, of=of)[-1]
    assert record["ended_by"] == cause
    assert record["ended_by_share"] > record["ended_by_share_before"]
