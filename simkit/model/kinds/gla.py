r"""Grouped latent attention (GLA; Zadouri, Strauss, Dao 2025, arXiv 2505.21487).

``gla-K``: ``K`` latent heads of :math:`2 d` elements, each key and value of its own :math:`n_q / K` query heads, and
one decoupled rotary key of :math:`d/2` for all of them (GLA-2 keeps MLA's :math:`d_c = 4 d` in two latents):

.. math:: elements = 2 K d + d/2 \quad\text{a token}

Unlike MLA's one latent these divide over ``K`` chips; the rotary key does not. Queries are compressed to :math:`8 d`,
as in the authors' model code (github.com/Dao-AILab/grouped-latent-attention), or as a model trained with MLA does.
Up-projections are absorbed into queries and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

from simkit.model.kinds.base import Core, Expansion, Projection
from simkit.model.kinds.half_rotary import HalfRotary
from simkit.model.kinds.projections import query_projections, up_projections

LATENT_HEADS: Final = 2
"""Width of a latent head over that of a query head, as the paper's GLA-2 has it."""


@dataclass(frozen=True, kw_only=True)
class GroupedLatent(HalfRotary):
    """``n_kv_heads`` latents for query heads of ``head_dim``."""

    kind: ClassVar = "gla"
    forms: ClassVar = ("gla-K",)
    array_name: ClassVar = "latent"
    words: ClassVar = ("latents that are", "part", "latent heads")

    @property
    def array_dim(self) -> int:
        return LATENT_HEADS * self.head_dim

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, d = self.hidden_size, self.head_dim
        return (
            *query_projections(wide, self.query_rank, d + self.rotary_dim),
            Projection(name="kv_down", rows=wide, columns=self.array_dim, heads="kv", product="kv_down_projection",
                       makes="latent"),
            Projection(name="rotary", rows=wide, columns=self.rotary_dim, heads="one", product="kv_down_projection",
                       makes="rotary"),
            *self.span_projections(self.own_arrays, self.query_rank),
            *up_projections(self.array_dim, d, d, absorbed=True),
            Projection(name="output", rows=d, columns=wide, heads="query", joined="rows",
                       product="output_projection", after_core=True),
        )

    @cached_property
    def core(self) -> Core:
        return Core(key_dim=self.array_dim + self.rotary_dim, value_dim=self.array_dim, shared_keys=True,
                    latent_kernel=True, expansion=None)

    @cached_property
    def prefill_core(self) -> Core:
        """Prompts are long: each query head's key and value are made from its latent, as in training."""
        d = self.head_dim
        return Core(key_dim=d + self.rotary_dim, value_dim=d, shared_keys=False, latent_kernel=True,
                    expansion=Expansion(rank=self.array_dim, columns=2 * d))
