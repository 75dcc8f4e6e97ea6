"""Parameter counts against what publishers say and what their checkpoints hold."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from simkit.model.architecture import ModelArchitecture, ParameterCount, count_parameters, encoder_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import list_models, load_model

MODELS = {model.name: model for model in list_models()}


def as_trained(model: ModelArchitecture) -> ParameterCount:
    return count_parameters(model, parse_layout("as-trained", model))


def printed(model: ModelArchitecture, key: str) -> tuple[Decimal, Decimal]:
    """A published figure and one unit of its last printed digit, as the YAML writes them: 46.7e9 -> 0.1e9."""
    match = re.search(rf"^{key}: (\S+)$", Path(str(model.file)).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert match, f"{model.name} has no {key}"
    mantissa, exponent = match[1].split("e")
    digits = len(mantissa.partition(".")[2])
    return Decimal(match[1]), Decimal(10) ** (int(exponent) - digits)


def agrees(counted: int, published: Decimal, unit: Decimal) -> bool:
    """Within 1 %, or the same number once it is written with as few digits (rounded or cut off)."""
    in_units = Decimal(counted) / unit
    written = {in_units.to_integral_value(rounding) * unit for rounding in ("ROUND_HALF_UP", "ROUND_DOWN")}
    return abs(counted - published) <= published * Decimal("0.01") or published in written


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.params_published])
def test_total_parameters_are_the_publisher_s_within_1_percent_or_its_rounding(name: str) -> None:
    published, unit = printed(MODELS[name], "params_published")
    assert agrees(as_trained(MODELS[name]).total, published, unit)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.params_active_published])
def test_active_parameters_are_the_publisher_s_within_1_percent_or_its_rounding(name: str) -> None:
    model = MODELS[name]
    count = as_trained(model)
    active = count.active_without_embedding if model.active_excludes_embedding else count.active
    assert agrees(active, *printed(model, "params_active_published"))


def test_few_models_need_the_rounding() -> None:
    """Those whose publishers print so few digits that the print alone is off by more than 1 %."""
    beyond = {
        name for name, model in MODELS.items()
        if model.params_published and abs(as_trained(model).total / model.params_published - 1) > 0.01
    }
    assert beyond == {"falcon-7b", "kimi-k2", "kimi-k2.5", "kimi-k2.7", "deepseek-v4-pro", "opt-13b", "qwen3-1.7b"}  # printed as 7B, 1T, 1.6T


def test_the_rounding_rule_refuses_what_is_neither_near_nor_rounded() -> None:
    assert agrees(12_851_000_000, Decimal("13e9"), Decimal("1e9"))
    assert not agrees(12_400_000_000, Decimal("13e9"), Decimal("1e9"))
    assert not agrees(41_301_000_000, Decimal("40e9"), Decimal("1e9"))


def rms_norms(model: ModelArchitecture) -> int:
    """Two norms a layer and one at the end."""
    return (2 * model.n_layers + 1) * model.hidden_size


def rms_and_head_norms(model: ModelArchitecture) -> int:
    return rms_norms(model) + 2 * model.n_layers * model.head_dim


def rms_norms_and_qkv_biases(model: ModelArchitecture) -> int:
    return rms_norms(model) + model.n_layers * (model.n_q_heads + 2 * model.n_kv_heads) * model.head_dim


def gemma_2_norms(model: ModelArchitecture) -> int:
    """Norms before and after each of the two blocks."""
    return (4 * model.n_layers + 1) * model.hidden_size


def gemma_3_norms(model: ModelArchitecture) -> int:
    return gemma_2_norms(model) + 2 * model.n_layers * model.head_dim


def opt_norms_and_biases(model: ModelArchitecture) -> int:
    """A layer: q, k, v, o biases (4 D), MLP biases (4 D + D), two layer norms with biases (4 D); a final norm."""
    return 13 * model.hidden_size * model.n_layers + 2 * model.hidden_size


def falcon_norms(model: ModelArchitecture) -> int:
    """One layer norm with bias for the parallel block, and a final one."""
    return 2 * model.hidden_size * (model.n_layers + 1)


def t5_norms_and_positions(model: ModelArchitecture) -> int:
    """Two norms an encoder layer, three a decoder layer, one final each; 32 position buckets a head, two tables."""
    norms = (2 * model.encoder_layers + 3 * model.n_layers + 2) * model.hidden_size
    return norms + 2 * 32 * model.n_q_heads


def gpt_oss_biases(model: ModelArchitecture) -> int:
    """Biases of q, k, v, o, router and experts (gate, up and down), one sink a head, norms."""
    moe = model.moe
    assert moe is not None
    attention = (model.n_q_heads + 2 * model.n_kv_heads) * model.head_dim + model.hidden_size + model.n_q_heads
    experts = moe.experts * (2 * moe.expert_size + model.hidden_size + 1)
    return model.n_layers * (attention + experts) + rms_norms(model)


def deepseek_norms(model: ModelArchitecture) -> int:
    """Norms of the layers and of both latents, and the routers' balancing biases."""
    mla, moe = model.mla, model.moe
    assert mla is not None
    assert moe is not None
    routed = sum(group.count for group in model.layer_groups if group.moe)
    return rms_norms(model) + model.n_layers * ((mla.q_lora_rank or 0) + mla.kv_lora_rank) + routed * moe.experts


