r"""Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1 and appendix C).

A token's cache entry is one latent of :math:`d_c + d_r` elements that is key and value of every query head. ``mla``
multiplies queries and outputs by the up-projections (absorbed), ``mla-expanded`` multiplies every cached latent up to
full keys and values in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from simkit.foundation.errors import UserError
from simkit.model.kinds.base import (
    AttentionLayout,
    Core,
    Expansion,
    Feature,
    Projection,
    Read,
    StoredArray,
    Writes,
    every_token,
    read_in_full,
)
from simkit.model.kinds.widths import Mla, ModelShape


@dataclass(frozen=True, kw_only=True)
class Latent(AttentionLayout):
    """One latent of ``widths.latent_dim`` for all query heads, ``absorbed`` or expanded."""

    kind: ClassVar = "mla"
    forms: ClassVar = ("mla",)
    stands_alone: ClassVar = "MLA caches one latent for all heads, so there are no KV heads to group"

    widths: Mla
    absorbed: bool

    @classmethod
    def spells(cls, name: str) -> bool:
        return name in ("mla", "mla-expanded")

    @classmethod
    def of_model(cls, name: str, model: ModelShape) -> Self:
        if model.mla is None:
            raise UserError(f"{model.name} was not trained with multi-head latent attention",
                            hint="expected as-trained, mha, gqa-K or mqa")
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads, n_kv_heads=1,
                   widths=model.mla, absorbed=name != "mla-expanded")

    @classmethod
    def as_trained(cls, name: str, model: ModelShape) -> Self | None:
        return cls.of_model(name, model) if model.mla is not None else None

    @property
    def label(self) -> str:
        return "mla" if self.absorbed else "mla-expanded"

    @cached_property
    def arrays(self) -> tuple[StoredArray, ...]:
        return (StoredArray(name="latent", elements=self.widths.latent_dim, role="latent", shared=True,
                            stored_tokens=every_token),)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        return read_in_full(self.arrays)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, widths = self.hidden_size, self.widths
        d_c, nope, value = widths.kv_lora_rank, widths.nope_head_dim, widths.v_head_dim
        return (
            *query_projections(wide, widths.q_lora_rank, self._query_dim),
            Projection(name="kv_down", rows=wide, columns=widths.latent_dim, heads="one",
                       product="kv_down_projection", makes="latent"),
            *up_projections(d_c, nope, value, absorbed=self.absorbed),
            Projection(name="output", rows=value, columns=wide, heads="query", joined="rows",
                       product="output_projection", after_core=True),
        )

    @property
    def _query_dim(self) -> int:
        return self.widths.nope_head_dim + self.widths.rope_head_dim

    @cached_property
    def core(self) -> Core:
        if not self.absorbed:
            return self.prefill_core
        return Core(key_dim=self.widths.latent_dim, value_dim=self.widths.kv_lora_rank, shared_keys=True,
                    latent_kernel=True, expansion=None)

    @cached_property
    def prefill_core(self) -> Core:
        """Prompts are long: keys and values are expanded, as training does (section 2.1)."""
        widths = self.widths
        return Core(key_dim=self._query_dim, value_dim=widths.v_head_dim, shared_keys=False, latent_kernel=True,
                    expansion=Expansion(rank=widths.kv_lora_rank, columns=widths.nope_head_dim + widths.v_head_dim))

    @cached_property
    def writes(self) -> Writes:
        return Writes(appended=self.arrays, rotary_per_query_head=self.widths.rope_head_dim, rotary_per_kv_head=0,
                      rotary_shared=self.widths.rope_head_dim)

    @cached_property
    def refuses(self) -> Mapping[Feature, str]:
        return {"separate formats": "caches one latent that is both key and value",
                "cross-attention": "has cross-attention, which is counted for ordinary heads only"}


def query_projections(hidden_size: int, rank: int | None, query_dim: int) -> tuple[Projection, ...]:
    """Queries of ``query_dim`` a head, through a compressed one of ``rank`` where there is a rank."""
    if not rank:
        return (Projection(name="q_up", rows=hidden_size, columns=query_dim, heads="query",
                           product="q_up_projection"),)
    return (Projection(name="q_down", rows=hidden_size, columns=rank, heads="one", product="q_down_projection"),
            Projection(name="q_up", rows=rank, columns=query_dim, heads="query", product="q_up_projection"))


def up_projections(rank: int, key_dim: int, value_dim: int, *, absorbed: bool) -> tuple[Projection, Projection]:
    """From a latent of ``rank`` to each query head's key and value; ``absorbed`` into the query and the output."""
    if absorbed:
        return (Projection(name="k_up", rows=key_dim, columns=rank, heads="query", joined="none",
                           product="absorb_key"),
                Projection(name="v_up", rows=rank, columns=value_dim, heads="query", joined="none",
                           product="absorb_value", after_core=True))
    return (Projection(name="k_up", rows=rank, columns=key_dim, heads="attended", product=""),
            Projection(name="v_up", rows=rank, columns=value_dim, heads="attended", product=""))
