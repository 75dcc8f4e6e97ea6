"""The fewest replicas that meet the service-level objective: the same requests dealt to more and more of them.

A replica more takes requests from every other one, so that what meets the objective with ``R`` replicas meets it with
more: the count is doubled up to one that does, and then bisected. Where requests miss it alone on a replica of their
own, no number of replicas does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from simkit.foundation.errors import UserError
from simkit.foundation.units import SECONDS, format_quantity
from simkit.serving.requests import Stream
from simkit.serving.serve import Policy, Served, Server, serve

MOST_REPLICAS: Final = 10_000
RESIDENCES: Final = 10  # a stream lasts as many times what a request that just meets the objective takes
_ALONE: Final = 1e6  # times farther apart: no request meets another


@dataclass(frozen=True, kw_only=True)
class Fewest:
    """How many replicas do, and what serving on them gives.

    Parameters
    ----------
    replicas: the fewest; None where no number up to the most does.
    served: the stream on them; where none does, every request alone, or the stream on the most.
    missed: the stream on one replica fewer, up to where it was lost; None where that was not played.
    """

    replicas: int | None
    served: Served
    missed: Served | None = None


def requests_for(policy: Policy, *, requests_per_s: float, output_tokens: float) -> int:
    """Requests that a stream needs, so that queues and batches which just meet the objective settle.

    By Little's law a system within the objective holds at most rate x (TTFT + TPOT x output) requests.
    """
    held = policy.clients or requests_per_s * sum(
        bound for bound in (policy.slo_ttft_s, policy.slo_tpot_s * output_tokens) if math.isfinite(bound))
    return math.ceil(RESIDENCES * held)


def check_objective(policy: Policy, what: str) -> None:
    """Raise :class:`UserError` where nothing bounds the times of a request."""
    if math.isinf(policy.slo_ttft_s) and math.isinf(policy.slo_tpot_s):
        raise UserError(f"{what} needs an objective", hint="give --slo-ttft, --slo-tpot or both")


def ratios(served: Served, attainment_fraction: float) -> dict[str, tuple[float, float]]:
    """``(time, times its bound)`` of ``TTFT`` and ``TPOT`` at the quantile that must meet it, where it has one."""
    found = {name: (served.quantile_s(name, attainment_fraction), served.record[f"slo_{name}_s"])
             for name in ("ttft", "tpot")}
    return {name.upper(): (time_s, time_s / bound) for name, (time_s, bound) in found.items() if math.isfinite(bound)}


def shortfall(served: Served, attainment_fraction: float) -> str:
    """What of the objective is missed and by how much, in words."""
    times_s = ratios(served, attainment_fraction)
    found = [f"{name} at {attainment_fraction:.3g} of the requests is {format_quantity(time_s, SECONDS)}, "
             f"{ratio:.3g} times its bound" for name, (time_s, ratio) in times_s.items() if ratio > 1.0]
    if served.record["refused"]:
        found.append(f"{served.record['refused']:,} of {served.record['requests']:,} requests never fit in the cache")
    return "; ".join(found) or f"only {served.record['slo_attainment']:.3g} of the requests meet both bounds"


def fewest_replicas(server: Server, stream: Stream, *, attainment_fraction: float, least: int = 1,
                    most: int = MOST_REPLICAS) -> Fewest:
    """The fewest replicas on which at least that share of the requests meets the policy's objective.

    Parameters
    ----------
    server: one of them; a policy's clients are those of all replicas together, shared out evenly.
    stream: the requests of all.
    attainment_fraction: requests that must meet both bounds, refused ones counted as missing them.
    least, most: where to look; ``least - 1`` is taken to miss it, and a ``most`` is tried first.
    """
    policy, count = server.policy, sum(part.arrival_s.size for part in stream.chunks())
    allowed = math.floor((1.0 - attainment_fraction) * count + 1e-9)

    @cache
    def tried(replicas: int, spread: float = 1.0) -> Served:
        clients = -(-policy.clients // replicas) if spread == 1.0 else min(policy.clients, 1)
        return serve(replace(server, policy=replace(policy, clients=clients)), stream.scaled(1.0 / spread),
                     replicas=replicas, most_missed=allowed)

    low, high = least - 1, most if most < MOST_REPLICAS else least
    while tried(high).lost:
        if high == most:
            return Fewest(replicas=None, served=tried(high))
        if low == least - 1 and tried(1, _ALONE).lost:
            return Fewest(replicas=None, served=serve(replace(server, policy=replace(policy, clients=min(
                policy.clients, 1))), stream.scaled(1.0 / _ALONE)))
        low, high = high, min(high + max(high - least, 1), most)
    found = first_good(lambda replicas: not tried(replicas).lost, low, high)
    return Fewest(replicas=found, served=tried(found), missed=tried(found - 1) if found > 1 else None)


def first_good(good: Callable[[int], bool], low: int, high: int) -> int:
    """The first good count above ``low``, which is not, up to ``high``, which is."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
