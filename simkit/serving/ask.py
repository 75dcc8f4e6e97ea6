"""One serving question from words to records: every profile, layout, cache format and rate of a command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import SECONDS, parse_quantity
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.serving.apart import LAYERS, Apart, serve_apart
from simkit.serving.fewest import check_objective, fewest_replicas, first_good, requests_for, shortfall
from simkit.serving.max_rate import find_max_rate
from simkit.serving.pooled import build_pooled
from simkit.serving.replica import Replica, build_replicas, paged
from simkit.serving.requests import Stream
from simkit.serving.serve import Policy, Served, Server, build_server, serve
from simkit.study.evaluate import FIT
from simkit.study.pool_words import split_count
from simkit.study.scenario import parse_scenario

# A stream must outlast what it fills: this many times the sequences that run at once.
FILLS: Final = 10
MOST_PREFILL: Final = 1024  # replicas that are tried
POOLS: Final = ("replicas", "prefill")  # that --lose knows


def parse_losses(texts: Sequence[str]) -> dict[str, tuple[int | None, float]]:
    """``prefill@30s``, ``replicas:2@30s``: replicas by pool (None: all) and when. Raises :class:`UserError`."""
    found: dict[str, tuple[int | None, float]] = {}
    for text in texts:
        name, count = split_count(text.strip().lower().partition("@")[0])
        if name not in POOLS or "@" not in text or name in found:
            raise UserError(f"--lose '{text[:60]}': expected replicas or prefill, once each, as replicas:1@30s",
                            hint=did_you_mean(name, POOLS))
        found[name] = count, parse_quantity(text.partition("@")[2], SECONDS)
    return found


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests and how fast they come.

    Parameters
    ----------
    stream: the requests as they are, at ``own_requests_per_s``.
    own_requests_per_s: their rate.
    rates_requests_per_s: rates to serve them at; empty: their own.
    more: a generator's stream of that many requests, for searches that need longer ones; None for a file.
    """

    stream: Stream
    own_requests_per_s: float
    rates_requests_per_s: tuple[float, ...] = ()
    more: Callable[[int], Stream] | None = None

    def at(self, requests_per_s: float, *, requests: int = 0) -> Stream:
        """The stream at a rate, of at least ``requests`` requests where it can be made longer."""
        stream = self.stream if self.more is None or requests == 0 else self.more(requests)
        return stream.scaled(requests_per_s / self.own_requests_per_s)

    def long_enough(self, policy: Policy, requests_per_s: float, requests: int) -> Stream:
        """The stream at a rate, of at least ``requests`` requests and as many as a search for replicas needs."""
        output = next(self.stream.chunks()).output_tokens
        return self.at(requests_per_s, requests=max(requests, requests_for(
            policy, requests_per_s=requests_per_s, output_tokens=float(np.mean(output)))))


