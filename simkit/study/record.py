"""The vocabulary of results: one flat record a point, the same names in tables, CSV, JSON, Parquet and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.units import BYTES, COUNT, SECONDS

Columns = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column: what it means, its dimension for printing (None: text), and its heading in a table."""

    name: str
    meaning: str
    dimension: str | None = COUNT
    heading: str | None = None


_FIELDS: Final = (
    Field(name="hardware", meaning="profile name", dimension=None),
    Field(name="chips", meaning="chips that the model is spread over"),
    Field(name="tp", meaning="chips that share each layer (fractional on statically scheduled machines)"),
    Field(name="pp", meaning="pipeline stages"),
    Field(name="model", meaning="model name", dimension=None),
    Field(name="attention", meaning="attention layout as asked for", dimension=None),
    Field(name="n_q_heads", meaning="query heads"),
    Field(name="n_kv_heads", meaning="key/value heads (1 for MLA's latent)"),
    Field(name="kv_dtype", meaning="format of the KV cache", dimension=None),
    Field(name="weight_dtype", meaning="format of the weights", dimension=None),
    Field(name="batch", meaning="sequences decoded together"),
    Field(name="kv_len", meaning="cached tokens a sequence, the new one included"),
    Field(name="q_len", meaning="query tokens a sequence and step"),
    Field(name="engine", meaning="engine that gave the times", dimension=None),
    Field(name="fits", meaning="true when weights and cache fit on these chips"),
    Field(name="step_time_s", meaning="time of one step; what a user waits for a token", dimension=SECONDS,
          heading="step"),
    Field(name="tokens_per_s", meaning="tokens of all sequences per second", heading="tok/s"),
    Field(name="tokens_per_s_per_user", meaning="tokens of one sequence per second", heading="tok/s/user"),
    Field(name="attention_time_s", meaning="part of the step spent in attention over the cache", dimension=SECONDS,
          heading="attention"),
    Field(name="kv_cache_bytes", meaning="distinct cache of the whole batch, replicas not counted", dimension=BYTES,
          heading="KV cache"),
    Field(name="kv_allocated_bytes", meaning="room given to that cache: page rounding, reservation and scores included",
          dimension=BYTES),
    Field(name="kv_copies", meaning="how often that cache is stored, for chips that outnumber KV heads"),
    Field(name="kv_read_bytes", meaning="cache bytes that all chips read in a step, replicas counted",
          dimension=BYTES, heading="KV read"),
    Field(name="weight_read_bytes", meaning="weight bytes that all chips read in a step", dimension=BYTES),
    Field(name="flops", meaning="matrix flops of all chips in a step"),
    Field(name="arithmetic_intensity", meaning="attention's matrix flops per cache byte that a chip reads",
          heading="flop/byte"),
    Field(name="bound", meaning="what takes most of the step: a memory level, compute, special_function, link, latency",
          dimension=None),
    Field(name="attention_bound", meaning="what binds the attention operator alone", dimension=None),
    Field(name="speedup_vs_mha", meaning="step time of MHA on the same chips over this one", heading="vs MHA"),
    Field(name="attention_speedup_vs_mha", meaning="attention time of MHA on the same chips over this one"),
    Field(name="max_batch", meaning="largest batch of this context that fits on these chips", heading="max batch"),
    Field(name="energy_j_per_token", meaning="joules a token", heading="J/token"),
    Field(name="cost_usd_per_mtok", meaning="US dollars a million tokens", heading="$/Mtok"),
)
FIELDS: Final[Mapping[str, Field]] = MappingProxyType({field.name: field for field in _FIELDS})
# Integers in JSON and CSV wherever the value is whole: counts and bytes, not measurements.
WHOLE: Final = (
    "chips", "tp", "pp", "n_q_heads", "n_kv_heads", "head_dim", "batch", "kv_len", "q_len", "max_batch", "max_kv_len",
    "kv_copies", "kv_cache_bytes", "kv_allocated_bytes", "kv_read_bytes", "weight_read_bytes", "flops",
)


def to_records(columns: Columns) -> list[dict[str, Any]]:
    """Rows of plain Python values for printing and JSON; a value that cannot be known is None.

    Only for what people read: hot paths keep columns.
    """
    names = [name for name in columns if not name.startswith("_")]
    flat = {name: np.ravel(columns[name]) for name in names}
    return [{name: _plain(name, flat[name][row]) for name in names} for row in range(len(flat[names[0]]))]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        if name in WHOLE and value == int(value):
            return int(value)
    return None if value == "" else value
