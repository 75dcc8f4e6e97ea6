r"""Where a layout's advantage crosses a threshold as one parameter of the machine or the workload varies.

.. math:: A(x) = T_{against}(x) / T_{layout}(x), \qquad A(x^*) = threshold

The range is scanned first, evenly in :math:`\log x` and in one evaluation where the engine allows; every change of
side is then closed in on by Brent's method (Brent 1973, "Algorithms for Minimization without Derivatives", ch. 4)
over the engine itself, or by bisection for whole numbers. Where the scan comes close to the threshold and turns back,
it is looked at more finely, so that two crossings between neighbouring points are not passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.study.asked import models_of, only
from simkit.study.causes import attention_shares_s, step_shares_s
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, Evaluated, evaluate_group
from simkit.study.record import WHOLE
from simkit.study.scenario import Scenario, parse_scenario
from simkit.study.vary import Variable, variable
from simkit.timing.engine import Engine

Of = Literal["step", "attention", "cost"]
_COLUMN: Final[Mapping[Of, str]] = {
    "step": "step_time_s", "attention": "attention_time_s", "cost": "cost_usd_per_mtok"}
# Points of a scan: one evaluation, one load of a profile each, or one replay each.
_SCAN_POINTS: Final = {"together": 513, "loaded": 65, "replayed": 33}
_CLOSER_POINTS: Final = 33
_CLOSEST_TURNS: Final = 8  # turning points looked at more finely, nearest to the threshold first
# Of a crossing: the part of the layout's time that takes its advantage, its share there and where the advantage is
# greatest, and where that is.
_ENDED: Final = ("ended_by", "ended_by_share", "ended_by_share_before", "most_advantage_at")
_ROOT_TOLERANCE: Final = 1e-10
# A root whose advantage is farther from the threshold than this is a jump across it (a chip more, a tile more).
_JUMP_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A comparison of two layouts with one quantity left open. ``chips``, ``tp``, ``pp`` as for ``decode_step``."""

    load: Callable[[Mapping[str, str]], HardwareProfile]
    profile: HardwareProfile
    model: ModelArchitecture
    attention: str
    against: str
    of: Of
    workload: Mapping[str, float]
    scenario: Scenario
    chips: Any
    tp: int | None
    pp: int | None
    engine: Engine
    varied: Variable

    def answers(self, values: Any) -> dict[str, Any]:
        """The advantage at each value, and what the layout's own record says there. NaN where one does not fit."""
        values = np.asarray(values, dtype=float)
        varied = self.varied
        if varied.of_workload:
            return self._answer(self.profile, {**self.workload, varied.key: values}, len(values))
        if varied.broadcasts and self.engine.broadcasts(self.profile):
            return self._answer(varied.on(self.profile, values), self.workload, len(values))
        each = [self._answer(self._profile_at(value), self.workload, 1) for value in values.tolist()]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}

    def shares(self, value: float) -> dict[str, float]:
        """What the layout's time is made of at a value: the share of each of :data:`simkit.study.causes.SHARES`."""
        workload = {**self.workload, self.varied.key: value} if self.varied.of_workload else self.workload
        profile = self.profile if self.varied.of_workload else self._profile_at(value)
        timing = self._evaluated(profile, self.attention, workload, 1).timing
        seconds = attention_shares_s(timing) if self.of == "attention" else step_shares_s(timing)
        found = {part: float(np.ravel(time)[0]) for part, time in seconds.items()}
        return {part: time / sum(found.values()) for part, time in found.items()}

    def own(self) -> Evaluated:
        """The layout at the profile's and the workload's own values."""
        return self._evaluated(self.profile, self.attention, self.workload, 1)

    def _profile_at(self, value: float) -> HardwareProfile:
        if self.varied.broadcasts:
            return self.varied.on(self.profile, value)
        return self.load({self.varied.key: self.varied.text(value)})

    def _answer(self, profile: HardwareProfile, workload: Mapping[str, Any], count: int) -> dict[str, Any]:
        column = _COLUMN[self.of]
        wanted = (column, "fits", "chips", "bound", "attention_bound")
        mine, other = (self._evaluated(profile, layout, workload, count).select(wanted)
                       for layout in (self.attention, self.against))
        return {"advantage": np.asarray(other[column] / mine[column], dtype=float),
                "fits": mine["fits"] & other["fits"], "chips": mine["chips"], "bound": mine["bound"],
                "attention_bound": mine["attention_bound"]}

    def _evaluated(self, profile: HardwareProfile, layout: str, workload: Mapping[str, Any], count: int) -> Evaluated:
        numbers: dict[str, Any] = {
            name: np.broadcast_to(np.asarray(value, dtype=float), (count,)) for name, value in workload.items()}
        return evaluate_group(profile, self.model, layout, rivals=[self.attention, self.against], **numbers,
                              scenario=self.scenario, chips=self.chips, tp=self.tp, pp=self.pp, engine=self.engine.name,
                              baseline=False)


