r"""One replica: a model under a layout on its chips, how many KV blocks it has, and what one iteration takes directly.

An iteration runs ``D`` decoding sequences of mean context ``N`` and ``P`` prompt tokens together (Sarathi-Serve's mixed
batch, arXiv 2403.02310): weights are read once for the rows of both, attention runs for each apart.

.. math:: T = S(D, N) + R(Dq + P) - R(Dq) + E(Dq + f) - E(Dq) + \sum T_{attn}(P_j, N_j)

``S`` is the engine's decode step (the host's fixed time when ``D = 0``), ``R`` what ``rows`` cost outside attention,
``E`` the sampled rows' LM head and sampling, ``f`` the prompts that end in this iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.model.kv_cache import KvPolicy, Paging
from simkit.roofline.engine import operator_times
from simkit.serving.runtime import Runtime
from simkit.step.build import build_step, step_totals
from simkit.step.machine import Machine
from simkit.step.placement import Placement, cached_bytes_per_sequence, place
from simkit.step.prefill import CACHE_ONLY, SAMPLED_ONLY, prefill_attention
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, Points
from simkit.study.record import energy_j_per_token
from simkit.study.scenario import Scenario

# What --chips fit must hold: the batch and context of the default studies.
FIT_BATCH, FIT_KV_LEN = 32.0, 4096.0
HOST: Final = "host"


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A model under one layout on the chips of one replica."""

    hardware: HardwareProfile
    model: ModelArchitecture
    attention: str
    scenario: Scenario
    machine: Machine
    engine: str

    @property
    def layout(self) -> AttentionLayout:
        """The layout in full."""
        return parse_layout(self.attention, self.model)

    @property
    def chip_groups(self) -> tuple[tuple[HardwareProfile, float], ...]:
        """Chips of the replica, and how many of each kind."""
        return ((self.hardware, float(self.machine.chips)),)

    @property
    def columns(self) -> dict[str, Any]:
        """What a record says of the replica's chips beside those of ``machine``."""
        return {}

    @property
    def page_tokens(self) -> int:
        """Tokens of a block."""
        return self.scenario.policy.paging.page

    @property
    def verified_tokens(self) -> int:
        """Query tokens of a decoding sequence in an iteration: the draft's proposals and one more, or 1."""
        speculation = self.scenario.speculation
        return 1 if speculation is None else speculation.draft_tokens + 1

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens that a decoding sequence gains in an iteration."""
        speculation = self.scenario.speculation
        return 1.0 if speculation is None else speculation.tokens_per_step

    def points(self, batch: Any, kv_len: Any, *, engine: str | None = None,
                 scenario: Scenario | None = None) -> Points:
        """Points of this replica, before they are answered."""
        batch, kv_len = np.broadcast_arrays(np.asarray(batch, dtype=float), np.asarray(kv_len, dtype=float))
        return Points(hardware=self.hardware, model=self.model, scenario=scenario or self.scenario, batch=batch,
                        kv_len=kv_len, q_len=np.ones(batch.shape), engine=engine_named(engine or self.engine))

    @cached_property
    def block_kinds(self) -> tuple[tuple[int, float], ...]:
        """``(layers, most tokens)`` of each kind of layer: a block holds ``page`` tokens of one layer of the model.

        Layer counts are divided by what they have in common, so that a uniform model counts one block a page. Where
        layers store unlike amounts a block is as large as the smallest of them; a state takes its blocks once.
        """
        workload = self._workload_of_a_page()
        limits: dict[float, float] = {}
        for group in workload.layer_groups if all(g.shape is None for g in workload.layer_groups) else ():
            most = float(workload.policy.kept(np.inf, group))
            limits[most] = limits.get(most, 0) + group.count
        if limits:
            common = math.gcd(*(int(count) for count in limits.values()))
            return tuple((int(count) // common, most) for most, count in limits.items())
        for group in workload.model.attending_groups:
            for bytes_, longest in workload.of(group).page_bytes(float(self.page_tokens)):
                most = min(longest, float(workload.policy.kept(np.inf, group)))
                limits[most] = limits.get(most, 0.0) + group.count * float(bytes_)
        least = min(bytes_ for bytes_ in limits.values() if bytes_ > 0)
        return tuple((max(round(bytes_ / least), 1), most) for most, bytes_ in limits.items() if bytes_ > 0)

    @property
    def blocks(self) -> Any:
        """Blocks beside the weights and the runtime's reserve; of each machine where they are several."""
        need = self.points(1.0, float(self.page_tokens)).demand(self.layout, self.machine)
        columns = place(need, self.hardware, overflow=self.machine.overflow).max_batch
        return np.floor(columns * sum(count for count, _ in self.block_kinds))

    @cached_property
    def total_blocks(self) -> int:
        """Those of one machine. Raises :class:`UserError` without room for one."""
        blocks = int(np.ravel(self.blocks)[0])
        if blocks < 1:
            raise UserError(f"{self.model.name} under {self.attention}: no room for a KV cache beside its weights on "
                            f"{float(self.machine.chips):g} x {self.hardware.name}",
                            hint="use more --chips, or --weight-dtype fp8 or int4")
        return blocks

    @cached_property
    def bytes_per_block(self) -> float:
        """Bytes of a block over all chips, copies included."""
        need = self.points(1.0, float(self.page_tokens)).demand(self.layout, self.machine)
        of_a_page = float(np.ravel(need.kv_bytes_per_sequence)[0]) * float(np.ravel(need.batch_ways)[0])
        return of_a_page * float(self.machine.chips) / sum(count for count, _ in self.block_kinds)

    @property
    def distinct_page_bytes(self) -> float:
        """Bytes of one copy of a page of all layers, as their attention kind stores it."""
        return float(np.ravel(cached_bytes_per_sequence(self._workload_of_a_page()))[0])

    @property
    def capacity_tokens(self) -> float:
        """Tokens that the blocks hold in one long sequence; infinite where every layer forgets."""
        growing = sum(count for count, most in self.block_kinds if math.isinf(most))
        fixed = sum(count * math.ceil(most / self.page_tokens) for count, most in self.block_kinds
                    if not math.isinf(most))
        if growing == 0:
            return math.inf
        return max(self.total_blocks - fixed, 0) // growing * float(self.page_tokens)

    def step_s(self, batch: Any, kv_len: Any, *, engine: str | None = None) -> tuple[Any, Any, Any]:
        """Time, attention's part of it, and joules beyond idle power, of decode steps."""
        points = self.points(batch, kv_len, engine=engine)
        step, placement, timing = points.timed(self.layout, self.machine)
        shape = np.shape(points.batch)
        time = np.broadcast_to(np.asarray(timing.step_time_s, dtype=float), shape)
        speculation = self.scenario.speculation
        joules = energy_j_per_token(
            step, placement, self.hardware, time, self.machine.chips, 1.0 / time, timing=timing,
            draft=points.draft_step(speculation, self.machine),
            draft_steps=0 if speculation is None else speculation.draft_tokens)
        beyond_idle = joules - (self.hardware.power.idle_w or 0.0) * float(self.machine.chips) * time
        return time, np.broadcast_to(np.asarray(timing.attention_time_s, dtype=float), shape), beyond_idle

    def time_s(self, batch: Any, kv_len: Any) -> Any:
        """Time of decode steps alone."""
        return self.points(batch, kv_len).timed(self.layout, self.machine)[2].step_time_s

    def bound_at(self, batch: Any, kv_len: Any) -> str:
        """What takes most of a decode step."""
        return str(np.ravel(self.points(batch, kv_len).timed(self.layout, self.machine)[2].bound)[0])

    def rows_s(self, rows: Any) -> tuple[Any, Any, Any]:
        """Time of ``rows`` outside attention and sampling, time of sampling them, and joules of the former."""
        plain = replace(self.scenario, speculation=None)
        points = self.points(rows, 1.0, engine=DEFAULT, scenario=plain)
        step, placement, timing = points.timed(self.layout, self.machine)
        shape = np.shape(points.batch)
        parts = timing.operator_time_s
        ends: Any = sum((parts[name] for name in SAMPLED_ONLY if name in parts), np.zeros(shape))
        apart: Any = sum((parts[name] for name in (*CACHE_ONLY, HOST) if name in parts), np.zeros(shape))
        energy = self.hardware.power.energy_j_per_flop
        totals = step_totals(step)
        joules = (np.full(shape, np.nan) if energy is None else
                  totals.matrix_flops * energy + self._read_j(self.hardware, totals.weight_bytes, placement))
        return np.maximum(timing.step_time_s - ends - apart, 0.0) + np.zeros(shape), ends + np.zeros(shape), joules

    def prefill_attention_s(self, chunk_tokens: Any, end_tokens: Any) -> tuple[Any, Any]:
        """Time and joules of the attention of a prompt's chunk."""
        shape = np.broadcast_shapes(np.shape(chunk_tokens), np.shape(end_tokens))
        points = self.points(np.ones(shape), np.broadcast_to(end_tokens, shape))
        workload = points.workload(self.layout, self.machine)
        placement = place(points.demand(self.layout, self.machine), self.hardware, overflow=self.machine.overflow)
        energy = self.hardware.power.energy_j_per_flop
        time, joules = np.zeros(shape), np.zeros(shape)
        for operator in prefill_attention(workload, chunk_tokens, end_tokens):
            time = time + operator.count * operator_times(operator, placement, self.hardware).total_s
            flops = operator.count * operator.matrix_flops * self.machine.tp * self.machine.pp
            joules = joules + (np.nan if energy is None else flops * energy)
        return time, joules

    @cached_property
    def kernels(self) -> float:
        """Kernels that a step launches on one chip, those of a draft model's steps included."""
        return self._launched(self.points(1.0, float(self.page_tokens)), self.machine)

    def _launched(self, points: Points, machine: Machine) -> float:
        speculation = points.speculation
        steps = [(1, build_step(points.workload(self.layout, machine)))]
        draft = points.draft_step(speculation, machine)
        steps += [] if draft is None or speculation is None else [(speculation.draft_tokens, draft)]
        return float(sum(times * operator.count * operator.launches
                         for times, step in steps for operator in step.operators))

    @cached_property
    def exchanges(self) -> float:
        """Exchanges between chips in a step, those of a draft model's steps left out."""
        return self._exchanged(self.points(1.0, float(self.page_tokens)), self.machine)

    def _exchanged(self, points: Points, machine: Machine) -> float:
        workload = points.workload(self.layout, machine)
        return float(sum(np.max(one.count * (np.asarray(one.chips) > 1)) for one in build_step(workload).collectives))

    @property
    def fixed_step_s(self) -> float:
        """Host time that the profile itself states for a step."""
        return float(self.hardware.overheads.step_s)

    def run_s(self, step_s: Any, batch: Any, kv_len: Any, runtime: Runtime) -> Any:  # noqa: ARG002 - of pools it matters
        """What decode steps of ``step_s`` take beside the host work that a runtime adds to every iteration of so many
        sequences: no less than is left of issuing them.
        """
        least_s = runtime.issued_s(self.kernels, self.exchanges) - runtime.host_step_s(self.kernels, self.exchanges)
        return np.maximum(step_s, least_s - runtime.host_sequence_s * batch)

    def _workload_of_a_page(self) -> Any:
        page = float(self.page_tokens)
        return self.points(1.0, page).workload(self.layout, self.machine)

    @staticmethod
    def _read_j(hardware: HardwareProfile, amount: Any, placement: Placement) -> Any:
        joules: Any = 0.0
        for name, share in placement.weights.items():
            energy = hardware.level(name).energy_j_per_byte
            joules = joules + (np.where(amount * share > 0, np.nan, 0.0) if energy is None else amount * share * energy)
        return joules


