"""What a kind needs to know of a model's layer: its widths, and the attention that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from simkit.foundation.validation import Flag, Number, WholeNumber

Heads = Annotated[int, WholeNumber(1, 4096)]
Rank = Annotated[int, WholeNumber(1, 100_000)]
Window = Annotated[int, WholeNumber(1, 100_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Multi-head latent attention.

    DeepSeek-V2, arXiv 2405.04434, section 2.1. ``d_c`` is ``kv_lora_rank``, ``d_r`` is ``rope_head_dim``: a token's
    cache entry is ``d_c + d_r`` elements, shared by all query heads.
    """

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

    @property
    def latent_dim(self) -> int:
        """Cached elements per token and layer, ``d_c + d_r``."""
        return self.kv_lora_rank + self.rope_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    r"""What chooses the entries that a query reads.

    For every entry ``s`` a score (DeepSeek-V3.2, section 2.1):

    .. math:: I_s = \sum_h w_h \,\mathrm{ReLU}(q_h \cdot k_s), \qquad h = 1 \ldots heads

    with one cached key ``k_s`` of ``dim`` elements; the ``top_k`` best blocks of ``block`` entries are read. Layers
    share a choice in GLM-5.2; each KV head's query heads choose for themselves in MiniMax-M3, with ``heads`` index
    heads dealt out as the KV heads are.
    """

    heads: Heads
    """Index query heads."""
    dim: Heads
    """Elements of an index key."""
    top_k: Window
    """Blocks that a query reads."""
    block: Window = 1
    """Entries of a block."""
    shared: Flag = False
    """true: the layer takes the choice of an earlier one and has no index of its own."""
    weighted: Flag = True
    """false: index heads have no weights of their own."""
    by_kv_head: Flag = False
    """true: each KV head's query heads choose for themselves."""
    key_bytes: Annotated[Number, Field(gt=0, le=8)] | None = 132 / 128  # fp8 and an fp32 scale for 128 (DeepSeek-V3.2)
    """Bytes of an element of a key, scales included; null: in the cache's format."""

    @property
    def most_entries(self) -> int:
        """Entries that one query reads at most."""
        return self.top_k * self.block


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """One cached entry for several tokens.

    The newest ``window`` tokens are kept beside them (DeepSeek-V4: CSA, HCA). Projections of entries that ``overlap``
    are twice as wide. Where an index chooses ``among_tokens``, entries and window are branches beside it with keys and
    values of their own, and the entries' scores choose the blocks (NSA, arXiv 2502.11089, section 3.3).
    """

    ratio: Annotated[int, WholeNumber(2, 1_000_000)]
    """Tokens of an entry."""
    window: Window
    """Newest tokens that are kept one by one beside them."""
    overlap: Flag = False
    """true: an entry mixes its tokens with those of the entry before it."""
    among_tokens: Flag = False
    """true: the index chooses among the tokens themselves, and all compressed entries are read beside them (NSA)."""

    def entries(self, context_tokens: Any) -> Any:
        """Whole groups of ``ratio`` tokens: what has not filled a group yet is in the window."""
        return np.floor(np.asarray(context_tokens) / self.ratio)

    def recent(self, context_tokens: Any) -> Any:
        """Tokens that are kept one by one."""
        return np.minimum(context_tokens, self.window)


StateKind = Literal["gated-delta", "kda", "lightning", "mamba-2", "short-conv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A recurrence in place of a cache.

    ``value_heads`` matrices of ``key_dim`` x ``value_dim`` a sequence; a short-conv has none, but the inputs of its
    convolution of all values. Without ``gate_rank`` the output's gate is one
    matrix, without ``decay_rank`` the decay a number a head.
    """

    kind: StateKind
    """Rule by which a token changes the state."""
    key_heads: Heads
    """Heads of queries and keys (groups of mamba-2)."""
    key_dim: Heads
    """Elements of a key (mamba-2's state size)."""
    value_heads: Heads
    """Heads of values, each with a state."""
    value_dim: Heads
    """Elements of a value."""
    conv_width: Annotated[int, WholeNumber(0, 64)]
    """Taps of the short convolution before it; 0: none."""
    decay_rank: Rank | None = None
    """Width through which the decay of every key element is projected."""
    gate_rank: Rank | None = None
    """Width through which the output's gate is projected."""
    state_bytes: Annotated[int, WholeNumber(1, 8)] = 4  # fp32, as the published kernels keep it
    """Bytes of an element of the state."""

    @property
    def has_keys(self) -> bool:
        """Whether there is a state, and not a convolution alone (LFM2)."""
        return self.kind != "short-conv"

    @property
    def takes_back(self) -> bool:
        """A delta rule: what the state says of a key is taken back before the value is written."""
        return self.kind in ("gated-delta", "kda")

    @property
    def flops_per_element(self) -> int:
        """Flops of a token for each element: decay 1, outer product 2, query 2, and 2 for what is taken back."""
        return 7 if self.takes_back else 5


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Attention of one kind of layer as trained; ``name`` is the model's, for messages.

    ``value_dim`` None: as wide as keys. ``tied_values``: the key is the value too (Gemma 4's global layers,
    DeepSeek-V4). ``gate_dim``: columns a query head of a gate on attention's output. ``query_rank``: width through
    which queries are projected. ``output_groups`` groups of heads are projected to ``output_rank`` each before the
    output. ``kept`` False: the layer reads what an earlier one has stored, and stores nothing.
    """

    name: str
    hidden_size: int
    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    mla: Mla | None = None
    value_dim: int | None = None
    tied_values: bool = False
    gate_dim: int = 0
    query_rank: int | None = None
    output_groups: int = 0
    output_rank: int = 0
    kept: bool = True
    indexer: Indexer | None = None
    compression: Compression | None = None
    state: State | None = None
    cross_attention: bool = False
