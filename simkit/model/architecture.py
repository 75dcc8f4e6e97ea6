r"""The shape of a transformer decoder: dimensions, layer kinds, MLP or MoE; and its parameters, tensor by tensor.

What must be stored, and what one token uses. Norms, biases and MoE routers' biases are left out (below 0.1 %); routers
themselves are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated

from simkit.foundation.validation import WholeNumber
from simkit.model.attention import layer_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.model.kinds.widths import LayerShape, Mla


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """A feed-forward block of width ``size``; gated ones (SwiGLU) have three matrices, others two."""

    size: int
    gated: bool

    @cached_property
    def matrices(self) -> int:
        """Weight matrices of one block: up, down and, when gated, the gate."""
        return 3 if self.gated else 2


@dataclass(frozen=True, kw_only=True)
class Moe:
    """A mixture of ``experts`` experts of which each token uses ``top_k``, plus shared experts that all use.

    ``latent_size``: routed experts read and write so many elements, projected from the hidden state and back once for
    all of them; None: the hidden state itself.
    """

    experts: int
    top_k: int
    expert_size: int
    shared_size: int
    gated: bool
    latent_size: int | None = None

    @cached_property
    def matrices(self) -> int:
        """Weight matrices of one block: up, down and, when gated, the gate."""
        return 3 if self.gated else 2


@dataclass(frozen=True, kw_only=True)
class LayerInput:
    """What every layer takes of the token itself, beside the hidden state (Gemma 3n, Gemma 4 E2B and E4B).

    A row of the layer's table and a projection of the embedding are added, gated by the hidden state, projected to it.
    """

    size: Annotated[int, WholeNumber(1, 4096)]
    """Elements of it."""
    vocab_size: Annotated[int, WholeNumber(1, 100_000_000)]
    """Rows of each layer's table, of which a token reads one."""
    side_rank: Annotated[int, WholeNumber(0, 4096)] = 0
    """Width of a path beside attention (LAuReL); 0: none."""
    stream_matrices: Annotated[int, WholeNumber(0, 100)] = 0
    """Square matrices at the ends that make several residual streams and join them (AltUp)."""

    def layer_elements(self, hidden_size: int) -> int:
        """Elements of a layer's matrices."""
        return hidden_size * (3 * self.size + 2 * self.side_rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """``count`` layers that are alike: the same attention window (None: the whole context) and MLP kind.

    ``budget`` scales an eviction rule's kept tokens on these layers, ``mlp_size`` is the width of their own dense MLP.
    ``shape``: attention of their own; None: that of the model. Blocks that are attention alone, or an MLP alone, do not
    ``feed`` or do not ``attend`` (Nemotron).
    """

    count: int
    window: int | None
    moe: bool
    budget: float = 1.0
    shape: LayerShape | None = None
    attends: bool = True
    feeds: bool = True
    mlp_size: int | None = None

    def with_budget(self, budget: float, count: int) -> LayerGroup:
        """``count`` of these layers with another eviction budget."""
        return replace(self, budget=budget, count=count)


@dataclass(frozen=True, kw_only=True)
class ModelArchitecture:
    """One decoder. ``n_q_heads`` query heads of ``head_dim`` share ``n_kv_heads`` key/value heads as trained.

    These are the widths of the first kind of layer that has heads; layers of other kinds have shapes of their own.
    ``residual_passes``: how often a norm and the residual beside it read or write a hidden state; more than 4 where the
    residual stream is several states wide (DeepSeek-V4's hyper-connections, Kimi-K3's attention residuals).

    ``encoder_layers`` are stored beside the decoder of an encoder-decoder model (T5); decoding never reads them.
    ``mtp``: layers that predict further tokens, a draft of the model's own, which no plain step runs and no count has.
    ``active_excludes_embedding`` says how the publisher counted ``params_active_published``; ``weight_dtype`` is the
    format in which the weights are published, experts' after a slash.
    """

    name: str
    title: str
    hidden_size: int
    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    layer_groups: tuple[LayerGroup, ...]
    mlp: Mlp | None
    moe: Moe | None
    mla: Mla | None
    vocab_size: int
    tied_embeddings: bool
    parallel_block: bool = False
    learned_positions: int = 0
    cross_attention: bool = False
    encoder_layers: int = 0
    residual_passes: float = 4.0  # in and out of the norm and of the addition after it
    max_context: int | None = None
    weight_dtype: str | None = None
    params_published: float | None = None
    params_active_published: float | None = None
    active_excludes_embedding: bool = False
    pretraining_tokens: float | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()
    file: str | None = None
    mtp: LayerGroup | None = None
    layer_input: LayerInput | None = None

    @cached_property
    def n_layers(self) -> int:
        """Decoder layers of all kinds together."""
        return sum(group.count for group in self.layer_groups)

    @cached_property
    def shape(self) -> LayerShape:
        """The attention that layouts are named after: of the first kind of layer that has heads to group."""
        shapes = [group.shape for group in self.layer_groups if group.shape is not None and group.attends]
        grouped = [shape for shape in shapes if shape.state is None]
        own = LayerShape(name=self.name, hidden_size=self.hidden_size, n_q_heads=self.n_q_heads,
                         n_kv_heads=self.n_kv_heads, head_dim=self.head_dim, mla=self.mla,
                         cross_attention=self.cross_attention)
        return own if len(shapes) < len(self.attending_groups) or not grouped else grouped[0]

    @cached_property
    def attending_groups(self) -> tuple[LayerGroup, ...]:
        """Layers that have attention or a state."""
        return tuple(group for group in self.layer_groups if group.attends)


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Stored parameters, and those that one token's forward pass uses.

    ``looked_up`` of the active ones are an input embedding of its own (0 when tied to the LM head): a token
    reads one row of it and multiplies by nothing. Publishers count it (Mixtral, Qwen) or not (DeepSeek, gpt-oss).
    """

    total: int
    active: int
    looked_up: int = 0

    @cached_property
    def active_without_embedding(self) -> int:
        """Parameters that one token's forward pass multiplies by."""
        return self.active - self.looked_up


@lru_cache(maxsize=1024)
def attention_parameters(model: ModelArchitecture, layout: AttentionLayout) -> int:
    r"""Weights of one attention block: :math:`D (n_q + 2 n_{kv}) d + n_q d D`, or what the layout's kind projects."""
    matrices = {"query": layout.n_q_heads, "attended": layout.n_q_heads, "kv": layout.n_kv_heads, "one": 1}
    own = sum((p.groups if p.heads == "group" else matrices[p.heads]) * p.rows * p.columns for p in layout.projections)
    return own * 2 if model.cross_attention else own


def group_layout(model: ModelArchitecture, layout: AttentionLayout, group: LayerGroup) -> AttentionLayout:
    """What a layout of the model means on one kind of layer: its heads there, or what those layers have instead.

    Where K of ``gqa-K`` does not divide the query heads of these layers, they are grouped as closely as the others.
    """
    if group.shape is None or group.shape is model.shape:
        return layout
    kind, dash, number = layout.name.rpartition("-")
    if dash and number.isdecimal() and group.shape.n_q_heads % int(number):
        return layer_layout(f"{kind}-{int(number) * group.shape.n_q_heads // model.shape.n_q_heads}", group.shape)
    return layer_layout(layout.name, group.shape)


@lru_cache(maxsize=1024)
def mlp_parameters(model: ModelArchitecture, group: LayerGroup) -> ParameterCount:
    """Weights of one layer's MLP or mixture of experts, router included, and of a layer's own input.

    Rows of the input's table are looked up, as publishers' effective parameters have it: none of them is active.
    """
    moe, of_layer = model.moe, model.layer_input
    if not group.feeds:
        return ParameterCount(total=0, active=0)
    if not group.moe or moe is None:
        own = model.mlp.matrices * model.hidden_size * (group.mlp_size or model.mlp.size) if model.mlp else 0
        own += 0 if of_layer is None else of_layer.layer_elements(model.hidden_size)
        return ParameterCount(total=own + (of_layer.vocab_size * of_layer.size if of_layer else 0), active=own)
    expert = moe.matrices * (moe.latent_size or model.hidden_size) * moe.expert_size
    always = (moe.matrices * model.hidden_size * moe.shared_size + model.hidden_size * moe.experts
              + 2 * model.hidden_size * (moe.latent_size or 0))
    return ParameterCount(total=moe.experts * expert + always, active=moe.top_k * expert + always)


def routed_elements(model: ModelArchitecture) -> int:
    """Weights of all routed experts, or of the MLPs of a model without any, which may have a format of their own."""
    moe = model.moe
    feeding = [group for group in model.layer_groups if group.moe == (moe is not None) and group.feeds]
    if moe is None:
        return 0 if (mlp := model.mlp) is None else mlp.matrices * model.hidden_size * sum(
            group.count * (group.mlp_size or mlp.size) for group in feeding)
    expert = moe.matrices * (moe.latent_size or model.hidden_size) * moe.expert_size
    return sum(group.count for group in feeding) * moe.experts * expert


@lru_cache(maxsize=1024)
def encoder_parameters(model: ModelArchitecture) -> int:
    r"""Weights of the encoder layers, :math:`L_e (4 D n_q d + m D F)` with m = 3 matrices when gated, else 2.

    Encoders keep one KV head per query head under every layout: the GQA paper groups the decoder only
    (Ainslie et al. 2023, section 3.1), for an encoder computes all tokens at once and is not bound by its cache.
    """
    if not model.encoder_layers or model.mlp is None:
        return 0
    attention = 4 * model.hidden_size * model.n_q_heads * model.head_dim
    return model.encoder_layers * (attention + model.mlp.matrices * model.hidden_size * model.mlp.size)


@lru_cache(maxsize=1024)
def count_parameters(model: ModelArchitecture, layout: AttentionLayout) -> ParameterCount:
    """Parameters of the whole model under a layout: embedding, layers, LM head (once when tied), encoder.

    The encoder of an encoder-decoder model is in the total and not in the active ones: decoding does not use it.
    """
    embedding = model.vocab_size * model.hidden_size
    ends = embedding * (1 if model.tied_embeddings else 2) + model.learned_positions * model.hidden_size
    if model.layer_input is not None:
        ends += model.layer_input.stream_matrices * model.hidden_size**2
    total = active = ends
    for group in model.layer_groups:
        mlp = mlp_parameters(model, group)
        attention = attention_parameters(model, group_layout(model, layout, group)) if group.attends else 0
        total += group.count * (attention + mlp.total)
        active += group.count * (attention + mlp.active)
    return ParameterCount(total=total + encoder_parameters(model), active=active,
                          looked_up=0 if model.tied_embeddings else embedding)
