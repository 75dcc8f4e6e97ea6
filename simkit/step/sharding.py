r"""How attention and experts are cut over the ``p`` chips that share a layer.

- ``heads``: query heads are dealt out; past ``p = n_kv`` KV heads are replicated (model.md section 2).
- ``batch``: KV heads as far as they go, then the batch (Pope et al. 2022, arXiv 2211.05102, section 3.3): no replica,
  an all-to-all before and after attention.
- ``context``: KV heads as far as they go, then the cached tokens; partial results are combined.
- ``data``: attention as often as there are chips, each for its own sequences with weights of its own, and nothing
  exchanged in it, as beside wide expert parallelism (data-parallel attention of SGLang and vLLM). Only if asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean

AttentionSharding = Literal["heads", "batch", "context", "data"]
Mapping = Any
"""The same cut for all points, or an array of one number a point: the place of its name in ``ATTENTION_SHARDINGS``."""
MANY_POINTS: Final = 512  # from here on a look-up is cheaper than arithmetic
ATTENTION_SHARDINGS: Final[tuple[AttentionSharding, ...]] = ("heads", "batch", "context", "data")
SEARCHED: Final = ATTENTION_SHARDINGS[:3]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedHeads:
    """Attention on the busiest of ``ways`` chips that share a layer.

    ``batch_ways`` chips split the sequences of one head and ``context_ways`` its tokens; ``copies`` is how often the
    whole cache is stored over all chips: above 1 when chips outnumber KV heads and replicate them.
    """

    ways: Any
    q_per_chip: Any
    kv_per_chip: Any
    copies: Any
    batch_ways: Any = 1.0
    context_ways: Any = 1.0
    group_size: Any = field(init=False)

    def __post_init__(self) -> None:
        """Query heads of this chip that share one of its KV heads."""
        object.__setattr__(self, "group_size", self.q_per_chip / self.kv_per_chip)


def parse_attention_sharding(text: str) -> AttentionSharding:
    """Read ``heads``, ``batch``, ``context`` or ``data``. Raises :class:`UserError`."""
    for known in ATTENTION_SHARDINGS:
        if text.strip().lower() == known:
            return known
    raise UserError(f"unknown attention sharding '{text[:40]}': expected heads, batch, context or data",
                    hint=did_you_mean(text, ATTENTION_SHARDINGS))


def is_cut_by(mapping: Mapping, name: AttentionSharding) -> Any:
    """Where a mapping deals out heads alone, or the batch, or the context."""
    return mapping == name if isinstance(mapping, str) else mapping == ATTENTION_SHARDINGS.index(name)


def shard_heads(n_q_heads: int, n_kv_heads: Any, ways: Any, *, static: bool, sharding: Mapping = "heads",
                devices: int = 1) -> ShardedHeads:
    r"""Heads, sequences and tokens on the busiest of ``ways`` chips.

    A chip with ``n_q/p`` consecutive query heads needs every KV head that they touch; past ``p = n_kv`` each chip
    still needs one, so the cache is stored ``p/n_kv`` times. Static machines cut a head's tokens or channels instead
    and never replicate. Each of a chip's ``devices`` takes whole heads by itself, and where they do not go round, heads
    are padded: all devices do what the busiest one does.

    >>> shard_heads(64, 8, 8, static=False).copies, shard_heads(64, 1, 8, static=False).copies
    (1.0, 8.0)
    >>> shard_heads(64, 1, 8, static=False, sharding="batch").batch_ways
    8.0
    >>> shard_heads(32, 32, 12, static=False, devices=2).kv_per_chip  # 24 devices: 48 heads
    4.0
    """
    if not isinstance(sharding, str):
        return _sharded_each(n_q_heads, n_kv_heads, ways, static, sharding, devices)
    return _sharded(n_q_heads, n_kv_heads, ways, static=static, sharding=sharding, devices=devices)


shard_numbers = lru_cache(maxsize=4096)(shard_heads)
"""The same for plain numbers, which programs ask for in loops."""


def _sharded_each(n_q_heads: int, n_kv_heads: Any, ways: Any, static: bool, mapping: Any,  # noqa: FBT001
                  devices: int) -> ShardedHeads:
    """Points of different mappings side by side."""
    kinds = [_sharded(n_q_heads, n_kv_heads, ways, static=static, sharding=name, devices=devices)
             for name in ATTENTION_SHARDINGS]

    def chosen(field: str) -> Any:
        return np.choose(mapping, [getattr(kind, field) for kind in kinds])

    return ShardedHeads(ways=ways, q_per_chip=chosen("q_per_chip"), kv_per_chip=chosen("kv_per_chip"),
                        copies=chosen("copies"), batch_ways=chosen("batch_ways"), context_ways=chosen("context_ways"))


def _sharded(n_q_heads: int, n_kv_heads: Any, ways: Any, *, static: bool, sharding: str,
             devices: int = 1) -> ShardedHeads:
    if static:
        return ShardedHeads(ways=ways, q_per_chip=n_q_heads / ways, kv_per_chip=n_kv_heads / ways, copies=1.0)
    if sharding == "data":
        none = ways * 0.0
        return ShardedHeads(ways=ways, q_per_chip=none + n_q_heads, kv_per_chip=none + n_kv_heads, copies=1.0,
                            batch_ways=none + ways)
    if sharding != "heads":
        head_ways = np.gcd(np.asarray(ways, dtype=np.int64), np.asarray(n_kv_heads, dtype=np.int64)) * 1.0
        rest = ways / head_ways
        return ShardedHeads(
            ways=ways, q_per_chip=_plain(n_q_heads / head_ways), kv_per_chip=_plain(n_kv_heads / head_ways), copies=1.0,
            batch_ways=_plain(rest if sharding == "batch" else rest * 0 + 1.0),
            context_ways=_plain(rest if sharding == "context" else rest * 0 + 1.0))
    if np.size(ways) > MANY_POINTS and np.ndim(n_kv_heads) == 0 and np.max(ways) <= n_q_heads:
        # Few widths, many points: each width once, and a look-up. Widths are whole numbers here.
        widths = _sharded(n_q_heads, n_kv_heads, np.arange(1.0, n_q_heads + 1), static=False, sharding=sharding,
                          devices=devices)
        at = np.asarray(ways, dtype=np.int64) - 1
        return ShardedHeads(ways=ways, q_per_chip=widths.q_per_chip[at], kv_per_chip=widths.kv_per_chip[at],
                            copies=widths.copies[at])
    takers = np.asarray(ways) * devices
    own = np.asarray(np.ceil(n_q_heads / takers), dtype=np.int64)
    group = np.asarray(n_q_heads // np.asarray(n_kv_heads), dtype=np.int64)
    # A run of `own` query heads starting anywhere on a grid of gcd(own, group) touches at most this many groups.
    touched = np.minimum(np.ceil((own - np.gcd(own, group)) / group) + 1, n_kv_heads)
    # Chips and groups cut the query heads into p + n_kv - gcd(p, n_kv) runs, and each run needs its KV head stored.
    common = np.gcd(np.asarray(takers, dtype=np.int64), np.asarray(n_kv_heads, dtype=np.int64))
    # Where KV heads go round among the takers, or these among them, queries are padded group by group.
    kv_heads = np.where(common == np.minimum(takers, n_kv_heads), np.maximum(n_kv_heads / takers, 1.0), touched)
    runs = takers + np.asarray(n_kv_heads) - common
    return ShardedHeads(ways=ways, q_per_chip=_plain(own * 1.0 * devices), kv_per_chip=_plain(kv_heads * 1.0 * devices),
                        copies=_plain(runs / n_kv_heads * 1.0))


def busiest_expert_share(rows: Any, top_k: int, expert_ways: Any, experts: int) -> Any:
    r"""Rows on the busiest of ``p`` expert groups over the mean, for independent uniform routing.

    .. math:: 1 + e_p \sqrt{\frac{E-k}{E-1} \Big/ \mu}, \qquad \mu = \frac{rows\,k}{p},\;
              e_p = \Phi^{-1}\left(\frac{p - 3/8}{p + 1/4}\right)

    Counts of the groups sum to ``rows k``, so the mean maximum of ``p`` nearly normal ones is :math:`\mu + e_p
    \sqrt\mu`, with Blom's approximation to ``e_p`` (Blom 1958); a row's ``k`` experts differ, which takes the
    hypergeometric share of the variance. At least one choice falls on the busiest group and at most all do.
    """
    ways = np.asarray(expert_ways, dtype=float)
    mean = np.asarray(rows) * top_k / ways
    different = (experts - top_k) / max(experts - 1, 1)
    return np.clip(1 + _mean_maximum(ways) * np.sqrt(different / mean), np.minimum(1 / mean, ways), ways)


def busiest_distinct_experts(rows: Any, top_k: int, experts: int, expert_ways: Any) -> Any:
    r"""Different experts that the busiest of ``p`` groups of :math:`E/p` experts reads.

    .. math:: \min\left(m + e_p \sqrt{m (1 - P)},\; E/p\right), \qquad m = \frac{E P}{p},\; P = 1 - (1 - k/E)^{rows}

    ``P`` is the chance that an expert is chosen at all; ``e_p`` as in :func:`busiest_expert_share`.
    """
    ways = np.asarray(expert_ways, dtype=float)
    chosen = 1.0 - (1.0 - top_k / experts) ** np.asarray(rows, dtype=float)
    mean = experts * chosen / ways
    return np.minimum(np.maximum(mean + _mean_maximum(ways) * np.sqrt(mean * (1 - chosen)), 1.0), experts / ways)


def _mean_maximum(counts: Any) -> Any:
    """Mean of the largest of ``counts`` standard normal numbers (Blom 1958); 0 for one."""
    distinct, inverse = np.unique(np.asarray(counts, dtype=float), return_inverse=True)
    largest = np.array([NormalDist().inv_cdf((p - 0.375) / (p + 0.25)) for p in distinct.tolist()])
    return largest[inverse].reshape(np.shape(counts))


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value
