r"""Turning cache reducers on one after another: bytes multiply, time multiplies only until the ridge is reached.

A step's attention intensity is :math:`I = F / bytes`; the room that is left on a chip is :math:`R_{eff} / I`, where
:math:`R_{eff}` is its achievable flops over the achievable bandwidth of the level that holds the cache. Below 1 the
next reducer saves bytes and no time: the point where "the benefits stack" stops being true (model.md section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.study.asked import chips_of, models_of, only
from simkit.study.engines import DEFAULT
from simkit.study.evaluate import FIT, Evaluated, evaluate_group
from simkit.study.ranges import ratio_at_corners
from simkit.study.record import Columns
from simkit.study.scenario import Scenario, parse_scenario
from simkit.timing.roofs import compute_time_s, special_function_time_s

DEFAULT_STACK: Final = ("mha", "gqa-8", "kv=fp8", "kv=int4", "evict=streaming:4+4092")
_WORDS: Final = {"kv": "kv_dtype", "weights": "weight_dtype", "evict": "eviction", "speculate": "speculation",
                 "kernel": "attention_kernel", "sharding": "attention_sharding"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One rung: its name, the layout and the scenario's words in force from here on."""

    name: str
    attention: str
    words: Mapping[str, str]

    @property
    def scenario(self) -> Scenario:
        """The scenario that the words name. Raises :class:`UserError`."""
        return parse_scenario(**dict[str, Any](self.words))

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of one step: 1 without speculation."""
        speculation = self.scenario.speculation
        return 1.0 if speculation is None else speculation.tokens_per_step


def parse_stack(reducers: list[str]) -> list[Stage]:
    """Read reducers in order: layouts (``mha``, ``gqa-8``, ``mla``) and ``kv=fp8``, ``weights=int4``,
    ``evict=streaming:4+1020``, ``speculate=medusa=4;acceptance=0.6``, ``kernel=...``, ``sharding=...``.

    Within ``speculate`` semicolons stand for commas. Raises :class:`UserError` on an unknown word.
    """
    stages: list[Stage] = []
    attention = "as-trained"
    words: dict[str, str] = {}
    for reducer in reducers:
        key, equals, value = reducer.partition("=")
        if not equals:
            attention = reducer
        elif key in _WORDS:
            words = {**words, _WORDS[key]: value.replace(";", ",")}
        else:
            raise UserError(f"unknown reducer '{reducer[:40]}': expected a layout or one of "
                            + ", ".join(f"{word}=..." for word in _WORDS), hint=did_you_mean(key, _WORDS))
        stages.append(Stage(name=reducer, attention=attention, words=words))
    if not stages:
        raise UserError("the stack is empty: expected reducers such as mha,gqa-8,kv=fp8")
    return stages


def stack(hardware: Any, model: Any, reducers: Sequence[str] = DEFAULT_STACK, *, batch: float = 32,
          kv_len: float = 32768, chips: Any = FIT, tp: int | None = None, pp: int | None = None,
          engine: str = DEFAULT) -> Columns:
    """Columns with one row a rung: what each reducer saves in a token's bytes and time, and the headroom that is left.

    All rungs run on the same chips: a word such as ``fit`` takes the most that any rung asks for.

    Raises :class:`UserError` as ``decode_step`` does.
    """
    stages = parse_stack(list(reducers))
    hardware, model = only(chips_of(hardware), "hardware"), only(models_of(model), "model")

    def run(stage: Stage, count: Any) -> Evaluated:
        return evaluate_group(
            hardware, model, stage.attention, rivals=[stage.attention], batch=np.array([float(batch)]),
            kv_len=np.array([float(kv_len)]), q_len=np.ones(1), scenario=stage.scenario, chips=count,
            tp=tp, pp=pp, engine=engine, baseline=False)

    if isinstance(chips, str) and tp is None and pp is None:
        chips = int(max(float(run(stage, chips).columns["chips"][0]) for stage in stages))
    points = [run(stage, chips) for stage in stages]
    rows = [_scalars(point) for point in points]
    first, columns = rows[0], {name: np.array([row[name] for row in rows]) for name in rows[0]}
    # A rung that verifies a draft makes more tokens in a step: what counts is a token's bytes and time.
    gained = np.array([stage.tokens_per_step for stage in stages])
    for saved, total in (("cache_saved", "kv_read_bytes"), ("attention_speedup", "attention_time_s"),
                         ("step_speedup", "step_time_s")):
        columns[saved] = float(first[total]) / columns[total] * (gained / gained[0])
        if total != "kv_read_bytes":
            for end, pick in (("low", np.fmin), ("high", np.fmax)):
                columns[f"{saved}_{end}"] = columns[saved] * np.array([
                    float(pick(pick.reduce(np.ravel(ratio_at_corners(points[0], point, total))), 1.0))
                    if hardware.has_range else np.nan for point in points])
    return Columns({"rung": np.array([stage.name for stage in stages], dtype=object), **columns})


def _scalars(result: Evaluated) -> dict[str, Any]:
    row = {name: column[0] for name, column in result.columns.items()}
    cores = result.step.attention_operators
    compute_s = float(np.max(sum(op.count * np.maximum(compute_time_s(op, result.hardware, result.placement),
                                                       special_function_time_s(op, result.hardware)) for op in cores)))
    causes = result.timing.attention_cause_time_s
    levels = {level.name for level in result.hardware.memory}
    read_s = sum(float(np.max(time)) for name, time in causes.items() if name in levels)
    # Where memory binds, the time left before arithmetic would bind; where arithmetic binds, none is left.
    row["headroom"] = max(read_s / compute_s, 1.0) if read_s > 0 else 1.0
    row["attention_share"] = float(row["attention_time_s"]) / float(row["step_time_s"])
    return row
