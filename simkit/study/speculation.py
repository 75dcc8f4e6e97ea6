r"""Speculative decoding: a draft proposes ``γ`` tokens, one step of the target verifies them all.

.. math:: E[\text{tokens}] = \frac{1 - \alpha^{\gamma+1}}{1 - \alpha}, \qquad
          T = T_{verify}(q = \gamma + 1) + \gamma\, T_{draft}

Leviathan, Kalman, Matias 2022 (arXiv 2211.17192), equation 1 and section 3.3; ``α`` is the chance that the target
accepts a proposed token, or a file says how many tokens a step with ``γ`` proposals gave. The draft is another model,
or layers of the target's own (multi-token prediction; DeepSeek-V3, arXiv 2412.19437, section 2.2): each joins the last
state and the last token's embedding, is one decoder layer, and shares embedding and LM head. Medusa-like heads (arXiv
2401.10774) propose from the target's own last state: instead of draft steps they cost one residual block and one LM
head each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, model_validator

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.named_files import find_file
from simkit.foundation.validation import Number, StrictRecord, Text, check, rule
from simkit.foundation.yaml_source import load_yaml
from simkit.model.architecture import ModelArchitecture
from simkit.model.catalog import load_model
from simkit.step.build import build_step
from simkit.step.operators import DecodeStep, gemm, norm
from simkit.step.placement import Demand, demand
from simkit.step.workload import DecodeWorkload

MOST_DRAFT_TOKENS: Final = 1000
_FORMS: Final = ("expected none, draft=MODEL,gamma=4,acceptance=0.8, mtp=1,acceptance=0.85 or medusa=4,acceptance=0.6; "
                 "acceptance may be a file of tokens by proposals")
_WORDS: Final = ("draft", "mtp", "medusa", "gamma", "acceptance")


class AcceptanceSchema(StrictRecord):
    """Tokens that a step gave with so many proposals, as measured."""

    schema_version: Literal[1]
    """Form of this file."""
    source: Text
    """Where it was measured, and on what."""
    tokens_per_step: dict[int, Annotated[Number, Field(ge=1, le=MOST_DRAFT_TOKENS + 1)]]
    """Mean tokens of a step by the number of proposals, the target's own token included."""

    @model_validator(mode="after")
    def _can_be(self) -> AcceptanceSchema:
        for proposals, tokens in self.tokens_per_step.items():
            if not 1 <= proposals <= MOST_DRAFT_TOKENS or tokens > proposals + 1:
                raise rule(f"{tokens:g} tokens of {proposals} proposals: expected at most one more", "tokens_per_step")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """``draft_tokens`` (γ) proposals a step, accepted one by one with probability ``acceptance`` (α).

    ``measured_tokens``: tokens of a step as a file gives them, in place of α. ``draft`` is the proposing model; None:
    layers of the target's own (``mtp``), or Medusa-like heads of it.
    """

    draft_tokens: int
    acceptance: float
    draft: ModelArchitecture | None
    mtp: bool = False
    measured_tokens: float | None = None

    @property
    def tokens_per_step(self) -> float:
        r"""Expected tokens of one verification, :math:`(1-\alpha^{\gamma+1})/(1-\alpha)`; ``γ + 1`` for α = 1.

        >>> round(Speculation(draft_tokens=4, acceptance=0.8, draft=None).tokens_per_step, 3)
        3.362
        """
        if self.measured_tokens is not None:
            return self.measured_tokens
        alpha, gamma = self.acceptance, self.draft_tokens
        return gamma + 1.0 if alpha == 1.0 else (1 - alpha ** (gamma + 1)) / (1 - alpha)

    def draft_of(self, target: ModelArchitecture) -> ModelArchitecture | None:
        """What proposes, step by step; None for heads. Raises :class:`UserError` where a target has no such layers."""
        if not self.mtp:
            return self.draft
        if target.mtp is None:
            raise UserError(f"speculation mtp={self.draft_tokens}: {target.name} states no layers that predict further "
                            "tokens", hint="draft=MODEL or medusa=N, or a key 'mtp' in the model's file")
        return _own_draft(target)


@lru_cache(maxsize=64)
def _own_draft(target: ModelArchitecture) -> ModelArchitecture:
    """One of the target's layers that predict further tokens, as a model."""
    layer = target.mtp and replace(target.mtp, count=1)
    return replace(target, name=f"{target.name} mtp", layer_groups=(layer,) if layer else (), mtp=None)


