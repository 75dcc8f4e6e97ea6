"""Readers of families whose layers differ in their attention: indexes, compressed caches, states, own heads by kind."""

from __future__ import annotations

from typing import Final

from simkit.model.config_fields import ConfigFields
from simkit.model.import_fields import (
    Family,
    Fields,
    common_fields,
    experts,
    family,
    feed_pattern,
    gated_mlp,
    heads,
    layer_types,
    shortest,
    windows,
)


def _gemma4(config: ConfigFields) -> Fields:
    twice = {"mlp_factor": 2} if config.flag("use_double_wide_mlp", default=False) else {}
    kinds, layers = layer_types(config), config.whole("num_hidden_layers")
    if kinds is None:
        raise config.error("layer_types", "missing key: expected sliding_attention or full_attention for each layer")
    local = heads(config, head_dim_default=False)
    tied = config.flag("attention_k_eq_v", default=False)
    wide = {"n_q_heads": local["n_q_heads"], "tied_values": tied,
            "n_kv_heads": config.whole("num_global_key_value_heads", default=local["n_kv_heads"]),
            "head_dim": config.whole("global_head_dim", default=local["head_dim"])}
    borrowing = config.whole("num_kv_shared_layers", default=0, least=0)
    own = layers - borrowing
    pattern = [f"{kind} borrowed" if index >= own else kind for index, kind in enumerate(kinds)]
    window = config.whole("sliding_window")
    sides = {"sliding": {**local, "sliding_window": window, "tied_values": False}, "full": wide}
    words = {"local": "sliding", "global": "full", "local borrowed": "sliding-borrowed",
             "global borrowed": "full-borrowed"}
    attention = {**wide, "pattern": shortest([words[kind] for kind in pattern]), "kinds": {
        word: sides[word.partition("-")[0]] | ({"kept": False, **twice} if "-" in word else {})
        for word in dict.fromkeys(words[kind] for kind in pattern)}}
    fields = common_fields(config, attention, tied=True) | _layer_input(config)
    if not config.flag("enable_moe_block", default=False):
        return fields | {"mlp": gated_mlp(config)}
    # The dense block beside the experts is one that every token uses.
    return fields | {"moe": experts(config, "num_experts", "moe_intermediate_size", "top_k_experts",
                                    shared=config.whole("intermediate_size"))}


def _layer_input(config: ConfigFields, **more: int) -> Fields:
    """What every layer takes of the token itself, where the file gives it a width."""
    size = config.whole("hidden_size_per_layer_input", default=0, least=0)
    return {"layer_input": {"size": size, "vocab_size": config.whole(
        "vocab_size_per_layer_input", default=config.whole("vocab_size")), **more}} if size else {}


def _gemma3n(config: ConfigFields) -> Fields:
    kinds, layers = layer_types(config), config.whole("num_hidden_layers")
    if kinds is None:
        raise config.error("layer_types", "missing key: expected sliding_attention or full_attention for each layer")
    own = layers - config.whole("num_kv_shared_layers", default=0, least=0)
    attention = heads(config, head_dim_default=False) | {"pattern": shortest(
        [kind if index < own else f"{kind}-borrowed" for index, kind in enumerate(kinds)])}
    window = {"sliding_window": config.whole("sliding_window")}
    attention |= window | {"kinds": {f"{kind}-borrowed": {"kept": False} | (window if kind == "local" else {})
                                     for kind in dict.fromkeys(kinds[own:])}}
    given = config.values.get("intermediate_size")
    widths = set(config.wholes("intermediate_size", default=None)) if isinstance(given, list) else {
        config.whole("intermediate_size")}
    if len(widths) > 1:
        raise config.error("intermediate_size", "MLPs of several widths are not modelled: expected one")
    # AltUp predicts and corrects n streams around a layer of two blocks: n + n and n + 1 + n passes (Gemma3nTextAltUp).
    streams = config.whole("altup_num_inputs", default=4)
    own_input = _layer_input(config, side_rank=config.whole("laurel_rank", default=64), stream_matrices=2 * streams - 2)
    return common_fields(config, attention, tied=True) | own_input | {
        "mlp": {"size": widths.pop(), "gated": True}, "residual_passes": 4 + (4 * streams + 1) / 2}


_NOPE_INTERVAL: Final = 4  # Llama4TextConfig: every fourth layer attends to all tokens, without rotary positions


