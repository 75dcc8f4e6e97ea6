r"""The vocabulary of results: one flat record a point, the same names in tables, CSV, JSON, Parquet and figures.

Each name stands once, with what it means and how it follows from evaluated points. Joules and dollars:

.. math:: E = \sum_l bytes_l e_l + flops\, e_f + P_{idle} T \qquad
          C = \text{chips} \cdot \text{price} / \text{throughput}

``e_l`` is the energy of a byte on its whole way from its home into a compute unit. A parameter that the profile lacks
makes the result NaN (unknown), never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from simkit.foundation.tables import MOST_ROWS, Records, shown
from simkit.foundation.units import BYTES, COUNT, SECONDS
from simkit.hardware.profile import HardwareProfile, Price
from simkit.step.build import StepTotals, step_totals
from simkit.step.operators import DecodeStep
from simkit.step.placement import (
    Placement,
    allocated_bytes_per_sequence,
    cached_bytes_per_sequence,
    kv_copies,
)
from simkit.study.machine_search import name_of
from simkit.study.ranges import speedup_bound, time_bound
from simkit.timing.step_timing import StepTiming

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MTOK = 1e6


def energy_j_per_token(step: DecodeStep, placement: Placement, hardware: HardwareProfile, step_time_s: Any,
                       chips: Any, tokens_per_s: Any, *, timing: StepTiming | None = None,
                       totals: StepTotals | None = None, draft: DecodeStep | None = None, draft_steps: int = 0) -> Any:
    """Energy of one token over all chips: weights and cache from their homes, matrix flops, messages between tiles, and
    idle power.

    ``timing`` says what tiles send and what stays beside a memory; None: nothing. ``totals`` are the step's where they
    are known. ``draft_steps`` steps of a ``draft`` model precede each step when
    tokens are proposed by one.
    Activations are left out: they stay on chip, where profiles rarely have an energy, and are a few per cent of bytes.
    """
    power = hardware.power
    if power.energy_j_per_flop is None or power.idle_w is None:
        return np.full(np.shape(step_time_s), np.nan)
    totals = totals or step_totals(step)
    joules: Any = power.idle_w * chips * step_time_s
    joules = joules + _moved_and_computed_j(totals, placement, hardware, power.energy_j_per_flop)
    if timing is not None:
        joules = joules + _sent_and_left_j(step, totals, placement, hardware, timing)
    if draft is not None:
        joules = joules + draft_steps * _moved_and_computed_j(step_totals(draft), placement, hardware,
                                                              power.energy_j_per_flop)
    return joules / (tokens_per_s * step_time_s)


def _sent_and_left_j(step: DecodeStep, totals: StepTotals, placement: Placement, hardware: HardwareProfile,
                     timing: StepTiming) -> Any:
    """Joules of messages between tiles, and, below 0, of the way that cache bytes read beside their memory spare."""
    joules: Any = 0.0
    sent = sum(timing.hop_bytes().values())
    if np.any(sent) and hardware.fabric is not None:
        ways = step.workload.heads.ways * np.asarray(step.workload.batch) / step.workload.sequences
        joules = ways * np.where(sent > 0, sent * _known(hardware.fabric.link.energy_j_per_byte), 0.0)
    for level in hardware.memory:
        if level.compute is not None and np.any(timing.beside_bytes):
            less_j = _known(level.compute.energy_j_per_byte) - _known(level.energy_j_per_byte)
            beside = timing.beside_bytes * (np.asarray(placement.kv.get(level.name, 0.0)) > 0)
            beside = beside * totals.kv_read_bytes / sum(one.count * one.kv_read_bytes for one in step.operators)
            joules = joules + np.where(beside > 0, beside * less_j, 0.0)
    return joules


def _known(value: Any) -> Any:
    return np.nan if value is None else value


def _moved_and_computed_j(totals: StepTotals, placement: Placement, hardware: HardwareProfile,
                          energy_j_per_flop: float) -> Any:
    joules: Any = totals.matrix_flops * energy_j_per_flop
    for shares, amount in ((placement.weights, totals.weight_bytes),
                           (placement.kv, totals.kv_read_bytes + totals.kv_write_bytes)):
        for name, share in shares.items():
            energy = hardware.level(name).energy_j_per_byte
            moved = amount * share
            joules = joules + (np.where(moved > 0, np.nan, 0.0) if energy is None else moved * energy)
    return joules


def cost_usd_per_mtok(price: Price, chips: Any, tokens_per_s: Any) -> Any:
    """Rent of all chips for the time of a million tokens; NaN without a price."""
    if price.usd_per_hour is None:
        return np.full(np.shape(tokens_per_s), np.nan)
    return chips * price.usd_per_hour / SECONDS_PER_HOUR / tokens_per_s * TOKENS_PER_MTOK


def joules_per_token(at: Any, step_time_s: Any) -> Any:
    """Joules a token of evaluated points whose step takes so long, over all pools of chips."""
    def of(pool: Any) -> Any:
        speculation = pool.points.speculation
        return energy_j_per_token(
            pool.step, pool.placement, pool.hardware, step_time_s, pool.machine.chips,
            at.points.batch * at.tokens_per_step / step_time_s, timing=pool.timing, totals=pool.totals,
            draft=pool.points.draft_step(speculation, pool.machine),
            draft_steps=0 if speculation is None else speculation.draft_tokens)

    return sum(map(of, at.sides))


def _owned_of(at: Any) -> Any:
    """A million tokens of evaluated points on chips that were bought; NaN without a price or a power limit."""
    usd_per_s = sum(at.points.scenario.ownership.usd_per_s(pool.hardware, pool.machine.chips) for pool in at.sides)
    return usd_per_s / at.tokens_per_s * TOKENS_PER_MTOK


def _unknown_costs(hardware: HardwareProfile) -> str:
    """Keys without which a cost or an energy of this chip stays unknown, with semicolons; empty: none."""
    fabric = hardware.fabric
    known = {"price.per_hour": hardware.price.usd_per_hour, "price.purchase": hardware.price.purchase_usd,
             "power.tdp": hardware.power.tdp_w, "power.idle": hardware.power.idle_w,
             "power.flop_energy": hardware.power.energy_j_per_flop,
             **{f"memory.{level.name}.compute.energy": level.compute.energy_j_per_byte for level in hardware.memory
                if level.compute is not None},
             **({"fabric.link.energy": fabric.link.energy_j_per_byte} if fabric and fabric.has_rates else {})}
    return "; ".join(key for key, value in known.items() if value is None)


MOST_REMEMBERED: Final = 256
_UNKNOWN_COSTS: dict[int, tuple[HardwareProfile, str]] = {}


def unknown_costs(*chips: HardwareProfile) -> str:
    """Keys without which a cost or an energy of these chips stays unknown, with semicolons; empty: none."""
    said = []
    for chip in chips:
        if id(chip) not in _UNKNOWN_COSTS:
            if len(_UNKNOWN_COSTS) >= MOST_REMEMBERED:
                _UNKNOWN_COSTS.clear()
            # The entry keeps the profile alive, and with it the number that names it.
            _UNKNOWN_COSTS[id(chip)] = chip, _unknown_costs(chip)
        said.append(_UNKNOWN_COSTS[id(chip)][1])
    return "; ".join(dict.fromkeys(filter(None, said)))


def _no_value(_: Any) -> Any:
    return np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column: what it means, its dimension for printing (None: text), its heading in a table, and its value.

    ``value_of`` takes :class:`simkit.study.evaluate.Evaluated` points.
    """

    name: str
    meaning: str
    dimension: str | None = COUNT
    heading: str | None = None
    value_of: Callable[[Any], Any] = _no_value


