r"""Group-query latent attention (GQLA; Meng 2026, arXiv 2605.15250).

``gqla-K``: MLA whose up-projections are those of ``K`` groups and not of each query head, so that one set of weights
decodes in two ways. Here the one that MLA has not: each group's key and value are made of a token's latent of
:math:`4 d` once, kept, and divided over chips, beside one rotary key of :math:`d/2`:

.. math:: elements = 2 K d + d/2 \quad\text{a token}

The other keeps the latent of :math:`4 d + d/2` and absorbs the up-projections: ``mla`` of a model that has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Final

from simkit.model.kinds.base import CacheRole, Core, Feature, Projection, StoredArray, every_token
from simkit.model.kinds.half_rotary import HalfRotary
from simkit.model.kinds.projections import output_projections, query_projections

LATENT_HEADS: Final = 4
"""Width of the latent over that of a head: 512 for heads of 128, as DeepSeek-V2 and the paper's Llama 3 8B have it."""
_ROLES: Final[tuple[CacheRole, ...]] = ("key", "value")


@dataclass(frozen=True, kw_only=True)
class GroupQueryLatent(HalfRotary):
    """``n_kv_heads`` keys and values of ``head_dim``, made of one latent, and one rotary half key."""

    kind: ClassVar = "gqla"
    forms: ClassVar = ("gqla-K",)
    array_name: ClassVar = "key"
    words: ClassVar = ("", "part", "groups")

    @property
    def array_dim(self) -> int:
        return self.head_dim

    @cached_property
    def own_arrays(self) -> tuple[StoredArray, ...]:
        key, value = (StoredArray(name=role, elements=self.head_dim, role=role, shared=False, stored_tokens=every_token)
                      for role in _ROLES)
        return key, value, replace(key, name="rotary", elements=self.rotary_dim, shared=True)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, d, rank = self.hidden_size, self.head_dim, LATENT_HEADS * self.head_dim
        return (
            *query_projections(wide, self.query_rank, d + self.rotary_dim),
            Projection(name="kv_down", rows=wide, columns=rank, heads="one", product="kv_down_projection"),
            Projection(name="rotary", rows=wide, columns=self.rotary_dim, heads="one", product="kv_down_projection",
                       makes="rotary"),
            *(Projection(name=f"{name}_up", rows=rank, columns=d, heads="kv", product="kv_up_projection", makes=name)
              for name in _ROLES),
            *self.span_projections(self.own_arrays, self.query_rank),
            *output_projections(wide, d))

    @cached_property
    def core(self) -> Core:
        return Core(key_dim=self.head_dim + self.rotary_dim, value_dim=self.head_dim, shared_keys=True,
                    latent_kernel=False, expansion=None)

    @cached_property
    def refuses(self) -> dict[Feature, str]:
        return {feature: why for feature, why in super().refuses.items() if feature != "separate formats"}
