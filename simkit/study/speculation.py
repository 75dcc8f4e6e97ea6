r"""Speculative decoding: a draft proposes ``γ`` tokens, one step of the target verifies them all.

.. math:: E[\text{tokens}] = \frac{1 - \alpha^{\gamma+1}}{1 - \alpha}, \qquad
          T = T_{verify}(q = \gamma + 1) + \gamma\, T_{draft}

Leviathan, Kalman, Matias 2022 (arXiv 2211.17192), equation 1 and section 3.3; ``α`` is the chance that the target
accepts a proposed token. Medusa-like heads (arXiv 2401.10774) propose from the target's own last state: instead of
draft steps they cost one residual block and one LM head each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.model.architecture import ModelArchitecture
from simkit.model.catalog import load_model
from simkit.step.operators import DecodeStep, gemm

MOST_DRAFT_TOKENS: Final = 1000
_FORMS: Final = "expected none, draft=MODEL,gamma=4,acceptance=0.8 or medusa=4,acceptance=0.6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """``draft_tokens`` (γ) proposals a step, accepted one by one with probability ``acceptance`` (α).

    ``draft`` is the proposing model; None: Medusa-like heads of the target.
    """

    draft_tokens: int
    acceptance: float
    draft: ModelArchitecture | None

    @property
    def tokens_per_step(self) -> float:
        r"""Expected tokens of one verification, :math:`(1-\alpha^{\gamma+1})/(1-\alpha)`; ``γ + 1`` for α = 1.

        >>> round(Speculation(draft_tokens=4, acceptance=0.8, draft=None).tokens_per_step, 3)
        3.362
        """
        alpha, gamma = self.acceptance, self.draft_tokens
        return gamma + 1.0 if alpha == 1.0 else (1 - alpha ** (gamma + 1)) / (1 - alpha)


def parse_speculation(text: str) -> Speculation | None:
    """Read ``none``, ``draft=MODEL,gamma=4,acceptance=0.8`` or ``medusa=4,acceptance=0.6``.

    Raises :class:`UserError`.
    """
    if text.strip().lower() in ("none", ""):
        return None
    words: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in words:
            raise UserError(f"speculation '{text[:60]}': {_FORMS}")
        if key not in ("draft", "medusa", "gamma", "acceptance"):
            raise UserError(f"speculation: unknown word '{key[:20]}'",
                            hint=did_you_mean(key, ["draft", "medusa", "gamma", "acceptance"]))
        words[key] = value
    drafted = {"draft", "gamma", "acceptance"} == set(words)
    if not drafted and {"medusa", "acceptance"} != set(words):
        raise UserError(f"speculation '{text[:60]}': {_FORMS}")
    try:
        gamma = int(words["gamma" if drafted else "medusa"])
        acceptance = float(words["acceptance"])
    except ValueError:
        raise UserError(f"speculation '{text[:60]}': {_FORMS}") from None
    if not 1 <= gamma <= MOST_DRAFT_TOKENS:
        raise UserError(f"speculation: {gamma} proposed tokens, expected 1 to {MOST_DRAFT_TOKENS}")
    if not 0 <= acceptance <= 1:
        raise UserError(f"speculation: acceptance {acceptance:g} is not a probability between 0 and 1")
    return Speculation(draft_tokens=gamma, acceptance=acceptance, draft=load_model(words["draft"]) if drafted else None)


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
