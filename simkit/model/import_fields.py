"""What readers of several families share: heads, sizes, windows, and fields that a decode step does not feel.

A reader takes what the file says; where the family's configuration class in Hugging Face transformers defines what an
absent field means, that value is taken and reported as a default. Everything else that is absent is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from simkit.model.config_fields import ConfigFields

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family: how its model classes are named, and how its file is read.

    ``inner``: types of the text decoder inside a multimodal configuration.
    """

    class_prefix: str
    read: Callable[[ConfigFields], Fields]
    inner: tuple[str, ...] = ()


# Fields that say nothing about the bytes and flops of a decode step, and why.
NO_EFFECT: Final[dict[str, frozenset[str]]] = {
    "a name or a version": frozenset({
        "problem_type", "tokenizer_class", "finetuning_task", "task_specific_params", "id2label", "label2id",
        "torchscript", "num_labels",
        "architectures", "model_type", "_name_or_path", "transformers_version", "auto_map", "torch_dtype", "dtype",
        "is_decoder", "is_encoder_decoder"}),
    "training only": frozenset({
        "attention_probs_dropout_prob", "rescale_prenorm_residual", "time_step_floor", "time_step_limit",
        "time_step_max", "time_step_min", "residual_in_fp32", "router_z_loss_coef",
        "initializer_cutoff_factor", "output_attentions", "output_hidden_states",
        "moe_router_force_load_balancing", "load_balance_coeff",
        "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "initializer_range", "aux_loss_alpha",
        "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "seq_aux", "pretraining_tp", "ep_size",
        "gradient_checkpointing"}),
    "token numbers": frozenset({
        "ignore_index", "image_placeholder", "media_placeholder_token_id", "video_token_id",
        "vision_start_token_id", "vision_end_token_id", "image_token_id", "audio_token_id", "boa_token_id",
        "boi_token_id", "eoa_token_id", "eoa_token_index", "eoi_token_id", "video_placeholder",
        "use_unified_vision_chunk", "sep_token_id", "decoder_start_token_id", "forced_bos_token_id",
        "forced_eos_token_id",
        "bos_token_id", "eos_token_id", "pad_token_id", "boi_token_index", "eoi_token_index", "image_token_index"}),
    "rotary positions: work on one token's query and key, no bytes of the cache": frozenset({
        "indexer_rope_interleave",
        "compress_rope_theta", "swa_rope_theta", "mla_use_nope", "use_mrope",
        "attn_temperature_tuning", "attn_scale", "floor_scale", "use_rope_layers", "yarn_only_types",
        "partial_rotary_factors", "no_rope_layers", "mrope_section", "attention_rope",
        "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "rotary_dim", "rope_interleave",
        "partial_rotary_factor", "initial_context_length", "original_max_position_embeddings", "alibi"}),
    "norms, biases and activations: below 0.1 % of the parameters": frozenset({
        "norm_eps", "hc_eps", "hc_sinkhorn_iters", "layernorm_epsilon", "mlp_hidden_act", "mamba_hidden_act",
        "mamba_proj_bias", "use_bias", "use_conv_bias", "add_swa_attention_sink_bias",
        "add_full_attention_sink_bias", "attention_value_scale", "swiglu_alpha", "swiglu_limits",
        "swiglu_limits_shared", "use_gemma_norm", "activation_situ_beta", "activation_situ_linear_beta",
        "latent_moe_use_norm", "gate_lower_bound", "use_sliding_norm", "layernorm_full_attention_beta",
        "layernorm_linear_attention_beta", "layernorm_mlp_beta", "layernorm_full_attention_alpha",
        "layernorm_linear_attention_alpha", "layernorm_mlp_alpha", "postnorm", "mup_enabled",
        "attn_output_gate_bias", "vision_soft_tokens_per_image",
        "rms_norm_eps", "layer_norm_epsilon", "hidden_act", "hidden_activation", "activation", "attention_bias",
        "mlp_bias", "bias", "swiglu_limit", "use_qk_norm", "qk_norm_type", "num_ln_in_parallel_attn",
        "apply_residual_connection_post_layernorm", "query_pre_attn_scalar", "attn_logit_softcapping",
        "final_logit_softcapping", "use_bidirectional_attention"}),
    "which experts are chosen, not how many": frozenset({
        "num_hash_layers", "num_expert_group", "use_grouped_topk", "moe_renormalize",
        "moe_router_activation_func", "moe_router_dtype", "use_moe_router_bias", "moe_router_scaling_factor",
        "norm_expert_weight", "need_fp32_gate", "moe_router_activation", "route_norm", "route_scale",
        "score_func", "num_expert_groups", "num_limited_groups", "use_qkv_bias",
        "n_group", "topk_group", "topk_method", "norm_topk_prob", "routed_scaling_factor", "scoring_func",
        "use_routing_bias"}),
    "multi-token prediction: a draft beside the decoder": frozenset({
        "mtp_hybrid_override_pattern", "mtp_layers_block_type", "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings", "index_share_for_mtp_iteration",
        "num_nextn_predict_layers", "use_mtp", "mtp_transformer_layers", "num_mtp_modules"}),
    "how the software runs": frozenset({
        "chunk_size", "num_logits_to_keep", "use_mamba_kernels", "moe_shared_expert_overlap", "mamba_expand",
        "expand", "attn_implementation", "_attn_implementation", "top_k", "top_p", "temperature", "num_beams",
        "num_beam_groups", "num_return_sequences", "max_length", "min_length", "repetition_penalty",
        "length_penalty", "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
        "typical_p", "do_sample", "early_stopping", "exponential_decay_length_penalty", "suppress_tokens",
        "begin_suppress_tokens", "bad_words_ids", "remove_invalid_values", "return_dict",
        "return_dict_in_generate", "output_scores", "pruned_heads", "tie_encoder_decoder", "tf_legacy_loss",
        "use_bfloat16", "chunk_size_feed_forward", "prefix", "language_model_only", "use_cache",
        "cache_implementation"}),
    "images, beside the text decoder": frozenset({
        "audio_config", "vision_tower_config", "vocab_size_per_layer_input", "projector_hidden_act",
        "image_size","vision_config", "mm_tokens_per_image"}),
}


