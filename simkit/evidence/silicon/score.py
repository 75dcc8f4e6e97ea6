r"""How far predicted kernel times are from measured ones: errors by regime, with intervals, and advantages over MHA.

With :math:`e = \hat t / t - 1`: ``mape`` is the mean of :math:`|e|`, ``median_ape`` and ``p90_ape`` its quantiles,
``bias`` the median of :math:`e`; all are fractions. Intervals (5-95 %) resample whole configurations (every column
except batch and context), because rows of one configuration are wrong together; resampling rows would look surer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.attention_rows import attention_operators
from simkit.evidence.silicon.layer_rows import fitted_to, layer_operators
from simkit.evidence.silicon.mixture_rows import mixture_operators
from simkit.evidence.silicon.product_rows import product
from simkit.evidence.silicon.tables import ELEMENT_BYTES, EXCHANGES, LAYERS, PROMPTS, MeasuredTimes
from simkit.hardware.profile import HardwareProfile
from simkit.model.kv_cache import parse_format
from simkit.step.operators import Operator

SERVING_TOKENS: Final = 512
SERVING_SEQUENCES: Final = 4
BEYOND_CACHE: Final = 2.0  # times the last on-chip cache: nothing of the previous turn is left
RESAMPLES: Final = 200
INTERVAL: Final = (0.05, 0.95)
_MLA_ELEMENTS: Final = 576  # latent and rotary part of the measured kernels (DeepSeek: 512 + 64)


def streamed_bytes(rows: MeasuredTimes) -> Any:
    """Bytes that a kernel reads once: the KV cache, a product's weights, or those of the experts that are chosen; of
    exchanges what one chip must send.
    """
    columns = rows.columns
    if rows.kind == "decode_attention":
        element = _element_bytes(columns["kv_dtype"])
        return columns["batch"] * columns["n_kv_heads"] * columns["kv_len"] * 2.0 * columns["head_dim"] * element
    if rows.kind == "decode_mla":
        return columns["batch"] * columns["kv_len"] * _MLA_ELEMENTS * _element_bytes(columns["kv_dtype"])
    if rows.kind == "decode_gemm":
        return columns["n"] * columns["k"] * _element_bytes(columns["dtype"])
    if rows.kind == "allreduce":
        return 2.0 * (columns["chips"] - 1) / columns["chips"] * columns["elements"] * _element_bytes(columns["dtype"])
    if rows.kind == "expert_dispatch":
        element = np.where(columns["exchange"] == "dispatch", 1.0, 2.0)
        return columns["tokens"] * columns["top_k"] * columns["hidden_size"] * element
    moved = np.zeros(len(rows))
    for where, operator in row_operators(rows):
        moved[where] += operator.weight_bytes + operator.kv_read_bytes + operator.kv_write_bytes
    return moved


def row_operators(rows: MeasuredTimes) -> Iterator[tuple[Any, Operator]]:
    """Row numbers and one of their operators, arrays over them; a row has several where it timed several kernels."""
    if rows.kind in LAYERS:
        for where, operators, _ in layer_operators(rows):
            yield from ((where, operator) for operator in operators)
    elif rows.kind == "decode_moe":
        yield from ((where, operator) for where, operator, _ in mixture_operators(rows))
    elif rows.kind == "decode_gemm":
        for dtype in np.unique(rows.columns["dtype"]):
            where = np.flatnonzero(rows.columns["dtype"] == dtype)
            m, n, k = (rows.columns[name][where] for name in ("m", "n", "k"))
            yield where, product(m, n, k, parse_format(str(dtype)))
    else:
        yield from attention_operators(rows)


def _element_bytes(formats: Any) -> Any:
    found, place = np.unique(formats, return_inverse=True)
    return np.array([ELEMENT_BYTES[str(name)] for name in found])[place]


def regimes(rows: MeasuredTimes, hardware: HardwareProfile) -> dict[str, Any]:
    """Masks of the regimes; exchanges have none but ``all``, a product no ``serving``.

    ``held_out``: of prompts' kernels and dispatches, what no constant was fitted to; ``beyond_cache``: more bytes than
    twice the last on-chip cache; ``serving``: at least 512 tokens and 4 sequences.
    """
    masks = {"all": np.ones(len(rows), dtype=bool)}
    if rows.kind in (*PROMPTS, "expert_dispatch"):
        masks["held_out"] = ~fitted_to(rows)
    if rows.kind in EXCHANGES:
        return masks
    if "kv_len" in rows.columns:
        masks["serving"] = (rows.columns["kv_len"] >= SERVING_TOKENS) & (rows.columns["batch"] >= SERVING_SEQUENCES)
    caches = [level for level in hardware.memory if level.kind == "cache" and level.scope == "chip"]
    capacity = caches[-1].chip_capacity_bytes if caches else 0.0
    masks["beyond_cache"] = streamed_bytes(rows) > BEYOND_CACHE * capacity
    masks["in_cache"] = ~masks["beyond_cache"]
    return masks


def advantages(rows: MeasuredTimes, time_s: Any) -> tuple[Any, Any]:
    """Rows that have fewer KV heads than query heads, and by what factor MHA takes longer at equal other columns.

    Rows whose MHA kernel the table lacks are left out.
    """
    columns = rows.columns
    if rows.kind != "decode_attention":
        return np.zeros(0, dtype=int), np.zeros(0)
    formats = np.unique(columns["kv_dtype"], return_inverse=True)[1]
    keys = np.stack([formats, columns["head_dim"], columns["n_q_heads"], columns["batch"], columns["kv_len"]], axis=1)
    same = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    mha = columns["n_kv_heads"] == columns["n_q_heads"]
    mha_time = np.full(int(same.max()) + 1 if len(same) else 0, np.nan)
    mha_time[same[mha]] = time_s[mha]
    factor = mha_time[same] / time_s
    grouped = np.flatnonzero(~mha & np.isfinite(factor))
    return grouped, factor[grouped]


def score(rows: MeasuredTimes, predicted_s: Any, mask: Any, *, seed: int) -> dict[str, Any]:
    """``rows, mape, median_ape, p90_ape, bias`` of the rows of a mask, and the ends of their intervals."""
    error = (predicted_s / rows.time_s - 1.0)[mask]
    named = {"rows": len(error)}
    names = ("mape", "median_ape", "p90_ape", "bias")
    if not len(error):
        return named | dict.fromkeys(names) | {f"{name}_{end}": None for name in names[:2] for end in ("low", "high")}
    clusters = _configurations(rows)[mask]
    size = np.abs(error)
    order = np.argsort(size)
    mean, median = _resampled(size[order], clusters[order], seed)
    values = (size.mean(), np.median(size), np.quantile(size, 0.9), np.median(error))
    ends = {}
    for name, draws in (("mape", mean), ("median_ape", median)):
        ends[f"{name}_low"], ends[f"{name}_high"] = (float(q) for q in np.quantile(draws, INTERVAL))
    return named | {name: float(value) for name, value in zip(names, values, strict=True)} | ends


def _configurations(rows: MeasuredTimes) -> Any:
    """Number of each row's configuration: every column but those that grow a kernel of the same shape."""
    grown = {"system", "batch", "kv_len", "m", "tokens", "distribution", "elements", "sms"}
    return rows.numbers_of(name for name in rows.columns if name not in grown)


