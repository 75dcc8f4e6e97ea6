"""What a figure module hands back: the drawing, the rows behind it, and the words around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from simkit.report.drawing.study_points import Omission
from simkit.report.drawing.style import ChipStyle, times
from simkit.study.study_file import FigureRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureContext:
    """What a figure module draws from: its request and the page's chip styles."""

    request: FigureRequest
    styles: dict[str, ChipStyle]

    def label(self, chip: str) -> str:
        """The chip's short name; its own for one that has no colour here."""
        return self.styles[chip].label if chip in self.styles else chip

    def marked(self, chip: str) -> str:
        """The chip's short name behind a mark that says whether it is calibrated or assumed."""
        return self.styles[chip].marked_label

    def span(self, ratios: Mapping[str, float]) -> str:
        """The least and the largest of chips' ratios, with whose they are: ``0.94× (A) to 2.3× (B)``."""
        least, most = (end(ratios, key=lambda chip: ratios[chip]) for end in (min, max))
        if times(ratios[least]) == times(ratios[most]):
            return times(ratios[least]) + (f" ({self.label(least)})" if len(ratios) == 1 else
                                           f" (all {len(ratios)} chips)")
        return " to ".join(f"{times(ratios[chip])} ({self.label(chip)})" for chip in (least, most))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFigure:
    """A finished figure. ``rows`` are what it shows, for its CSV; ``finding`` is its caption, with the number in it.

    ``how_to_read`` explains marks and lines, ``inputs`` names model, point and engine, ``alt`` says in words what
    is drawn.
    """

    title: str
    figure: Figure
    rows: list[dict[str, Any]]
    finding: str
    how_to_read: str
    inputs: str
    alt: str
    omissions: list[Omission] = field(default_factory=list)
