"""``simkit evidence published``: figures that papers and vendors print, beside the engines' for the same setup.

Every figure comes from the engines on a stated machine, model and workload
(:mod:`simkit.evidence.published_setup`); none is computed by a formula of its own here. What is judged depends on the
row's split:

- ``exact``, ``calib``, ``predict``: :math:`|ours / published - 1|` within the tolerance, or on a bound's stated side,
  or (``in-range``) within what the class's ranges leave open;
- ``shape``: an order that must hold;
- ``negative``: plain decode must stay below the published rate, which then implies speculative decoding.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

from simkit.evidence.published_setup import measure
from simkit.evidence.published_table import PublishedRow, read_published

Verdict = Literal["within tolerance", "missed", "out of reach", "within bound", "in range", "keeps order",
                  "breaks order", "needs speculation", "reached by plain decode"]
AS_IT_SHOULD_BE: Final[tuple[Verdict, ...]] = ("within tolerance", "within bound", "in range", "keeps order",
                                            "needs speculation")
ROUNDING: Final = 1e-9  # equal times of an order may differ in their last digits


def compare(data: Path | None = None, *, only: str | None = None) -> list[dict[str, Any]]:
    """One record a published figure: ``id, paper, quantity, unit, published, ours, ratio, tolerance, split, verdict,
    assumptions, note``.

    Parameters: data: a table in place of the shipped one; only: ids that begin so. Raises :class:`UserError`.
    """
    rows = [row for row in read_published(data) if only is None or row.id.startswith(only)]
    return [reproduce(row) for row in rows]


def reproduce(row: PublishedRow) -> dict[str, Any]:
    """The record of one row."""
    ordered = [measure(setup, row.stated.take) for setup in row.order]
    ours = _ours(row) if not ordered else ordered[-1] / ordered[0]
    # What does not fit on the machine has no time: an unknown figure, and a miss.
    known = math.isfinite(ours)
    ratio = None if row.stated.published is None or not known else ours / row.stated.published
    verdict = order_verdict(ordered) if ordered else verdict_of(row, ours)
    remarks = [row.stated.says, row.stated.note]
    if verdict == "missed" and row.stated.why:
        verdict, remarks = "out of reach", [*remarks, row.stated.why]
    if ordered:
        remarks.append(f"{row.stated.take}: " + ", ".join(f"{value:.4g}" for value in ordered))
    return {
        "id": row.id, "paper": row.paper, "quantity": row.stated.quantity, "unit": row.unit,
        "published": row.stated.published,
        "ours": ours if known else None, "ratio": ratio,
        "tolerance": row.tolerance if row.stated.bound is None and not ordered else None,
        "bound": row.stated.bound, "split": row.split, "verdict": verdict, "assumptions": row.assumptions,
        "note": "; ".join(remark for remark in remarks if remark) or None,
    }


def _ours(row: PublishedRow) -> float:
    """The row's figure: a measure, a ratio of two or a difference of two."""
    own = measure(row.setup, row.stated.take)
    if row.over is not None:
        return own / measure(row.over, row.stated.take)
    return own if row.minus is None else own - measure(row.minus, row.stated.take)


def verdict_of(row: PublishedRow, ours: float) -> Verdict:
    """What one figure says: see the module's list. A figure that is not a number is missed."""
    published = row.stated.published or 0.0
    if row.split == "negative":
        return "needs speculation" if ours < published else "reached by plain decode"
    if row.stated.bound == "in-range":
        low, high = (measure(row.setup, f"{row.stated.take}_{end}") for end in ("low", "high"))
        return "in range" if low <= published <= high else "missed"
    if row.stated.bound is not None:
        rounding = row.stated.rounding or 0.0
        low, high = published * (1 - rounding), published * (1 + rounding)
        kept = {"at-least": ours >= low, "at-most": ours <= high, "below": ours < published}[row.stated.bound]
        return "within bound" if kept else "missed"
    return "within tolerance" if abs(ours / published - 1) <= (row.tolerance or 0.0) else "missed"


def order_verdict(values: list[float]) -> Verdict:
    """Whether no value falls below the one before it and the last exceeds the first.

    >>> order_verdict([1.0, 1.0, 2.0]), order_verdict([2.0, 1.0])
    ('keeps order', 'breaks order')
    """
    rising = all(after >= before * (1 - ROUNDING) for before, after in pairwise(values)) and values[-1] > values[0]
    return "keeps order" if rising else "breaks order"


def summary(records: list[dict[str, Any]]) -> str:
    """How many rows of each split came out as they should, in one line."""
    parts = []
    for split in ("exact", "calib", "predict", "shape", "negative"):
        own = [record for record in records if record["split"] == split]
        if own:
            right = sum(record["verdict"] in AS_IT_SHOULD_BE for record in own)
            parts.append(f"{split} {right} of {len(own)}")
    return "as they should be: " + ", ".join(parts)
