r"""Two fair comparisons side by side: the step at one batch, and tokens with each layout at its own largest batch.

.. math:: \frac{T_{MHA}(B)}{T(B)} \qquad\text{and}\qquad \frac{B^*}{T(B^*)} \Big/ \frac{B^*_{MHA}}{T_{MHA}(B^*_{MHA})}

Both on the same chips. Where the step hardly waits for the cache the first is 1 and the second the gain in sequences,
so that the chips stand in another order by each: who shows one of the two takes a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.dumbbell import Row, axis_end, draw_rows
from simkit.report.drawing.ranges import BOUNDS, bounds_of, caption, columns_of
from simkit.report.drawing.style import chips_words, layout_name, new_figure, ratio_ticks, times

STEP: Final = "speedup_vs_mha"
TOKENS_PER_S: Final = "own_batch_tokens_per_s_vs_mha"
TOKENS_PER_J: Final = "own_batch_tokens_per_j_vs_mha"
_SAME_LENGTH: Final = 0.01  # two chips whose gains differ by less stand at one place


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """What a layout gains over MHA on the same chips, by each measure; NaN where it is not known."""

    chip: str
    chips: float
    own_batch: float
    mha_own_batch: float
    of: dict[str, float]
    step_bounds: tuple[float, float] | None


def draw(context: FigureContext) -> DrawnFigure:
    """One row a chip for the first layout of the request that is not MHA, in the order of the step's gain."""
    request = context.request
    layout = next(name for name in request.layouts if name != "mha")

    def gains(chip: HardwareProfile) -> Gains:
        point = ask.evaluate(request, chip, layout)
        of = {measure: ask.scalar(point, measure) for measure in (STEP, TOKENS_PER_S, TOKENS_PER_J)}
        if not (math.isfinite(of[STEP]) and math.isfinite(of[TOKENS_PER_S])):
            raise ask.NoRoomError(ask.no_room(request))
        return Gains(chip=chip.name, chips=ask.scalar(point, "chips"), own_batch=ask.scalar(point, "own_batch"), of=of,
                     mha_own_batch=0.0 if point.mha is None else ask.scalar(point.mha, "own_batch"),
                     step_bounds=bounds_of(point, STEP))

    done, omissions = ask.for_each_chip(request.hardware, gains)
    found = sorted(done.values(), key=lambda item: item.of[STEP])
    ask.require_some(found, request, "MHA fits on none of its hardware")
    rows = [{"hardware": item.chip, "attention": layout, "batch": request.focus_batch, "kv_len": request.focus_kv_len,
             "chips": item.chips, "assumed": context.styles[item.chip].assumed, STEP: item.of[STEP],
             **columns_of(STEP, item.step_bounds, BOUNDS),
             "own_batch": item.own_batch, "mha_own_batch": item.mha_own_batch, TOKENS_PER_S: item.of[TOKENS_PER_S],
             TOKENS_PER_J: item.of[TOKENS_PER_J] if math.isfinite(item.of[TOKENS_PER_J]) else None} for item in found]
    return DrawnFigure(
        title=request.title or f"{layout_name(layout)} by both metrics: the same batch, and each layout's own",
        figure=_figure(context, found), rows=rows, finding=_finding(context, found, layout),
        how_to_read=f"{layout_name(layout)} over MHA on the same chips, each layout in its own fastest mapping. Step: "
                    f"at batch {request.focus_batch}. Tokens/s and tokens/J: each layout at the largest batch that it "
                    "holds; the chips are the same, so tokens a dollar gain what tokens/s do, rented or bought. "
                    "No mark for tokens/J: no source gives the chip's energies."
                    + caption(request.hardware, bounds="The bar of the step's gain"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt=f"Rows of chips with what {layout_name(layout)} gains over MHA. " + " ".join(
            f"{context.label(item.chip)}: step {times(item.of[STEP])}, tokens a second at its own batch "
            f"{times(item.of[TOKENS_PER_S])}." for item in found))


def _figure(context: FigureContext, found: list[Gains]) -> Any:
    figure = new_figure(0.75 + 0.27 * max(len(found), 2))
    axes = figure.add_subplot()
    rows = [Row(style=context.styles[item.chip], values=item.of, under=chips_words(item.chips),
                ranges={STEP: item.step_bounds}) for item in found]
    texts = {place: " · ".join(times(item.of[measure]) for measure in (STEP, TOKENS_PER_S, TOKENS_PER_J)
                               if math.isfinite(item.of[measure])) for place, item in enumerate(found)}
    known = [value for item in found for value in (*item.of.values(), *(item.step_bounds or ()))
             if math.isfinite(value)]
    low, high = min(1.0, *known), max(1.0, *known)
    ratio_ticks(axes, "x", low * 0.8, high * 1.2)
    draw_rows(axes, rows, (STEP, TOKENS_PER_S, TOKENS_PER_J), texts,
              {STEP: "step, same batch", TOKENS_PER_S: "own batch: tokens/s (per $)",
               TOKENS_PER_J: "own batch: tokens/J"})
    axes.set_xlim(low * 0.88, axis_end(rows, texts, low * 0.88))
    axes.set_xlabel("gain over MHA, same chips [times]")
    return figure


def _pairs(found: list[Gains]) -> tuple[int, int]:
    """Pairs of chips that both measures tell apart, and those of them that the measures order differently."""
    told, turned = 0, 0
    for first, second in combinations(found, 2):
        signs = [math.log(first.of[measure] / second.of[measure]) for measure in (STEP, TOKENS_PER_S)]
        if min(abs(sign) for sign in signs) >= _SAME_LENGTH:
            told, turned = told + 1, turned + (signs[0] * signs[1] < 0)
    return told, turned


def _finding(context: FigureContext, found: list[Gains], layout: str) -> str:
    step, tokens = (sorted(found, key=lambda item, by=measure: item.of[by])  # type: ignore[misc]
                    for measure in (STEP, TOKENS_PER_S))

    spans = [context.span({item.chip: item.of[measure] for item in found}) for measure in (STEP, TOKENS_PER_S)]
    text = (f"At the same batch a step of {layout_name(layout)} is {spans[0]} as fast as MHA's; with each "
            f"layout at its own largest batch on the same chips it makes {spans[1]} MHA's tokens/s.")
    told, turned = _pairs(found)
    if not told:
        return text
    moved = f"{turned} of {told} pairs of chips that both measures tell apart change places"
    if 2 * turned > told:
        last = f", and {context.label(step[0].chip)} goes from last to first" if step[0] is tokens[-1] else ""
        return f"{text} The order of the chips inverts: {moved}{last}."
    return f"{text} The order of the chips " + (f"changes in part: {moved}." if turned else "is the same by both.")
