"""What the fields of each family's config.json mean, and which of them a decode step does not feel.

One reader a family turns a configuration into the fields of :class:`simkit.model.schema.ModelSchema`. A reader
takes what the file says; where the family's configuration class in Hugging Face transformers defines what an
absent field means, that value is taken and reported as a default. Everything else that is absent is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from simkit.model.config_fields import MAX_LAYERS, ConfigFields

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family: how its model classes are named, and how its file is read."""

    class_prefix: str
    read: Callable[[ConfigFields], Fields]


# Fields that say nothing about the bytes and flops of a decode step, and why.
NO_EFFECT: Final[dict[str, frozenset[str]]] = {
    "a name or a version": frozenset({
        "architectures", "model_type", "_name_or_path", "transformers_version", "auto_map", "torch_dtype", "dtype",
        "is_decoder", "is_encoder_decoder"}),
    "training only": frozenset({
        "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "initializer_range", "aux_loss_alpha",
        "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "seq_aux", "pretraining_tp", "ep_size",
        "gradient_checkpointing"}),
    "token numbers": frozenset({
        "bos_token_id", "eos_token_id", "pad_token_id", "boi_token_index", "eoi_token_index", "image_token_index"}),
    "rotary positions: work on one token's query and key, no bytes of the cache": frozenset({
        "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "rotary_dim", "rope_interleave",
        "partial_rotary_factor", "initial_context_length", "original_max_position_embeddings", "alibi"}),
    "norms, biases and activations: below 0.1 % of the parameters": frozenset({
        "rms_norm_eps", "layer_norm_epsilon", "hidden_act", "hidden_activation", "activation", "attention_bias",
        "mlp_bias", "bias", "swiglu_limit", "use_qk_norm", "qk_norm_type", "num_ln_in_parallel_attn",
        "apply_residual_connection_post_layernorm", "query_pre_attn_scalar", "attn_logit_softcapping",
        "final_logit_softcapping", "use_bidirectional_attention"}),
    "which experts are chosen, not how many": frozenset({
        "n_group", "topk_group", "topk_method", "norm_topk_prob", "routed_scaling_factor", "scoring_func",
        "use_routing_bias"}),
    "multi-token prediction: a draft beside the decoder": frozenset({
        "num_nextn_predict_layers", "use_mtp", "mtp_transformer_layers", "num_mtp_modules"}),
    "how the software runs": frozenset({"use_cache", "cache_implementation"}),
    "the format that the weights are published in: simkit takes the weights' dtype from the workload":
        frozenset({"quantization_config"}),
    "images, beside the text decoder": frozenset({"vision_config", "mm_tokens_per_image"}),
}


