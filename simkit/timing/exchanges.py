r"""Time of exchanges between chips: ``α`` (one message) and ``n/β`` (its bytes) terms of the common algorithms.

``n`` bytes a chip, ``p`` chips, ``α`` the link's latency (on a torus or mesh: of one hop), ``β`` what large
collectives reach of one chip's bandwidth in one direction, ``λ`` what each phase of a collective costs besides (its
kernel and handshakes: most of what a small one takes on machines whose chips are programmed like a cluster). Libraries
pick the fastest algorithm that the topology allows, so the time is the least of them (Thakur, Rabenseifner, Gropp 2005,
"Optimization of Collective Communication Operations in MPICH", for ring and recursive forms). A path that all chips
share is stated at the rate that they reach.

``ring`` is one that a library sends around in one direction, over host bridges say. Chips that are wired to their
neighbours are a ``torus`` or a ``mesh``, of one dimension or more: there ``H`` hops reach the farthest chip and a
gathered byte takes ``g/β_l`` seconds, ``β_l`` being one of a chip's links (:mod:`simkit.timing.chip_slices`).

Layers on machines without launches wait for exchanges that follow one another:
:math:`T = \sum_{layers} \frac{p}{2}\, t_{layer}`. ``t_layer`` is a dense layer's, whose ``p = 2`` phases end in an
exchange each: attention and MLP. In a mixture of experts the router's choice must reach the experts before they start:
a third phase, and a third exchange. What such a layer waits for is derived where tiles are known
(:mod:`simkit.spatial`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile, Link, Overheads
from simkit.step.operators import Collective
from simkit.step.workload import DecodeWorkload
from simkit.timing.chip_slices import GRIDS, link_bytes_per_s, slice_costs, ways_to_part

# DeepEP's normal kernels: a floor beyond that of those for few rows, and what one SM copies a second. Fitted to
# h100_sxm's rows of 256 experts in the expert tables of ai-dynamo/aiconfigurator@095f58a by tools/refit_layers.py.
BULK_START_S: Final = {"dispatch": 15.7e-6, "combine": 28.0e-6}
# Likewise.
BULK_UNIT_BYTES_PER_S: Final = {"dispatch": 13.2e9, "combine": 18.0e9}


def all_reduce_time_s(bytes_: Any, chips: Any, link: Link) -> Any:
    r"""All-reduce of ``n`` bytes over ``p`` chips; 0 for one chip.

    - ring: :math:`2(p-1)\alpha + 2\frac{p-1}{p} n/\beta + 2\lambda`
    - torus or mesh (sums scattered, then gathered, by dimension): :math:`2(\lambda + H\alpha + g n/\beta_l)`; on a
      torus whose sides all close, :math:`2(\lambda + \sum_i\lfloor d_i/2\rfloor\alpha + \frac{p-1}{p} n/\beta)`
    - torus or mesh, summed on the way to the chip in the middle and sent back whole (few bytes: a line's middle is half
      as far as its other end): :math:`2(\lambda + M (\alpha + n/\beta_l))`
    - one-shot (every chip sends all to all, switch only): :math:`\alpha + (p-1) n/\beta + \lambda`
    - two-shot (reduce-scatter and all-gather by direct sends, switch only): :math:`2\alpha + 2\frac{p-1}{p} n/\beta +
      2\lambda`
    - reduced in the switch: :math:`2\alpha + n/\beta + 2\lambda`

    A path that all chips share (a host bridge) passes :math:`2(p-1) n` bytes in all, at the rate of that path.
    """
    p = np.asarray(chips, dtype=float)
    alpha, launch, transfer = link.latency_s, link.collective_launch_s, bytes_ / link.achievable_bytes_per_s
    if link.topology in GRIDS:
        best = 2 * _gathering_s(bytes_, p, link)
        if link.middle_reduction:
            _, middle_hops, *_ = slice_costs(p, link)
            hop_s = link.latency_s + bytes_ / link_bytes_per_s(link)
            best = np.minimum(best, 2 * (link.collective_launch_s + middle_hops * hop_s))
    else:
        best = 2 * (p - 1) * alpha + 2 * (p - 1) / p * transfer + 2 * launch
    if link.topology in ("switch", "all-to-all"):
        best = np.minimum(best, alpha + (p - 1) * transfer + launch)
        best = np.minimum(best, 2 * alpha + 2 * (p - 1) / p * transfer + 2 * launch)
    if link.in_network_reduction:
        best = np.minimum(best, 2 * alpha + transfer + 2 * launch)
    best = np.maximum(best, _shared_path_s(2 * (p - 1) * bytes_, p, link) + 2 * (p - 1) * alpha * _crosses(p, link))
    return np.where(p > 1, best, 0.0)


def all_gather_time_s(bytes_: Any, chips: Any, link: Link, within: Any = None, way: int = 0) -> Any:
    r"""Each of ``p`` chips gives ``n`` bytes and gets all.

    - ring: :math:`(p-1)(\alpha + n/\beta) + \lambda`
    - torus or mesh: :math:`\lambda + H\alpha + g\,p\,n/\beta_l`
    - direct (switch): :math:`\alpha + (p-1) n/\beta + \lambda`

    ``within``, ``way``: as of :func:`simkit.timing.chip_slices.slice_costs`.
    """
    p = np.asarray(chips, dtype=float)
    if link.topology in GRIDS:
        time = _gathering_s(p * bytes_, p, link, within, way)
    else:
        messages = 1.0 if link.topology in ("switch", "all-to-all") else p - 1
        time = messages * link.latency_s + (p - 1) * bytes_ / link.achievable_bytes_per_s + link.collective_launch_s
    return np.where(p > 1, np.maximum(time, _shared_path_s(p * (p - 1) * bytes_, p, link)), 0.0)


def _gathering_s(total_bytes: Any, chips: Any, link: Link, within: Any = None, way: int = 0) -> Any:
    r"""Gathering parts of a grid's chips, or scattering their sums: :math:`\lambda + H\alpha + g N/\beta_l`."""
    hops, _, gather_share, _ = slice_costs(chips, link, within, way)
    return (link.collective_launch_s + hops * link.latency_s
            + gather_share * total_bytes / link_bytes_per_s(link))


