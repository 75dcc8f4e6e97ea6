"""What papers and vendors print, and what the engines say of the same setup: the ratio, a line a source."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from matplotlib.figure import Figure

from simkit.evidence.published import compare
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.style import INK, SMALL_POINTS, SOFT_INK, log_ticks, new_figure

_TICKS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)
_LONGEST_NAME: Final = 26
# What a figure was to the engines: arithmetic that must agree, fitted to, or foretold.
_KINDS: Final = {"exact": ("#0072b2", "s"), "calib": (SOFT_INK, "D"), "predict": ("#d55e00", "o")}
_WORDS: Final = {"exact": "blue squares: counts and closed forms, which must agree",
                 "calib": "grey diamonds: figures that a profile was fitted to",
                 "predict": "orange dots: predictions"}


def draw(context: FigureContext) -> DrawnFigure:
    """Ours over published, for every figure that is shipped and not a bound or an order."""
    request = context.request
    everything = _compared()
    records = [record for record in everything if record["split"] in _KINDS and record["ratio"] is not None
               and record["bound"] is None]
    rows = [{name: record[name] for name in ("id", "paper", "quantity", "unit", "published", "ours", "ratio",
                                             "tolerance", "split", "verdict", "note")} for record in records]
    predicted = [record for record in records if record["split"] == "predict"]
    exact = [record for record in records if record["split"] == "exact"]
    missed = sorted((record for record in records if record["verdict"] != "within tolerance"),
                    key=lambda record: -abs(record["ratio"] - 1.0))
    said = ", ".join(f"{_short(record['paper'])}, {record['quantity']} ({record['ratio']:.2f})"
                     for record in missed[:3])
    return DrawnFigure(
        title=request.title or "Published figures against the engines",
        figure=_figure(records), rows=rows,
        finding=f"{_within(exact)} of {len(exact)} published counts and closed forms and {_within(predicted)} of "
                f"{len(predicted)} measured figures that were predicted are within their stated tolerance"
                + (f"; the farthest off: {said}." if missed else "."),
        how_to_read="Each mark: our figure over the published one. " + "; ".join(_WORDS.values())
                    + ". Hollow: outside the tolerance that was stated for it. Bounds and orders "
                    f"({len(everything) - len(records)} more) have no ratio; simkit evidence published lists all with "
                    "their assumptions.",
        inputs="Machine, model and workload of each source as simkit evidence published states them; "
               "engine: roofline.",
        alt=f"Strip of {len(records)} ratios of our figures over published ones, a line a source. " + (
            f"Farthest off: {said}." if missed else ""))


@lru_cache(maxsize=1)
def _compared() -> tuple[dict[str, Any], ...]:
    """The shipped table, compared once a program."""
    return tuple(compare())


def _within(records: list[dict[str, Any]]) -> int:
    return sum(record["verdict"] == "within tolerance" for record in records)


def _short(paper: str) -> str:
    """A source's name as it stands before its first bracket, comma or colon.

    >>> _short("Pope et al. 2022, Efficiently Scaling Transformer Inference, arXiv 2211.05102, Table 1")
    'Pope et al. 2022'
    """
    return re.split(r"[,:(;]", paper)[0].strip()[:_LONGEST_NAME]


def _figure(records: list[dict[str, Any]]) -> Figure:
    names = list(dict.fromkeys(_short(record["paper"]) for record in records))
    figure = new_figure(0.55 + 0.19 * len(names))
    axes = figure.add_subplot()
    low, high = _TICKS[0] * 0.95, _TICKS[-1] * 1.05
    for record in records:
        colour, marker = _KINDS[record["split"]]
        good = record["verdict"] == "within tolerance"
        axes.plot(min(max(record["ratio"], low), high), names.index(_short(record["paper"])), marker, color=colour,
                  markersize=4.0, markerfacecolor=colour if good else "none", markeredgewidth=0.0 if good else 0.8,
                  alpha=0.75 if good else 1.0, zorder=3, clip_on=False)
    axes.axvline(1.0, color=INK, linewidth=0.7, zorder=1)
    log_ticks(axes, "x", _TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.set_xlim(low, high)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names, fontsize=SMALL_POINTS)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("ours / published")
    return figure
