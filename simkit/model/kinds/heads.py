r"""Key/value heads: multi-head (MHA), grouped-query (GQA) and multi-query attention (MQA).

A token's cache entry is a key and a value of ``d`` elements for each of ``n_kv`` heads, and ``n_q / n_kv`` query heads
share one (Shazeer 2019, arXiv 1911.02150; Ainslie et al. 2023, arXiv 2305.13245).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final, Self

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
    read_in_full,
)
from simkit.model.kinds.widths import ModelShape

_GQA: Final = re.compile(r"gqa-(\d{1,6})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Heads(AttentionLayout):
    """``n_kv_heads`` keys and values of ``head_dim``."""

    kind: ClassVar = "heads"
    forms: ClassVar = ("mha", "gqa-K", "mqa")

    head_dim: int

    @classmethod
    def spells(cls, name: str) -> bool:
        return name in ("mha", "mqa") or _GQA.fullmatch(name) is not None

    @classmethod
    def of_model(cls, name: str, model: ModelShape) -> Self:
        all_or_one = {"mha": model.n_q_heads, "mqa": 1}
        return cls._of_heads(name, model, all_or_one.get(name) or heads_that_divide(name, model))

    @classmethod
    def as_trained(cls, name: str, model: ModelShape) -> Self | None:
        return cls._of_heads(name, model, model.n_kv_heads) if model.mla is None else None

    @classmethod
    def _of_heads(cls, name: str, model: ModelShape, n_kv_heads: int) -> Self:
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads, n_kv_heads=n_kv_heads,
                   head_dim=model.head_dim)

    @property
    def label(self) -> str:
        if self.n_kv_heads == self.n_q_heads:
            return "mha"
        return "mqa" if self.n_kv_heads == 1 else f"gqa-{self.n_kv_heads}"

    @cached_property
    def arrays(self) -> tuple[StoredArray, ...]:
        return (StoredArray(name="key", elements=self.head_dim, role="key", shared=False, stored_tokens=every_token),
                StoredArray(name="value", elements=self.head_dim, role="value", shared=False,
                            stored_tokens=every_token))

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        return read_in_full(self.arrays)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, d = self.hidden_size, self.head_dim
        return (
            Projection(name="query", rows=wide, columns=d, heads="query", product="qkv_projection"),
            Projection(name="key", rows=wide, columns=d, heads="kv", product="qkv_projection", makes="key"),
            Projection(name="value", rows=wide, columns=d, heads="kv", product="qkv_projection", makes="value"),
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
        return Writes(appended=self.arrays, rotary_per_query_head=self.head_dim, rotary_per_kv_head=self.head_dim,
                      rotary_shared=0)

    @cached_property
    def refuses(self) -> Mapping[Feature, str]:
        return {}