def _resampled(ascending: Any, clusters: Any, seed: int) -> tuple[Any, Any]:
    """Mean and median of sorted values over draws of whole clusters, with replacement.

    A median of an even number of rows is the mean of the middle two, as in :func:`score`.
    """
    _, clusters = np.unique(clusters, return_inverse=True)
    count = int(clusters.max()) + 1
    generator = np.random.default_rng(seed)
    means, medians = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        weight = np.bincount(generator.integers(0, count, count), minlength=count)[clusters]
        upto = np.cumsum(weight)
        means[draw] = float(ascending @ weight) / upto[-1]
        below, above = np.searchsorted(upto, ((upto[-1] + 1) // 2, upto[-1] // 2 + 1))
        medians[draw] = (ascending[below] + ascending[above]) / 2.0
    return means, medians


def median_advantage_error(rows: MeasuredTimes, predicted_s: Any, mask: Any) -> tuple[float | None, int]:
    """Median of |predicted over measured advantage - 1| of the grouped rows in a mask, and how many there are."""
    where, measured = advantages(rows, rows.time_s)
    _, predicted = advantages(rows, predicted_s)
    inside = mask[where]
    if not inside.any():
        return None, 0
    return float(np.median(np.abs(predicted[inside] / measured[inside] - 1.0))), int(inside.sum())
