"""The records of a plan: what serving on the cheapest deployment gave, what it costs and draws, and what binds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from simkit.foundation.units import WATTS
from simkit.serving.fewest import Fewest, ratios
from simkit.serving.plan import Planned, Question
from simkit.serving.record import APART_FIELDS, SERVING_FIELDS, serving_record
from simkit.serving.replica import Replica
from simkit.serving.serve import Served
from simkit.study.machine_search import name_of
from simkit.study.record import FIELDS, TOKENS_PER_MTOK, Field, unknown_costs

_OWN: Final = (
    *(FIELDS[name] for name in ("mapping", "energy_j_per_token", "owned_usd_per_mtok", "bound", "unknown_costs")),
    Field(name="chips_per_replica", meaning="chips of one copy of the model", heading="chips/replica"),
    Field(name="ep", meaning="chips that hold different experts"),
    *(field for field in APART_FIELDS.values() if not field.name.startswith(("prefix_", "kv_tiers"))),
    Field(name="users", meaning="requests in flight at once, where no rate is given"),
    Field(name="slo_attainment_asked", meaning="share of requests that must meet both bounds"),
    Field(name="ttft_margin", meaning="what is left of the bound on TTFT at the share that must meet it, as a fraction",
          heading="TTFT margin"),
    Field(name="tpot_margin", meaning="what is left of the bound on TPOT likewise", heading="TPOT margin"),
    Field(name="binds", meaning="what one replica fewer misses, or what the replica's own chips leave least room for: "
                                "TTFT, TPOT, cache", dimension=None),
    Field(name="mean_power_w", meaning="watts of all chips, mean over the run", dimension=WATTS, heading="power"),
    Field(name="power_limit_w", meaning="watts that all chips may draw", dimension=WATTS, heading="power limit"),
    Field(name="energy_j_per_request", meaning="joules a request", heading="J/request"),
    Field(name="usd_per_hour", meaning="US dollars an hour of all chips, rented", heading="$/h"),
    Field(name="against", meaning="layout whose chips are counted beside", dimension=None),
    Field(name="chips_against", meaning="chips that it takes on this kind of chip for the same load"),
    Field(name="chips_saved_ratio", meaning="those over this layout's chips", heading="chips saved"),
    Field(name="fails", meaning="what no deployment meets, and by how much; empty where one does", dimension=None),
    Field(name="tokens_per_s_per_user", meaning="tokens of one request per second, in the middle of all",
          heading="tok/s/user"),
    Field(name="tokens_per_s_per_chip", meaning="generated tokens a second and chip", heading="tok/s/chip"),
    Field(name="command", meaning="simkit serve as it plays this deployment", dimension=None),
)
PLAN_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({**SERVING_FIELDS, **{field.name: field for field in _OWN}})


def plan_records(question: Question, answers: Sequence[Planned], *, against: str | None = None,
                 budget: Mapping[str, float | None] = MappingProxyType({})) -> list[dict[str, Any]]:
    """One record an answer: cheapest first, what has no price after it by the power limit, what fails last.

    Parameters
    ----------
    question, answers: of :func:`simkit.serving.plan.plan`.
    against: the layout whose chips each other is counted against.
    budget: most of ``chips``, ``power_limit_w`` or ``usd_per_hour``, of all pools together.
    """
    def kind(one: Planned) -> tuple[Any, ...]:
        return (one.hardware.name, one.kv_dtype, one.prompts_on and one.prompts_on.name,
                one.feeds_on and one.feeds_on.name)

    chips_of = {kind(one): one.chips for one in answers if one.attention == against}
    found = [_within(budget, _record(question, one), one.chips) | {
        "against": against, "chips_against": chips_of.get(kind(one)),
        "chips_saved_ratio": chips / one.chips if (chips := chips_of.get(kind(one))) and one.chips else None}
        for one in answers]
    order = sorted(range(len(found)), key=lambda place: (found[place]["fails"] is not None, *(
        math.inf if value is None else value for value in (
            found[place]["cost_usd_per_mtok"], found[place]["power_limit_w"], answers[place].chips))))
    return [found[place] for place in order]


def _within(budget: Mapping[str, float | None], record: dict[str, Any], chips: int | None) -> dict[str, Any]:
    """The record; failing where it is beyond a budget, or where the profile lacks what would tell."""
    over = []
    for name, limit in budget.items():
        if limit is None or record["fails"]:
            continue
        value, what = chips if name == "chips" else record[name], (PLAN_FIELDS[name].heading or name)
        if value is None:
            over.append(f"{what} is unknown: no budget can be held")
        elif value > limit:
            over.append(f"{what} {value:,.6g} is {value / limit:.3g} times the budget of {limit:,.6g}")
    return record | {"fails": "; ".join(over)} if over else record


def _record(question: Question, one: Planned) -> dict[str, Any]:
    asked = {"offered_requests_per_s": None if question.policy.clients else question.requests_per_s,
             "users": question.policy.clients or None, "slo_attainment_asked": question.attainment_fraction}
    if one.way is None or one.found is None:
        return dict.fromkeys(PLAN_FIELDS) | asked | {
            "hardware": one.hardware.name, "model": question.model.name, "attention": one.attention,
            "kv_dtype": one.kv_dtype, "engine": question.engine, "fails": one.fails,
            "prefill_hardware": one.prompts_on and one.prompts_on.name,
            "ffn_hardware": one.feeds_on and one.feeds_on.name}
    at = ratios(one.found.served, question.attainment_fraction)
    return served_record(one, one.found.served) | asked | serving_record({
        **{f"{name.lower()}_margin": 1.0 - at[name][1] if name in at else None for name in ("TTFT", "TPOT")},
        "binds": _binds(question, one.found), "bound": _bound(question, one.way.replica, one.found)})


def served_record(one: Planned, served: Served) -> dict[str, Any]:
    """A served record with what its chips are, cost and draw, those of all pools."""
    record, replica = served.record, one.deployed.replica
    pools = [(one.hardware, record["chips"])]
    pools += [(chip, record[name]) for chip, name in (
        (one.prompts_on, "prefill_chips"), (one.feeds_on, "ffn_chips")) if chip is not None]
    chips, limit, price = (sum(math.nan if each is None else each * number for each, number in column) for column in (
        [(1.0, number) for _, number in pools], [(chip.power.tdp_w, number) for chip, number in pools],
        [(chip.price.usd_per_hour, number) for chip, number in pools]))
    joules = 1.0 / record["tokens_per_j"] if record["tokens_per_j"] else math.nan
    if record["tokens_per_s"] > 0:  # no chip draws more for long, whatever flops and bytes add to
        joules = joules if math.isnan(limit) else min(joules, limit / record["tokens_per_s"])
    return dict.fromkeys(PLAN_FIELDS) | serving_record({
        **record, "mapping": str(name_of(replica.machine.mapping)), "ep": replica.scenario.ep,
        "chips_per_replica": int(record["chips"]) // record["replicas"], "energy_j_per_token": joules,
        "mean_power_w": joules * record["tokens_per_s"], "power_limit_w": limit, "usd_per_hour": price,
        "energy_j_per_request": joules * record["output_tokens"] / max(record["finished"], 1),
        "owned_usd_per_mtok": sum(replica.scenario.ownership.usd_per_s(chip, number) for chip, number in pools)
        / record["tokens_per_s"] * TOKENS_PER_MTOK,
        "unknown_costs": unknown_costs(*(chip for chip, _ in pools)) or None,
        "tokens_per_s_per_user": 1.0 / record["tpot_p50_s"] if record["tpot_p50_s"] else math.nan,
        "tokens_per_s_per_chip": record["tokens_per_s"] / chips})


def _binds(question: Question, found: Fewest) -> str:
    """By one replica fewer, as far as it was played; where there is none, by what has the least room left."""
    seen = found.missed or found.served
    near = {name: ratio for name, (_, ratio) in ratios(seen, question.attainment_fraction).items()}
    if seen.record["preemptions"] or seen.record["max_kv_occupancy"] > 0.98:  # vLLM's watermark and a block
        near["cache"] = max(near.values(), default=0.0) + 1.0
    return max(near, key=lambda name: near[name])


def _bound(question: Question, replica: Replica, found: Fewest) -> str:
    """What takes most of a decode step of the mean batch."""
    return replica.bound_at(max(found.served.record["mean_batch"], 1.0), question.lengths.context_tokens)
