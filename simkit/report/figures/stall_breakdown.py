"""What one attention kernel's units wait for, replayed tile by tile: launch, latency, each memory level, arithmetic.

Shares of each kernel's own time, so that a short kernel can be read beside a long one; the time stands beside its bar.
"""

from __future__ import annotations

import numpy as np

from simkit.foundation.units import SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.replay.engine import replay_point
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import caption, columns_of, range_of
from simkit.report.drawing.stacked_bars import STALLS, Bar, stacked_bars
from simkit.report.drawing.style import cause_colour, layout_name
from simkit.study.engines import refuse_tiles
from simkit.study.evaluate import Evaluated


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one bar a layout, of one layer's attention at the focus point."""
    request = context.request

    def kernel(chip: HardwareProfile, layout: str, point: Evaluated) -> Bar:
        refuse_tiles(chip)
        # Layers are alike as far as they keep the same tokens; the first kind stands for the model.
        replay = replay_point(point.step.attention_operators[0], point.placement, chip, 0,
                              np.shape(point.step.workload.batch))
        # One kind of layer takes part in the range of all attention as in its time.
        share = replay.total_s / ask.scalar(point, "attention_time_s")
        ends = range_of(point, "attention_time_s")
        # Memory levels first, then the other stalls in their order.
        order = sorted(replay.stall_s, key=lambda stall: list(STALLS).index(stall) if stall in STALLS else -1)
        return Bar(layout=layout, time_s=replay.total_s, parts_s={stall: replay.stall_s[stall] for stall in order},
                   point=point, range_s=ends and (ends[0] * share, ends[1] * share))

    drawn, omissions = ask.fitting_layouts(request, kernel)
    done = {name: list(found.values()) for name, found in drawn.items()}
    rows = [{"hardware": name, "attention": kernel.layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": int(ask.scalar(kernel.point, "chips")), "level": ask.cache_home(kernel.point),
             "kernel_time_s": kernel.time_s,
             **columns_of("kernel_time_s", kernel.range_s),
             **{f"{stall}_s": value for stall, value in kernel.parts_s.items()}}
            for name, found in done.items() for kernel in found]
    return DrawnFigure(
        title=request.title or "What attention's units wait for, replayed",
        figure=stacked_bars(context, done, _look, to_longest=False, of="one of ", xlabel="share of the kernel's time"),
        rows=rows, finding=_finding(context, done),
        how_to_read="One layer's attention kernel on one chip, cold caches; bars are shares of the kernel's own time, "
                    "which stands beside them. Load path: a unit keeps too few bytes in flight for the latency "
                    "of its loads; idle tail: units that are done. "
                    f"{ask.same_chips_text(request)}"
                    + caption(request.hardware, "a line is the range of the kernel's time (an arrow: it goes on), as "
                                                "far apart as the roofline's"),
        inputs=ask.inputs_text(request).replace(f"engine: {request.engine}", "engine: replay"), omissions=omissions,
        alt="Stacked bars of shares. " + " ".join(
            f"{context.label(name)} {layout_name(k.layout)}: {format_quantity(k.time_s, SECONDS)}, "
            + ", ".join(f"{_name(s)} {v / k.time_s:.0%}" for s, v in k.parts_s.items() if v > 0.01 * k.time_s) + "."
            for name, found in done.items() for k in found))


def _name(stall: str) -> str:
    return STALLS[stall][0] if stall in STALLS else stall


def _look(bar: Bar, stall: str) -> tuple[str, str]:
    """Memory levels by their names, the cache's in its own fill."""
    home = "cache" if stall == ask.cache_home(bar.point) else "other"
    return _name(stall), cause_colour(STALLS[stall][1] if stall in STALLS else home)


def _finding(context: FigureContext, done: dict[str, list[Bar]]) -> str:
    sentences = []
    for name, found in done.items():
        parts = []
        for kernel in (found[0], found[-1]):
            stall, value = max(kernel.parts_s.items(), key=lambda item: item[1])
            parts.append(f"{layout_name(kernel.layout)} spends {value / kernel.time_s:.0%} of "
                         f"{format_quantity(kernel.time_s, SECONDS)} on {_name(stall)}")
        sentences.append(f"On {context.label(name)} {', '.join(parts)}.")
    return " ".join(sentences)
