"""The front of a chip and layout: tokens a second and user against tokens a second and chip, over all deployments.

Steady states of every way and batch are compared in closed form; of those that no other beats in both, some are played
on one replica, with requests as the load has them at the rate of the steady state, and what that gives is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from simkit.serving.fewest import RESIDENCES
from simkit.serving.plan import Planned, Question, Way
from simkit.serving.plan_record import served_record
from simkit.serving.serve import serve
from simkit.study.design_answers import undominated

POINTS: Final = 6  # played of a front
LEAST_REQUESTS: Final = 200  # for quantiles
FILLED: Final = 0.75  # of a replica's room, at most: a full one makes what comes unevenly wait for ever longer


def front(question: Question, one: Planned) -> list[dict[str, Any]]:
    """Records of the played points that none beats in both, from the fastest for a user to the most for a chip.

    Points whose first token comes later than the objective asks for are left out.
    """
    found = []
    for way, rate, held in _chosen(question, one.ways):
        server = replace(way.server, policy=replace(way.policy, clients=0))
        served = serve(server, question.load.at(rate, requests=max(math.ceil(RESIDENCES * held), LEAST_REQUESTS)))
        if served.quantile_s("ttft", question.attainment_fraction) <= question.policy.slo_ttft_s:
            found.append(served_record(replace(one, way=way), served) | {"offered_requests_per_s": rate})
    user, chip = (np.array([record[name] for record in found])
                  for name in ("tokens_per_s_per_user", "tokens_per_s_per_chip"))
    return [found[index] for index in undominated(-user, chip)]


def _chosen(question: Question, ways: Sequence[Way]) -> list[tuple[Way, float, float]]:
    """``(way, rate, held)`` of the steady states that none beats in both, with room and a first token in time: at most
    so many, evenly spread over the logarithm of the tokens of a user.
    """
    points = [(way, place) for way in ways for batch in [way.state.batch] for place in np.flatnonzero(
        (batch > 0) & (batch <= max(FILLED * batch[-1], 1.0)) & (way.state.ttft_s <= question.policy.slo_ttft_s))]
    user = np.array([1.0 / way.state.tpot_s[place] for way, place in points])
    kept = undominated(-user, np.array([way.state.requests_per_s[place] / way.chips for way, place in points]))
    if not len(kept):
        return []
    logs = np.log(user[kept])
    picked = dict.fromkeys(int(np.argmin(np.abs(logs - at))) for at in np.linspace(logs[0], logs[-1], POINTS))
    return [(way, float(way.state.requests_per_s[place]), float(way.state.in_flight[place]))
            for way, place in (points[kept[number]] for number in picked)]