def _llama4(config: ConfigFields) -> Fields:
    layers, chunk = config.whole("num_hidden_layers"), config.whole_or_none("attention_chunk_size")
    kinds = layer_types(config)
    interval = config.whole("no_rope_layer_interval", default=_NOPE_INTERVAL)
    rotary = config.wholes("no_rope_layers", default=[])
    if kinds is None:
        kinds = ["local" if (rotary[index] if rotary else (index + 1) % interval) else "global"
                 for index in range(layers)]
    if chunk is not None and "local" in kinds:
        config.came_from("attention.sliding_window", "attention_chunk_size")
    attention = heads(config) | windows(config, chunk, kinds)
    step, size = config.whole("interleave_moe_layer_step", default=1), config.whole("intermediate_size")
    given = config.wholes("moe_layers", default=[])
    mixed = [index in given if given else (index + 1) % step == 0 for index in range(layers)]
    moe = experts(config, "num_local_experts", "intermediate_size", shared=size)
    fields = common_fields(config, attention, tied=False) | feed_pattern(
        config, mixed, moe, {"size": config.whole("intermediate_size_mlp"), "gated": True})
    return fields | {"notes": ["Local layers see their own chunk, counted at its fullest"]} if chunk else fields


def _nemotron_h(config: ConfigFields) -> Fields:
    words = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
    blocks = config.texts_or_none("layers_block_type")
    if blocks is None:
        letters = config.text("hybrid_override_pattern")
        blocks = [words.get(letter, letter) for letter in letters]
    unknown = [block for block in blocks if block not in words.values()]
    if unknown:
        raise config.error("layers_block_type" if config.has("layers_block_type") else "hybrid_override_pattern",
                           f"'{unknown[0][:40]}' blocks are not modelled: expected {', '.join(words.values())}")
    config.set_default("num_hidden_layers", len(blocks))
    if config.whole("num_hidden_layers") != len(blocks):
        raise config.error("num_hidden_layers", f"the pattern names {len(blocks)} blocks")
    state = {"kind": "mamba-2", "key_heads": config.whole("n_groups"), "key_dim": config.whole("ssm_state_size"),
             "value_heads": config.whole("mamba_num_heads"), "value_dim": config.whole("mamba_head_dim"),
             "conv_width": config.whole("conv_kernel"),
             "state_bytes": _state_bytes(config, "mamba_ssm_cache_dtype")}
    attention = heads(config) | {
        "pattern": shortest([{"mamba": "mamba", "attention": "global"}.get(block, "none") for block in blocks]),
        "kinds": {"mamba": {"state": state}}}
    feeds = [block if block in ("moe", "mlp") else "none" for block in blocks]
    fields = common_fields(config, attention, tied=False) | {"feed_pattern": shortest(feeds)}
    if "mlp" in feeds:
        fields["mlp"] = {"size": config.whole("intermediate_size"), "gated": False}
    if "moe" in feeds:
        shared = config.whole("n_shared_experts", default=0, least=0)
        width = config.whole("moe_shared_expert_intermediate_size") if shared else 0
        latent = config.whole_or_none("moe_latent_size")
        fields["moe"] = experts(config, "n_routed_experts", "moe_intermediate_size", shared=shared * width) | {
            "gated": False} | ({} if latent is None else {"latent_size": latent})
    config.without_effect("intermediate_size", "the width of dense blocks, of which the pattern names none")
    return fields | {"mtp": {"kind": "global", "feed": "moe"}}  # an attention block and one of experts


def _state_bytes(config: ConfigFields, key: str) -> int:
    """Bytes of a state's element; 32 bits where the file does not say, as its kernels keep it."""
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
    word = config.text(key, default="float32")
    if word not in sizes:
        raise config.error(key, f"'{word[:40]}' is not known: expected {', '.join(sizes)}")
    return sizes[word]


def _qwen_hybrid(config: ConfigFields) -> Fields:
    layers = config.whole("num_hidden_layers")
    interval = config.whole("full_attention_interval", default=4)
    kinds = layer_types(config, {"linear_attention": "linear", "full_attention": "global"}) or [
        "linear" if (index + 1) % interval else "global" for index in range(layers)]
    state = {"kind": "gated-delta", "key_heads": config.whole("linear_num_key_heads"),
             "key_dim": config.whole("linear_key_head_dim"), "value_heads": config.whole("linear_num_value_heads"),
             "value_dim": config.whole("linear_value_head_dim"), "conv_width": config.whole("linear_conv_kernel_dim"),
             "state_bytes": _state_bytes(config, "mamba_ssm_dtype")}
    attention = heads(config, head_dim_default=False)
    if config.flag("attn_output_gate", default=True):
        attention["gate_dim"] = attention["head_dim"]
    attention |= {"pattern": shortest(kinds), "kinds": {"linear": {"state": state}}}
    fields = common_fields(config, attention, tied=False)
    if not config.has("num_experts"):
        return fields | {"mlp": gated_mlp(config)}
    if config.wholes("mlp_only_layers", default=[]) or config.whole("decoder_sparse_step", default=1) != 1:
        raise config.error("mlp_only_layers", "dense layers among experts are not modelled here: expected []")
    config.without_effect("intermediate_size", "the width of dense layers, of which there are none")
    return fields | {"moe": experts(config, "num_experts", "moe_intermediate_size",
                                    shared=config.whole("shared_expert_intermediate_size"))}


