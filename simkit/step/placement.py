r"""Which memory level each tensor lives in, and whether it fits: nearest first, what does not fit spills outwards.

Weights are placed first, the KV cache in what is left. A tensor may straddle levels by layers: the share ``f_l`` of
its bytes in level ``l`` is read at that level's rate, one layer after another, so shares add up in time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile, MemoryLevel, Tensor
from simkit.model.architecture import encoder_parameters, mlp_parameters, routed_elements
from simkit.step.build import chip_elements
from simkit.step.workload import DecodeWorkload

ROUNDING: Final = 1e-12  # bytes are sums of float64: what fits exactly must not fail by its last digit


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Bytes that the fullest chip must hold between steps.

    A batch that is dealt to ``batch_ways`` chips fills them in whole sequences: ``kv_bytes`` counts begun rounds.
    """

    weight_bytes: Any
    kv_bytes_per_sequence: Any
    kv_bytes: Any
    batch_ways: Any = 1.0

    def plus(self, other: Demand) -> Demand:
        """This demand with that of something that shares the chip: a draft model, extra heads.

        Rounds of the wider of two dealings hold whole rounds of the narrower: widths are divisors of the chips.
        """
        return Demand(weight_bytes=self.weight_bytes + other.weight_bytes, kv_bytes=self.kv_bytes + other.kv_bytes,
                      kv_bytes_per_sequence=self.kv_bytes_per_sequence + other.kv_bytes_per_sequence,
                      batch_ways=np.maximum(self.batch_ways, other.batch_ways))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Shares of weights and KV cache by level name (they sum to 1 where ``fits``), and the room for a larger batch."""

    weights: dict[str, Any]
    kv: dict[str, Any]
    fits: Any
    max_batch: Any


def demand(workload: DecodeWorkload) -> Demand:
    """Weights and cache of the fullest chip: ``ceil(L/pp)`` layers of its ``1/tp`` share, replicated KV heads included.

    The embedding and the LM head lie on the first and last stage; a stage that holds one of them is the fullest.
    """
    model, heads = workload.model, workload.heads
    layers, pp = model.n_layers, np.asarray(workload.machine.pp)
    share = 1.0 / pp if workload.static else np.ceil(layers / pp) / layers
    embedding = model.vocab_size * model.hidden_size
    positions = model.learned_positions * model.hidden_size
    streams = model.layer_input.stream_matrices * model.hidden_size**2 if model.layer_input else 0
    both_ends = embedding * (1 if model.tied_embeddings else 2) + positions + streams
    ends = both_ends * share if workload.static else np.where(pp > 1, embedding + positions + streams, both_ends)
    elements = share * _layer_elements(workload)
    if "projections" in workload.parts:
        elements = elements + share * encoder_parameters(model) / heads.ways
    if "ends" in workload.parts:
        elements = elements + ends / workload.of_rows.heads.ways
    weights = elements * workload.weight_format.bytes_per_element
    if workload.expert_format is not None and "ffn" in workload.parts:
        weights = weights + share * routed_elements(model) / heads.ways * (
            workload.expert_format.bytes_per_element - workload.weight_format.bytes_per_element)
    # Of a batch-sharded cache a chip holds its own sequences only; on average B / ways of them. Kinds of layers with
    # different heads are dealt out differently.
    per_sequence: Any = 0.0
    held: Any = 0.0
    ways: Any = 1.0
    kinds = [(workload.of(group), group.count * (workload.layer_stored_bytes(group, allocated=True)
                                                 + workload.of(group).score_bytes(group)))
             for group in workload.layer_groups if group.attends and "attention" in workload.parts]
    crossed = workload.cross_cache_bytes if "attention" in workload.parts else 0.0
    for own, resident in [*kinds, (workload, crossed)]:
        batch_ways = own.heads.batch_ways
        one = share * resident / batch_ways
        per_sequence = per_sequence + one
        held = held + one * (np.ceil(np.asarray(workload.batch) / batch_ways) * batch_ways)
        ways = np.maximum(ways, batch_ways)
    return Demand(weight_bytes=weights, kv_bytes_per_sequence=per_sequence, kv_bytes=held, batch_ways=ways)


def _layer_elements(workload: DecodeWorkload) -> Any:
    """Weights of all layers that one chip of a stage holds, replicated projections and KV heads included."""
    model, heads = workload.model, workload.heads
    mlps = routers = 0
    attention: Any = 0.0
    for group in model.layer_groups:
        if "ffn" in workload.parts:
            mlps += group.count * mlp_parameters(model, group).total
            if model.layer_input is not None and group.feeds:
                routers += group.count * model.layer_input.layer_elements(model.hidden_size)
        if "ffn" in workload.parts and group.moe and group.feeds and model.moe is not None:
            routers += group.count * model.hidden_size * (model.moe.experts + (model.moe.latent_size or 0))
        attention = attention + group.count * (chip_elements(workload.of_rows.of(group)) if group.attends else 0.0)
    return (mlps - routers) / heads.ways + workload.whole(routers) + attention


def cached_bytes_per_sequence(workload: DecodeWorkload) -> Any:
    r"""Distinct cache of one sequence over all layers, one copy, tokens only: what the layout and formats ask for.

    .. math:: \sum_\ell n_{kv} (\min(N, W_\ell) + M) (d_k + d_v) b_{kv}

    with ``M`` encoder tokens where there is cross-attention.
    """
    whole = _on_one_chip(workload)
    own = sum(group.count * whole.layer_stored_bytes(group) for group in whole.layer_groups)
    return 1.0 * (own + whole.cross_cache_bytes)


def allocated_bytes_per_sequence(workload: DecodeWorkload) -> Any:
    """Room given to one sequence's cache over all layers, one copy: page rounding, reservation and scores included."""
    whole = _on_one_chip(workload)
    own = sum(group.count * (whole.layer_stored_bytes(group, allocated=True)
                             + whole.of(group).score_bytes(group))
              for group in whole.layer_groups)
    return 1.0 * (own + whole.cross_cache_bytes)