@dataclass(frozen=True, kw_only=True)
class PrefillPool:
    """Chips for prompts alone: which, how many of a replica, and how many replicas (None: the fewest that do).

    ``link``: as of :func:`simkit.study.pool_words.parse_between`; ``moved``: ``layers`` or ``whole``; ``lost``: how
    many (None: all) are lost, and when.
    """

    hardware: HardwareProfile
    chips: Any
    replicas: int | None
    link: str
    moved: str = LAYERS
    lost: tuple[int | None, float] = (0, math.inf)

    def beside(self, own: Replica, policy: Policy) -> Apart:
        """One replica of it beside one that decodes. Raises :class:`UserError`."""
        try:
            (found,) = build_replicas(self.hardware, own.model, [own.attention], chips=self.chips, engine=own.engine,
                                      scenario=replace(own.scenario, pools=None))
            policy = replace(policy, lost=self.lost[0], lost_s=self.lost[1])
            return Apart(server=build_server(found, policy), replicas=self.replicas or 1, link=self.link,
                         moved=self.moved)
        except UserError as error:
            raise UserError(f"--prefill: {error.message}", hint=error.hint) from None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one served load gave, and the rate that it was offered (None: none meets the objective)."""

    offered_requests_per_s: float | None
    served: Served

    @property
    def record(self) -> dict[str, Any]:
        """The flat record, with the offered rate first among its rates."""
        return {"offered_requests_per_s": self.offered_requests_per_s, **self.served.record}


def ask(hardware: Sequence[HardwareProfile], model: ModelArchitecture, layouts: list[str], kv_dtypes: Sequence[str], *,
        load: Load, policy: Policy, page_tokens: int, scenario: dict[str, Any], chips: Sequence[Any] = (FIT,),
        tp: int | None = None, pp: int | None = None, replicas: int | None = 1, engine: str = "roofline",
        attainment_fraction: float = 0.9, max_rate: bool = False, keep_events: int = 0,
        requests: int = 0, prefill: PrefillPool | None = None) -> list[Answer]:
    """Serve the load on every combination, in the order hardware, chips, KV format, layout, rate.

    Parameters
    ----------
    hardware, model, layouts, kv_dtypes: what is compared; the layouts of one chip and format share its chips.
    load, policy, page_tokens: what comes, and how it is served.
    scenario: other words of :func:`simkit.study.scenario.parse_scenario`.
    chips, tp, pp, replicas, engine: the machine and who times it; no ``replicas``: the fewest that meet the objective.
    attainment_fraction: requests that must meet the objective.
    max_rate: find the largest rate that does, instead of serving ``load``'s.
    keep_events: iterations and requests kept for a timeline.
    requests: how many requests a search serves at each rate, at least.
    prefill: chips that compute the prompts, where those of ``hardware`` only decode.
    """
    _check(policy, max_rate=max_rate, replicas=replicas, prefill=prefill)
    answers: list[Answer] = []
    for chip, number, kv_dtype in product(hardware, chips, kv_dtypes):
        words = paged(parse_scenario(kv_dtype=kv_dtype, **scenario), page_tokens)
        # Where prompts are computed apart, that is where their blocks are kept.
        own = policy if prefill is None else replace(policy, prefix_cache=False, tiers=())
        build = build_replicas if words.pools is None else build_pooled
        servers = [build_server(found, own) for found in build(
            chip, model, layouts, scenario=words, chips=number, tp=tp, pp=pp, engine=engine)]
        # Layouts are offered the same requests, enough to fill the roomiest several times.
        held = max(server.most_running_of(load.stream) for server in servers)
        enough = max(requests, FILLS * held * (replicas or 1))
        for server in servers:
            play: Callable[..., Served] = serve
            if prefill is not None:
                apart = prefill.beside(server.replica, policy)
                play = (partial(serve_apart, apart) if prefill.replicas else
                        partial(_on_enough_prefill, apart, attainment_fraction))
            if max_rate:
                rate, served = find_max_rate(
                    server, lambda rate, enough=enough: load.at(rate, requests=enough),  # type: ignore[misc]
                    start_requests_per_s=load.own_requests_per_s, attainment_fraction=attainment_fraction,
                    replicas=replicas or 1, play=play)
                if keep_events and rate is not None:
                    served = play(server, load.at(rate, requests=enough), replicas=replicas, keep_events=keep_events)
                answers.append(Answer(offered_requests_per_s=rate, served=served))
                continue
            for rate in load.rates_requests_per_s or (load.own_requests_per_s,):
                searched = replicas is None or (prefill is not None and prefill.replicas is None)
                stream = load.long_enough(policy, rate, requests) if searched else load.at(rate)
                served = (play(server, stream, replicas=replicas, keep_events=keep_events) if replicas else
                          _on_the_fewest(server, stream, attainment_fraction, keep_events))
                answers.append(Answer(offered_requests_per_s=None if policy.clients else rate, served=served))
    return answers


def _check(policy: Policy, *, max_rate: bool, replicas: int | None, prefill: PrefillPool | None) -> None:
    """Refuse a question that fixes what it varies, or has no objective for what it searches."""
    fit = "--replicas" if replicas is None else "--prefill-replicas" if prefill and prefill.replicas is None else None
    if (policy.lost != 0 or (prefill and prefill.lost[0] != 0)) and (policy.clients or max_rate or fit):
        raise UserError("--lose: at a time of a stream whose rate and replicas are given",
                        hint="give --rate or --trace, and numbers of replicas")
    if policy.clients and max_rate:
        raise UserError("--find-max-rate varies the rate, and --concurrency fixes it by itself")
    if max_rate or fit:
        check_objective(policy, "--find-max-rate" if max_rate else f"{fit} fit")
    if max_rate and fit:
        raise UserError(f"--find-max-rate beside {fit} fit: give the rate, or the replicas")
    if prefill is not None and replicas is None:
        raise UserError("--replicas fit beside --prefill: give the replicas that decode",
                        hint="--replicas N --prefill-replicas fit says how many prefill replicas these need")


def _on_enough_prefill(apart: Apart, attainment_fraction: float, server: Server, stream: Stream, *, replicas: int,
                       keep_events: int = 0) -> Served:
    """The stream on the fewest prefill replicas that meet the objective. Raises :class:`UserError` where none do."""
    @cache
    def tried(prefill: int) -> Served:
        return serve_apart(replace(apart, replicas=prefill), server, stream, replicas=replicas, keep_events=keep_events)

    def good(prefill: int) -> bool:
        return bool(tried(prefill).record["slo_attainment"] >= attainment_fraction)

    high = 1
    while not good(high):
        in_time = tried(high).quantile_s("ttft", attainment_fraction) <= server.policy.slo_ttft_s
        if in_time or high >= MOST_PREFILL:
            raise UserError(f"{server.replica.hardware.name}, {server.replica.attention}: no number of prefill "
                            f"replicas meets the objective: {shortfall(tried(high), attainment_fraction)}",
                            hint="give more --replicas" if in_time else "more --prefill chips shorten a prompt")
        high *= 2
    return tried(first_good(good, high // 2, high))


def _on_the_fewest(server: Server, stream: Stream, attainment_fraction: float, keep_events: int) -> Served:
    """The stream on the fewest replicas. Raises :class:`UserError` where no number of them meets the objective."""
    found = fewest_replicas(server, stream, attainment_fraction=attainment_fraction)
    if found.replicas is None:
        record = found.served.record
        raise UserError(f"{record['hardware']}, {record['attention']}: no number of replicas meets the objective: "
                        f"{shortfall(found.served, attainment_fraction)}",
                        hint="simkit plan tries other numbers of chips and mappings")
    return serve(server, stream, replicas=found.replicas, keep_events=keep_events) if keep_events else found.served
