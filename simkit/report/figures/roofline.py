r"""Hierarchical roofline: every chip's ceilings, and where MHA, GQA and MQA attention stand under them.

.. math:: P(I) = \min(\pi,\; \beta_l I) \qquad I = 2 q g / b_{kv}

Williams, Waterman, Patterson 2009. Rates are achievable ones (peak times the profile's achievable fraction).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.foundation.units import FLOP_PER_S
from simkit.hardware.parameters import with_assumed
from simkit.hardware.profile import HardwareProfile
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import parse_format
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.ranges import Range, caption, columns_of, draw_band, draw_range
from simkit.report.drawing.study_points import cache_home, evaluate, for_each_chip, inputs_text
from simkit.report.drawing.style import SOFT_INK, decade_axis, layout_name, log_ticks, new_figure, note
from simkit.study.ranges import both_ends

_INTENSITY: Final = np.geomspace(0.25, 16384, 400)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Roof:
    """``ends``: the slow and the fast end of the roofs of a chip with assumed parameters."""

    chip: HardwareProfile
    home: str
    compute_flop_per_s: float
    level_bytes_per_s: dict[str, float]
    ends: tuple[_Roof, _Roof] | None = None

    def attainable_flop_per_s(self, level: str, intensity: Any) -> Any:
        return np.minimum(self.compute_flop_per_s, self.level_bytes_per_s[level] * intensity)

    def range_flop_per_s(self, level: str, intensity: Any) -> Range | None:
        if self.ends is None:
            return None
        slow, fast = (end.attainable_flop_per_s(level, intensity) for end in self.ends)
        return slow, fast

    @property
    def ridge_flop_per_byte(self) -> float:
        return float(self.chip.ridge_point_flop_per_byte(self.home))


def draw(context: FigureContext) -> DrawnFigure:
    """Ceilings of every chip of the request with the layouts' attention intensities on them."""
    request = context.request

    roofs, omissions = for_each_chip(
        request.hardware, lambda chip: _roof(chip, cache_home(evaluate(request, chip, request.layouts[0]))))
    bytes_per_element = parse_format(request.kv_dtype).bytes_per_element
    intensities = {name: 2 * request.model.n_q_heads / parse_layout(name, request.model).n_kv_heads / bytes_per_element
                   for name in request.layouts}
    rows = [{"hardware": name, "level": level, "holds_cache": level == item.home, "level_bytes_per_s": rate,
             "compute_flop_per_s": item.compute_flop_per_s, "ridge_flop_per_byte": item.compute_flop_per_s / rate,
             "attention": layout, "arithmetic_intensity": intensity,
             "attainable_flop_per_s": float(item.attainable_flop_per_s(level, intensity)),
             **columns_of("attainable_flop_per_s", item.range_flop_per_s(level, intensity))}
            for name, item in roofs.items() for level, rate in item.level_bytes_per_s.items()
            for layout, intensity in intensities.items()]
    return DrawnFigure(
        title=request.title or "Roofline: where each layout's attention stands on each chip",
        figure=_figure(context, roofs, intensities), rows=rows, finding=_finding(context, roofs, intensities),
        how_to_read="Bold: the memory level in which the cache lives (named in the label); faint: the other levels. "
                    "Dashed chips are ASICs. Left of a chip's knee fewer KV heads buy speed, up to launch and set-up "
                    "costs; right of it nothing." + caption(
                        request.hardware, "bands and bars are the range of the roof in bold"),
        inputs=inputs_text(request), omissions=omissions,
        alt="Log-log plot of attainable flop/s against attention intensity in flop per byte, one bent line a chip; "
            + "; ".join(f"{context.label(n)} bends at {r.ridge_flop_per_byte:.3g}" for n, r in roofs.items()) + ".")


def _roof(chip: HardwareProfile, home: str) -> _Roof:
    """The roofs of a chip and, where it has assumed parameters, those with all of them slow and all of them fast."""
    rates = {level.name: level.achievable_bytes_per_s for level in chip.memory}
    own = _Roof(chip=chip, home=home, level_bytes_per_s={k: v for k, v in rates.items() if v is not None},
                compute_flop_per_s=chip.compute.matrix_achievable_flop_per_s("bf16"))
    if not chip.has_range:
        return own
    fast, slow = (_roof(replace(with_assumed(chip, end), assumed=()), home) for end in both_ends(chip))
    return replace(own, ends=(slow, fast))