def crossover(hardware: str | Path, model: Any, *, attention: str, below: float, vary: str,
              against: str = "mha", of: str = "step", start: str | float | None = None,
              stop: str | float | None = None, batch: float = 1, kv_len: float = 4096, q_len: float = 1,
              chips: Any = FIT, tp: int | None = None, pp: int | None = None, engine: str = DEFAULT,
              overrides: Mapping[str, str] | None = None, profiles: Path | str | None = None,
              **scenario: Any) -> list[dict[str, Any]]:
    """Every value in a range at which ``attention``'s advantage over ``against`` crosses ``below``.

    Parameters
    ----------
    hardware: a profile's name or path.
    model: a name, a path or an architecture.
    attention: the layout asked about.
    below: the threshold: a ratio of times, or of costs.
    vary: a profile's dotted key, as after ``--set``, ``memory`` for the bandwidths of all its levels together, or
        ``batch``, ``kv_len``, ``q_len``.
    against: the layout compared with, on the same chips.
    of: ``step``, ``attention`` (time) or ``cost``.
    start, stop: the range, as text with a unit or in SI units.
    batch, kv_len, q_len: the workload.
    chips, tp, pp, engine: as for :func:`simkit.study.point.decode_step`.
    overrides, profiles: as for :func:`simkit.hardware.catalog.load_hardware`.
    scenario: words of :func:`simkit.study.scenario.parse_scenario`.

    Returns one record a crossing, in order, with the part of the layout's time (``ended_by``) whose share grows most
    from where the advantage is greatest, on its side of the crossing, to the crossing; a single record without
    ``value`` when there is none, whose ``finding`` says on which side the whole range lies. Raises :class:`UserError`.
    """
    if of not in _COLUMN:
        raise UserError(f"--of '{of[:40]}': expected step, attention or cost", hint=did_you_mean(of, _COLUMN))
    if not (np.isfinite(below) and below > 0):
        raise UserError(f"--below {below}: expected a ratio above 0, such as 1.10")

    def load(more: Mapping[str, str]) -> HardwareProfile:
        return load_hardware(hardware, overrides={**(overrides or {}), **more}, profiles=profiles)

    profile = load({})
    workload = {"batch": float(batch), "kv_len": float(kv_len), "q_len": float(q_len)}
    comparison = Comparison(
        load=load, profile=profile, model=only(models_of(model), "model"), attention=attention,
        against=against, of=_read_of(of),
        workload=workload, scenario=parse_scenario(**scenario), chips=chips, tp=tp, pp=pp, engine=engine_named(engine),
        varied=variable(vary, profile, workload, start=start, stop=stop, load=load))
    return solve(comparison, below)


def _read_of(text: str) -> Of:
    return "attention" if text == "attention" else "cost" if text == "cost" else "step"


