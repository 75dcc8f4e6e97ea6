"""Figures of served requests: goodput against the offered rate, KV occupancy over time, and the spread of TPOT.

One line a combination of chip, layout and cache format; chips differ by dash, so that GPU and ASIC show without colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from simkit.foundation.units import SECONDS, format_quantity
from simkit.report.drawing.labels import Label, margin_labels, place_labels
from simkit.report.drawing.style import DARK, INK, SMALL_POINTS, SOFT_INK, layout_name, log_ticks, new_figure
from simkit.serving.ask import Answer

_COLOURS: Final = tuple(colour for colour in DARK if colour not in ("#ffffff", INK, SOFT_INK, "#dde1e6"))
_DASHES: Final = ("-", "--", "-.", ":")
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

    return {key: (_COLOURS[kinds.index(key[1:]) % len(_COLOURS)], _DASHES[chips.index(key[0]) % len(_DASHES)],
                  label(*key)) for key in keys}


def _goodput(answers: Sequence[Answer]) -> Drawn:
    curves = _curves(answers)
    look = _look(list(curves))
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    rows: list[dict[str, Any]] = []
    labels: list[Label] = []
    for key, group in curves.items():
        colour, dash, text = look[key]
        offered = np.array([answer.offered_requests_per_s or 0.0 for answer in group])
        good = np.array([answer.served.record["goodput_requests_per_s"] for answer in group])
        axes.plot(offered, good, dash, color=colour, marker="o", markersize=2.5)
        labels.append(Label(x=float(offered[-1]), y=float(good[-1]), colour=colour, text=text))
        rows += [{"hardware": key[0], "attention": key[1], "kv_dtype": key[2], "offered_requests_per_s": float(rate),
                  "goodput_requests_per_s": float(value)} for rate, value in zip(offered, good, strict=True)]
    most = max(float(row["offered_requests_per_s"]) for row in rows)
    axes.plot([0, most], [0, most], color=SOFT_INK, linewidth=0.6, linestyle=":")
    axes.annotate("all of them", (most, most), xytext=(-14, 0), textcoords="offset points", fontsize=SMALL_POINTS,
                  color=SOFT_INK, ha="right", va="top")
    axes.set_xlim(0, most)
    axes.set_ylim(0, most * 1.02)
    axes.set_title(_title("Goodput", answers))
    axes.set_xlabel("offered requests per second")
    axes.set_ylabel("requests per second within the objective")
    margin_labels(axes, labels)
    return "goodput", figure, rows


def _occupancy(answers: Sequence[Answer]) -> Drawn:
    curves = _curves(answers)
    look = _look(list(curves))
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    rows: list[dict[str, Any]] = []
    labels: list[Label] = []
    drawn: list[tuple[Any, Any]] = []
    for key, group in curves.items():
        # The heaviest load shows what the cache holds back.
        answer = group[-1]
        colour, dash, text = look[key]
        seconds, blocks = answer.served.series[:, 0], answer.served.series[:, 1]
        held = seconds > 0
        times = (np.flatnonzero(held) + 0.5) * answer.served.bucket_s
        share = blocks[held] / seconds[held] / answer.served.record["kv_blocks"]
        axes.plot(times, share, dash, color=colour, linewidth=0.8)
        if len(times):
            fullest = int(np.argmax(share))
            labels.append(Label(x=float(times[fullest]), y=float(share[fullest]), colour=colour, text=text))
            drawn.append((times, share))
        rows += [{"hardware": key[0], "attention": key[1], "kv_dtype": key[2], "time_s": float(time),
                  "kv_occupancy": float(value)} for time, value in zip(times, share, strict=True)]
    axes.set_ylim(0, 1.1)
    axes.set_xlim(left=0)
    axes.set_title(_title("KV blocks in use, heaviest load", answers))
    axes.set_xlabel("time [s]")
    axes.set_ylabel("share of KV blocks in use")
    place_labels(axes, labels, avoid=drawn)
    return "kv_occupancy", figure, rows


def _tpot(answers: Sequence[Answer]) -> Drawn:
    curves = _curves(answers)
    look = _look(list(curves))
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    rows: list[dict[str, Any]] = []
    labels: list[Label] = []
    drawn: list[tuple[Any, Any]] = []
    for key, group in curves.items():
        answer = group[-1]
        colour, dash, text = look[key]
        seconds, share = answer.served.distribution_s("tpot")
        if not len(seconds):
            continue
        axes.step(seconds, share, dash, color=colour, where="post")
        middle = int(np.searchsorted(share, 0.5))
        labels.append(Label(x=float(seconds[middle]), y=float(share[middle]), colour=colour, text=text))
        drawn.append((seconds, share))
        rows += [{"hardware": key[0], "attention": key[1], "kv_dtype": key[2], "tpot_s": float(time),
                  "share_of_requests": float(value)} for time, value in zip(seconds, share, strict=True)]
    bound = answers[0].served.record["slo_tpot_s"]
    shown = [float(edge) for seconds, _ in drawn for edge in (seconds[0], seconds[-1])]
    if np.isfinite(bound):
        shown.append(bound)
        axes.axvline(bound, color=INK, linewidth=0.7, linestyle=":")
        axes.annotate("objective", (bound, 0.0), xytext=(2, 2), textcoords="offset points", fontsize=SMALL_POINTS,
                      color=INK, rotation=90, ha="left", va="bottom")
    if shown:
        low, high = min(shown) / 1.1, max(shown) * 1.1
        axes.set_xlim(low, high)
        ticks = _ticks_s(low, high)
        log_ticks(axes, "x", ticks, [format_quantity(tick, SECONDS) for tick in ticks])
    axes.set_ylim(0, 1.01)
    axes.set_title(_title("Time per output token, heaviest load", answers))
    axes.set_xlabel("time per token after the first")
    axes.set_ylabel("share of requests at or below")
    place_labels(axes, labels, avoid=drawn)
    return "tpot_cdf", figure, rows


def _title(what: str, answers: Sequence[Answer]) -> str:
    record = answers[0].served.record
    return f"{what}\n{record['model']}, {record['trace']}"


def _ticks_s(low: float, high: float) -> list[float]:
    """Round times within a range: 1, 2 and 5 of each decade, or the decades alone where these are many."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    steps = (1.0, 2.0, 5.0) if np.log10(high / low) < _FEW_DECADES else (1.0,)
    return [step * 10.0**power for power in range(first, last + 1) for step in steps
            if low <= step * 10.0**power <= high]
