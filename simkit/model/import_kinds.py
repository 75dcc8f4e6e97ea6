"""What a table cannot say of a family: heads by rule, layers with heads, caches, indexes or states of their own.

Each reader takes the file and the attention section so far, changes that section, and returns further sections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from simkit.model.config_fields import ConfigFields
from simkit.model.import_fields import Fields, heads, layer_types, shortest, windows


def latent_attention(config: ConfigFields) -> Fields:
    """The attention section of a model with latents (DeepSeek-V2)."""
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
    return {"n_q_heads": n_q, "n_kv_heads": n_q, "head_dim": sizes["nope_head_dim"],
            "mla": sizes | ({} if q_rank is None else {"q_lora_rank": q_rank})}


def one_or_all_heads(config: ConfigFields) -> Fields:
    """Falcon, StarCoder: num_kv_heads counts in Falcon's new decoder only; else there is one KV head, or all."""
    n_q, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    if hidden % n_q:
        raise config.error("hidden_size", f"{hidden} is not a multiple of the {n_q} query heads")
    multi_query = config.flag("multi_query", default=True)
    if config.has("new_decoder_architecture") and config.flag("new_decoder_architecture", default=None):
        n_kv, said = config.whole("num_kv_heads", default=n_q), "num_kv_heads"
    else:
        n_kv, said = 1 if multi_query else n_q, "multi_query"
        config.without_effect("num_kv_heads", "multi_query decides in the old decoder")
    if n_q % n_kv:
        raise config.error("num_kv_heads", f"{n_kv} KV heads do not divide the {n_q} of num_attention_heads")
    config.came_from("attention.n_kv_heads", said)
    return {"n_q_heads": n_q, "n_kv_heads": n_kv, "head_dim": hidden // n_q}


HEADS: Final = {"own": heads, "latents": latent_attention, "one or all": one_or_all_heads}


def _upper_windows(config: ConfigFields, attention: Fields) -> Fields:
    """Qwen2Config: layers from max_window_layers on have the window where it is used, those below see everything."""
    window, first_local = config.whole_or_none("sliding_window"), config.whole_or_none("max_window_layers", least=0)
    if not config.flag("use_sliding_window", default=False):
        if "sliding_window" in attention:
            raise config.error("use_sliding_window", "false, but layer_types has sliding_attention layers")
        return {}
    if window is None:
        raise config.error("use_sliding_window", "true, but sliding_window gives no number of tokens")
    if not config.has("layer_types"):
        if first_local is None:
            raise config.error("use_sliding_window", "true, but neither layer_types nor max_window_layers says where")
        layers = config.whole("num_hidden_layers")
        attention |= windows(config, window, ["global" if layer < first_local else "local" for layer in range(layers)])
    return {}


def _borrowing_layers(config: ConfigFields, attention: Fields) -> Fields:
    """Hunyuan-Large: of so many layers in turn the first keeps a cache that the others read (cross-layer sharing)."""
    factor = config.whole("cla_share_factor", default=2) if config.flag("use_cla", default=False) else 1
    config.used.add("cla_share_factor")
    if factor > 1:
        attention |= {"pattern": ["global", *["borrowed"] * (factor - 1)], "kinds": {"borrowed": {"kept": False}}}
    return {}


def _other_heads(config: ConfigFields, attention: Fields) -> Fields:
    """Step: heads of another number in layers with a window; its further layers have a window and a dense block."""
    sliding = "sliding_window" in attention
    if config.has("attention_other_setting") and sliding:
        other = config.section("attention_other_setting")
        other.rename({"num_attention_groups": "num_key_value_heads"})
        own = {"n_q_heads": other.whole("num_attention_heads"), "n_kv_heads": other.whole("num_key_value_heads"),
               "head_dim": other.whole("head_dim", default=attention["head_dim"]),
               "sliding_window": attention.pop("sliding_window")}
        attention |= {"pattern": ["sliding" if word == "local" else word for word in attention["pattern"]],
                      "kinds": {"sliding": own}}
    dense = config.whole_or_none("first_k_dense_replace", least=0) or config.has("moe_layers_enum")
    return {"mtp": {"kind": "sliding" if "kinds" in attention else "local", "feed": "mlp"}} if sliding and dense else {}


def _gemma4(config: ConfigFields, attention: Fields) -> Fields:
    wide = {"mlp_size": 2 * config.whole("intermediate_size")} if config.flag(
        "use_double_wide_mlp", default=False) else {}
    local = {key: attention[key] for key in ("n_q_heads", "n_kv_heads", "head_dim")}
    full = {"n_q_heads": local["n_q_heads"], "tied_values": config.flag("attention_k_eq_v", default=False),
            "n_kv_heads": config.whole("num_global_key_value_heads", default=local["n_kv_heads"]),
            "head_dim": config.whole("global_head_dim", default=local["head_dim"])}
    sides = {"local": {**local, "sliding_window": config.whole("sliding_window"), "tied_values": False}, "global": full}
    names = {"local": "sliding", "global": "full"}
    words_of, borrowed = _borrowed(config)
    attention.clear()
    attention |= {**full, "pattern": shortest([names[kind] + "-borrowed" * late for kind, late in
                                               zip(words_of, borrowed, strict=True)])}
    attention["kinds"] = {names[kind] + "-borrowed" * late: sides[kind] | ({"kept": False, **wide} if late else {})
                          for kind, late in dict.fromkeys(zip(words_of, borrowed, strict=True))}
    return _layer_input(config)


def _borrowed(config: ConfigFields) -> tuple[list[str], list[bool]]:
    """Each layer's attention, and whether it reads the cache of an earlier layer (the last ones of Gemma 3n and 4)."""
    kinds = layer_types(config, {"sliding_attention": "local", "full_attention": "global"}) or []
    own = len(kinds) - config.whole("num_kv_shared_layers", default=0, least=0)
    return kinds, [index >= own for index in range(len(kinds))]


def _layer_input(config: ConfigFields, **more: int) -> Fields:
    """What every layer takes of the token itself, where the file gives it a width."""
    size = config.whole("hidden_size_per_layer_input", default=0, least=0)
    return {"layer_input": {"size": size, "vocab_size": config.whole(
        "vocab_size_per_layer_input", default=config.whole("vocab_size")), **more}} if size else {}


def _gemma3n(config: ConfigFields, attention: Fields) -> Fields:
    kinds, borrowed = _borrowed(config)
    window = {"sliding_window": config.whole("sliding_window")}
    attention |= window | {
        "pattern": shortest([kind + "-borrowed" * late for kind, late in zip(kinds, borrowed, strict=True)]),
        "kinds": {f"{kind}-borrowed": {"kept": False} | (window if kind == "local" else {})
                  for kind in dict.fromkeys(kind for kind, late in zip(kinds, borrowed, strict=True) if late)}}
    # AltUp predicts and corrects n streams around a layer of two blocks: n + n and n + 1 + n passes (Gemma3nTextAltUp).
    streams = config.whole("altup_num_inputs", default=4)
    return _layer_input(config, side_rank=config.whole("laurel_rank", default=64), stream_matrices=2 * streams - 2) | {
        "residual_passes": 4 + (4 * streams + 1) / 2}


def _searched_blocks(config: ConfigFields, attention: Fields) -> Fields:
    """Nemotron found by search (DeciLM): layers without attention, and MLPs of many widths."""
    blocks = config.values.get("block_configs")
    config.used.add("block_configs")
    hidden, kinds, pattern = config.whole("hidden_size"), {}, []
    for block in blocks if isinstance(blocks, list) else []:
        own, feed = (block.get(key) if isinstance(block, dict) else None for key in ("attention", "ffn"))
        if not isinstance(own, dict) or not isinstance(feed, dict) or any(
                own.get(key) for key in ("replace_with_linear", "sparsify", "window_length", "num_sink_tokens")) or any(
                feed.get(key) for key in ("no_op", "replace_with_linear", "sparsify")):
            raise config.error("block_configs", "blocks other than of heads, or none, and an MLP are not modelled")
        mult, group = feed.get("ffn_mult"), own.get("n_heads_in_group") or 0
        if not isinstance(mult, int | float) or not 0 < mult <= 1000 or not isinstance(group, int):
            raise config.error("block_configs", "expected ffn_mult above 0, and a whole n_heads_in_group")
        # DeciLM's ffn_mult_to_intermediate_size: two thirds of it, in multiples of 256.
        size = -(-int(2 * mult * hidden / 3) // 256) * 256
        n_kv = 0 if own.get("no_op") else attention["n_q_heads"] // max(group, 1)
        pattern.append(f"{f'gqa-{n_kv}' if n_kv else 'none'}-{size}")
        kinds[pattern[-1]] = {"mlp_size": size} | ({"n_kv_heads": n_kv} if n_kv else {"attends": False})
    if len(pattern) != config.whole("num_hidden_layers"):
        raise config.error("block_configs", f"{len(pattern)} blocks for the layers of num_hidden_layers")
    trained = next((kind["n_kv_heads"] for kind in kinds.values() if "n_kv_heads" in kind), attention["n_kv_heads"])
    config.set_default("intermediate_size", max(kind["mlp_size"] for kind in kinds.values()))
    attention |= {"n_kv_heads": trained, "pattern": shortest(pattern), "kinds": kinds}
    return {}


def _block_index(config: ConfigFields, attention: Fields) -> Fields:
    """MiniMax-M3: blocks chosen for each KV head by index heads."""
    sparse, layers = config.section("sparse_attention_config"), config.whole("num_hidden_layers")
    if sparse.flag("use_sparse_attention", default=True):
        flags = sparse.wholes("sparse_attention_freq", default=None)
        if len(flags) < layers or sparse.wholes("sparse_disable_index_value", default=flags) != flags:
            raise sparse.error("sparse_attention_freq", "an index with values of its own is not modelled: expected "
                               f"sparse_disable_index_value to be the same {layers} numbers")
        sparse.whole("sparse_init_block", default=0, least=0)
        sparse.whole("sparse_local_block", default=1, least=0)
        sparse.text("sparse_score_type", default="max")
        index = {"heads": sparse.whole("sparse_num_index_heads"), "dim": sparse.whole("sparse_index_dim"),
                 "top_k": sparse.whole("sparse_topk_blocks"), "block": sparse.whole("sparse_block_size"),
                 "weighted": False, "by_kv_head": True, "key_bytes": None}
        attention |= {"pattern": shortest(["sparse" if flag else "global" for flag in flags[:layers]]),
                      "kinds": {"sparse": {"indexer": index}}}
    return {}


def _token_index(config: ConfigFields, attention: Fields) -> Fields:
    """DeepSeek-V3.2's index; layers that take an earlier one's choice where GLM-5.2 names them."""
    if not config.has("index_topk"):
        return {}
    layers = config.whole("num_hidden_layers")
    index = {"heads": config.whole("index_n_heads"), "dim": config.whole("index_head_dim"),
             "top_k": config.whole("index_topk")}
    config.came_from("max_context", "index_topk")
    if config.has("index_topk_pattern"):
        raise config.error("index_topk_pattern", "a pattern of index layers in letters is not modelled: expected "
                                                 "indexer_types")
    kinds = config.texts_or_none("indexer_types")
    period, offset = config.whole("index_topk_freq", default=1), config.whole("index_skip_topk_offset", default=1)
    if kinds is None:
        kinds = ["shared" if max(layer - offset + 1, 0) % period else "full" for layer in range(layers)]
    unknown = [kind for kind in kinds if kind not in ("full", "shared")]
    if unknown or len(kinds) < layers:
        raise config.error("indexer_types", f"'{unknown[0][:40]}' is not known: expected full or shared" if unknown else
                           f"{len(kinds)} indexer types for the {layers} layers of num_hidden_layers")
    attention["indexer"] = index
    if "shared" not in kinds:
        return {}
    words_of = ["shared" if kind == "shared" else "global" for kind in kinds[:layers]]
    attention |= {"pattern": shortest(words_of), "kinds": {"shared": {"indexer": index | {"shared": True}}}}
    return {"mtp": {"kind": "global"}}  # with an index of its own


_CSA_RATIO: Final = 4  # DeepSeek-V4's compressor overlaps and has an index at this ratio only (its reference code)


def _compressed(config: ConfigFields, attention: Fields) -> Fields:
    """DeepSeek-V4: one entry for 4 tokens with an index, or for 128 without, beside a window."""
    layers, ratios = config.whole("num_hidden_layers"), config.wholes("compress_ratios", default=None)
    if len(ratios) < layers:
        raise config.error("compress_ratios", f"{len(ratios)} ratios for the {layers} layers of num_hidden_layers")
    window = config.whole("sliding_window")
    config.whole("qk_rope_head_dim")  # a part of the head, as wide as stored
    index = {"heads": config.whole("index_n_heads"), "dim": config.whole("index_head_dim"),
             "top_k": config.whole("index_topk")}

    def kind(ratio: int) -> Fields:
        if ratio < 2:
            return {"sliding_window": window}
        pooled = {"ratio": ratio, "window": window}
        return {"compression": pooled | {"overlap": True}, "indexer": index} if ratio == _CSA_RATIO else {
            "compression": pooled}

    names = {ratio: {0: "window", 1: "window", _CSA_RATIO: "csa"}.get(ratio, f"hca-{ratio}") for ratio in ratios}
    attention |= {"tied_values": True, "query_rank": config.whole("q_lora_rank"),
                  "output_groups": config.whole("o_groups"), "output_rank": config.whole("o_lora_rank"),
                  "pattern": shortest([names[ratio] for ratio in ratios[:layers]]),
                  "kinds": {names[ratio]: kind(ratio) for ratio in dict.fromkeys(ratios[:layers + 1])}}
    streams = config.whole("hc_mult", default=1)
    # Hyper-connections read n streams and mix them for a block, and read and write n for its output (arXiv 2512.24880).
    return ({"mtp": {"kind": names[ratios[layers]]}} if len(ratios) > layers else {}) | (
        {"residual_passes": 3 * streams + 2} if streams > 1 else {})


def _delta_beside_latents(config: ConfigFields, attention: Fields) -> Fields:
    """Kimi: delta attention in most layers, latents in the others."""
    linear = config.section("linear_attn_config")
    layers, full = config.whole("num_hidden_layers"), linear.wholes("full_attn_layers", default=None)
    delta, width = linear.wholes("kda_layers", default=None), linear.whole("head_dim")
    if sorted([*full, *delta]) != list(range(1, layers + 1)):
        raise linear.error("kda_layers", f"and full_attn_layers do not name each of the {layers} layers once")
    state: Fields = {"kind": "kda", "key_heads": linear.whole("num_heads"), "key_dim": width,
                     "value_heads": linear.whole("num_heads"), "value_dim": width,
                     "conv_width": linear.whole("short_conv_kernel_size"), "decay_rank": width}
    if not linear.flag("use_full_rank_gate", default=False):
        state["gate_rank"] = width
    attention |= {"pattern": shortest(["global" if layer in full else "kda" for layer in range(1, layers + 1)]),
                  "kinds": {"kda": {"state": state}}}
    if config.flag("mla_use_output_gate", default=False):
        attention["gate_dim"] = config.whole("v_head_dim")
    depth = config.whole_or_none("attn_res_block_size")
    # Attention residuals read the output of every block of layers so far beside the running sum.
    return {} if depth is None else {
        "residual_passes": round(4 + sum(layer // depth + 1 for layer in range(layers)) / layers, 3)}


_BLOCKS: Final = {"M": "mamba", "*": "global", "E": "moe", "-": "mlp", "mamba": "mamba", "attention": "global",
                  "moe": "moe", "mlp": "mlp"}


def _blocks(config: ConfigFields, attention: Fields) -> Fields:
    """Nemotron-H: every block is attention, a recurrence, a dense MLP or experts, and nothing else."""
    key = "layers_block_type" if config.has("layers_block_type") else "hybrid_override_pattern"
    blocks = [_BLOCKS.get(word) for word in config.blocks(key)]
    if None in blocks:
        wrong = config.blocks(key)[blocks.index(None)]
        raise config.error(key, f"'{wrong[:40]}' blocks are not modelled: expected mamba, attention, moe, mlp")
    if config.whole("num_hidden_layers") != len(blocks):
        raise config.error("num_hidden_layers", f"the pattern names {len(blocks)} blocks")
    feeds = [block if block in ("moe", "mlp") else "none" for block in blocks]
    attention["pattern"] = shortest([block if block in ("mamba", "global") else "none" for block in map(str, blocks)])
    # A draft of theirs is an attention block and one of experts.
    return {"feed_pattern": shortest(feeds), "mtp": {"kind": "global", "feed": "moe"}}


def _both_at_once(config: ConfigFields, attention: Fields) -> Fields:
    """Falcon-H1: a recurrence beside the heads of every layer, here a block of its own before them."""
    layers = config.whole("num_hidden_layers")
    config.says("mamba_d_ssm", config.whole("mamba_n_heads") * config.whole("mamba_d_head"))
    attention |= {"pattern": ["mamba", "global"]}
    return {"layers": 2 * layers, "feed_pattern": ["none", "mlp"],
            "notes": [f"Each of the {layers} layers is two here: its Mamba-2 block, then its attention and MLP"]}


def _short_convolutions(config: ConfigFields, attention: Fields) -> Fields:
    """LFM2: gated convolutions over all channels, and dense blocks cut to two thirds of the stated width."""
    state = {"kind": "short-conv", "key_heads": 1, "key_dim": 1, "value_heads": attention["n_q_heads"],
             "value_dim": attention["head_dim"], "conv_width": config.whole("conv_L_cache", default=3)}
    attention["kinds"] = {"conv": {"state": state}}
    if not config.flag("block_auto_adjust_ff_dim", default=False):
        return {}
    thirds = 2 * config.whole("intermediate_size") // 3
    size = int(config.ratio("block_ffn_dim_multiplier", default_ratio=1.0) * thirds)
    step = config.whole("block_multiple_of", default=256)
    return {"mlp": {"size": -(-size // step) * step, "gated": True}}


READERS: Final[dict[str, Callable[[ConfigFields, Fields], dict[str, Any]]]] = {
    reader.__name__.removeprefix("_"): reader for reader in (
        _upper_windows, _borrowing_layers, _other_heads, _gemma4, _gemma3n, _searched_blocks, _block_index,
        _token_index, _compressed, _delta_beside_latents, _blocks, _both_at_once, _short_convolutions)}
