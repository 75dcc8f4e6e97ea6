"""The front of a plan: what a user gets against what a chip gives, and against what a million tokens cost.

A colour and marker a chip, a dash a layout: points that the request loop played, the objective's pace as a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simkit.report.drawing import style
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.style import hues, layout_name
from simkit.serving.plan import Question

_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_PANELS: Final = (("tokens_per_s_per_chip", "tokens per second and chip"),
                  ("cost_usd_per_mtok", "US dollars a million tokens, rented"))
_LINE: Final = ("hardware", "ffn_hardware", "attention", "kv_dtype")


def draw_front(question: Question, points: Sequence[dict[str, Any]]) -> Figure:
    """A panel for tokens of a chip, and one for dollars where a chip has a price. Call inside ``house_style()``."""
    panels = [panel for panel in _PANELS if any(point[panel[0]] is not None for point in points)]
    figure = style.new_figure(0.4 + 2.3 * max(len(panels), 1))
    drawn = figure.subplots(max(len(panels), 1), sharex=True, squeeze=False).ravel()
    for axes, (name, what) in zip(drawn, panels, strict=False):
        _panel(axes, points, name, question.policy.slo_tpot_s)
        axes.set_ylabel(what)
    drawn[0].set_title(f"What a user gets against what a chip gives\n{question.model.name}, {question.stream.name}")
    drawn[-1].set_xlabel("tokens per second of a user, median request\nhollow: some parameters are assumed")
    return figure


def _chips(own: str, other: str | None) -> str:
    return f"{own} + {other}" if other else own


def _panel(axes: Axes, points: Sequence[dict[str, Any]], name: str, slo_tpot_s: float) -> None:
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for point in points:
        if point[name] is not None:
            lines.setdefault(tuple(str(point[key] or "") for key in _LINE), []).append(point)
    chips = list(dict.fromkeys(_chips(point["hardware"], point["ffn_hardware"]) for point in points))
    kinds = list(dict.fromkeys((str(point["attention"]), str(point["kv_dtype"])) for point in points))
    labels, curves = [], []
    for (own, other, *kind), line in lines.items():
        chip = _chips(own, other)
        x, y = (np.array([point[key] for point in line]) for key in ("tokens_per_s_per_user", name))
        place, colour = chips.index(chip), hues()[chips.index(chip) % len(hues())]
        axes.plot(x, y, style.DASHES[kinds.index((kind[0], kind[1])) % len(style.DASHES)], color=colour, linewidth=0.9,
                  marker=_MARKERS[place % len(_MARKERS)], markersize=3.0,
                  markerfacecolor=style.PAPER if line[0]["assumed"] else colour)
        text = [chip, *([layout_name(kind[0])] if len({one for one, _ in kinds}) > 1 else []),
                *([kind[1]] if len({other for _, other in kinds}) > 1 else [])]
        labels.append(Label(x=float(x[len(x) // 2]), y=float(y[len(y) // 2]), colour=colour, text=" ".join(text)))
        curves.append((x, y))
    every = [point["tokens_per_s_per_user"] for point in points]
    for which, values in (("x", every), ("y", np.concatenate([y for _, y in curves]))):
        low, high = min(values) / 1.3, max(values) * 1.3
        (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
        style.log_ticks(axes, which, style.round_ticks(low, high, (1, 2, 5) if high < 300 * low else (1,)))
    if np.isfinite(slo_tpot_s):
        axes.axvline(1.0 / slo_tpot_s, color=style.INK, linewidth=0.7, linestyle=":")
        if name == _PANELS[0][0]:
            style.note(axes, "objective", (1.0 / slo_tpot_s, axes.get_ylim()[0]), (2, 2), rotation=90, ha="left",
                       va="bottom")
        curves.append((np.full(2, 1.0 / slo_tpot_s), np.array(axes.get_ylim())))
    place_labels(axes, labels, avoid=curves, markers=[(float(a), float(b)) for x, y in curves
                                                      for a, b in zip(x, y, strict=True)])
