"""One attention kernel on one chip: no model, no weights, only the cache, its queries and the roofs above them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import BYTES_PER_S, FLOP_PER_S, SECONDS
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kv_cache import parse_format
from simkit.step.build import build_step
from simkit.step.operators import DecodeStep
from simkit.step.placement import Demand, Placement, cached_bytes_per_sequence, place
from simkit.step.workload import AttentionKernel, DecodeWorkload
from simkit.study.asked import MOST_POINTS, chips_of, listed
from simkit.study.engines import CLOSED_FORM, DEFAULT, ENGINES, engine_named
from simkit.study.likely import LIKELY_FIELDS, kernel_ends, likely_fields
from simkit.study.ranges import Timer, timed_together
from simkit.study.record import FIELDS, Columns, Field
from simkit.timing.engine import Evaluate
from simkit.timing.step_timing import StepTiming

CACHE_STARTS: Final = ("cold", "warm")
MOST_HEADS: Final = 65_536
MOST_HEAD_DIM: Final = 65_536


_OWN_FIELDS: Final = (
    Field(name="head_dim", meaning="elements a head"),
    Field(name="time_s", meaning="time of the kernel, its launch included", dimension=SECONDS, heading="time"),
    Field(name="time_s_low", meaning="low end of its range by what is assumed", dimension=SECONDS),
    Field(name="time_s_high", meaning="high end of it", dimension=SECONDS),
    Field(name="achieved_bytes_per_s", meaning="cache bytes over time", dimension=BYTES_PER_S, heading="achieved"),
    Field(name="achieved_flop_per_s", meaning="matrix flops over time", dimension=FLOP_PER_S, heading="flops"),
)
# What a kernel's record says: the common vocabulary and its own words.
KERNEL_FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {**FIELDS, **LIKELY_FIELDS, **{field.name: field for field in (*_OWN_FIELDS, *likely_fields("time_s", SECONDS))}})


def time_attention(hardware: Any, *, n_q_heads: int, n_kv_heads: Any, head_dim: int = 128, batch: Any = 1,
                   kv_len: Any = 4096, q_len: Any = 1, kv_dtype: Any = "bf16", engine: str = DEFAULT,
                   cache: str = "cold") -> Columns:
    """:func:`attention_kernel` at every combination of the lists given: hardware varies slowest, then KV format, KV
    heads, batch, context and queries. Raises :class:`UserError` beyond 100 000 points.
    """
    chips = chips_of(hardware)
    axes = [listed(one) for one in (chips, kv_dtype, n_kv_heads, batch, kv_len, q_len)]
    points = math.prod(len(axis) for axis in axes)
    if points > MOST_POINTS:
        raise UserError(f"{points:,} points are more than the {MOST_POINTS:,} of one call", hint="shorten the lists")
    heads, sequences, tokens, queries = np.meshgrid(*axes[2:], indexing="ij")
    parts = [attention_kernel(chip, n_q_heads=n_q_heads, n_kv_heads=heads, head_dim=head_dim, batch=sequences,
                              kv_len=tokens, q_len=queries, kv_dtype=dtype, engine=engine, cache=cache)
             for chip in chips for dtype in axes[1]]
    return Columns({name: np.concatenate([part[name].ravel() for part in parts]) for name in parts[0]})


def attention_kernel(hardware: HardwareProfile, *, n_q_heads: int, n_kv_heads: Any, head_dim: int = 128, batch: Any = 1,
                     kv_len: Any = 4096, q_len: Any = 1, kv_dtype: str = "bf16",
                     engine: str = DEFAULT, cache: str = "cold",
                     kernel: AttentionKernel = "grouped") -> dict[str, Any]:
    """Time attention over a cache that one chip holds.

    Parameters
    ----------
    hardware: the chip.
    n_q_heads: query heads.
    n_kv_heads: key/value heads, numbers that divide ``n_q_heads``.
    head_dim: elements a head.
    batch, kv_len, q_len: sequences, cached tokens and query tokens a sequence; with n_kv_heads they broadcast.
    kv_dtype: format of the cache.
    engine: ``roofline`` or ``replay``.
    cache: what the chip's cache holds at the start: ``cold`` (other layers went through it since) or ``warm`` (the
        kernel loops alone; ``replay`` only).
    kernel: how it reads grouped heads, as ``--attention-kernel``.

    Returns columns of the broadcast shape. Times are NaN where the cache does not fit on the chip. The time is
    the engine's for the attention operator alone: its launch, and the roofs or the replay of its reads.
    """
    run = _engine(engine, cache)
    kv_heads, batch, kv_len, q_len = np.broadcast_arrays(
        *(np.asarray(value, dtype=float) for value in (n_kv_heads, batch, kv_len, q_len)))
    _check_heads(n_q_heads, kv_heads, head_dim)
    kv_format = parse_format(kv_dtype)
    model = _one_layer(n_q_heads, head_dim)

    def timed(heads: Any) -> tuple[DecodeStep, Any, Placement, StepTiming]:
        workload = DecodeWorkload(
            model=model, layout=parse_layout("mha", model), n_kv_heads=heads, batch=batch, kv_len=kv_len, q_len=q_len,
            kv_format=kv_format, weight_format=parse_format("bf16"), kernel=kernel,
            static=hardware.sharding == "layer-pipelined")
        whole = build_step(workload)
        step = replace(whole, layer_operators=whole.attention_operators, end_operators=(), collectives=())
        per_sequence = cached_bytes_per_sequence(workload)
        need = Demand(weight_bytes=0.0, kv_bytes_per_sequence=per_sequence, kv_bytes=per_sequence * batch)
        # One chip was asked for, so its overflow tiers are part of it.
        placement = place(need, hardware, overflow=True)
        return step, need.kv_bytes, placement, run(step, placement, hardware)

    step, cache_bytes, placement, timing = timed(kv_heads)
    operator = step.attention_operators[0]
    mha_step, _, mha_placement, mha_timing = timed(np.full(kv_heads.shape, float(n_q_heads)))
    time_s = np.where(placement.fits, timing.attention_time_s, np.nan)
    mha_time_s = np.where(mha_placement.fits, mha_timing.attention_time_s, np.nan)

    def ends() -> dict[str, Any]:
        """The ranges of the times and of the speed-up over MHA."""
        values = {"time_s": time_s, "attention_time_s": time_s, "speedup_vs_mha": mha_time_s / time_s}
        if not hardware.has_range:
            return {f"{name}_{end}": np.full(kv_heads.shape, np.nan) for name in values for end in ("low", "high")}
        own, mha = timed_together(hardware, [
            Timer(shape=kv_heads.shape, evaluate=partial(CLOSED_FORM.evaluate, *of))
            for of in ((step, placement), (mha_step, mha_placement))])
        ratios = dict.fromkeys(values, own.attention_time_s) | {"speedup_vs_mha": mha.over(own).attention_time_s}
        return {f"{name}_{end}": value * pick(pick.reduce(ratios[name]), 1.0) for name, value in values.items()
                for end, pick in (("low", np.fmin), ("high", np.fmax))}

    def full(value: Any) -> Any:
        return np.full(kv_heads.shape, value, dtype=object if isinstance(value, str) else None)

    def column(value: Any) -> Any:
        return np.broadcast_to(np.asarray(value, dtype=float), kv_heads.shape)

    values = {"time_s": time_s, "speedup_vs_mha": mha_time_s / time_s, **ends()}
    return {
        "hardware": full(hardware.name), "n_q_heads": full(n_q_heads), "n_kv_heads": kv_heads,
        "head_dim": full(head_dim), "kv_dtype": full(kv_format.name), "batch": batch, "kv_len": kv_len, "q_len": q_len,
        "engine": full(engine), "fits": np.broadcast_to(placement.fits, kv_heads.shape), "time_s": time_s,
        "attention_time_s": time_s, "kv_cache_bytes": column(cache_bytes),
        "kv_read_bytes": column(operator.kv_read_bytes), "flops": column(operator.matrix_flops),
        "arithmetic_intensity": column(operator.matrix_flops / operator.kv_read_bytes),
        "achieved_bytes_per_s": operator.kv_read_bytes / time_s, "achieved_flop_per_s": operator.matrix_flops / time_s,
        "bound": np.where(np.isfinite(time_s), timing.attention_bound, ""),
        "assumed": full(hardware.assumption), **values, **kernel_ends(hardware, values, kv_heads == n_q_heads),
    }


def _engine(name: str, cache: str) -> Evaluate:
    """The engine of that name, starting from that cache."""
    if cache not in CACHE_STARTS:
        raise UserError(f"unknown start of the cache '{cache[:40]}': expected cold or warm",
                        hint=did_you_mean(cache, CACHE_STARTS))
    engine = engine_named(name)
    if cache == "cold":
        return engine.evaluate
    if engine.evaluate_warm is None:
        knows = next(other.name for other in ENGINES.values() if other.evaluate_warm is not None)
        raise UserError(f"the {name} engine knows only cold caches", hint=f"--engine {knows} knows warm ones")
    return engine.evaluate_warm


def _check_heads(n_q_heads: int, kv_heads: Any, head_dim: int) -> None:
    if not 1 <= n_q_heads <= MOST_HEADS:
        raise UserError(f"{n_q_heads} query heads: expected 1 to {MOST_HEADS:,}")
    if not 1 <= head_dim <= MOST_HEAD_DIM:
        raise UserError(f"head dimension {head_dim}: expected 1 to {MOST_HEAD_DIM:,}")
    wrong = kv_heads[(kv_heads < 1) | (kv_heads > n_q_heads) | (n_q_heads % np.maximum(kv_heads, 1) != 0)]
    if wrong.size:
        divisors = ", ".join(str(k) for k in range(1, n_q_heads + 1) if n_q_heads % k == 0)
        raise UserError(f"{wrong.flat[0]:g} KV heads do not divide the {n_q_heads} query heads",
                        hint=f"expected one of {divisors}")


def _one_layer(n_q_heads: int, head_dim: int) -> ModelArchitecture:
    """A model that is one attention layer."""
    return ModelArchitecture(
        name="attention", title="one attention layer", hidden_size=n_q_heads * head_dim, n_q_heads=n_q_heads,
        n_kv_heads=n_q_heads, head_dim=head_dim, layer_groups=(LayerGroup(count=1, window=None, moe=False),), mlp=None,
        moe=None, mla=None, vocab_size=1, tied_embeddings=True)

