"""Which module draws which kind of figure: that of its name; each has ``draw(context) -> DrawnFigure``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from matplotlib.figure import Figure

from simkit.foundation.errors import UserError, did_you_mean
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.style import chip_styles, house_style
from simkit.study.asked import chips_of, listed, models_of, only
from simkit.study.engines import DEFAULT
from simkit.study.evaluate import FIT
from simkit.study.study_file import FIGURE_KINDS, FigureRequest


def _draw(kind: str, context: FigureContext) -> DrawnFigure:
    """Loaded when it is drawn: some bring a compiler, and most reports do not need it."""
    drawn: DrawnFigure = import_module(f"simkit.report.figures.{kind}").draw(context)
    return drawn


FIGURES: Final[Mapping[str, Callable[[FigureContext], DrawnFigure]]] = MappingProxyType({
    kind: partial(_draw, kind) for kind in FIGURE_KINDS})


def drawn_figure(kind: str, hardware: Any, model: Any = "llama-2-70b", *, attention: Any = ("mha", "gqa-8", "mqa"),
                 batch: Any = 32, kv_len: Any = 4096, focus_batch: int | None = None, focus_kv_len: int | None = None,
                 kv_dtype: str = "bf16", weight_dtype: str = "bf16", chips: Any = FIT, engine: str = DEFAULT,
                 **own: Any) -> DrawnFigure:
    """A report's figure, with the rows that it shows and the words around it.

    Parameters
    ----------
    kind: as in a study's ``figures``, such as ``roofline`` or ``advantage_heatmap``.
    hardware, model: names, paths or what was loaded of them; several chips, one model.
    attention, batch, kv_len: one value or a list.
    focus_batch, focus_kv_len: the point of figures that show one; None: the last of the lists.
    kv_dtype, weight_dtype, chips, engine: as of :func:`simkit.decode_step`.
    own: what single kinds take: ``reducers``, ``beside``, ``ffn``, ``between``.

    Raises :class:`UserError` on bad input, and where nothing fits that could be drawn.
    """
    if kind not in FIGURES:
        raise UserError(f"no figure is called '{kind[:40]}'", hint=did_you_mean(kind, FIGURES) or (
            "known: " + ", ".join(FIGURES)))
    named, sequences, tokens = tuple(chips_of(hardware)), listed(batch), listed(kv_len)
    request = FigureRequest(
        kind=kind, name=kind, title=None, note=None, hardware=named, model=only(models_of(model), "model"),
        layouts=tuple(listed(attention)), batch=tuple(sequences), kv_len=tuple(tokens), kv_dtype=kv_dtype,
        focus_batch=focus_batch or sequences[-1], focus_kv_len=focus_kv_len or tokens[-1], weight_dtype=weight_dtype,
        chips=chips, engine=engine, **own)
    with house_style():
        return FIGURES[kind](FigureContext(request=request, styles=chip_styles(named, {})))


def draw(kind: str, hardware: Any, model: Any = "llama-2-70b", **words: Any) -> Figure:
    """A report's figure as Matplotlib's; ``words``: as of :func:`drawn_figure`."""
    return drawn_figure(kind, hardware, model, **words).figure
