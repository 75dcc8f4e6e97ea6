"""What training a pooled model further costs, against the paper's and the models' own figures."""


import pytest

from simkit.foundation.errors import UserError
from simkit.model.catalog import load_model
from simkit.model.uptraining import uptraining_cost


def test_uptraining_is_5_percent_of_6_p_d() -> None:
    """Llama 2 7B: 6.74e9 parameters (1 % of which is rounding), 2.0e12 tokens."""
    cost = uptraining_cost(load_model("llama-2-7b"))
    assert cost.uptraining_flops == pytest.approx(0.05 * 6 * 6.74e9 * 2.0e12, rel=0.01)
    assert cost.uptraining_tokens == pytest.approx(0.1e12)
    assert cost.chip_time_s is None


def test_uptraining_t5_xxl_in_600_tpu_v3_chip_days_needs_a_utilisation_that_a_tpu_reaches() -> None:
    """Ainslie et al. 2023, section 3.1: about 600 TPUv3 chip-days at 5 %; a TPU v3 chip peaks at 123 TFLOP/s bf16."""
    cost = uptraining_cost(load_model("t5-v1.1-xxl"), chip_flop_per_s=123e12, utilization_fraction=1.0)
    assert cost.chip_time_s is not None
    assert 0.3 < cost.chip_time_s / (600 * 24 * 3600) < 0.7


def test_uptraining_a_mixture_counts_the_parameters_that_a_token_passes() -> None:
    cost = uptraining_cost(load_model("mixtral-8x7b"), pretraining_tokens=1e12)
    assert cost.uptraining_flops == pytest.approx(0.05 * 6 * 12.9e9 * 1e12, rel=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "mistral-7b says no pretraining_tokens; give the number"),
        ({"pretraining_tokens": 0.0}, "expected more than 0"),
        ({"pretraining_tokens": 1e12, "uptraining_fraction": 5.0}, "uptraining_fraction 5 is out of range"),
        ({"pretraining_tokens": 1e12, "chip_flop_per_s": 1e12}, "chip time needs a chip's rate above 0 and the share"),
        ({"pretraining_tokens": 1e12, "chip_flop_per_s": 1e12, "utilization_fraction": 0.0}, "utilization_fraction 0"),
    ],
)
def test_uptraining_without_what_it_needs_is_refused(options: dict[str, float], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        uptraining_cost(load_model("mistral-7b"), **options)