# Elements of all tensors in the published safetensors files (the "params" of the model's page), tied ones once.
CHECKPOINTS: list[tuple[str, int, Callable[[ModelArchitecture], int]]] = [
    ("llama-2-7b", 6_738_415_616, rms_norms),
    ("llama-2-13b", 13_015_864_320, rms_norms),
    ("llama-2-70b", 68_976_648_192, rms_norms),
    ("codellama-34b", 33_743_970_304, rms_norms),
    ("llama-3-8b", 8_030_261_248, rms_norms),
    ("llama-3-70b", 70_553_706_496, rms_norms),
    ("llama-3.1-405b", 405_853_388_800, rms_norms),
    ("llama-3.2-1b", 1_235_814_400, rms_norms),
    ("llama-3.2-3b", 3_212_749_824, rms_norms),
    ("mistral-7b", 7_241_732_096, rms_norms),
    ("mistral-7b-v0.3", 7_248_023_552, rms_norms),
    ("mistral-large-2407", 122_610_069_504, rms_norms),
    ("mixtral-8x7b", 46_702_792_704, rms_norms),
    ("phi-3-mini-4k", 3_821_079_552, rms_norms),
    ("phi-3-medium-4k", 13_960_238_080, rms_norms),
    ("qwen2.5-7b", 7_615_616_512, rms_norms_and_qkv_biases),
    ("qwen2.5-32b", 32_763_876_352, rms_norms_and_qkv_biases),
    ("qwen2.5-72b", 72_706_203_648, rms_norms_and_qkv_biases),
    ("qwen3-8b", 8_190_735_360, rms_and_head_norms),
    ("qwen3-14b", 14_768_307_200, rms_and_head_norms),
    ("qwen3-32b", 32_762_123_264, rms_and_head_norms),
    ("qwen3-30b-a3b", 30_532_122_624, rms_and_head_norms),
    ("qwen3-235b-a22b", 235_093_634_560, rms_and_head_norms),
    ("gemma-2-2b", 2_614_341_888, gemma_2_norms),
    ("gemma-2-9b", 9_241_705_984, gemma_2_norms),
    ("gemma-2-27b", 27_227_128_320, gemma_2_norms),
    ("gemma-3-1b", 999_885_952, gemma_3_norms),
    ("gemma-3-4b", 3_880_099_328, gemma_3_norms),
    ("gemma-3-12b", 11_765_788_416, gemma_3_norms),
    ("gemma-3-27b", 27_009_002_240, gemma_3_norms),
    ("opt-6.7b", 6_658_473_984, opt_norms_and_biases),
    ("opt-13b", 12_853_473_280, opt_norms_and_biases),
    ("opt-30b", 29_974_540_288, opt_norms_and_biases),
    ("falcon-7b", 6_921_720_704, falcon_norms),
    ("t5-v1.1-large", 783_150_080, t5_norms_and_positions),
    ("t5-v1.1-xxl", 11_135_332_352, t5_norms_and_positions),
    ("gpt-oss-20b", 20_914_757_184, gpt_oss_biases),
    ("gpt-oss-120b", 116_829_156_672, gpt_oss_biases),
    ("deepseek-v3", 671_026_419_200, deepseek_norms),
    ("kimi-k2", 1_026_408_232_448, deepseek_norms),
]


@pytest.mark.parametrize(("name", "elements", "left_out"), CHECKPOINTS, ids=[row[0] for row in CHECKPOINTS])
def test_the_count_and_the_small_tensors_it_leaves_out_are_the_checkpoint_to_the_last_element(
    name: str, elements: int, left_out: Callable[[ModelArchitecture], int]
) -> None:
    model = load_model(name)
    counted = as_trained(model).total
    assert counted + left_out(model) == elements
    assert elements - counted < 0.0011 * elements  # what the module's docstring promises to be small


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fewer_kv_heads_never_mean_more_parameters(name: str) -> None:
    model = MODELS[name]
    counts = [count_parameters(model, parse_layout(layout, model)).total for layout in ("mha", "mqa")]
    assert counts[0] >= counts[1]


def test_mqa_takes_two_times_63_heads_of_projections_off_llama_2_70b_s_shape() -> None:
    model = load_model("llama-2-70b")
    mha, mqa = (count_parameters(model, parse_layout(layout, model)).total for layout in ("mha", "mqa"))
    assert mha - mqa == 80 * 2 * 63 * 128 * 8192


def test_grouping_leaves_the_encoder_alone() -> None:
    """Ainslie et al. 2023 apply MQA and GQA to the decoder's self- and cross-attention, not to the encoder."""
    model = load_model("t5-v1.1-xxl")
    mha, mqa = (count_parameters(model, parse_layout(layout, model)).total for layout in ("mha", "mqa"))
    self_and_cross = 2
    assert mha - mqa == 24 * self_and_cross * 2 * 63 * 64 * 4096
    assert encoder_parameters(model) == 24 * (4 * 4096 * 4096 + 3 * 4096 * 10240)


def test_a_decoder_without_an_encoder_has_no_encoder_parameters() -> None:
    assert encoder_parameters(load_model("llama-3-8b")) == 0


def test_tied_embeddings_are_multiplied_by_and_untied_ones_are_looked_up() -> None:
    tied, untied = as_trained(load_model("gemma-2-9b")), as_trained(load_model("llama-3-8b"))
    assert tied.looked_up == 0
    assert untied.looked_up == 128256 * 4096
    assert untied.active_without_embedding == untied.active - 128256 * 4096