def _crosses(chips: Any, link: Link) -> Any:
    """Where the traffic of so many chips passes the link's shared path."""
    return (chips > (link.direct_chips or 1)) & (link.shared_bandwidth_bytes_per_s is not None)


def _shared_path_s(total_bytes: Any, chips: Any, link: Link) -> Any:
    """Seconds that all chips' traffic takes over the one path that they share; 0 where there is none."""
    if link.shared_bandwidth_bytes_per_s is None:
        return 0.0
    return np.where(_crosses(chips, link), total_bytes / link.shared_bandwidth_bytes_per_s, 0.0)


def all_to_all_time_s(bytes_: Any, chips: Any, link: Link, within: Any = None, way: int = 0) -> Any:
    r"""Each of ``p`` chips spreads ``n`` bytes evenly over all.

    - direct (switch): :math:`\alpha + \frac{p-1}{p} n/\beta + \lambda`
    - around a ring, a message travelling ``p/4`` hops on average in two directions: :math:`\frac{p}{2}\alpha +
      \frac{p}{4} n/\beta + \lambda`
    - torus or mesh, by dimension, in which the middle of a line or ring passes most: :math:`\lambda + H\alpha +
      \max_i \frac{\lfloor d_i^2/4 \rfloor}{d_i r_i} n/\beta_l`, with ``r`` 1 on a line and 2 on a ring

    ``within``, ``way``: as of :func:`simkit.timing.chip_slices.slice_costs`.
    """
    p = np.asarray(chips, dtype=float)
    transfer = bytes_ / link.achievable_bytes_per_s
    if link.topology in GRIDS:
        hops, _, _, spread_share = slice_costs(p, link, within, way)
        time = hops * link.latency_s + spread_share * bytes_ / link_bytes_per_s(link)
    elif link.topology in ("switch", "all-to-all"):
        time = link.latency_s + (p - 1) / p * transfer
    else:
        time = p / 2 * link.latency_s + np.maximum(p / 4, (p - 1) / p) * transfer
    time = time + link.collective_launch_s
    return np.where(p > 1, np.maximum(time, _shared_path_s((p - 1) * bytes_, p, link)), 0.0)


def send_time_s(bytes_: Any, chips: Any, link: Link) -> Any:
    r"""One message to a neighbour, :math:`\alpha + n/\beta + \lambda`; 0 when there is no other chip.

    On a torus or mesh the one link between them carries it: :math:`\beta_l` for :math:`\beta`.
    """
    p = np.asarray(chips, dtype=float)
    rate = link_bytes_per_s(link) if link.topology in GRIDS else link.achievable_bytes_per_s
    return np.where(p > 1, link.latency_s + bytes_ / rate + link.collective_launch_s, 0.0)