_FIELDS: Final = (
    Field(name="hardware", meaning="profile name", dimension=None,
          value_of=lambda at: at.hardware.name),
    Field(name="chips", meaning="chips that the model is spread over",
          value_of=lambda at: at.machine.chips),
    Field(name="tp", meaning="chips that share each layer (fractional on statically scheduled machines)",
          value_of=lambda at: at.machine.tp),
    Field(name="pp", meaning="pipeline stages",
          value_of=lambda at: at.machine.pp),
    Field(name="mapping", meaning="what chips deal out of attention beyond KV heads: copies of heads, batch or context",
          dimension=None,
          value_of=lambda at: name_of(at.machine.mapping)),
    Field(name="model", meaning="model name", dimension=None,
          value_of=lambda at: at.model.name),
    Field(name="attention", meaning="attention layout as asked for", dimension=None,
          value_of=lambda at: at.layout.name),
    Field(name="n_q_heads", meaning="query heads",
          value_of=lambda at: at.model.n_q_heads),
    Field(name="n_kv_heads", meaning="key/value heads (1 for MLA's latent)",
          value_of=lambda at: at.layout.n_kv_heads),
    Field(name="kv_dtype", meaning="format of the KV cache", dimension=None,
          value_of=lambda at: at.points.scenario.kv_dtype),
    Field(name="weight_dtype", meaning="format of the weights", dimension=None,
          value_of=lambda at: at.points.scenario.weight_dtype),
    Field(name="compute_dtype", meaning="format in which the chip multiplies by the weights", dimension=None,
          value_of=lambda at: at.hardware.compute.matrix_dtype(at.step.workload.gemm_dtype)),
    Field(name="batch", meaning="sequences decoded together",
          value_of=lambda at: at.points.batch),
    Field(name="kv_len", meaning="cached tokens a sequence, the new one included",
          value_of=lambda at: at.points.kv_len),
    Field(name="q_len", meaning="query tokens a sequence and step",
          value_of=lambda at: at.step.workload.q_len),
    Field(name="engine", meaning="engine that gave the times", dimension=None,
          value_of=lambda at: at.points.engine.name),
    Field(name="engine_detail", dimension=None,
          meaning="what the engine saw of the chip: tiles, work items, banks or one stream; empty: the closed form",
          value_of=lambda at: at.timing.detail),
    Field(name="tile_mapping", dimension=None,
          meaning="tiles that a layer runs on, and how a KV head lies on them: over tokens, over its dimension, copies",
          value_of=lambda at: "" if at.timing.tile_mapping is None else at.timing.tile_mapping.words),
    Field(name="unexplained_s", dimension=SECONDS, value_of=lambda at: at.timing.unexplained_s,
          meaning="what a step takes by layers that were measured on this chip or its class, beyond what its tiles "
                  "explain; unknown where none were or tiles are not asked"),
    Field(name="assumed", meaning="parameters that the profile does not state and that took the range of their class, "
                                  "by key with semicolons; ideal: their defaults", dimension=None,
          value_of=lambda at: ";".join(dict.fromkeys(filter(
              None, (pool.hardware.assumption for pool in at.sides))))),
    Field(name="fits", meaning="true when weights and cache fit on these chips",
          value_of=lambda at: at.fits),
    Field(name="beyond_max_context", meaning="true when the context is longer than the model was made for",
          value_of=lambda at: np.asarray(at.points.kv_len) > (at.model.max_context or np.inf)),
    Field(name="step_time_s", meaning="time of one step; what a user waits for a token", dimension=SECONDS,
          heading="step",
          value_of=lambda at: at.step_time_s),
    Field(name="tokens_per_s", meaning="tokens of all sequences per second", heading="tok/s",
          value_of=lambda at: at.tokens_per_s),
    Field(name="tokens_per_s_per_user", meaning="tokens of one sequence per second", heading="tok/s/user",
          value_of=lambda at: at.tokens_per_step / at.step_time_s),
    Field(name="attention_time_s", meaning="part of the step spent in attention over the cache", dimension=SECONDS,
          heading="attention",
          value_of=lambda at: np.where(at.fits, at.timing.attention_time_s, np.nan)),
    Field(name="kv_cache_bytes", meaning="distinct cache of the whole batch, replicas not counted", dimension=BYTES,
          heading="KV cache",
          value_of=lambda at: at.points.batch * cached_bytes_per_sequence(at.step.workload)),
    Field(name="kv_allocated_bytes", meaning="room given to that cache: page rounding, reservation and scores included",
          dimension=BYTES,
          value_of=lambda at: at.points.batch * allocated_bytes_per_sequence(at.step.workload)),
    Field(name="kv_copies", meaning="how often that cache is stored, for chips that outnumber KV heads",
          value_of=lambda at: kv_copies(at.step.workload)),
    Field(name="kv_read_bytes", meaning="cache bytes that all chips read in a step, replicas counted",
          dimension=BYTES, heading="KV read",
          value_of=lambda at: at.totals.kv_read_bytes),
    Field(name="weight_read_bytes", meaning="weight bytes that all chips read in a step", dimension=BYTES,
          value_of=lambda at: at.totals.weight_bytes),
    Field(name="flops", meaning="matrix flops of all chips in a step",
          value_of=lambda at: at.totals.matrix_flops),
    Field(name="arithmetic_intensity", meaning="attention's matrix flops per cache byte that a chip reads",
          heading="flop/byte",
          value_of=lambda at: at.arithmetic_intensity),
    Field(name="bound", dimension=None,
          meaning="what takes most of the step: a memory level, load_path, compute, special_function, link, latency",
          value_of=lambda at: np.where(at.fits, at.timing.bound, "")),
    Field(name="attention_bound", meaning="what binds the attention operator alone", dimension=None,
          value_of=lambda at: np.where(at.fits, at.timing.attention_bound, "")),
    Field(name="baseline", dimension=None,
          meaning="what speedups are over: mha, or mha-equal-parameters, for which this layout's MLP is wider",
          value_of=lambda at: at.points.scenario.comparison),
    Field(name="speedup_vs_mha", meaning="step time of MHA on the same chips over this one", heading="vs MHA",
          value_of=lambda at: at.speedup_vs_mha("step_time_s")),
    Field(name="attention_speedup_vs_mha", meaning="attention time of MHA on the same chips over this one",
          value_of=lambda at: at.speedup_vs_mha("attention_time_s")),
    Field(name="max_batch", meaning="largest batch of this context that fits on these chips", heading="max batch",
          value_of=lambda at: at.placement.max_batch),
    Field(name="energy_j_per_token", meaning="joules a token", heading="J/token",
          value_of=lambda at: joules_per_token(at, at.step_time_s)),
    Field(name="cost_usd_per_mtok", meaning="US dollars a million tokens", heading="$/Mtok",
          value_of=lambda at: sum(cost_usd_per_mtok(pool.hardware.price, pool.machine.chips, at.tokens_per_s)
                                  for pool in at.sides)),
    Field(name="owned_usd_per_mtok", heading="owned $/Mtok", value_of=_owned_of,
          meaning="US dollars a million tokens of chips that were bought: price over hours of service, and power"),
    Field(name="unknown_costs", meaning="keys of the profile without which a cost or an energy stays unknown",
          dimension=None, value_of=lambda at: unknown_costs(*(pool.hardware for pool in at.sides))),
)
# Columns that follow from times, and so have a range where parameters of the chip are assumed.
RANGED: Final = {
    "step_time_s": None, "tokens_per_s": None, "tokens_per_s_per_user": None, "attention_time_s": None,
    "speedup_vs_mha": "step_time_s", "attention_speedup_vs_mha": "attention_time_s", "energy_j_per_token": None,
    "cost_usd_per_mtok": None, "owned_usd_per_mtok": None}


