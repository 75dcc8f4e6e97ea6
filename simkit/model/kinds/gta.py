r"""Grouped-tied attention (GTA; Zadouri, Strauss, Dao 2025, arXiv 2505.21487).

``gta-K``: each of ``K`` KV heads keeps one state of ``d`` elements that is its value, and whose first half is the half
of its key without positions; the other half, with rotary embedding, is one key of :math:`d/2` for all heads:

.. math:: elements = K d + d/2 \quad\text{a token, where GQA-K keeps}\; 2 K d

The shared half divides over no heads: chips that divide the heads keep a copy each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from simkit.model.kinds.base import Core, Projection
from simkit.model.kinds.half_rotary import HalfRotary


@dataclass(frozen=True, kw_only=True)
class GroupedTied(HalfRotary):
    """``n_kv_heads`` tied states of ``head_dim`` and one rotary half key."""

    kind: ClassVar = "gta"
    forms: ClassVar = ("gta-K",)
    array_name: ClassVar = "tied"
    words: ClassVar = ("one state that is", "half", "KV heads")
    compresses_queries: ClassVar = False

    @property
    def array_dim(self) -> int:
        return self.head_dim

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, d = self.hidden_size, self.head_dim
        return (
            Projection(name="query", rows=wide, columns=d, heads="query", product="qkv_projection"),
            Projection(name="tied", rows=wide, columns=d, heads="kv", product="qkv_projection", makes="tied"),
            Projection(name="rotary", rows=wide, columns=self.rotary_dim, heads="one", product="qkv_projection",
                       makes="rotary"),
            *self.span_projections(self.own_arrays, None),
            Projection(name="output", rows=d, columns=wide, heads="query", joined="rows",
                       product="output_projection", after_core=True),
        )

    @cached_property
    def core(self) -> Core:
        return Core(key_dim=self.head_dim, value_dim=self.head_dim, shared_keys=True, latent_kernel=False,
                    expansion=None)
