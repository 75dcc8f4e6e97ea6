"""Figures of served requests: goodput against the offered rate, KV occupancy over time, and the spread of TPOT.

One line a combination of chip, layout and cache format; chips differ by dash, so that GPU and ASIC show without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from simkit.foundation.units import SECONDS, format_quantity
from simkit.report.drawing import style
from simkit.report.drawing.labels import Label, margin_labels, place_labels
from simkit.report.drawing.style import hues, layout_name
from simkit.serving.ask import Answer

_FEW_DECADES: Final = 2.0  # up to so many, an axis has room for three ticks in each

Drawn = tuple[str, Figure, list[dict[str, Any]]]


def draw_serving(answers: Sequence[Answer]) -> list[Drawn]:
    """``(file name, figure, rows)`` of every figure that these answers have data for. Call inside ``house_style()``."""
    drawn = [_occupancy(answers), _tpot(answers)]
    if max(len(group) for group in _curves(answers).values()) > 1:
        drawn.insert(0, _goodput(answers))
    return drawn


def _key(answer: Answer) -> tuple[str, str, str]:
    record = answer.served.record
    return record["hardware"], record["attention"], record["kv_dtype"]


def _curves(answers: Sequence[Answer]) -> dict[tuple[str, str, str], list[Answer]]:
    """Answers by combination, each in the order of its rates."""
    found: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        found.setdefault(_key(answer), []).append(answer)
    return {key: sorted(group, key=lambda item: item.offered_requests_per_s or 0.0) for key, group in found.items()}


def _look(keys: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], tuple[str, str, str]]:
    """``(colour, dash, label)`` of each combination: a colour a layout and format, a dash a chip."""
    chips = list(dict.fromkeys(key[0] for key in keys))
    kinds = list(dict.fromkeys(key[1:] for key in keys))
    several = len({key[2] for key in keys}) > 1

    def label(chip: str, layout: str, kv_dtype: str) -> str:
        return " ".join([*([chip] if len(chips) > 1 else []), layout_name(layout), *([kv_dtype] if several else [])])

    return {key: (hues()[kinds.index(key[1:]) % len(hues())], style.DASHES[chips.index(key[0]) % len(style.DASHES)],
                  label(*key)) for key in keys}


def _lines(answers: Sequence[Answer], names: tuple[str, str], points: Callable[[list[Answer]], tuple[Any, Any, int]],
           **how: Any) -> tuple[Figure, Any, list[dict[str, Any]], list[Label], list[tuple[Any, Any]]]:
    """A line a combination: the figure, its axes, rows under these names, labels and curves.

    ``points``: x, y and the place of the label, from a combination's answers by rate.
    """
    curves = _curves(answers)
    look = _look(list(curves))
    figure = style.new_figure(2.8)
    axes = figure.add_subplot()
    rows: list[dict[str, Any]] = []
    labels: list[Label] = []
    drawn: list[tuple[Any, Any]] = []
    for key, group in curves.items():
        colour, dash, text = look[key]
        x, y, place = points(group)
        if not len(x):
            continue
        axes.plot(x, y, dash, color=colour, **how)
        labels.append(Label(x=float(x[place]), y=float(y[place]), colour=colour, text=text))
        drawn.append((x, y))
        rows += [{"hardware": key[0], "attention": key[1], "kv_dtype": key[2], names[0]: float(one),
                  names[1]: float(value)} for one, value in zip(x, y, strict=True)]
    return figure, axes, rows, labels, drawn


def _goodput(answers: Sequence[Answer]) -> Drawn:
    def points(group: list[Answer]) -> tuple[Any, Any, int]:
        return (np.array([answer.offered_requests_per_s or 0.0 for answer in group]),
                np.array([answer.served.record["goodput_requests_per_s"] for answer in group]), -1)

    figure, axes, rows, labels, _ = _lines(answers, ("offered_requests_per_s", "goodput_requests_per_s"), points,
                                           marker="o", markersize=2.5)
    most = max(float(row["offered_requests_per_s"]) for row in rows)
    axes.plot([0, most], [0, most], color=style.SOFT_INK, linewidth=0.6, linestyle=":")
    style.note(axes, "all of them", (most, most), (-14, 0), color=style.SOFT_INK, ha="right", va="top")
    axes.set_xlim(0, most)
    axes.set_ylim(0, most * 1.02)
    axes.set_title(_title("Goodput", answers))
    axes.set_xlabel("offered requests per second")
    axes.set_ylabel("requests per second within the objective")
    margin_labels(axes, labels)
    return "goodput", figure, rows


def _occupancy(answers: Sequence[Answer]) -> Drawn:
    def points(group: list[Answer]) -> tuple[Any, Any, int]:
        served = group[-1].served  # the heaviest load shows what the cache holds back
        seconds, blocks = served.series[:, 0], served.series[:, 1]
        held = seconds > 0
        share = blocks[held] / seconds[held] / served.record["kv_blocks"]
        return (np.flatnonzero(held) + 0.5) * served.bucket_s, share, int(np.argmax(share)) if share.size else 0

    figure, axes, rows, labels, drawn = _lines(answers, ("time_s", "kv_occupancy"), points, linewidth=0.8)
    axes.set_ylim(0, 1.1)
    axes.set_xlim(left=0)
    axes.set_title(_title("KV blocks in use, heaviest load", answers))
    axes.set_xlabel("time [s]")
    axes.set_ylabel("share of KV blocks in use")
    place_labels(axes, labels, avoid=drawn)
    return "kv_occupancy", figure, rows


def _tpot(answers: Sequence[Answer]) -> Drawn:
    def points(group: list[Answer]) -> tuple[Any, Any, int]:
        seconds, share = group[-1].served.distribution_s("tpot")
        return seconds, share, int(np.searchsorted(share, 0.5))

    figure, axes, rows, labels, drawn = _lines(answers, ("tpot_s", "share_of_requests"), points, drawstyle="steps-post")
    bound = answers[0].served.record["slo_tpot_s"]
    shown = [float(edge) for seconds, _ in drawn for edge in (seconds[0], seconds[-1])]
    if np.isfinite(bound):
        shown.append(bound)
        axes.axvline(bound, color=style.INK, linewidth=0.7, linestyle=":")
        style.note(axes, "objective", (bound, 0.0), (2, 2), rotation=90, ha="left", va="bottom")
    if shown:
        low, high = min(shown) / 1.1, max(shown) * 1.1
        axes.set_xlim(low, high)
        # The decades alone where there are many.
        ticks = style.round_ticks(low, high, (1, 2, 5) if np.log10(high / low) < _FEW_DECADES else (1,))
        style.log_ticks(axes, "x", ticks, [format_quantity(tick, SECONDS) for tick in ticks])
    axes.set_ylim(0, 1.01)
    axes.set_title(_title("Time per output token, heaviest load", answers))
    axes.set_xlabel("time per token after the first")
    axes.set_ylabel("share of requests at or below")
    place_labels(axes, labels, avoid=drawn)
    return "tpot_cdf", figure, rows


def _title(what: str, answers: Sequence[Answer]) -> str:
    record = answers[0].served.record
    return f"{what}\n{record['model']}, {record['trace']}"
