"""The cheapest deployment of each chip and layout for a load and an objective: replicas x tp x pp x ep x mapping.

Every way to share the model over chips is bounded in closed form (:mod:`simkit.serving.steady`): replicas below the
bound cannot meet the objective. From the way that looks cheapest on, the request loop finds the fewest replicas that
do, and a way is left out once its bound is no cheaper than what was found. So the answer is that of playing everything,
as far as the bound holds; what is recommended was played as ``simkit serve`` plays it. The batch is what the load makes
of it. Chips of one kind cost and draw alike, so that the cheapest are the fewest.

Ways are powers of two of chips, as systems are sold and tuned for, and what the user names; of machines that cut a
model statically, all that give each layer as many chips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, product
from math import gcd
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.serving import state as at
from simkit.serving.ask import Load
from simkit.serving.fewest import MOST_REPLICAS, Fewest, check_objective, fewest_replicas, shortfall
from simkit.serving.replica import Replica, paged
from simkit.serving.requests import Stream
from simkit.serving.runtime import IDEAL
from simkit.serving.serve import Policy, Server, build_server
from simkit.serving.steady import Lengths, Steady, steady
from simkit.serving.words import DEFAULT_REQUESTS
from simkit.step.machine import Machine
from simkit.step.sharding import ATTENTION_SHARDINGS
from simkit.study.engines import engine_named
from simkit.study.evaluate import Points
from simkit.study.machine_search import candidates, split_chips
from simkit.study.scenario import parse_scenario


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every chip.

    Parameters
    ----------
    model, load, policy, page_tokens: what comes, and how it is served; a policy's clients are all users together.
    requests_per_s: the rate; without meaning where there are clients.
    attainment_fraction: requests that must meet the policy's objective.
    requests: how many are played, at least.
    scenario: other words of :func:`simkit.study.scenario.parse_scenario`.
    chips, tp, pp, ep: what may be chosen for one replica; empty: all.
    engine: who times it.
    """

    model: ModelArchitecture
    load: Load
    policy: Policy
    page_tokens: int = 16  # of the engines that `serve` knows
    requests_per_s: float
    attainment_fraction: float = 0.9  # assumed, as in `serve`
    requests: int = DEFAULT_REQUESTS
    scenario: dict[str, Any] = field(default_factory=dict)
    chips: Sequence[int] = ()
    tp: Sequence[int] = ()
    pp: Sequence[int] = ()
    ep: Sequence[int] = ()
    engine: str = "roofline"

    def __post_init__(self) -> None:
        """Refuse a question without an objective, and an unknown engine."""
        check_objective(self.policy, "a plan")
        engine_named(self.engine)

    @cached_property
    def stream(self) -> Stream:
        """The requests that every deployment is played with."""
        return self.load.long_enough(self.policy, self.requests_per_s, self.requests)

    @cached_property
    def lengths(self) -> Lengths:
        """Their means."""
        return Lengths.of(self.stream, self.attainment_fraction)

    @property
    def expert_ways(self) -> Sequence[int]:
        """Numbers of chips that may hold different experts: none, or as many as share a layer."""
        return self.ep or ((1,) if self.model.moe is None else (1, self.model.moe.experts))


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to share the model over the chips of a replica.

    Parameters
    ----------
    replica, policy, state: what it is, how it is run, and its steady states.
    load_ratio: the load over the most that one replica holds within the objective: the replicas that the closed form
        asks for, not rounded; infinite where one request alone misses it.
    attainment_fraction: share of the load that must be served well, whatever becomes of the rest.
    """

    replica: Replica
    policy: Policy
    state: Steady
    load_ratio: float
    attainment_fraction: float

    @property
    def chips(self) -> int:
        """Chips of one replica, of all kinds."""
        return int(sum(count for _, count in self.replica.chip_groups))

    @property
    def least(self) -> int:
        """Fewer replicas cannot meet the objective."""
        return max(math.ceil(self.load_ratio * self.attainment_fraction), 1)

    @property
    def worst(self) -> tuple[float, str]:
        """How far one request alone is from its bound, and the words for it."""
        found = [(float(one[0]) / bound, name) for one, bound, name in (
            (self.state.tpot_s, self.policy.slo_tpot_s, "TPOT"), (self.state.ttft_s, self.policy.slo_ttft_s, "TTFT"))]
        return max(found)

    @cached_property
    def server(self) -> Server:
        """The replica with its tables."""
        return build_server(self.replica, self.policy)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The answer of one chip, layout and cache format.

    Parameters
    ----------
    hardware, attention, kv_dtype: which.
    prompts_on, feeds_on: the chips that compute prompts and feed-forward layers, where another pool does.
    ways: everything that was weighed and holds the model.
    way, found: the cheapest and what serving on it gives; None where nothing meets the objective.
    fails: what then fails and by how much.
    """

    hardware: HardwareProfile
    attention: str
    kv_dtype: str
    prompts_on: HardwareProfile | None = None
    feeds_on: HardwareProfile | None = None
    ways: tuple[Way, ...] = ()
    way: Way | None = None
    found: Fewest | None = None
    fails: str | None = None

    @property
    def deployed(self) -> Way:
        """The way that serves; there is none where nothing meets the objective."""
        if self.way is None:
            raise ValueError("nothing meets the objective")
        return self.way

    @property
    def chips(self) -> int | None:
        """Chips of all replicas and pools."""
        if self.found is None:
            return None
        record = self.found.served.record
        return int(record["chips"] + record.get("prefill_chips", 0.0) + record.get("ffn_chips", 0.0))


