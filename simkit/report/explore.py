"""What the page answers by itself: a dense grid of the engine's results, packed for the page's script to read.

Batches and bandwidth factors move in steps that were computed. Between contexts the script interpolates, logarithm
against logarithm; where a node is off the line through its neighbours by more than :data:`ROUGH` (another mapping,
another memory, another wave of work) it shows the nearest computed context instead. No model of time is written twice.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.report.drawing import study_points as ask
from simkit.report.drawing.style import BASES, ChipStyle, cause_colour, layout_name
from simkit.study.engines import engine_named
from simkit.study.evaluate import FIT, FIT_EACH, Evaluated, evaluate_group
from simkit.study.study_file import Study
from simkit.study.vary import faster_memory

FACTORS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
ROUGH: Final = 0.01
"""Part of a time by which a node may be off its neighbours' line before the page stops interpolating there."""
STATED_ERROR: Final = 0.02
"""What the page says of its interpolation; tests hold it to that at contexts between the nodes."""
_PER_OCTAVE: Final = 4
_RANGES_EVERY: Final = 4  # nodes: a range is known more coarsely than its estimate
_MOST_CHIPS, _MOST_LAYOUTS, _MOST_BATCHES, _MOST_CONTEXTS = 12, 4, 12, 48
LEAST, MOST = 1e-8, 1e8
"""The span of numbers that are packed, in 65,534 steps of their logarithm: 0.06 % each."""
CLOSED_BYTES: Final = 1e6
"""What own batches find of an overflow tier: next to nothing."""
_ROOF_DTYPE: Final = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    batch: Any
    kv_len: Any

    def points(self, every: int = 1) -> tuple[Any, Any, Any]:
        """Batch, context and factor of each point, and context's every so manieth node."""
        found = np.meshgrid(self.batch, self.kv_len[::every], FACTORS, indexing="ij")
        return found[0].ravel(), found[1].ravel(), found[2].ravel()


def explorer(study: Study, styles: Mapping[str, ChipStyle], command: str) -> str | None:
    """The grid of the study's first model as JSON, safe inside a script element; None where there is nothing to ask.

    A study without MHA compares nothing, an engine that takes no arrays would take minutes, and two pools of chips are
    not one whose memory is made faster.
    """
    if "mha" not in study.layouts or not engine_named(study.engine).closed_form or not study.figures or study.pools:
        return None
    axes = _Axes(batch=_batches(study), kv_len=_contexts(study))
    layouts = ["mha", *(name for name in study.layouts if name != "mha")][:_MOST_LAYOUTS]
    done, _ = ask.for_each_chip(study.hardware[:_MOST_CHIPS], lambda chip: _chip(study, chip, layouts, axes))
    if not done:
        return None
    names = list(done)
    content = {
        "model": study.models[0].name, "title": study.models[0].title, "batches": axes.batch.tolist(),
        "contexts": axes.kv_len.tolist(), "factors": FACTORS, "rangesEvery": _RANGES_EVERY, "rough": ROUGH,
        "least": LEAST, "most": MOST, "focus": {"batch": study.focus_batch, "context": study.focus_kv_len},
        "parts": [{"name": ask.PART_NAMES[part], "colour": cause_colour("kept" if part == "cache" else part)}
                  for part in ask.PARTS],
        "layouts": [{"name": name, "label": layout_name(name), "intensity": done[names[0]]["intensity"][name]}
                    for name in layouts],
        "chips": [{**done[name]["facts"], "label": styles[name].label, "colour": styles[name].colour[1:],
                   "basis": BASES[styles[name].basis][0], "dashed": styles[name].line == "--"} for name in names],
        "options": _options(study, command),
        "times": _packed([done[name]["times"] for name in names]),
        "own": _packed([done[name]["own"] for name in names]),
        "ranges": _packed([done[name]["ranges"] for name in names if done[name]["ranges"] is not None]),
        "shares": _base64(np.rint(255 * np.array([done[name]["shares"] for name in names])).astype("u1"))}
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _batches(study: Study) -> Any:
    every = np.unique([*study.batch, study.focus_batch]).astype(float)
    return every if len(every) <= _MOST_BATCHES else every[np.unique(np.r_[
        np.linspace(0, len(every) - 1, _MOST_BATCHES - 1).astype(int), np.searchsorted(every, study.focus_batch)])]


def _contexts(study: Study) -> Any:
    first, last = min(*study.kv_len, study.focus_kv_len), max(*study.kv_len, study.focus_kv_len)
    steps = min(int(np.ceil(_PER_OCTAVE * np.log2(last / first))), _MOST_CONTEXTS)
    return np.unique(np.rint(np.geomspace(first, last, steps + 1)))


