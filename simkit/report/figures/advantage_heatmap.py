"""A layout's whole-step speedup over MHA across batch and context, on a few chips side by side, with contours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import RANGE, caption
from simkit.report.drawing.study_points import evaluate, for_each_chip, inputs_text, no_room
from simkit.report.drawing.style import FILL_INK, INK, SMALL_POINTS, layout_name, new_figure, times, tokens
from simkit.study.evaluate import FIT_EACH, Evaluated
from simkit.study.record import to_records

_LEVELS: Final = (1.1, 1.5, 2.0, 3.0, 5.0)
_PAYS: Final = 1.1
_COLUMNS: Final = ("hardware", "attention", "batch", "kv_len", "chips", "fits", "step_time_s", "speedup_vs_mha",
                   "speedup_vs_mha_low", "speedup_vs_mha_high")
_COLOURS: Final = "YlGnBu"
_LABEL_PAPER: Final = "#fdfdfdcc"  # stays light on a dark page, as the cells do


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantage:
    """One chip's grid [batch, context]: speedup (NaN where MHA fits nowhere) and the chips that each layout needs.

    ``unsure``: where what is assumed decides whether the layout gains 10 %. ``spilled`` names the overflow tier
    that holds MHA's cache where the speedup is largest, if one does.
    """

    speedup_factor: Any
    chips: Any
    own_chips: Any
    mha_fits: Any
    unsure: Any
    spilled: str | None
    records: list[dict[str, Any]]

    @property
    def is_known(self) -> bool:
        """Whether MHA fits beside the layout at any point."""
        return bool(np.any(np.isfinite(self.speedup_factor)))

    @property
    def is_larger(self) -> Any:
        """Where MHA fits, on more chips than the layout alone would take."""
        return self.mha_fits & (self.chips > self.own_chips)

    @property
    def is_larger_everywhere(self) -> bool:
        """Whether that is so wherever MHA fits."""
        return bool(np.any(self.mha_fits)) and np.array_equal(self.is_larger, self.mha_fits)


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip for the first layout of the request that is not MHA."""
    request = context.request
    layout = next(name for name in request.layouts if name != "mha")
    batch, kv_len = np.meshgrid(np.array(request.batch, float), np.array(request.kv_len, float), indexing="ij")

    def grid(chip: HardwareProfile) -> Advantage:
        point = evaluate(request, chip, layout, batch=batch, kv_len=kv_len)
        rival = evaluate(request, chip, "mha", batch=batch, kv_len=kv_len)
        alone = point if isinstance(request.chips, int) else evaluate(
            request, chip, layout, batch=batch, kv_len=kv_len, chips=FIT_EACH)
        ours, base = point.select(_COLUMNS), rival.select(("chips", "fits"))
        speedup = ours["speedup_vs_mha"]
        unsure = (ours["speedup_vs_mha_low"] < _PAYS) & (ours["speedup_vs_mha_high"] >= _PAYS)
        return Advantage(speedup_factor=speedup, chips=base["chips"], own_chips=alone.select(("chips",))["chips"],
                         mha_fits=base["fits"], spilled=_spilled(rival, speedup), unsure=unsure,
                         records=to_records(ours))

    done, omissions = for_each_chip(request.hardware, grid)
    rows = []
    for found in done.values():
        for record, own, mha_fits in zip(found.records, found.own_chips.ravel(), found.mha_fits.ravel(), strict=True):
            rows.append({**record, "chips_alone": int(own), "mha_fits": bool(mha_fits)})
    return DrawnFigure(
        title=request.title or f"{layout_name(layout)}'s step speedup over batch and context",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done, layout),
        how_to_read="Lines join equal speedups."
                    + (f" Striped: the chips hold MHA, and {layout_name(layout)} alone would need fewer."
                       if any(np.any(one.is_larger) and not one.is_larger_everywhere for one in done.values()) else "")
                    + (f" Crossed: {no_room(request, point=False)}."
                       if any(not np.all(one.mha_fits) for one in done.values()) else "")
                    + caption(request.hardware, "ringed cells may lie on either side of 10 %, by their range"),
        inputs=inputs_text(request, point=False), omissions=omissions,
        alt=f"Heat maps of {layout_name(layout)}'s speedup over MHA, context along and batch up. " + " ".join(
            f"{context.label(n)}: from {times(float(np.nanmin(f.speedup_factor)))} to "
            f"{times(float(np.nanmax(f.speedup_factor)))}." for n, f in done.items() if f.is_known))