def parse_speculation(text: str) -> Speculation | None:
    """Read ``none``, ``draft=MODEL,gamma=4,acceptance=0.8``, ``mtp=1,acceptance=0.85`` or ``medusa=4,acceptance=0.6``.

    Raises :class:`UserError`.
    """
    if text.strip().lower() in ("none", ""):
        return None
    words: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in words:
            raise UserError(f"speculation '{text[:60]}': {_FORMS}")
        if key not in _WORDS:
            raise UserError(f"speculation: unknown word '{key[:20]}'", hint=did_you_mean(key, _WORDS))
        words[key] = value
    number = {frozenset(("draft", "gamma", "acceptance")): "gamma", frozenset(("mtp", "acceptance")): "mtp",
              frozenset(("medusa", "acceptance")): "medusa"}.get(frozenset(words), "")
    try:
        gamma = int(words[number])
    except (KeyError, ValueError):
        raise UserError(f"speculation '{text[:60]}': {_FORMS}") from None
    if not 1 <= gamma <= MOST_DRAFT_TOKENS:
        raise UserError(f"speculation: {gamma} proposed tokens, expected 1 to {MOST_DRAFT_TOKENS}")
    try:
        acceptance, measured = float(words["acceptance"]), None
    except ValueError:
        acceptance, measured = float("nan"), _measured(words["acceptance"], gamma)
    if measured is None and not 0 <= acceptance <= 1:
        raise UserError(f"speculation: acceptance {acceptance:g} is not a probability between 0 and 1")
    return Speculation(draft_tokens=gamma, acceptance=acceptance, measured_tokens=measured, mtp=number == "mtp",
                       draft=load_model(words["draft"]) if number == "gamma" else None)


def _measured(name: str, gamma: int) -> float:
    """Tokens of a step with ``gamma`` proposals by a file. Raises :class:`UserError` where it has none."""
    source = load_yaml(find_file(name, kind="workloads/acceptance", what="acceptance"))
    found = check(AcceptanceSchema, source.data, source).tokens_per_step
    if gamma not in found:
        raise UserError(f"no tokens of {gamma} proposals: the file has {', '.join(map(str, sorted(found)))}",
                        where=source.locate(["tokens_per_step"]))
    return float(found[gamma])


def with_own_layer(step: DecodeStep) -> DecodeStep:
    """A step of a layer that predicts further tokens, with what joins its two inputs."""
    workload = step.workload
    width = workload.model.hidden_size
    joined = gemm(workload, "mtp_projection", 1, 2 * width, width / workload.heads.ways)
    return replace(step, end_operators=(*step.end_operators, norm(workload, 1), norm(workload, 1), joined))


def with_medusa_heads(step: DecodeStep, heads: int) -> DecodeStep:
    """The step with ``heads`` extra decoding heads at its end, each a residual block and an LM head of its own."""
    workload = step.workload
    width, vocabulary = workload.model.hidden_size, workload.model.vocab_size / workload.heads.ways
    extra = (gemm(workload, "medusa_blocks", 1, width, width / workload.heads.ways, batches=heads),
             gemm(workload, "medusa_heads", 1, width, vocabulary, batches=heads))
    return replace(step, end_operators=step.end_operators + extra)


def medusa_weight_bytes(step: DecodeStep) -> Any:
    """Bytes that the extra heads add to a chip's weights."""
    return sum(np.asarray(op.weight_bytes) for op in step.end_operators if op.name.startswith("medusa"))


def draft_demand(speculation: Speculation, workload: DecodeWorkload, draft: DecodeWorkload | None) -> Demand:
    """What a chip holds of what proposes: heads, a model, or those of the target's own layers that are used.

    Embedding and LM head of the latter are the target's.
    """
    if draft is None:
        step = with_medusa_heads(build_step(workload), speculation.draft_tokens)
        return Demand(weight_bytes=medusa_weight_bytes(step), kv_bytes_per_sequence=0.0, kv_bytes=0.0)
    own = workload.model.mtp
    if own is None or not speculation.mtp:
        return demand(draft)
    used = min(speculation.draft_tokens, own.count)
    found = demand(replace(draft, model=replace(draft.model, layer_groups=(replace(own, count=used),), vocab_size=0)))
    joined = 2.0 * draft.model.hidden_size**2 / draft.heads.ways * draft.weight_format.bytes_per_element
    return replace(found, weight_bytes=found.weight_bytes + used * joined)
