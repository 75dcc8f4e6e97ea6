"""The shape of a transformer decoder: dimensions, layer kinds, MLP or MoE."""

from __future__ import annotations

from dataclasses import dataclass

from simkit.model.kinds.widths import Mla


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """A feed-forward block of width ``size``; gated ones (SwiGLU) have three matrices, others two."""

    size: int
    gated: bool

    @property
    def matrices(self) -> int:
        """Weight matrices of one block: up, down and, when gated, the gate."""
        return 3 if self.gated else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """A mixture of ``experts`` experts of which each token uses ``top_k``, plus shared experts that all use."""

    experts: int
    top_k: int
    expert_size: int
    shared_size: int
    gated: bool

    @property
    def matrices(self) -> int:
        """Weight matrices of one block: up, down and, when gated, the gate."""
        return 3 if self.gated else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """``count`` layers that are alike: the same attention window (None: the whole context) and MLP kind.

    ``budget`` scales an eviction rule's kept tokens on these layers.
    """

    count: int
    window: int | None
    moe: bool
    budget: float = 1.0

    def with_budget(self, budget: float, count: int) -> LayerGroup:
        """``count`` of these layers with another eviction budget."""
        return LayerGroup(count=count, window=self.window, moe=self.moe, budget=budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArchitecture:
    """One decoder. ``n_q_heads`` query heads of ``head_dim`` share ``n_kv_heads`` key/value heads as trained.

    ``encoder_layers`` are stored beside the decoder of an encoder-decoder model (T5); decoding never reads them.
    ``active_excludes_embedding`` says how the publisher counted ``params_active_published``.
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
    max_context: int | None = None
    params_published: float | None = None
    params_active_published: float | None = None
    active_excludes_embedding: bool = False
    pretraining_tokens: float | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()
    file: str | None = None

    @property
    def n_layers(self) -> int:
        """Decoder layers of all kinds together."""
        return sum(group.count for group in self.layer_groups)
