"""The machine, model and workload of a published figure, as its paper states them, and the engines' answer to it.

A setup is a profile with the paper's own figures over it (as ``--set`` would), a model with the paper's own changes,
and a workload. Three conventions of papers are options, because papers differ in them:

- ``ideal``: vendor peaks and nothing else, as in hand-made rooflines: no overheads, no link time, no achieved
  fractions, no time in levels between the units and the memory.
- ``projections-not-shrunk``: a GQA row that keeps the weights of MHA (the scaling book's table).
- ``embedding-read-whole``: every parameter is read in a step, the input embedding's table too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from simkit.foundation.errors import UserError
from simkit.foundation.validation import Flag, Number, StrictRecord, Text
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile, Link, MemoryLevel, Overheads
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import ElementFormat
from simkit.roofline import engine as roofline
from simkit.serving.ask import PrefillPool, ask
from simkit.serving.replica import Replica, build_replicas, paged
from simkit.serving.words import load_of, policy_of
from simkit.step.build import build_step, step_totals
from simkit.step.operators import DecodeStep, Operator, ProductTask
from simkit.study.cache_size import kv_bytes_per_token
from simkit.study.capacity import capacity
from simkit.study.engines import engine_named
from simkit.study.evaluate import Evaluated, Points, evaluate_group, on_machine
from simkit.study.pool_words import split_count
from simkit.study.pools import evaluate_pools
from simkit.study.scenario import Scenario, parse_scenario
from simkit.study.single_kernel import attention_kernel
from simkit.timing.step_timing import LINK

Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(gt=0, lt=1)]
Convention = Literal["projections-not-shrunk", "embedding-read-whole"]
ENDLESS_BYTES_PER_S: Final = 1e30  # a link that takes no time
PAGE_TOKENS: Final = 16  # of every serving engine that is quoted
SERVED: Final = 300  # assumed: requests that are played at each rate


class ServeSchema(StrictRecord):
    """A load that is played, with ``prompt`` and ``new_tokens`` of every request; the objective in seconds."""

    slo_ttft_s: Positive
    slo_tpot_s: Positive
    runtime: Text = "ideal"
    prefill_chips: int | None = None
    """Of a replica for prompts, where they are computed on chips of their own."""
    prefill_replicas: int = 1
    kv_link: Text = "free"


class SetupSchema(StrictRecord):
    """What a figure was measured or computed on; every key may stand with the paper or with one row."""

    hardware: Text | None = None
    set: dict[str, Text] = Field(default_factory=dict)
    """The paper's own figures of that machine, by dotted key of the profile."""
    ffn_set: dict[str, Text] = Field(default_factory=dict)
    """Likewise of the chips of ``words.ffn``, ``NAME:N``."""
    ideal: Flag = False
    cache_share: Share | None = None
    """The share of the main memory that is set aside for the cache; weights lie in the rest."""
    model: Text | None = None
    model_heads: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    """Query heads, KV heads and head dimension in place of the model's own."""
    model_widths: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    """Hidden size and MLP width in place of the model's own."""
    window: int | None = None
    """A sliding window on every layer."""
    attention: Text = "as-trained"
    batch: Positive = 1
    kv_len: Positive = 4096
    prompt: Positive | None = None
    new_tokens: Positive | None = None
    """With ``prompt``: a whole generation, step by step."""
    chips: Positive | Literal["fit"] = "fit"
    tp: int | None = None
    pp: int | None = None
    words: dict[str, Text | Number] = Field(default_factory=dict)
    """Words of the scenario: kv_dtype, weight_dtype, eviction, speculation, page, lengths, attention_sharding."""
    kv_bits: Positive | None = None
    """Average bits of a cache element where no format of simkit has that many."""
    conventions: list[Convention] = Field(default_factory=list)
    heads: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    """For a kernel alone: query heads, KV heads, head dimension."""
    product: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    """For a weight product alone: rows, outputs, inputs; 16 bits."""
    serve: ServeSchema | None = None
    measured_step_s: Positive | None = None
    draft_cost_ratio: Positive | None = None
    engine: Literal["roofline", "replay", "spatial"] = "roofline"


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A setup with a row's own changes; ``set``, ``ffn_set``, ``words`` and ``serve`` merge key by key, an empty value
    takes a key away.
    """
    result = {**base, **changes}
    for key in ("set", "ffn_set", "words", "serve"):
        if isinstance(changes.get(key), Mapping) and isinstance(base.get(key, {}), Mapping):
            both = {**base.get(key, {}), **changes[key]}
            result[key] = {name: value for name, value in both.items() if value is not None}
    return result


def ideal_profile(profile: HardwareProfile) -> HardwareProfile:
    """Vendor peaks of arithmetic and of the memory that holds weights and cache, nothing else."""
    home = profile.main_memory.name

    def level(one: MemoryLevel) -> MemoryLevel:
        resident = one.name == home or "weights" in one.holds
        return replace(one, achievable_fraction=1.0, reserve_fraction=0.0,
                       bandwidth_bytes_per_s=one.bandwidth_bytes_per_s if resident else None)

    def link(one: Link | None) -> Link | None:
        return None if one is None else replace(
            one, latency_s=0.0, collective_launch_s=0.0, achievable_fraction=1.0, dispatch_launch_s=0.0,
            bandwidth_bytes_per_s=ENDLESS_BYTES_PER_S, dispatch_bandwidth_bytes_per_s=None)

    return replace(
        profile, memory=tuple(level(one) for one in profile.memory), overheads=Overheads(), kernel=None, assumed=(),
        scale_up=link(profile.scale_up), scale_out=link(profile.scale_out),
        compute=replace(profile.compute, matrix_achievable_fraction=1.0, special_ops_per_s=None,
                        vector_peak_flop_per_s=None, matrix_tile_rows=1))


def with_cache_share(profile: HardwareProfile, share: float) -> HardwareProfile:
    """The main memory cut in two: ``share`` of it for the cache alone, the rest for everything else."""
    home = profile.main_memory
    cache = replace(home, name="cache_share", capacity_bytes=home.capacity_bytes * share, holds=("kv",))
    rest = replace(home, capacity_bytes=home.capacity_bytes * (1 - share),
                   holds=tuple(tensor for tensor in home.holds if tensor != "kv"))
    parts = {home.name: (cache, rest)}
    return replace(profile, memory=tuple(part for level in profile.memory for part in parts.get(level.name, (level,))))


def machine(setup: SetupSchema) -> HardwareProfile:
    """The profile that a setup means."""
    profile = load_hardware(setup.hardware or "", overrides=setup.set)
    if setup.ideal:
        profile = ideal_profile(profile)
    return profile if setup.cache_share is None else with_cache_share(profile, setup.cache_share)


def architecture(setup: SetupSchema) -> ModelArchitecture:
    """The model that a setup means."""
    model = load_model(setup.model or "")
    if setup.model_heads is not None:
        query, kv, dim = setup.model_heads
        model = replace(model, n_q_heads=query, n_kv_heads=kv, head_dim=dim)
    if setup.model_widths is not None and model.mlp is not None:
        hidden, mlp = setup.model_widths
        model = replace(model, hidden_size=hidden, mlp=replace(model.mlp, size=mlp))
    if setup.window is not None:
        model = replace(model, layer_groups=tuple(replace(group, window=setup.window) for group in model.layer_groups))
    return model


def scenario_of(setup: SetupSchema) -> Scenario:
    """How the model is served."""
    words = dict[str, Any](setup.words)
    if setup.ffn_set:
        name, chips = split_count(str(words.get("ffn")))
        words["ffn"] = load_hardware(name, overrides=setup.ffn_set), chips
    scenario = parse_scenario(**words)
    if setup.kv_bits is None:
        return scenario
    packed = ElementFormat(name=f"{setup.kv_bits:g}-bit", bits=setup.kv_bits)
    return replace(scenario, kv_dtype=packed.name, key_format=packed, value_format=packed)


def evaluated(setup: SetupSchema, *, batch: float | None = None) -> Evaluated:
    """The engine's answer; with several values of ``kv_len`` when a whole generation is asked for."""
    lengths = np.array([float(setup.kv_len)])
    if setup.prompt is not None and setup.new_tokens is not None:
        lengths = setup.prompt + 1.0 + np.arange(float(setup.new_tokens))
    chips = setup.chips if setup.chips == "fit" else int(setup.chips)
    scenario = scenario_of(setup)
    result = (evaluate_group if scenario.pools is None else evaluate_pools)(
        machine(setup), architecture(setup), setup.attention, rivals=[setup.attention],
        batch=np.full(lengths.shape, float(batch or setup.batch)), kv_len=lengths, q_len=np.ones(lengths.shape),
        scenario=scenario, chips=chips, tp=setup.tp, pp=setup.pp, engine=setup.engine, baseline=False)
    return _by_convention(setup, result)


