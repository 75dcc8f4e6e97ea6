"""Imports of Hugging Face configurations against the catalogue, and what happens to files that are wrong."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.model.architecture import ModelArchitecture
from simkit.model.catalog import load_model
from simkit.model.import_config import ImportResult, import_config
from simkit.model.json_source import parse_json
from tests.reference_data import reference_path

HAND_WRITTEN = Path(__file__).parent / "configs"
# What no configuration says, or says for people: compared are the figures that a decode step is made of.
BESIDE_THE_SHAPE = {
    "title", "source", "notes", "file", "params_published", "params_active_published", "active_excludes_embedding",
    "pretraining_tokens", "max_context",
}
PUBLISHED = ["deepseek-v3", "gpt-oss-120b", "kimi-k2", "llama-3.1-70b", "minimax-m2.5", "mixtral-8x7b",
             "qwen3-235b-a22b", "qwen3-32b"]
SHORTENED = ["llama-2-7b", "mistral-7b", "qwen2.5-7b", "qwen3-30b-a3b", "gemma-2-9b", "gemma-3-1b", "falcon-7b",
             "deepseek-v2-lite"]


def shape(model: ModelArchitecture) -> dict[str, Any]:
    return {
        field.name: getattr(model, field.name) for field in dataclasses.fields(model)
        if field.name not in BESIDE_THE_SHAPE
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_catalogue_s_model_and_every_field_is_accounted_for(name: str) -> None:
    result = import_config(reference_path(f"hf_configs/{name}.json"))
    assert shape(result.model) == shape(load_model(name))
    assert result.model.max_context == load_model(name).max_context
    assert not result.unknown


@pytest.mark.parametrize("name", SHORTENED)
def test_a_config_of_the_other_families_gives_the_catalogue_s_model(name: str) -> None:
    result = import_config(HAND_WRITTEN / f"{name}.json")
    assert shape(result.model) == shape(load_model(name))
    assert not result.unknown


@pytest.mark.parametrize("name", SHORTENED)
def test_the_yaml_text_is_a_model_file(name: str, tmp_path: Path) -> None:
    result = import_config(HAND_WRITTEN / f"{name}.json", name="mine")
    file = tmp_path / "mine.yaml"
    file.write_text(result.yaml_text, encoding="utf-8")
    assert shape(load_model(file)) == shape(result.model)
    assert load_model(file).name == "mine"


def test_gemma_3_s_nested_text_config_is_read_with_the_family_s_defaults_and_they_are_reported() -> None:
    """The released google/gemma-3-4b config.json leaves heads out; Gemma3TextConfig's defaults are 8, 4 and 256."""
    result = import_config(HAND_WRITTEN / "gemma-3-4b.json")
    # The checkpoint's vocabulary is the tokenizer's 262144 padded by 64 image tokens.
    assert shape(result.model) == shape(load_model("gemma-3-4b")) | {"vocab_size": 262208}
    assert {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}.items() <= dict(result.defaults).items()
    assert not result.unknown


def test_the_larger_falcons_count_their_kv_heads_under_older_names() -> None:
    result = import_config(HAND_WRITTEN / "falcon-40b.json")
    assert shape(result.model) == shape(load_model("falcon-40b"))
    assert not result.unknown


def test_falcon_7b_s_71_kv_heads_are_reported_as_without_effect() -> None:
    result = import_config(HAND_WRITTEN / "falcon-7b.json")
    reasons = {field.key: field.reason for field in result.without_effect}
    assert reasons["num_kv_heads"] == "multi_query decides in the old decoder"


def config(name: str = "mistral-7b", **changes: object) -> dict[str, Any]:
    """A right configuration with fields changed, or dropped where the value is ``...``."""
    base = json.loads((HAND_WRITTEN / f"{name}.json").read_text(encoding="utf-8")) | changes
    return {key: value for key, value in base.items() if value is not ...}


def imported(tmp_path: Path, fields: dict[str, Any]) -> ImportResult:
    file = tmp_path / "some-model.json"
    file.write_text(json.dumps(fields, indent=1), encoding="utf-8")
    return import_config(file)


