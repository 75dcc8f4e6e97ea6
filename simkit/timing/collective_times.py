r"""Time of exchanges between chips: ``α`` (one message) and ``n/β`` (its bytes) terms of the common algorithms.

``n`` bytes a chip, ``p`` chips, ``α`` the link's latency, ``β`` one chip's bandwidth in one direction. Libraries pick
the fastest algorithm that the topology allows, so the time is the least of them (Thakur, Rabenseifner, Gropp 2005,
"Optimization of Collective Communication Operations in MPICH", for ring and recursive forms).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simkit.hardware.profile import Link
from simkit.step.operators import Collective


def all_reduce_time_s(bytes_: Any, chips: Any, link: Link) -> Any:
    r"""All-reduce of ``n`` bytes over ``p`` chips; 0 for one chip.

    - ring: :math:`2(p-1)\alpha + 2\frac{p-1}{p} n/\beta`
    - one-shot (every chip sends all to all, switch only): :math:`\alpha + (p-1) n/\beta`
    - two-shot (reduce-scatter and all-gather by direct sends, switch only): :math:`2\alpha + 2\frac{p-1}{p} n/\beta`
    - reduced in the switch: :math:`2\alpha + n/\beta`

    A path that all chips share (a host bridge) passes :math:`2(p-1) n` bytes in all, at the rate of that path.
    """
    p = np.asarray(chips, dtype=float)
    alpha, transfer = link.latency_s, bytes_ / link.bandwidth_bytes_per_s
    best = 2 * (p - 1) * alpha + 2 * (p - 1) / p * transfer
    if link.topology in ("switch", "all-to-all"):
        best = np.minimum(best, alpha + (p - 1) * transfer)
        best = np.minimum(best, 2 * alpha + 2 * (p - 1) / p * transfer)
    if link.in_network_reduction:
        best = np.minimum(best, 2 * alpha + transfer)
    best = np.maximum(best, _shared_path_s(2 * (p - 1) * bytes_, p, link) + 2 * (p - 1) * alpha * _crosses(p, link))
    return np.where(p > 1, best, 0.0)


def all_gather_time_s(bytes_: Any, chips: Any, link: Link) -> Any:
    r"""Each of ``p`` chips gives ``n`` bytes and gets all.

    - ring: :math:`(p-1)(\alpha + n/\beta)`
    - direct (switch): :math:`\alpha + (p-1) n/\beta`
    """
    p = np.asarray(chips, dtype=float)
    messages = 1.0 if link.topology in ("switch", "all-to-all") else p - 1
    time = messages * link.latency_s + (p - 1) * bytes_ / link.bandwidth_bytes_per_s
    return np.where(p > 1, np.maximum(time, _shared_path_s(p * (p - 1) * bytes_, p, link)), 0.0)


def _crosses(chips: Any, link: Link) -> Any:
    """Where the traffic of so many chips passes the link's shared path."""
    return (chips > (link.direct_chips or 1)) & (link.shared_bandwidth_bytes_per_s is not None)


def _shared_path_s(total_bytes: Any, chips: Any, link: Link) -> Any:
    """Seconds that all chips' traffic takes over the one path that they share; 0 where there is none."""
    if link.shared_bandwidth_bytes_per_s is None:
        return 0.0
    return np.where(_crosses(chips, link), total_bytes / link.shared_bandwidth_bytes_per_s, 0.0)


def all_to_all_time_s(bytes_: Any, chips: Any, link: Link) -> Any:
    r"""Each of ``p`` chips spreads ``n`` bytes evenly over all.

    - direct (switch): :math:`\alpha + \frac{p-1}{p} n/\beta`
    - around a ring, a message travelling ``p/4`` hops on average in two directions: :math:`\frac{p}{2}\alpha +
      \frac{p}{4} n/\beta`
    """
    p = np.asarray(chips, dtype=float)
    transfer = bytes_ / link.bandwidth_bytes_per_s
    if link.topology in ("switch", "all-to-all"):
        time = link.latency_s + (p - 1) / p * transfer
    else:
        time = p / 2 * link.latency_s + np.maximum(p / 4, (p - 1) / p) * transfer
    return np.where(p > 1, np.maximum(time, _shared_path_s((p - 1) * bytes_, p, link)), 0.0)


def send_time_s(bytes_: Any, chips: Any, link: Link) -> Any:
    r"""One message to a neighbour, :math:`\alpha + n/\beta`; 0 when there is no other chip."""
    p = np.asarray(chips, dtype=float)
    return np.where(p > 1, link.latency_s + bytes_ / link.bandwidth_bytes_per_s, 0.0)


def collective_time_s(collective: Collective, link: Link | None) -> Any:
    """Time of one execution; without a link there is only one chip, and the time is 0."""
    if link is None:
        return np.zeros(np.broadcast_shapes(np.shape(collective.bytes), np.shape(collective.chips)))
    forms = {"all_reduce": all_reduce_time_s, "all_gather": all_gather_time_s,
             "all_to_all": all_to_all_time_s, "send": send_time_s}
    return forms[collective.kind](collective.bytes, collective.chips, link)
