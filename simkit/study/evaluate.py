"""All points of one profile, model, layout and scenario: place them on a machine, build the step, time it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final, cast

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.parameters import at_points
from simkit.hardware.profile import TENSORS, HardwareProfile
from simkit.model.architecture import ModelArchitecture, count_parameters
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.step.build import StepTotals, build_step, step_totals
from simkit.step.machine import Machine
from simkit.step.operators import DecodeStep
from simkit.step.placement import Demand, Placement, demand, place
from simkit.step.workload import PARTS, DecodeWorkload
from simkit.study.columns import ASKED_FOR
from simkit.study.engines import CLOSED_FORM, DEFAULT, engine_named
from simkit.study.machine_search import (
    EVERY_POINT,
    Need,
    Option,
    TimeOn,
    candidates,
    fastest,
    fit_chips,
    most_in_flight,
    options,
    split_chips,
    widths_of,
    worth_more,
)
from simkit.study.record import FIELDS
from simkit.study.scenario import Scenario, parse_scenario
from simkit.study.speculation import Speculation, draft_demand, with_medusa_heads, with_own_layer
from simkit.timing.engine import Engine
from simkit.timing.step_timing import PlacedStep, StepTiming

# Operators, placement and time by machine.
Known = dict[Machine, tuple[DecodeStep, Placement, StepTiming]]
FIT, FIT_EACH, FEWEST = "fit", "fit-each", "fewest"
_BUDGET: Final = re.compile(r"up-to-([1-9]\d{0,8})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """Points of one profile, model and scenario before they are timed: numbers, or arrays of one shape.

    ``tp``, ``pp``: chips that share a layer and stages where the user named them. ``parts``, ``micro_batches``: what
    one of two pools does, as of :class:`simkit.step.workload.DecodeWorkload`; ``proposes``: it drafts; None: no pool.
    """

    hardware: HardwareProfile
    model: ModelArchitecture
    scenario: Scenario
    batch: Any
    kv_len: Any
    q_len: Any
    engine: Engine
    tp: int | None = None
    pp: int | None = None
    parts: tuple[str, ...] = PARTS
    micro_batches: Any = None
    proposes: bool | None = None

    @property
    def speculation(self) -> Speculation | None:
        """What these chips propose with."""
        return None if self.proposes is False else self.scenario.speculation

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the points; a number that all share may stand alone."""
        return np.broadcast_shapes(np.shape(self.batch), np.shape(self.kv_len), np.shape(self.q_len))

    def take(self, where: Any) -> Points:
        """The points that an index picks of one-dimensional arrays."""
        def picked(values: Any) -> Any:
            return values[where] if np.ndim(values) else values

        hardware = at_points(self.hardware, where) if self.hardware.varied else self.hardware
        return replace(self, hardware=hardware, batch=picked(self.batch), kv_len=picked(self.kv_len),
                       q_len=picked(self.q_len), micro_batches=picked(self.micro_batches))

    def workload(self, layout: AttentionLayout, machine: Machine) -> DecodeWorkload:
        """The step under a layout on a machine."""
        return self.scenario.workload(self.hardware, self.model, layout, batch=self.batch, kv_len=self.kv_len,
                                      q_len=self.q_len, machine=machine, parts=self.parts,
                                      micro_batches=self.micro_batches)

    def draft_workload(self, speculation: Speculation, machine: Machine) -> DecodeWorkload | None:
        """One step of the draft model on the same chips, as many of them as its heads allow."""
        draft = speculation.draft_of(self.model)
        if draft is None:
            return None
        static = self.hardware.sharding == "layer-pipelined"
        ways = machine.tp if static or speculation.mtp else np.gcd(
            np.asarray(machine.tp, dtype=np.int64), draft.n_q_heads) * 1.0
        alone = replace(self.scenario, speculation=None, comparison="mha",
                        encoder_len=self.scenario.encoder_len if draft.cross_attention else 0)
        return alone.workload(self.hardware, draft, parse_layout("as-trained", draft), batch=self.batch,
                              kv_len=self.kv_len, q_len=self.q_len * 0 + 1.0,
                              machine=replace(machine, tp=ways, pp=np.minimum(machine.pp, draft.n_layers)))

    def draft_step(self, speculation: Speculation | None, machine: Machine) -> DecodeStep | None:
        """The operators of that step; None where heads propose, or nothing does."""
        drafting = None if speculation is None else self.draft_workload(speculation, machine)
        if drafting is None:
            return None
        step = build_step(drafting)
        return with_own_layer(step) if speculation and speculation.mtp else step

    def demand(self, layout: AttentionLayout, machine: Machine) -> Demand:
        """What a chip must hold under a layout; a draft model's share included."""
        return self._demand(self.workload(layout, machine), machine)

    def _demand(self, workload: DecodeWorkload, machine: Machine) -> Demand:
        speculation, own = self.speculation, demand(workload)
        return own if speculation is None else own.plus(
            draft_demand(speculation, workload, self.draft_workload(speculation, machine)))

    def need(self, layout: AttentionLayout) -> Need:
        """What a chip must hold under a layout, as a function of the machine."""
        def of(machine: Machine, where: Any) -> Demand:
            points = self if where is EVERY_POINT else self.take(where)
            return points.demand(layout, machine)

        return Need(demand=of, n_kv_heads=layout.n_kv_heads)

    def chips_for(self, layouts: Sequence[AttentionLayout], chips: Any) -> Machine:
        """The chips of every point on which each of ``layouts`` fits.

        ``chips``: a number; ``fit`` (or ``fit-each``): those of the least cost of a token; ``fewest``; ``up-to-N``:
        the fastest of at most N. Raises :class:`UserError` when chips, tp and pp contradict each other.
        """
        hardware, model, mapping = self.hardware, self.model, self.scenario.mapping(self.hardware)
        if isinstance(chips, str):
            budget = _BUDGET.fullmatch(chips)
            if chips not in (FIT, FIT_EACH, FEWEST) and budget is None:
                raise UserError(f"--chips '{chips[:20]}': expected a number, {FIT}, {FIT_EACH}, {FEWEST} or up-to-8")
            if self.tp is None and self.pp is None:
                if budget is not None:
                    hardware = replace(hardware, max_chips=min(int(budget[1]), hardware.max_chips))
                largest_first = sorted(layouts, key=lambda layout: -layout.elements_per_token)
                fewest = fit_chips(hardware, [self.need(layout) for layout in largest_first], self.shape,
                                   model.n_q_heads, model.n_layers, mapping, every_count=chips == FEWEST)
                # Where all memory is alike, more chips never make a token cheaper: each brings its fixed times.
                homes = {one.name for kept in TENSORS[:2] for one in self.hardware.homes(kept) if not one.overflow}
                by_time = np.asarray(fewest.overflow, dtype=bool) | (budget is not None)
                if chips == FEWEST or (len(homes) <= 1 and not np.any(by_time)):
                    return fewest
                time_on = self._closed_form_s(largest_first[0])
                return worth_more(
                    fewest, self.shape, candidates(hardware, model.n_q_heads, model.n_layers),
                    lambda tried: time_on(self.mapped(largest_first[0], tried), None), by_time=by_time)
            chips = (self.tp or 1) * (self.pp or 1)
        ways, stages = split_chips(hardware, model.n_q_heads, model.n_layers, chips, self.tp, self.pp, mapping)
        # Whoever names the machine has chosen its memory tiers too, those for overflow included.
        return Machine(chips=float(chips), tp=float(ways), pp=float(stages), mapping=mapping or "heads", overflow=True)

    def mapped(self, layout: AttentionLayout, machine: Machine, known: Known | None = None) -> Machine:
        """The machine with the fastest mapping of a layout; what the user or the profile names stays.

        ``known`` takes what the search timed of all points.
        """
        # Of a mixture's weights a step reads what its rows choose.
        weights = 0.0 if self.model.moe or self.parts != PARTS else (
            count_parameters(self.model, layout).active_without_embedding
            * self.scenario.weights_of(self.model)[0].bytes_per_element)
        alone = self.workload(layout, Machine(chips=1.0, tp=1.0, pp=1.0))
        cache: Any = 0.0
        if "attention" in self.parts:
            cache = self.batch * sum(g.count * alone.of(g).layer_read_bytes(g) for g in alone.layer_groups if g.attends)
        rates = [max((np.max(level.chip_bandwidth_bytes_per_s) for level in self.hardware.homes(tensor)
                      if level.chip_bandwidth_bytes_per_s is not None), default=np.inf) for tensor in ("weights", "kv")]

        def least_s(chips: float, tp: float, where: Any) -> Any:
            """Weights of every layer and one copy of the cache pass once, at the rates of the fastest memories."""
            read = cache if where is None or not np.ndim(cache) else cache[where]
            return weights / tp / rates[0] + read / chips / rates[1]

        def holds(tried: Machine, where: Any) -> Any:
            points = self if where is None else self.take(where)
            return place(points.demand(layout, tried), points.hardware, overflow=tried.overflow).fits

        if self.hardware.sharding == "layer-pipelined" and self.micro_batches is None and not self.engine.closed_form \
                and self.engine.broadcasts(self.hardware):
            return most_in_flight(machine, self.hardware, self.model.n_layers, self.batch, self.shape,
                                  lambda tried: self.timed(layout, tried)[2].step_time_s)
        return self._searched(layout, machine, self._closed_form_s(layout, known), least_s, holds)

    def roomiest(self, layout: AttentionLayout, machine: Machine) -> Machine:
        """The machine with the mapping that holds the most sequences."""
        def inverse_batch(tried: Machine, where: Any) -> Any:
            points = self if where is None else self.take(where)
            held = place(points.demand(layout, tried), points.hardware, overflow=tried.overflow).max_batch
            return 1.0 / np.maximum(held, 0.5)

        return self._searched(layout, machine, inverse_batch, lambda *_: 0.0, lambda *_: True)

    def _searched(self, layout: AttentionLayout, machine: Machine, least_of: TimeOn,
                  bound: Callable[[float, float, Any], Any], holds: Callable[[Machine, Any], Any]) -> Machine:
        if self.hardware.sharding == "layer-pipelined":
            return machine
        return fastest(machine, self.shape, partial(self.ways, layout), least_of, bound, holds)

    def ways(self, layout: AttentionLayout, chips: float) -> tuple[Option, ...]:
        """Every way to share the model over so many chips under a layout; what the user or the profile names stays."""
        hardware, model = self.hardware, self.model
        widest = hardware.scale_up.max_chips if hardware.scale_up else 1
        linked = hardware.scale_up is not None or hardware.scale_out is not None
        mapping = self.scenario.mapping(hardware)
        widths = tuple(widths_of(model.n_q_heads, min(widest, int(chips)), int(chips), mapping))
        return options(chips, float(layout.n_kv_heads), widths, model.n_layers, linked, self.tp, self.pp, mapping)

    def _closed_form_s(self, layout: AttentionLayout, known: Known | None = None) -> TimeOn:
        """Seconds of a step by the closed form, whatever the engine of the points: a search asks many times."""
        closed = self if self.engine is CLOSED_FORM else replace(self, engine=CLOSED_FORM)

        def time_on(machine: Machine, where: Any) -> Any:
            found = (closed if where is None else closed.take(where)).timed(layout, machine)
            if known is not None and where is None:
                with suppress(TypeError):  # arrays have no hash
                    known[machine] = found
            return np.where(found[1].fits, found[2].step_time_s, np.inf)

        return time_on

    def timed(self, layout: AttentionLayout, machine: Machine) -> tuple[DecodeStep, Placement, StepTiming]:
        """Operators, placement and time under a layout on a machine."""
        placed = self.placed(layout, machine)
        return placed.step, placed.placement, placed.timed(self.engine.evaluate, self.hardware)

    def placed(self, layout: AttentionLayout, machine: Machine) -> PlacedStep:
        """Operators and placement under a layout on a machine, to be timed. Raises :class:`UserError` for two pools."""
        if self.scenario.pools is not None and self.proposes is None:
            raise UserError("this question is asked of one machine, and --ffn states a second pool of chips",
                            hint="simkit simulate and split take pools")
        workload, speculation = self.workload(layout, machine), self.speculation
        step, draft, draft_steps = build_step(workload), self.draft_step(speculation, machine), 0
        placement = place(self._demand(workload, machine), self.hardware, overflow=machine.overflow)
        if speculation is not None:
            draft_steps = speculation.draft_tokens
            step = with_medusa_heads(step, draft_steps) if draft is None else step
        return PlacedStep(step=step, placement=placement, draft=draft, draft_steps=draft_steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """Timed points, and the objects that their columns follow from. ``mha``: MHA on the same machine, where asked for.

    ``shape``: that of the columns, to which all numbers broadcast.
    """

    points: Points
    layout: AttentionLayout
    machine: Machine
    step: DecodeStep
    placement: Placement
    timing: StepTiming
    mha: Evaluated | None
    shape: tuple[int, ...]

    @property
    def hardware(self) -> HardwareProfile:
        """The chip."""
        return self.points.hardware

    @property
    def model(self) -> ModelArchitecture:
        """The model."""
        return self.points.model

    @cached_property
    def columns(self) -> dict[str, Any]:
        """All columns of :data:`simkit.study.record.FIELDS`."""
        return self.select(tuple(FIELDS))

    def select(self, names: Sequence[str]) -> dict[str, Any]:
        """Some columns. One value for all points takes the room of one: such columns cannot be written to."""
        return {name: self._full(ASKED_FOR[name].value_of(self)) for name in names}

    def _full(self, value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind == "U":  # words of a fixed width would be cut where another part's are longer
            array = array.astype(object)
        if array.size > 1 or self.shape in ((), (1,)):
            return array.reshape(self.shape)
        return np.broadcast_to(array.reshape(()), self.shape)

    @cached_property
    def fits(self) -> Any:
        """Whether weights and cache fit."""
        return np.asarray(self.placement.fits)

    @cached_property
    def step_time_s(self) -> Any:
        """Time of a step; NaN where it does not fit."""
        return np.where(self.fits, self.timing.step_time_s, np.nan)

    @property
    def tokens_per_step(self) -> Any:
        """Tokens that a sequence gains in a step."""
        speculation = self.points.scenario.speculation
        return self.step.workload.q_len if speculation is None else speculation.tokens_per_step

    @cached_property
    def tokens_per_s(self) -> Any:
        """Tokens of all sequences per second."""
        return self.points.batch * self.tokens_per_step / self.step_time_s

    @cached_property
    def totals(self) -> StepTotals:
        """Bytes and flops of the whole machine."""
        return step_totals(self.step)

    @property
    def arithmetic_intensity(self) -> Any:
        """Attention's matrix flops a byte of cache that a chip reads."""
        cores = self.step.attention_operators
        return sum(op.count * op.matrix_flops for op in cores) / sum(op.count * op.kv_read_bytes for op in cores)

    @property
    def sides(self) -> tuple[Evaluated, ...]:
        """The pools of chips that do the step: these alone."""
        return (self,)

    def speedup_vs_mha(self, time_of: str) -> Any:
        """MHA's time over this one's on the same machine; NaN where one does not fit or MHA was not timed."""
        if self.mha is None:
            return np.nan
        ratio = getattr(self.mha.timing, time_of) / getattr(self.timing, time_of)
        return np.where(self.fits & self.mha.fits, ratio, np.nan)


def evaluate_group(hardware: HardwareProfile, model: ModelArchitecture, attention: str, *, rivals: Sequence[str],
                   batch: Any, kv_len: Any, q_len: Any, scenario: Scenario | None = None, kv_dtype: str = "bf16",
                   weight_dtype: str = "bf16", chips: Any = FIT, tp: int | None = None, pp: int | None = None,
                   engine: str = DEFAULT, baseline: bool = True) -> Evaluated:
    """Time all points of one profile, model, layout and scenario: the vectorised inner call of ``decode_step``.

    ``rivals`` are the layouts compared with this one: ``fit`` takes the chips that the largest of them needs.
    ``scenario`` wins over ``kv_dtype`` and ``weight_dtype``. Raises :class:`UserError`.
    """
    batch, kv_len, q_len = (np.asarray(value, dtype=float) for value in (batch, kv_len, q_len))
    points = Points(hardware=hardware, model=model, batch=batch, kv_len=kv_len, q_len=q_len, tp=tp, pp=pp,
                    scenario=scenario or parse_scenario(kv_dtype=kv_dtype, weight_dtype=weight_dtype),
                    engine=engine_named(engine))
    from simkit.study.groups import group_of  # not of one decode step

    group = group_of(points, chips, (attention,) if chips == FIT_EACH else tuple(rivals))
    return cast("Evaluated", group.timed(attention, on_machine, baseline=baseline))


def compared(layout: AttentionLayout, rivals: Sequence[str], model: ModelArchitecture,
             chips: Any) -> list[AttentionLayout]:
    """The layouts that must fit on one machine."""
    return [layout] if chips == FIT_EACH else [parse_layout(rival, model) for rival in rivals]


def mapped_already(points: Points, layout: AttentionLayout, machine: Machine) -> Evaluated:
    """Points timed under a layout on a machine as it is."""
    step, placement, timing = points.timed(layout, machine)
    return Evaluated(points=points, layout=layout, machine=machine, step=step, placement=placement, timing=timing,
                     mha=None, shape=points.shape)


def on_machine(points: Points, layout: AttentionLayout, machine: Machine, *, baseline: bool,
               shape: tuple[int, ...] | None = None) -> Evaluated:
    """Points timed under a layout on the chips of a machine, in its fastest mapping, and MHA in its own beside it."""
    def timed(one: AttentionLayout) -> Evaluated:
        known: Known = {}  # what the search has timed is not timed again
        mapped = points.mapped(one, machine, known)
        found = None
        with suppress(TypeError):  # arrays have no hash
            found = known.get(mapped) if points.engine.closed_form else None
        step, placement, timing = found or points.timed(one, mapped)
        return Evaluated(points=points, layout=one, machine=mapped, step=step, placement=placement, timing=timing,
                         mha=None, shape=points.shape if shape is None else shape)

    own, mha = timed(layout), parse_layout("mha", points.model)
    return replace(own, mha=own if layout == mha else timed(mha)) if baseline else own