def plan(question: Question, hardware: Sequence[HardwareProfile], layouts: Sequence[str], kv_dtypes: Sequence[str],
         tell: Callable[[int, int], None] = lambda *_: None,
         apart: Sequence[Callable[..., Planned]] = ()) -> list[Planned]:
    """The cheapest deployment of every chip, cache format and layout, in this order.

    ``tell`` is called with how many are done, and of how many; ``apart``: other ways to plan each, such as
    :func:`simkit.serving.plan_apart.plan_apart` of a pool for prompts. Raises :class:`UserError` for what is
    contradictory; what no deployment meets is an answer.
    """
    asked = list(product(hardware, kv_dtypes, layouts, (planned, *apart)))
    answers: list[Planned] = []
    for chip, kv_dtype, attention, planned_by in asked:
        tell(len(answers), len(asked))
        answers.append(planned_by(question, chip, attention, kv_dtype))
    tell(len(answers), len(asked))
    return answers


def planned(question: Question, chip: HardwareProfile, attention: str, kv_dtype: str) -> Planned:
    """That of one, each replica of which does everything."""
    own = Planned(hardware=chip, attention=attention, kv_dtype=kv_dtype)
    ways, lacks = ways_of(question, chip, attention, kv_dtype)
    if not ways:
        return replace(own, fails=lacks)
    return cheapest(question, replace(own, ways=tuple(ways)), lambda way: way.chips)


def ways_of(question: Question, chip: HardwareProfile, attention: str, kv_dtype: str,
            role: int = at.BOTH) -> tuple[list[Way], str]:
    """Every way that has room, and what the one with the most chips lacks where none has."""
    replicas = list(replicas_of(question, chip, attention, kv_dtype))
    ways = [way for _, alike in groupby(replicas, lambda one: one.scenario)
            for way in weighed(question, list(alike), role)]
    if ways or not replicas:
        return ways, f"no replica of {', '.join(map(str, question.chips))} chips"
    try:
        return [], f"{replicas[-1].total_blocks} blocks"
    except UserError as error:
        return [], str(error)


def weighed(question: Question, replicas: Sequence[Replica], role: int = at.BOTH) -> list[Way]:
    """Those of some replicas, alike but for their machines, that have room, with their steady states in a role."""
    policy, found = question.policy, []
    for replica, state, blocks in _states(question, replicas, role):
        load, offered = ((state.in_flight, float(policy.clients)) if policy.clients else
                         (state.requests_per_s, question.requests_per_s))
        if blocks >= 1.0:
            most = state.most(load, policy)
            found.append(Way(replica=replica, policy=policy, state=state, load_ratio=offered / most if most else
                             math.inf, attainment_fraction=question.attainment_fraction))
    return found


def _states(question: Question, replicas: Sequence[Replica], role: int) -> Iterator[tuple[Replica, Steady, float]]:
    """Each replica with its steady states and blocks: all as one array, where times need only closed forms."""
    policy, lengths = question.policy, question.lengths
    if len(replicas) == 1 or policy.runtime is not IDEAL or not engine_named(question.engine).closed_form:
        yield from ((one, steady(one, policy, lengths, role), float(np.ravel(one.blocks)[0])) for one in replicas)
        return
    machines = [replica.machine for replica in replicas]
    together = replace(replicas[0], machine=Machine(
        **{name: np.array([[getattr(one, name)] for one in machines]) for name in ("chips", "tp", "pp", "overflow")},
        mapping=np.array([[ATTENTION_SHARDINGS.index(one.mapping)] for one in machines])))
    states, blocks = steady(together, policy, lengths, role), np.broadcast_to(together.blocks, (len(replicas), 1))
    yield from ((one, states.of(number), float(blocks[number, 0])) for number, one in enumerate(replicas))