def _ends(field: Field) -> Iterator[Field]:
    """The columns of the lower and the upper end of a column's range."""
    ratio_of = RANGED[field.name]
    for end, pick in (("low", np.fmin), ("high", np.fmax)):
        def value_of(at: Any, pick: Any = pick) -> Any:
            if not any(pool.hardware.has_range for pool in at.sides):
                return np.nan
            return time_bound(at, field.value_of, pick) if ratio_of is None else speedup_bound(at, ratio_of, pick)

        yield Field(name=f"{field.name}_{end}", dimension=field.dimension, value_of=value_of, meaning=(
            f"{end} end of its range by what is assumed; unknown where nothing is"))


FIELDS: Final[Mapping[str, Field]] = MappingProxyType({
    field.name: field for known in _FIELDS for field in (known, *(_ends(known) if known.name in RANGED else ()))})
# Integers in JSON and CSV wherever the value is whole: counts and bytes, not measurements.
WHOLE: Final = (
    "chips", "tp", "pp", "n_q_heads", "n_kv_heads", "head_dim", "batch", "kv_len", "q_len", "max_batch", "max_kv_len",
    "kv_copies", "ffn_chips", "ffn_tp", "ffn_pp", "micro_batches", "exchange_bytes",
    "kv_cache_bytes", "kv_allocated_bytes", "kv_read_bytes", "weight_read_bytes", "flops",
)