def _step3(config: ConfigFields) -> Fields:
    config.rename({"num_attention_groups": "num_key_value_heads", "moe_num_experts": "num_experts",
                   "moe_top_k": "num_experts_per_tok"})
    kinds, layers = layer_types(config), config.whole("num_hidden_layers")
    attention = heads(config, head_dim_default=False)
    if kinds is not None:
        attention |= windows(config, config.whole("sliding_window"), kinds)
    if config.flag("use_head_wise_attn_gate", default=False):
        attention["gate_dim"] = 1
    if config.has("attention_other_setting") and "local" in (kinds or []):
        other = config.section("attention_other_setting")
        other.rename({"num_attention_groups": "num_key_value_heads"})
        own = {"n_q_heads": other.whole("num_attention_heads"), "n_kv_heads": other.whole("num_key_value_heads"),
               "head_dim": other.whole("head_dim", default=attention["head_dim"]),
               "sliding_window": attention.pop("sliding_window")}
        attention |= {"pattern": ["sliding" if word == "local" else word for word in attention["pattern"]],
                      "kinds": {"sliding": own}}
    given = config.text("moe_layers_enum", default="")
    dense = config.whole("first_k_dense_replace", default=0, least=0)
    numbers = [int(word) for word in given.split(",") if word.strip().isdigit()]
    mixed = [index in numbers if numbers else index >= dense for index in range(layers)]
    shared = config.whole("share_expert_dim", default=0, least=0)
    config.says("n_shared_experts", 1 if shared else 0)
    moe = experts(config, "num_experts", "moe_intermediate_size", shared=shared)
    fields = common_fields(config, attention, tied=False) | feed_pattern(config, mixed, moe, gated_mlp(config))
    # Its further layers have a window and a dense block (report of Step-3.5-Flash).
    local = "sliding" if "kinds" in attention else "local"
    return fields | ({"mtp": {"kind": local, "feed": "mlp"}} if "local" in (kinds or []) and "mlp" in fields else {})


def _mimo_v2(config: ConfigFields) -> Fields:
    flags, layers = config.wholes("hybrid_layer_pattern", default=None), config.whole("num_hidden_layers")
    if len(flags) < layers or set(flags) - {0, 1}:
        raise config.error("hybrid_layer_pattern", f"expected 0 (all tokens) or 1 (a window) for {layers} layers")
    attention = heads(config, head_dim_default=False) | {"value_dim": config.whole("v_head_dim")}
    sliding = {ours: config.whole(theirs) for ours, theirs in (
        ("n_q_heads", "swa_num_attention_heads"), ("n_kv_heads", "swa_num_key_value_heads"),
        ("head_dim", "swa_head_dim"), ("value_dim", "swa_v_head_dim"), ("sliding_window", "sliding_window"))}
    attention |= {"pattern": shortest(["sliding" if flag else "global" for flag in flags[:layers]]),
                  "kinds": {"sliding": sliding}}
    mixed = [bool(flag) for flag in config.wholes("moe_layer_freq", default=None)[:layers]]
    shared = config.whole_or_none("n_shared_experts", least=0) or 0
    moe = experts(config, "n_routed_experts", "moe_intermediate_size",
                  shared=shared * config.whole("moe_intermediate_size"))
    for key in ("sliding_window_size", "attention_chunk_size"):
        config.without_effect(key, "the window, said by sliding_window")
    return common_fields(config, attention, tied=False) | feed_pattern(config, mixed, moe, gated_mlp(config))


