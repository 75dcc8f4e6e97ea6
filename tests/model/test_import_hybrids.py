"""Every published configuration imports with the parameters that its publisher counts, and nothing that a step feels is lost."""

import json

import pytest

from simkit.foundation.errors import UserError
from simkit.model.architecture import count_parameters, group_layout
from simkit.model.attention import parse_layout
from simkit.model.import_config import import_config
from simkit.study.point import decode_step
from tests.reference_data import reference_path

# Billions of parameters as their publishers count them: model cards and technical reports; of multimodal models the
# text decoder. MTP layers are apart (DeepSeek-V3: 671 of 685).
PUBLISHED = {
    "deepseek-ai--deepseek-r1": 671, "deepseek-ai--deepseek-v3": 671, "deepseek-ai--deepseek-v4-flash": 284,
    "google--gemma-4-26b-a4b": 25.2, "gpt-oss-120b": 116.8, "kimi-k2": 1026, "llama-3.1-70b": 70.6,
    "meta-llama--llama-4-maverick-17b-128e-instruct": 400, "meta-llama--llama-4-scout-17b-16e-instruct": 108,
    "meta-llama--meta-llama-3.1-8b": 8.03, "minimax-m2.5": 229, "minimaxai--minimax-m3": 427,
    "mistralai--mixtral-8x22b-v0.1": 141, "mixtral-8x7b": 46.7, "moonshotai--kimi-k2.5": 1026, "moonshotai--kimi-k3": 2780,
    "nvidia--deepseek-v3.2-nvfp4": 671, "nvidia--deepseek-v4-pro-nvfp4": 1573, "nvidia--gemma-4-31b-it-nvfp4": 30.7,
    "nvidia--nvidia-nemotron-3-nano-30b-a3b-nvfp4": 31.6, "nvidia--nvidia-nemotron-3-super-120b-a12b-fp8": 120.6,
    "nvidia--nvidia-nemotron-3-ultra-550b-a55b-fp8": 550, "nvidia--qwen3.6-27b-nvfp4": 27, "nvidia--qwen3.6-35b-a3b-nvfp4": 35,
    "openai--gpt-oss-20b": 20.9, "qwen--qwen3-235b-a22b": 235, "qwen--qwen3-coder-480b-a35b-instruct": 480,
    "qwen--qwen3-vl-8b-instruct": 8.19, "qwen--qwen3.5-122b-a10b": 122, "qwen--qwen3.5-27b": 27,
    "sgl-project--deepseek-v4-flash-fp8": 284, "stepfun-ai--step-3.7-flash": 196, "xiaomimimo--mimo-7b-base": 7.6,
    "xiaomimimo--mimo-v2-flash": 309, "zai-org--glm-5": 744, "zai-org--glm-5.2": 744,
}


def model_of(name):
    return import_config(reference_path(f"hf_configs/{name}.json"), name="m").model


def layers_of(model):
    """Label, state or attention of each group, with its number of layers."""
    trained = parse_layout("as-trained", model)
    return [(group.count, group_layout(model, trained, group)) for group in model.layer_groups if group.attends]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_within_one_per_cent_of_the_published_count(name):
    model = model_of(name)
    assert count_parameters(model, parse_layout("as-trained", model)).total / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


def test_every_published_configuration_imports():
    for path in sorted(reference_path("hf_configs").glob("*.json")):
        import_config(path, name="m")


@pytest.mark.parametrize(("name", "caching", "of"), [
    ("moonshotai--kimi-k3", 24, 93), ("nvidia--nvidia-nemotron-3-ultra-550b-a55b-fp8", 12, 108),
    ("qwen--qwen3.5-122b-a10b", 12, 48), ("nvidia--nvidia-nemotron-3-super-120b-a12b-fp8", 8, 88)])
def test_only_layers_with_attention_have_a_cache_that_grows(name, caching, of):
    model = model_of(name)
    assert model.n_layers == of
    assert sum(count for count, layout in layers_of(model) if layout.elements_per_token) == caching
    states = sum(count for count, layout in layers_of(model) if layout.state is not None)
    assert states > 0
    assert all(layout.elements_per_token == 0 for _, layout in layers_of(model) if layout.state is not None)


def relabelled(name, tmp_path, **changes):
    fields = json.loads(reference_path(f"hf_configs/{name}.json").read_text(encoding="utf-8")) | changes
    file = tmp_path / "some-model.json"
    file.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}), encoding="utf-8")
    return import_config(file, name="m").model


