"""The YAML form of a model architecture, and how it becomes a :class:`ModelArchitecture`."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from simkit.foundation.errors import UserError, did_you_mean, shown
from simkit.foundation.validation import (
    Flag,
    Name,
    Number,
    StrictRecord,
    Text,
    WholeNumber,
    check,
    record_schema,
    rule,
)
from simkit.foundation.yaml_source import YamlSource
from simkit.model.architecture import LayerGroup, LayerInput, Mlp, ModelArchitecture, Moe
from simkit.model.kinds.widths import Compression, Heads, Indexer, LayerShape, Mla, Rank, State, Window
from simkit.model.kv_cache import parse_cache_formats

Width = Annotated[int, WholeNumber(1, 1_000_000)]
Count = Annotated[Number, Field(ge=1, le=1e16)]
SCHEMA_VERSION: Final = 1


def _heads_divide(state: Any) -> Any:
    if state.value_heads % state.key_heads:
        raise rule(f"key_heads {state.key_heads} does not divide value_heads {state.value_heads}", "key_heads")
    return state


MlaSchema: Any = record_schema(Mla)
IndexerSchema: Any = record_schema(Indexer)
CompressionSchema: Any = record_schema(Compression)
StateSchema: Any = record_schema(State, __validators__={"heads_divide": model_validator(mode="after")(_heads_divide)})


class LayerFields(StrictRecord):
    """What layers of one kind may have of their own."""

    mla: MlaSchema | None = None
    """Latent attention in place of key/value heads."""
    value_dim: Heads | None = None
    """Elements of a value where they are not those of a key."""
    tied_values: Flag | None = None
    """true: the key is the value too, and stored once."""
    gate_dim: Annotated[int, WholeNumber(0, 4096)] | None = None
    """Columns a query head of a gate on attention's output."""
    query_rank: Rank | None = None
    """Width of a compressed query."""
    output_groups: Heads | None = None
    """Groups of heads that are projected apart before the output."""
    output_rank: Rank | None = None
    """Width to which each of them is projected."""
    kept: Flag | None = None
    """false: the layer reads the cache of an earlier one."""
    indexer: IndexerSchema | None = None
    """What chooses the entries that a query reads."""
    compression: CompressionSchema | None = None
    """One cached entry for several tokens."""
    sliding_window: Window | None = None
    """Tokens that 'local' layers see."""


class LayerKindSchema(LayerFields):
    """A kind of layer; what it leaves out is as in the attention section."""

    n_q_heads: Heads | None = None
    """Query heads."""
    n_kv_heads: Heads | None = None
    """Key/value heads."""
    head_dim: Heads | None = None
    """Elements of a head."""
    state: StateSchema | None = None
    """A recurrence in place of a cache."""
    mlp_size: Width | None = None
    """Width of the dense mlp in these layers, where it is not that of the section."""
    attends: Flag = True
    """false: the layer is a feed-forward block alone."""


NO_ATTENTION: Final = "none"


class AttentionSchema(LayerFields):
    """Heads, and which layers see how much of the context."""

    n_q_heads: Heads
    """Query heads of a layer."""
    n_kv_heads: Heads
    """Key/value heads as trained; it divides n_q_heads."""
    head_dim: Heads
    """Elements of a head."""
    pattern: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None
    """Layer kinds, repeated over the layers: 'local' ones see sliding_window tokens, 'global' ones all, 'none' have no
    attention, and others are those of kinds. Default: all local when a sliding_window is given, else all global."""
    kinds: dict[Name, LayerKindSchema] = Field(default_factory=dict, max_length=20)
    """Further kinds of layers by the names that pattern gives them."""
    cross_attention: Flag = False
    """true for encoder-decoder models (T5): each layer also attends to the encoder's output."""

    @model_validator(mode="after")
    def _kinds_agree(self) -> AttentionSchema:
        if self.n_q_heads % self.n_kv_heads:
            raise rule(f"n_kv_heads {self.n_kv_heads} does not divide n_q_heads {self.n_q_heads}", "n_kv_heads")
        if self.pattern and "local" in self.pattern and self.sliding_window is None:
            raise rule("'local' layers need sliding_window: expected a number of tokens", "pattern")
        words = ("local", "global", *self.kinds)
        for index, word in enumerate(self.pattern or []):
            if word not in (*words, NO_ATTENTION):
                wanted = ", ".join(f"'{known}'" for known in words[:-1]) + f" or '{words[-1]}'"
                hint = did_you_mean(word, words)
                raise rule("; ".join([f"'{word}' is not known: expected {wanted}", *([hint] if hint else [])]),
                           "pattern", index)
        for name in ("global", *self.kinds):
            shape = layer_shape(self, name, "", 1)
            where = ("kinds", name) if name in self.kinds else ()
            if shape.n_q_heads % shape.n_kv_heads:
                raise rule(f"n_kv_heads {shape.n_kv_heads} does not divide n_q_heads {shape.n_q_heads}", *where)
            if (shape.compression or not shape.kept) and shape.mla:
                raise rule("a compressed or borrowed cache of latents is not modelled: expected no mla", *where)
            chooses = shape.indexer is not None and shape.indexer.by_kv_head
            if shape.compression and shape.compression.among_tokens and not chooses:
                raise rule("among_tokens needs an indexer that chooses by_kv_head", *where)
            if bool(shape.output_groups) != bool(shape.output_rank) or (
                    shape.output_groups and shape.n_q_heads % shape.output_groups):
                raise rule("output_groups and output_rank go together, and output_groups divides n_q_heads", *where)
        return self


