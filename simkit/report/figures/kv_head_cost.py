r"""What one more KV head costs a step, by cause and chip: the difference of two steps over that of their heads.

.. math:: c = \frac{T(n) - T(m)}{(n - m)\, T(m)}, \qquad n > m

of the layouts with the most and the fewest KV heads ``n`` and ``m``, on the same chips. Parts add up to the whole;
those on the left get shorter with more heads, as messages on a mesh do. Chips made of tiles are replayed where the
request names that engine beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from simkit.foundation.units import BYTES, SECONDS, format_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.model.attention import parse_layout
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.ranges import caption, columns_of, draw_range, range_of
from simkit.report.drawing.style import INK, SMALL_POINTS, cause_colour, layout_name, legend, new_figure, note
from simkit.study.study_file import FigureRequest

_LEAST_SHOWN: Final = 0.02  # of the longest bar


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """Seconds by part, each a KV head; ``step_s``: of the layout with the fewest."""

    engine: str
    parts_s: dict[str, float]
    total_s: float
    step_s: float
    range_s: tuple[float, float] | None
    kv_bytes: float

    def share(self, seconds: float) -> float:
        """Of the step with the fewest heads."""
        return seconds / self.step_s


def draw(context: FigureContext) -> DrawnFigure:
    """A bar a chip. Raises :class:`UserError` where no chip has room for both layouts."""
    request = context.request
    heads = {name: parse_layout(name, request.model).n_kv_heads for name in request.layouts}
    most, fewest = max(heads, key=lambda name: heads[name]), min(heads, key=lambda name: heads[name])
    costs, omissions = ask.for_each_chip(request.hardware, lambda chip: _cost(
        request, chip, most, fewest, heads[most] - heads[fewest]))
    ask.require_some(costs, request, "both layouts fit on none of its hardware")
    rows = [{"hardware": name, "from": one.engine, "attention": most, "over": fewest, "batch": request.focus_batch,
             "kv_len": request.focus_kv_len, "kv_head_time_s": one.total_s,
             **columns_of("kv_head_time_s", one.range_s), "kv_head_step_share": one.share(one.total_s),
             "kv_head_bytes": one.kv_bytes, **{f"{part}_time_s": one.parts_s[part] for part in ask.PARTS}}
            for name, one in costs.items()]
    return DrawnFigure(
        title=request.title or "What a KV head costs", figure=_figure(context, costs, layout_name(fewest)), rows=rows,
        finding=_finding(context, costs, layout_name(fewest)),
        how_to_read=f"A bar is what each KV head of {layout_name(most)} beyond {layout_name(fewest)} adds to a step, "
                    f"as a share of {layout_name(fewest)}'s step on the same chips, by what takes the time; parts left "
                    "of zero get shorter. Behind a bar stands the time of a head; its cache is "
                    f"{format_quantity(next(iter(costs.values())).kv_bytes, BYTES)} on every chip."
                    + caption(request.hardware, "a line is the range of the sum"),
        inputs=ask.inputs_text(request), omissions=omissions,
        alt="Stacked bars. " + " ".join(f"{context.label(name)}: {one.share(one.total_s):.2%} of a step a head."
                                        for name, one in costs.items()))


def _cost(request: FigureRequest, chip: HardwareProfile, most: str, fewest: str, heads: int) -> _Cost:
    asked = ask.asked_of(request, chip)
    many, few = (ask.evaluate(asked, chip, name) for name in (most, fewest))
    if not (ask.fits(many) and ask.fits(few)):
        raise ask.NoRoomError(ask.no_room(request))
    parts_many, parts_few = ask.split_time_s(many), ask.split_time_s(few)
    step_s = ask.scalar(few, "step_time_s")
    gain = range_of(few, "speedup_vs_mha") if most == "mha" else None
    return _Cost(
        engine=asked.engine, step_s=step_s, total_s=(ask.scalar(many, "step_time_s") - step_s) / heads,
        parts_s={part: (parts_many[part] - parts_few[part]) / heads for part in ask.PARTS},
        range_s=gain and ((gain[0] - 1) * step_s / heads, (gain[1] - 1) * step_s / heads),
        kv_bytes=(ask.scalar(many, "kv_cache_bytes") - ask.scalar(few, "kv_cache_bytes")) / heads)


def _figure(context: FigureContext, costs: dict[str, _Cost], fewest: str) -> Any:
    figure = new_figure(0.75 + 0.26 * len(costs))
    axes = figure.subplots()
    longest = max(abs(one.share(end)) for one in costs.values() for end in (one.total_s, *(one.range_s or ())))
    for row, one in enumerate(costs.values()):
        ends = {True: 0.0, False: 0.0}
        for part in ask.PARTS:
            share = one.share(one.parts_s[part])
            axes.barh(row, share, left=ends[share > 0], height=0.7, color=cause_colour(part))
            ends[share > 0] += share
        reach = max(ends[True], one.share((one.range_s or (0.0, one.total_s))[1]))
        draw_range(axes, row, one.range_s and (one.share(one.range_s[0]), one.share(one.range_s[1])), INK, along="x",
                   opacity_fraction=1.0)
        note(axes, format_quantity(one.total_s, SECONDS), (max(reach, 0.0), row), (4, 0), va="center",
             annotation_clip=False)
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.set_yticks(range(len(costs)), [context.marked(name) for name in costs], fontsize=SMALL_POINTS)
    axes.set_ylim(len(costs) - 0.4, -0.6)
    axes.set_xlim(right=longest * 1.3)
    left, right = axes.get_xlim()
    axes.set_xticks([value for value in axes.get_xticks() if left <= value <= right])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"one KV head, of {fewest}'s step")
    parts = [part for part in ask.PARTS if any(abs(one.share(one.parts_s[part])) > _LEAST_SHOWN * longest
                                           for one in costs.values())]
    legend(figure, {ask.PART_NAMES[part]: cause_colour(part) for part in parts}, len(parts))
    return figure


def _finding(context: FigureContext, costs: dict[str, _Cost], fewest: str) -> str:
    ranked = sorted(costs.items(), key=lambda item: -item[1].share(item[1].total_s))
    (dear, most), (cheap, least) = ranked[0], ranked[-1]
    words = (f"A KV head costs {most.share(most.total_s):.2%} of {fewest}'s step on {context.label(dear)}, "
             f"{format_quantity(most.total_s, SECONDS)}")
    if cheap != dear:
        words += (f", and {least.share(least.total_s):.2%} on {context.label(cheap)}"
                  + (", where more heads are faster" if least.total_s < 0 else ""))
    return words + "."
