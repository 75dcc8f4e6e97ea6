"""KV cache of one sequence against its context, with the memory of one chip and of each chip's largest system."""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.foundation.units import BYTES, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.study_points import beyond_context, evaluate
from simkit.report.drawing.style import (
    INK,
    INK_DASHES,
    PAPER,
    SOFT_INK,
    count,
    decade_axis,
    layout_name,
    log_ticks,
    new_figure,
    note,
    tokens,
)


def draw(context: FigureContext) -> DrawnFigure:
    """One line a layout; each chip's usable memory as a level line, whole systems on the far side."""
    request = context.request
    kv_len = np.array(request.kv_len, dtype=float)
    caches = {layout: evaluate(request, request.hardware[0], layout, batch=1.0, kv_len=kv_len).select(
        ("kv_cache_bytes",))["kv_cache_bytes"]
              for layout in request.layouts}
    rooms = {chip.name: (_room_bytes(chip), chip.max_chips) for chip in request.hardware}
    rows: list[dict[str, Any]] = [
        {"series": "cache", "attention": layout, "kv_len": int(length), "kv_cache_bytes": int(size)}
        for layout, sizes in caches.items() for length, size in zip(kv_len, sizes, strict=True)]
    rows += [{"series": "capacity", "hardware": name, "chip_usable_bytes": room, "max_chips": most,
              "system_usable_bytes": room * most} for name, (room, most) in rooms.items()]
    return DrawnFigure(
        title=request.title or "KV cache of one sequence against the memory of chips and systems",
        figure=_figure(context, kv_len, caches, rooms), rows=rows, finding=_finding(context, kv_len, caches, rooms),
        how_to_read="Level lines: memory for weights and cache, of one chip (solid) and of the largest system of it "
                    "(dotted, with its number of chips). Overflow tiers, such as DDR, are not counted. Weights have to "
                    "fit as well.",
        inputs=f"{request.model.title}; one sequence; cache {request.kv_dtype}.{beyond_context(request, point=False)}",
        alt="Log-log plot of cache bytes against context. At "
            f"{tokens(kv_len[-1])} tokens: " + ", ".join(
                f"{layout_name(n)} {format_quantity(float(s[-1]), BYTES)}" for n, s in caches.items()) + ".")


def _room_bytes(chip: HardwareProfile) -> float:
    return float(sum(level.usable_bytes for level in chip.homes("kv") if not level.overflow))


def _figure(context: FigureContext, kv_len: Any, caches: dict[str, Any], rooms: dict[str, tuple[float, int]]) -> Any:
    figure = new_figure(4.4)
    axes = figure.add_subplot()
    low = min(float(sizes[0]) for sizes in caches.values())
    high = max(*(room * most for room, most in rooms.values()), *(float(s[-1]) for s in caches.values()))
    axes.set_ylim(low * 0.6, high * 2)
    for name, (room, most) in rooms.items():
        colour = context.styles[name].colour
        axes.axhline(room, color=colour, linewidth=0.7, zorder=1)
        axes.axhline(room * most, color=colour, linewidth=0.7, linestyle=":", zorder=1)
    step = max(1, -(-len(kv_len) // 6))
    log_ticks(axes, "x", kv_len[::step], [tokens(value) for value in kv_len[::step]])
    decade_axis(axes, "y", BYTES)
    alone = len(kv_len) == 1  # a single context is a mark in the middle, where several are a line from edge to edge
    axes.set_xlim(kv_len[0] / (2 if alone else 1), kv_len[-1] * (2 if alone else 1))
    for index, (layout, sizes) in enumerate(caches.items()):
        axes.plot(kv_len, sizes, color=INK, linewidth=1.5, linestyle=INK_DASHES[index % len(INK_DASHES)], zorder=4,
                  marker="o" if alone else None, markersize=3)
        place = int(len(kv_len) * 0.36)
        note(axes, layout_name(layout), (kv_len[place], sizes[place]), (-4 if alone else -1, 0.5), ha="right",
             va="bottom", fontweight="bold", zorder=5, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8})
    axes.set_xlabel("context of one sequence [tokens]")
    axes.yaxis.set_tick_params(length=0)
    axes.grid(visible=False)
    axes.set_ylabel("bytes")
    styles = context.styles
    margin_labels(axes, [
        *(Label(x=0, y=room, text=styles[name].label, colour=styles[name].colour) for name, (room, _) in rooms.items()),
        *(Label(x=0, y=room * most, text=f"{count(most)} × {styles[name].label}", colour=styles[name].colour)
          for name, (room, most) in rooms.items() if most > 1)])
    note(axes, "one chip (solid), largest\nsystem (dotted):", (1.06, 1.0), (0, 3), xycoords="axes fraction",
         color=SOFT_INK, ha="left", va="bottom")
    return figure


def _finding(context: FigureContext, kv_len: Any, caches: dict[str, Any], rooms: dict[str, tuple[float, int]]) -> str:
    place = int(np.argmin(np.abs(kv_len - 4096)))
    sizes = ", ".join(f"{format_quantity(float(s[place]), BYTES, digits=4)} with {layout_name(n)}"
                      for n, s in caches.items())
    small, (room, _) = min(rooms.items(), key=lambda item: item[1][0])
    big, (most_room, _) = max(rooms.items(), key=lambda item: item[1][0])
    chips = ", ".join(f"{float(s[place]) / room:.1f} with {layout_name(n)}" for n, s in caches.items())
    reach = "; ".join(f"{layout_name(n)} {tokens(_power_of_two_below(most_room / float(s[place]) * kv_len[place]))}"
                      for n, s in caches.items())
    return (f"One sequence of {count(kv_len[place])} tokens takes {sizes}; in chips of {context.label(small)}, the "
            f"smallest memory here: {chips}. The largest, {context.label(big)}'s {format_quantity(most_room, BYTES)}, "
            f"would hold one sequence, without any weights, of at least: {reach} tokens.")


def _power_of_two_below(value: float) -> float:
    return float(2 ** int(np.floor(np.log2(value))))