class MlpSchema(StrictRecord):
    """A dense feed-forward block."""

    size: Width
    """Inner width."""
    gated: Flag
    """true for SwiGLU and GeGLU: three matrices in place of two."""


class MoeSchema(StrictRecord):
    """A mixture of experts."""

    experts: Annotated[int, WholeNumber(2, 100_000)]
    """Routed experts of a layer."""
    top_k: Annotated[int, WholeNumber(1, 100_000)]
    """Experts that a token uses."""
    expert_size: Width
    """Inner width of one expert."""
    shared_size: Annotated[int, WholeNumber(0, 1_000_000)] = 0
    """Total width of the experts that every token uses."""
    gated: Flag = True
    """As for the dense block."""
    latent_size: Width | None = None
    """Width of what routed experts read and write, where it is not the hidden size."""
    first_dense_layers: Annotated[int, WholeNumber(0, 10_000)] = 0
    """Layers before the first with experts, which use the dense mlp."""

    @model_validator(mode="after")
    def _top_k_fits(self) -> MoeSchema:
        if self.top_k > self.experts:
            raise rule(f"top_k {self.top_k} is more than the {self.experts} experts", "top_k")
        return self


class MtpSchema(StrictRecord):
    """Layers that predict further tokens: a draft of the model's own."""

    layers: Annotated[int, WholeNumber(1, 100)]
    """How many; each predicts one token."""
    kind: Name | None = None
    """Their attention, by a word of pattern. Default: that of the last layer."""
    feed: Literal["mlp", "moe"] | None = None
    """Their feed-forward block. Default: that of the last layer."""


LayerInputSchema: Any = record_schema(LayerInput)


