"""One reader for every family, by the words of config_families.yaml; what a table cannot say stands in import_kinds.py.

Words of a family: ``class`` (of its models; a regular expression), ``inner`` (types of its text decoder), ``like``
(whose words it has otherwise), ``needs`` (fields that must be there), ``says`` (what fields must say if they are),
``defaults`` (of absent fields; '4 hidden_size' is four times another), ``names`` (other names of fields), ``sections``
(whose fields count as outer ones), ``all_heads`` (absent KV heads are the query heads), ``heads`` (own, latents, one or
all), ``query_rank``, ``value_dim``, ``tied``, ``gated``, ``parallel`` and ``parallel_flag``, ``positions`` (a table of
so many rows); of layers ``layer_words``, ``pattern``, ``flags`` (words by number), ``every`` with ``global_every`` and
``others``, ``window``, ``note`` (of what has one), ``states`` and ``kinds`` (widths by layer word), ``gate`` with
``gate_flag``; of mixtures ``experts``, ``experts_flag``, ``expert_size``, ``dense_size``, ``shared`` with
``shared_flag``; and a further ``reader``.
"""

from __future__ import annotations

from typing import Final

from simkit.model.config_fields import MAX_LAYERS, ConfigFields
from simkit.model.import_fields import (
    Fields,
    layer_types,
    origins,
    other_names,
    predicting_layers,
    published_format,
    shortest,
    windows,
)
from simkit.model.import_kinds import HEADS, READERS

_WINDOWS: Final = {"sliding_attention": "local", "chunked_attention": "local", "full_attention": "global"}
_EXPECTED: Final = {"layer_types": ": expected sliding_attention or full_attention for each layer",
                    "sliding_window": ": expected a whole number, or null for none"}
_STATE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}  # sizes of the types that torch names so


def read_family(config: ConfigFields, words: Fields) -> Fields:
    """All that the file says of the architecture, in the words of a model file."""
    for section in words.get("sections", ()):
        config.join(section)
    config.rename(other_names(words))
    _defaults(config, words)
    layers = config.whole("num_hidden_layers")
    attention = HEADS[words.get("heads", "own")](config)
    for ours, theirs in origins().items():
        config.came_from(ours, theirs)
    for key in ("query_rank", "value_dim"):
        attention |= {key: config.whole(words[key])} if key in words else {}
    if "gate" in words and ("gate_flag" not in words or config.flag(
            words["gate_flag"], default=words.get("gate_default", False))):
        attention["gate_dim"] = attention["head_dim"] if words["gate"] == "head" else 1
    more: Fields = {"mtp": {}}
    kinds = layer_kinds(config, words)
    if kinds is not None:
        key = words.get("window", "sliding_window")
        window = None if "local" not in kinds else config.whole(key) if config.has("layer_types") else (
            config.whole_or_none(key))
        attention |= windows(config, window, kinds[:layers])
        if len(kinds) > layers:
            more["mtp"] = {"kind": kinds[layers]}
    if "reader" in words:
        more |= READERS[words["reader"]](config, attention)
    if "note" in words and "sliding_window" in attention:
        more["notes"] = [words["note"]]
    for name, own in (words.get("kinds", {}) | words.get("states", {})).items():
        if name in attention.get("pattern", ()):
            made = _widths(config, own)
            attention.setdefault("kinds", {})[name] = made if name in words.get("kinds", {}) else {"state": made}
    context = config.whole_or_none("max_position_embeddings")
    parallel = words.get("parallel", False) or (
        "parallel_flag" in words and config.flag(words["parallel_flag"], default=words.get("parallel_default", False)))
    fields: Fields = {
        "layers": config.whole("num_hidden_layers"), "hidden_size": config.whole("hidden_size"),
        "vocab_size": config.whole("vocab_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", default=words.get("tied", False)), "attention": attention,
        **({} if context is None else {"max_context": context}), **({"parallel_block": True} if parallel else {}),
        **({"learned_positions": context} if "positions" in words and context else {})}
    if "feed_pattern" in more:
        fields |= _feed(config, words, [word == "moe" for word in more["feed_pattern"]], more["feed_pattern"])
    else:
        fields |= _feed(config, words, mixed_layers(config) if _has_experts(config, words) else [False] * layers)
    fields |= {key: value for key, value in more.items() if key != "mtp"}
    return fields | predicting_layers(config, more["mtp"]) | published_format(config)


