"""Points on two pools of chips: each timed by the engine for what it does, joined micro-batch by micro-batch.

A pool is a machine of its own: it holds the weights and the cache of its parts, takes its fastest mapping for them, and
reads its weights again for every micro-batch. How many there are is tried out by the closed form, all counts up to 16
and four an octave from there, and the step of least time taken.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.step.build import StepTotals
from simkit.step.crossings import crossings
from simkit.step.machine import Machine
from simkit.step.workload import PARTS
from simkit.study.engines import CLOSED_FORM, DEFAULT, engine_named
from simkit.study.evaluate import FIT, Evaluated, Points, compared, mapped_already, on_machine
from simkit.study.pool_fields import FAR, LINKED, NEAR, POOL_FIELDS
from simkit.study.pool_words import DRAFT, Pools
from simkit.study.record import FIELDS
from simkit.study.scenario import Scenario
from simkit.timing.pools import Side, pipelined_step_s
from simkit.timing.step_timing import LINK, Account, StepTiming

TRIED: Final = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
PATIENCE: Final = 3  # counts without a shorter step after which no more are tried
ENDS: Final = ("embedding", "lm_head", "sampling", "gather_logits", "medusa_blocks", "medusa_heads")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split(Evaluated):
    """Points on two pools. What a record says of one machine it says of attention's, which is ``own``; times, fits and
    totals are those of both.
    """

    own: Evaluated
    other: Evaluated

    def select(self, names: Sequence[str]) -> dict[str, Any]:
        """Some columns. Raises :class:`UserError` for those of one machine."""
        for name in names:
            if name not in FIELDS and name not in POOL_FIELDS:
                raise UserError(f"the column {name} is of one machine, and ffn states a second pool of chips")
        return super().select(names)

    @property
    def sides(self) -> tuple[Evaluated, ...]:
        """Both pools, attention's first."""
        return self.own, self.other

    def with_sides(self, own: Evaluated, other: Evaluated) -> Split:
        """The same points with other times of the pools."""
        return joined(self.points, own, other, self.mha)

    @cached_property
    def totals(self) -> StepTotals:
        """Bytes and flops of both pools."""
        return StepTotals(**{one.name: getattr(self.own.totals, one.name) + getattr(self.other.totals, one.name)
                             for one in fields(StepTotals)})

    @property
    def pools(self) -> Pools:
        """The second pool as asked for."""
        return pools_of(self.points)

    @property
    def micro_batches(self) -> Any:
        """Groups of sequences that follow one another through both pools."""
        return self.own.step.workload.microbatches

    @cached_property
    def resources(self) -> tuple[Side, ...]:
        """Both pools, the link there and the link back."""
        passed, rate = self.passed, self.pools.between.bandwidth_bytes_per_s
        return (side_of(self.own), side_of(self.other), Side(layers_s=passed.bytes_there / rate),
                Side(layers_s=passed.bytes_back / rate))

    @property
    def waited_s(self) -> Any:
        """What a micro-batch waits in a step for messages beside their bytes."""
        return self.passed.times * self.pools.between.latency_s

    @cached_property
    def passed(self) -> Any:
        """What a micro-batch passes between the pools in a step."""
        return crossings(self.own.step.workload, self.pools.kept)

    def busy_s(self, which: int) -> Any:
        """Seconds of a step in which a pool works, or the busier direction of the link."""
        near, far, there, back = (one.busy_s(self.micro_batches) for one in self.resources)
        return (near, far, np.maximum(there, back))[which]


def pools_of(points: Points) -> Pools:
    """The second pool of points that have one."""
    pools = points.scenario.pools
    if pools is None:
        raise ValueError("points of one machine")
    return pools


def sides_of(points: Points) -> tuple[Points, Points]:
    """The points as each pool sees them: attention's, and the other."""
    pools, speculation = pools_of(points), points.scenario.speculation
    # Heads that propose stand at the end of the target's own step.
    proposing = "ends" if speculation and speculation.draft is None and not speculation.mtp else DRAFT
    kept = tuple(part for part in PARTS if part in pools.kept)
    return replace(points, parts=kept, proposes=proposing in pools.kept), replace(
        points, parts=pools.given, proposes=proposing not in pools.kept, hardware=pools.hardware, tp=None, pp=None)


def side_of(pool: Evaluated, *, without: Collection[str] = ()) -> Side:
    """What one micro-batch takes of a pool; stages that are not full and the host are told apart.

    ``without``: operators that are left out.
    """
    times, workload = pool.timing.operator_time_s, pool.step.workload
    ends = sum(times.get(name, 0.0) for name in ENDS)
    stages, layers = np.asarray(workload.machine.pp), workload.model.n_layers
    apart = times["host"] + times["pipeline_wait"] + times.get(DRAFT, 0.0) + ends
    less = sum(times.get(name, 0.0) for name in without if name not in (*ENDS, DRAFT))
    return Side(layers_s=np.maximum(pool.timing.step_time_s - apart - less, 0.0) if without else
                pool.timing.step_time_s - apart,
                ends_s=sum(times.get(name, 0.0) for name in ENDS if name not in without) if without else ends,
                busiest_share=1.0 / stages if workload.static else np.ceil(layers / stages) / layers)


