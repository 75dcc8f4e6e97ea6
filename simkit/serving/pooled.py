"""A replica of two pools of chips: attention and its cache on one, feed-forward layers on the other.

Its decode step is that of :mod:`simkit.study.pools` on machines that stay as they are, in as many micro-batches as make
it shortest near by: counts are found on a coarse grid of sequences and contexts. What rows of prompts add is the step
of those rows through both pools without attention; their attention runs on the first pool, and nothing hides it. Blocks
lie on the first pool; a draft's cache lies where it drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.serving.replica import FIT_BATCH, FIT_KV_LEN, Replica
from simkit.serving.runtime import Runtime
from simkit.step.machine import Machine
from simkit.step.placement import place
from simkit.step.prefill import CACHE_ONLY, SAMPLED_ONLY
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, Points
from simkit.study.pools import PooledPoints, Split, pools_of, side_of, sides_of
from simkit.study.record import joules_per_token
from simkit.study.scenario import Scenario
from simkit.timing.pools import pipelined_step_s

# Where micro-batches are counted: four numbers of sequences an octave, and every other octave of context.
_SEQUENCES: Final = np.unique(np.floor(2.0 ** (np.arange(69) / 4.0)))
_CONTEXTS: Final = 4.0 ** np.arange(12)  # up to LONGEST_CONTEXT of simkit.serving.step_grid


@dataclass(frozen=True, kw_only=True)
class PooledReplica(Replica):
    """A model under one layout on the chips of two pools; ``machine`` is attention's, ``far`` the other."""

    far: Machine

    @property
    def chip_groups(self) -> tuple[tuple[HardwareProfile, float], ...]:
        """Attention's chips and the others."""
        return (*super().chip_groups, (self._pools.hardware, float(self.far.chips)))

    @property
    def columns(self) -> dict[str, Any]:
        """What a record says of the second pool of one replica."""
        pools = self._pools
        return {"ffn_hardware": pools.hardware.name, "ffn_chips": float(self.far.chips),
                "ffn_tp": float(self.far.tp), "ffn_pp": float(self.far.pp), "between": pools.between_words,
                "attention_pool_does": ", ".join(pools.kept)}

    @property
    def _pools(self) -> Any:
        return pools_of(self._both(1.0, 1.0))

    def _both(self, batch: Any, kv_len: Any, *, engine: str | None = None, scenario: Scenario | None = None) -> Points:
        return super().points(batch, kv_len, engine=engine, scenario=scenario)

    def points(self, batch: Any, kv_len: Any, *, engine: str | None = None, scenario: Scenario | None = None) -> Points:
        """Points as attention's pool sees them: it has the cache."""
        return sides_of(self._both(batch, kv_len, engine=engine, scenario=scenario))[0]

    def _far_points(self) -> Points:
        return sides_of(self._both(1.0, float(self.page_tokens)))[1]

    @property
    def blocks(self) -> Any:
        """Blocks beside the weights of the first pool; none where the second does not hold what is its."""
        need = self._far_points().demand(self.layout, self.far)
        found = place(need, self._pools.hardware, overflow=self.far.overflow)
        rooms = np.where(found.fits, found.max_batch, 0.0) * sum(count for count, _ in self.block_kinds)
        return np.floor(np.minimum(super().blocks, rooms))

    @cached_property
    def total_blocks(self) -> int:
        """Those of one machine. Raises :class:`UserError` where either pool has no room."""
        pools = self._pools
        need = self._far_points().demand(self.layout, self.far)
        if not np.all(place(need, pools.hardware, overflow=self.far.overflow).fits):
            raise UserError(f"{self.model.name} under {self.attention}: {', '.join(pools.given)} of it do not fit on "
                            f"{float(self.far.chips):g} x {pools.hardware.name}, the pool of --ffn",
                            hint="give it more chips, or --weight-dtype fp8 or int4")
        return super().total_blocks

    def split_at(self, batch: Any, kv_len: Any, *, engine: str | None = None,
                 scenario: Scenario | None = None) -> Split:
        """The timed step of both pools at points."""
        points = self._both(batch, kv_len, engine=engine, scenario=scenario)
        drafts = scenario is None or scenario.speculation == self.scenario.speculation
        counts = self._counts if drafts else self._row_counts
        row = np.searchsorted(_SEQUENCES, points.batch, side="right") - 1
        column = np.searchsorted(_CONTEXTS, points.kv_len, side="right") - 1
        return self._on(points).timed(self.layout, counts[np.maximum(row, 0), np.maximum(column, 0)])

    def _on(self, points: Points) -> PooledPoints:
        return PooledPoints(points=points, machines=(self.machine, self.far), mapped=True)

    @cached_property
    def _counts(self) -> Any:
        """Micro-batches [sequences, contexts]."""
        return self._shortest(self.scenario)

    @cached_property
    def _row_counts(self) -> Any:
        """Those of a step without drafts."""
        return self._shortest(replace(self.scenario, speculation=None))

    def _shortest(self, scenario: Scenario) -> Any:
        batch, kv_len = (axis.ravel() for axis in np.meshgrid(_SEQUENCES, _CONTEXTS, indexing="ij"))
        points = self._both(batch, kv_len, engine=DEFAULT, scenario=scenario)
        return self._on(points).best(self.layout, fitting=False)[1].reshape(len(_SEQUENCES), len(_CONTEXTS))

    def step_s(self, batch: Any, kv_len: Any, *, engine: str | None = None) -> tuple[Any, Any, Any]:
        """Time, attention's part of it, and joules beyond idle power, of decode steps of both pools."""
        found = self.split_at(batch, kv_len, engine=engine)
        shape = np.shape(found.points.batch)
        time = np.broadcast_to(np.asarray(found.timing.step_time_s, dtype=float), shape)
        idle_w = sum((chip.power.idle_w or 0.0) * count for chip, count in self.chip_groups)
        joules = joules_per_token(found, time) * found.points.batch * found.tokens_per_step
        return (time, np.broadcast_to(np.asarray(found.timing.attention_time_s, dtype=float), shape),
                joules - idle_w * time)

    def time_s(self, batch: Any, kv_len: Any) -> Any:
        """Time of decode steps alone."""
        return self.split_at(batch, kv_len).timing.step_time_s

    def bound_at(self, batch: Any, kv_len: Any) -> str:
        """What takes most of a decode step."""
        return str(np.ravel(self.split_at(batch, kv_len).timing.bound)[0])

    def rows_s(self, rows: Any) -> tuple[Any, Any, Any]:
        """Time of ``rows`` outside attention and sampling, time of sampling them, and joules of the former."""
        found = self.split_at(rows, 1.0, engine=DEFAULT, scenario=replace(self.scenario, speculation=None))
        shape = np.shape(found.points.batch)
        links = found.resources[2:]

        def through(*without: str) -> Any:
            sides = tuple(side_of(pool, without=without) for pool in found.sides)
            return pipelined_step_s((*sides, *links), found.waited_s, found.micro_batches, found.passed.rounds)

        with_ends, plain = through(*CACHE_ONLY), through(*CACHE_ONLY, *SAMPLED_ONLY)
        joules: Any = np.zeros(shape)
        for pool in found.sides:
            energy = pool.hardware.power.energy_j_per_flop
            joules = joules + (np.nan if energy is None else pool.totals.matrix_flops * energy
                               + self._read_j(pool.hardware, pool.totals.weight_bytes, pool.placement))
        return plain + np.zeros(shape), np.maximum(with_ends - plain, 0.0) + np.zeros(shape), joules

    @cached_property
    def kernels(self) -> float:
        """Kernels that one micro-batch launches on a chip of each pool, those of a draft model's steps included."""
        return sum(self._launched(points, machine) for points, machine in self._sides())

    @cached_property
    def exchanges(self) -> float:
        """Exchanges between chips of one micro-batch."""
        return sum(self._exchanged(points, machine) for points, machine in self._sides())

    def run_s(self, step_s: Any, batch: Any, kv_len: Any, runtime: Runtime) -> Any:
        """Every micro-batch has the gaps of its kernels: they lengthen its rounds, and while one pool pauses the other
        works. Each host issues what its own pool runs. Micro-batches are those that suit the chips' own time.
        """
        if not (runtime.kernel_gap_s or runtime.exchange_gap_s or runtime.issue_s):
            return step_s
        found = self.split_at(np.maximum(batch, 1.0), kv_len, engine=DEFAULT)
        launched = [(self._launched(replace(points, proposes=False), machine), self._exchanged(points, machine))
                    for points, machine in self._sides()]

        def step_of(gaps_s: Sequence[float]) -> Any:
            pools = (replace(side, layers_s=side.layers_s + gap_s)
                     for side, gap_s in zip(found.resources, gaps_s, strict=False))
            return pipelined_step_s((*pools, *found.resources[2:]), found.waited_s, found.micro_batches,
                                    found.passed.rounds)

        # Kernels of a draft are launched once a step, and stand in what every iteration has.
        gaps_s = [runtime.kernel_gap_s * kernels + runtime.exchange_gap_s * exchanges
                  for kernels, exchanges in launched]
        run_s = step_s + step_of(gaps_s) - step_of((0.0, 0.0)) - sum(gaps_s)
        drafted = self.kernels - sum(kernels for kernels, _ in launched)
        issued = found.micro_batches * max(map(sum, launched)) + drafted
        least_s = runtime.issue_s * issued - runtime.host_step_s(self.kernels, self.exchanges)
        return np.maximum(run_s, least_s - runtime.host_sequence_s * batch)

    @property
    def fixed_step_s(self) -> float:
        """Host time that the profiles themselves state for a step, of the slower host."""
        return max(float(chip.overheads.step_s) for chip, _ in self.chip_groups)

    def _sides(self) -> tuple[tuple[Points, Machine], ...]:
        near, far = sides_of(self._both(1.0, float(self.page_tokens)))
        return (near, self.machine), (far, self.far)


def build_pooled(hardware: HardwareProfile, model: ModelArchitecture, layouts: Sequence[str], *, scenario: Scenario,
                 chips: Any = FIT, tp: int | None = None, pp: int | None = None,
                 engine: str = DEFAULT) -> list[Replica]:
    """:func:`simkit.serving.replica.build_replicas` of a scenario with a second pool of chips."""
    engine_named(engine)
    parsed = [parse_layout(name, model) for name in layouts]
    points = Points(hardware=hardware, model=model, scenario=scenario, batch=np.array([FIT_BATCH]),
                    kv_len=np.array([FIT_KV_LEN]), q_len=np.ones(1), engine=engine_named(DEFAULT), tp=tp, pp=pp)
    pooled = PooledPoints.of(points, parsed, chips)
    found: list[Replica] = []
    for name, layout in zip(layouts, parsed, strict=True):
        split = pooled.shortest(layout, baseline=False)
        found.append(PooledReplica(hardware=hardware, model=model, attention=name, scenario=scenario, engine=engine,
                                   machine=split.own.machine, far=split.other.machine))
    return found
