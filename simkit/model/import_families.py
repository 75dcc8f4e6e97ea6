"""Readers of the families whose layers are alike but for windows and experts, and the list of all families."""

from __future__ import annotations

from typing import Final

from simkit.model.config_fields import MAX_LAYERS, ConfigFields
from simkit.model.import_fields import (
    Family,
    Fields,
    common_fields,
    experts,
    family,
    gated_mlp,
    heads,
    layer_types,
    windows,
)
from simkit.model.import_hybrids import HYBRIDS
from simkit.model.import_latents import LATENTS


def _llama(config: ConfigFields) -> Fields:
    # LlamaConfig: an absent num_key_value_heads is num_attention_heads, an absent head_dim hidden / heads.
    return common_fields(config, heads(config, kv_default=True), tied=False) | {"mlp": gated_mlp(config)}


def _mistral(config: ConfigFields) -> Fields:
    attention = heads(config)
    window = config.whole_or_none("sliding_window", required=True)
    pattern = layer_types(config) or ["local"] * config.whole("num_hidden_layers")
    return common_fields(config, attention | windows(config, window, pattern), tied=False) | {"mlp": gated_mlp(config)}


def _mixtral(config: ConfigFields) -> Fields:
    window = config.whole_or_none("sliding_window")
    attention = heads(config) | windows(config, window, ["local"] * config.whole("num_hidden_layers"))
    moe = experts(config, "num_local_experts", "intermediate_size", shared=0)
    return common_fields(config, attention, tied=False) | {"moe": moe}


def _qwen_attention(config: ConfigFields, *, head_dim_default: bool) -> Fields:
    attention = heads(config, head_dim_default=head_dim_default)
    window, first_local = config.whole_or_none("sliding_window"), config.whole_or_none("max_window_layers")
    used = config.flag("use_sliding_window", default=False)
    layers, kinds = config.whole("num_hidden_layers"), layer_types(config)
    if not used:
        if kinds and "local" in kinds:
            raise config.error("use_sliding_window", "false, but layer_types has sliding_attention layers")
        return attention
    if window is None:
        raise config.error("use_sliding_window", "true, but sliding_window gives no number of tokens")
    if kinds is None and first_local is None:
        raise config.error("use_sliding_window", "true, but neither layer_types nor max_window_layers says where")
    # Qwen2Config: layers from max_window_layers on have the window, those below it see everything.
    pattern = kinds or ["global" if index < (first_local or 0) else "local" for index in range(layers)]
    return attention | windows(config, window, pattern)


def _qwen2(config: ConfigFields) -> Fields:
    attention = _qwen_attention(config, head_dim_default=True)
    return common_fields(config, attention, tied=False) | {"mlp": gated_mlp(config)}


def _qwen3(config: ConfigFields) -> Fields:
    attention = _qwen_attention(config, head_dim_default=False)
    return common_fields(config, attention, tied=False) | {"mlp": gated_mlp(config)}


def _qwen3_moe(config: ConfigFields) -> Fields:
    fields = common_fields(config, _qwen_attention(config, head_dim_default=False), tied=False)
    if config.whole("decoder_sparse_step", default=1) != 1:
        raise config.error("decoder_sparse_step", "experts in every second layer or fewer are not modelled: expected 1")
    dense = config.wholes("mlp_only_layers", default=[])
    if dense != list(range(len(dense))):
        raise config.error("mlp_only_layers", "dense layers are modelled at the start of the stack only: "
                                              "expected [] or [0, 1, ...]")
    moe = experts(config, "num_experts", "moe_intermediate_size", shared=0)
    if not dense:
        config.without_effect("intermediate_size", "the width of dense layers, of which mlp_only_layers names none")
        return fields | {"moe": moe}
    return fields | {"moe": moe | {"first_dense_layers": len(dense)}, "mlp": gated_mlp(config)}


def _gemma2(config: ConfigFields) -> Fields:
    window = config.whole_or_none("sliding_window", required=True)
    # Gemma2Config: even layers (the first, the third ...) are local.
    pattern = layer_types(config) or ["local", "global"]
    attention = heads(config, head_dim_default=False) | windows(config, window, pattern)
    return common_fields(config, attention, tied=True) | {"mlp": gated_mlp(config)}


# Gemma3TextConfig: the released multimodal files leave these out where they equal the class's defaults.
_GEMMA3_DEFAULTS: Final = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}
_GEMMA3_PATTERN: Final = 6  # Gemma3TextConfig: every sixth layer attends to all tokens


