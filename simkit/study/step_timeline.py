"""One decode step as a Chrome trace: operators in a row, and inside attention its work items, unit by unit.

The format is the JSON array form of Google's "Trace Event Format": complete events (``ph: X``) with ``ts`` and ``dur``
in microseconds, counters (``ph: C``) and names of processes and threads (``ph: M``). Perfetto and chrome://tracing
open it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.replay.attention import AttentionReplay, Start, replay_attention
from simkit.replay.engine import evaluate, task_of
from simkit.step.operators import Operator
from simkit.study.asked import chips_of, listed, models_of, only
from simkit.study.engines import engine_named, runs_on_tiles
from simkit.study.evaluate import FIT, Evaluated, evaluate_group
from simkit.study.scenario import parse_scenario
from simkit.timing.single_points import scalar_operator, scalar_placement
from simkit.timing.step_timing import StepTiming, words_of

MOST_TRACKS: Final = 128
MOST_ITEMS: Final = 40_000
MOST_EVENTS: Final = 2_000_000  # loads replayed for a trace: more than a study affords, still below a second
BINS: Final = 200
STEP_PROCESS, KERNEL_PROCESS = 1, 2
LAYER_TRACK: Final = 1
MICROSECONDS: Final = 1e6
NANOSECONDS: Final = 1e9

Event = dict[str, Any]


def step_timeline(hardware: Any, model: Any, *, attention: Any = "gqa-8", batch: float = 32, kv_len: float = 4096,
          chips: Any = FIT, tp: int | None = None, pp: int | None = None, **scenario: Any) -> dict[str, Any]:
    """One decode step as a timeline, to be written as JSON: see :func:`trace_step`.

    Parameters: hardware, model: a name, a path or what was loaded of it; the others as of :func:`simkit.decode_step`.
    """
    layout = only(listed(attention), "attention")
    return trace_step(evaluate_group(
        only(chips_of(hardware), "hardware"), only(models_of(model), "model"), layout, rivals=[layout],
        batch=np.array([batch]), kv_len=np.array([kv_len]), q_len=np.array([1.0]), chips=chips, tp=tp, pp=pp,
        baseline=False, scenario=parse_scenario(**scenario)))


def trace_step(evaluated: Evaluated, *, start: Start = "cold") -> dict[str, Any]:
    """The trace of a single point: ``{"traceEvents": [...], "displayTimeUnit": "ns", "otherData": {...}}``.

    One layer of each kind is shown, then what runs once a step. Raises :class:`UserError` when the point does not fit.
    """
    if not bool(np.ravel(evaluated.columns["fits"])[0]):
        raise UserError("nothing to show: weights and cache do not fit on these chips")
    step, placement, hardware = evaluated.step, evaluated.placement, evaluated.hardware
    on_tiles = runs_on_tiles(hardware)
    timing = engine_named("replay").evaluate(step, placement, hardware) if on_tiles else evaluate(
        step, placement, hardware, start=start)
    title = f"decode step on {hardware.name}: one layer of each kind, then the ends"
    events = [_named("process_name", STEP_PROCESS, title),
              _named("thread_name", STEP_PROCESS, "operators", LAYER_TRACK)]
    runs = {operator.name: sum(other.count for other in step.operators if other.name == operator.name)
            for operator in step.operators}
    now, replay = 0.0, None
    notes: dict[str, Any] = {}
    for operator in step.operators:
        took_s = float(np.ravel(timing.operator_time_s[operator.name])[0]) / runs[operator.name]
        events.append({
            "name": operator.name, "cat": "operator", "ph": "X", "pid": STEP_PROCESS, "tid": LAYER_TRACK,
            **_span(now, now + took_s), "args": _operator_arguments(operator, runs)})
        if operator.attention is not None and on_tiles and not notes:
            events += _tile_events(timing, now, took_s)
            notes = {"tracks_left_out": 0, "tile_mapping": words_of(timing.tile_mapping, 0)}
        elif operator.attention is not None and not on_tiles and replay is None:
            one = scalar_operator(operator, 0, np.shape(timing.step_time_s))
            replay = replay_attention(
                one, task_of(one), scalar_placement(placement, 0, np.shape(timing.step_time_s)), hardware, start=start,
                most_events=MOST_EVENTS, most_recorded_items=MOST_ITEMS, bins=BINS)
            events += _kernel_events(replay, now + replay.stall_s["launch"], hardware.compute.unit_name)
            notes = _notes(replay, hardware.compute.unit_name)
        now += took_s
    for name, time in timing.operator_time_s.items():
        took_s = float(np.ravel(np.asarray(time))[0])
        if name not in runs and took_s > 0:
            events.append({"name": f"{name} (all of the step)", "cat": "between operators", "ph": "X",
                           "pid": STEP_PROCESS, "tid": LAYER_TRACK, **_span(now, now + took_s), "args": {}})
            now += took_s
    # Names first, then by time: the order in which every reader accepts them.
    events.sort(key=lambda event: (event["ph"] != "M", event.get("ts", 0.0)))
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {
        "hardware": hardware.name, "model": evaluated.model.name,
        "attention": str(np.ravel(evaluated.columns["attention"])[0]),
        "step_time_s": float(np.ravel(timing.step_time_s)[0]), **notes}}


def _span(begin_s: float, end_s: float) -> dict[str, float]:
    """When an event starts and how long it lasts, in microseconds, on whole nanoseconds.

    Perfetto truncates to them and drops an event that overlaps the one before on its track: a start that says a tenth
    of a nanosecond more is not truncated to the one before, and a duration that is truncated ends early at worst.
    """
    begin, end = round(begin_s * NANOSECONDS), round(end_s * NANOSECONDS)
    return {"ts": (begin + 0.1) / 1e3, "dur": (end - begin) / 1e3}


def _operator_arguments(operator: Operator, runs: dict[str, int]) -> dict[str, Any]:
    fields = ("matrix_flops", "vector_flops", "unpack_flops", "exponentials", "weight_bytes", "kv_read_bytes",
              "kv_write_bytes", "activation_bytes")
    found = {name: float(np.ravel(getattr(operator, name))[0]) for name in fields}
    return {"times_a_step": runs[operator.name]} | {name: value for name, value in found.items() if value}


def _tile_events(timing: StepTiming, begin_s: float, took_s: float) -> list[Event]:
    """The tiles of one attention, which all do the same at the same time: messages by phase, local work between."""
    phases = {name: float(np.ravel(np.asarray(time_s))[0]) for name, time_s in timing.message_s().items()}
    queries, *sums = phases.items()
    local = "products, softmax and reads of each tile", max(took_s - sum(phases.values()), 0.0)
    events = [_named("process_name", KERNEL_PROCESS, "attention on tiles, all alike"),
              _named("thread_name", KERNEL_PROCESS, "every tile that holds cache", 1)]
    now = begin_s
    for name, time_s in (queries, local, *sums):
        if time_s > 0:
            events.append({"name": name, "cat": "phase", "ph": "X", "pid": KERNEL_PROCESS, "tid": 1,
                           **_span(now, now + time_s), "args": {}})
            now += time_s
    return events


def _kernel_events(replay: AttentionReplay, begin_s: float, unit_name: str) -> list[Event]:
    """Work items on their units, and the bytes per second of each memory level."""
    part = "" if replay.replayed_fraction == 1.0 else f", its first {replay.replayed_fraction:.1%} replayed"
    slots = _shown_slots(replay)
    shown = f"{len({slot % replay.units for slot in slots})} of {replay.units} {unit_name} tracks"
    events = [_named("process_name", KERNEL_PROCESS, f"attention kernel: {shown}{part}")]
    for order, slot in enumerate(sorted(slots, key=lambda slot: (slot % replay.units, slot // replay.units))):
        name = f"{unit_name} {slot % replay.units}, slot {slot // replay.units}"
        events += [_named("thread_name", KERNEL_PROCESS, name, slot + 1),
                   {"name": "thread_sort_index", "ph": "M", "pid": KERNEL_PROCESS, "tid": slot + 1,
                    "args": {"sort_index": order}}]
    for (slot, item, start, end), tokens in zip(replay.events, replay.event_tokens, strict=True):
        if int(slot) in slots:
            events.append({
                "name": f"item {int(item)}", "cat": "work item", "ph": "X", "pid": KERNEL_PROCESS, "tid": int(slot) + 1,
                **_span(begin_s + start, begin_s + end),
                "args": {"item": int(item), "tokens": int(tokens)}})
    bin_s = replay.replayed_s / BINS
    for level, moved in zip(replay.path, replay.binned_bytes, strict=True):
        rates = [*(moved / bin_s / 1e9).tolist(), 0.0]
        events += [{"name": f"{level} [GB/s]", "ph": "C", "pid": KERNEL_PROCESS, "tid": 0,
                    "ts": (begin_s + place * bin_s) * MICROSECONDS, "args": {"GB/s": rate}}
                   for place, rate in enumerate(rates)]
    return events


def _shown_slots(replay: AttentionReplay) -> set[int]:
    """Slots whose items are shown: whole units, the first ones, up to the limit of tracks."""
    used = {int(slot) for slot in replay.events[:, 0]}
    slots_per_unit = max((slot // replay.units for slot in used), default=0) + 1
    return {slot for slot in used if slot % replay.units < max(1, MOST_TRACKS // slots_per_unit)}


def _notes(replay: AttentionReplay, unit_name: str) -> dict[str, Any]:
    """What a reader must know of what is left out."""
    slots = {int(slot) for slot in replay.events[:, 0]}
    hidden = len(slots) - len(_shown_slots(replay))
    return {
        "work_items": replay.items, "work_items_recorded": len(replay.events), "tracks_left_out": hidden,
        "replayed_fraction": replay.replayed_fraction, "unit": unit_name,
        "stall_s": {name: time for name, time in replay.stall_s.items() if time}}


def _named(what: str, pid: int, name: str, tid: int = 0) -> Event:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