def expert_times_s(exchange: Collective, link: Link, way: int = 0) -> tuple[Any, Any]:
    r"""A dispatch or combine by the kernels made for few rows, and by those for many; libraries have both.

    - few: every choice travels by itself, :math:`\lambda_d + T_{all-to-all}(n \beta/\beta_d)`
    - many: a row goes once to a chip, by ``s`` of the chip's units, after counts and a barrier,
      :math:`\lambda_d + t + \max(T_{all-to-all}(n_{merged}),\; n_{merged} / (s\,r))`
    """
    chips, within = exchange.chips, exchange.within
    rate = link.dispatch_bandwidth_bytes_per_s
    slower = 1.0 if rate is None else link.achievable_bytes_per_s / rate
    few = all_to_all_time_s(exchange.bytes * slower, chips, link, within, way)
    copied = exchange.merged_bytes / (exchange.copy_units * BULK_UNIT_BYTES_PER_S[exchange.kind])
    many = np.maximum(all_to_all_time_s(exchange.merged_bytes, chips, link, within, way), copied)
    launch = np.where(np.asarray(chips) > 1, link.dispatch_launch_s, 0.0)
    return launch + few, launch + np.where(np.asarray(chips) > 1, BULK_START_S[exchange.kind] + many, 0.0)


def collective_time_s(collective: Collective, link: Link | None, way: int = 0) -> Any:
    """Time of one execution; without a link there is only one chip, and the time is 0.

    ``way``: which of the ways to cut the slice that the collective's chips are a group of.
    """
    bytes_, chips = collective.bytes, collective.chips
    if link is None or np.all(np.asarray(chips) <= 1):
        return np.zeros(np.broadcast_shapes(np.shape(bytes_), np.shape(chips)))
    if collective.kind in BULK_START_S:
        return np.minimum(*expert_times_s(collective, link, way))
    if collective.kind == "all_gather":
        return all_gather_time_s(bytes_, chips, link, collective.within, way)
    if collective.kind == "all_to_all":
        return all_to_all_time_s(bytes_, chips, link, collective.within, way)
    return (all_reduce_time_s if collective.kind == "all_reduce" else send_time_s)(bytes_, chips, link)


def exchange_times_s(collectives: Sequence[Collective], hardware: HardwareProfile, *, static: bool) -> dict[str, Any]:
    """Seconds of all executions of each collective, by name.

    Groups of a slice lie where all that they exchange takes least. The layer latency of a ``static`` schedule is
    measured with the exchanges inside the layer: there only the hops between stages count.
    """
    def link_of(one: Collective) -> Link | None:
        return hardware.scale_out or hardware.scale_up if one.kind == "send" else hardware.scale_up

    def time_s(one: Collective, way: int = 0) -> Any:
        if static and one.kind != "send":
            return np.zeros(np.shape(one.chips))
        return one.count * collective_time_s(one, link_of(one), way)

    found = {one.name: time_s(one) for one in collectives}
    link, grouped = hardware.scale_up, [one for one in collectives if one.within is not None]
    if static or link is None or link.topology not in GRIDS or not grouped:
        return found
    least: Any = sum(found[one.name] for one in grouped)
    for way in range(1, max(ways_to_part(one.within, link) for one in grouped)):
        tried = {one.name: time_s(one, way) for one in grouped}
        better = sum(tried.values()) < least
        least = np.where(better, sum(tried.values()), least)
        found |= {name: np.where(better, seconds, found[name]) for name, seconds in tried.items()}
    return found


DENSE_PHASES: Final = 2  # attention and MLP, each with the exchange after it
MOE_PHASES: Final = 3  # and the router, whose choice the experts wait for


def layers_wait_s(workload: DecodeWorkload, overheads: Overheads) -> Any:
    """Seconds that a token waits in all layers together, beside their bytes and flops, for what these chips do."""
    attends, feeds = not {"attention", "projections"}.isdisjoint(workload.parts), "ffn" in workload.parts
    phases = sum(group.count * (group.attends * attends
                                + group.feeds * feeds * ((MOE_PHASES if group.moe else DENSE_PHASES) - 1))
                 for group in workload.model.layer_groups)
    return phases / DENSE_PHASES * overheads.layer_latency_s
