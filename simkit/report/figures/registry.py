"""Which module draws which kind of figure: that of its name; each has ``draw(context) -> DrawnFigure``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Final

from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.study.study_file import FIGURE_KINDS


def _draw(kind: str, context: FigureContext) -> DrawnFigure:
    """Loaded when it is drawn: some bring a compiler, and most reports do not need it."""
    drawn: DrawnFigure = import_module(f"simkit.report.figures.{kind}").draw(context)
    return drawn


FIGURES: Final[Mapping[str, Callable[[FigureContext], DrawnFigure]]] = MappingProxyType({
    kind: partial(_draw, kind) for kind in FIGURE_KINDS})
