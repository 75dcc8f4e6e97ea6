"""What a kind needs to know of a model: its widths, and those of the attention that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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


class ModelShape(Protocol):
    """The part of a model architecture from which a kind derives its layout."""

    @property
    def name(self) -> str:
        """As in messages."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def n_q_heads(self) -> int:
        """Query heads."""

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads as trained."""

    @property
    def head_dim(self) -> int:
        """Elements of a head."""

    @property
    def mla(self) -> Mla | None:
        """Widths of latent attention, where the model was trained with it."""
