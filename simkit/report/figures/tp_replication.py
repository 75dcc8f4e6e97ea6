r"""Tensor parallelism against KV heads: what one chip reads of the cache when the chips outnumber the heads.

.. math:: \text{share of a chip} = n_{kv}^{chip} / n_q, \qquad n_{kv}^{chip} \ge 1

Past ``p = n_kv`` chips every chip still holds one whole head, so the cache is stored ``p / n_kv`` times (model.md
section 2). Sharding the cache by sequences instead avoids it (Pope et al. 2022, arXiv 2211.05102), for an exchange.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.model.attention import parse_layout
from simkit.report.drawing import style
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, margin_labels
from simkit.report.drawing.style import layout_name, times
from simkit.step.sharding import shard_heads


def draw(context: FigureContext) -> DrawnFigure:
    """The share of MHA's whole cache that one chip reads, against the chips that share a layer."""
    request = context.request
    heads = request.model.n_q_heads
    ways = [2**power for power in range(heads.bit_length()) if heads % 2**power == 0]
    kv_heads = {layout: parse_layout(layout, request.model).n_kv_heads for layout in request.layouts}
    shards = {layout: [shard_heads(heads, count, float(p), static=False) for p in ways]
              for layout, count in kv_heads.items()}
    shares = {layout: np.array([float(s.kv_per_chip) / heads for s in found]) for layout, found in shards.items()}
    rows = [{"model": request.model.name, "attention": layout, "n_kv_heads": kv_heads[layout], "tp": p,
             "kv_heads_per_chip": float(shard.kv_per_chip), "kv_copies": float(shard.copies),
             "share_of_mha_cache": float(shard.kv_per_chip) / heads,
             "share_without_copies": kv_heads[layout] / heads / p}
            for layout, found in shards.items() for p, shard in zip(ways, found, strict=True)]
    eight = ways.index(8) if 8 in ways else len(ways) - 1
    layouts = [name for name in request.layouts if name != "mha"]
    gains = ", ".join(f"{layout_name(name)} {times(shares['mha'][eight] / shares[name][eight])}" for name in layouts)
    copies = "; ".join(f"{layout_name(name)} is stored {'once' if copies == 1.0 else f'{copies:g} times'}"
                       for name in layouts for copies in [float(shards[name][-1].copies)])
    alike = len({float(share[-1]) for share in shares.values()}) == 1
    return DrawnFigure(
        title=request.title or "Tensor parallelism replicates the heads that grouping removed",
        figure=_figure(ways, shares, kv_heads, heads), rows=rows,
        finding=f"On {ways[eight]} chips a layer, the cache that a chip reads shrinks against MHA by: {gains}. On "
                f"{ways[-1]} chips {copies}{', and no layout reads less than another' if alike else ''}.",
        how_to_read="Lines stop falling where chips outnumber KV heads and copy them. Thin: the same cache split "
                    "without copies, by sequences or by tokens.",
        inputs=f"{request.model.title}, {heads} query heads; heads split over chips; no engine: exact shares.",
        alt="Log-log plot of the share of MHA's cache that one chip reads against chips, a line a layout. "
            + " ".join(f"{layout_name(name)} ends at {share[-1]:.3g}." for name, share in shares.items()))


def _figure(ways: list[int], shares: dict[str, Any], kv_heads: dict[str, int], heads: int) -> Any:
    figure = style.new_figure(2.7)
    axes = figure.add_subplot()
    for index, (layout, share) in enumerate(shares.items()):
        axes.plot(ways, share, marker="o", markersize=3, color=style.INK, zorder=3,
                  linestyle=style.INK_DASHES[index % len(style.INK_DASHES)])
        axes.plot(ways, kv_heads[layout] / heads / np.array(ways), color=style.SOFT_INK, linewidth=0.5, zorder=1)
    style.log_ticks(axes, "x", ways, [str(p) for p in ways])
    lowest = min(kv_heads.values()) / heads / ways[-1]
    ticks = [1 / 2**power for power in range(0, 16, 2) if 1 / 2**power >= lowest * 0.9]
    style.log_ticks(axes, "y", ticks, ["1" if tick == 1 else f"1/{1 / tick:.0f}" for tick in ticks])
    axes.set_xlim(ways[0], ways[-1])
    axes.set_ylim(lowest * 0.8, 1.25)
    axes.set_xlabel("chips that share a layer (tensor parallel)")
    axes.set_ylabel("share of MHA's cache\nthat one chip reads")
    # At the left edge the layouts are apart; at the right they meet.
    for layout, share in shares.items():
        style.note(axes, layout_name(layout), (ways[0], share[0]), (4, 1), ha="left", va="bottom",
             fontsize=style.SMALL_POINTS + 0.5, fontweight="bold")
    margin_labels(axes, [Label(x=ways[-1], y=kv_heads[name] / heads / ways[-1], colour=style.SOFT_INK,
                               text=f"{layout_name(name)}, no copies") for name in shares if kv_heads[name] < ways[-1]])
    return figure