def price_of_each(*chips: HardwareProfile) -> Sequence[float]:
    """What chips of each kind cost beside one another: rents, else power limits, else all alike."""
    for figures in ([chip.price.usd_per_hour for chip in chips], [chip.power.tdp_w for chip in chips]):
        if all(figure is not None for figure in figures):
            return [float(figure) for figure in figures if figure is not None]
    return [1.0] * len(chips)


def cheapest(question: Question, asked: Planned, cost: Callable[[Way], float]) -> Planned:
    """The way of least cost on which the request loop meets the objective; of equal ones the first by its bound.

    ``cost``: of one replica.
    """
    hopeful = [way for way in asked.ways if math.isfinite(way.load_ratio)]
    if not hopeful:
        nearest = min(asked.ways, key=lambda way: way.worst)
        (ratio, name), machine = nearest.worst, nearest.replica.machine
        return replace(asked, fails=f"{name} of one request alone is {ratio:.3g} times its bound at best "
                                    f"(tp {float(machine.tp):g}, pp {float(machine.pp):g})")
    first = min(hopeful, key=lambda way: (math.ceil(way.load_ratio) * cost(way), way.load_ratio * cost(way)))
    by_bound = sorted(hopeful, key=lambda way: (way.least * cost(way), way.load_ratio * cost(way)))
    best, missed, least_cost = asked, asked, math.inf
    for way in [first, *(way for way in by_bound if way is not first)]:
        if way.least * cost(way) >= least_cost:
            break
        found = fewest_replicas(
            way.server, question.stream, attainment_fraction=question.attainment_fraction, least=way.least,
            most=MOST_REPLICAS if math.isinf(least_cost) else math.ceil(least_cost / cost(way) - 1e-9) - 1)
        if found.replicas is not None:
            best, least_cost = replace(asked, way=way, found=found), found.replicas * cost(way)
        elif missed.fails is None:
            missed = replace(asked, fails=shortfall(found.served, question.attainment_fraction))
    return missed if best.way is None else best


def replicas_of(question: Question, chip: HardwareProfile, attention: str, kv_dtype: str) -> Iterator[Replica]:
    """Every replica that may be chosen, from the fewest chips up."""
    layout, model = parse_layout(attention, question.model), question.model
    for ep in question.expert_ways:
        words = paged(parse_scenario(kv_dtype=kv_dtype, **{**question.scenario, "ep": ep}), question.page_tokens)
        for chips, tp, pp, mapping in _splits(question, chip, Points(
                hardware=chip, model=model, scenario=words, batch=1.0, kv_len=1.0, q_len=1.0,
                engine=engine_named(question.engine)), layout):
            if ep > 1 and not question.ep and gcd(int(tp), ep) == 1:
                continue  # no chips that could hold different experts: the same as ep 1
            machine = Machine(chips=float(chips), tp=tp, pp=pp, mapping=mapping, overflow=True)
            yield Replica(hardware=chip, model=model, attention=attention, scenario=words, machine=machine,
                          engine=question.engine)


def _splits(question: Question, chip: HardwareProfile, points: Points,
            layout: Any) -> Iterator[tuple[int, float, float, Any]]:
    """``(chips, tp, pp, mapping)`` of the ways that a question leaves open, from the fewest chips up."""
    heads, layers = question.model.n_q_heads, question.model.n_layers
    if chip.sharding == "layer-pipelined":
        for tp, pp in product(question.tp or (None,), question.pp or (None,)):
            counts = question.chips or ([tp * pp] if tp and pp else ())
            known = [(count, *split_chips(chip, heads, layers, count, tp, pp)) for count in counts] or candidates(
                chip, heads, layers)
            yield from ((count, ways, stages, points.scenario.mapping(chip) or "heads")
                        for count, ways, stages in known if tp in (None, ways) and pp in (None, stages))
        return
    for tp, pp in product(question.tp or (1,), question.pp or (1,)):
        if question.tp or question.pp:
            split_chips(chip, heads, layers, tp * pp, tp if question.tp else None, pp)  # says what is wrong with it
    widest = chip.scale_up.max_chips if chip.scale_up else 1
    # Heads are dealt out whole; boards of several chips pad them (`split_chips`).
    widths = question.tp or [tp for tp in range(1, widest + 1) if heads % tp == 0 or chip.devices is not None]
    for chips, tp, pp in sorted((tp * pp, tp, pp) for tp, pp in product(
            widths, question.pp or range(1, layers + 1)) if tp * pp <= chip.max_chips):
        if not question.chips or chips in question.chips:
            yield from ((chips, ways, stages, ATTENTION_SHARDINGS[place]) for ways, stages, place in replace(
                points, tp=tp, pp=pp).ways(layout, float(chips)))
