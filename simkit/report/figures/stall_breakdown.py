"""What one attention kernel's units wait for, replayed tile by tile: launch, latency, each memory level, arithmetic.

Shares of each kernel's own time, so that a short kernel can be read beside a long one; the time stands beside its bar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.replay.engine import replay_point
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import caption, columns_of, range_of
from simkit.report.drawing.stacked_bars import Bar, Panel, Part, stacked_bars
from simkit.report.drawing.style import cause_colour, layout_name
from simkit.study.engines import refuse_tiles
from simkit.study.evaluate import Evaluated

# A stall by the replay's name, as the figure calls it, with its fill.
_STALLS: Final = {
    "load_path": ("load path", "load_path"), "launch": ("launch", "links"),
    "latency": ("set-up, first loads", "latency"), "compute": ("arithmetic", "compute"),
    "special_function": ("exponentials", "replicas"), "imbalance": ("idle tail", "weights")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    layout: str
    time_s: float
    range_s: tuple[float, float] | None
    stalls_s: dict[str, float]
    point: Evaluated
    home: str


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one bar a layout, of one layer's attention at the focus point."""
    request = context.request

    def kernel(chip: HardwareProfile, layout: str, point: Evaluated) -> _Kernel:
        refuse_tiles(chip)
        # Layers are alike as far as they keep the same tokens; the first kind stands for the model.
        replay = replay_point(point.step.attention_operators[0], point.placement, chip, 0,
                              np.shape(point.step.workload.batch))
        # One kind of layer takes part in the range of all attention as in its time.
        share = replay.total_s / ask.scalar(point, "attention_time_s")
        ends = range_of(point, "attention_time_s")
        return _Kernel(layout=layout, time_s=replay.total_s, stalls_s=dict(replay.stall_s), point=point,
                       range_s=ends and (ends[0] * share, ends[1] * share), home=ask.cache_home(point))

    drawn, omissions = ask.fitting_layouts(request, kernel)
    done = {name: list(found.values()) for name, found in drawn.items()}
    rows = [{"hardware": name, "attention": kernel.layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": int(ask.scalar(kernel.point, "chips")), "level": kernel.home, "kernel_time_s": kernel.time_s,
             **columns_of("kernel_time_s", kernel.range_s),
             **{f"{stall}_s": value for stall, value in kernel.stalls_s.items()}}
            for name, found in done.items() for kernel in found]
    return DrawnFigure(
        title=request.title or "What attention's units wait for, replayed",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done),
        how_to_read="One layer's attention kernel on one chip, cold caches; bars are shares of the kernel's own time, "
                    "which stands beside them. Load path: a unit keeps too few bytes in flight for the latency "
                    "of its loads; idle tail: units that are done. "
                    f"{ask.same_chips_text(request)}"
                    + caption(request.hardware, "a line is the range of the kernel's time (an arrow: it goes on), as "
                                                "far apart as the roofline's"),
        inputs=ask.inputs_text(request).replace(f"engine: {request.engine}", "engine: replay"), omissions=omissions,
        alt="Stacked bars of shares. " + " ".join(
            f"{context.label(name)} {layout_name(k.layout)}: {format_quantity(k.time_s, SECONDS)}, "
            + ", ".join(f"{_name(s)} {v / k.time_s:.0%}" for s, v in k.stalls_s.items() if v > 0.01 * k.time_s) + "."
            for name, found in done.items() for k in found))


def _name(stall: str) -> str:
    return _STALLS[stall][0] if stall in _STALLS else stall


def _figure(context: FigureContext, done: dict[str, list[_Kernel]]) -> Any:
    def bar(kernel: _Kernel) -> Bar:
        return Bar(layout=kernel.layout, time_s=kernel.time_s, parts=_parts(kernel), range_shares=kernel.range_s and (
            kernel.range_s[0] / kernel.time_s, kernel.range_s[1] / kernel.time_s))

    panels = [Panel(title=f"{context.marked(name)}: one of {ask.machines_text(kernel.point for kernel in found)}",
                    bars=[bar(kernel) for kernel in found]) for name, found in done.items()]
    return stacked_bars(panels, xlabel="share of the kernel's time", slivers_of="last")


def _parts(kernel: _Kernel) -> list[Part]:
    """Memory levels first, then the other stalls in their order."""
    order = list(_STALLS)
    stalls = sorted(kernel.stalls_s, key=lambda stall: order.index(stall) if stall in _STALLS else -1)
    return [Part(name=_name(stall), share=kernel.stalls_s[stall] / kernel.time_s, colour=cause_colour(
        _STALLS[stall][1] if stall in _STALLS else "cache" if stall == kernel.home else "other")) for stall in stalls]


def _finding(context: FigureContext, done: dict[str, list[_Kernel]]) -> str:
    sentences = []
    for name, found in done.items():
        parts = []
        for kernel in (found[0], found[-1]):
            stall, value = max(kernel.stalls_s.items(), key=lambda item: item[1])
            parts.append(f"{layout_name(kernel.layout)} spends {value / kernel.time_s:.0%} of "
                         f"{format_quantity(kernel.time_s, SECONDS)} on {_name(stall)}")
        sentences.append(f"On {context.label(name)} {', '.join(parts)}.")
    return " ".join(sentences)
