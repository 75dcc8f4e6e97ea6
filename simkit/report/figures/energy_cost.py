"""Dollars and joules of a million tokens, layout by layout, on the chips whose prices and energies have a source."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.dumbbell import Row, axis_end, draw_rows
from simkit.report.drawing.ranges import caption, columns_of, range_of
from simkit.report.drawing.style import layout_name, log_ticks, new_figure, round_ticks
from simkit.study.evaluate import FIT_EACH, Evaluated

# Column, title of its panel, what it is called in words, and the keys of the profile that it follows from.
_PANELS: Final = (
    ("cost_usd_per_mtok", "US dollars a million tokens, rented", "rent", ("price.per_hour",)),
    ("owned_usd_per_mtok", "US dollars a million tokens, bought", "cost of a bought chip",
     ("price.purchase", "power.tdp")),
    ("energy_j_per_token", "joules a token", "energy", ("power.idle", "power.flop_energy")))


def draw(context: FigureContext) -> DrawnFigure:
    """A panel for rent, for bought chips and for energy, each as far as the profiles know it."""
    request = context.request
    layouts = list(request.layouts)
    done, omissions = ask.for_each_chip(request.hardware, lambda chip: ask.every_layout(request, chip))
    known = {field: {name: found for name, found in done.items()
                     if any(math.isfinite(ask.scalar(point, field)) for point in found.values())}
             for field, *_ in _PANELS}
    fitting = {name: [layout for layout, point in found.items() if ask.fits(point)] for name, found in done.items()}
    for name, found in done.items():
        omissions += ask.left_out(request, name, fitting[name])
        if fitting[name]:
            keys = str(found[layouts[0]].select(("unknown_costs",))["unknown_costs"].item()).split("; ")
            omissions += [ask.Omission(chip=name, reason=_why_unknown(word, [key for key in needed if key in keys]))
                          for field, _, word, needed in _PANELS if name not in known[field]]
    rows = [{"hardware": name, "attention": layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": ask.scalar(point, "chips"), "level": ask.cache_home(point),
             **{name: value for field, *_ in _PANELS for name, value in (
                 (field, ask.scalar(point, field)), *columns_of(field, range_of(point, field)).items())}}
            for name, found in done.items() for layout, point in found.items()]
    return DrawnFigure(
        title=request.title or "What a million tokens cost",
        figure=_figure(context, known, layouts), rows=rows, finding=_finding(context, known, layouts),
        how_to_read="Rented: all chips for the time of the tokens, at the profile's price per hour (the lowest public "
                    f"one, see its source). {_words_of_bought(done)} {ask.same_chips_text(request)}"
                    + caption(request.hardware, "bars are the range of what a layout takes, its time's: no range of "
                                                "prices and energies themselves"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Dumbbell chart. " + " ".join(
            f"{context.label(name)}: " + ", ".join(f"{layout_name(layout)} {ask.scalar(point, field):.3g}"
                                                   for layout, point in found.items()
                                                   if math.isfinite(ask.scalar(point, field))) + f" {title}."
            for field, title, *_ in _PANELS for name, found in known[field].items()))


def _why_unknown(word: str, keys: list[str]) -> str:
    """The missing keys of a profile; without any it is the energy of a byte of the memory that is read."""
    return f"no {word}: no source gives {' and '.join(keys) or 'the energy of a byte of the memory that is read'}"


def _words_of_bought(done: dict[str, dict[str, Evaluated]]) -> str:
    point = next(iter(next(iter(done.values())).values()))
    return (f"Bought: the chips' price and their power limit over {point.points.scenario.ownership.terms}; no host, "
            "network, cooling or staff. These terms are examples.")


def _figure(context: FigureContext, known: dict[str, dict[str, dict[str, Evaluated]]], layouts: list[str]) -> Any:
    shown = [(field, title) for field, title, *_ in _PANELS if known[field]]
    row = 0.36 if context.request.chips == FIT_EACH else 0.28  # inches; a line more where the chips differ
    height = sum(0.62 + row * len(known[field]) for field, _ in shown)
    figure = new_figure(max(height, 1.0))
    if not shown:
        figure.add_subplot().set_axis_off()
        figure.axes[0].text(0.5, 0.5, "no price or energy of a chip that holds the model has a source", ha="center")
        return figure
    rows = {field: [Row(style=context.styles[name], under=ask.machines_text(found.values(), between="\n"),
                        values={layout: ask.scalar(point, field) for layout, point in found.items()},
                        ranges={layout: range_of(point, field) for layout, point in found.items()})
                    for name, found in known[field].items()] for field, _ in shown}
    texts = {field: {place: " → ".join(f"{row.values[layout]:.3g}" if math.isfinite(row.values[layout]) else "–"
                                       for layout in layouts) for place, row in enumerate(found)}
             for field, found in rows.items()}
    panels = np.atleast_1d(figure.subplots(len(shown), 1, height_ratios=[len(known[field]) + 1 for field, _ in shown]))
    for axes, (field, title) in zip(panels, shown, strict=True):
        # Rented and bought chips stand on one scale, to be compared across panels.
        alike = [other for other in rows if other.endswith("usd_per_mtok") == field.endswith("usd_per_mtok")]
        values = [value for other in alike for row in rows[other] for value in (
            *row.values.values(), *(end for ends in row.ranges.values() for end in ends or ())) if math.isfinite(value)]
        low, high = min(values), max(values)
        ticks = round_ticks(low * 0.7, high * 1.3, (1, 2, 5) if high < 100 * low else (1,))
        log_ticks(axes, "x", ticks, [f"{tick:g}" for tick in ticks])
        draw_rows(axes, rows[field], layouts, texts[field])
        axes.set_xlim(low * 0.7, max(axis_end(rows[other], texts[other], low * 0.7) for other in alike))
        axes.set_xlabel(title)
    return figure


def _finding(context: FigureContext, known: dict[str, dict[str, dict[str, Evaluated]]], layouts: list[str]) -> str:
    sentences = []
    first, second = (layout_name(layout) for layout in layouts[:2])
    for field, title, *_ in _PANELS:
        # Above 1 the second layout is the cheaper.
        ratios = {name: ask.scalar(found[layouts[0]], field) / ask.scalar(found[layouts[1]], field)
                  for name, found in known[field].items()}
        ratios = {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio)}
        if not ratios:
            continue
        lowest, cheapest = min((ask.scalar(found[layouts[1]], field), name) for name, found in known[field].items()
                               if name in ratios)
        sentences.append(
            f"In {title} {first} takes {context.span(ratios)} what {second} takes; {second}'s least is {lowest:.3g} on "
            f"{context.label(cheapest)}.")
    if sentences:
        return " ".join(sentences)
    return f"0 of these chips hold both {first} and {second} and have a price or an energy with a source."