def heads(config: ConfigFields, *, kv_default: bool = False, head_dim_default: bool = True) -> Fields:
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


def common_fields(config: ConfigFields, attention: Fields, *, tied: bool | None) -> Fields:
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


def gated_mlp(config: ConfigFields, key: str = "intermediate_size") -> Fields:
    """A gated block of the width that ``key`` gives."""
    config.came_from("mlp.size", key)
    return {"size": config.whole(key), "gated": True}


def windows(config: ConfigFields, window: int | None, pattern: list[str]) -> Fields:
    """The attention fields of a window over the layers that ``pattern`` calls local; none when no layer is."""
    if "local" not in pattern or window is None:
        return {}
    config.came_from("attention.sliding_window", "sliding_window")
    return {"sliding_window": window, **({"pattern": shortest(pattern)} if "global" in pattern else {})}


_WINDOWS: Final = {"sliding_attention": "local", "chunked_attention": "local", "full_attention": "global"}


def layer_types(config: ConfigFields, words: dict[str, str] = _WINDOWS) -> list[str] | None:
    """``layer_types`` in our words, checked against the number of layers; None when absent.

    Further types than layers are those of layers that predict more than one token (Step).
    """
    kinds = config.texts_or_none("layer_types")
    if kinds is None:
        return None
    unknown = [kind for kind in kinds if kind not in words]
    if unknown:
        known = [word for word in words if word != "chunked_attention"]
        raise config.error("layer_types", f"'{unknown[0][:40]}' layers are not modelled: expected "
                                          f"{' or '.join(sorted(known))}")
    layers, more = config.whole("num_hidden_layers"), config.whole("num_nextn_predict_layers", default=0, least=0)
    if len(kinds) not in (layers, layers + more):
        raise config.error("layer_types", f"{len(kinds)} layer types for the {layers} layers of num_hidden_layers")
    return [words[kind] for kind in kinds[:layers]]


def shortest(pattern: list[str]) -> list[str]:
    """The shortest list that, repeated, gives the same layers; a trailing part may be cut off."""
    for length in range(1, len(pattern) + 1):
        if all(kind == pattern[index % length] for index, kind in enumerate(pattern)):
            return pattern[:length]
    return pattern