def _heads(config: ConfigFields, *, kv_default: bool = False, head_dim_default: bool = True) -> Fields:
    """Query and KV heads, checked against each other, and the width of a head."""
    n_q = config.whole("num_attention_heads")
    n_kv = config.whole("num_key_value_heads", default=n_q if kv_default else None)
    if n_q % n_kv:
        raise config.error("num_key_value_heads", f"{n_kv} KV heads do not divide the {n_q} of num_attention_heads")
    hidden = config.whole("hidden_size")
    if head_dim_default and not config.has("head_dim") and hidden % n_q:
        raise config.error("hidden_size", f"{hidden} is not a multiple of the {n_q} query heads: expected head_dim")
    head_dim = config.whole("head_dim", default=hidden // n_q if head_dim_default else None)
    config.came_from("attention.n_q_heads", "num_attention_heads")
    config.came_from("attention.n_kv_heads", "num_key_value_heads")
    config.came_from("attention.head_dim", "head_dim")
    return {"n_q_heads": n_q, "n_kv_heads": n_kv, "head_dim": head_dim}


def _common(config: ConfigFields, attention: Fields, *, tied: bool | None) -> Fields:
    """Sizes that every family names alike. ``tied``: what an absent tie_word_embeddings means."""
    fields: Fields = {
        "layers": config.whole("num_hidden_layers"), "hidden_size": config.whole("hidden_size"),
        "vocab_size": config.whole("vocab_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=tied), "attention": attention,
    }
    for ours, theirs in (("layers", "num_hidden_layers"), ("hidden_size", "hidden_size"),
                         ("vocab_size", "vocab_size"), ("max_context", "max_position_embeddings")):
        config.came_from(ours, theirs)
    context = config.whole_or_none("max_position_embeddings")
    return fields if context is None else fields | {"max_context": context}


def _gated_mlp(config: ConfigFields, key: str = "intermediate_size") -> Fields:
    config.came_from("mlp.size", key)
    return {"size": config.whole(key), "gated": True}


def _windows(config: ConfigFields, window: int | None, pattern: list[str]) -> Fields:
    """The attention fields of a window over the layers that ``pattern`` calls local; none when no layer is."""
    if "local" not in pattern or window is None:
        return {}
    config.came_from("attention.sliding_window", "sliding_window")
    return {"sliding_window": window, **({"pattern": _shortest(pattern)} if "global" in pattern else {})}


def _layer_types(config: ConfigFields) -> list[str] | None:
    """``layer_types`` as local and global, checked against the number of layers; None when absent."""
    kinds = config.texts_or_none("layer_types")
    if kinds is None:
        return None
    words = {"sliding_attention": "local", "full_attention": "global"}
    unknown = [kind for kind in kinds if kind not in words]
    if unknown:
        raise config.error("layer_types", f"'{unknown[0][:40]}' layers are not modelled: expected "
                                          "full_attention or sliding_attention")
    layers = config.whole("num_hidden_layers")
    if len(kinds) != layers:
        raise config.error("layer_types", f"{len(kinds)} layer types for the {layers} layers of num_hidden_layers")
    return [words[kind] for kind in kinds]


def _shortest(pattern: list[str]) -> list[str]:
    """The shortest list that, repeated, gives the same layers; a trailing part may be cut off."""
    for length in range(1, len(pattern) + 1):
        if all(kind == pattern[index % length] for index, kind in enumerate(pattern)):
            return pattern[:length]
    return pattern


def _llama(config: ConfigFields) -> Fields:
    # LlamaConfig: an absent num_key_value_heads is num_attention_heads, an absent head_dim hidden / heads.
    return _common(config, _heads(config, kv_default=True), tied=False) | {"mlp": _gated_mlp(config)}


def _mistral(config: ConfigFields) -> Fields:
    attention = _heads(config)
    window = config.whole_or_none("sliding_window", required=True)
    pattern = _layer_types(config) or ["local"] * config.whole("num_hidden_layers")
    return _common(config, attention | _windows(config, window, pattern), tied=False) | {"mlp": _gated_mlp(config)}


def _mixtral(config: ConfigFields) -> Fields:
    window = config.whole_or_none("sliding_window")
    attention = _heads(config) | _windows(config, window, ["local"] * config.whole("num_hidden_layers"))
    moe = {"experts": config.whole("num_local_experts"), "top_k": config.whole("num_experts_per_tok"),
           "expert_size": config.whole("intermediate_size")}
    _moe_places(config, "num_local_experts", "intermediate_size")
    return _common(config, attention, tied=False) | {"moe": moe}


def _moe_places(config: ConfigFields, experts: str, size: str) -> None:
    config.came_from("moe.experts", experts)
    config.came_from("moe.top_k", "num_experts_per_tok")
    config.came_from("moe.expert_size", size)


def _qwen_attention(config: ConfigFields, *, head_dim_default: bool) -> Fields:
    attention = _heads(config, head_dim_default=head_dim_default)
    window, first_local = config.whole_or_none("sliding_window"), config.whole_or_none("max_window_layers")
    used = config.flag("use_sliding_window", default=False)
    layers, kinds = config.whole("num_hidden_layers"), _layer_types(config)
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
    return attention | _windows(config, window, pattern)


def _qwen2(config: ConfigFields) -> Fields:
    return _common(config, _qwen_attention(config, head_dim_default=True), tied=False) | {"mlp": _gated_mlp(config)}


def _qwen3(config: ConfigFields) -> Fields:
    return _common(config, _qwen_attention(config, head_dim_default=False), tied=False) | {"mlp": _gated_mlp(config)}


def _qwen3_moe(config: ConfigFields) -> Fields:
    fields = _common(config, _qwen_attention(config, head_dim_default=False), tied=False)
    if config.whole("decoder_sparse_step", default=1) != 1:
        raise config.error("decoder_sparse_step", "experts in every second layer or fewer are not modelled: expected 1")
    dense = config.wholes("mlp_only_layers", default=[])
    if dense != list(range(len(dense))):
        raise config.error("mlp_only_layers", "dense layers are modelled at the start of the stack only: "
                                              "expected [] or [0, 1, ...]")
    moe = {"experts": config.whole("num_experts"), "top_k": config.whole("num_experts_per_tok"),
           "expert_size": config.whole("moe_intermediate_size")}
    _moe_places(config, "num_experts", "moe_intermediate_size")
    if not dense:
        config.without_effect("intermediate_size", "the width of dense layers, of which mlp_only_layers names none")
        return fields | {"moe": moe}
    return fields | {"moe": moe | {"first_dense_layers": len(dense)}, "mlp": _gated_mlp(config)}


def _gemma2(config: ConfigFields) -> Fields:
    window = config.whole_or_none("sliding_window", required=True)
    # Gemma2Config: even layers (the first, the third ...) are local.
    pattern = _layer_types(config) or ["local", "global"]
    attention = _heads(config, head_dim_default=False) | _windows(config, window, pattern)
    return _common(config, attention, tied=True) | {"mlp": _gated_mlp(config)}


# Gemma3TextConfig: the released multimodal files leave these out where they equal the class's defaults.
_GEMMA3_DEFAULTS: Final = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}
_GEMMA3_PATTERN: Final = 6  # Gemma3TextConfig: every sixth layer attends to all tokens


def _gemma3(config: ConfigFields) -> Fields:
    for key, value in _GEMMA3_DEFAULTS.items():
        config.set_default(key, value)
    window = config.whole_or_none("sliding_window", required=True)
    # Every sixth layer is global.
    key = "_sliding_window_pattern" if config.has("_sliding_window_pattern") else "sliding_window_pattern"
    kinds = _layer_types(config)
    if kinds is None:
        length = config.whole(key, default=_GEMMA3_PATTERN, most=MAX_LAYERS)
        kinds = ["local"] * (length - 1) + ["global"]
    else:
        config.without_effect(key, "layer_types says it layer by layer")
    attention = _heads(config, head_dim_default=False) | _windows(config, window, kinds)
    return _common(config, attention, tied=True) | {"mlp": _gated_mlp(config)}


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
    fields = _common(config, attention, tied=True)
    config.came_from("mlp.size", "ffn_hidden_size")
    parallel = config.flag("parallel_attn", default=True) or new
    return fields | {"mlp": {"size": config.whole("ffn_hidden_size", default=4 * hidden), "gated": False},
                     "parallel_block": parallel}


def _deepseek(config: ConfigFields) -> Fields:
    n_q = config.whole("num_attention_heads")
    if config.whole("num_key_value_heads", default=n_q) != n_q:
        raise config.error("num_key_value_heads", f"the latent serves all {n_q} query heads of num_attention_heads: "
                                                  "expected the same number")
    sizes = {ours: config.whole(theirs) for ours, theirs in (
        ("kv_lora_rank", "kv_lora_rank"), ("rope_head_dim", "qk_rope_head_dim"),
        ("nope_head_dim", "qk_nope_head_dim"), ("v_head_dim", "v_head_dim"))}
    q_rank = config.whole_or_none("q_lora_rank", required=True)
    joined = config.whole_or_none("qk_head_dim")
    if joined is not None and joined != sizes["nope_head_dim"] + sizes["rope_head_dim"]:
        raise config.error("qk_head_dim", f"{joined} is not qk_nope_head_dim + qk_rope_head_dim")
    config.without_effect("head_dim", "the rotary part, said by qk_rope_head_dim")
    config.came_from("attention.n_q_heads", "num_attention_heads")
    attention = {"n_q_heads": n_q, "n_kv_heads": n_q, "head_dim": sizes["nope_head_dim"],
                 "mla": sizes | ({} if q_rank is None else {"q_lora_rank": q_rank})}
    fields = _common(config, attention, tied=False)
    if config.whole("moe_layer_freq", default=1) != 1:
        raise config.error("moe_layer_freq", "experts in every second layer or fewer are not modelled: expected 1")
    expert_size, dense = config.whole("moe_intermediate_size"), config.whole("first_k_dense_replace", least=0)
    shared = config.whole_or_none("n_shared_experts", least=0) or 0
    moe = {"experts": config.whole("n_routed_experts"), "top_k": config.whole("num_experts_per_tok"),
           "expert_size": expert_size, "shared_size": shared * expert_size, "first_dense_layers": dense}
    _moe_places(config, "n_routed_experts", "moe_intermediate_size")
    config.came_from("moe.first_dense_layers", "first_k_dense_replace")
    return fields | {"moe": moe, "mlp": _gated_mlp(config)}


def _gpt_oss(config: ConfigFields) -> Fields:
    experts, size = config.whole("num_local_experts"), config.whole("intermediate_size")
    top_k = config.whole("num_experts_per_tok")
    if config.whole("experts_per_token", default=top_k) != top_k:
        raise config.error("experts_per_token", f"differs from the {top_k} of num_experts_per_tok")
    kinds = _layer_types(config)
    if kinds is None:
        raise config.error("layer_types", "missing key: expected sliding_attention or full_attention for each layer")
    window = config.whole_or_none("sliding_window", required="local" in kinds)
    attention = _heads(config, head_dim_default=False) | _windows(config, window, kinds)
    _moe_places(config, "num_local_experts", "intermediate_size")
    return _common(config, attention, tied=False) | {
        "moe": {"experts": experts, "top_k": top_k, "expert_size": size}}


def _minimax_m2(config: ConfigFields) -> Fields:
    kinds = config.wholes("attn_type_list", default=[])
    if any(kind != 1 for kind in kinds):
        raise config.error("attn_type_list", "linear-attention layers (0) are not modelled: expected 1 throughout")
    attention = _heads(config, head_dim_default=False)
    moe = {"experts": config.whole("num_local_experts"), "top_k": config.whole("num_experts_per_tok"),
           "expert_size": config.whole("intermediate_size")}
    shared = config.whole("shared_intermediate_size", default=0, least=0)
    _moe_places(config, "num_local_experts", "intermediate_size")
    return _common(config, attention, tied=False) | {"moe": moe | ({"shared_size": shared} if shared else {})}


FAMILIES: Final[dict[str, Family]] = {
    "llama": Family(class_prefix="Llama", read=_llama),
    "mistral": Family(class_prefix="Mistral", read=_mistral),
    "mixtral": Family(class_prefix="Mixtral", read=_mixtral),
    "qwen2": Family(class_prefix="Qwen2", read=_qwen2),
    "qwen3": Family(class_prefix="Qwen3", read=_qwen3),
    "qwen3_moe": Family(class_prefix="Qwen3Moe", read=_qwen3_moe),
    "gemma2": Family(class_prefix="Gemma2", read=_gemma2),
    "gemma3": Family(class_prefix="Gemma3", read=_gemma3),
    "gemma3_text": Family(class_prefix="Gemma3", read=_gemma3),
    "falcon": Family(class_prefix="Falcon", read=_falcon),
    "deepseek_v2": Family(class_prefix="DeepseekV2", read=_deepseek),
    "deepseek_v3": Family(class_prefix="DeepseekV3", read=_deepseek),
    "kimi_k2": Family(class_prefix="DeepseekV3", read=_deepseek),
    "gpt_oss": Family(class_prefix="GptOss", read=_gpt_oss),
    "minimax_m2": Family(class_prefix="MiniMaxM2", read=_minimax_m2),
}

