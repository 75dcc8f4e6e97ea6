"""Attention layouts: how many key/value heads the query heads share, on any model.

``gqa-K`` names the number of KV heads, as in the GQA paper (Ainslie et al. 2023): ``gqa-8`` of 64 query heads
is 8 groups of 8 query heads. ``mha`` is K = n_q_heads, ``mqa`` is K = 1, ``mla`` caches a latent instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.architecture import ModelArchitecture

AS_TRAINED: Final = "as-trained"
_GQA: Final = re.compile(r"gqa-(\d{1,6})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """A layout applied to one model. For ``mla`` one latent serves all query heads: ``n_kv_heads`` is 1.

    ``absorbed`` MLA multiplies queries and outputs by the up-projections; un-absorbed MLA expands the cached latents
    to full keys and values in every step.
    """

    name: str
    kind: Literal["heads", "mla"]
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    absorbed: bool = True

    @property
    def elements_per_token(self) -> int:
        """Cached elements per token, layer and KV head copy: K and V, or MLA's latent that is both."""
        return self.head_dim if self.kind == "mla" else self.head_dim + self.v_head_dim


def parse_layout_name(text: str) -> str:
    """The layout's name, checked as far as no model is needed. Raises :class:`UserError`."""
    name = text.strip().lower()
    if name in (AS_TRAINED, "mha", "mqa", "mla", "mla-expanded") or _GQA.fullmatch(name):
        return name
    raise _unknown_layout(text)


def parse_layout(text: str, model: ModelArchitecture) -> AttentionLayout:
    """The layout that ``text`` names on this model.

    Accepts ``as-trained``, ``mha``, ``gqa-K`` with K dividing the query heads, ``mqa`` and, for a model trained
    with it, ``mla`` and ``mla-expanded`` (un-absorbed). On an MLA model the head layouts replace the latent by ordinary
    heads of the same width.
    Raises :class:`UserError` naming what would do.
    """
    name = text.strip().lower()
    n_q = model.n_q_heads
    if name == AS_TRAINED:
        if model.mla is not None:
            return _mla(AS_TRAINED, model)
        return _heads(AS_TRAINED, model, model.n_kv_heads)
    if name == "mla":
        if model.mla is None:
            raise UserError(f"{model.name} was not trained with multi-head latent attention",
                            hint="expected as-trained, mha, gqa-K or mqa")
        return _mla("mla", model)
    if name == "mla-expanded" and model.mla is not None:
        return replace(_mla(name, model), absorbed=False)
    if "mla" in re.split(r"[+:/ ]", name):
        raise UserError(f"'{text[:40]}': MLA caches one latent for all heads, so there are no KV heads to group",
                        hint="expected mla alone, or mha, gqa-K, mqa")
    if name == "mha":
        return _heads(name, model, n_q)
    if name == "mqa":
        return _heads(name, model, 1)
    match = _GQA.fullmatch(name)
    if match is None:
        raise _unknown_layout(text)
    n_kv = int(match[1])
    if n_kv < 1 or n_q % n_kv:
        divisors = [str(k) for k in range(1, n_q + 1) if n_q % k == 0]
        raise UserError(f"{name}: {n_kv} KV heads do not divide the {n_q} query heads of {model.name}",
                        hint="K may be " + ", ".join(divisors))
    return _heads(name, model, n_kv)


def _unknown_layout(text: str) -> UserError:
    hint = did_you_mean(text.strip().lower(), [AS_TRAINED, "mha", "mqa", "mla", "gqa-8"])
    return UserError(f"unknown attention layout '{text[:40]}': expected as-trained, mha, gqa-K, mqa or mla", hint=hint)


def _heads(name: str, model: ModelArchitecture, n_kv_heads: int) -> AttentionLayout:
    return AttentionLayout(name=name, kind="heads", n_kv_heads=n_kv_heads, head_dim=model.head_dim,
                           v_head_dim=model.head_dim)


def _mla(name: str, model: ModelArchitecture) -> AttentionLayout:
    if model.mla is None:  # parse_layout asked already; kept for the type
        raise UserError(f"{model.name} has no latent attention")
    return AttentionLayout(name=name, kind="mla", n_kv_heads=1, head_dim=model.mla.latent_dim,
                           v_head_dim=model.mla.kv_lora_rank)