def test_a_v3_2_called_v3_keeps_its_index(tmp_path):
    changed = relabelled("nvidia--deepseek-v3.2-nvfp4", tmp_path, model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"])
    assert changed.shape == model_of("nvidia--deepseek-v3.2-nvfp4").shape
    assert changed.shape.indexer.top_k == 2048


def test_glm_5_2_has_an_index_in_21_of_78_layers(tmp_path):
    for model in (model_of("zai-org--glm-5.2"), relabelled("zai-org--glm-5.2", tmp_path, indexer_types=...)):
        own = sum(count for count, layout in layers_of(model) if not layout.indexer.shared)
        assert (own, model.n_layers) == (21, 78)


@pytest.mark.parametrize(("name", "changes", "complaint"), [
    ("nvidia--deepseek-v3.2-nvfp4", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "by its name it may change"),
    ("deepseek-ai--deepseek-v4-flash", {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]},
     "first_k_dense_replace: missing key"),
    ("nvidia--deepseek-v3.2-nvfp4", {"index_topk": 200_000}, "the index chooses 200000 of at most 163840 tokens"),
    ("zai-org--glm-5.2", {"indexer_types": ["full"] * 77 + ["half"]}, "'half' is not known: expected full or shared"),
    ("deepseek-ai--deepseek-v4-flash", {"compress_ratios": [4]}, "1 ratios for the 43 layers"),
    ("stepfun-ai--step-3.7-flash", {"layer_types": ["ring_attention"] * 45}, "'ring_attention' layers are not modelled"),
    ("nvidia--nvidia-nemotron-3-nano-30b-a3b-nvfp4", {"hybrid_override_pattern": "M" * 51 + "?"}, "'?' blocks are not modelled"),
    ("minimaxai--minimax-m3", {"attn_window_size": 7}, "attn_window_size: not known to simkit, and by its name"),
    ("xiaomimimo--mimo-v2-flash", {"moe_layer_freq": [0, 1]}, "2 feed-forward blocks are named for 48 layers"),
])
def test_what_changes_time_and_is_not_modelled_is_refused(tmp_path, name, changes, complaint):
    with pytest.raises(UserError) as caught:
        relabelled(name, tmp_path, **changes)
    assert complaint in str(caught.value)


def test_gemma_4_has_its_own_heads_by_kind_of_layer_and_one_vector_for_key_and_value():
    sliding, full = (layout for _, layout in layers_of(model_of("google--gemma-4-26b-a4b")))
    assert (sliding.n_kv_heads, sliding.head_dim, len(sliding.arrays)) == (8, 256, 2)
    assert (full.n_kv_heads, full.head_dim, len(full.arrays)) == (2, 512, 1)


def test_mimo_has_values_narrower_than_keys():
    dense, sliding, _ = (layout for _, layout in layers_of(model_of("xiaomimimo--mimo-v2-flash")))
    assert dense.elements_per_token == 4 * (192 + 128)
    assert sliding.elements_per_token == 8 * (192 + 128)


GEMMA3N = {"model_type": "gemma3n_text", "architectures": ["Gemma3nForCausalLM"], "hidden_size": 2048, "head_dim": 256,
           "hidden_size_per_layer_input": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": 512,
           "vocab_size": 262400, "vocab_size_per_layer_input": 262144, "altup_num_inputs": 4, "laurel_rank": 64,
           "max_position_embeddings": 32768}


@pytest.mark.parametrize(("layers", "borrowing", "width", "published", "effective"), [
    (35, 15, 16384, 6.87e9, 4e9), (30, 10, 8192, 4.46e9, 1.91e9)])
def test_gemma_3n_has_a_table_for_every_layer(tmp_path, layers, borrowing, width, published, effective):
    """E4B and E2B: text decoders of 6.87 and 4.46 billion (GGUF files), of which 4 and 1.91 work on a token (Google)."""
    file = tmp_path / "gemma.json"
    file.write_text(json.dumps(GEMMA3N | {
        "num_hidden_layers": layers, "num_kv_shared_layers": borrowing, "intermediate_size": [width] * layers,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * (layers // 5)}))
    model = import_config(file).model
    counted = count_parameters(model, parse_layout("as-trained", model))
    assert counted.total == pytest.approx(published, rel=0.01)
    assert counted.active - 262400 * 2048 == pytest.approx(effective, rel=0.02)
    assert counted.total - counted.active == layers * 262144 * 256
    # A token of one sequence reads a row of each table, and all else once.
    found = decode_step("h100-sxm", model, attention="as-trained", batch=1, kv_len=1024, chips=1, baseline=False)
    rows = (layers * 256 - 262400 * 2048 + 2048) + counted.active  # of the tied embedding one row, and the LM head whole
    assert float(found["weight_read_bytes"]) == pytest.approx(2 * (rows + 262400 * 2048), rel=1e-3)
    assert float(found["kv_cache_bytes"]) == sum(
        2 * 2 * 256 * 2 * (512 if index % 5 < 4 else 1024) for index in range(layers - borrowing))


def test_gemma_4_e_has_wide_mlps_where_it_borrows(tmp_path):
    """E2B: MLPs of layers that keep no cache are twice as wide."""
    file = tmp_path / "gemma.json"
    file.write_text(json.dumps({
        "model_type": "gemma4_text", "hidden_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512, "hidden_size_per_layer_input": 256,
        "vocab_size": 262144, "intermediate_size": 6144, "use_double_wide_mlp": True, "num_kv_shared_layers": 4,
        "sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"] * 3}))
    model = import_config(file).model
    assert sorted((group.count, group.mlp_size or 6144) for group in model.layer_groups) == [
        (1, 6144), (1, 6144), (2, 12288), (2, 12288)]
    mlps = 3 * 1536 * 6144 * (2 + 4 * 2)
    attention = sum((2 * 8 * width * 1536 + (2 * width * 1536 if index < 2 else 0)) for index in range(6)
                    for width in ([256, 512][index % 2],))
    tables = 6 * (262144 * 256 + 3 * 1536 * 256)
    assert count_parameters(model, parse_layout("as-trained", model)).total == mlps + attention + tables + 262144 * 1536