class Columns(dict[str, Any]):
    """Arrays of one shape by the names of :data:`FIELDS`; shows itself as a table and becomes a dataframe."""

    def to_records(self) -> Records:
        """One record a point, in the order of the flattened arrays."""
        return to_records(self)

    def to_dataframe(self) -> Any:
        """One row a point, with pandas or polars. Raises :class:`UserError` where neither is installed."""
        return self.to_records().to_dataframe()

    def __repr__(self) -> str:
        first = {name: np.ravel(column)[:MOST_ROWS] for name, column in self.items()}
        return shown(to_records(first), np.size(next(iter(self.values()), ())))


def to_records(columns: Mapping[str, Any]) -> Records:
    """Rows of plain Python values for printing and JSON; a value that cannot be known is None.

    Only for what people read: hot paths keep columns.
    """
    names = [name for name in columns if not name.startswith("_")]
    flat = [[_plain(value, whole=name in WHOLE) for value in np.ravel(columns[name]).tolist()] for name in names]
    return Records(dict(zip(names, row, strict=True)) for row in zip(*flat, strict=True))


def _plain(value: Any, *, whole: bool) -> Any:
    if isinstance(value, np.generic):  # of a column of objects
        value = value.item()
    if isinstance(value, float):
        if not isfinite(value):
            return None
        return int(value) if whole and value == int(value) else value
    return None if value == "" else value
