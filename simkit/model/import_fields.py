"""What readers of several families share: heads, sizes, windows, and fields that a decode step does not feel.

A reader takes what the file says; where the family's configuration class in Hugging Face transformers defines what an
absent field means, that value is taken and reported as a default. Everything else that is absent is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from simkit.foundation.yaml_source import parse_yaml
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


@lru_cache(maxsize=1)
def no_effect() -> dict[str, str]:
    """Fields that say nothing about the bytes and flops of a decode step, and why."""
    name = "fields_without_effect.yaml"
    text = resources.files("simkit.model").joinpath(name).read_text(encoding="utf-8")
    return {key: reason for reason, keys in parse_yaml(text, file=name).data.items() for key in keys}


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


def experts(config: ConfigFields, count: str, size: str, top_k: str = "num_experts_per_tok", *, shared: int) -> Fields:
    """The mixture's fields, from keys that families name in their own ways."""
    for ours, theirs in (("experts", count), ("top_k", top_k), ("expert_size", size)):
        config.came_from(f"moe.{ours}", theirs)
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


_MTP_KEYS: Final = ("num_mtp_modules", "num_nextn_predict_layers", "mtp_num_hidden_layers")


def predicting_layers(config: ConfigFields, own: Fields) -> Fields:
    """Layers that predict further tokens, where a file states a number; ``own``: what a family knows of them."""
    numbers = [config.whole_or_none(key, least=0) or 0 for key in _MTP_KEYS]
    used = not config.has("use_mtp") or config.flag("use_mtp", default=None)
    count = next((number for number in numbers if number and used), 0)
    return {"mtp": {"layers": count} | own} if count else {}