def _by_convention(setup: SetupSchema, result: Evaluated) -> Evaluated:
    """The same step as the paper counts it, timed again."""
    if not setup.conventions:
        return result
    step = result.step
    if "projections-not-shrunk" in setup.conventions:
        mha = build_step(replace(step.workload, layout=parse_layout("mha", result.model),
                                 n_kv_heads=result.model.n_q_heads))
        step = _operators_from(step, mha, "qkv_projection")
    if "embedding-read-whole" in setup.conventions:
        table = result.model.vocab_size * result.model.hidden_size * step.workload.weight_format.bytes_per_element
        step = replace(step, end_operators=tuple(
            replace(op, weight_bytes=table / step.workload.heads.ways) if op.name == "embedding" else op
            for op in step.end_operators))
    timing = roofline.evaluate(step, result.placement, result.hardware)
    return replace(result, step=step, timing=timing)


def _operators_from(step: DecodeStep, other: DecodeStep, name: str) -> DecodeStep:
    def chosen(own: Operator, theirs: Operator) -> Operator:
        return theirs if own.name == name else own

    return replace(step, layer_operators=tuple(
        chosen(own, theirs) for own, theirs in zip(step.layer_operators, other.layer_operators, strict=True)))


def _generation_time_s(setup: SetupSchema) -> float:
    """All decode steps of a generation, one after another; reading the prompt is not in it."""
    return float(np.sum(evaluated(setup).columns["step_time_s"]))


