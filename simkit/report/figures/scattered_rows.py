"""What sparsity costs in DRAM rows: the rate at which scattered rows are read, and what a top-k kernel loses by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import parse_format
from simkit.replay.dram_pattern import PatternRate, gathered_rate, standard_of
from simkit.replay.engine import replay_point
from simkit.replay.target import target_of
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.ranges import caption
from simkit.report.drawing.style import SOFT_INK, count, log_ticks, new_figure, note, tokens
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.placement import Placement
from simkit.step.workload import DecodeWorkload

MODEL: Final = "deepseek-v3.2"
CACHE: Final = "fp8-ds-mla"
WAYS: Final = 8  # chips that share its query heads: one alone is bound by arithmetic
ROWS: Final = {"index key": 132, "latent": 656, "bf16 latent": 1152}
ROW_BYTES: Final = tuple(sorted({*(2**power for power in range(6, 16)), *ROWS.values()}))
APART: Final = 64.0  # one row of 64: 2048 of 128k tokens
TILE_BYTES: Final = 64 * 656  # asked for at once, whatever the rows


def draw(context: FigureContext) -> DrawnFigure:
    """Above the rate against the length of a row, below the kernel's time against the context; a line a chip."""
    request = context.request

    def of_chip(chip: HardwareProfile) -> tuple[list[float], list[tuple[float, float, float, float]]]:
        if standard_of(chip.main_memory) is None:
            raise UserError(f"the profile names no type of DRAM for {chip.main_memory.name}")
        streams = target_of(chip, chip.main_memory.name).slots
        in_a_row = PatternRate(fraction=1.0, row_hit_fraction=1.0)
        rates = [gathered_rate(
            chip.main_memory, in_a_row, streams=streams, row_bytes=row, stride_rows=APART,
            tile_rows=max(1, TILE_BYTES // row), footprint_bytes=request.focus_batch * 2048 * row).fraction
            for row in ROW_BYTES]
        return rates, [_kernel(chip, kv_len, request.focus_batch) for kv_len in request.kv_len]

    done, omissions = ask.for_each_chip(request.hardware, of_chip)
    ask.require_some(done, request, "no chip's profile names its DRAM")
    rows = [{"hardware": chip, "row_bytes": row, "rate_of_rows_in_a_row": rate} for chip, (rates, _) in done.items()
            for row, rate in zip(ROW_BYTES, rates, strict=True)]
    rows += [{"hardware": chip, "kv_len": kv_len, "scattered_s": one[0], "in_a_row_s": one[1],
              "rate_of_stream": one[2], "row_hit_fraction": one[3]}
             for chip, (_, kernels) in done.items() for kv_len, one in zip(request.kv_len, kernels, strict=True)]
    lost = {chip: kernels[-1][0] / kernels[-1][1] for chip, (_, kernels) in done.items()}
    at = {name: {chip: rates[ROW_BYTES.index(size)] for chip, (rates, _) in done.items()}
          for name, size in ROWS.items()}
    return DrawnFigure(
        title=request.title or "What scattered rows cost, which no roofline sees",
        figure=_figure(context, done), rows=rows,
        finding=f"Latents of {ROWS['latent']} bytes, one of 64, come at {context.span(at['latent'])} the rate of "
                f"latents in a row, rows of {ROWS['index key']} bytes at {context.span(at['index key'])}: index keys "
                f"lie in a row. The kernel over {tokens(request.kv_len[-1])} tokens takes {context.span(lost)} the "
                "time of as many latents in a row: where set-up, load path or arithmetic bind, misses hide.",
        how_to_read="Above: useful bytes a second of rows chosen at random, one of 64, over those of rows in a row; "
                    "what is lost are row misses, turns between banks, and bursts of which a row fills a part. Below: "
                    "sparse attention of one layer over its time when the same bytes lie in a row." + caption(
                        request.hardware, "no range is drawn: both times move together with what is assumed"),
        inputs=f"{load_model(MODEL).title}, one of {WAYS} chips, batch {count(request.focus_batch)}, cache {CACHE}, "
               "in main memory; engine: replay.", omissions=omissions,
        alt="Lines. " + " ".join(f"{context.label(chip)}: {at['latent'][chip]:.0%} of the rate with 656 bytes, "
                                 f"{lost[chip]:.2f} times the time." for chip in done))


def _kernel(chip: HardwareProfile, kv_len: float, batch: float) -> tuple[float, float, float, float]:
    """Seconds of sparse attention, scattered and in a row; its rate over a stream's; its row hits."""
    model = load_model(MODEL)
    layout = parse_layout("as-trained", model)
    operator = build_step(DecodeWorkload(
        model=model, layout=layout, n_kv_heads=layout.n_kv_heads, batch=batch, kv_len=kv_len, q_len=1,
        kv_format=parse_format(CACHE), weight_format=parse_format("fp8"), machine=Machine.split(tp=WAYS),
        static=chip.sharding == "layer-pipelined")).attention_operators[0]
    placement = Placement(weights={}, kv={chip.main_memory.name: 1.0}, fits=True, max_batch=0)
    in_a_row = replace(operator, attention=operator.attention and replace(
        operator.attention, gather=None, stride_tokens=1.0))
    scattered, dense = (replay_point(one, placement, chip, 0, ()) for one in (operator, in_a_row))
    return scattered.total_s, dense.total_s, scattered.home_rate_fraction, scattered.row_hit_fraction or np.nan


def _figure(context: FigureContext, done: dict[str, Any]) -> Any:
    figure = new_figure(4.6)
    upper, lower = figure.subplots(2, 1)
    log_ticks(upper, "x", [64, 256, 1024, 4096, 32768], ["64 B", "256 B", "1 KiB", "4 KiB", "32 KiB"])
    contexts = context.request.kv_len
    log_ticks(lower, "x", contexts[::2], [tokens(value) for value in contexts[::2]])
    for chip, (rates, kernels) in done.items():
        style = context.styles[chip]
        how = {**style.mark(3.2), "marker": style.marker, "linestyle": style.line, "linewidth": 1.0}
        upper.plot(ROW_BYTES, rates, **how)
        lower.plot(contexts, [one[0] / one[1] for one in kernels], **how)
    upper.set(xlabel="length of a row", ylabel="rate over that in a row", ylim=(0, 1.05))
    lower.set(xlabel="context, of which 2048 tokens are read [tokens]", ylabel="time over that in a row")
    lower.set_ylim(bottom=min(0.98, lower.get_ylim()[0]))
    for name, size in ROWS.items():
        upper.axvline(size, color=SOFT_INK, linewidth=0.5, linestyle=":")
        note(upper, f"{name} {size} B", (size, 0.02), (2, 0), color=SOFT_INK, rotation=90, ha="left", va="bottom")
    margin_labels(lower, [Label(x=1, y=kernels[-1][0] / kernels[-1][1], text=context.label(chip),
                                colour=context.styles[chip].colour) for chip, (_, kernels) in done.items()])
    return figure
