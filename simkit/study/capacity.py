"""What fits: the largest batch at a context, and the longest context at a batch, for each layout on the same chips.

Page rounding, contiguous reservation, the runtime's reserve, scales, scores and replicated KV heads are all counted;
answers are whole sequences and whole tokens, so one more never fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, raise_collected
from simkit.foundation.tables import Records
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.step.machine import Machine
from simkit.step.placement import kv_copies, place, usable_levels
from simkit.study.asked import MOST_POINTS, chips_of, listed, models_of
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, Points
from simkit.study.grid import Grid
from simkit.study.machine_search import name_of
from simkit.study.record import to_records
from simkit.study.scenario import Scenario, parse_scenario

LONGEST_CONTEXT: Final = 2**40


def capacity(hardware: HardwareProfile, model: ModelArchitecture, layouts: list[str], *, scenario: Scenario,
             batch: Any = 1, kv_len: Any = 4096, chips: Any = FIT, tp: int | None = None,
             pp: int | None = None) -> dict[str, Any]:
    """Largest batch at ``kv_len`` and longest context at ``batch``, for every layout at every (batch, kv_len).

    Parameters
    ----------
    hardware, model, layouts: one chip, one model, the layouts to compare.
    scenario: formats, eviction, paging and sharding.
    batch, kv_len: arrays that broadcast.
    chips: a number, or ``fit``: those of the least cost of a token that hold ``batch`` x ``kv_len`` of every layout.
    tp, pp: as in ``decode_step``.

    Returns columns of shape [layouts, points]; ``max_kv_len`` is what memory holds, and ``usable_kv_len``
    stops at the context that the model was made for. Raises :class:`UserError` when the weights alone do not fit.
    """
    both = np.broadcast_arrays(np.asarray(batch, float), np.asarray(kv_len, float))
    batch, kv_len = (array.ravel() for array in both)
    parsed = [parse_layout(name, model) for name in layouts]
    points = Points(hardware=hardware, model=model, scenario=scenario, batch=batch, kv_len=kv_len,
                    q_len=np.ones_like(batch), engine=engine_named(DEFAULT), tp=tp, pp=pp)
    machine = points.chips_for(parsed, chips)
    rows = [_layout_columns(points, layout, name, points.roomiest(layout, machine))
            for layout, name in zip(parsed, layouts, strict=True)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _layout_columns(points: Points, layout: AttentionLayout, name: str, machine: Machine) -> dict[str, Any]:
    hardware, shape = points.hardware, points.batch.shape
    need = points.demand(layout, machine)
    placed = place(need, hardware, overflow=machine.overflow)
    room = float(sum(level.usable_bytes for level in usable_levels(hardware, "weights", overflow=machine.overflow)))
    if np.any(placed.max_batch == 0) and np.all(np.asarray(need.weight_bytes) > room):
        raise UserError(f"{points.model.name} under {name}: its weights alone do not fit on "
                        f"{np.max(machine.chips):g} x {hardware.name}",
                        hint="use more --chips, or --weight-dtype fp8 or int4")

    def full(value: Any) -> Any:
        text = isinstance(value, str) or np.asarray(value).dtype == object
        return np.full(shape, value, dtype=object if text else None)

    workload = points.workload(layout, machine)
    longest = _longest_context(points, layout, machine)
    stored = sum(group.count * workload.layer_stored_bytes(group) for group in workload.layer_groups)
    given = sum(group.count * workload.layer_stored_bytes(group, allocated=True) for group in workload.layer_groups)
    return {
        "hardware": full(hardware.name), "chips": full(machine.chips), "tp": full(machine.tp), "pp": full(machine.pp),
        "mapping": full(name_of(machine.mapping)),
        "model": full(points.model.name), "attention": full(name), "n_kv_heads": full(layout.n_kv_heads),
        "kv_dtype": full(points.scenario.kv_dtype), "weight_dtype": full(points.scenario.weight_dtype),
        "batch": points.batch, "kv_len": points.kv_len, "kv_copies": full(kv_copies(workload)),
        "weight_bytes_per_chip": full(need.weight_bytes), "usable_bytes_per_chip": full(room),
        "kv_bytes_per_sequence_per_chip": full(need.kv_bytes_per_sequence),
        "allocation_waste_fraction": full(1 - stored / given), "max_batch": full(placed.max_batch),
        "max_kv_len": longest, "usable_kv_len": np.minimum(longest, points.model.max_context or np.inf),
    }


def _longest_context(points: Points, layout: AttentionLayout, machine: Machine) -> Any:
    """Bisection over whole tokens; infinite where the cache stops growing (eviction, windows) and still fits."""
    def fits(kv_len: Any) -> Any:
        tried = replace(points, kv_len=kv_len)
        return place(tried.demand(layout, tried.roomiest(layout, machine)), points.hardware,
                     overflow=machine.overflow).fits

    low = np.zeros(points.batch.shape)
    high = np.full(points.batch.shape, float(LONGEST_CONTEXT))
    endless = fits(high)
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        good = fits(np.maximum(middle, 1.0)) & (middle >= 1)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(endless, np.inf, low)


class Capacities(Records):
    """Records of :func:`capacities`; ``faults`` are the combinations that could not be asked."""

    def __init__(self, columns: Sequence[dict[str, Any]], faults: Sequence[UserError]) -> None:
        super().__init__(chain.from_iterable(map(to_records, columns)))
        self.faults = tuple(faults)


def capacities(hardware: Any, model: Any, *, attention: Any = "as-trained", batch: Any = 1, kv_len: Any = 4096,
               kv_dtype: Any = "bf16", chips: Any = FIT, tp: int | None = None, pp: int | None = None,
               **scenario: Any) -> Capacities:
    """:func:`capacity` at every combination of the lists given, as of :func:`simkit.study.simulate.simulate`.

    ``unlimited_context`` marks caches that stop growing (eviction). Raises :class:`UserError` when no combination is
    left, and beyond 100 000 points.
    """
    machines = listed(chips)
    grid = Grid(hardware=chips_of(hardware), model=models_of(model), attention=listed(attention),
                kv_dtype=listed(kv_dtype), batch=listed(batch), kv_len=listed(kv_len))
    grid.check_size(MOST_POINTS // len(machines), hint="shorten the lists, or split them over several runs")
    sequences, tokens = np.meshgrid(*(np.array(axis, dtype=float) for axis in (grid.batch, grid.kv_len)), indexing="ij")
    parts: list[dict[str, Any]] = []
    faults: list[UserError] = []
    for count, chip, one, dtype in product(machines, grid.hardware, grid.model, grid.kv_dtype):
        chosen = parse_scenario(kv_dtype=dtype, **scenario)
        try:
            columns = capacity(chip, one, list(grid.attention), scenario=chosen, batch=sequences.ravel(),
                               kv_len=tokens.ravel(), chips=count, tp=tp, pp=pp)
        except UserError as error:
            faults.append(error)
        else:
            parts.append(columns | {"unlimited_context": np.isposinf(columns["max_kv_len"])})
    if not parts:
        raise_collected(faults)
    return Capacities(parts, faults)
