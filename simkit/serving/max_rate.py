"""The largest request rate at which enough requests meet the service-level objective, by bisection.

Every rate is served with the same requests (common random numbers): only their arrivals are closer together. A rate at
which more requests miss the objective than may is not played to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from simkit.serving.requests import Stream
from simkit.serving.serve import Served, Server, serve

RATE_RATIO: Final = 1.02  # how near the bisection comes: the rate is found within 2 %
LEAST_RATE: Final = 1e-5
MOST_RATE: Final = 1e7


def find_max_rate(server: Server, stream_at: Callable[[float], Stream], *, start_requests_per_s: float,
                  attainment_fraction: float, replicas: int = 1,
                  play: Callable[..., Served] = serve) -> tuple[float | None, Served]:
    """The largest rate found, to 2 %, and what serving at it gives.

    Parameters
    ----------
    server: who serves.
    stream_at: the requests arriving at a rate.
    start_requests_per_s: where to look first.
    attainment_fraction: requests that must meet both bounds, refused ones counted as missing them.
    replicas: equal replicas that share the stream.
    play: how they serve it, as :func:`simkit.serving.serve.serve` does.

    The rate is None when even 1e-5 requests a second miss the objective: it is shorter than a request alone takes.
    """
    count = sum(part.arrival_s.size for part in stream_at(start_requests_per_s).chunks())
    allowed = math.floor((1.0 - attainment_fraction) * count + 1e-9)
    ended_early = {"most_missed": allowed} if play is serve else {}

    def tried(requests_per_s: float, **more: Any) -> tuple[bool, Served]:
        served = play(server, stream_at(requests_per_s), replicas=replicas, **more)
        return not served.lost and served.record["slo_attainment"] >= attainment_fraction, served

    low, high = start_requests_per_s, start_requests_per_s
    good, served = tried(start_requests_per_s, **ended_early)
    best = served
    if good:
        while good and high < MOST_RATE:
            low, best, high = high, served, high * 2
            good, served = tried(high, **ended_early)
    else:
        while not good and low > LEAST_RATE:
            high, low = low, low / 4
            good, best = tried(low, **ended_early)
        if not good:
            return None, tried(low)[1]
    while high / low > RATE_RATIO:
        middle = (low * high) ** 0.5
        good, served = tried(middle, **ended_early)
        if good:
            low, best = middle, served
        else:
            high = middle
    return low, best
