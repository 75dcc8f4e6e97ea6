"""What GTA, GLA and GQLA share: arrays that heads divide, and one rotary half key."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final, Self

from simkit.foundation.errors import UserError
from simkit.model.kinds.base import Cached, Feature, StoredArray, every_token, heads_that_divide, spans_of
from simkit.model.kinds.widths import LayerShape

QUERY_RANK_HEADS: Final = 8
"""Width of the compressed query over that of a query head (modeling_llama_GLA.py)."""


@dataclass(frozen=True, kw_only=True)
class HalfRotary(Cached):
    """``kind-K``: ``K`` arrays of ``array_name`` and one rotary half key of ``head_dim / 2`` for all heads."""

    array_name: ClassVar[str]
    words: ClassVar[tuple[str, str, str]]
    """For messages: what is key and value in one, what of keys is rotary, and the heads that share it."""

    compresses_queries: ClassVar = True

    head_dim: int
    query_rank: int | None = None

    @classmethod
    def of_model(cls, name: str, model: LayerShape) -> Self:
        if model.head_dim % 2:
            raise UserError(f"{name}: half a key is rotary, and {model.name} has heads of {model.head_dim} elements")
        rank = QUERY_RANK_HEADS * model.head_dim if model.mla is None else model.mla.q_lora_rank
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads,
                   n_kv_heads=heads_that_divide(name, model), head_dim=model.head_dim,
                   query_rank=rank if cls.compresses_queries else None, **spans_of(model))

    @classmethod
    def spells(cls, name: str) -> bool:
        return re.fullmatch(rf"{cls.kind}-\d{{1,6}}", name, re.ASCII) is not None

    @classmethod
    def as_trained(cls, name: str, model: LayerShape) -> Self | None:
        del name, model
        return None  # no architecture file names such a kind yet

    @property
    def label(self) -> str:
        return f"{self.kind}-{self.n_kv_heads}"

    @property
    @abstractmethod
    def array_dim(self) -> int:
        """Elements of each of the arrays."""

    @property
    def rotary_dim(self) -> int:
        """Elements of the half key."""
        return self.head_dim // 2

    @property
    def rotary(self) -> tuple[int, int, int]:
        return self.rotary_dim, 0, self.rotary_dim

    @cached_property
    def own_arrays(self) -> tuple[StoredArray, ...]:
        """Each head's array and the half key, which divides over no heads."""
        return (StoredArray(name=self.array_name, elements=self.array_dim, role="latent", shared=False,
                            stored_tokens=every_token),
                StoredArray(name="rotary", elements=self.rotary_dim, role="key", shared=True,
                            stored_tokens=every_token))

    @cached_property
    def refuses(self) -> dict[Feature, str]:
        """Formats apart, encoders, and scores by head where heads share the half key."""
        both, rotary, heads = self.words
        why: dict[Feature, str] = self.span_refuses | {
            "separate formats": f"caches {both} both key and value",
            "cross-attention": f"has cross-attention, whose keys carry no rotary {rotary}"}
        if self.n_kv_heads > 1:
            why["eviction by score"] = f"shares a rotary key among {heads}, which would keep different tokens"
        return why