def _kernel(setup: SetupSchema) -> dict[str, Any]:
    query, kv, dim = setup.heads or [1, 1, 1]
    return attention_kernel(machine(setup), n_q_heads=query, n_kv_heads=kv, head_dim=dim, batch=setup.batch,
                            kv_len=setup.kv_len, engine=setup.engine)


def _bandwidth_share(setup: SetupSchema) -> float:
    """What an attention kernel reads a second of the cache, over the peak of the memory that holds it."""
    peak = machine(setup).main_memory.chip_bandwidth_bytes_per_s or float("nan")
    return float(_kernel(setup)["achieved_bytes_per_s"] / peak)


def _product_time_s(setup: SetupSchema) -> float:
    m, n, k = setup.product or [1, 1, 1]
    task = ProductTask(m=m, n=n, k=k, batches=1, weight_bytes=2.0, input_bytes=2.0)
    operator = Operator(name="product", count=1, matrix_flops=2.0 * m * n * k, weight_bytes=2.0 * n * k, query_rows=m,
                        activation_bytes=2.0 * m * (n + k), product=task)
    return float(engine_named(setup.engine).alone_s(operator, machine(setup), None))


def _layer_time_s(setup: SetupSchema, causes: Collection[str] | None = None) -> float:
    """Seconds of one layer on average, exchanges between chips included; of some causes of its operators alone."""
    found = evaluated(setup)
    ends = {operator.name for operator in found.step.end_operators} - {"norm"} | {"host", "gather_logits"}
    times = {name: sum(time_s for cause, time_s in by_cause.items() if causes is None or cause in causes)
             for name, by_cause in found.timing.operator_cause_s.items() if name not in ends}
    return float(np.ravel(np.asarray(sum(times.values())))[0]) / found.model.n_layers


