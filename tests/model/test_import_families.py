"""Configurations of families by the table: sizes as published (model cards), parameters within one per cent of the published count."""

import json

import pytest

from simkit.foundation.errors import UserError
from simkit.model.architecture import count_parameters, group_layout
from simkit.model.attention import parse_layout
from simkit.model.import_config import import_config
from simkit.model.import_fields import families, refused
from simkit.study.point import decode_step

FOUR_OF_FORTY = ["attention" if layer in (5, 15, 25, 35) else "mamba" for layer in range(40)]
LFM2_8B = [["conv", "full_attention"][layer in (2, 6, 10, 14, 18, 21)] for layer in range(24)]
GRANITE_H = {"mamba_d_conv": 4, "mamba_d_head": "auto", "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1}
# Billions of parameters, and what a file says beside its sizes.
PUBLISHED = {
    "smollm3": (3.08, "layers=36 hidden=2048 heads=16 kv=4 mlp=11008 vocab=128256 tied", {
        "no_rope_layers": [1, 1, 1, 0] * 9, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28}),
    "phi3": (14.66, "layers=40 hidden=5120 heads=40 kv=10 mlp=17920 vocab=100352", {"sliding_window": None}),
    "cohere2": (111, "layers=64 hidden=12288 heads=96 kv=8 mlp=36864 vocab=256000", {
        "tie_word_embeddings": ..., "head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": 4,
        "layer_norm_eps": 1e-5, "logit_scale": 0.25}),
    "exaone4": (32, "layers=64 hidden=5120 heads=40 kv=8 mlp=27392 vocab=102400", {
        "sliding_window": 4096, "sliding_window_pattern": "LLLG"}),
    "apertus": (70.6, "layers=80 hidden=8192 heads=64 kv=8 mlp=43008 vocab=131072", {}),
    "starcoder2": (15.96, "layers=40 hidden=6144 heads=48 kv=4 mlp=24576 vocab=49152", {"sliding_window": 4096}),
    "dots1": (142.8, "layers=62 hidden=4096 heads=32 kv=32 mlp=10944 vocab=152064", {
        "n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "n_shared_experts": 2,
        "first_k_dense_replace": 1}),
    "bailing_moe_v2": (1000, "layers=80 hidden=8192 heads=64 kv=8 mlp=18432 vocab=157184", {
        "head_dim": 128, "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "num_shared_experts": 1, "moe_shared_expert_intermediate_size": 2048, "first_k_dense_replace": 4}),
    "ernie4_5_moe": (300, "layers=54 hidden=8192 heads=64 kv=8 mlp=28672 vocab=103424", {
        "moe_num_experts": 64, "moe_k": 8, "moe_intermediate_size": 3584, "moe_num_shared_experts": 0,
        "moe_layer_start_index": 3, "moe_layer_end_index": 53, "moe_layer_interval": 1, "num_nextn_predict_layers": 1}),
    "hunyuan": (389, "layers=64 hidden=6400 heads=80 kv=8 mlp=18304 vocab=129024 tied", {
        "attention_head_dim": 128, "num_experts": 16, "moe_topk": 1, "num_shared_expert": [1] * 64, "use_cla": True,
        "cla_share_factor": 2}),
    "git": (270, "layers=64 hidden=8192 heads=64 kv=8 mlp=32768 vocab=131072 tied", {
        "architectures": ["Grok1ForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2, "residual_moe": True,
        "moe_intermediate_size": 16384}),
    "step3_text": (316, "layers=61 hidden=7168 heads=64 mlp=18432 vocab=128815", {
        "num_attention_groups": 1, "head_dim": 256, "share_q_dim": 2048, "moe_num_experts": 48, "moe_top_k": 3,
        "moe_intermediate_size": 5120, "share_expert_dim": 5120, "moe_layers_enum": ",".join(map(str, range(4, 60)))}),
    "granitemoehybrid": (32.2, "layers=40 hidden=4096 heads=32 kv=8 mlp=768 vocab=100352 tied", GRANITE_H | {
        "layer_types": FOUR_OF_FORTY, "mamba_n_heads": 128, "num_local_experts": 72, "num_experts_per_tok": 10,
        "shared_intermediate_size": 1536}),
    "falcon_h1": (33.6, "layers=72 hidden=5120 heads=20 kv=4 mlp=21504 vocab=261120", {
        "head_dim": 128, "mamba_d_conv": 4, "mamba_d_head": 128, "mamba_d_ssm": 4096, "mamba_d_state": 256,
        "mamba_n_groups": 2, "mamba_n_heads": 32}),
    "lfm2": (1.17, "layers=16 hidden=2048 heads=32 kv=8 vocab=65536 tied", {
        "block_auto_adjust_ff_dim": True, "block_ff_dim": 12288, "block_multiple_of": 256, "conv_L_cache": 3,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14]}),
    "lfm2_moe": (8.34, "layers=24 hidden=2048 heads=32 kv=8 mlp=7168 vocab=65536 tied", {
        "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 1792, "num_dense_layers": 2,
        "conv_L_cache": 3, "layer_types": LFM2_8B}),
    "dbrx": (132, "vocab=100352", {
        "d_model": 6144, "n_layers": 40, "n_heads": 48, "attn_config": {"kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}}),
    "gpt_bigcode": (15.5, "vocab=49152 tied", {
        "n_embd": 6144, "n_layer": 40, "n_head": 48, "n_positions": 8192, "n_inner": 24576, "multi_query": True}),
}
NAMES = {"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads", "kv": "num_key_value_heads",
         "mlp": "intermediate_size", "vocab": "vocab_size"}


def fields_of(family, sizes, more):
    words = [word.partition("=") for word in sizes.split()]
    fields = {"model_type": family, "tie_word_embeddings": False}
    fields |= {NAMES[key]: int(value) for key, _, value in words if value}
    fields |= {"tie_word_embeddings": True} if "tied" in sizes else {}
    return {key: value for key, value in (fields | more).items() if value is not ...}


def imported(tmp_path, fields):
    file = tmp_path / "some-model.json"
    file.write_text(json.dumps(fields))
    return import_config(file)


@pytest.mark.parametrize("family", PUBLISHED)
def test_parameters_are_within_one_per_cent_of_the_published_count(tmp_path, family):
    billions, sizes, more = PUBLISHED[family]
    model = imported(tmp_path, fields_of(family, sizes, more)).model
    assert count_parameters(model, parse_layout("as-trained", model)).total / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_wrapper_around_a_known_text_decoder_is_read_and_a_field_of_the_decoder_still_counts(tmp_path):
    text = fields_of("mistral", "layers=40 hidden=5120 heads=32 kv=8 mlp=32768 vocab=131072", {
        "head_dim": 128, "sliding_window": None})
    outer = {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], "vision_feature_layer": -1,
             "projector_hidden_act": "gelu", "vision_config": {"hidden_size": 1024}, "text_config": text}
    result = imported(tmp_path, outer)
    assert count_parameters(result.model, parse_layout("mha", result.model)).total > 23.5e9
    assert not result.unknown
    assert result.model.source.startswith("config.json of model_type mistral3 (its text decoder, mistral)")
    with pytest.raises(UserError, match="kv_sharing_factor: not known to simkit"):
        imported(tmp_path, outer | {"text_config": text | {"kv_sharing_factor": 2}})


def test_borrowed_caches_of_hunyuan_large_store_half(tmp_path):
    _, sizes, more = PUBLISHED["hunyuan"]
    stored = [decode_step("h200-sxm", imported(tmp_path, fields_of("hunyuan", sizes, more | {"use_cla": shares})).model,
                          attention="as-trained", batch=1, kv_len=4096, chips=8, baseline=False)["kv_cache_bytes"]
              for shares in (True, False)]
    assert float(stored[0]) == float(stored[1]) / 2


def test_a_short_convolution_keeps_two_inputs_a_channel_and_nothing_that_grows(tmp_path):
    _, sizes, more = PUBLISHED["lfm2"]
    model = imported(tmp_path, fields_of("lfm2", sizes, more)).model
    bytes_at = [float(decode_step("h100-sxm", model, attention="as-trained", batch=1, kv_len=tokens, chips=1,
                                  baseline=False)["kv_cache_bytes"]) for tokens in (1024, 2048)]
    grows = 6 * 1024 * 2 * 8 * 64 * 2
    assert bytes_at == [grows + 10 * 2 * 2048 * 2, 2 * grows + 10 * 2 * 2048 * 2]
    trained = parse_layout("as-trained", model)
    conv = next(layout for group in model.layer_groups if (layout := group_layout(model, trained, group)).state)
    assert sum(p.rows * p.columns * (conv.n_q_heads if p.heads == "query" else 1) for p in conv.projections) == 4 * 2048**2


def test_searched_blocks_have_mlps_of_their_own_widths(tmp_path):
    """Llama-3.3-Nemotron-Super-49B's kinds of blocks, once each: multipliers of 8192 x 2/3 in multiples of 256."""
    def block(mult, group):
        return {"attention": {"no_op": group is None, "n_heads_in_group": group}, "ffn": {"ffn_mult": mult, "no_op": False}}

    fields = fields_of("nemotron-nas", "layers=3 hidden=8192 heads=64 vocab=128256", {
        "intermediate_size": None, "num_key_value_heads": None,
        "block_configs": [block(5.25, 8), block(1.3125, None), block(0.5, None)]})
    model = imported(tmp_path, fields).model
    assert model.n_kv_heads == 8
    assert [(group.attends, group.mlp_size) for group in model.layer_groups] == [(True, 28672), (False, 7168), (False, 2816)]
    attention = 2 * 8192**2 + 2 * 8192 * 1024
    assert count_parameters(model, parse_layout("gqa-8", model)).total == (
        attention + 3 * 8192 * (28672 + 7168 + 2816) + 2 * 8192 * 128256)
    sparse = fields | {"block_configs": [block(5.25, 8) | {"ffn": {"no_op": True}}] * 3}
    with pytest.raises(UserError, match="blocks other than of heads"):
        imported(tmp_path, sparse)


def test_what_cannot_be_modelled_says_why_and_every_family_has_a_class(tmp_path):
    for name in ("jamba", "zamba2", "rwkv7", "longcat_flash", "mllama"):
        with pytest.raises(UserError, match=f"a model of model_type '{name}' (keeps|shares|has|attends)"):
            imported(tmp_path, {"model_type": name})
    assert not set(refused()) & set(families())
    assert all(family["class"] for family in families().values())
