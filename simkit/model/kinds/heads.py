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
    Cached,
    Core,
    Feature,
    Projection,
    StoredArray,
    every_token,
    heads_that_divide,
    spans_of,
)
from simkit.model.kinds.projections import output_projections, query_projections
from simkit.model.kinds.widths import LayerShape

_GQA: Final = re.compile(r"gqa-(\d{1,6})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Heads(Cached):
    """``n_kv_heads`` keys of ``head_dim`` and values of ``value_dim``; ``tied``: the key is the value too."""

    kind: ClassVar = "heads"
    forms: ClassVar = ("mha", "gqa-K", "mqa")

    head_dim: int
    value_dim: int | None = None
    tied: bool = False
    gate_dim: int = 0
    query_rank: int | None = None
    output_groups: int = 0
    output_rank: int = 0

    @classmethod
    def spells(cls, name: str) -> bool:
        return name in ("mha", "mqa") or _GQA.fullmatch(name) is not None

    @classmethod
    def of_model(cls, name: str, model: LayerShape) -> Self:
        all_or_one = {"mha": model.n_q_heads, "mqa": 1}
        return cls._of_heads(name, model, all_or_one.get(name) or heads_that_divide(name, model))

    @classmethod
    def as_trained(cls, name: str, model: LayerShape) -> Self | None:
        return cls._of_heads(name, model, model.n_kv_heads) if model.mla is None and model.state is None else None

    @classmethod
    def _of_heads(cls, name: str, model: LayerShape, n_kv_heads: int) -> Self:
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads, n_kv_heads=n_kv_heads,
                   head_dim=model.head_dim, value_dim=model.value_dim, tied=model.tied_values,
                   gate_dim=model.gate_dim, query_rank=model.query_rank, output_groups=model.output_groups,
                   output_rank=model.output_rank, **spans_of(model))

    @property
    def label(self) -> str:
        if self.n_kv_heads == self.n_q_heads:
            return "mha"
        return "mqa" if self.n_kv_heads == 1 else f"gqa-{self.n_kv_heads}"

    @property
    def _value_width(self) -> int:
        return self.value_dim or self.head_dim

    @cached_property
    def own_arrays(self) -> tuple[StoredArray, ...]:
        key = StoredArray(name="key", elements=self.head_dim, role="latent" if self.tied else "key", shared=False,
                          stored_tokens=every_token)
        value = StoredArray(name="value", elements=self._value_width, role="value", shared=False,
                            stored_tokens=every_token)
        return (key,) if self.tied else (key, value)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, own = self.hidden_size, tuple(
            Projection(name=array.name, rows=self.hidden_size, columns=int(array.elements), heads="kv",
                       product="qkv_projection", makes=array.name) for array in self.own_arrays if self.kept)
        queries = (Projection(name="query", rows=wide, columns=self.head_dim, heads="query",
                              product="qkv_projection"),) if self.query_rank is None else query_projections(
                                  wide, self.query_rank, self.head_dim)
        return (*queries, *own, *self.span_projections(self.own_arrays, self.query_rank),
                *output_projections(wide, self._value_width, self.gate_dim, self.output_groups,
                                    self.output_rank, self.n_q_heads))

    @cached_property
    def core(self) -> Core:
        return Core(key_dim=self.head_dim, value_dim=self._value_width, shared_keys=True, latent_kernel=False,
                    expansion=None)

    @property
    def rotary(self) -> tuple[int, int, int]:
        return self.head_dim, self.head_dim if self.kept else 0, 0

    @cached_property
    def refuses(self) -> Mapping[Feature, str]:
        tied: dict[Feature, str] = {"separate formats": "caches one vector that is both key and value"}
        return self.span_refuses | (tied if self.tied else {})