def _attention_layer_time_s(setup: SetupSchema) -> float:
    """Seconds of the attention block of a layer on average: its products and its kernel, without exchanges."""
    lengths = np.array([float(setup.kv_len)])
    points = Points(hardware=machine(setup), model=architecture(setup), scenario=scenario_of(setup), batch=lengths * 0
                    + setup.batch, kv_len=lengths, q_len=np.ones(1), engine=engine_named(setup.engine), tp=setup.tp,
                    pp=setup.pp, parts=("attention", "projections"))
    layout = parse_layout(setup.attention, points.model)
    chips = setup.chips if setup.chips == "fit" else int(setup.chips)
    found = on_machine(points, layout, points.chips_for([layout], chips), baseline=False)
    spent = [time_s for name, causes in found.timing.operator_cause_s.items() if name != "host"
             for cause, time_s in causes.items() if cause != LINK]
    return float(np.ravel(np.asarray(sum(spent)))[0]) / points.model.n_layers


def _replica(setup: SetupSchema) -> Replica:
    chips = setup.chips if setup.chips == "fit" else int(setup.chips)
    (found,) = build_replicas(machine(setup), architecture(setup), [setup.attention], chips=chips, tp=setup.tp,
                              pp=setup.pp, engine=setup.engine, scenario=paged(scenario_of(setup), PAGE_TOKENS))
    return found


def _prompt_time_s(setup: SetupSchema) -> float:
    """Seconds of one prompt alone, in one piece, up to its first token."""
    replica, tokens = _replica(setup), np.array([float(setup.prompt or 1)])
    rows_s, sampled_s = replica.rows_s(tokens)[0], replica.rows_s(np.ones(1))[1]
    return float((rows_s + sampled_s + replica.prefill_attention_s(tokens, tokens)[0])[0]) + replica.fixed_step_s


def _goodput_per_chip(setup: SetupSchema) -> float:
    """The most requests a second within the objective, over the chips of all pools."""
    asked = setup.serve
    if asked is None:
        raise UserError("goodput is of a load: the setup has no 'serve'")
    prefill = None if asked.prefill_chips is None else PrefillPool(
        hardware=machine(setup), chips=asked.prefill_chips, replicas=asked.prefill_replicas, link=asked.kv_link)
    policy = policy_of(runtime=asked.runtime, slo_ttft_s=asked.slo_ttft_s, slo_tpot_s=asked.slo_tpot_s)
    load = load_of(requests_per_s=1.0, lengths=f"{setup.prompt:g}/{setup.new_tokens:g}", requests=SERVED)
    (answer,) = ask([machine(setup)], architecture(setup), [setup.attention], ["bf16"], load=load, policy=policy,
                    page_tokens=PAGE_TOKENS, scenario=dict(setup.words), chips=[setup.chips], tp=setup.tp, pp=setup.pp,
                    max_rate=True, requests=SERVED, prefill=prefill)
    chips = answer.record["chips"] + answer.record.get("prefill_chips", 0.0)
    return (answer.offered_requests_per_s or 0.0) / float(chips)


def _capacity(setup: SetupSchema, name: str) -> float:
    chips = setup.chips if setup.chips == "fit" else int(setup.chips)
    columns = capacity(machine(setup), architecture(setup), [setup.attention], scenario=scenario_of(setup),
                       batch=setup.batch, kv_len=setup.kv_len, chips=chips, tp=setup.tp, pp=setup.pp)
    return float(columns[name][0, 0])


def _full_batch_tokens_per_s(setup: SetupSchema) -> float:
    """Tokens per second with as many sequences as fit."""
    most = _capacity(setup, "max_batch")
    return float(evaluated(setup, batch=most).columns["tokens_per_s"][0])


