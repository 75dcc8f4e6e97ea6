"""Claims about quality, put to published scores: the engines predict speed and no quality."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from simkit.claims.published_quality import Published, published_points
from simkit.claims.verdict import Claim, Finding, verdict_over
from simkit.foundation.errors import UserError
from simkit.foundation.validation import Flag, Number, Text
from simkit.hardware.catalog import Chips

Percent = Annotated[Number, Field(ge=0, le=100)]
ROUNDING: Final = 1e-9


class KeepsQuality(Claim, test="keeps_quality"):
    """Published scores of a variant lie at most ``most_loss_percent`` below its baseline's, and below it at all when
    the loss is said to be ``measurable``.
    """

    variant: Text
    most_loss_percent: Percent
    measurable: Flag = False

    def judge(self, engine: str, chips: Chips) -> Finding:
        """Every published comparison of the variant; no engine is asked."""
        del engine, chips
        points = [point for point in published_points() if point.variant.upper().startswith(self.variant.upper())]
        if not points:
            raise UserError(f"no published score of a variant whose name begins with '{self.variant[:40]}'")
        kept = [self._keeps(point) for point in points]
        verdict = verdict_over(kept)
        worst = min(points, key=lambda point: point.score_change_percent)
        meant = "; ".join(_said(point) for point, ok in zip(points, kept, strict=True) if ok)
        others = "; ".join(_said(point) for point, ok in zip(points, kept, strict=True) if not ok)
        return Finding(
            verdict=verdict, found=-worst.score_change_percent, claimed=self.most_loss_percent, unit="%",
            figure="; ".join(f"{_said(point)} ({point.source})" for point in points),
            condition=f"meant is {meant}; not {others}" if verdict == "holds when" else None)

    def _keeps(self, point: Published) -> bool:
        loss = -point.score_change_percent
        return (loss > ROUNDING or not self.measurable) and loss <= self.most_loss_percent


def _said(point: Published) -> str:
    return f"{point.variant} {point.score_change_percent:+.1f} % of its baseline's score in {point.comparison}"