class ModelSchema(StrictRecord):
    """A simkit model architecture."""

    schema_version: Literal[1]
    """Form of this file."""
    name: Name
    """As on the command line; by custom the file's name."""
    title: Text
    """As in headings."""
    layers: Annotated[int, WholeNumber(1, 10_000)]
    """Decoder layers."""
    hidden_size: Width
    """Width of the residual stream."""
    vocab_size: Annotated[int, WholeNumber(1, 100_000_000)]
    """Rows of the embedding."""
    tied_embeddings: Flag = False
    """true: input and output share one embedding."""
    attention: AttentionSchema
    """Heads, and which layers see how much of the context."""
    mlp: MlpSchema | None = None
    """The dense feed-forward block."""
    moe: MoeSchema | None = None
    """The mixture of experts, in place of it or beside it."""
    feed_pattern: Annotated[list[Literal["mlp", "moe", "none"]], Field(min_length=1, max_length=1000)] | None = None
    """Feed-forward blocks, repeated over the layers: dense, experts, or none. Default: experts in all layers but
    moe.first_dense_layers."""
    layer_input: LayerInputSchema | None = None
    """What every layer takes of the token itself, from a table of its own; with a dense mlp."""
    mtp: MtpSchema | None = None
    """Layers that predict further tokens, for --speculation mtp=N; not among layers and parameters."""
    residual_passes: Annotated[Number, Field(ge=4, le=1000)] = 4
    """How often a norm and the residual beside it read or write a hidden state."""
    parallel_block: Flag = False
    """true: attention and MLP read the same input and their outputs are reduced together (PaLM, Falcon)."""
    learned_positions: Annotated[int, WholeNumber(0, 100_000_000)] = 0
    """Rows of a learned position embedding (GPT-3), counted as parameters."""
    encoder_layers: Annotated[int, WholeNumber(0, 10_000)] = 0
    """Layers of the encoder beside the decoder (T5): stored, never read while decoding."""
    max_context: Window | None = None
    """Tokens that the model was made for."""
    weight_dtype: Text | None = None
    """Format of the published weights, such as fp8-block; that of routed experts after a slash: bf16/mxfp4."""
    params_published: Count | None = None
    """Parameters as published, held to within 1 % by the tests."""
    params_active_published: Count | None = None
    """Parameters that one token uses, as published."""
    active_excludes_embedding: Flag = False
    """true when params_active_published leaves the input embedding out (DeepSeek, gpt-oss)."""
    pretraining_tokens: Count | None = None
    """Tokens that it was trained on, for the cost of uptraining."""
    source: Text | None = None
    """Where the dimensions come from."""
    notes: list[Text] = Field(default_factory=list)
    """Printed by model show."""

    @model_validator(mode="after")
    def _has_formats(self) -> ModelSchema:
        try:
            parse_cache_formats(self.weight_dtype or "bf16", what="weight dtype")
        except UserError as error:
            raise rule(str(error), "weight_dtype") from None
        return self

    @model_validator(mode="after")
    def _mtp_agrees(self) -> ModelSchema:
        if self.mtp is not None:
            known = ("local", "global", *self.attention.kinds)
            if self.mtp.kind not in (None, *known):
                raise rule(f"'{self.mtp.kind}' is not known: expected one of {', '.join(known)}", "mtp", "kind")
            if (self.mtp.kind, self.attention.sliding_window) == ("local", None):
                raise rule("'local' layers need attention.sliding_window", "mtp", "kind")
            if self.mtp.feed is not None and getattr(self, self.mtp.feed) is None:
                raise rule(f"'{self.mtp.feed}' layers need a section '{self.mtp.feed}'", "mtp", "feed")
        return self

    @model_validator(mode="after")
    def _has_an_mlp(self) -> ModelSchema:
        if self.mlp is None and self.moe is None:
            raise rule("missing key 'mlp' or 'moe': expected such as 'mlp: {size: 28672, gated: true}'", "mlp")
        if self.layer_input is not None and self.moe is not None:
            raise rule("is counted for dense models only: expected no moe", "layer_input")
        if self.moe is not None and self.moe.first_dense_layers and self.mlp is None:
            raise rule("needs the dense 'mlp' of those layers", "moe", "first_dense_layers")
        for word, block in (("mlp", self.mlp), ("moe", self.moe)):
            if word in (self.feed_pattern or []) and block is None:
                raise rule(f"'{word}' layers need a section '{word}'", "feed_pattern")
        if self.feed_pattern and self.moe is not None and self.moe.first_dense_layers:
            raise rule("says the same as feed_pattern: expected one of them", "moe", "first_dense_layers")
        for name in ("global", *self.attention.kinds):
            index = layer_shape(self.attention, name, "", 1).indexer
            if index is not None and self.max_context is not None and index.top_k * index.block > self.max_context:
                raise rule(f"the index chooses {index.top_k * index.block} of at most {self.max_context} tokens",
                           "max_context")
        if self.moe is not None and self.moe.first_dense_layers >= self.layers:
            raise rule(f"leaves none of the {self.layers} layers for the experts",
                       "moe", "first_dense_layers")
        if self.encoder_layers and not self.attention.cross_attention:
            raise rule("encoder_layers needs attention.cross_attention: true, for nothing else reads an encoder",
                       "encoder_layers")
        if self.encoder_layers and (self.mlp is None or self.attention.mla is not None):
            raise rule("encoder_layers are counted for dense models with ordinary heads only: expected mlp and no mla",
                       "encoder_layers")
        return self


