"""What a kind needs to know of a model's layer: its widths, and the attention that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    ``d_c`` is ``kv_lora_rank``, ``d_r`` is ``rope_head_dim``: a token's cache entry is ``d_c + d_r`` elements,
    shared by all query heads.
    """

    kv_lora_rank: int
    rope_head_dim: int
    nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None

    @property
    def latent_dim(self) -> int:
        """Cached elements per token and layer, ``d_c + d_r``."""
        return self.kv_lora_rank + self.rope_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    r"""What chooses the entries that a query reads (DeepSeek-V3.2, section 2.1): for every entry ``s`` a score

    .. math:: I_s = \sum_h w_h \,\mathrm{ReLU}(q_h \cdot k_s), \qquad h = 1 \ldots heads

    with one cached key ``k_s`` of ``dim`` elements. The ``top_k`` best blocks of ``block`` entries are read. Keys are
    kept in 8 bits with an fp32 scale for every 128 elements, whatever the cache's format (``key_bytes`` None: in it).

    ``shared``: the layer takes the choice of an earlier one, so it has no index of its own (GLM-5.2). ``weighted``:
    each index head has a weight that the token gives it. ``by_kv_head``: each KV head's query heads choose for
    themselves (MiniMax-M3), with ``heads`` index heads dealt out as the KV heads are.
    """

    heads: int
    dim: int
    top_k: int
    block: int = 1
    shared: bool = False
    weighted: bool = True
    by_kv_head: bool = False
    key_bytes: float | None = 132 / 128  # 128 elements of fp8 and one scale in fp32 (DeepSeek-V3.2)

    @property
    def most_entries(self) -> int:
        """Entries that one query reads at most."""
        return self.top_k * self.block


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """One cached entry for every ``ratio`` tokens, and the newest ``window`` tokens (DeepSeek-V4: CSA, HCA).

    ``overlap``: an entry mixes its own tokens with those of the entry before it, so its projections are twice as wide.
    """

    ratio: int
    window: int
    overlap: bool = False

    def entries(self, context_tokens: Any) -> Any:
        """Whole groups of ``ratio`` tokens: what has not filled a group yet is in the window."""
        return np.floor(np.asarray(context_tokens) / self.ratio)

    def recent(self, context_tokens: Any) -> Any:
        """Tokens that are kept one by one."""
        return np.minimum(context_tokens, self.window)


StateKind = Literal["gated-delta", "kda", "lightning", "mamba-2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A recurrence in place of a cache: ``value_heads`` matrices of ``key_dim`` x ``value_dim`` a sequence.

    Queries and keys have ``key_heads`` heads (mamba-2's groups, whose ``key_dim`` is its state size). ``conv_width``:
    of the short convolution over queries, keys and values, 0 for none. ``decay_rank`` and ``gate_rank``: width through
    which the decay and the output gate are projected; None: the gate in one matrix, the decay as a number a head.
    """

    kind: StateKind
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    conv_width: int
    decay_rank: int | None = None
    gate_rank: int | None = None
    state_bytes: int = 4  # fp32, as the published kernels keep it

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
