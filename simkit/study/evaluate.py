"""All points of one profile, model, layout and scenario: build, place, time, and lay out as columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.base import AttentionLayout
from simkit.roofline import engine as roofline
from simkit.step.build import build_step
from simkit.step.machine_totals import step_totals
from simkit.step.operators import DecodeStep
from simkit.step.placement import (
    Demand,
    Placement,
    allocated_bytes_per_sequence,
    cached_bytes_per_sequence,
    demand,
    place,
)
from simkit.step.workload import DecodeWorkload
from simkit.study.energy_cost import cost_usd_per_mtok, energy_j_per_token
from simkit.study.fit import Need, Split, fit_chips, split_chips
from simkit.study.replay_cache import replay_engine
from simkit.study.scenario import Scenario, parse_scenario
from simkit.study.speculation import Speculation, medusa_weight_bytes, with_medusa_heads
from simkit.timing.step_timing import StepTiming

Engine = Callable[[DecodeStep, Placement, HardwareProfile], StepTiming]
ENGINES: Final = ("roofline", "replay")
FIT, FIT_EACH = "fit", "fit-each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One group of points with the objects behind its columns, for figures that need operators or roofs."""

    columns: dict[str, Any]
    hardware: HardwareProfile
    model: ModelArchitecture
    layout: AttentionLayout
    step: DecodeStep
    placement: Placement
    timing: StepTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Points of one group before they are answered: numbers as arrays of one shape."""

    hardware: HardwareProfile
    model: ModelArchitecture
    scenario: Scenario
    batch: Any
    kv_len: Any
    q_len: Any
    engine: Engine

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the points; a number that all share may stand alone."""
        return np.broadcast_shapes(np.shape(self.batch), np.shape(self.kv_len), np.shape(self.q_len))

    def workload(self, layout: AttentionLayout, tp: Any, pp: Any) -> DecodeWorkload:
        """The step under a layout, split ``tp`` x ``pp``."""
        return self.scenario.workload(self.hardware, self.model, layout, batch=self.batch, kv_len=self.kv_len,
                                      q_len=self.q_len, tp=tp, pp=pp)

    def draft_workload(self, speculation: Speculation, tp: Any, pp: Any) -> DecodeWorkload | None:
        """One step of the draft model on the same chips, as many of them as its heads allow."""
        draft = speculation.draft
        if draft is None:
            return None
        static = self.hardware.sharding == "layer-pipelined"
        ways = tp if static else np.gcd(np.asarray(tp, dtype=np.int64), draft.n_q_heads) * 1.0
        alone = replace(self.scenario, speculation=None,
                        encoder_len=self.scenario.encoder_len if draft.cross_attention else 0)
        return alone.workload(self.hardware, draft, parse_layout("as-trained", draft), batch=self.batch,
                              kv_len=self.kv_len, q_len=self.q_len * 0 + 1.0, tp=ways,
                              pp=np.minimum(pp, draft.n_layers))

    def need(self, layout: AttentionLayout) -> Need:
        """What a chip must hold under a layout, as a function of the split; a draft model's share included."""
        def of(tp: Any, pp: Any) -> Demand:
            speculation = self.scenario.speculation
            own = demand(self.workload(layout, tp, pp))
            if speculation is None:
                return own
            draft = self.draft_workload(speculation, tp, pp)
            if draft is None:
                step = with_medusa_heads(build_step(self.workload(layout, tp, pp)), speculation.draft_tokens)
                return own.plus(weight_bytes=medusa_weight_bytes(step), kv_bytes_per_sequence=0.0, kv_bytes=0.0)
            more = demand(draft)
            return own.plus(weight_bytes=more.weight_bytes, kv_bytes_per_sequence=more.kv_bytes_per_sequence,
                            kv_bytes=more.kv_bytes, batch_ways=more.batch_ways)

        return of

    def answer(self, layout: AttentionLayout, split: Split) -> tuple[DecodeStep, Placement, StepTiming]:
        """Operators, placement and time under a layout on the given chips."""
        step = build_step(self.workload(layout, split.tp, split.pp))
        speculation = self.scenario.speculation
        placement = place(self.need(layout)(split.tp, split.pp), self.hardware, overflow=split.overflow)
        if speculation is None:
            return step, placement, self.engine(step, placement, self.hardware)
        draft = self.draft_workload(speculation, split.tp, split.pp)
        if draft is None:
            step = with_medusa_heads(step, speculation.draft_tokens)
            return step, placement, self.engine(step, placement, self.hardware)
        timing = self.engine(step, placement, self.hardware)
        drafting = self.engine(build_step(draft), placement, self.hardware)
        return step, placement, timing.plus("draft", drafting, speculation.draft_tokens)