def paged(scenario: Scenario, page_tokens: int) -> Scenario:
    """The scenario with its cache in pages of that many tokens, at most; what it says of a page itself wins.

    Raises :class:`UserError` for contiguous reservation: admission by blocks needs blocks.
    """
    paging = scenario.policy.paging
    if paging.reserve is not None:
        raise UserError("--reserve: serving allocates caches in pages", hint="use --page")
    policy: KvPolicy = scenario.policy
    return replace(scenario, policy=replace(policy, paging=Paging(page=page_tokens)))


def build_replicas(hardware: HardwareProfile, model: ModelArchitecture, layouts: list[str], *, scenario: Scenario,
                   chips: Any = FIT, tp: int | None = None, pp: int | None = None,
                   engine: str = DEFAULT) -> list[Replica]:
    """One replica a layout, all on the same chips.

    Parameters
    ----------
    hardware, model, layouts: what is compared.
    scenario: formats, page, speculation and sharding.
    chips: a number, or ``fit``: the fewest on which every layout holds 32 sequences of 4096 tokens.
    tp, pp: as in ``decode_step``.
    engine: ``roofline`` or ``replay``.

    Raises :class:`UserError`.
    """
    engine_named(engine)
    parsed = [parse_layout(name, model) for name in layouts]
    points = Points(hardware=hardware, model=model, scenario=scenario, batch=FIT_BATCH, kv_len=FIT_KV_LEN, q_len=1.0,
                    engine=engine_named(DEFAULT), tp=tp, pp=pp)
    machine = points.chips_for(parsed, chips)
    return [Replica(hardware=hardware, model=model, attention=name, scenario=scenario, engine=engine,
                    machine=points.mapped(layout, machine))
            for name, layout in zip(layouts, parsed, strict=True)]