@lru_cache(maxsize=256)  # a study asks for the same models again and again, and nobody changes what it was given
def model_from_yaml(source: YamlSource) -> ModelArchitecture:
    """Check a document and turn it into an architecture. Raises :class:`UserError` with every fault."""
    version = source.data.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UserError(f"{shown(version)} is not a version that this simkit reads: expected {SCHEMA_VERSION}",
                        where=source.locate(["schema_version"]))
    schema = check(ModelSchema, source.data, source)
    attention, moe = schema.attention, schema.moe
    return ModelArchitecture(
        name=schema.name, title=schema.title, hidden_size=schema.hidden_size, n_q_heads=attention.n_q_heads,
        n_kv_heads=attention.n_kv_heads, head_dim=attention.head_dim, layer_groups=layer_groups(schema),
        mtp=mtp_layers(schema),
        layer_input=None if schema.layer_input is None else LayerInput(**schema.layer_input.model_dump()),
        mlp=None if schema.mlp is None else Mlp(**schema.mlp.model_dump()),
        moe=None if moe is None else Moe(**moe.model_dump(exclude={"first_dense_layers"})),
        mla=None if attention.mla is None else Mla(**attention.mla.model_dump()),
        vocab_size=schema.vocab_size, tied_embeddings=schema.tied_embeddings, parallel_block=schema.parallel_block,
        learned_positions=schema.learned_positions, cross_attention=attention.cross_attention,
        encoder_layers=schema.encoder_layers, residual_passes=schema.residual_passes, max_context=schema.max_context,
        weight_dtype=schema.weight_dtype,
        params_published=schema.params_published, params_active_published=schema.params_active_published,
        active_excludes_embedding=schema.active_excludes_embedding, pretraining_tokens=schema.pretraining_tokens,
        source=schema.source, notes=tuple(schema.notes), file=source.file)


def layer_shape(attention: AttentionSchema, name: str, model: str, hidden_size: int) -> LayerShape:
    """The attention of one kind of layer: its own widths, and where it leaves them out those of the section."""
    kind = attention.kinds.get(name)
    names = [one.name for one in fields(LayerShape)]
    given: dict[str, Any] = {key: value for section in (attention, kind) for key in names
                             if (value := getattr(section, key, None)) is not None}
    own_state = kind is not None and kind.state is not None
    for key, made in (("mla", Mla), ("indexer", Indexer), ("compression", Compression), ("state", State)):
        section = given.pop(key, None)
        if section is not None and (key == "state" or not own_state):  # what attention layers have, a state has not
            given[key] = made(**section.model_dump())
    return LayerShape(name=model, hidden_size=hidden_size, **given)


def layer_groups(schema: ModelSchema) -> tuple[LayerGroup, ...]:
    """Layers gathered by kind (attention, window, MLP or MoE); their order in the stack does not matter to a step."""
    counted = Counter(_layer_words(schema))
    return tuple(_group(schema, word, feed, count) for (word, feed), count in counted.items())


def _layer_words(schema: ModelSchema) -> list[tuple[str, str]]:
    """Attention and feed-forward block of each layer."""
    attention, moe = schema.attention, schema.moe
    pattern = attention.pattern or (["local"] if attention.sliding_window else ["global"])
    dense = moe.first_dense_layers if moe is not None else schema.layers
    feeds = schema.feed_pattern or ["mlp"] * dense + ["moe"] * (schema.layers - dense)
    return [(pattern[index % len(pattern)], feeds[index % len(feeds)]) for index in range(schema.layers)]


def _group(schema: ModelSchema, word: str, feed: str, count: int) -> LayerGroup:
    attention, kind = schema.attention, schema.attention.kinds.get(word)
    # Layers whose attention is that of plain heads or latents need no shape of their own.
    plain = {"n_q_heads", "n_kv_heads", "head_dim", "mla", "sliding_window", "pattern", "cross_attention"}
    own_shapes = bool(attention.model_dump(exclude_defaults=True, exclude=plain))
    window = kind.sliding_window if kind else attention.sliding_window if word == "local" else None
    attends = word != NO_ATTENTION and (kind is None or kind.attends)
    return LayerGroup(count=count, window=window, moe=feed == "moe", attends=attends, feeds=feed != "none",
                      mlp_size=kind.mlp_size if kind else None,
                      shape=layer_shape(attention, word, schema.name, schema.hidden_size)
                      if own_shapes and attends else None)


def mtp_layers(schema: ModelSchema) -> LayerGroup | None:
    """The layers that predict further tokens."""
    if schema.mtp is None:
        return None
    word, feed = _layer_words(schema)[-1]
    return _group(schema, schema.mtp.kind or word, schema.mtp.feed or feed, schema.mtp.layers)