def engine_named(name: str) -> Engine:
    """The engine of that name; the replay's compiler is loaded only when it is asked for. Raises :class:`UserError`."""
    if name == "roofline":
        return roofline.evaluate
    if name == "replay":
        return replay_engine
    raise UserError(f"unknown engine '{name[:40]}'", hint=did_you_mean(name, ENGINES))


def evaluate_group(hardware: HardwareProfile, model: ModelArchitecture, attention: str, *, rivals: list[str],
                   batch: Any, kv_len: Any, q_len: Any, scenario: Scenario | None = None, kv_dtype: str = "bf16",
                   weight_dtype: str = "bf16", chips: Any = FIT, tp: int | None = None, pp: int | None = None,
                   engine: str = "roofline", baseline: bool = True) -> Evaluated:
    """Answer all points of one profile, model, layout and scenario: the vectorised inner call of ``decode_step``.

    ``rivals`` are the layouts compared with this one: ``fit`` takes the chips that the largest of them needs.
    ``scenario`` wins over ``kv_dtype`` and ``weight_dtype``. Raises :class:`UserError`.
    """
    scenario = scenario or parse_scenario(kv_dtype=kv_dtype, weight_dtype=weight_dtype)
    question, layout, split = asked(hardware, model, attention, rivals=rivals, batch=batch, kv_len=kv_len, q_len=q_len,
                                    scenario=scenario, chips=chips, tp=tp, pp=pp, engine=engine)
    return answered(question, layout, attention, split, engine=engine, baseline=baseline)


def asked(hardware: HardwareProfile, model: ModelArchitecture, attention: str, *, rivals: list[str], batch: Any,
          kv_len: Any, q_len: Any, scenario: Scenario, chips: Any, tp: int | None, pp: int | None,
          engine: str) -> tuple[Question, AttentionLayout, Split]:
    """The question, its layout and the chips of every point; parameters as of :func:`evaluate_group`."""
    layout = parse_layout(attention, model)
    batch, kv_len, q_len = (np.asarray(value, dtype=float) for value in (batch, kv_len, q_len))
    question = Question(hardware=hardware, model=model, scenario=scenario, batch=batch, kv_len=kv_len, q_len=q_len,
                        engine=engine_named(engine))
    compared = [layout] if chips == FIT_EACH else largest_first([parse_layout(rival, model) for rival in rivals])
    return question, layout, _split(question, chips, tp, pp, compared)


def answered(question: Question, layout: AttentionLayout, attention: str, split: Split, *, engine: str,
             baseline: bool) -> Evaluated:
    """A question answered on given chips, and MHA on the same ones beside it."""
    step, placement, timing = question.answer(layout, split)
    columns = _columns(question, layout, attention, engine, step, placement, timing, split)
    if baseline:
        mha = parse_layout("mha", question.model)
        _, mha_placement, mha_timing = (step, placement, timing) if layout == mha else question.answer(mha, split)
        both = placement.fits & mha_placement.fits
        columns["speedup_vs_mha"] = np.where(both, mha_timing.step_time_s / timing.step_time_s, np.nan)
        columns["attention_speedup_vs_mha"] = np.where(
            both, mha_timing.attention_time_s / timing.attention_time_s, np.nan)
    return Evaluated(columns=columns, hardware=question.hardware, model=question.model, layout=layout, step=step,
                     placement=placement, timing=timing)