def solve(comparison: Comparison, below: float) -> list[dict[str, Any]]:
    """The records of :func:`crossover` for a comparison that is put together."""
    varied, own = comparison.varied, comparison.own()
    kind = ("replayed" if not comparison.engine.closed_form else
            "together" if varied.of_workload or varied.broadcasts else "loaded")
    grid = varied.points(_SCAN_POINTS[kind])
    scan = comparison.answers(grid)
    advantage = scan["advantage"]
    common = {
        "hardware": comparison.profile.name, "assumed": comparison.profile.assumption or None,
        "model": comparison.model.name, "attention": comparison.attention,
        "against": comparison.against, "of": comparison.of, "kv_dtype": comparison.scenario.kv_dtype,
        **comparison.workload,
        "engine": comparison.engine.name, "vary": varied.key, "unit": varied.dimension, "from": varied.start,
        "to": varied.stop, "own_value": varied.own_value, "below": below,
        "shares_bandwidth_with_weights": _shares_bandwidth(varied.key, own),
        "fitting_fraction_of_range": float(np.mean(scan["fits"])),
    }
    at_own = [] if varied.own_value is None else comparison.answers([varied.own_value])["advantage"].tolist()
    common["own_advantage"] = at_own[0] if at_own else None
    found = crossings(lambda values: comparison.answers(values)["advantage"], grid, advantage, below,
                      whole=varied.whole)
    known = advantage[np.isfinite(advantage)]
    common |= {"least_advantage": known.min() if known.size else None,
               "most_advantage": known.max() if known.size else None}
    if not found:
        nothing = dict.fromkeys(("value", "times_own", "advantage", "chips", "bound", "attention_bound", *_ENDED))
        return [_plain(varied, common) | {"finding": _without(comparison, scan, below)} | nothing]
    answers = comparison.answers([crossing.value for crossing in found])
    ended = _ended_by(comparison, found, grid, advantage)
    return [_plain(varied, common | ({varied.key: crossing.value} if varied.of_workload else {}) | {
        "finding": _FINDINGS[crossing.falls, crossing.jump], "value": crossing.value,
        "times_own": crossing.value / varied.own_value if varied.own_value else None,
        "advantage": answers["advantage"][i], "chips": answers["chips"][i], "bound": answers["bound"][i],
        "attention_bound": answers["attention_bound"][i], **ended[i]}) for i, crossing in enumerate(found)]


def _ended_by(comparison: Comparison, found: list[Crossing], grid: Any, advantage: Any) -> list[dict[str, Any]]:
    """The part of the layout's time that takes the advantage, for each crossing: the one whose share grows most."""
    ends = [float(grid[0]), *(crossing.value for crossing in found), float(grid[-1])]
    told = []
    for place, crossing in enumerate(found):
        low, high = (ends[place], crossing.value) if crossing.falls else (crossing.value, ends[place + 2])
        paying = np.flatnonzero((grid >= low) & (grid <= high) & np.isfinite(advantage))
        most = float(grid[paying[np.argmax(advantage[paying])]]) if len(paying) else (low if crossing.falls else high)
        before, at = comparison.shares(most), comparison.shares(crossing.value)
        part = max(at, key=lambda name, at=at, before=before: at[name] - before[name])  # type: ignore[misc]
        told.append(dict(zip(_ENDED, (part, at[part], before[part], most), strict=True)))
    return told