def _chip(study: Study, chip: HardwareProfile, layouts: list[str], axes: _Axes) -> dict[str, Any]:
    """One chip, as many of them as the study's point takes: facts for the script, and its grids by layout."""
    model, machine = study.models[0], FIT if study.chips == FIT_EACH else study.chips

    # An overflow tier would hold many more sequences, and serve fewer tokens: no batch that anybody runs.
    closed = replace(chip, memory=tuple(replace(level, capacity_bytes=CLOSED_BYTES) if level.overflow else level
                                        for level in chip.memory))

    def evaluated(layout: str, profile: HardwareProfile, batch: Any, kv_len: Any, chips: Any, *,
                  baseline: bool = False) -> Evaluated:
        return evaluate_group(profile, model, layout, rivals=list(study.layouts), kv_dtype=study.kv_dtype,
                              weight_dtype=study.weight_dtype, batch=batch, kv_len=kv_len, q_len=np.ones(batch.size),
                              chips=chips, engine=study.engine, baseline=baseline)

    focus = np.array([study.focus_batch]), np.array([study.focus_kv_len])
    now = {name: evaluated(name, chip, *focus, machine) for name in layouts}
    chips = int(ask.scalar(now["mha"], "chips"))
    home = ask.cache_home(now["mha"])
    times, own, ranges, shares = [], [], [], []
    shape = len(axes.batch), len(axes.kv_len), len(FACTORS)
    coarse = len(axes.batch), len(axes.kv_len[::_RANGES_EVERY]), len(FACTORS)
    batch, kv_len, factor = axes.points()
    some_batch, some_kv_len, some_factor = axes.points(_RANGES_EVERY)
    few, few_factor = kv_len.reshape(shape)[0].ravel(), factor.reshape(shape)[0].ravel()
    # One profile for all layouts: what is known of it is asked for once.
    faster, roomier, fewer = (faster_memory(one, by) for one, by in (
        (chip, factor), (closed, few_factor), (chip, some_factor)))
    for layout in layouts:
        found = evaluated(layout, faster, batch, kv_len, chips)
        columns = found.select(("step_time_s", "attention_time_s"))
        times.append([columns[name].reshape(shape) for name in columns])
        parts = ask.split_times_s(found)
        shares.append([_full(parts[part] / found.timing.step_time_s, found).reshape(shape)
                       for part in ask.PARTS[:-1]])
        most = evaluated(layout, roomier, np.ones(few.size), few, chips).select(
            ("own_batch", "own_batch_tokens_per_s", "own_batch_cost_usd_per_mtok"))
        own.append([column.reshape(shape[1:]) for column in most.values()])
        if chip.has_range:
            ends = evaluated(layout, fewer, some_batch, some_kv_len, chips, baseline=True).select(
                ("speedup_vs_mha_low", "speedup_vs_mha_high"))
            ranges.append([column.reshape(coarse) for column in ends.values()])
    rates = {level.name: level.bandwidth_bytes_per_s for level in chip.memory if level.bandwidth_bytes_per_s}
    return {"times": times, "own": own, "ranges": ranges or None, "shares": np.nan_to_num(np.clip(shares, 0.0, 1.0)),
            "intensity": {name: ask.scalar(one, "arithmetic_intensity") for name, one in now.items()},
            "facts": {"name": chip.name, "chips": chips, "home": home, "bandwidths": rates,
                      "closed": [f"memory.{level.name}.capacity={CLOSED_BYTES:.0f}B" for level in chip.memory
                                 if level.overflow],
                      "priced": chip.price.usd_per_hour is not None, "ranged": chip.has_range,
                      "peak": chip.compute.matrix_achievable_flop_per_s(_ROOF_DTYPE),
                      "rate": chip.level(home).achievable_bytes_per_s}}


def _full(value: Any, found: Evaluated) -> Any:
    return np.broadcast_to(np.where(found.fits, value, 0.0), found.shape)


def _packed(grids: Any) -> str:
    """Logarithms in steps of 16 bits, little end first; 0 where there is no value, as of what does not fit."""
    values = np.asarray(grids, dtype=float)
    known = np.isfinite(values) & (values > 0.0)
    place = np.log(np.where(known, values, LEAST) / LEAST) / np.log(MOST / LEAST)
    return _base64(np.where(known, 1 + np.rint(65534 * np.clip(place, 0.0, 1.0)), 0).astype("<u2"))


def _base64(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _options(study: Study, command: str) -> str:
    """What a command needs beside the point to give the study's numbers."""
    said: list[str] = []
    try:
        words = shlex.split(command)
    except ValueError:  # whoever builds a report from Python may call its command what he likes
        words = []
    for flag, value in pairwise(words):
        said += [flag, value] if flag in ("--profiles", "--set") else []
    for flag, value, default in (("--kv-dtype", study.kv_dtype, "bf16"), ("--weight-dtype", study.weight_dtype, "bf16"),
                                 ("--engine", study.engine, "roofline")):
        said += [flag, value] if value != default else []
    return shlex.join(said)