def _defaults(config: ConfigFields, words: Fields) -> None:
    """What the family's configuration class means by a field's absence, and fields that it must not leave out."""
    same = {"num_key_value_heads": "1 num_attention_heads"} if words.get("all_heads") else {}
    for key, value in (same | words.get("defaults", {})).items():
        times, _, other = str(value).partition(" ")
        config.set_default(key, int(times) * config.whole(other) if other else value)
    for key in ("layers_block_type", "hybrid_override_pattern"):
        if key in config.values:
            config.set_default("num_hidden_layers", len(config.blocks(key)))
    for key, value in words.get("says", {}).items():
        config.says(key, config.whole(value) if isinstance(value, str) and value in config.values else value)
    for key in words.get("needs", ()):
        if key not in config.values if key == "sliding_window" else not config.has(key):
            raise config.error(key, "missing key" + _EXPECTED.get(key, ""))


def layer_kinds(config: ConfigFields, words: Fields) -> list[str] | None:
    """The word of each layer, by whichever fields say it; None where nothing does."""
    layers, found = config.whole("num_hidden_layers"), layer_types(config, words.get("layer_words", _WINDOWS))
    for key, by_number in words.get("flags", {}).items():
        if found is not None or not config.has(key):
            continue
        numbers = config.wholes(key, default=None)
        if key.endswith(("indices", "idxs")):
            numbers = [int(layer in numbers) for layer in range(layers)]
        wrong = [number for number in numbers if number not in range(2) or not by_number[number]]
        if wrong:
            raise config.error(key, f"linear-attention layers ({wrong[0]}) are not modelled: expected 1 throughout")
        if len(numbers) < layers and numbers:
            raise config.error(key, f"{len(numbers)} numbers for the {layers} layers of num_hidden_layers")
        found = [by_number[number] for number in numbers] or None
    if "every" in words:
        for key in words["every"]:
            if found is not None:
                config.without_effect(key, "said layer by layer by another field")
        key = next((key for key in words["every"] if config.has(key)), (*words["every"], "")[0])
        if found is None and isinstance(config.values.get(key), str):
            letters = config.text(key)
            found = [{"L": "local"}.get(letters[layer % len(letters)], "global") for layer in range(layers)]
        if found is None:
            every = config.whole(key, default=words["global_every"], most=MAX_LAYERS) if key else words["global_every"]
            found = ["global" if (layer + 1) % every == 0 else words.get("others", "local") for layer in range(layers)]
    pattern = words.get("pattern")
    return found or (None if pattern is None else [pattern[layer % len(pattern)] for layer in range(layers)])


def _widths(config: ConfigFields, words: Fields) -> Fields:
    """Widths of heads or of a recurrence, each by the name of a field, or as a number."""
    found = {}
    for ours, theirs in words.items():
        if ours == "state_bytes":  # 32 bits where the file does not say, as its kernels keep it
            word = config.text(theirs, default="float32")
            if word not in _STATE_BYTES:
                raise config.error(theirs, f"'{word[:40]}' is not known: expected {', '.join(_STATE_BYTES)}")
            found[ours] = _STATE_BYTES[word]
        elif config.values.get(theirs) == "auto":  # mamba_d_head: what its heads make of the inner width
            config.used.add(theirs)
            found[ours] = config.whole("mamba_expand", default=2) * config.whole("hidden_size") // found["value_heads"]
        else:
            least = 0 if ours == "conv_width" else 1
            found[ours] = theirs if ours == "kind" or isinstance(theirs, int) else config.whole(theirs, least=least)
    return found


def _has_experts(config: ConfigFields, words: Fields) -> bool:
    if "experts_flag" in words and not config.flag(words["experts_flag"], default=False):
        return False
    return bool(words.get("experts")) and bool(config.whole_or_none("num_experts", least=0))