def joined(points: Points, own: Evaluated, other: Evaluated, mha: Evaluated | None) -> Split:
    """Two timed pools as one step; drafts for all sequences come before it."""
    fits = np.asarray(own.placement.fits) & np.asarray(other.placement.fits)
    placement = replace(own.placement, fits=fits,
                        max_batch=np.minimum(own.placement.max_batch, other.placement.max_batch))
    found = Split(points=points, layout=own.layout, machine=own.machine, step=own.step, placement=placement,
                  timing=own.timing, mha=mha, shape=own.shape, own=own, other=other)
    passed, waited_s = found.passed, found.waited_s
    micro_batches, resources = found.micro_batches, found.resources
    # Both hosts prepare the step at the same time.
    host_s = np.maximum(*(one.timing.operator_time_s["host"] for one in (own, other)))
    draft_s = sum(one.timing.operator_time_s.get(DRAFT, 0.0) for one in (own, other))
    step_s = host_s + draft_s + pipelined_step_s(resources, waited_s, micro_batches, passed.rounds)
    near, far, there, back = resources
    attention_s = own.timing.attention_time_s * micro_batches * near.busiest_share

    def account() -> Account:
        """The step's time by what the pool that it waits for waits for itself."""
        alone = [near.layers_s + near.ends_s, far.layers_s + far.ends_s, there.layers_s + back.layers_s + waited_s]
        full = np.max(np.broadcast_arrays(*(found.busy_s(which) for which in range(3))), axis=0) * 2 > step_s
        waits_for = np.argmax(np.broadcast_arrays(*(
            np.where(full, found.busy_s(which), alone[which]) for which in range(3))), axis=0)
        causes: dict[str, Any] = {LINK: np.where(waits_for == LINKED, step_s, 0.0)}
        for which, pool in ((NEAR, own), (FAR, other)):
            for cause, time_s in pool.timing.cause_time_s.items():
                share = np.where(waits_for == which, step_s / pool.timing.step_time_s, 0.0)
                causes[cause] = causes.get(cause, 0.0) + share * time_s
        return Account(cause_time_s=causes, attention_cause_time_s=own.timing.attention_cause_time_s,
                       operator_cause_s={}, level_bytes={})

    return replace(found, timing=StepTiming(
        step_time_s=step_s, attention_time_s=attention_s, account=account,
        operator_time_s={"both_pools": step_s - draft_s, DRAFT: draft_s},
        detail=", ".join(dict.fromkeys(one.timing.detail for one in (own, other) if one.timing.detail)),
        tile_mapping=own.timing.tile_mapping))


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledPoints:
    """Points of one dimension with the chips of both pools; ``mapped``: these have their mappings, else the fastest."""

    points: Points
    machines: tuple[Machine, Machine]
    mapped: bool = False

    @classmethod
    def of(cls, points: Points, layouts: Sequence[AttentionLayout], chips: Any) -> PooledPoints:
        """On the chips that hold every one of ``layouts``, where they are not given. Raises :class:`UserError`."""
        near, far = sides_of(points)
        if not far.parts and (points.speculation is None or not far.proposes):
            raise UserError("with-attention: nothing is left for the other pool")
        own = pools_of(points).chips or (chips if isinstance(chips, str) else FIT)
        return cls(points=points, machines=(near.chips_for(layouts, chips), far.chips_for(layouts, own)))

    def timed(self, layout: AttentionLayout, micro_batches: Any, *, search: bool = False) -> Split:
        """The points in so many micro-batches, one number or one a point; ``search``: by the closed form."""
        engine = CLOSED_FORM if search else self.points.engine
        time = mapped_already if self.mapped else partial(on_machine, baseline=False)
        own, other = (time(replace(side, micro_batches=micro_batches, engine=engine), layout, machine)
                      for side, machine in zip(sides_of(self.points), self.machines, strict=True))
        return joined(self.points, own, other, None)

    def shortest(self, layout: AttentionLayout, *, baseline: bool) -> Split:
        """The points in their best micro-batches, and MHA in its own on the same pools beside them."""
        own = self.timed(layout, self.best(layout)[1])
        mha = parse_layout("mha", self.points.model)
        return replace(own, mha=own if layout == mha else self.timed(mha, self.best(mha)[1])) if baseline else own

    def best(self, layout: AttentionLayout, *, fitting: bool = True) -> tuple[Any, Any]:
        """Seconds of the shortest step by the closed form, infinite without room where ``fitting``, and its
        micro-batches at each point: the fewest where several are alike.
        """
        pinned = pools_of(self.points).micro_batches
        best, least = np.full(self.points.shape, pinned or 1), np.full(self.points.shape, np.inf)
        idle = 0
        for count in TRIED if pinned is None else (pinned,):
            found = self.timed(layout, count, search=True)
            tried_s = np.where(found.fits, found.timing.step_time_s, np.inf) if fitting else found.timing.step_time_s
            seconds = np.broadcast_to(tried_s, best.shape)
            better = seconds < least * (1.0 - 1e-9)
            best, least = np.where(better, count, best), np.where(better, seconds, least)
            # More micro-batches read more weights and launch more, and the gain of overlap fades: a step that is no
            # shorter over a few counts, rounding of sequences aside, is past its best.
            idle = 0 if better.any() else idle + 1
            if idle > PATIENCE or count >= np.max(self.points.batch) or np.isinf(least).all():
                break
        return least, best


def evaluate_pools(hardware: HardwareProfile, model: ModelArchitecture, attention: str, *, rivals: Sequence[str],
                   batch: Any, kv_len: Any, q_len: Any, scenario: Scenario, chips: Any, tp: int | None = None,
                   pp: int | None = None, engine: str = DEFAULT, baseline: bool = True) -> Split:
    """:func:`simkit.study.evaluate.evaluate_group` of a scenario with a second pool."""
    points = Points(hardware=hardware, model=model, batch=batch, kv_len=kv_len, q_len=q_len, tp=tp, pp=pp,
                    scenario=scenario, engine=engine_named(engine))
    layout = parse_layout(attention, model)
    return PooledPoints.of(points, compared(layout, rivals, model, chips), chips).shortest(
        layout, baseline=baseline)
