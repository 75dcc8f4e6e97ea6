"""One attention operator on one chip, as the replay takes it: what the tests of the engine share."""

from dataclasses import replace
from typing import Any

import numpy as np

from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.replay.attention import AttentionReplay, replay_attention
from simkit.replay.dram.simulate import DramConfig
from simkit.replay.dram.standards import standard_named
from simkit.replay.engine import task_of
from simkit.replay.kernel_plan import KernelPlan
from simkit.replay.steady_state import KernelLoop
from simkit.replay.target import Server, target_of
from simkit.step.build import build_step
from simkit.step.machine import Machine
from simkit.step.operators import Operator
from simkit.step.placement import Placement
from simkit.study.scenario import parse_scenario
from simkit.timing.kernel_cost import UnitKernel
from simkit.timing.roofs import compute_time_s, memory_times, special_function_time_s
from simkit.timing.single_points import scalar_operator

MODEL = "llama-2-70b"


def dram_config(dram_type: str, **settings: Any) -> DramConfig:
    """A channel of a standard by name."""
    return DramConfig(standard=standard_named(dram_type), **settings)


def attention_operator(layout: str, batch: float, kv_len: float, *, model: str | ModelArchitecture = MODEL,
                       static: bool = False, **scenario: Any) -> Operator:
    """Attention of one layer on one chip, every field a number."""
    shape = load_model(model) if isinstance(model, str) else model
    chip = load_hardware("groq-lpu" if static else "h100-sxm")  # read for how it shards, which one chip does not
    scenario_of = parse_scenario(**scenario)
    workload = scenario_of.workload(
        chip, shape, parse_layout(layout, shape), batch=np.array([float(batch)]), kv_len=np.array([float(kv_len)]),
        q_len=np.array([1.0]), machine=Machine(chips=1.0, tp=1.0, pp=1.0, mapping=scenario_of.sharding or "heads"))
    return scalar_operator(build_step(workload).attention_operators[0], 0, (1,))


def in_home(home: str) -> Placement:
    return Placement(weights={home: 1.0}, kv={home: 1.0}, fits=True, max_batch=0)


def replay(hardware: HardwareProfile | str, layout: str = "gqa-8", batch: float = 8, kv_len: float = 2048, *,
           home: str | None = None, placement: Placement | None = None, options: dict[str, Any] | None = None,
           **workload: Any) -> AttentionReplay:
    """Replay one layer's attention with its cache in ``home`` (the chip's main memory)."""
    chip = load_hardware(hardware) if isinstance(hardware, str) else hardware
    operator = attention_operator(layout, batch, kv_len, **workload)
    where = placement or in_home(home or chip.main_memory.name)
    return replay_attention(operator, task_of(operator), where, chip, **(options or {}))


def roof_s(hardware: HardwareProfile, layout: str, batch: float, kv_len: float, *, home: str | None = None,
           **workload: Any) -> float:
    """Launch plus the highest of the roofs that the operator's flops, exponentials and bytes stand under."""
    operator = attention_operator(layout, batch, kv_len, **workload)
    where = in_home(home or hardware.main_memory.name)
    level_s, _ = memory_times(operator, where, hardware)
    roofs = [compute_time_s(operator, hardware, where), special_function_time_s(operator, hardware), *level_s.values()]
    return operator.launches * hardware.overheads.kernel_launch_s + float(max(np.max(roof) for roof in roofs))


def with_level(hardware: HardwareProfile, name: str, **parameters: Any) -> HardwareProfile:
    """A profile with other parameters for one memory level."""
    return replace(hardware, varied=any(np.ndim(value) for value in parameters.values()), memory=tuple(
        replace(level, **parameters) if level.name == name else level for level in hardware.memory))


def with_bytes_in_flight(hardware: HardwareProfile, factor: float) -> HardwareProfile:
    """A profile whose units keep ``factor`` times as many bytes in flight."""
    in_flight = hardware.compute.outstanding_bytes_per_unit
    kernel = hardware.kernel
    return replace(
        hardware,
        compute=replace(hardware.compute, outstanding_bytes_per_unit=None if in_flight is None else in_flight * factor),
        kernel=None if kernel is None else replace(
            kernel, load_bytes_per_cycle_per_unit=kernel.load_bytes_per_cycle_per_unit * factor))


def kernel_loop(items: Any = (1000,), *, stream: Any = None, granule_tokens: int = 10, in_flight: int = 4,
                bytes_per_token: float = 1.0, unit: UnitKernel | None = None, units: int = 1, slots: int = 1, home: float = 1e9,
                latency_s: float = 0.0, cache: float | None = None, cache_latency_s: float = 0.0, cache_bytes: float = 1e6,
                per_unit: bool = False, setup_s: float = 0.0, compute_s: float = 0.0, hit_share: float = 0.0,
                fraction: float = 1.0, extra: float = 0.0, exposed: float = 0.0) -> KernelLoop:
    """Items on a machine of one memory, with a shared cache before it where ``cache`` is its rate."""
    chip = load_hardware("h100-sxm")
    base = target_of(chip, "hbm")
    path = [Server(name="hbm", bytes_per_s=home, latency_s=latency_s, per_unit=per_unit)]
    if cache is not None:
        path.insert(0, Server(name="l2", bytes_per_s=cache, latency_s=cache_latency_s, per_unit=False))
    level = None
    if cache is not None and base.cache is not None:
        level = replace(base.cache, capacity_bytes=cache_bytes / (1 - base.cache.reserve_fraction))
    target = replace(base, units=units, slots_per_unit=slots, path=tuple(path), item_setup_s=setup_s, cache=level)
    tokens = np.array(items, dtype=np.int64)
    stream = np.arange(len(tokens)) if stream is None else np.array(stream)
    first = np.unique(stream, return_index=True)[1]
    plan = KernelPlan(
        item_tokens=tokens, item_stream=stream, streams=len(first), distinct_tokens=int(tokens[first].sum()),
        granule_tokens=granule_tokens, granules_in_flight=in_flight, bytes_per_token=bytes_per_token, splits=1.0,
        combine_bytes=0.0, cut=np.ones(1, dtype=np.int64), unit=unit)
    return KernelLoop(target=target, plan=plan, home_rate_fraction=fraction, hit_share=hit_share, compute_s=compute_s,
                      extra_bytes=np.full(len(path), extra), exposed_setup_share=exposed)