def _gemma3(config: ConfigFields) -> Fields:
    for key, value in _GEMMA3_DEFAULTS.items():
        config.set_default(key, value)
    window = config.whole_or_none("sliding_window", required=True)
    # Every sixth layer is global.
    key = "_sliding_window_pattern" if config.has("_sliding_window_pattern") else "sliding_window_pattern"
    kinds = layer_types(config)
    if kinds is None:
        length = config.whole(key, default=_GEMMA3_PATTERN, most=MAX_LAYERS)
        kinds = ["local"] * (length - 1) + ["global"]
    else:
        config.without_effect(key, "layer_types says it layer by layer")
    attention = heads(config, head_dim_default=False) | windows(config, window, kinds)
    return common_fields(config, attention, tied=True) | {"mlp": gated_mlp(config)}


def _falcon(config: ConfigFields) -> Fields:
    config.rename({"n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_head_kv": "num_kv_heads"})
    n_q, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    if hidden % n_q:
        raise config.error("hidden_size", f"{hidden} is not a multiple of the {n_q} query heads")
    new = config.flag("new_decoder_architecture", default=False)
    multi_query = config.flag("multi_query", default=True)
    # FalconAttention: num_kv_heads counts in the new decoder only; the old one has one KV head, or all.
    if new:
        n_kv = config.whole("num_kv_heads", default=n_q)
        config.came_from("attention.n_kv_heads", "num_kv_heads")
    else:
        n_kv = 1 if multi_query else n_q
        config.without_effect("num_kv_heads", "multi_query decides in the old decoder")
        config.came_from("attention.n_kv_heads", "multi_query")
    if n_q % n_kv:
        raise config.error("num_kv_heads", f"{n_kv} KV heads do not divide the {n_q} of num_attention_heads")
    config.came_from("attention.n_q_heads", "num_attention_heads")
    attention = {"n_q_heads": n_q, "n_kv_heads": n_kv, "head_dim": hidden // n_q}
    fields = common_fields(config, attention, tied=True)
    config.came_from("mlp.size", "ffn_hidden_size")
    parallel = config.flag("parallel_attn", default=True) or new
    return fields | {"mlp": {"size": config.whole("ffn_hidden_size", default=4 * hidden), "gated": False},
                     "parallel_block": parallel}


def _gpt_oss(config: ConfigFields) -> Fields:
    top_k = config.whole("num_experts_per_tok")
    if config.whole("experts_per_token", default=top_k) != top_k:
        raise config.error("experts_per_token", f"differs from the {top_k} of num_experts_per_tok")
    kinds = layer_types(config)
    if kinds is None:
        raise config.error("layer_types", "missing key: expected sliding_attention or full_attention for each layer")
    window = config.whole_or_none("sliding_window", required="local" in kinds)
    attention = heads(config, head_dim_default=False) | windows(config, window, kinds)
    return common_fields(config, attention, tied=False) | {
        "moe": experts(config, "num_local_experts", "intermediate_size", shared=0)}


def _minimax_m2(config: ConfigFields) -> Fields:
    kinds = config.wholes("attn_type_list", default=[])
    if any(kind != 1 for kind in kinds):
        raise config.error("attn_type_list", "linear-attention layers (0) are not modelled: expected 1 throughout")
    attention = heads(config, head_dim_default=False)
    shared = config.whole("shared_intermediate_size", default=0, least=0)
    return common_fields(config, attention, tied=False) | {
        "moe": experts(config, "num_local_experts", "intermediate_size", shared=shared)}


FAMILIES: Final[dict[str, Family]] = {
    "llama": family("Llama", _llama),
    "mistral": family("Mistral", _mistral),
    "mixtral": family("Mixtral", _mixtral),
    "qwen2": family("Qwen2", _qwen2),
    "qwen3": family("Qwen3", _qwen3),
    "qwen3_vl": family("Qwen3VL", _qwen3, "qwen3_vl_text"),
    "qwen3_vl_moe": family("Qwen3VLMoe", _qwen3_moe, "qwen3_vl_moe_text"),
    "mimo": family("MiMo", _qwen2),
    "qwen3_moe": family("Qwen3Moe", _qwen3_moe),
    "gemma2": family("Gemma2", _gemma2),
    "gemma3": family("Gemma3", _gemma3),
    "gemma3_text": family("Gemma3", _gemma3),
    "falcon": family("Falcon", _falcon),
    **HYBRIDS,
    **LATENTS,
    "gpt_oss": family("GptOss", _gpt_oss),
    "minimax_m2": family("MiniMaxM2", _minimax_m2),
}

