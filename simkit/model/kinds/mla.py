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
    Cached,
    Core,
    Expansion,
    Feature,
    Projection,
    StoredArray,
    every_token,
    spans_of,
)
from simkit.model.kinds.projections import output_projections, query_projections, up_projections
from simkit.model.kinds.widths import LayerShape, Mla


@dataclass(frozen=True, kw_only=True)
class Latent(Cached):
    """One latent of ``widths.latent_dim`` for all query heads, ``absorbed`` or expanded."""

    kind: ClassVar = "mla"
    forms: ClassVar = ("mla",)
    stands_alone: ClassVar = "MLA caches one latent for all heads, so there are no KV heads to group"

    widths: Mla
    absorbed: bool
    gate_dim: int = 0

    @classmethod
    def spells(cls, name: str) -> bool:
        return name in ("mla", "mla-expanded")

    @classmethod
    def of_model(cls, name: str, model: LayerShape) -> Self:
        if model.mla is None:
            raise UserError(f"{model.name} was not trained with multi-head latent attention",
                            hint="expected as-trained, mha, gqa-K or mqa")
        if name == "mla-expanded" and model.indexer is not None:
            raise UserError(f"{name}: {model.name} gathers what its index chooses, which no kernel expands",
                            hint="expected mla or as-trained")
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=model.n_q_heads, n_kv_heads=1,
                   widths=model.mla, absorbed=name != "mla-expanded", gate_dim=model.gate_dim, **spans_of(model))

    @classmethod
    def as_trained(cls, name: str, model: LayerShape) -> Self | None:
        return cls.of_model(name, model) if model.mla is not None else None

    @property
    def label(self) -> str:
        return "mla" if self.absorbed else "mla-expanded"

    @cached_property
    def own_arrays(self) -> tuple[StoredArray, ...]:
        return (StoredArray(name="latent", elements=self.widths.latent_dim, role="latent", shared=True,
                            stored_tokens=every_token),)

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, widths = self.hidden_size, self.widths
        d_c, nope, value = widths.kv_lora_rank, widths.nope_head_dim, widths.v_head_dim
        return (
            *query_projections(wide, widths.q_lora_rank, self._query_dim),
            Projection(name="kv_down", rows=wide, columns=widths.latent_dim, heads="one",
                       product="kv_down_projection", makes="latent"),
            *self.span_projections(self.own_arrays, widths.q_lora_rank),
            *up_projections(d_c, nope, value, absorbed=self.absorbed),
            *output_projections(wide, value, self.gate_dim),
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

    @property
    def rotary(self) -> tuple[int, int, int]:
        return self.widths.rope_head_dim, 0, self.widths.rope_head_dim

    @cached_property
    def refuses(self) -> Mapping[Feature, str]:
        return {**self.span_refuses, "separate formats": "caches one latent that is both key and value",
                "cross-attention": "has cross-attention, which is counted for ordinary heads only"}
