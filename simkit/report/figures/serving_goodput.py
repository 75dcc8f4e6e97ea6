"""Goodput against the rate of requests: what fewer KV heads or an fp8 cache earn on a chat trace."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.labels import Label, place_labels
from simkit.report.drawing.ranges import caption
from simkit.report.drawing.study_points import Omission, assumed_text, for_each_chip
from simkit.report.drawing.style import SOFT_INK, chips_words, hues, layout_name, new_figure, times
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.max_rate import find_max_rate
from simkit.serving.replica import build_replicas, paged
from simkit.serving.requests import Stream
from simkit.serving.serve import Policy, Server, build_server, serve
from simkit.study.evaluate import FIT_EACH
from simkit.study.scenario import parse_scenario
from simkit.sweep.executors import cores

TRACE: Final = "azure-conv-2023"
SLO_TTFT_S, SLO_TPOT_S = 2.0, 0.05
ATTAINMENT: Final = 0.9
REQUESTS: Final = 2000
FILLS: Final = 3
PAGE_TOKENS: Final = 16
SMALLER_FORMAT: Final = "fp8"
_SHARES: Final = np.linspace(0.15, 1.5, 10)
_COLOURS: Final = hues()[:6]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    name: str
    attention: str
    kv_dtype: str
    chips: float
    room_tokens: float
    max_requests_per_s: float | None
    offered: Any
    goodput: Any


def draw(context: FigureContext) -> DrawnFigure:
    """One panel a chip, one line a layout, and the last layout once more with an fp8 cache."""
    request = context.request

    def lines(chip: HardwareProfile) -> list[_Line]:
        chips: Any = "fit" if request.chips == FIT_EACH else request.chips
        scenario = paged(parse_scenario(kv_dtype=request.kv_dtype, weight_dtype=request.weight_dtype), PAGE_TOKENS)
        found = build_replicas(chip, request.model, list(request.layouts), scenario=scenario, chips=chips,
                               engine=request.engine)
        smaller = paged(parse_scenario(kv_dtype=SMALLER_FORMAT, weight_dtype=request.weight_dtype), PAGE_TOKENS)
        found.append(replace(found[-1], scenario=smaller))
        policy = Policy(slo_ttft_s=SLO_TTFT_S, slo_tpot_s=SLO_TPOT_S, most_running=4096)
        servers = [build_server(one, policy) for one in found]
        # All lines are offered the same requests, enough to fill the roomiest machine several times: a short burst
        # would drain before its queue shows.
        requests = max(REQUESTS, *(FILLS * server.most_running_of(_stream(1.0, REQUESTS)) for server in servers))
        with ThreadPoolExecutor(cores()) as pool:  # the event loop leaves the interpreter to others while it runs
            rates = list(pool.map(lambda server: _max_rate(server, requests), servers))
            best = max((rate for rate in rates if rate), default=1.0)
            return list(pool.map(lambda server, rate: _line(server, rate, best * _SHARES, requests), servers, rates))

    done, omissions = for_each_chip(request.hardware, lines)
    rows = [{"hardware": chip, "chips": line.chips, "model": request.model.name, "attention": line.attention,
             "kv_dtype": line.kv_dtype, "offered_requests_per_s": float(offered),
             "goodput_requests_per_s": float(good), "max_requests_per_s": line.max_requests_per_s,
             "cache_room_tokens": line.room_tokens}
            for chip, found in done.items() for line in found
            for offered, good in zip(line.offered, line.goodput, strict=True)]
    omissions += [Omission(chip=chip, reason=f"{line.name} meets the objective at no rate")
                  for chip, found in done.items() for line in found if line.max_requests_per_s is None]
    return DrawnFigure(
        title=request.title or "What a smaller cache earns when requests arrive as they do",
        figure=_figure(context, done), rows=rows, finding=_finding(context, done),
        how_to_read="Requests a second that get their first token within 2 s and each further one within 50 ms on "
                    "average, against those that arrive; the dotted line is all of them. All lines of a panel run on "
                    "the same chips; no host work is added."
                    + caption(request.hardware, "no range is drawn, for all is served at the estimates' step times"),
        inputs=f"{request.model.title}, {request.engine} engine, continuous batching, pages of {PAGE_TOKENS} tokens, "
               f"{REQUESTS} or more Poisson requests with the lengths of {TRACE}.{assumed_text(request.hardware)}",
        omissions=omissions,
        alt="Goodput against offered rate, a panel a chip. " + " ".join(
            f"{context.label(chip)}: {_limits(found)} requests a second." for chip, found in done.items()))


def _limits(found: list[_Line]) -> str:
    return ", ".join(f"{line.name} up to {_rate(line.max_requests_per_s)}" for line in found)


def _stream(rate: float, requests: int) -> Stream:
    return generate(parse_lengths(TRACE), requests_per_s=rate, gap_cv=1.0, requests=requests, seed=0)


def _max_rate(server: Server, requests: int) -> float | None:
    rate, _ = find_max_rate(server, lambda rate: _stream(rate, requests), start_requests_per_s=8.0,
                            attainment_fraction=ATTAINMENT)
    return rate


def _line(server: Server, rate: float | None, offered: Any, requests: int) -> _Line:
    replica = server.replica
    goodput = [serve(server, _stream(float(one), requests)).record["goodput_requests_per_s"]
               for one in offered]
    kv_dtype = replica.scenario.kv_dtype
    name = layout_name(replica.attention) + ("" if kv_dtype == "bf16" else f" {kv_dtype}")
    room_tokens = replica.total_blocks * PAGE_TOKENS / sum(layers for layers, _ in replica.block_kinds)
    return _Line(name=name, attention=replica.attention, kv_dtype=kv_dtype, chips=float(replica.machine.chips),
                 room_tokens=room_tokens, max_requests_per_s=rate, offered=offered, goodput=np.array(goodput))


def _figure(context: FigureContext, done: dict[str, list[_Line]]) -> Any:
    figure = new_figure(0.3 + 1.9 * len(done))
    panels = np.atleast_1d(figure.subplots(len(done), 1))
    for axes, (chip, found) in zip(panels, done.items(), strict=True):
        most = float(max(line.offered[-1] for line in found))
        axes.plot([0, most], [0, most], color=SOFT_INK, linewidth=0.6, linestyle=":")
        # Lines that lie on one another: the later ones are thinner, so that the earlier ones show beside them.
        for colour, line, width in zip(_COLOURS[:len(found)], found, np.linspace(2.4, 1.0, len(found)), strict=True):
            axes.plot(line.offered, line.goodput, color=colour, linewidth=width)
        axes.set_xlim(0, most)
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= most])
        axes.set_ylim(0, 1.15 * max(float(line.goodput.max()) for line in found))
        chips = found[0].chips
        axes.set_title(f"{context.marked(chip)}, {chips_words(chips)}")
        axes.set_ylabel("within the objective, a second")
        labels = [_peak_label(line, colour) for colour, line in zip(_COLOURS[:len(found)], found, strict=True)]
        place_labels(axes, labels, avoid=[(line.offered, line.goodput) for line in found])
    panels[-1].set_xlabel("requests that arrive, a second")
    return figure


def _peak_label(line: _Line, colour: str) -> Label:
    """A line's name at its best rate: beyond the rates that it can serve all lines meet."""
    best = int(np.argmax(line.goodput))
    return Label(x=float(line.offered[best]), y=float(line.goodput[best]), colour=colour, text=line.name)


def _finding(context: FigureContext, done: dict[str, list[_Line]]) -> str:
    """Requests a second beside the room for caches: what the division says, and what arrivals make of it."""
    parts = []
    for chip, found in done.items():
        first = found[0]
        gains = [f"{line.name} has room for {times(line.room_tokens / first.room_tokens)} the tokens and serves "
                 f"{times(line.max_requests_per_s / first.max_requests_per_s)} the requests" for line in found[1:]
                 if line.max_requests_per_s and first.max_requests_per_s]
        if gains:
            parts.append(f"{context.label(chip)} serves {_rate(first.max_requests_per_s)} requests a second with "
                         f"{first.name}; {', '.join(gains)}")
    return ("Room for more users is not as many more users served, once prompts and weights take the time. "
            + ". ".join(parts) + ".")


def _rate(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
