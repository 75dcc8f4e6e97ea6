r"""Recurrent states: gated delta rule, Kimi delta attention, lightning attention, Mamba-2; short convolutions.

A sequence keeps one matrix of :math:`d_k \times d_v` for each value head, however long its context, and the last
inputs of a short convolution. A token decays the state, adds to it and reads it. Flops for each element of the state:
the decay 1, the outer product 2, the product with the query 2, and for delta rules the product with the key 2 that says
what to take back (Yang et al. 2024, arXiv 2412.06464; Dao and Gu 2024, arXiv 2405.21060).
"""

from __future__ import annotations

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
    one_a_sequence,
)
from simkit.model.kinds.projections import output_projections
from simkit.model.kinds.widths import LayerShape, State, StateKind

_GATED: Final = ("gated-delta", "mamba-2")  # the gate is one more value in the input's projection
_NUMBERS: Final[Mapping[StateKind, int]] = {"gated-delta": 2, "kda": 1, "lightning": 0, "mamba-2": 1, "short-conv": 0}
"""Numbers that a token gives each head: decay and rate of writing, the rate alone, none, or the time step."""
CONV_BYTES: Final = 2  # inputs kept for the short convolution, in 16 bits as activations are


@dataclass(frozen=True, kw_only=True)
class Recurrent(AttentionLayout):
    """``widths`` of the state; ``n_kv_heads`` are its value heads, which chips divide."""

    kind: ClassVar = "state"
    forms: ClassVar = ()

    widths: State

    @classmethod
    def spells(cls, name: str) -> bool:
        return name in _NUMBERS

    @classmethod
    def of_model(cls, name: str, model: LayerShape) -> Self:
        state = model.state
        if state is None or state.kind != name:
            raise UserError(f"{model.name} was not trained with {name}", hint="expected as-trained, mha, gqa-K or mqa")
        return cls(name=name, hidden_size=model.hidden_size, n_q_heads=state.value_heads,
                   n_kv_heads=state.value_heads, widths=state)

    @classmethod
    def as_trained(cls, name: str, model: LayerShape) -> Self | None:
        del name
        return None if model.state is None else cls.of_model(model.state.kind, model)

    @property
    def label(self) -> str:
        return self.widths.kind

    @property
    def state(self) -> State:
        return self.widths

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: queries, keys and values."""
        widths = self.widths
        return 2 * widths.key_heads * widths.key_dim * widths.has_keys + widths.value_heads * widths.value_dim

    @cached_property
    def arrays(self) -> tuple[StoredArray, ...]:
        widths = self.widths
        state = StoredArray(name="state", elements=widths.key_dim * widths.value_dim, role="latent", shared=False,
                            stored_tokens=one_a_sequence, part="state", own_bytes=widths.state_bytes, derived=True)
        # The newest inputs of all channels, dealt out with the value heads.
        inputs = StoredArray(name="convolution", elements=(widths.conv_width - 1) * self.conv_channels
                             / widths.value_heads, role="latent", shared=False, stored_tokens=one_a_sequence,
                             part="state", own_bytes=CONV_BYTES, derived=True)
        return (*((state,) if widths.has_keys else ()), *((inputs,) if widths.conv_width else ()))

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        return self.spanned_reads()

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        wide, widths = self.hidden_size, self.widths
        values = 2 if widths.kind in _GATED else 1 if widths.has_keys else 3  # gates before and after a convolution
        into = "state_projection"
        keys = [Projection(name="query_key", rows=wide, columns=2 * widths.key_dim, heads="group",
                           groups=widths.key_heads, product=into)]
        found = [
            *(keys if widths.has_keys else []),
            Projection(name="value", rows=wide, columns=values * widths.value_dim + _NUMBERS[widths.kind],
                       heads="query", product=into)]
        for name, rank, columns in (("decay", widths.decay_rank, widths.key_dim),
                                    ("gate", widths.gate_rank, widths.value_dim)):
            if rank:
                found += [Projection(name=f"{name}_down", rows=wide, columns=rank, heads="one",
                                     product=f"{name}_down_projection"),
                          Projection(name=f"{name}_up", rows=rank, columns=columns, heads="query",
                                     product=f"{name}_up_projection")]
        gate = widths.value_dim if widths.has_keys and widths.kind not in _GATED and not widths.gate_rank else 0
        return (*found, *output_projections(wide, widths.value_dim, gate))

    @cached_property
    def core(self) -> Core:
        return Core(key_dim=self.widths.key_dim, value_dim=self.widths.value_dim, shared_keys=False,
                    latent_kernel=False, expansion=None)

    @cached_property
    def prefill_core(self) -> Core:
        return self.core

    @cached_property
    def writes(self) -> Writes:
        return Writes(appended=(), rotary_per_query_head=0, rotary_per_kv_head=0, rotary_shared=0)

    @cached_property
    def refuses(self) -> Mapping[Feature, str]:
        return {"eviction": "keeps a state that has no tokens to drop"}
