"""Attention layouts by name: how many key/value heads the query heads share, or what is cached instead, on any model.

``gqa-K`` names the number of KV heads, as in the GQA paper (Ainslie et al. 2023): ``gqa-8`` of 64 query heads
is 8 groups of 8 query heads. ``mha`` is K = n_q_heads, ``mqa`` is K = 1; :mod:`simkit.model.kinds` has the others.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.kinds.base import AttentionLayout
from simkit.model.kinds.catalogue import AS_TRAINED, KINDS, LAYOUT_FORMS
from simkit.model.kinds.widths import LayerShape


class Shaped(Protocol):
    """A model, as far as layouts need it."""

    @property
    def shape(self) -> LayerShape:
        """Attention of the layers that layouts are named after."""


def parse_layout_name(text: str) -> str:
    """The layout's name, checked as far as no model is needed. Raises :class:`UserError`."""
    name = text.strip().lower()
    if name == AS_TRAINED or any(kind.spells(name) for kind in KINDS):
        return name
    raise _unknown_layout(text)


@lru_cache(maxsize=1024)
def parse_layout(text: str, model: Shaped) -> AttentionLayout:
    """The layout that ``text`` names on this model.

    Accepts ``as-trained`` and the names of every kind: ``mha``, ``gqa-K`` with K dividing the query heads, ``mqa``,
    ``mla`` and ``mla-expanded`` (un-absorbed) of a model trained with it, and so on. On an MLA model the head layouts
    replace the latent by ordinary heads of the same width. On a model of several kinds of layers a layout is that of
    those with heads (:func:`layer_layout`).
    Raises :class:`UserError` naming what would do. Programs ask for the same few in a loop: each is made once.
    """
    if not isinstance(text, str):
        raise _unknown_layout(str(text))
    return layer_layout(text.strip().lower(), model.shape, text)


@lru_cache(maxsize=1024)
def layer_layout(name: str, shape: LayerShape, text: str = "") -> AttentionLayout:
    """The layout on layers of a shape: layers with a state keep it whatever the layout of those with heads."""
    kept = AS_TRAINED if shape.state is not None else name
    found = next((layout for kind in KINDS if (layout := _asked(kind, kept, shape)) is not None), None)
    if found is None:
        _check_composed(text or name)
        raise _unknown_layout(text or name)
    why_not = found.refuses.get("cross-attention") if shape.cross_attention else None
    if why_not:
        raise UserError(f"{name}: {shape.name} {why_not}", hint="expected as-trained, mha, gqa-K or mqa")
    return found


def _asked(kind: type[AttentionLayout], name: str, model: LayerShape) -> AttentionLayout | None:
    if name == AS_TRAINED:
        return kind.as_trained(name, model)
    return kind.of_model(name, model) if kind.spells(name) else None


def _check_composed(text: str) -> None:
    """A layout put together from two names is a misunderstanding that deserves its own words."""
    parts = re.split(r"[+:/ ]", text.strip().lower())
    for kind in KINDS:
        if kind.stands_alone and any(kind.spells(part) for part in parts):
            raise UserError(f"'{text[:40]}': {kind.stands_alone}",
                            hint=f"expected {kind.forms[0]} alone, or mha, gqa-K, mqa")


def _unknown_layout(text: str) -> UserError:
    known = [form.replace("-K", "-8") for form in LAYOUT_FORMS]
    forms = f"{', '.join(LAYOUT_FORMS[:-1])} or {LAYOUT_FORMS[-1]}"
    return UserError(f"unknown attention layout '{text[:40]}': expected {forms}",
                     hint=did_you_mean(text.strip().lower(), known))