def _minimax_m3(config: ConfigFields) -> Fields:
    layers = config.whole("num_hidden_layers")
    attention = heads(config, head_dim_default=False)
    if config.flag("attention_output_gate", default=False):
        attention["gate_dim"] = attention["head_dim"]
    sparse = config.section("sparse_attention_config")
    if sparse.flag("use_sparse_attention", default=True):
        flags = sparse.wholes("sparse_attention_freq", default=None)
        if len(flags) < layers or sparse.wholes("sparse_disable_index_value", default=flags) != flags:
            raise sparse.error("sparse_attention_freq", "an index with values of its own is not modelled: expected "
                               f"sparse_disable_index_value to be the same {layers} numbers")
        sparse.whole("sparse_init_block", default=0, least=0)
        sparse.whole("sparse_local_block", default=1, least=0)
        index = {"heads": sparse.whole("sparse_num_index_heads"), "dim": sparse.whole("sparse_index_dim"),
                 "top_k": sparse.whole("sparse_topk_blocks"), "block": sparse.whole("sparse_block_size"),
                 "weighted": False, "by_kv_head": True, "key_bytes": None}
        sparse.text("sparse_score_type", default="max")
        attention |= {"pattern": shortest(["sparse" if flag else "global" for flag in flags[:layers]]),
                      "kinds": {"sparse": {"indexer": index}}}
    mixed = [bool(flag) for flag in config.wholes("moe_layer_freq", default=None)[:layers]]
    shared = config.whole("n_shared_experts", default=0, least=0) * config.whole("shared_intermediate_size", default=0,
                                                                                least=0)
    size = "moe_intermediate_size" if config.has("moe_intermediate_size") else "intermediate_size"
    config.without_effect("first_k_dense_replace", "said layer by layer by moe_layer_freq")
    config.without_effect("intermediate_size", "the experts' width, said by moe_intermediate_size")
    return common_fields(config, attention, tied=False) | feed_pattern(
        config, mixed, experts(config, "num_local_experts", size, shared=shared),
        gated_mlp(config, "dense_intermediate_size"))


def _minimax_lightning(config: ConfigFields) -> Fields:
    layers = config.whole("num_hidden_layers")
    kinds = layer_types(config, {"linear_attention": "lightning", "full_attention": "global"})
    if kinds is None:
        kinds = ["global" if flag else "lightning" for flag in config.wholes("attn_type_list", default=[1] * layers)]
    attention = heads(config)
    state = {"kind": "lightning", "key_heads": attention["n_q_heads"], "key_dim": attention["head_dim"],
             "value_heads": attention["n_q_heads"], "value_dim": attention["head_dim"], "conv_width": 0}
    attention |= {"pattern": shortest(kinds), "kinds": {"lightning": {"state": state}}}
    moe = experts(config, "num_local_experts", "intermediate_size",
                  shared=config.whole("shared_intermediate_size", default=0, least=0))
    return common_fields(config, attention, tied=False) | {"moe": moe}


def _afmoe(config: ConfigFields) -> Fields:
    layers, every = config.whole("num_hidden_layers"), config.whole("global_attn_every_n_layers", default=4)
    kinds = layer_types(config) or ["local" if (index + 1) % every else "global" for index in range(layers)]
    attention = heads(config, head_dim_default=False) | windows(config, config.whole("sliding_window"), kinds)
    attention["gate_dim"] = attention["head_dim"]  # AfmoeAttention: a gate on every element of attention's output
    dense, size = config.whole("num_dense_layers", least=0), config.whole("moe_intermediate_size")
    shared = config.whole("num_shared_experts", default=0, least=0)
    moe = experts(config, "num_experts", "moe_intermediate_size", shared=shared * size)
    return common_fields(config, attention, tied=False) | {"moe": moe | {"first_dense_layers": dense},
                                                           "mlp": gated_mlp(config)}


HYBRIDS: Final[dict[str, Family]] = {
    "gemma3n": family("Gemma3n", _gemma3n, "gemma3n_text"),
    "gemma3n_text": family("Gemma3n", _gemma3n),
    "gemma4": family("Gemma4", _gemma4, "gemma4_text"),
    "gemma4_text": family("Gemma4", _gemma4),
    "llama4": family("Llama4", _llama4, "llama4_text"),
    "llama4_text": family("Llama4", _llama4),
    "nemotron_h": family("NemotronH", _nemotron_h),
    "qwen3_next": family("Qwen3Next", _qwen_hybrid),
    "qwen3_5": family("Qwen3_5", _qwen_hybrid, "qwen3_5_text"),
    "qwen3_5_moe": family("Qwen3_5Moe", _qwen_hybrid, "qwen3_5_moe_text"),
    "qwen3_5_text": family("Qwen3_5", _qwen_hybrid),
    "qwen3_5_moe_text": family("Qwen3_5Moe", _qwen_hybrid),
    "step3p5": family("Step3p5", _step3),
    "step3p7": family("Step3p7(Flash)?", _step3, "step3p7_text", "step3p5"),
    "mimo_v2_flash": family("MiMoV2Flash", _mimo_v2),
    "minimax_m3": family("MiniMaxM3", _minimax_m3),
    "minimax": family("MiniMax", _minimax_lightning),
    "minimax_text_01": family("MiniMaxText01", _minimax_lightning),
    "minimax_m1": family("MiniMaxM1", _minimax_lightning),
    "afmoe": family("Afmoe", _afmoe),
}
