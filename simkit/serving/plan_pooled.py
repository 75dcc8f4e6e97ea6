"""The cheapest pair of pools of a replica for a load: attention's chips beside chips for feed-forward layers.

Numbers of chips of both pools are tried that double, as systems are sold, where the question does not name them; each
pool takes the mapping that ``serve`` gives it. Replicas of a pair are bounded by their steady states and found by the
request loop as for one kind of chip. What is cheaper is said by rents where both chips have one, else by power limits,
else by chips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.serving.plan import Planned, Question, Way, cheapest, price_of_each, weighed
from simkit.serving.pooled import build_pooled
from simkit.serving.replica import paged
from simkit.study.machine_search import candidates
from simkit.study.scenario import parse_scenario


@dataclass(frozen=True, kw_only=True)
class FeedForwardPool:
    """Chips of a second pool: which, how many of a replica (None: any), and what joins it, in words of
    :func:`simkit.study.pool_words.parse_pools`.
    """

    hardware: HardwareProfile
    chips: int | None
    between: str | None
    with_attention: str | None = None
    micro_batches: int | None = None

    def words(self, chips: int) -> dict[str, Any]:
        """Of a scenario with so many of them."""
        return {"ffn": (self.hardware, chips), "between": self.between, "with_attention": self.with_attention,
                "micro_batches": self.micro_batches}


def plan_pooled(question: Question, chip: HardwareProfile, attention: str, kv_dtype: str, *,
                pool: FeedForwardPool) -> Planned:
    """The cheapest pair of pools, attention and its cache on ``chip``. Raises :class:`UserError`."""
    own = Planned(hardware=chip, attention=attention, kv_dtype=kv_dtype, feeds_on=pool.hardware)
    ways, lacks = pooled_ways(question, chip, attention, kv_dtype, pool)
    if not ways:
        return replace(own, fails=f"no pair of pools tried holds {question.model.name} under {attention}{lacks}")
    price = price_of_each(chip, pool.hardware)

    def cost(way: Way) -> float:
        return sum(one * count for one, (_, count) in zip(price, way.replica.chip_groups, strict=True))

    return cheapest(question, replace(own, ways=tuple(ways)), cost)


def pooled_ways(question: Question, chip: HardwareProfile, attention: str, kv_dtype: str,
                pool: FeedForwardPool) -> tuple[list[Way], str]:
    """Replicas of every pair of numbers of chips, as ``serve --ffn NAME:N`` builds them, with their steady states, and
    what the one with the most chips lacks where none has room.
    """
    ways: list[Way] = []
    most, lacks = None, ""
    counts = [one.chips for one in (pool,) if one.chips] or doubling(question, pool.hardware)
    for near, far, ep, tp, pp in product(question.chips or doubling(question, chip), counts, question.expert_ways,
                                         question.tp or (None,), question.pp or (None,)):
        words = paged(parse_scenario(kv_dtype=kv_dtype, **{**question.scenario, "ep": ep, **pool.words(far)}),
                      question.page_tokens)
        try:
            found = build_pooled(chip, question.model, [attention], scenario=words, chips=near, tp=tp, pp=pp,
                                 engine=question.engine)
        except UserError as error:
            # So many chips cannot share this model, or cannot hold different experts: serve says so of a number given.
            if question.chips and pool.chips and not question.tp and not question.pp and ep == question.expert_ways[0]:
                raise
            lacks = f": {error}"
            continue
        ways += weighed(question, found)
        most = found[-1]
    if ways or most is None:
        return ways, lacks
    try:
        return [], f": {most.total_blocks} blocks"
    except UserError as error:
        return [], f": {error}"


def doubling(question: Question, chip: HardwareProfile) -> list[int]:
    """Numbers of chips that a model can be shared over, each at least twice the one before, and the most."""
    counts = [count for count, _, _ in candidates(chip, question.model.n_q_heads, question.model.n_layers)]
    found: list[int] = []
    for count in counts:
        if not found or count >= 2 * found[-1] or (count == counts[-1] and count > found[-1]):
            found.append(count)
    return found
