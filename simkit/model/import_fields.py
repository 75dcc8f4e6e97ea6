"""The table of families, and what readers of several of them share: heads, windows, patterns, formats, drafts.

A reader takes what the file says; where the family's configuration class in Hugging Face transformers defines what an
absent field means, that value is taken and reported as a default. Everything else that is absent is an error.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any, Final

from simkit.foundation.yaml_source import parse_yaml
from simkit.model.config_fields import ConfigFields

Fields = dict[str, Any]


@lru_cache(maxsize=2)
def _table(name: str) -> Fields:
    text = resources.files("simkit.model").joinpath(name).read_text(encoding="utf-8")
    return dict(parse_yaml(text, file=name).data)


@lru_cache(maxsize=1)
def no_effect() -> dict[str, str]:
    """Fields that say nothing about the bytes and flops of a decode step, and why."""
    return {key: reason for reason, keys in _table("fields_without_effect.yaml").items() for key in keys}


@lru_cache(maxsize=1)
def families() -> dict[str, Fields]:
    """The words of every family (import_families.py says what they mean) by its ``model_type``."""
    table = _table("config_families.yaml")["families"]

    def words(name: str) -> Fields:
        own: Fields = table[name]
        return (words(own["like"]) if "like" in own else {}) | {"inner": []} | own

    return {name: words(name) for name in table}


def refused() -> dict[str, str]:
    """Families that are known and not modelled, and why."""
    return {str(name): reason for name, reason in _table("config_families.yaml")["refused"].items()}


def origins() -> dict[str, str]:
    """The field that each key of a model file is read from, for messages."""
    return dict(_table("config_families.yaml")["origins"])


def other_names(words: Fields) -> dict[str, str]:
    """Ours by theirs: other names of a field."""
    return {old: new for names in (_table("config_families.yaml")["names"], words.get("names", {}))
            for new, older in names.items() for old in older}


def heads(config: ConfigFields) -> Fields:
    """Query and KV heads, checked against each other, and the width of a head."""
    n_q, n_kv = config.whole("num_attention_heads"), config.whole("num_key_value_heads")
    if n_q % n_kv:
        raise config.error("num_key_value_heads", f"{n_kv} KV heads do not divide the {n_q} of num_attention_heads")
    hidden = config.whole("hidden_size")
    if not config.given("head_dim") and hidden % n_q:
        raise config.error("hidden_size", f"{hidden} is not a multiple of the {n_q} query heads: expected head_dim")
    return {"n_q_heads": n_q, "n_kv_heads": n_kv, "head_dim": config.whole("head_dim", default=hidden // n_q)}


def windows(config: ConfigFields, window: int | None, pattern: list[str]) -> Fields:
    """The attention fields of a window over the layers that ``pattern`` calls local; none when no layer is."""
    if "local" not in pattern or window is None:
        pattern = ["global" if kind == "local" else kind for kind in pattern]
        return {"pattern": shortest(pattern)} if set(pattern) != {"global"} else {}
    config.came_from("attention.sliding_window", "sliding_window")
    return {"sliding_window": window, **({"pattern": shortest(pattern)} if set(pattern) != {"local"} else {})}


def layer_types(config: ConfigFields, words: dict[str, str], key: str = "layer_types") -> list[str] | None:
    """Layers' kinds in our words, checked against the number of layers; None when absent.

    Further types than layers are those of layers that predict more than one token (Step).
    """
    kinds = config.texts_or_none(key)
    if kinds is None:
        return None
    unknown = [kind for kind in kinds if kind not in words]
    if unknown:
        known = [word for word in words if word != "chunked_attention"]
        raise config.error(key, f"'{unknown[0][:40]}' layers are not modelled: expected {' or '.join(sorted(known))}")
    layers, more = config.whole("num_hidden_layers"), config.whole_or_none("num_nextn_predict_layers", least=0) or 0
    if len(kinds) not in (layers, layers + more):
        raise config.error(key, f"{len(kinds)} layer types for the {layers} layers of num_hidden_layers")
    return [words[kind] for kind in kinds]


def shortest(pattern: list[str]) -> list[str]:
    """The shortest list that, repeated, gives the same layers; a trailing part may be cut off."""
    for length in range(1, len(pattern) + 1):
        if all(kind == pattern[index % length] for index, kind in enumerate(pattern)):
            return pattern[:length]
    return pattern


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
    weights = [_object(_object(group).get("weights")) for group in _object(block.get("config_groups")).values()]
    if "bits" in block:  # GPTQ and AWQ
        weights.append({"num_bits": block["bits"], "group_size": block.get("group_size"), "type": "int"})
    said = {f"{one.get('num_bits')} {one.get('group_size') or 0} {one.get('type')}" for one in weights} | {
        str(of.get(key)) for of in (block, *map(_object, _object(block.get("quantized_layers")).values()))
        for key in ("quant_algo", "quant_method")}
    known = [form for form, words in _table("config_families.yaml")["formats"].items() if said & {*words}]
    if not known:
        raise config.error("quantization_config", "weights in this format are not known: expected block fp8, mxfp4, or "
                                                  "config_groups of nvfp4, mxfp4, fp8, int8 or int4")
    # Of mixed formats attention and dense blocks have the wider one; where they are left out they stay in 16 bits.
    kept = [str(name) for key in ("ignore", "modules_to_not_convert", "exclude_modules") for name in (
        block[key] if isinstance(block.get(key), list) else [])]
    rest = "bf16" if any("attn" in name for name in kept) else known[-1]
    return {"weight_dtype": known[0] if rest == known[0] else f"{rest}/{known[0]}"}


def _object(value: Any) -> Fields:
    return value if isinstance(value, dict) else {}


_MTP_KEYS: Final = ("num_mtp_modules", "num_nextn_predict_layers", "mtp_num_hidden_layers")


def predicting_layers(config: ConfigFields, own: Fields) -> Fields:
    """Layers that predict further tokens, where a file states a number; ``own``: what a family knows of them."""
    numbers = [config.whole_or_none(key, least=0) or 0 for key in _MTP_KEYS]
    used = not config.has("use_mtp") or config.flag("use_mtp", default=None)
    count = next((number for number in numbers if number and used), 0)
    return {"mtp": {"layers": count} | own} if count else {}