def _figure(context: FigureContext, roofs: dict[str, _Roof], intensities: dict[str, float]) -> Any:
    figure = new_figure(3.5)
    axes = figure.add_subplot()
    for name, item in roofs.items():
        style = context.styles[name]
        for level in item.level_bytes_per_s:
            main = level == item.home
            reach = item.attainable_flop_per_s(level, _INTENSITY)
            axes.plot(_INTENSITY, reach, style.line, color=style.colour, linewidth=1.3 if main else 0.5,
                      alpha=1.0 if main else 0.35, zorder=3 if main else 1)
        draw_band(axes, _INTENSITY, item.range_flop_per_s(item.home, _INTENSITY), style.colour)
        for intensity in intensities.values():
            axes.plot(intensity, item.attainable_flop_per_s(item.home, intensity), style.marker, color=style.colour,
                      markersize=3.6, markerfacecolor=style.face, markeredgewidth=0.7, zorder=4)
            draw_range(axes, intensity, item.range_flop_per_s(item.home, intensity), style.colour)
    for intensity in intensities.values():
        axes.axvline(intensity, color=SOFT_INK, linewidth=0.6, linestyle=":", zorder=0)
    log_ticks(axes, "x", [0.25, 1, 4, 16, 64, 256, 1024, 4096, 16384],
              ["¼", "1", "4", "16", "64", "256", "1k", "4k", "16k"])
    decade_axis(axes, "y", FLOP_PER_S)
    # The lowest marker is what must be seen; on-chip levels may leave the frame at the top left.
    shown = [one for r in roofs.values() for one in (r, *(r.ends or ()))]
    low = min(float(r.attainable_flop_per_s(r.home, min(intensities.values()))) for r in shown)
    high = max(r.compute_flop_per_s for r in shown)
    axes.set_ylim(10 ** np.floor(np.log10(low)), high * 2.5)
    axes.set_xlim(_INTENSITY[0], _INTENSITY[-1])
    axes.set_xlabel("attention intensity [flop per byte of cache]")
    axes.set_ylabel("attainable rate of one chip")
    for name, intensity in intensities.items():
        note(axes, layout_name(name), (intensity, 1.0), (0, 2), xycoords=("data", "axes fraction"), ha="center",
             va="bottom", fontweight="bold")
    margin_labels(axes, [
        Label(x=_INTENSITY[-1], y=item.compute_flop_per_s, text=f"{context.label(name)} · {item.home}",
              colour=context.styles[name].colour) for name, item in roofs.items()])
    return figure


def _finding(context: FigureContext, roofs: dict[str, _Roof], intensities: dict[str, float]) -> str:
    least, most = min(intensities.values()), max(intensities.values())
    names = {value: layout_name(name) for name, value in intensities.items()}
    above = [context.label(n) for n, r in roofs.items() if r.ridge_flop_per_byte >= most]
    below = [(context.label(n), r) for n, r in roofs.items() if r.ridge_flop_per_byte < most]
    text = f"On {len(above)} of {len(roofs)} chips even {names[most]} ({most:g} flop/byte) stays left of the knee"
    text += (": attention is bound by the memory that holds the cache, and fewer KV heads pay in full. " if above
             else ". ")
    if below:
        text += "The knee comes before it on " + ", ".join(
            f"{label} ({r.ridge_flop_per_byte:.2g} flop/byte, cache in {r.home})" for label, r in below) + "."
    full = max(roofs.values(), key=lambda r: r.ridge_flop_per_byte)
    share = float(full.attainable_flop_per_s(full.home, least)) / full.compute_flop_per_s
    text += (f" The highest knee is {context.label(full.chip.name)}'s with the cache in {full.home} "
             f"({full.ridge_flop_per_byte:,.0f} flop/byte): {names[least]} attention uses {share:.2%} of its "
             "arithmetic.")
    return text