def fault(tmp_path: Path, fields: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        imported(tmp_path, fields)
    text = str(caught.value)
    assert "some-model.json:" in text
    return text


def test_unknown_fields_are_reported_with_their_line_and_change_nothing(tmp_path: Path) -> None:
    plain = imported(tmp_path, config())
    result = imported(tmp_path, {"favourite_number": 4} | config())
    assert [(field.key, field.where.line) for field in result.unknown] == [("favourite_number", 2)]
    assert result.model == plain.model


FELT = {
    "kv_sharing_factor": 4, "num_vision_experts": 8, "image_attention_window": 512, "kv_scale_heads": 4, "router_window": 128,
    "video_kv_cache": True, "audio_layers": [1, 2], "speech_head_dim": 64, "projector_attention": True, "patch_attention_window": 4,
    "spatial_attention": "sparse", "multimodal_moe_top_k": 2, "media_kv_heads": 2, "rope_head_dim": 64, "rotary_kv_latents": 4,
    "init_layers": 2, "attn_temperature_window": 64, "summary_tokens_per_block": 8, "kv_heads_multiplier": 2, "ffn_dim_multiplier": 1.3,
    "kv_cache_scale": "fp8", "attention_sink_token_ids": [0, 1], "global_attention_token_index": [1], "kv_latent_bias": 3,
    "expert_dropout": 3, "attention_window_eps": 4096, "num_loops": 2, "use_mqa": True, "gqa_groups": 4, "multi_query": True, "use_cla": True,
    "recurrent_depth": 4, "swa_only": True, "dsa_enabled": True, "delta_rule": True, "hyper": {"num_kv_heads": 2},
    "settings": {"inner": {"attention_window": 64}}, "num_residual_streams": 4, "hc_mult": 4, "evict_to": 1024, "kv_bits": 4, "use_fp8": True,
    "early_exit": 8, "image_token_window": 64, "vision_layers_in_decoder": [3], "head_gate": True, "nsa": True, "visual_cache_tokens": 256}
AROUND = {
    "image_grid_pinpoints": [[336, 672]], "mm_vision_select_layer": -2, "vision_tower": "a tower", "spatial_merge_size": 2,
    "img_token_compression_config": {"image_token_compression_method": "patch_merge", "spatial_merge_size": 2},
    "img_context_token_id": 7, "audio_processor": {"config": {"num_blocks": 24, "attention_dim": 1024}}, "qkv_bias": True,
    "moe_layer_dropout": 0.1, "kv_norm_eps": 1e-6, "attention_multiplier": 0.0078, "use_flash_attn": True, "tags": {"owner": "x"}}


def test_an_unknown_field_that_a_step_may_feel_is_refused_and_what_stands_around_the_text_is_not(tmp_path: Path) -> None:
    """Names of pictures, norms or first values hide nothing: what has no effect is listed, or ends as such values do."""
    plain = config("llama-2-7b")
    for name, value in FELT.items():
        said = fault(tmp_path, {name: value} | plain)
        assert f":2:2: {name}: not known to simkit, and by its name it may change what a step reads" in said
    result = imported(tmp_path, AROUND | plain)
    assert [field.key for field in result.unknown] == ["tags"]
    assert {field.key for field in result.without_effect} >= AROUND.keys() - {"tags"}
    for nothing in (None, False, 0, [], {}):
        assert imported(tmp_path, {"kv_sharing_factor": nothing} | plain).unknown


def test_a_missing_kv_head_count_means_multi_head_attention_for_llama_and_is_reported(tmp_path: Path) -> None:
    result = imported(tmp_path, config("llama-2-7b"))
    assert result.model.n_kv_heads == 32
    assert ("num_key_value_heads", 32) in result.defaults


def test_mistral_without_a_window_has_global_layers(tmp_path: Path) -> None:
    result = imported(tmp_path, config(sliding_window=None))
    assert {group.window for group in result.model.layer_groups} == {None}


def test_qwen_s_upper_layers_have_the_window_when_it_is_used(tmp_path: Path) -> None:
    result = imported(tmp_path, config("qwen2.5-7b", use_sliding_window=True, sliding_window=4096, max_window_layers=20))
    assert {(group.window, group.count) for group in result.model.layer_groups} == {(None, 20), (4096, 8)}


def test_dense_layers_at_the_start_of_a_qwen_mixture_are_kept(tmp_path: Path) -> None:
    result = imported(tmp_path, config("qwen3-30b-a3b", mlp_only_layers=[0, 1]))
    assert {(group.moe, group.count) for group in result.model.layer_groups} == {(False, 2), (True, 46)}
    assert result.model.mlp is not None
    assert result.model.mlp.size == 6144


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("mistral-7b", {"hidden_size": ...}, "hidden_size: missing key"),
        ("mistral-7b", {"num_key_value_heads": ...}, "num_key_value_heads: missing key"),
        ("mistral-7b", {"sliding_window": ...}, "sliding_window: missing key: expected a whole number, or null"),
        ("mistral-7b", {"model_type": ...}, "model_type: missing key"),
        ("mistral-7b", {"vocab_size": None}, "vocab_size: null: expected a value"),
        ("mistral-7b", {"model_type": "yolo"}, "'yolo' is not a family that simkit imports"),
        ("mistral-7b", {"model_type": "mamba"}, "keeps states of Mamba-1, which are not modelled"),
        ("mistral-7b", {"model_type": "mistrall"}, "did you mean 'mistral'"),
        ("mistral-7b", {"architectures": ["LlamaForCausalLM"]}, "'LlamaForCausalLM' is not a model of the family"),
        ("mistral-7b", {"architectures": "x"}, "architectures: 'x' is not a list of texts"),
        ("mistral-7b", {"num_key_value_heads": 5}, "5 KV heads do not divide the 32 of num_attention_heads"),
        ("mistral-7b", {"hidden_size": 4095}, "4095 is not a multiple of the 32 query heads: expected head_dim"),
        ("mistral-7b", {"hidden_size": "4096"}, "'4096' is not a whole number"),
        ("mistral-7b", {"hidden_size": 4096.5}, "4096.5 is not a whole number"),
        ("mistral-7b", {"hidden_size": True}, "true is not a whole number"),
        ("mistral-7b", {"hidden_size": 0}, "0 is out of range: expected 1 to"),
        ("mistral-7b", {"hidden_size": -4096}, "-4096 is out of range"),
        ("mistral-7b", {"num_hidden_layers": 10**12}, "out of range: expected 1 to 10000"),
        ("mistral-7b", {"hidden_size": 64_000_000}, "hidden_size: 64000000 is out of range: expected 1 to 1000000"),
        ("mistral-7b", {"tie_word_embeddings": "no"}, "'no' is not true or false"),
        ("mistral-7b", {"layer_types": ["full_attention"]}, "1 layer types for the 32 layers"),
        ("mistral-7b", {"layer_types": ["mamba"]}, "'mamba' layers are not modelled"),
        ("qwen3-30b-a3b", {"head_dim": ...}, "head_dim: missing key"),
        ("qwen3-30b-a3b", {"architectures": ["Qwen3ForCausalLM"]}, "expected such as Qwen3MoeForCausalLM"),
        ("qwen3-30b-a3b", {"num_experts_per_tok": 200}, "top_k 200 is more than the 128 experts"),
        ("qwen3-30b-a3b", {"mlp_only_layers": list(range(48))}, "leaves none of the 48 layers for the experts"),
        ("qwen3-30b-a3b", {"num_experts_per_tok": [8] * 47 + [7]}, "num_experts_per_tok: differs from layer to layer"),
        ("qwen2.5-7b", {"use_sliding_window": True, "sliding_window": None}, "sliding_window gives no number"),
        ("qwen2.5-7b", {"layer_types": ["sliding_attention"] * 28}, "false, but layer_types has sliding_attention"),
        ("deepseek-v2-lite", {"num_key_value_heads": 8}, "the latent serves all 16 query heads"),
        ("deepseek-v2-lite", {"q_lora_rank": ...}, "q_lora_rank: missing key"),
        ("deepseek-v2-lite", {"qk_head_dim": 128}, "128 is not qk_nope_head_dim + qk_rope_head_dim"),
        ("deepseek-v2-lite", {"first_k_dense_replace": 27}, "leaves none of the 27 layers for the experts"),
        ("falcon-40b", {"num_attention_heads": 64}, "contradicts num_attention_heads, another name"),
        ("falcon-40b", {"n_head_kv": 7}, "7 KV heads do not divide the 128"),
        ("gemma-3-4b", {"hidden_size": 1024}, "2560 contradicts 1024 outside text_config"),
        ("gemma-3-4b", {"text_config": [1]}, "text_config: a list is not an object of fields"),
    ],
)
def test_a_field_that_is_missing_wrong_or_contradictory_is_named_with_its_place(
    tmp_path: Path, name: str, changes: dict[str, Any], expected: str
) -> None:
    assert expected in fault(tmp_path, config(name, **changes))


