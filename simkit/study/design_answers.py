r"""Answers over hypothetical chips: the best by silicon, watts and dollars, what a parameter moves, the nearest chip.

Elasticities are :math:`\epsilon = d \ln y / d \ln x` from differences of :data:`STEP` below and above a parameter,
which differ where roofs meet; of a whole number, from its neighbours.

The nearest chip at which a layout's advantage crosses a threshold solves, in logarithms of the parameters,

.. math:: \min_x \lVert x \rVert_2 \quad \text{with} \quad A(e^x) = threshold

over the ranges. Rays from the base chip are scanned outwards, all at once, and again between the points where each
first changes side: along the axes, in directions all around, then in narrower and narrower ones about the nearest so
far. What a scan steps over twice within one of its :data:`SCAN` steps, and pockets that no ray meets, are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from time import monotonic
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.parameters import ProfileParameter, profile_parameters
from simkit.study.designs import DESIGN_FIELDS, MEASURES, DesignSpace
from simkit.study.grid import Grid
from simkit.study.record import FIELDS, to_records
from simkit.study.vary import quantity_text

STEP: Final = 1e-3
SCAN, SCANS = 32, 8  # points of a ray, and scans of what lies between two of them
_RAYS, _ROUNDS, _ROUGH, _NARROWER = 128, 16, 4, 0.65
_NOTHING: Final = 1e-6  # an elasticity that is rounding
RANKED: Final = {"mm2": "tokens_per_s_per_mm2", "W": "tokens_per_s_per_w", "USD": "tokens_per_s_per_usd"}
_WORDS: Final = ("hardware", "model", "attention", "kv_dtype", "batch", "kv_len", "q_len")
_NEEDED: Final = ("fits", "chips", "tokens_per_s")


@dataclass(kw_only=True)
class Search:
    """What a walk over the designs of one chip, model, format, layout and workload has found.

    ``best``: score and place by measure; ``front``: columns of the designs that no other one beats in silicon of all
    chips and tokens/s; ``least``: the least of each measure; ``nearest_ratio``: how far the design that comes nearest
    to the budget is beyond it.
    """

    fitting: int = 0
    allowed: int = 0
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    front: dict[str, Any] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    nearest_ratio: float = np.inf

    def take(self, columns: Mapping[str, Any], first: int, budget: Mapping[str, float]) -> None:
        """A chunk of designs from the place ``first``."""
        fits = np.asarray(columns["fits"], dtype=bool)
        beyond = np.max([np.ones(len(fits)), *(np.nan_to_num(columns[name] / most, nan=np.inf)
                                               for name, most in budget.items())], axis=0)
        self.fitting += int(fits.sum())
        for name in budget:
            known = np.asarray(columns[name])[fits & np.isfinite(columns[name])]
            self.least[name] = min(self.least.get(name, np.inf), known.min(initial=np.inf))
        self.nearest_ratio = min(self.nearest_ratio, beyond[fits].min(initial=np.inf))
        allowed = fits & (beyond <= 1.0)
        self.allowed += int(allowed.sum())
        if not allowed.any():
            return
        for word, name in RANKED.items():
            score = np.where(allowed & np.isfinite(columns[name]), columns[name], -np.inf)
            place = int(np.argmax(score))
            if score[place] > self.best.get(word, (0.0, 0))[0]:
                self.best[word] = float(score[place]), first + place
        both = {name: np.concatenate([self.front.get(name, column[:0]), column[allowed]])
                for name, column in columns.items()}
        kept = undominated(both["mm2"] * both["chips"], both["tokens_per_s"])
        self.front = {name: column[kept] for name, column in both.items()}


def undominated(cost: Any, gain: Any) -> Any:
    """The places of what nothing else beats in both, by rising cost.

    >>> undominated(np.array([-1.0, -3.0, -2.0, -2.0]), np.array([9.0, 1.0, 5.0, 4.0])).tolist()
    [1, 2, 0]
    """
    order = np.lexsort((-gain, cost))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], gain[order][:-1]]))
    return order[gain[order] > before]


def best_designs(grid: Grid, budget: Mapping[str, float] | None = None, *, front: bool = False,
                 tell: Callable[[int, float], None] = lambda *_: None) -> list[dict[str, Any]]:
    """Records of the best designs of each load and layout by silicon, watts and dollars (of a chip without a price by
    the other two), each loaded by itself; or of the ``front`` of tokens/s and silicon. Memory is a chunk's.

    Parameters: grid: with ``designs``; budget: most of ``mm2``, ``power_w`` and ``price_usd`` of a chip. Raises
    :class:`UserError` where no design is within the budget.
    """
    budget, count, done, records = budget or {}, len(_space(grid)), 0, []
    lean, began = replace(grid, fields=(*_WORDS, *_NEEDED), baseline=False), monotonic()
    searches = [Search() for _ in range(len(grid) // count)]
    for columns in lean.chunks():
        searches[done // count].take(columns, done % count, budget)
        done += len(columns["fits"])
        tell(done, monotonic() - began)
    for number, found in enumerate(searches):
        if not found.allowed:
            raise UserError(_unmet(grid, number, found, budget))
        places: dict[int, list[str]] = {}
        for word, (_, place) in found.best.items():
            places.setdefault(place, []).append(word)
        records += to_records(found.front) if front else [
            {"best_per": ", ".join(words), "designs": count, "designs_within_budget": found.allowed,
             **_record(lean, number, place)} for place, words in places.items()]
    return records


def _record(grid: Grid, number: int, place: int) -> dict[str, Any]:
    """The whole record of one design of a load, its profile loaded by itself."""
    designs, at = _space(grid), number * len(_space(grid)) + place
    (own,) = grid.between(at, at + 1)
    chip, hardware = _chip(grid, number), list(grid.hardware)
    hardware[chip] = designs.bases[chip].load(tuple(
        (axis.key, quantity_text(float(own[axis.key][0]), axis.dimension, whole=axis.whole)) for axis in designs.axes))
    (columns,) = replace(grid, hardware=hardware, designs=None, fields=tuple(FIELDS)).between(number, number + 1)
    return to_records({**own, **columns})[0]


def _chip(grid: Grid, number: int) -> int:
    return number * len(_space(grid)) * len(grid.hardware) // len(grid)


def _unmet(grid: Grid, number: int, found: Search, budget: Mapping[str, float]) -> str:
    """Which bound fails, and by how much."""
    who = grid.hardware[_chip(grid, number)].name
    if not found.fitting:
        return f"none of {len(_space(grid)):,} designs of {who} holds the model and its cache (--chips {grid.chips})"
    said = [f"no price of {who} that could be scaled (--set price.purchase=... states one)"
            if np.isinf(found.least[name]) else f"{found.least[name]:,.0f} {MEASURES[name]} at least, "
            f"{found.least[name] / most:.3g} times the {most:,g} allowed"
            for name, most in budget.items() if not found.least[name] <= most]
    return f"no design of {who} is within the budget: " + ("; ".join(said) or (
        f"each bound alone can be met, together they are missed by a factor of {found.nearest_ratio:.3g} at least"))


def one_by_one(grid: Grid) -> Iterator[Grid]:
    """A grid for each base chip, model, format and workload; the layouts stay together."""
    for chip, model, dtype, batch, kv_len, q_len in product(
            range(len(grid.hardware)), grid.model, grid.kv_dtype, grid.batch, grid.kv_len, grid.q_len):
        yield replace(grid, hardware=[grid.hardware[chip]], model=[model], kv_dtype=[dtype], batch=[batch],
                      kv_len=[kv_len], q_len=[q_len], baseline=False,
                      designs=replace(_space(grid), bases=[_space(grid).bases[chip]]))


def _space(grid: Grid) -> DesignSpace:
    if grid.designs is None:
        raise ValueError("a grid without designs")
    return grid.designs


def columns_at(grid: Grid, values: Mapping[str, Any], fields: Sequence[str],
               layouts: Sequence[str] | None = None) -> dict[str, Any]:
    """Columns [layouts, designs] of one load at the parameters given, one value of each a design."""
    layouts = layouts or grid.attention
    listed = replace(grid, attention=layouts, fields=(*fields, *_NEEDED), designs=replace(_space(grid), listed=values))
    return {name: column.reshape(len(layouts), -1) for name, column in listed.columns().items()}


def _words(grid: Grid) -> dict[str, Any]:
    """What records of one load begin with."""
    return {"hardware": grid.hardware[0].name, "model": grid.model[0].name, "kv_dtype": grid.kv_dtype[0],
            "batch": int(grid.batch[0]), "kv_len": int(grid.kv_len[0]), "q_len": int(grid.q_len[0])}


def elasticities(grid: Grid) -> list[dict[str, Any]]:
    """What a per cent of each parameter of the base chips moves, in per cent of tokens/s, silicon and watts: for each
    load and layout, those that move most first; those that move nothing are left out.
    """
    records = []
    for one in one_by_one(grid):
        found: list[dict[str, Any]] = []
        for parameter in profile_parameters(one.hardware[0]):
            if (parameter.dimension is not None and isinstance(parameter.value, int | float) and parameter.value > 0
                    and not parameter.key.endswith("max_chips")):  # a limit of systems is no parameter of a chip
                try:
                    found += _moved_by(one, parameter, float(parameter.value))
                except UserError:
                    continue  # a value next to the bound of its range
        records += sorted(found, key=lambda record: (grid.attention.index(record["attention"]),
                                                     -abs(record["elasticity"])))
    return records


def _moved_by(grid: Grid, parameter: ProfileParameter, own: float) -> Iterator[dict[str, Any]]:
    x = np.array([own - 1.0, own, own + 1.0] if parameter.whole else own * np.exp([-STEP, 0.0, STEP]))
    if parameter.key.endswith("_fraction"):
        x = np.minimum(x, 1.0)
    x = x[(x > 0) & np.concatenate([[True], np.diff(x) > 0])]
    found = columns_at(grid, {parameter.key: x}, ())
    slopes = {name: np.diff(np.log(found[name]), axis=1) / np.diff(np.log(x)) for name in (
        "tokens_per_s", "mm2", "power_w")}
    for place, layout in enumerate(grid.attention):
        below, above = slopes["tokens_per_s"][place][[0, -1]].tolist()
        means = {name: float(slope[place].mean()) for name, slope in slopes.items()}
        if any(abs(mean) > _NOTHING for mean in means.values()):
            yield {**_words(grid), "attention": layout, "key": parameter.key, "value": own, "unit": parameter.dimension,
                   "elasticity": means["tokens_per_s"], "elasticity_below": below, "elasticity_above": above,
                   "mm2_elasticity": means["mm2"], "power_elasticity": means["power_w"]}


def nearest_chips(grid: Grid, below: float, of: str = "step") -> list[dict[str, Any]]:
    """The chip nearest to the base at which the first layout's advantage over the last crosses ``below``, for one load;
    those along each parameter alone, and points of the surface around.

    ``of``: ``step`` or ``attention``. ``kind`` of a record: ``nearest``, ``along KEY`` or ``surface``; ``log_distance``
    is the norm above. A single record of kind ``none`` where no ray crosses. Raises :class:`UserError`.
    """
    axes, base, layouts = _space(grid).axes, grid.hardware[0], (grid.attention[0], grid.attention[-1])
    known = {one.key: one.value for one in profile_parameters(base) if not one.whole}
    own = np.array([float(known.get(axis.key) or 0.0) for axis in axes])
    if not own.all():
        raise UserError(f"--nearest: {axes[int(np.argmin(own))].key} of {base.name} is not a number above 0 that moves "
                        "continuously")
    low, high = (np.log([getattr(axis, end) for axis in axes] / own) for end in ("start", "stop"))

    def found_at(x: Any) -> dict[str, Any]:
        found = columns_at(grid, {axis.key: own[n] * np.exp(x[:, n]) for n, axis in enumerate(axes)},
                           (f"{of}_time_s",), layouts)
        time_s = np.where(found["fits"].all(axis=0), found[f"{of}_time_s"], np.nan)
        return {**{name: column[0] for name, column in found.items()}, "advantage": time_s[-1] / time_s[0]}

    def excess(x: Any) -> Any:
        return np.log(found_at(x)["advantage"] / below)

    side = float(excess(np.zeros((1, len(axes))))[0])
    if not np.isfinite(side):
        raise UserError(f"{base.name}: {' and '.join(layouts)} do not both fit on {grid.chips} chips")
    rays = Rays(excess=excess, side=int(np.sign(side) or 1), low=np.minimum(low, 0.0), high=np.maximum(high, 0.0))
    along, surface = rays.nearest()
    common = {**_words(grid), "attention": layouts[0], "against": layouts[-1], "of": of, "below": below,
              "own_advantage": float(np.exp(side) * below)}
    if not len(surface):
        return [{**common, "kind": "none"}]
    crossed = {f"along {axis.key}": x for axis, x in zip(axes, along, strict=True) if x is not None}
    kinds, points = ["nearest", *crossed], np.array([surface[0], *crossed.values(), *surface[1:]])
    found = found_at(points)
    records = to_records({name: found[name] for name in (*(axis.key for axis in axes), "advantage", *DESIGN_FIELDS)})
    return [{**common, "kind": kinds[n] if n < len(kinds) else "surface",
             "log_distance": float(np.linalg.norm(points[n])),
             **{f"times_own {axis.key}": float(np.exp(x)) for axis, x in zip(axes, points[n], strict=True)}, **record}
            for n, record in enumerate(records)]


@dataclass(frozen=True, kw_only=True)
class Rays:
    """Rays from the origin of ``excess``, whose sign there is ``side``, within a box around it."""

    excess: Callable[[Any], Any]
    side: int
    low: Any
    high: Any

    def crossings(self, directions: Any, scans: int = SCANS) -> Any:
        """The first point of each ray on the other side; rays that stay on theirs, or leave what fits, have none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.where(directions > 0, self.high / directions, np.where(directions < 0, self.low / directions,
                                                                             np.inf))
        reach = ends.min(axis=1)
        directions, outer = directions[(reach > 0) & (reach < np.inf)], reach[(reach > 0) & (reach < np.inf)]
        inner = np.zeros(len(outer))
        for _ in range(scans):
            if not len(outer):
                break
            radii = inner[:, None] + (outer - inner)[:, None] * np.arange(1, SCAN + 1) / SCAN
            x = directions[:, None] * radii[..., None]
            across = self.excess(x.reshape(-1, x.shape[-1])).reshape(-1, SCAN) * self.side <= 0.0
            hit = across.any(axis=1)
            directions, inner, outer, radii, first = (
                one[hit] for one in (directions, inner, outer, radii, across.argmax(axis=1)))
            every = np.concatenate([inner[:, None], radii], axis=1)
            inner, outer = (every[np.arange(len(every)), first + n] for n in (0, 1))
        return directions * outer[:, None]

    def nearest(self) -> tuple[list[Any], Any]:
        """The crossing along each axis (None: there is none), and all that were found, the nearest first."""
        dimensions, generator = len(self.low), np.random.default_rng(0)
        along = [min(found, key=np.linalg.norm, default=None) for found in (
            self.crossings(np.stack([axis, -axis])) for axis in np.eye(dimensions))]
        every = np.array([x for x in along if x is not None]).reshape(-1, dimensions)
        around = generator.standard_normal((_RAYS * dimensions, dimensions))
        for number in range(_ROUNDS if dimensions > 1 else 0):
            sizes = np.linalg.norm(around, axis=1)[:, None]
            every = np.concatenate([every, self.crossings(around[sizes[:, 0] > 0] / sizes[sizes[:, 0] > 0],
                                                           _ROUGH)])
            if not len(every):
                break
            every = every[np.argsort(np.linalg.norm(every, axis=1), kind="stable")]
            best = every[0]
            around = best + _NARROWER**number * np.linalg.norm(best) * generator.standard_normal(
                (_RAYS // 4, dimensions))
        # To their last digit, with the axes among them.
        every = self.crossings(every[:_RAYS] / np.linalg.norm(every[:_RAYS], axis=1)[:, None])
        return along, every[np.argsort(np.linalg.norm(every, axis=1), kind="stable")]