def _tokens_per_s_per_chip(found: Evaluated) -> float:
    """Tokens per second over the chips of all pools."""
    return float(found.columns["tokens_per_s"][0]) / sum(float(np.max(side.machine.chips)) for side in found.sides)


def _bytes_per_token(setup: SetupSchema) -> float:
    model = architecture(setup)
    own = float(kv_bytes_per_token(model, parse_layout(setup.attention, model)))
    return own if setup.kv_bits is None else own * setup.kv_bits / 16


def _speculative_speedup(setup: SetupSchema) -> float:
    """Tokens per second with a draft over those of plain decoding on the same chips."""
    plain = setup.model_copy(update={"words": {k: v for k, v in setup.words.items() if k != "speculation"}})
    return (float(evaluated(setup).columns["tokens_per_s"][0]) / float(evaluated(plain).columns["tokens_per_s"][0]))


def _speculative_formula(setup: SetupSchema) -> float:
    r"""Leviathan et al. 2022, theorem 3.8, with the paper's own draft cost ``c``: :math:`E / (\gamma c + 1)`."""
    speculation = scenario_of(setup).speculation
    if speculation is None:
        return 1.0
    return speculation.tokens_per_step / (speculation.draft_tokens * (setup.draft_cost_ratio or 0.0) + 1.0)


def _flops_utilisation(setup: SetupSchema) -> float:
    """Flops of the step's products with weights over what the chips could do in the step time that the paper measured.

    Model flops utilisation leaves attention out (Chowdhery et al. 2022, appendix B).
    """
    result = evaluated(setup)
    products = tuple(op for op in result.step.layer_operators if op.attention is None)
    flops = step_totals(replace(result.step, layer_operators=products)).matrix_flops
    compute = result.hardware.compute
    could = float(result.columns["chips"][0]) * compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")]
    return float(np.max(flops)) / (could * (setup.measured_step_s or float("nan")))


MEASURES: Final[Mapping[str, Callable[[SetupSchema], float]]] = {
    "kernel_time_s": lambda setup: float(_kernel(setup)["time_s"]),
    "kernel_bandwidth_share": _bandwidth_share,
    "product_time_s": _product_time_s,
    "layer_time_s": _layer_time_s,
    "layer_message_time_s": lambda setup: _layer_time_s(setup, (LINK,)),
    "attention_layer_time_s": _attention_layer_time_s,
    "prompt_time_s": _prompt_time_s,
    "goodput_requests_per_s_per_chip": _goodput_per_chip,
    "generation_time_s": _generation_time_s,
    "generation_tokens_per_s": lambda setup: setup.batch * (setup.new_tokens or 0) / _generation_time_s(setup),
    "max_kv_len": lambda setup: _capacity(setup, "max_kv_len"),
    "max_batch": lambda setup: _capacity(setup, "max_batch"),
    "allocated_share_used": lambda setup: 1.0 - _capacity(setup, "allocation_waste_fraction"),
    "full_batch_tokens_per_s": _full_batch_tokens_per_s,
    "kv_bytes_per_token": _bytes_per_token,
    "memory_bytes": lambda setup: float(sum(evaluated(setup).columns[name][0]
                                            for name in ("weight_read_bytes", "kv_cache_bytes"))),
    "tokens_per_s_per_chip": lambda setup: _tokens_per_s_per_chip(evaluated(setup)),
    "speculative_speedup": _speculative_speedup,
    "speculative_formula": _speculative_formula,
    "flops_utilisation": _flops_utilisation,
}
COLUMNS: Final = ("step_time_s", "tokens_per_s", "tokens_per_s_per_user", "kv_cache_bytes", "attention_time_s",
                  "weight_read_bytes", "chips")


def measure(setup: SetupSchema, name: str) -> float:
    """One figure of a setup by name: one of :data:`MEASURES` or a column of the engines' records."""
    if name in MEASURES:
        return MEASURES[name](setup)
    return float(evaluated(setup).columns[name][0])
