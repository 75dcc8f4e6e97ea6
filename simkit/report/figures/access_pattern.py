"""The access pattern itself: which bank of one DRAM channel delivers when, layout by layout, from the replay.

The reads are those that the replayed attention kernel sends to one channel, cut where they are under way. A bank that
goes on in its open row delivers burst after burst; a read of another row closes and opens one first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simkit.foundation.errors import UserError
from simkit.foundation.units import BYTES, SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.replay.dram.simulate import DramChannel, DramConfig
from simkit.replay.dram_pattern import MAPPING, channel_requests, standard_of
from simkit.replay.engine import replay_point
from simkit.report.drawing import study_points as ask
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import caption
from simkit.report.drawing.style import layout_name
from simkit.study.evaluate import Evaluated

_WINDOW_S: Final = 1e-6
_BEFORE_S: Final = 1e-6  # from the first read on: all queues are full, and the first refresh is still to come
_REQUESTS: Final = 6000  # of one channel: more than 2 µs hold of any type here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reads:
    """A layout's reads in the window: when [s] and where each burst came from, and whether its row was open."""

    time_s: NDArray[np.float64]
    bank: NDArray[np.int64]
    is_hit: NDArray[np.bool_]
    banks: int
    busy_fraction: float
    channel_bytes: float
    kernel_s: float
    run_bytes: int


def draw(context: FigureContext) -> DrawnFigure:
    """A line of panels a chip, a panel a layout. Raises :class:`UserError` when no chip's DRAM is of a known type."""
    request = context.request
    done, omissions = ask.fitting_layouts(request, _reads)
    rows = [{"hardware": name, "attention": layout, "time_s": float(time_s), "bank": int(bank),
             "row_was_open": bool(hit)}
            for name, found in done.items() for layout, one in found.items()
            for time_s, bank, hit in zip(one.time_s, one.bank, one.is_hit, strict=True)]
    return DrawnFigure(
        title=request.title or "The access pattern: which bank delivers when",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done),
        how_to_read=f"{format_quantity(_WINDOW_S, SECONDS)} of one DRAM channel, {format_quantity(_BEFORE_S, SECONDS)} "
                    "into one layer's attention on one chip. A mark is one burst as its bank delivers it: pale where "
                    "its row was open, dark where the bank had to open it. The channel is as busy with few KV heads as "
                    "with many; it is done sooner. Above each panel: what the channel delivers in the whole kernel."
                    + caption(request.hardware, "no range is drawn: the pattern follows from the addresses"),
        inputs=ask.inputs_text(request).replace(f"engine: {request.engine}", "engine: replay"), omissions=omissions,
        alt=" ".join(f"{context.label(name)} {layout_name(layout)}: {len(one.time_s)} bursts, {one.is_hit.mean():.0%} "
                     "in open rows." for name, found in done.items() for layout, one in found.items()))


def _reads(chip: HardwareProfile, _: str, point: Evaluated) -> _Reads:
    """The window of one channel's reads. Raises :class:`UserError` where the cache is in no DRAM of a known type."""
    home = chip.level(ask.cache_home(point))
    found = standard_of(home)
    shape = np.shape(point.step.workload.batch)
    operator = point.step.attention_operators[0]
    replay = replay_point(operator, point.placement, chip, 0, shape)
    if found is None or replay.pattern is None:
        raise UserError(f"its profile names no type of DRAM for {home.name}, which holds the cache")
    standard, channels = found
    channel = DramChannel(DramConfig(standard=standard, mapping=MAPPING))
    addresses = channel_requests(replay.pattern, channels, standard.burst_bytes, channel.config.capacity_bytes,
                                 about=_REQUESTS)
    served = channel.submit(addresses)
    bank, row = channel.bank_and_row(addresses[served.request])
    open_row, is_hit = dict[int, int](), np.zeros(bank.size, dtype=bool)
    for place, (one, its) in enumerate(zip(bank.tolist(), row.tolist(), strict=True)):
        is_hit[place] = open_row.get(one) == its
        open_row[one] = its
    start_s = min(_BEFORE_S, max(float(served.completion_s[-1]) - _WINDOW_S, 0.0))
    shown = (served.completion_s >= start_s) & (served.completion_s < start_s + _WINDOW_S)
    peak = channel.config.peak_bandwidth_bytes_per_s * _WINDOW_S
    return _Reads(time_s=served.completion_s[shown] - start_s, bank=bank[shown], is_hit=is_hit[shown],
                  banks=standard.banks_per_pseudo_channel, busy_fraction=shown.sum() * standard.burst_bytes / peak,
                  channel_bytes=float(np.ravel(operator.kv_read_bytes)[0]) / channels, kernel_s=replay.total_s,
                  run_bytes=replay.pattern.run_bytes)


def _figure(context: FigureContext, done: dict[str, dict[str, _Reads]]) -> Any:
    columns = max(len(found) for found in done.values())
    figure = style.new_figure(0.35 + 1.7 * len(done))
    panels = figure.subplots(len(done), columns, sharex=True, sharey="row", squeeze=False)
    for line, (name, found) in zip(panels, done.items(), strict=True):
        for axes in line[len(found):]:
            axes.set_visible(False)
        colour = context.styles[name].colour
        for axes, (layout, one) in zip(line, found.items(), strict=False):
            for chosen, ink, alpha in ((one.is_hit, colour, 0.35), (~one.is_hit, style.INK, 1.0)):
                axes.plot(1e9 * one.time_s[chosen], one.bank[chosen], "|", color=ink, alpha=alpha,
                          markersize=80.0 / one.banks, markeredgewidth=0.7)
            whole = f"{format_quantity(one.channel_bytes, BYTES)} in {format_quantity(one.kernel_s, SECONDS)}"
            axes.set_title(f"{layout_name(layout)}\n{whole}", fontsize=style.SMALL_POINTS, fontweight="normal")
            axes.set_xlim(0, 1e9 * _WINDOW_S)
            axes.set_ylim(-0.8, one.banks - 0.2)
            axes.set_yticks(range(0, one.banks + 1, one.banks // 4))
            axes.grid(visible=False)
        line[0].set_ylabel(f"{context.marked(name)}: bank")
    for axes in panels[-1]:
        axes.set_xlabel("time [ns]")
    return figure


def _finding(context: FigureContext, done: dict[str, dict[str, _Reads]]) -> str:
    said = []
    for name, found in done.items():
        (first, most), *_, (last, few) = found.items()
        said.append(
            f"On {context.label(name)} {layout_name(first)} reads runs of {format_quantity(most.run_bytes, BYTES)}, "
            f"{most.is_hit.mean():.0%} of its bursts in open rows, at {most.busy_fraction:.0%} of the channel's "
            f"peak; {layout_name(last)} {few.is_hit.mean():.0%} and {few.busy_fraction:.0%}: the banks work alike, and "
            f"{layout_name(last)} asks for {most.channel_bytes / few.channel_bytes:.0f} times fewer bytes.")
    return " ".join(said)
