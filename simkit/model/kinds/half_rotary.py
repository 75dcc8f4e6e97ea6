"""What grouped-tied and grouped latent attention share: arrays that heads divide, and one rotary half key."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from simkit.model.kinds.base import Cached, Feature, StoredArray, every_token
from simkit.model.kinds.widths import LayerShape


@dataclass(frozen=True, kw_only=True)
class HalfRotary(Cached):
    """``kind-K``: ``K`` arrays of ``array_name`` and one rotary half key of ``head_dim / 2`` for all heads."""

    array_name: ClassVar[str]
    words: ClassVar[tuple[str, str, str]]
    """For messages: what is key and value in one, what of keys is rotary, and the heads that share it."""

    head_dim: int

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