def largest_first(layouts: list[AttentionLayout]) -> list[AttentionLayout]:
    """Layouts by what they cache of a token, largest first: the order in which a fit is found soonest."""
    return sorted(layouts, key=lambda layout: -layout.elements_per_token)


def _split(question: Question, chips: Any, tp: int | None, pp: int | None, layouts: list[AttentionLayout]) -> Split:
    hardware, model = question.hardware, question.model
    if isinstance(chips, str):
        if chips not in (FIT, FIT_EACH):
            raise UserError(f"--chips '{chips[:20]}': expected a number, {FIT} or {FIT_EACH}")
        if tp is None and pp is None:
            return fit_chips(hardware, [question.need(layout) for layout in layouts], question.shape,
                             model.n_q_heads, model.n_layers)
        chips = (tp or 1) * (pp or 1)
    ways, stages = split_chips(hardware, model.n_q_heads, model.n_layers, int(chips), tp, pp)
    # Whoever names the machine has chosen its memory tiers too, the last resort included.
    return Split(chips=float(chips), tp=float(ways), pp=float(stages), overflow=True)


def _columns(question: Question, layout: AttentionLayout, attention: str, engine: str, step: DecodeStep,
             placement: Placement, timing: StepTiming, split: Split) -> dict[str, Any]:
    workload, scenario, hardware = step.workload, question.scenario, question.hardware
    batch = question.batch
    shape = question.shape
    fits = np.broadcast_to(placement.fits, shape)
    time = np.where(fits, timing.step_time_s, np.nan)
    speculation = scenario.speculation
    tokens_per_step = np.asarray(workload.q_len if speculation is None else speculation.tokens_per_step)
    tokens_per_s = batch * tokens_per_step / time
    totals = step_totals(step)
    cores = step.attention_operators
    core_flops = sum(op.count * op.matrix_flops for op in cores)
    logical = batch * cached_bytes_per_sequence(workload)
    allocated = batch * allocated_bytes_per_sequence(workload)
    draft = None if speculation is None else question.draft_workload(speculation, split.tp, split.pp)
    energy = energy_j_per_token(
        step, placement, hardware, time, split.chips, tokens_per_s, draft=None if draft is None else build_step(draft),
        draft_steps=0 if speculation is None else speculation.draft_tokens)

    def full(value: Any) -> Any:
        """One value for all points takes the room of one: such columns cannot be written to."""
        return np.broadcast_to(np.asarray(value, dtype=object if isinstance(value, str) else None), shape)

    return {
        "hardware": full(hardware.name), "chips": full(split.chips), "tp": full(split.tp), "pp": full(split.pp),
        "model": full(question.model.name), "attention": full(attention), "n_q_heads": full(question.model.n_q_heads),
        "n_kv_heads": full(layout.n_kv_heads), "kv_dtype": full(scenario.kv_dtype),
        "weight_dtype": full(scenario.weight_dtype), "batch": full(batch), "kv_len": full(question.kv_len),
        "q_len": full(workload.q_len), "engine": full(engine), "fits": fits, "step_time_s": time,
        "tokens_per_s": tokens_per_s, "tokens_per_s_per_user": tokens_per_step / time,
        "attention_time_s": np.where(fits, timing.attention_time_s, np.nan), "kv_cache_bytes": full(logical),
        "kv_allocated_bytes": full(allocated), "kv_copies": full(workload.copies),
        "kv_read_bytes": full(totals.kv_read_bytes),
        "weight_read_bytes": full(totals.weight_bytes), "flops": full(totals.matrix_flops),
        "arithmetic_intensity": full(core_flops / sum(op.count * op.kv_read_bytes for op in cores)),
        "bound": np.where(fits, timing.bound, ""), "attention_bound": np.where(fits, timing.attention_bound, ""),
        "speedup_vs_mha": full(np.nan), "attention_speedup_vs_mha": full(np.nan),
        "max_batch": full(placement.max_batch), "energy_j_per_token": energy,
        "cost_usd_per_mtok": cost_usd_per_mtok(hardware.price, split.chips, tokens_per_s),
    }
