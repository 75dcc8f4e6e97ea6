"""Which pool of chips does best at which part of a step: every assignment tried, each in its best micro-batches.

Parts are those of :data:`simkit.step.workload.PARTS`, and drafts where there are any; both pools may do all of it
alone, as one machine. What counts is
the time of a step. Of assignments that take equally long the one of fewer pools and crossings stands first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.step.workload import PARTS
from simkit.study.engines import CLOSED_FORM
from simkit.study.evaluate import Points, on_machine
from simkit.study.pool_words import DRAFT
from simkit.study.pools import PooledPoints, pools_of
from simkit.study.record import to_records
from simkit.study.scenario import parse_scenario

FIRST, SECOND = 0, 1


def parts_of(points: Points) -> tuple[str, ...]:
    """What may be assigned of a step; drafts only where a model or layers of the target's own propose."""
    speculation = points.scenario.speculation
    return (*PARTS, DRAFT) if speculation and (speculation.draft or speculation.mtp) else PARTS


def assignments_of(parts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Every way to deal parts out over two pools, those of fewest pools and crossings first."""
    return tuple(sorted(product((FIRST, SECOND), repeat=len(parts)), key=lambda pools: (
        len(set(pools)), sum(pools[place] != pools[place - 1] for place in range(len(parts))), pools)))


def assigned_s(points: Points, layout: AttentionLayout, chips: tuple[int, int],
               assignment: Sequence[int]) -> tuple[Any, Any]:
    """Seconds of a step in which the parts lie as ``assignment`` says, and its micro-batches; infinite without room.

    ``points``: of one dimension, with a second pool; ``chips``: of the first pool and of the second.
    """
    pools = pools_of(points)
    machines = (points.hardware, pools.hardware)
    near = assignment[0]
    if len(set(assignment)) == 1:
        alone = replace(points, hardware=machines[near], scenario=replace(points.scenario, pools=None))
        found = on_machine(alone, layout, alone.chips_for([layout], chips[near]), baseline=False)
        return np.where(found.fits, found.timing.step_time_s, np.inf), np.ones(points.shape)
    kept = tuple(part for part, pool in zip((*PARTS, DRAFT), assignment, strict=False) if pool == near)
    other = replace(pools, hardware=machines[1 - near], chips=chips[1 - near], kept=kept)
    split = PooledPoints.of(replace(points, hardware=machines[near], scenario=replace(points.scenario, pools=other)),
                            [layout], chips[near])
    return split.best(layout)


def best_split(points: Points, layout: str, chips: tuple[int, int]) -> dict[str, Any]:
    """Of each point the assignment of least time: columns of pools by part, micro-batches, seconds of it and of each
    pool alone. Raises :class:`UserError` where a pool cannot have so many chips.
    """
    parsed = parse_layout(layout, points.model)
    parts = parts_of(points)
    assignments = assignments_of(parts)
    tried = [assigned_s(points, parsed, chips, assignment) for assignment in assignments]
    seconds, counts = (np.array([np.broadcast_to(one[place], points.shape) for one in tried]) for place in (0, 1))
    # In the last digits all are alike.
    best = np.argmax(seconds <= seconds.min(axis=0) * (1 + 1e-9), axis=0)
    at = (best, np.arange(len(best)))
    on = np.array(assignments)[best]
    fits = np.isfinite(seconds[at])
    step_s, count = (np.where(fits, values[at], np.nan) for values in (seconds, counts))
    alone = {f"{name}_alone_step_time_s": np.where(np.isfinite(row), row, np.nan) for name, row in (
        (("first", "second")[pool], seconds[assignments.index((pool,) * len(parts))]) for pool in (FIRST, SECOND))}
    speculation = points.scenario.speculation
    tokens = points.q_len if speculation is None else speculation.tokens_per_step
    return {"n_kv_heads": parsed.n_kv_heads, "batch": points.batch, "kv_len": points.kv_len,
            "fits": fits, **{f"{part}_on": on[:, place] for place, part in enumerate(parts)},
            "micro_batches": count, "step_time_s": step_s, "tokens_per_s": points.batch * tokens / step_s,
            **alone}


def split_records(first: HardwareProfile, second: HardwareProfile, chips: tuple[int, int], model: ModelArchitecture,
                  layouts: Sequence[str], *, batch: Sequence[float], kv_len: Sequence[float],
                  q_len: Sequence[float] = (1,), **scenario: Any) -> list[dict[str, Any]]:
    """The best assignment of every point, contexts varying faster than batches, as flat records of one link.

    ``scenario``: words of :func:`simkit.study.scenario.parse_scenario`. Raises :class:`UserError`.
    """
    axes = [one.ravel() for one in np.meshgrid(*(np.asarray(axis, dtype=float) for axis in (batch, kv_len, q_len)),
                                               indexing="ij")]
    points = Points(hardware=first, model=model, batch=axes[0], kv_len=axes[1], q_len=axes[2], engine=CLOSED_FORM,
                    scenario=parse_scenario(ffn=(second, chips[1]), **scenario))
    same = {"hardware": first.name, "chips": chips[0], "ffn_hardware": second.name, "ffn_chips": chips[1],
            "between": scenario["between"], "model": model.name}
    found: list[dict[str, Any]] = []
    for layout in layouts:
        columns = best_split(points, layout, chips)
        names = np.array([first.name, second.name], dtype=object)
        columns |= {name: np.where(columns["fits"], names[columns[name]], "")
                    for name in columns if name.endswith("_on")}
        rows = to_records({name: np.broadcast_to(column, points.shape) for name, column in columns.items()})
        found += [{**same, "attention": layout, **row} for row in rows]
    return found


def where_attention_leaves(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A sentence for each layout and batch of sorted records: up to which context attention is on the second pool."""
    seen: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        if record["fits"]:
            names = ("ffn_hardware", "between", "model", "attention", "n_kv_heads", "batch")
            seen.setdefault(tuple(record[name] for name in names), []).append(record)
    for (second, _, _, layout, heads, batch), row in seen.items():
        there = [one["kv_len"] for one in row if one["attention_on"] == second != one["hardware"]]
        gone = [one["kv_len"] for one in row if one["attention_on"] == one["hardware"] != second]
        if there and gone:
            yield (f"{layout} ({heads} KV head{'s' if heads > 1 else ''}), batch {batch}: attention is best on "
                   f"{second} up to {max(there)} tokens, on {row[0]['hardware']} from {min(gone)}")
