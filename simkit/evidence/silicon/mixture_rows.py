r"""Measured mixtures of experts as a step's own operators: how their rows were routed, and two grouped products a row.

NVIDIA AIConfigurator (collector/helper.py at 095f58a) deals ``t`` tokens with ``k`` choices each to ``E`` experts:

- ``balanced``: choice ``j`` of token ``i`` is expert :math:`i + j \lceil E/k \rceil` modulo ``E``, tokens spread over
  the stride when there are fewer of them. The first ``E/p`` experts were measured.
- ``power_law_x``: loads of experts are drawn from a power law of exponent ``x`` between 1 and 0.8 t, or between 0.01
  and 2 where choices are no more than experts, scaled to ``t k``, rounded, none above ``t``. Of ``p`` groups of experts
  the busiest was measured, over five draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.attention_rows import joined
from simkit.evidence.silicon.product_rows import weights_in_main_memory
from simkit.evidence.silicon.tables import MeasuredTimes
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup, ModelArchitecture, Moe
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import parse_format
from simkit.step.machine import Machine
from simkit.step.mixture import Routing, distinct_experts, experts
from simkit.step.operators import Operator
from simkit.step.workload import DecodeWorkload
from simkit.timing.products import streamed_times

BALANCED: Final = "balanced"
POWER_LAW: Final = "power_law_"
DRAWS: Final = 5
# Experts with one up-projection and no gate (squared ReLU): Nemotron's, by hidden and expert size.
WITHOUT_GATE: Final = frozenset({(2688, 1856), (1024, 2688), (4096, 2688), (2048, 5120), (8192, 5120)})
_COLUMNS: Final = ("dtype", "hidden_size", "expert_size", "top_k", "experts", "moe_tp", "moe_ep")
# Row numbers, the operator of one of the two products, arrays over them, and the bytes that the loop scans.
MixtureOperator = tuple[Any, Operator, Any]


def mixture_operators(rows: MeasuredTimes) -> tuple[MixtureOperator, ...]:
    """Both products of every row, one pair for each format."""
    found: dict[str, list[tuple[Any, Operator, Operator, Any]]] = {}
    for part in _by_shape(rows):
        found.setdefault(str(rows.columns["dtype"][part[0][0]]), []).append(part)
    operators = []
    for parts in found.values():
        where, scanned = (np.concatenate([part[index] for part in parts]) for index in (0, 3))
        operators += [(where, joined([(part[0], part[index]) for part in parts]), scanned) for index in (1, 2)]
    return tuple(operators)


def mixture_times_s(operators: tuple[MixtureOperator, ...], count: int, hardware: HardwareProfile) -> Any:
    """Predicted seconds of ``count`` rows: both products, timed by themselves in a loop."""
    placement = weights_in_main_memory(hardware)
    times = np.zeros(count)
    for where, operator, scanned in operators:
        times[where] += streamed_times(operator, placement, hardware, alone=True, scanned_bytes=scanned).total_s
    return times


def _by_shape(rows: MeasuredTimes) -> Iterator[tuple[Any, Operator, Operator, Any]]:
    for where in rows.groups(_COLUMNS):
        first = {name: rows.columns[name][where[0]] for name in _COLUMNS}
        hidden, size, top_k, count, tp, ep = (int(first[name]) for name in _COLUMNS[1:])
        moe = Moe(experts=count, top_k=top_k, expert_size=size, shared_size=0, gated=(hidden, size) not in WITHOUT_GATE)
        model = ModelArchitecture(
            name="mixture", title="experts alone", hidden_size=hidden, n_q_heads=tp * ep, n_kv_heads=tp * ep,
            head_dim=1, layer_groups=(LayerGroup(count=1, window=None, moe=True),), mlp=None, moe=moe, mla=None,
            vocab_size=1, tied_embeddings=True)
        workload = DecodeWorkload(
            model=model, layout=parse_layout("mha", model), n_kv_heads=tp * ep, batch=rows.columns["tokens"][where],
            kv_len=1.0, q_len=1.0, kv_format=parse_format("bf16"), weight_format=parse_format(str(first["dtype"])),
            machine=Machine.split(tp=float(tp * ep)), ep=float(ep))
        chosen = [routed(int(tokens), top_k, count, ep, str(distribution)) for tokens, distribution in zip(
            rows.columns["tokens"][where], rows.columns["distribution"][where], strict=True)]
        choices, distinct, ever = np.array(chosen).T
        up, down = experts(workload, 1, moe, Routing(
            choices=choices, distinct=distinct, every=distinct_experts(count, top_k, workload.rows)))
        yield where, up, down, (up.weight_bytes + down.weight_bytes) * (ever / distinct)


@lru_cache(maxsize=100_000)
def routed(tokens: int, top_k: int, count: int, groups: int, distribution: str) -> tuple[float, float, float]:
    """Choices of the measured group's experts, how many of them any token chose, both means over the draws, and how
    many were chosen in any draw.

    >>> routed(16, 8, 128, 1, "balanced")
    (128.0, 128.0, 128.0)
    """
    if distribution == BALANCED:
        stride = -(-count // top_k)
        first = np.arange(tokens) if tokens >= stride else np.floor(np.arange(tokens) * stride / tokens)
        chosen = ((first[:, None] + stride * np.arange(top_k)) % count).astype(np.int64)
        loads = np.bincount(chosen.ravel(), minlength=count)[None, :count // groups]
    else:
        loads = np.array([_busiest(tokens, top_k, count, groups, float(distribution.removeprefix(POWER_LAW)), draw)
                          for draw in range(DRAWS)])
    return float(loads.sum(axis=1).mean()), float((loads > 0).sum(axis=1).mean()), float((loads > 0).any(axis=0).sum())


def _busiest(tokens: int, top_k: int, count: int, groups: int, exponent: float, draw: int) -> Any:
    """Loads of the busiest group's experts."""
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > count else (0.01, 2.0)
    chance = np.random.default_rng((draw, tokens, top_k, count)).random(count)
    power = 1.0 - exponent
    drawn = ((high**power - low**power) * chance + low**power) ** (1.0 / power)
    loads = np.minimum(np.round(drawn / drawn.sum() * tokens * top_k), tokens)
    while (missing := int(tokens * top_k - loads.sum())) != 0:
        # Rounding and the bound are made up for one by one, from the least loaded expert or the most.
        order = np.argsort(loads if missing > 0 else -loads, kind="stable")
        room = order[(loads[order] < tokens) if missing > 0 else (loads[order] > 0)]
        loads[room[:abs(missing)]] += np.sign(missing)
    by_group = loads.reshape(groups, count // groups)
    return by_group[by_group.sum(axis=1).argmax()]
