"""The front of a chip and layout: tokens a second and user against tokens a second and chip, over all deployments.

Steady states of every way and batch are compared in closed form; of those that no other beats in both, some are played
on one replica, with requests as the load has them at the rate of the steady state, and what that gives is told.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.serving.fewest import RESIDENCES
from simkit.serving.plan import Planned, Question, Way
from simkit.serving.plan_record import served_record
from simkit.serving.serve import serve

POINTS: Final = 6  # played of a front
LEAST_REQUESTS: Final = 200  # for quantiles
FILLED: Final = 0.75  # of a replica's room, at most: a full one makes what comes unevenly wait for ever longer


def front(question: Question, one: Planned) -> list[dict[str, Any]]:
    """Records of the played points that none beats in both, from the fastest for a user to the most for a chip.

    Points whose first token comes later than the objective asks for are left out.
    """
    found = []
    for way, rate, held in _chosen(_steady_points(question, one)):
        server = replace(way.server, policy=replace(way.policy, clients=0))
        served = serve(server, question.load.at(rate, requests=max(math.ceil(RESIDENCES * held), LEAST_REQUESTS)))
        if served.quantile_s("ttft", question.attainment_fraction) <= question.policy.slo_ttft_s:
            found.append(served_record(replace(one, way=way), served) | {"offered_requests_per_s": rate})
    user, chip = (np.array([record[name] for record in found])
                  for name in ("tokens_per_s_per_user", "tokens_per_s_per_chip"))
    return [found[index] for index in undominated(user, chip)]


def undominated(first: Any, second: Any) -> list[int]:
    """Indices of the points that none exceeds in one and equals in the other, by falling ``first``.

    >>> undominated(np.array([1.0, 3.0, 2.0, 2.0]), np.array([9.0, 1.0, 5.0, 4.0]))
    [1, 2, 0]
    """
    order = np.lexsort((-second, -first))
    most = np.maximum.accumulate(np.append(-np.inf, second[order]))[:-1]
    return [int(index) for index in order[second[order] > most]]


def _steady_points(question: Question, one: Planned) -> list[tuple[float, float, Way, float, float]]:
    """``(tokens/s/user, tokens/s/chip, way, rate, held)`` of steady states with room, whose first token is in time."""
    return [(1.0 / tpot, rate * question.lengths.output_tokens / way.chips, way, float(rate), float(held))
            for way in one.ways for batch, tpot, ttft, rate, held in zip(
                way.state.batch, way.state.tpot_s, way.state.ttft_s, way.state.requests_per_s, way.state.in_flight,
                strict=True)
            if batch > 0 and ttft <= question.policy.slo_ttft_s and batch <= max(FILLED * way.state.batch[-1], 1.0)]


def _chosen(points: list[tuple[float, float, Way, float, float]]) -> list[tuple[Way, float, float]]:
    """At most so many of the front, evenly spread over the logarithm of the tokens of a user."""
    kept = undominated(np.array([point[0] for point in points]), np.array([point[1] for point in points]))
    if not kept:
        return []
    logs = np.log([points[index][0] for index in kept])
    wanted = np.linspace(logs[0], logs[-1], POINTS)
    picked = dict.fromkeys(int(np.argmin(np.abs(logs - at))) for at in wanted)
    return [points[kept[place]][2:] for place in picked]