def _spilled(rival: Evaluated, speedup_factor: Any) -> str | None:
    """The overflow tier that holds a part of MHA's cache at the point of the largest speedup."""
    if not np.any(np.isfinite(speedup_factor)):
        return None
    where = int(np.nanargmax(speedup_factor))
    for level in rival.hardware.memory:
        share = np.broadcast_to(np.asarray(rival.placement.kv.get(level.name, 0.0)), speedup_factor.size)
        if level.overflow and share[where] > 0:
            return level.name
    return None


def _figure(context: FigureContext, done: dict[str, Advantage]) -> Figure:
    request = context.request
    figure = new_figure(2.35)
    panels = np.atleast_1d(figure.subplots(1, len(done), sharey=True))
    highest = max(8.0, *(float(np.nanmax(f.speedup_factor)) for f in done.values() if f.is_known))
    norm = LogNorm(1.0, highest)
    step = 2 if len(done) < 3 else 3
    columns, rows = np.arange(len(request.kv_len)), np.arange(len(request.batch))
    image: Any = None
    for axes, (name, found) in zip(panels, done.items(), strict=True):
        image = axes.imshow(found.speedup_factor, origin="lower", aspect="auto", cmap=_COLOURS, norm=norm)
        axes.grid(visible=False)
        if not found.is_larger_everywhere:  # stripes over the whole map would say nothing: the caption does
            _hatch(axes, found.is_larger, "////")
        _hatch(axes, ~found.mha_fits, "xxxx")
        axes.plot(*np.nonzero(found.unsure)[::-1], "o", linestyle="none", markersize=2.6, markerfacecolor="none",
                  markeredgewidth=0.6, color=FILL_INK, label=RANGE)
        if min(found.speedup_factor.shape) > 1 and found.is_known:
            present = [v for v in _LEVELS if np.nanmin(found.speedup_factor) < v < np.nanmax(found.speedup_factor)]
            if present:
                lines = axes.contour(columns, rows, found.speedup_factor, levels=present, colors=FILL_INK,
                                     linewidths=0.7)
                texts = axes.clabel(lines, fmt=lambda value: f"{value:g}×", fontsize=SMALL_POINTS, inline_spacing=2)
                for text in texts:
                    text.set_bbox({"facecolor": _LABEL_PAPER, "edgecolor": "none", "pad": 0.6})
        axes.set_xticks(columns[::step], [tokens(request.kv_len[i]) for i in columns[::step]], fontsize=SMALL_POINTS)
        axes.set_yticks(rows[::2], [tokens(request.batch[i]) for i in rows[::2]], fontsize=SMALL_POINTS)
        axes.set_title(context.marked(name))
        axes.set_xlabel("cached tokens")
        axes.tick_params(length=0)
    panels[0].set_ylabel("batch [sequences]")
    bar = figure.colorbar(image, ax=list(panels), shrink=0.9, pad=0.02, aspect=24, label="step, speedup over MHA")
    marks = [v for v in (1, 2, 4, 8, 16, 32) if v <= highest * 1.01]
    bar.set_ticks(marks, labels=[f"{v}×" for v in marks])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=INK)
    return figure


def _hatch(axes: Any, cells: Any, pattern: str) -> None:
    """Hatch the cells that are true, with no outline."""
    for row, column in zip(*np.nonzero(cells), strict=True):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch=pattern, linewidth=0.0,
                                 edgecolor="#8a929c"))


def _finding(context: FigureContext, done: dict[str, Advantage], layout: str) -> str:
    request = context.request
    sentences = []
    for name, found in done.items():
        label = context.label(name)
        if not found.is_known:
            sentences.append(f"On {label} MHA fits nowhere in this range.")
            continue
        row, column = np.unravel_index(np.nanargmax(found.speedup_factor), found.speedup_factor.shape)
        paying = np.mean(found.speedup_factor[found.mha_fits] >= _PAYS)
        unsure = np.mean(found.unsure[found.mha_fits])
        spill = f", where MHA's cache has spilled into {found.spilled}" if found.spilled else ""
        sentences.append(
            f"{label}: up to {times(float(found.speedup_factor[row, column]))} (batch {request.batch[row]}, "
            f"{tokens(request.kv_len[column])} tokens{spill}), 10 % or more in {paying:.0%} of the points where MHA "
            "fits"
            + (f" (what is assumed decides in {unsure:.0%})" if unsure else "")
            + (f", everywhere on more chips than {layout_name(layout)} alone needs." if found.is_larger_everywhere
               else "."))
    return " ".join(sentences)