def kv_copies(workload: DecodeWorkload) -> Any:
    """How often the whole cache is stored over all chips; layers of several kinds weighed by what they store."""
    if all(group.shape is None for group in workload.layer_groups):
        return workload.copies
    whole = _on_one_chip(workload)
    stored = [(workload.of(group).copies, group.count * whole.layer_stored_bytes(group))
              for group in workload.layer_groups if group.attends]
    return sum(copies * bytes_ for copies, bytes_ in stored) / sum(bytes_ for _, bytes_ in stored)


def _on_one_chip(workload: DecodeWorkload) -> DecodeWorkload:
    """All heads and all tokens of a sequence, one copy."""
    return replace(workload, machine=replace(workload.machine, mapping="heads", tp=1), static=False)


def usable_levels(hardware: HardwareProfile, tensor: Tensor, *, overflow: Any) -> tuple[MemoryLevel, ...]:
    """Homes of a tensor, nearest first; overflow tiers among them when ``overflow`` opens them to any point."""
    tiers = bool(np.any(overflow))
    return tuple(level for level in hardware.homes(tensor) if tiers or not level.overflow)


def place(need: Demand, hardware: HardwareProfile, *, overflow: Any) -> Placement:
    """Fill the levels with weights, then with the cache, and say how large a batch would still fit.

    ``overflow`` opens the overflow tiers, point by point: a tier that is closed to a point has no room for it.
    """
    left = {level.name: np.where(overflow, level.usable_bytes, 0.0) if level.overflow else
            np.asarray(level.usable_bytes, dtype=float) for level in hardware.memory}
    weights, weights_over = _fill(need.weight_bytes, usable_levels(hardware, "weights", overflow=overflow), left)
    room = sum(np.asarray(left[level.name]) for level in usable_levels(hardware, "kv", overflow=overflow))
    kv, kv_over = _fill(need.kv_bytes, usable_levels(hardware, "kv", overflow=overflow), left)
    weights_fit = weights_over <= 0
    per_sequence = np.asarray(need.kv_bytes_per_sequence, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):  # chips that keep no cache have room for any batch
        rounds = np.where(per_sequence > 0, np.floor(room / (per_sequence * need.batch_ways) * (1 + ROUNDING)), np.inf)
    fits = weights_fit & (kv_over <= ROUNDING * np.asarray(need.kv_bytes))
    return Placement(weights=weights, kv=kv, fits=fits, max_batch=np.where(weights_fit, rounds * need.batch_ways, 0.0))


def _fill(bytes_: Any, levels: tuple[MemoryLevel, ...], left: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Shares of ``bytes_`` by level, and what is left over.

    What fits nowhere is given to the last level all the same, so that shares sum to 1 and a time can still be named
    as hypothetical; ``Placement.fits`` says that it is.
    """
    total = np.asarray(bytes_, dtype=float)
    whole = np.where(total > 0, total, 1.0)
    rest, shares = total, {}
    for level in levels:
        taken = np.minimum(rest, left[level.name])
        left[level.name] = left[level.name] - taken
        rest = rest - taken
        shares[level.name] = (taken + rest if level is levels[-1] else taken) / whole
    return shares, rest
