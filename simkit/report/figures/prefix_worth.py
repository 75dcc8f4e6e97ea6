"""What cached prompts do to the worth of fewer KV heads: hits and throughput by how many beginnings there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.study_points import assumed_text, for_each_chip
from simkit.report.drawing.style import DASHES, chips_words, hues, layout_name, log_ticks, new_figure, times
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.replica import build_replicas, paged
from simkit.serving.serve import Policy, Server, build_server, serve
from simkit.study.evaluate import FIT_EACH
from simkit.study.scenario import parse_scenario

SHARED_TOKENS, LENGTHS = 15 * 512, "853/200"  # nine tenths of a prompt are its beginning
BEGINNINGS: Final = (1, 4, 16, 64, 256, 1024)
REQUESTS, REUSES = 2000, 16  # at least so many requests, and of each beginning
_PAGE_TOKENS: Final = 16


def draw(context: FigureContext) -> DrawnFigure:
    """Two panels a chip, a line a layout: tokens met in cache, and requests a second over the first layout's."""
    request = context.request

    def lines(chip: HardwareProfile) -> list[dict[str, Any]]:
        chips: Any = "fit" if request.chips == FIT_EACH else request.chips
        scenario = paged(parse_scenario(kv_dtype=request.kv_dtype, weight_dtype=request.weight_dtype), _PAGE_TOKENS)
        return [row for one in build_replicas(chip, request.model, list(request.layouts), scenario=scenario,
                                              chips=chips, engine=request.engine)
                for row in _rows(build_server(one, Policy(prefix_cache=True)))]

    done, omissions = for_each_chip(request.hardware, lines)
    figure = new_figure(0.3 + 2.1 * len(done))
    panels = np.atleast_2d(figure.subplots(len(done), 2))
    parts = []
    for (rate_axes, worth_axes), (chip, rows) in zip(panels, done.items(), strict=True):
        first = np.array([row["requests_per_s"] for row in rows if row["attention"] == request.layouts[0]])
        for axes in (rate_axes, worth_axes):
            log_ticks(axes, "x", BEGINNINGS)
            axes.set_xlabel("shared beginnings")
        rate_axes.set_ylim(0, 1)
        labels, curves = [], []
        for colour, layout in zip(hues(), request.layouts, strict=False):
            own = [row for row in rows if row["attention"] == layout]
            hits = [row["prefix_hit_rate"] for row in own]
            ratio = np.array([row["requests_per_s"] for row in own]) / first
            plain = own[0]["uncached_requests_per_s"] / rows[0]["uncached_requests_per_s"]
            for row, value in zip(own, ratio, strict=True):
                row["over_first_layout"] = float(value)
            rate_axes.plot(BEGINNINGS, hits, color=colour)
            worth_axes.plot(BEGINNINGS, ratio, color=colour)
            worth_axes.axhline(plain, color=colour, linestyle=DASHES[1], linewidth=0.8)
            labels.append(Label(x=BEGINNINGS[-1], y=hits[-1], colour=colour, text=layout_name(layout)))
            curves.append((np.array(BEGINNINGS, dtype=float), np.array(hits)))
            if layout != request.layouts[0]:
                parts.append(f"{context.label(chip)}: {layout_name(layout)} serves {times(plain)} the requests of "
                             f"{layout_name(request.layouts[0])} where nothing is cached, {times(ratio[0])} where all "
                             f"prompts begin alike, and up to {times(ratio.max())} between")
        place_labels(rate_axes, labels, avoid=curves)
        rate_axes.set_title(f"{context.marked(chip)}, {chips_words(rows[0]['chips'])}")
        rate_axes.set_ylabel("of prompt tokens met in cache")
        worth_axes.set_ylabel(f"requests a second over {layout_name(request.layouts[0])}")
    return DrawnFigure(
        title=request.title or "What cached prompts do to the worth of fewer KV heads", figure=figure,
        rows=[row for rows in done.values() for row in rows], finding=". ".join(parts) + ".",
        how_to_read="Nine tenths of each prompt are one of so many beginnings, equally often; blocks of them stay in "
                    "what memory the weights and running sequences leave, the least recently used goes first. Dashed: "
                    "the same requests, nothing cached. All requests wait from the start.",
        inputs=f"{request.model.title}, {request.engine} engine, prompts of {SHARED_TOKENS} tokens in common and "
               f"{LENGTHS} tokens of their own and of output.{assumed_text(request.hardware)}",
        omissions=omissions, alt="Hit rate and relative throughput against shared beginnings. " + ". ".join(parts))


def _rows(server: Server) -> list[dict[str, Any]]:
    """One row for each number of beginnings, all requests at hand from the start."""
    def served(beginnings: int, one: Server) -> dict[str, Any]:
        stream = generate(parse_lengths(LENGTHS), requests_per_s=1e6, gap_cv=1.0, seed=0,
                          requests=max(REQUESTS, REUSES * beginnings), shared_prefix=(SHARED_TOKENS, beginnings))
        return serve(one, stream).record

    plain = served(1, replace(server, policy=replace(server.policy, prefix_cache=False)))["requests_per_s"]
    names = ("hardware", "chips", "model", "attention", "kv_dtype", "prefix_hit_rate", "requests_per_s",
             "prefix_room_tokens")
    return [{"beginnings": beginnings, **{name: record[name] for name in names}, "uncached_requests_per_s": plain}
            for beginnings in BEGINNINGS for record in [served(beginnings, server)]]