def mixed_layers(config: ConfigFields) -> list[bool]:
    """Which layers have experts: by lists of layers, or else from a first one on, in every n-th."""
    layers, dense = config.whole("num_hidden_layers"), config.wholes("mlp_only_layers", default=[])
    first, step = (config.whole_or_none(key, least=least) for key, least in (
        ("first_k_dense_replace", 0), ("decoder_sparse_step", 1)))
    last = config.values.get("moe_layer_end_index")
    last = layers - 1 if last in (None, -1) else config.whole("moe_layer_end_index", least=0)
    config.used.add("moe_layer_end_index")
    listed = isinstance(config.values.get("moe_layer_freq"), list)
    period = 1 if listed else config.whole_or_none("moe_layer_freq") or 1
    found = [layer not in dense and (first or 0) <= layer <= last and (layer + 1) % (step or 1) == 0
             and layer % period == 0 for layer in range(layers)]
    said = [bool(flag) for flag in config.wholes("moe_layer_freq", default=[])[:layers]] if listed else []
    numbers = config.wholes("moe_layers", default=[]) or [
        int(word) for word in config.text("moe_layers_enum", default="").split(",") if word.strip().isdecimal()]
    said = said or ([layer in numbers for layer in range(layers)] if numbers else [])
    said = said or [word == "sparse" for word in config.texts_or_none("mlp_layer_types") or []]
    if said and len(said) != layers:
        raise config.error("num_hidden_layers", f"{len(said)} feed-forward blocks are named for {layers} layers")
    if said and first is not None and said != found:
        raise config.error("first_k_dense_replace", "contradicts the layers that another field names one by one")
    if not any(said or found):
        raise config.error("first_k_dense_replace", f"leaves none of the {layers} layers for the experts")
    return said or found


def _feed(config: ConfigFields, words: Fields, mixed: list[bool], pattern: list[str] | None = None) -> Fields:
    """Sections of feed-forward blocks: experts where ``mixed`` says so, dense blocks elsewhere or by ``pattern``."""
    dense_key, gated = words.get("dense_size", "intermediate_size"), words.get("gated", True)
    found: Fields = {}
    if "mlp" in (pattern or ()) or (not pattern and not all(mixed)):
        config.came_from("mlp.size", dense_key)
        found["mlp"] = {"size": config.whole(dense_key), "gated": gated}
    if any(mixed):
        found["moe"] = _experts(config, words) | ({} if gated else {"gated": False})
        dense = mixed.index(True)
        if not pattern and dense and all(mixed[dense:]):
            found["moe"]["first_dense_layers"] = dense
        elif not pattern and not all(mixed):
            found["feed_pattern"] = shortest(["moe" if one else "mlp" for one in mixed])
    for key in {"intermediate_size", dense_key} - config.used if words.get("experts") else ():
        config.without_effect(key, "the width of dense layers, of which there are none, or which another field says")
    return found


def _experts(config: ConfigFields, words: Fields) -> Fields:
    """The mixture: routed experts, and the width of what every token uses beside them."""
    key = "moe_intermediate_size" if config.has("moe_intermediate_size") else words.get(
        "expert_size", "moe_intermediate_size")
    config.came_from("moe.expert_size", key)
    size = config.whole(key)
    count = config.whole_or_none("num_shared_experts", least=0)
    own = config.whole_or_none("shared_expert_intermediate_size", least=0)
    beside = "shared" in words and ("shared_flag" not in words or config.flag(words["shared_flag"], default=False))
    shared = config.whole(words["shared"]) if beside else (
        (count or 0) * size if own is None else own * (1 if count is None else count))
    latent = next((width for name in ("moe_latent_size", "routed_expert_hidden_size")
                   if (width := config.whole_or_none(name)) is not None), None)
    return {"experts": config.whole("num_experts"), "top_k": config.whole("num_experts_per_tok"), "expert_size": size,
            **({"shared_size": shared} if shared else {}), **({} if latent is None else {"latent_size": latent})}
