"""Readers of DeepSeek, GLM-5 and Kimi: latents and indexes, compressed caches, delta rules beside latents."""

from __future__ import annotations

from typing import Final

from simkit.model.config_fields import ConfigFields
from simkit.model.import_fields import (
    Family,
    Fields,
    common_fields,
    experts,
    family,
    gated_mlp,
    heads,
    shortest,
)


def latent_attention(config: ConfigFields) -> Fields:
    """The attention section of a model with latents, and its index where the file gives one (DeepSeek-V3.2)."""
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
    attention: Fields = {"n_q_heads": n_q, "n_kv_heads": n_q, "head_dim": sizes["nope_head_dim"],
                         "mla": sizes | ({} if q_rank is None else {"q_lora_rank": q_rank})}
    return attention | _index(config) if config.has("index_topk") else attention


def _index(config: ConfigFields) -> Fields:
    """DeepSeek-V3.2's index; layers that take an earlier one's choice where GLM-5.2 names them."""
    layers = config.whole("num_hidden_layers")
    index = {"heads": config.whole("index_n_heads"), "dim": config.whole("index_head_dim"),
             "top_k": config.whole("index_topk")}
    config.came_from("max_context", "index_topk")
    if set(config.texts_or_none("layer_types") or []) - {"deepseek_sparse_attention"}:
        raise config.error("layer_types", "layers without an index among those with one are not modelled")
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
    if "shared" not in kinds:
        return {"indexer": index}
    words = ["shared" if kind == "shared" else "global" for kind in kinds[:layers]]
    return {"indexer": index, "pattern": shortest(words), "kinds": {"shared": {"indexer": index | {"shared": True}}}}


def deepseek(config: ConfigFields) -> Fields:
    """DeepSeek-V2 to V3.2, Kimi-K2, GLM-5: latents, an index or none, and experts after the first dense layers."""
    attention = latent_attention(config)
    mtp = {"mtp": {"kind": "global"}} if "kinds" in attention else {}  # with an index of its own
    return common_fields(config, attention, tied=False) | mtp | _deepseek_feed(
        config, "n_routed_experts", "num_experts_per_tok", "n_shared_experts")


def _deepseek_feed(config: ConfigFields, count: str, top_k: str, shared: str) -> Fields:
    """Experts of one width, shared ones as wide, after ``first_k_dense_replace`` dense layers."""
    dense = config.whole("first_k_dense_replace", least=0)
    if config.whole("moe_layer_freq", default=1) != 1:
        raise config.error("moe_layer_freq", "experts in every second layer or fewer are not modelled: expected 1")
    words = config.texts_or_none("mlp_layer_types") or []
    if words and words != ["dense"] * dense + ["sparse"] * (len(words) - dense):
        raise config.error("mlp_layer_types", f"contradicts first_k_dense_replace {dense}")
    size = config.whole("moe_intermediate_size")
    shared_experts = config.whole_or_none(shared, least=0) or 0
    config.came_from("moe.first_dense_layers", "first_k_dense_replace")
    config.says("num_experts", config.whole(count))
    moe = experts(config, count, "moe_intermediate_size", top_k, shared=shared_experts * size)
    return {"moe": moe | {"first_dense_layers": dense}} | ({"mlp": gated_mlp(config)} if dense else {})


def _glm4_moe(config: ConfigFields) -> Fields:
    fields = common_fields(config, heads(config), tied=False)
    return fields | _deepseek_feed(config, "n_routed_experts", "num_experts_per_tok", "n_shared_experts")


_CSA_RATIO: Final = 4  # DeepSeek-V4's compressor overlaps and has an index at this ratio only (its reference code)


def _deepseek_v4(config: ConfigFields) -> Fields:
    layers, ratios = config.whole("num_hidden_layers"), config.wholes("compress_ratios", default=None)
    if len(ratios) < layers:
        raise config.error("compress_ratios", f"{len(ratios)} ratios for the {layers} layers of num_hidden_layers")
    window = config.whole("sliding_window")
    config.whole("qk_rope_head_dim")  # a part of the head, as wide as stored
    attention = heads(config, head_dim_default=False) | {
        "tied_values": True, "query_rank": config.whole("q_lora_rank"),
        "output_groups": config.whole("o_groups"), "output_rank": config.whole("o_lora_rank")}
    index = {"heads": config.whole("index_n_heads"), "dim": config.whole("index_head_dim"),
             "top_k": config.whole("index_topk")}

    def kind(ratio: int) -> Fields:
        if ratio < 2:
            return {"sliding_window": window}
        pooled = {"ratio": ratio, "window": window}
        return {"compression": pooled | {"overlap": True}, "indexer": index} if ratio == _CSA_RATIO else {
            "compression": pooled}

    names = {ratio: {0: "window", 1: "window", _CSA_RATIO: "csa"}.get(ratio, f"hca-{ratio}") for ratio in ratios}
    attention["pattern"] = shortest([names[ratio] for ratio in ratios[:layers]])
    attention["kinds"] = {names[ratio]: kind(ratio) for ratio in dict.fromkeys(ratios[:layers])}
    mtp = {"mtp": {"kind": names[ratios[layers]]}} if len(ratios) > layers else {}
    attention["kinds"] |= {names[ratio]: kind(ratio) for ratio in ratios[layers:layers + 1]}
    streams = config.whole("hc_mult", default=1)
    size = config.whole("moe_intermediate_size")
    shared = config.whole_or_none("n_shared_experts", least=0) or 0
    fields = common_fields(config, attention, tied=False) | {
        "moe": experts(config, "n_routed_experts", "moe_intermediate_size", shared=shared * size)}
    # Hyper-connections read n streams and mix them for a block, and read and write n for its output (arXiv 2512.24880).
    return fields | mtp | ({"residual_passes": 3 * streams + 2} if streams > 1 else {})


def _kimi_linear(config: ConfigFields) -> Fields:
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
    attention = latent_attention(config) | {
        "pattern": shortest(["global" if layer in full else "kda" for layer in range(1, layers + 1)]),
        "kinds": {"kda": {"state": state}}}
    if config.flag("mla_use_output_gate", default=False):
        attention["gate_dim"] = config.whole("v_head_dim")
    fields = common_fields(config, attention, tied=False)
    feed = _deepseek_feed(config, "num_experts", "num_experts_per_token", "num_shared_experts")
    latent = config.whole_or_none("routed_expert_hidden_size")
    if latent is not None:
        feed["moe"]["latent_size"] = latent
    depth = config.whole_or_none("attn_res_block_size")
    # Attention residuals read the output of every block of layers so far beside the running sum.
    passes = {} if depth is None else {
        "residual_passes": round(4 + sum(layer // depth + 1 for layer in range(layers)) / layers, 3)}
    return fields | feed | passes


LATENTS: Final[dict[str, Family]] = {
    "deepseek_v2": family("DeepseekV2", deepseek),
    "deepseek_v3": family("DeepseekV3", deepseek),
    "deepseek_v32": family("DeepseekV32", deepseek),
    "kimi_k2": family("DeepseekV3", deepseek),
    "kimi_k25": family("KimiK25", deepseek, "kimi_k2", "deepseek_v3"),
    "glm_moe_dsa": family("GlmMoeDsa", deepseek),
    "glm4_moe": family("Glm4Moe", _glm4_moe),
    "deepseek_v4": family("DeepseekV4", _deepseek_v4),
    "deepseek_ref": family("DeepseekV4", _deepseek_v4),
    "kimi_linear": family("KimiLinear", _kimi_linear),
    "kimi_k3": family("KimiK3", _kimi_linear, "kimi_linear"),
}