def test_the_line_is_that_of_the_field(tmp_path: Path) -> None:
    fields = {"vocab_size": 0} | config(vocab_size=...)
    assert "some-model.json:2:2: vocab_size: 0 is out of range" in fault(tmp_path, fields)


def test_linear_attention_layers_are_not_modelled(tmp_path: Path) -> None:
    fields = json.loads(reference_path("hf_configs/minimax-m2.5.json").read_text(encoding="utf-8"))
    assert "linear-attention layers (0) are not modelled" in fault(tmp_path, fields | {"attn_type_list": [1, 0, 1]})


def test_gpt_oss_must_say_which_layers_are_local(tmp_path: Path) -> None:
    fields = json.loads(reference_path("hf_configs/gpt-oss-120b.json").read_text(encoding="utf-8"))
    del fields["layer_types"]
    assert "layer_types: missing key: expected sliding_attention or full_attention" in fault(tmp_path, fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("[1]", "1:1: not a JSON object"),
        ('{"a": 1,}', "not JSON"),  # at the comma or behind it, by the version of Python
        ("{'a': 1}", "1:2: not JSON: expecting property name enclosed in double quotes"),
        ('{"a": 1\n "b": 2}', "2:2: not JSON: expecting ',' delimiter"),
        ('{"a": 1,\n "a": 2}', "2:2: 'a' stands here a second time (first on line 1)"),
        ('{"a": {"b": 1, "b": 2}}', "1:16: 'b' stands here a second time"),
        ('{"a": NaN}', "1:7: NaN is not a number that JSON has"),
        ('{"a": -Infinity}', "1:7: -Infinity is not a number that JSON has"),
        ('{"a": 1e999}', "1:7: the number 1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "is too large"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "nested deeper than 30 levels"),
        ('{"a": "x', "1:7: not JSON: unterminated string"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": 1} trailing', "1:10: not JSON: extra data"),
        ('{"a": tru}', "1:7: not JSON: expecting value"),
        ('{"a"', "not JSON: expecting ':' delimiter"),
        ('{"a": 1}]' + "[" * 5000, "1:9: not JSON: extra data"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        import_config(file)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        import_config(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot read"):
        import_config(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"a":\n "\xe9"}')
    with pytest.raises(UserError, match=r"latin.json:2: not UTF-8 text"):
        import_config(tmp_path / "latin.json")
    (tmp_path / "big.json").write_bytes(b" " * 10_000_001)
    with pytest.raises(UserError, match="larger than 10,000,000 bytes"):
        import_config(tmp_path / "big.json")


def test_a_config_json_takes_its_folder_s_name(tmp_path: Path) -> None:
    folder = tmp_path / "My-Model-7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config()), encoding="utf-8")
    assert import_config(folder / "config.json").model.name == "my-model-7b"


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "-x", "a\nb"])
def test_a_name_that_could_not_name_a_file_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a model"):
        import_config(HAND_WRITTEN / "mistral-7b.json", name=name)


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-10**30, 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abc\n"\\é', max_size=4), inner, max_size=4),
    max_leaves=20))
def test_the_json_reader_reads_what_python_writes(value: object) -> None:
    document = {"value": value}
    for text in (json.dumps(document), json.dumps(document, indent="\t", ensure_ascii=False)):
        assert parse_json(text, file="x.json").data == document


@given(st.text(st.sampled_from('{}[]":,0123456789.eE-+ truefalsn\\\n\t'), max_size=30))
def test_the_json_reader_accepts_nothing_that_python_refuses(text: str) -> None:
    try:
        read = parse_json(text, file="x.json").data
    except UserError:
        return
    assert read == json.loads(text)


def test_every_imported_yaml_reads_as_plain_yaml_too() -> None:
    result = import_config(HAND_WRITTEN / "deepseek-v2-lite.json")
    assert yaml.safe_load(result.yaml_text)["attention"]["mla"]["kv_lora_rank"] == 512