def moe_places(config: ConfigFields, experts: str, size: str) -> None:
    """Remember where the mixture's numbers stand."""
    config.came_from("moe.experts", experts)
    config.came_from("moe.top_k", "num_experts_per_tok")
    config.came_from("moe.expert_size", size)


def experts(config: ConfigFields, count: str, size: str, top_k: str = "num_experts_per_tok", *, shared: int) -> Fields:
    """The mixture's fields, from keys that families name in their own ways."""
    moe_places(config, count, size)
    config.came_from("moe.top_k", top_k)
    found = {"experts": config.whole(count), "top_k": config.whole(top_k), "expert_size": config.whole(size)}
    return found | ({"shared_size": shared} if shared else {})


def feed_pattern(config: ConfigFields, mixed: list[bool], moe: Fields, mlp: Fields) -> Fields:
    """Sections of the feed-forward blocks: experts where ``mixed`` says so, dense blocks elsewhere."""
    layers = config.whole("num_hidden_layers")
    if len(mixed) != layers:
        raise config.error("num_hidden_layers", f"{len(mixed)} feed-forward blocks are named for {layers} layers")
    dense = mixed.index(True) if True in mixed else layers
    if not any(mixed):
        return {"mlp": mlp}
    if all(mixed[dense:]):
        return {"moe": moe | ({"first_dense_layers": dense} if dense else {})} | ({"mlp": mlp} if dense else {})
    return {"moe": moe, "mlp": mlp, "feed_pattern": shortest(["moe" if one else "mlp" for one in mixed])}


def family(class_prefix: str, read: Callable[[ConfigFields], Fields], *inner: str) -> Family:
    """One family, in a line."""
    return Family(class_prefix=class_prefix, read=read, inner=inner)


_FORMATS: Final = {
    (4, 16, "float"): "nvfp4", (4, 32, "float"): "mxfp4", (4, 32, "int"): "int4-g32", (4, 128, "int"): "int4-g128",
    (8, 0, "float"): "fp8", (8, 0, "int"): "int8"}
"""Formats by bits, elements that share a scale, and type of number, the narrowest first."""


def published_format(config: ConfigFields) -> Fields:
    """The format of the published weights as the quantisation block states it, that of routed experts after a slash.

    Nothing where there is no block; one of a kind that simkit has no name for is refused, since a step feels it.
    """
    if not config.has("quantization_config"):
        config.says("expert_dtype", None)
        return {}
    config.used |= {"quantization_config", "expert_dtype"}
    block = config.values["quantization_config"]
    if not isinstance(block, dict):
        raise config.error("quantization_config", "not an object of fields")
    if block.get("quant_method") == "fp8":
        own = "fp8-block" if block.get("weight_block_size") else "fp8"
        experts_own = "nvfp4" if block.get("moe_quant_algo") == "NVFP4" else {"fp4": "mxfp4"}.get(
            str(config.values.get("expert_dtype")), own)
        return {"weight_dtype": own if experts_own == own else f"{own}/{experts_own}"}
    weights: list[Fields] = [group.get("weights") or {} for group in (block.get("config_groups") or {}).values()]
    found = [_FORMATS.get((one.get("num_bits", 0), one.get("group_size") or 0, one.get("type", ""))) for one in weights]
    named = {"mxfp4": "mxfp4", "NVFP4": "nvfp4", "FP8": "fp8"}
    known = [form for form in _FORMATS.values() if form in found]
    least = next((form for form in (*known, *(named.get(str(block.get(key))) for key in ("quant_algo", "quant_method")))
                  if form), None)
    if least is None:
        raise config.error("quantization_config", "weights in this format are not known: expected block fp8, mxfp4, or "
                                                  "config_groups of nvfp4, mxfp4, fp8, int8 or int4")
    # Of mixed formats attention and dense blocks have the wider one; where they are left out they stay in 16 bits.
    kept = [str(name) for key in ("ignore", "modules_to_not_convert") for name in block.get(key) or []]
    rest = "bf16" if any("attn" in name for name in kept) else next((form for form in known if form != least), least)
    return {"weight_dtype": least if rest == least else f"{rest}/{least}"}
