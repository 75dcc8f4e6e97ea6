r"""What takes a step's time, and what of it a layout saves: the account of a step by parts that people name.

A part of a layout's gain over MHA on the same machine is the difference of that part's times,

.. math:: T_{MHA} - T = \sum_{p} (t^{MHA}_p - t_p), \qquad S_{cache} = \frac{T_{MHA}}{T_{MHA} - (t^{MHA} - t)_{cache}}

so that the parts of a gain add up to it. Operators do not overlap each other: no order of the parts is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.units import SECONDS
from simkit.model.architecture import group_layout
from simkit.model.attention import parse_layout
from simkit.step.build import CROSS_ATTENTION, EXPAND_LATENT, KV_APPEND
from simkit.step.operators import ATTENTION_PARTS
from simkit.study.record import Field
from simkit.timing.step_timing import COMPUTE, LATENCY, LINK, LOAD_PATH, SPECIAL_FUNCTION, StepTiming

_ROUNDING: Final = 1e-12  # of a step
# Operators that read or write the cache.
_OF_THE_CACHE: Final = (*ATTENTION_PARTS, CROSS_ATTENTION, KV_APPEND, "eviction_scores")
# Waiting of the whole step, beside its operators.
_IDLE: Final = ("layer_latency", "pipeline_wait", "host")
# A gain's parts by the name in records: what of a step's time each is.
GAINS: Final[Mapping[str, str]] = MappingProxyType({
    "cache": "reading and writing the cache",
    "load_path": "kernels' load paths, which read the cache too",
    "kv_weights": "weight products of attention, whose K and V parts are smaller",
    "arithmetic": "attention's arithmetic: tile padding, widening a quantised cache",
    "launches": "launches, work items' set-up, partial results",
    "links": "exchanges between chips",
    "latency": "pipeline bubbles, layer latency and host work",
    "other": "everything else",
})
# What a step's time is shared out to in words.
SHARES: Final[Mapping[str, str]] = MappingProxyType({
    "cache": "reading the cache", "load_path": "kernels' load paths", "weights": "reading weights",
    "arithmetic": "arithmetic", "launches": "launches and work items' set-up", "links": "links",
    "latency": "fixed latency"})


def step_shares_s(timing: StepTiming) -> dict[str, Any]:
    """Seconds of a step by :data:`SHARES`; they add up to the step."""
    found: dict[str, Any] = dict.fromkeys(SHARES, 0.0)
    for name, causes in timing.operator_cause_s.items():
        for cause, seconds in causes.items():
            part = _share_of(name, cause)
            found[part] = found[part] + seconds
    return found


def attention_shares_s(timing: StepTiming) -> dict[str, Any]:
    """Seconds of attention alone by :data:`SHARES`."""
    found: dict[str, Any] = dict.fromkeys(SHARES, 0.0)
    for cause, seconds in timing.attention_cause_time_s.items():
        part = _share_of("attention", cause)
        found[part] = found[part] + seconds
    return found


def _share_of(operator: str, cause: str) -> str:
    if cause == LATENCY:
        return "latency" if operator in _IDLE else "launches"
    of_cache = operator in _OF_THE_CACHE
    named = {LINK: "links", LOAD_PATH: "load_path" if of_cache else "weights", COMPUTE: "arithmetic",
             SPECIAL_FUNCTION: "arithmetic"}
    return named.get(cause, "cache" if of_cache else "weights")


def gains_s(at: Any) -> dict[str, Any]:
    """MHA's time minus this layout's by :data:`GAINS`, of :class:`simkit.study.evaluate.Evaluated` points.

    NaN where one of the two does not fit or MHA was not timed.
    """
    if at.mha is None:
        return dict.fromkeys(GAINS, np.nan)
    products = {p.product for layout in (at.layout, parse_layout("mha", at.model))
                for group in at.model.attending_groups for p in group_layout(at.model, layout, group).projections}
    before, after = (_gain_parts_s(timing, products | {EXPAND_LATENT}) for timing in (at.mha.timing, at.timing))
    fits, mha = at.fits & at.mha.fits, at.mha.timing
    parts = {part: np.where(fits, before[part] - after[part], np.nan) for part in GAINS if part != "other"}
    parts["other"] = np.where(fits, mha.step_time_s - at.timing.step_time_s, np.nan) - sum(parts.values())
    return {part: np.where(np.abs(gain) < _ROUNDING * mha.step_time_s, 0.0, gain) for part, gain in parts.items()}


def _gain_s(part: str, at: Any) -> Any:
    return gains_s(at)[part]


def _gain_parts_s(timing: StepTiming, products: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(GAINS, 0.0)
    for name, causes in timing.operator_cause_s.items():
        for cause, seconds in causes.items():
            share = _share_of(name, cause)
            if share in ("weights", "arithmetic") and name not in _OF_THE_CACHE:
                share = "kv_weights" if name in products else "other"
            found[share] = found[share] + seconds
    return found


def _cache_speedup(at: Any) -> Any:
    """MHA's time over what it would be with this layout's reading of the cache and all else as MHA has it."""
    if at.mha is None:
        return np.nan
    saved, before = gains_s(at), at.mha.timing.step_time_s
    return before / (before - saved["cache"] - saved["load_path"])


_HEADINGS: Final = {"load_path": "load path", "kv_weights": "K/V weights"}
CAUSE_FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in (
    *(Field(name=f"gain_{part}_s", meaning=f"MHA's time minus this one's on the same chips: {meaning}",
            dimension=SECONDS, heading=_HEADINGS.get(part, part), value_of=partial(_gain_s, part))
      for part, meaning in GAINS.items()),
    Field(name="cache_speedup_vs_mha", heading="by cache alone", value_of=_cache_speedup,
          meaning="step time of MHA over the same with only its reading of the cache as short as this layout's"),
)})
