"""The YAML form of a model architecture, and how it becomes a :class:`ModelArchitecture`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from simkit.foundation.errors import UserError, shown
from simkit.foundation.validation import Flag, Name, Number, StrictRecord, Text, WholeNumber, check, rule
from simkit.foundation.yaml_source import YamlSource
from simkit.model.architecture import LayerGroup, Mlp, ModelArchitecture, Moe
from simkit.model.kinds.widths import Mla

Heads = Annotated[int, WholeNumber(1, 4096)]
Width = Annotated[int, WholeNumber(1, 1_000_000)]
Rank = Annotated[int, WholeNumber(1, 100_000)]
Window = Annotated[int, WholeNumber(1, 100_000_000)]
Count = Annotated[Number, Field(ge=1, le=1e16)]
SCHEMA_VERSION: Final = 1


class MlaSchema(StrictRecord):
    """Multi-head latent attention."""

    kv_lora_rank: Rank
    """d_c: width of the compressed key/value latent."""
    rope_head_dim: Heads
    """d_r: width of the decoupled rotary key."""
    nope_head_dim: Heads
    """Width of a query and key head without the rotary part."""
    v_head_dim: Heads
    """Width of a value head."""
    q_lora_rank: Rank | None = None
    """Width of the compressed query; without it queries are projected directly."""


class AttentionSchema(StrictRecord):
    """Heads, and which layers see how much of the context."""

    n_q_heads: Heads
    """Query heads of a layer."""
    n_kv_heads: Heads
    """Key/value heads as trained; it divides n_q_heads."""
    head_dim: Heads
    """Elements of a head."""
    mla: MlaSchema | None = None
    """Latent attention in place of key/value heads."""
    sliding_window: Window | None = None
    """Tokens that 'local' layers see."""
    pattern: Annotated[list[Literal["local", "global"]], Field(min_length=1, max_length=1000)] | None = None
    """Layer kinds, repeated over the layers; 'local' layers see sliding_window tokens. Default: all local when a
    sliding_window is given, else all global."""
    cross_attention: Flag = False
    """true for encoder-decoder models (T5): each layer also attends to the encoder's output."""

    @model_validator(mode="after")
    def _heads_divide(self) -> AttentionSchema:
        if self.n_q_heads % self.n_kv_heads:
            raise rule(f"n_kv_heads {self.n_kv_heads} does not divide n_q_heads {self.n_q_heads}", "n_kv_heads")
        if self.pattern and "local" in self.pattern and self.sliding_window is None:
            raise rule("'local' layers need sliding_window: expected a number of tokens", "pattern")
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
    first_dense_layers: Annotated[int, WholeNumber(0, 10_000)] = 0
    """Layers before the first with experts, which use the dense mlp."""

    @model_validator(mode="after")
    def _top_k_fits(self) -> MoeSchema:
        if self.top_k > self.experts:
            raise rule(f"top_k {self.top_k} is more than the {self.experts} experts", "top_k")
        return self


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
    parallel_block: Flag = False
    """true: attention and MLP read the same input and their outputs are reduced together (PaLM, Falcon)."""
    learned_positions: Annotated[int, WholeNumber(0, 100_000_000)] = 0
    """Rows of a learned position embedding (GPT-3), counted as parameters."""
    encoder_layers: Annotated[int, WholeNumber(0, 10_000)] = 0
    """Layers of the encoder beside the decoder (T5): stored, never read while decoding."""
    max_context: Window | None = None
    """Tokens that the model was made for."""
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
    def _has_an_mlp(self) -> ModelSchema:
        if self.mlp is None and self.moe is None:
            raise rule("missing key 'mlp' or 'moe': expected such as 'mlp: {size: 28672, gated: true}'", "mlp")
        if self.moe is not None and self.moe.first_dense_layers and self.mlp is None:
            raise rule("needs the dense 'mlp' of those layers", "moe", "first_dense_layers")
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
        mlp=None if schema.mlp is None else Mlp(size=schema.mlp.size, gated=schema.mlp.gated),
        moe=None if moe is None else Moe(experts=moe.experts, top_k=moe.top_k, expert_size=moe.expert_size,
                                         shared_size=moe.shared_size, gated=moe.gated),
        mla=None if attention.mla is None else Mla(
            kv_lora_rank=attention.mla.kv_lora_rank, rope_head_dim=attention.mla.rope_head_dim,
            nope_head_dim=attention.mla.nope_head_dim, v_head_dim=attention.mla.v_head_dim,
            q_lora_rank=attention.mla.q_lora_rank),
        vocab_size=schema.vocab_size, tied_embeddings=schema.tied_embeddings, parallel_block=schema.parallel_block,
        learned_positions=schema.learned_positions, cross_attention=attention.cross_attention,
        encoder_layers=schema.encoder_layers, max_context=schema.max_context, params_published=schema.params_published,
        params_active_published=schema.params_active_published,
        active_excludes_embedding=schema.active_excludes_embedding, pretraining_tokens=schema.pretraining_tokens,
        source=schema.source, notes=tuple(schema.notes), file=source.file)


def layer_groups(schema: ModelSchema) -> tuple[LayerGroup, ...]:
    """Layers gathered by kind (window, MLP or MoE); their order in the stack does not matter to a decode step."""
    attention, moe = schema.attention, schema.moe
    pattern = attention.pattern or (["local"] if attention.sliding_window else ["global"])
    kinds: Counter[tuple[int | None, bool]] = Counter()
    for index in range(schema.layers):
        window = attention.sliding_window if pattern[index % len(pattern)] == "local" else None
        kinds[window, moe is not None and index >= moe.first_dense_layers] += 1
    return tuple(LayerGroup(count=count, window=window, moe=is_moe) for (window, is_moe), count in kinds.items())
