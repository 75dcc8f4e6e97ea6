r"""Grouped-tied attention (GTA; Zadouri, Strauss, Dao 2025, arXiv 2505.21487).

``gta-K``: each of ``K`` KV heads keeps one state of ``d`` elements that is its value, and whose first half is the half
of its key without positions; the other half, with rotary embedding, is one key of :math:`d/2` for all heads:

.. math:: elements = K d + d/2 \quad\text{a token, where GQA-K keeps}\; 2 K d

The shared half divides over no heads: chips that divide the heads keep a copy each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final, Self

from simkit.foundation.errors import UserError
from simkit.model.kinds.base import (
    AttentionLayout,
    Core,
    Feature,
    Projection,
    Read,
    StoredArray,
    Writes,
    every_token,
    heads_that_divide,
)
from simkit.model.kinds.widths import LayerShape

_NAME: Final = re.compile(r"gta-(\d{1,6})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class GroupedTied(AttentionLayout):
    """``n_kv_heads`` tied states of ``head_dim`` and one rotary half key."""

    kind: ClassVar = "gta"
    forms: ClassVar = ("gta-K",)

    head_dim: int

    @classmethod
    def spells(cls, name: str) -> bool:
        return _NAME.fullmatch(name) is not None

    @classmethod
    def of_model(cls, name: str, model: LayerShape) -> Self:
        if model.head_dim % 2:
            raise UserError(f"{name}: half a key is rotary, and {model.name} has heads of {model.head_dim} elements")
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads,
                   n_kv_heads=heads_that_divide(name, model), head_dim=model.head_dim, indexer=model.indexer,
                   compression=model.compression, kept=model.kept)

    @classmethod
    def as_trained(cls, name: str, model: LayerShape) -> Self | None:
        del name, model  # no architecture file names it yet
        return None

    @property
    def label(self) -> str:
        return f"gta-{self.n_kv_heads}"

    @property
    def _rotary_dim(self) -> int:
        return self.head_dim // 2

    @cached_property
    def _own(self) -> tuple[StoredArray, ...]:
        return (StoredArray(name="tied", elements=self.head_dim, role="latent", shared=False,
                            stored_tokens=every_token),
                StoredArray(name="rotary", elements=self._rotary_dim, role="key", shared=True,
                            stored_tokens=every_token))

    @cached_property
    def arrays(self) -> tuple[StoredArray, ...]:
        return self.spanned(self._own)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        return self.spanned_reads()

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, d = self.hidden_size, self.head_dim
        return (
            Projection(name="query", rows=wide, columns=d, heads="query", product="qkv_projection"),
            Projection(name="tied", rows=wide, columns=d, heads="kv", product="qkv_projection", makes="tied"),
            Projection(name="rotary", rows=wide, columns=self._rotary_dim, heads="one", product="qkv_projection",
                       makes="rotary"),
            *self.span_projections(self._own, None),
            Projection(name="output", rows=d, columns=wide, heads="query", joined="rows",
                       product="output_projection", after_core=True),
        )

    @cached_property
    def core(self) -> Core:
        return Core(key_dim=self.head_dim, value_dim=self.head_dim, shared_keys=True, latent_kernel=False,
                    expansion=None)

    @cached_property
    def prefill_core(self) -> Core:
        return self.core

    @cached_property
    def writes(self) -> Writes:
        return Writes(appended=self.arrays if self.kept else (),
                      rotary_per_query_head=self._rotary_dim, rotary_per_kv_head=0,
                      rotary_shared=self._rotary_dim)

    @cached_property
    def refuses(self) -> Mapping[Feature, str]:
        why: dict[Feature, str] = self.span_refuses | {
            "separate formats": "caches one state that is both key and value",
            "cross-attention": "has cross-attention, whose keys carry no rotary half"}
        if self.n_kv_heads > 1:
            why["eviction by score"] = "shares a rotary key among KV heads, which would keep different tokens"
        return why
