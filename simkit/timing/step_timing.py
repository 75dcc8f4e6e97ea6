"""From the times of operators to what an engine says of a step: one result type and one way to it for all engines.

An engine times one operator on one chip; here operators add up along the step, collectives and hops between chips
join them, and a full pipeline waits for its slowest stage. Operators do not overlap each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.step.operators import ATTENTION_PARTS, DecodeStep, Operator
from simkit.step.placement import Placement
from simkit.timing.exchanges import exchange_times_s, layers_wait_s

# Causes that are not a memory level; memory levels go by their own names.
COMPUTE: Final = "compute"
LOAD_PATH: Final = "load_path"  # of a measured kernel's units: bytes in flight over latency; it reads the memory
SPECIAL_FUNCTION: Final = "special_function"
LINK: Final = "link"
LATENCY: Final = "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where a step's time and bytes go.

    ``cause_time_s`` splits the time of a step by what binds (a memory level's name, load_path, compute,
    special_function, link, latency), ``operator_cause_s`` each operator's and exchange's, by name, and
    ``attention_cause_time_s`` is that of attention alone. ``level_bytes`` are the bytes that one chip moves at each
    level in a step.
    """

    cause_time_s: dict[str, Any]
    attention_cause_time_s: dict[str, Any]
    operator_cause_s: dict[str, dict[str, Any]]
    level_bytes: dict[str, Any]

    def plus(self, name: str, other: Account, times: float) -> Account:
        """This step's account followed by ``times`` of another's, gathered under one operator name; attention stays
        this one's.
        """
        def summed(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
            return {key: value + times * theirs[key] for key, value in mine.items()}

        return Account(cause_time_s=summed(self.cause_time_s, other.cause_time_s),
                       attention_cause_time_s=self.attention_cause_time_s,
                       operator_cause_s=self.operator_cause_s | {
                           name: {cause: times * time for cause, time in other.cause_time_s.items()}},
                       level_bytes=summed(self.level_bytes, other.level_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class TileMapping:
    """Where a layer runs on the tiles of a chip, and how a KV head of one sequence lies on them, point by point.

    ``along``, ``across``: sides of the region; ``token_ways``, ``dim_ways``: tiles over which tokens and head dimension
    are dealt out; ``head_copies``: each serves its part of the query heads; ``regions``: of a chip, that layers are
    dealt out over; ``in_flight``: groups of sequences on all stages at once.
    """

    along: Any
    across: Any
    token_ways: Any
    dim_ways: Any
    head_copies: Any
    regions: Any = 1.0
    in_flight: Any = 1.0

    @property
    def words(self) -> Any:
        """As in records: ``420x552 tiles a layer, 16x2 a head, 1 copy, 2 regions, 1 in flight``."""
        columns = np.broadcast_arrays(*(getattr(self, one.name) for one in fields(self)))
        words = [f"{x:.0f}x{y:.0f} tiles a layer, {n:.0f}x{d:.0f} a head, {r:.0f} {'copy' if r == 1 else 'copies'}"
                 + ("" if count == 1 else f", {count:.0f} regions, {flying:.0f} in flight")
                 for x, y, n, d, r, count, flying in zip(*(np.ravel(one).tolist() for one in columns), strict=True)]
        return np.array(words, dtype=object).reshape(columns[0].shape)


def words_of(mapping: TileMapping | None, point: int) -> str:
    """The words of one point's mapping; empty where the engine chose none."""
    return "" if mapping is None else str(np.ravel(mapping.words)[point])


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """Time of a step and where it goes.

    ``operator_time_s`` adds up to ``step_time_s``, collectives and waiting included. ``account`` is called when its
    parameters are first asked for: MHA beside a layout needs times alone. ``detail`` says what the engine saw of the
    chip, in a word; of tiles, ``tile_mapping`` is the mapping that it chose, ``message_s`` the messages of one
    attention by phase, and ``hop_bytes`` bytes times links of a step's by operator and phase. ``beside_bytes``: cache
    bytes that the units beside a chip's memory level read. ``unexplained_s`` of a step is what layers measured on the
    chip or its class take beyond what an engine derives; NaN where none were.
    """

    step_time_s: Any
    attention_time_s: Any
    operator_time_s: dict[str, Any]
    account: Callable[[], Account]
    detail: str = ""
    tile_mapping: TileMapping | None = None
    message_s: Callable[[], dict[str, Any]] = dict
    hop_bytes: Callable[[], dict[str, Any]] = dict
    unexplained_s: Any = np.nan
    beside_bytes: Any = 0.0

    @cached_property
    def _account(self) -> Account:
        return self.account()

    @property
    def cause_time_s(self) -> dict[str, Any]:
        """The time of the step by what binds; see :class:`Account`."""
        return self._account.cause_time_s

    @property
    def attention_cause_time_s(self) -> dict[str, Any]:
        """The time of attention by what binds; see :class:`Account`."""
        return self._account.attention_cause_time_s

    @property
    def operator_cause_s(self) -> dict[str, dict[str, Any]]:
        """The time of each operator and exchange by what binds; see :class:`Account`."""
        return self._account.operator_cause_s

    @property
    def level_bytes(self) -> dict[str, Any]:
        """Bytes that one chip moves at each memory level in a step."""
        return self._account.level_bytes

    @property
    def bound(self) -> Any:
        """The cause that takes most of the step, by name."""
        return _largest(self.cause_time_s, np.shape(self.step_time_s))

    @property
    def attention_bound(self) -> Any:
        """The cause that takes most of the attention operator alone, by name."""
        return _largest(self.attention_cause_time_s, np.shape(self.step_time_s))

    def plus(self, name: str, other: StepTiming, times: float) -> StepTiming:
        """This step followed by ``times`` steps of another, gathered under one operator name."""
        return StepTiming(
            step_time_s=self.step_time_s + times * other.step_time_s, attention_time_s=self.attention_time_s,
            operator_time_s=self.operator_time_s | {name: times * other.step_time_s},
            account=lambda: self._account.plus(name, other._account, times), detail=self.detail,
            tile_mapping=self.tile_mapping, message_s=self.message_s, unexplained_s=self.unexplained_s,
            hop_bytes=lambda: self.hop_bytes() | {name: times * sum(other.hop_bytes().values())},
            beside_bytes=self.beside_bytes + times * other.beside_bytes)


def _largest(times: dict[str, Any], shape: tuple[int, ...]) -> Any:
    names = np.array(list(times), dtype=object)
    best = np.zeros(shape, dtype=int)
    highest: Any = np.full(shape, -np.inf)
    for index, time in enumerate(times.values()):
        above = time > highest
        best = np.where(above, index, best)
        highest = np.where(above, time, highest)
    return names[best]


class Timed(Protocol):
    """One execution of an operator: its time, the causes that it adds up from, and the bytes moved at each level."""

    @property
    def total_s(self) -> Any:
        """The whole time."""

    @property
    def cause_s(self) -> dict[str, Any]:
        """The time by what binds."""

    @property
    def level_bytes(self) -> dict[str, Any]:
        """Bytes by memory level."""

    @property
    def beside_bytes(self) -> Any:
        """Of them, cache bytes that units beside a memory level read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOperator:
    """A :class:`Timed` of plain values."""

    total_s: Any
    cause_s: dict[str, Any]
    level_bytes: dict[str, Any]
    beside_bytes: Any = 0.0


def assemble(step: DecodeStep, hardware: HardwareProfile, time_operator: Callable[[Operator], Timed], *,
             on_chip_s: Mapping[str, Any] | None = None, waiting_s: Any = 0.0) -> StepTiming:
    """Time one decode step on one chip's share of it, with the collectives and hops between chips.

    ``on_chip_s``: messages on the chip besides those of operators, by name, from an engine that derives what a layer
    waits for: its measured latency is left out, and exchanges that this latency was measured with are charged.
    ``waiting_s``: for other tokens in a pipeline on the chip.
    """
    workload = step.workload
    timed = [(operator, time_operator(operator)) for operator in step.operators]
    operator_time: dict[str, Any] = {}
    layers_s: Any = 0.0
    for operator, one in timed:
        total = operator.count * one.total_s
        operator_time[operator.name] = operator_time.get(operator.name, 0.0) + total
        layers_s = layers_s + total

    links = exchange_times_s(step.collectives, hardware, static=workload.static and on_chip_s is None)
    links |= on_chip_s or {}
    fixed_s = layers_wait_s(workload, hardware.overheads) if on_chip_s is None else 0.0
    stages_s = layers_s + sum(links.values()) + fixed_s
    # A full pipeline runs at its slowest stage: pp rounds of ceil(L/pp) layers take longer than all layers once.
    imbalance: Any = 1.0
    if not workload.static:
        imbalance = _stage_imbalance(workload.model.n_layers, workload.machine.pp, workload.microbatches)
    waiting_s = waiting_s + stages_s * (imbalance - 1.0)
    host_s = hardware.overheads.step_s
    operator_time |= links | {"layer_latency": fixed_s, "pipeline_wait": waiting_s, "host": host_s}
    return StepTiming(
        step_time_s=stages_s + waiting_s + host_s,
        attention_time_s=sum(operator_time.get(name, 0.0) for name in ATTENTION_PARTS),
        operator_time_s=operator_time,
        beside_bytes=sum(operator.count * one.beside_bytes for operator, one in timed),
        account=lambda: _account(timed, hardware, links, {
            "layer_latency": fixed_s, "pipeline_wait": waiting_s, "host": host_s}))


def _account(timed: list[tuple[Operator, Timed]], hardware: HardwareProfile, links_s: dict[str, Any],
             idle_s: dict[str, Any]) -> Account:
    causes = (*(level.name for level in hardware.memory), LOAD_PATH, COMPUTE, SPECIAL_FUNCTION, LINK, LATENCY)
    cause_time: dict[str, Any] = dict.fromkeys(causes, 0.0)
    attention_cause: dict[str, Any] = dict.fromkeys(causes, 0.0)
    of_operator: dict[str, dict[str, Any]] = {}
    level_bytes: dict[str, Any] = {level.name: 0.0 for level in hardware.memory}
    for operator, one in timed:
        own = of_operator.setdefault(operator.name, {})
        for cause, time in one.cause_s.items():
            whole = operator.count * time
            cause_time[cause] = cause_time[cause] + whole
            own[cause] = own.get(cause, 0.0) + whole
            if operator.name in ATTENTION_PARTS:
                attention_cause[cause] = attention_cause[cause] + whole
        for name, moved in one.level_bytes.items():
            level_bytes[name] = level_bytes[name] + operator.count * moved
    for cause, times in ((LINK, links_s), (LATENCY, idle_s)):
        cause_time[cause] = cause_time[cause] + sum(times.values())
        of_operator |= {name: {cause: time} for name, time in times.items()}
    return Account(cause_time_s=cause_time, attention_cause_time_s=attention_cause, operator_cause_s=of_operator,
                   level_bytes=level_bytes)


def _stage_imbalance(n_layers: int, pp: Any, microbatches: Any) -> Any:
    r"""Slowest stage against the mean one, :math:`\lceil L/pp \rceil pp / L`, felt only when every stage is busy."""
    stages = np.asarray(pp, dtype=float)
    return np.where(np.asarray(microbatches) >= stages, np.ceil(n_layers / stages) * stages / n_layers, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedStep:
    """A step with the homes of its tensors; ``draft_steps`` of a draft model's step go with it."""

    step: DecodeStep
    placement: Placement
    draft: DecodeStep | None
    draft_steps: int

    def timed(self, evaluate: Callable[[DecodeStep, Placement, HardwareProfile], StepTiming],
              hardware: HardwareProfile) -> StepTiming:
        """Its time on a chip by an engine's ``evaluate``."""
        timing = evaluate(self.step, self.placement, hardware)
        if self.draft is None:
            return timing
        return timing.plus("draft", evaluate(self.draft, self.placement, hardware), self.draft_steps)
