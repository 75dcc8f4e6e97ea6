"""The cheapest pair of pools for a load: replicas that compute prompts beside replicas that decode.

Replicas of prompts are bounded from below by playing the prompts alone, those that decode by their steady states. Of a
pair, more of either never hurts: for each number that decodes the fewest that compute prompts are found, as far as that
stays below the cheapest pair so far. What is cheaper is said by rents where both chips have one, else by power limits,
else by chips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from math import ceil
from typing import Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.serving import state as at
from simkit.serving.apart import Apart, serve_apart
from simkit.serving.ask import PrefillPool
from simkit.serving.fewest import MOST_REPLICAS, Fewest, fewest_replicas, first_good, ratios
from simkit.serving.plan import Planned, Question, Way, price_of_each, ways_of, weighed
from simkit.serving.replica import build_replicas
from simkit.serving.requests import Requests, Stream
from simkit.serving.serve import Served
from simkit.study.machine_search import candidates

_BEYOND: Final = 4.0  # times the bounds of both pools: where so many miss the objective, all are taken to


def plan_apart(question: Question, chip: HardwareProfile, attention: str, kv_dtype: str, *,
               pool: PrefillPool) -> Planned:
    """The cheapest pair of pools, one of ``chip``, which decodes.

    ``pool``: the chips for prompts; those of a replica and its replicas may be left open. Raises :class:`UserError` for
    closed loops.
    """
    if question.policy.clients:
        raise UserError("--prefill beside --users: prompts and outputs run on different replicas", hint="give --rate")
    own = Planned(hardware=chip, attention=attention, kv_dtype=kv_dtype, prompts_on=pool.hardware)
    decode, lacks = ways_of(question, chip, attention, kv_dtype, at.DECODE_ONLY)
    prompts = list(_prompt_ways(question, pool, decode)) if decode else []
    hopeful = [[way for way in ways if way.load_ratio < MOST_REPLICAS] for ways in (decode, prompts)]
    for ways, some in zip((decode, prompts), hopeful, strict=True):
        if not ways:
            return replace(own, fails=lacks if not decode else f"no room for prompts on {pool.hardware.name}")
        if not some:
            ratio, name = min(way.worst for way in ways)
            return replace(own, fails=f"{name} of one request alone is {ratio:.3g} times its bound at best")
    price = price_of_each(chip, pool.hardware)

    def costs(pair: tuple[Way, Way]) -> tuple[float, float]:
        return price[0] * pair[0].chips, price[1] * pair[1].chips

    def least_cost(one: tuple[Way, tuple[int, Way]]) -> float:
        first, (_, second) = one
        return float(np.dot(costs((first, second)), (first.least, second.least)))

    @cache
    def least_prompts(which: int) -> int:
        """Replicas without which the prompts alone miss the objective."""
        way = hopeful[1][which]
        found = fewest_replicas(way.server, _of_one_token(question.stream), least=way.least,
                                attainment_fraction=question.attainment_fraction)
        return found.replicas or MOST_REPLICAS

    best, best_cost = own, float("inf")
    for one in sorted(product(hopeful[0], enumerate(hopeful[1])), key=least_cost):
        if least_cost(one) >= best_cost:
            break
        first, (which, second) = one
        least = first.least, least_prompts(which)
        if least[1] == MOST_REPLICAS:
            continue
        found, best_cost = _fewest(question, pool, (first, second), least, costs((first, second)), best_cost)
        best = best if found is None else replace(own, way=first, found=found)
    return best if best.way else replace(own, fails="no pair of pools meets the objective")


def _prompt_ways(question: Question, pool: PrefillPool, decode: Sequence[Way]) -> Iterator[Way]:
    """Replicas of prompts as ``serve --prefill NAME:N`` builds them."""
    own, chip = decode[0].replica, pool.hardware
    for count in [pool.chips] if pool.chips else [chips for chips, _, _ in candidates(
            chip, own.model.n_q_heads, own.model.n_layers)]:
        yield from weighed(question, build_replicas(chip, own.model, [own.attention], scenario=own.scenario,
                                                    chips=count, engine=own.engine), at.PREFILL_ONLY)


def _of_one_token(stream: Stream) -> Stream:
    """The requests, each of which ends with its first token."""
    def prompts() -> Iterator[Requests]:
        for part in stream.chunks():
            yield replace(part, output_tokens=part.output_tokens * 0 + 1)

    return Stream(name=stream.name, chunks=prompts)


def _fewest(question: Question, pool: PrefillPool, pair: tuple[Way, Way], least: tuple[int, int],
            price: tuple[float, float], below: float) -> tuple[Fewest | None, float]:
    """The cheapest numbers of replicas of both pools below a cost, by the price of each, and their cost; None where
    none meets the objective.
    """
    first, second = pair
    apart = Apart(server=second.server, replicas=1, link=pool.link, moved=pool.moved)

    @cache
    def played(numbers: tuple[int, int]) -> Served:
        return serve_apart(replace(apart, replicas=numbers[1]), first.server, question.stream, replicas=numbers[0])

    def good(numbers: tuple[int, int]) -> bool:
        return bool(played(numbers).record["slo_attainment"] >= question.attainment_fraction)

    def cost(decode: int, prompts: int) -> float:
        return price[0] * decode + price[1] * prompts

    best, numbers = None, least
    if below == float("inf"):
        while not good(numbers):
            _, late = ratios(played(numbers), question.attainment_fraction).get("TTFT", (0.0, 0.0))
            # First tokens may be late for few that compute prompts, or for few that take their caches away.
            numbers = numbers[0] + max(numbers[0] // 8, 1), numbers[1] + (late > 1.0) * max(numbers[1] // 8, 1)
            if cost(*numbers) > _BEYOND * cost(*least):
                return None, below
        best, below = numbers, cost(*numbers)
    for decode in range(least[0], least[0] + MOST_REPLICAS):
        if cost(decode, least[1]) >= below:
            break
        most = max(ceil((below - price[0] * decode) / price[1] - 1e-9) - 1, least[1])
        if good((decode, most)):
            prompts = first_good(partial(lambda decode, count: good((decode, count)), decode), least[1] - 1, most)
            best, below = (decode, prompts), cost(decode, prompts)
    return None if best is None else Fewest(replicas=best[0], served=played(best)), below
