"""What fits: the largest batch at a context, and the longest context at a batch, for each layout on the same chips.

Page rounding, contiguous reservation, the runtime's reserve, scales, scores and replicated KV heads are all counted;
answers are whole sequences and whole tokens, so one more never fits.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.step.placement import place, usable_levels
from simkit.study.evaluate import FIT, Question, engine_named, largest_first
from simkit.study.fit import Split, fit_chips, split_chips
from simkit.study.scenario import Scenario

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
    chips: a number, or ``fit``: the fewest on which every layout holds ``batch`` x ``kv_len``.
    tp, pp: as in ``decode_step``.

    Returns columns of shape [layouts, points]. Raises :class:`UserError` when the weights alone do not fit.
    """
    both = np.broadcast_arrays(np.asarray(batch, float), np.asarray(kv_len, float))
    batch, kv_len = (array.ravel() for array in both)
    parsed = [parse_layout(name, model) for name in layouts]
    question = _question(hardware, model, scenario, batch, kv_len)
    if chips == FIT and tp is None and pp is None:
        needs = [question.need(layout) for layout in largest_first(parsed)]
        split = fit_chips(hardware, needs, batch.shape, model.n_q_heads, model.n_layers)
    else:
        count = (tp or 1) * (pp or 1) if chips == FIT else int(chips)
        one, two = split_chips(hardware, model.n_q_heads, model.n_layers, count, tp, pp)
        # Whoever names the machine has chosen its memory tiers too, the last resort included.
        split = Split(chips=np.full(batch.shape, one * two), tp=np.full(batch.shape, one), pp=np.full(batch.shape, two),
                      overflow=True)
    rows = [_layout_columns(question, layout, name, split) for layout, name in zip(parsed, layouts, strict=True)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _layout_columns(question: Question, layout: AttentionLayout, name: str, split: Split) -> dict[str, Any]:
    hardware, shape, tp, pp = question.hardware, question.batch.shape, split.tp, split.pp
    need = question.need(layout)(tp, pp)
    placed = place(need, hardware, overflow=split.overflow)
    room = float(sum(level.usable_bytes for level in usable_levels(hardware, "weights", overflow=split.overflow)))
    if np.any(placed.max_batch == 0) and np.all(np.asarray(need.weight_bytes) > room):
        raise UserError(f"{question.model.name} under {name}: its weights alone do not fit on {np.max(tp * pp):g} x "
                        f"{hardware.name}", hint="use more --chips, or --weight-dtype fp8 or int4")

    def full(value: Any) -> Any:
        return np.full(shape, value, dtype=object if isinstance(value, str) else None)

    workload = question.workload(layout, tp, pp)
    stored = sum(group.count * workload.layer_stored_bytes(group) for group in workload.layer_groups)
    given = sum(group.count * workload.layer_stored_bytes(group, allocated=True) for group in workload.layer_groups)
    return {
        "hardware": full(hardware.name), "chips": tp * pp, "tp": full(tp), "pp": full(pp),
        "model": full(question.model.name), "attention": full(name), "n_kv_heads": full(layout.n_kv_heads),
        "kv_dtype": full(question.scenario.kv_dtype), "weight_dtype": full(question.scenario.weight_dtype),
        "batch": question.batch, "kv_len": question.kv_len, "kv_copies": full(workload.copies),
        "weight_bytes_per_chip": full(need.weight_bytes), "usable_bytes_per_chip": full(room),
        "kv_bytes_per_sequence_per_chip": full(need.kv_bytes_per_sequence),
        "allocation_waste_fraction": full(1 - stored / given), "max_batch": full(placed.max_batch),
        "max_kv_len": _longest_context(question, layout, split),
    }


def _longest_context(question: Question, layout: AttentionLayout, split: Split) -> Any:
    """Bisection over whole tokens; infinite where the cache stops growing (eviction, windows) and still fits."""
    def fits(kv_len: Any) -> Any:
        probe = _question(question.hardware, question.model, question.scenario, question.batch, kv_len)
        return place(probe.need(layout)(split.tp, split.pp), question.hardware, overflow=split.overflow).fits

    low = np.zeros(question.batch.shape)
    high = np.full(question.batch.shape, float(LONGEST_CONTEXT))
    endless = fits(high)
    while np.any(high - low > 1):
        middle = np.floor((low + high) / 2)
        good = fits(np.maximum(middle, 1.0)) & (middle >= 1)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(endless, np.inf, low)


def _question(hardware: HardwareProfile, model: ModelArchitecture, scenario: Scenario, batch: Any,
              kv_len: Any) -> Question:
    return Question(hardware=hardware, model=model, scenario=scenario, batch=batch, kv_len=kv_len,
                    q_len=np.ones_like(batch), engine=engine_named("roofline"))
