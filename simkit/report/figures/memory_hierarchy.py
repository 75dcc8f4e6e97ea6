r"""One chip's memory hierarchy: a box a level, nearest first, and the path from each to the compute units.

Boxes are wider for more capacity (10 MB to 1 TB) and paths for more bandwidth (100 GB/s to 10 PB/s), by the decade.
Ridge points are :math:`R = \pi / \beta` at vendor peaks, of the format in which a bf16 workload runs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from simkit.hardware.hierarchy import LevelWords, compute_words, level_words, link_words
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure

# Everything in units of a figure one wide and one level tall.
_BOX_HEIGHT: Final = 0.66
_NOTCH: Final = 0.07
_FOOT: Final = 0.34
_WIDTH: Final = (0.68, 1.0)
_COMPUTE_WIDTH: Final = 0.84
_CAPACITIES: Final = (1e7, 1e12)
_THICKNESS: Final = (0.008, 0.06)
_BANDWIDTHS: Final = (1e11, 1e16)
_LEVEL_INCHES: Final = 0.62
_TILES: Final = 24
_FILLS: Final = {"sram": style.cause_colour("latency"), "cache": style.cause_colour("other"),
                 "dram": style.cause_colour("cache")}


def draw_hierarchy(chip: HardwareProfile) -> DrawnFigure:
    """The diagram of a profile. Call inside ``style.house_style()``."""
    words = [level_words(chip, level) for level in chip.memory]
    units, rates = compute_words(chip)
    link = link_words(chip)
    rows = [{"hardware": chip.name, "level": level.name, "kind": level.kind, "scope": level.scope,
             "capacity_bytes": level.chip_capacity_bytes, "bandwidth_bytes_per_s": level.chip_bandwidth_bytes_per_s,
             "latency_s": level.latency_s, "ridge_flop_per_byte": chip.ridge_point_flop_per_byte(level.name)}
            for level in chip.memory]
    return DrawnFigure(
        title=f"Memory of {chip.title}", figure=_figure(chip, words, units, rates, link), rows=rows,
        finding=f"{len(rows)} levels between {units} and "
                f"{words[-1].size} of {chip.memory[-1].name}; {chip.main_memory.name} has its ridge at "
                f"{level_words(chip, chip.main_memory).ridge.removeprefix('ridge ')}.",
        how_to_read="A box is a level, wider by the decade of capacity; the path above it is thicker by the decade of "
                    "bandwidth, all paths together those of the whole chip. Notched: one memory for each compute unit.",
        inputs=f"{chip.name}, vendor peaks; reached: peak times the achievable fraction",
        alt=f"Boxes from top to bottom: {units}; " + "; ".join(
            f"{item.heading}, {item.size}, {item.path}, {item.ridge}" for item in words) + ".")


def _figure(chip: HardwareProfile, words: list[LevelWords], units: str, rates: str, link: str | None) -> Any:
    steps = len(words) + 1 + (link is not None)
    figure = style.new_figure(_LEVEL_INCHES * (steps - 1 + (_FOOT if link else _BOX_HEIGHT)) + 0.1)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-0.005, 1.005)
    axes.set_ylim(-(steps - 1) - (_FOOT if link else _BOX_HEIGHT + 0.02), 0.02)
    _box(axes, 0, _COMPUTE_WIDTH, style.cause_colour("compute"))
    _text(axes, 0, [chip.title, units, rates])
    for step, (level, item) in enumerate(zip(chip.memory, words, strict=True), start=1):
        rate = level.chip_bandwidth_bytes_per_s
        _path(axes, step, _by_decade(rate, _BANDWIDTHS, _THICKNESS), item.path, item.ridge, known=rate is not None)
        _box(axes, step, _by_decade(level.chip_capacity_bytes, _CAPACITIES, _WIDTH), _FILLS[level.kind],
             tiles=min(level.units, _TILES) if level.scope == "unit" else 1, dashed=level.overflow)
        _text(axes, step, [item.heading, item.size, f"holds {item.holds}"])
    if link is not None:
        _path(axes, steps - 1, _THICKNESS[0], "", "", known=True)
        axes.text(0.5, -(steps - 1) - 0.02, "other chips: " + link.replace(": ", "\n", 1), ha="center", va="top",
                  fontsize=style.SMALL_POINTS, color=style.INK)
    return figure


def _by_decade(value: float | None, ends: tuple[float, float], sizes: tuple[float, float]) -> float:
    """A size for a value by its logarithm, the same for every chip; beyond the ends, and unknown, the nearest one."""
    if not value:
        return sizes[0]
    share = float(np.log(value / ends[0]) / np.log(ends[1] / ends[0]))
    return sizes[0] + (sizes[1] - sizes[0]) * min(max(share, 0.0), 1.0)


def _box(axes: Axes, step: int, width: float, fill: str, *, tiles: int = 1, dashed: bool = False) -> None:
    left, top, bottom = 0.5 - width / 2, -float(step), -step - _BOX_HEIGHT
    axes.add_patch(Rectangle((left, bottom), width, _BOX_HEIGHT, facecolor=fill, edgecolor=style.SOFT_INK,
                             linewidth=0.6, linestyle="--" if dashed else "-"))
    cuts = [left + width * index / tiles for index in range(1, tiles)]
    for edge, inner in ((top, top - _NOTCH), (bottom, bottom + _NOTCH)):  # the words stand between them
        axes.vlines(cuts, inner, edge, color=style.SOFT_INK, linewidth=0.6)


def _path(axes: Axes, step: int, thickness: float, left: str, right: str, *, known: bool) -> None:
    """The way up from a box, with its words on both sides; unknown bandwidths are drawn dotted."""
    top, bottom = -(step - 1) - _BOX_HEIGHT, -float(step)
    if known:
        axes.add_patch(Rectangle((0.5 - thickness / 2, bottom), thickness, top - bottom, facecolor=style.SOFT_INK,
                                 linewidth=0))
    else:
        axes.plot([0.5, 0.5], [bottom, top], ":", color=style.SOFT_INK, linewidth=1.0)
    middle, gap = (top + bottom) / 2, _THICKNESS[1] / 2 + 0.01
    axes.text(0.5 - gap, middle, left, ha="right", va="center", fontsize=style.SMALL_POINTS, color=style.INK)
    axes.text(0.5 + gap, middle, right, ha="left", va="center", fontsize=style.SMALL_POINTS, color=style.INK)


def _text(axes: Axes, step: int, lines: list[str]) -> None:
    for index, line in enumerate(lines):
        axes.text(0.5, -step - _BOX_HEIGHT * (0.22 + 0.29 * index), line, ha="center", va="center",
                  color=style.FILL_INK, fontsize=style.TEXT_POINTS if index == 0 else style.SMALL_POINTS,
                  fontweight="bold" if index == 0 else "normal")