def _plain(varied: Variable, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in Python's own types: counts as whole numbers, None for what is not known."""
    whole = {*WHOLE, *(("from", "to", "value", "own_value") if varied.whole else ())}
    plain = {}
    for name, value in record.items():
        item = value.item() if isinstance(value, np.generic) else value
        if isinstance(item, float) and not np.isfinite(item):
            item = None
        plain[name] = int(item) if name in whole and item is not None and item == int(item) else item
    return plain


# As the value grows.
_FINDINGS: Final = {(True, False): "falls below", (False, False): "rises above", (True, True): "jumps below",
                    (False, True): "jumps above"}


def _without(comparison: Comparison, scan: Mapping[str, Any], below: float) -> str:
    """Why there is no crossing."""
    advantage = scan["advantage"]
    if not np.any(scan["fits"]):
        return "does not fit"
    if np.isnan(advantage).all():
        # Only the cost of a chip without a price is unknown where both layouts fit.
        raise UserError(f"{comparison.profile.name} has no price: nothing to compare",
                        hint="give one with --set price.per_hour='2 USD/h'")
    return "below throughout" if np.nanmax(advantage) < below else "above throughout"


def _shares_bandwidth(key: str, own: Evaluated) -> bool | None:
    """Whether weights live beside the cache in the level whose bandwidth varies; None for any other parameter."""
    level, _, parameter = key.removeprefix("memory.").rpartition(".")
    if not key.startswith("memory.") or parameter not in {"bandwidth", "achievable_fraction"}:
        return None
    homes = (own.placement.weights, own.placement.kv)
    return all(bool(np.any(np.asarray(shares.get(level, 0.0)) > 0)) for shares in homes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """One crossing: where, whether the advantage falls below the threshold there as the value grows, and by a jump."""

    value: float
    falls: bool
    jump: bool


def crossings(advantage: Callable[[Any], Any], grid: Any, scanned: Any, threshold: float, *,
              whole: bool) -> list[Crossing]:
    """All crossings of a threshold that a scan and a closer look at its turning points find, in order.

    Parameters
    ----------
    advantage: the function, of an array of values; NaN where it has none.
    grid, scanned: rising values, and the function there.
    threshold: what is crossed; exactly at it is not below.
    whole: only whole values are asked for; a crossing is then the first on its other side.
    """
    grid, scanned = _closer(advantage, np.asarray(grid, dtype=float), np.asarray(scanned, dtype=float), threshold,
                            whole=whole)
    known = np.isfinite(scanned)
    grid, scanned = grid[known], scanned[known]
    under = scanned < threshold
    found = []
    for i in np.flatnonzero(under[1:] != under[:-1]).tolist():
        value, jump = _between(lambda x: float(advantage([x])[0]) - threshold, float(grid[i]), float(grid[i + 1]),
                               threshold, whole=whole)
        found.append(Crossing(value=value, falls=bool(under[i + 1]), jump=jump))
    return found


def _closer(advantage: Callable[[Any], Any], grid: Any, scanned: Any, threshold: float, *,
            whole: bool) -> tuple[Any, Any]:
    """The scan with more points around values where it nears the threshold and turns back."""
    distance = np.abs(scanned - threshold)
    same = (scanned[1:] < threshold) == (scanned[:-1] < threshold)
    turns = [i for i in range(1, len(grid) - 1) if same[i - 1] and same[i]
             and distance[i] <= distance[i - 1] and distance[i] <= distance[i + 1]
             and (distance[i] < distance[i - 1] or distance[i] < distance[i + 1])]
    more = [grid]
    for i in sorted(turns, key=lambda place: distance[place])[:_CLOSEST_TURNS]:
        points = np.linspace(grid[i - 1], grid[i + 1], _CLOSER_POINTS)
        more.append(np.unique(np.round(points)) if whole else points)
    if len(more) == 1:
        return grid, scanned
    merged = np.unique(np.concatenate(more))
    fresh = merged[~np.isin(merged, grid)]
    values = dict(zip(grid.tolist(), scanned.tolist(), strict=True))
    if len(fresh):
        values |= dict(zip(fresh.tolist(), np.asarray(advantage(fresh), dtype=float).tolist(), strict=True))
    return merged, np.array([values[value] for value in merged.tolist()])


def _between(excess: Callable[[float], float], low: float, high: float, threshold: float, *,
             whole: bool) -> tuple[float, bool]:
    """The crossing between two values on different sides, and whether it is a jump."""
    if whole:
        under_high = excess(high) < 0
        while high - low > 1:
            middle = float((low + high) // 2)
            low, high = (low, middle) if (excess(middle) < 0) == under_high else (middle, high)
        return high, False
    from scipy.optimize import brentq

    at_low, at_high = excess(low), excess(high)
    if at_low == 0.0:
        return low, False
    root = float(brentq(excess, low, high, xtol=low * _ROOT_TOLERANCE, rtol=_ROOT_TOLERANCE))
    near = _JUMP_TOLERANCE * max(abs(threshold), abs(at_low), abs(at_high))
    return root, not abs(excess(root)) <= near
