"""The Cartesian product of axes: the one road from lists of names and numbers to timed points, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.foundation.errors import UserError, raise_collected
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, FIT_EACH, Points
from simkit.study.point import CHUNK_POINTS, checked_numbers, group_columns
from simkit.study.pools import sides_of
from simkit.study.record import FIELDS
from simkit.study.scenario import parse_scenario

if TYPE_CHECKING:
    from simkit.study.designs import DesignSpace


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of the axes; hardware varies slowest, then model, KV format, layout, batch, context, queries.

    Profiles and models are loaded. ``chips``, ``tp``, ``pp``, ``engine``, ``baseline``: as of
    :func:`simkit.study.point.decode_step`; ``scenario``: words of :func:`simkit.study.scenario.parse_scenario`;
    ``fields``: the columns. ``designs``: hypothetical chips, of which ``hardware`` are the bases; they vary fastest.
    """

    hardware: Sequence[HardwareProfile]
    model: Sequence[ModelArchitecture]
    attention: Sequence[str] = ("as-trained",)
    kv_dtype: Sequence[str] = ("bf16",)
    batch: Sequence[float] = (1,)
    kv_len: Sequence[float] = (4096,)
    q_len: Sequence[float] = (1,)
    chips: Any = FIT
    tp: int | None = None
    pp: int | None = None
    engine: str = DEFAULT
    baseline: bool = True
    scenario: Mapping[str, Any] = field(default_factory=dict)
    fields: Sequence[str] = tuple(FIELDS)
    designs: DesignSpace | None = None

    @property
    def is_split(self) -> bool:
        """Whether the points are on two pools of chips."""
        return self.scenario.get("ffn") is not None

    @property
    def names(self) -> tuple[int, ...]:
        """Lengths of the axes of names: hardware, model, KV format, layout."""
        return len(self.hardware), len(self.model), len(self.kv_dtype), len(self.attention)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Lengths of the numeric axes."""
        return len(self.batch), len(self.kv_len), len(self.q_len), 1 if self.designs is None else len(self.designs)

    def __len__(self) -> int:
        return prod(self.names) * prod(self.numbers)

    @cached_property
    def _axes(self) -> list[Any]:
        return [checked_numbers(name, getattr(self, name)) for name in ("batch", "kv_len", "q_len")]

    def check_size(self, most: int, hint: str) -> None:
        """Raise :class:`UserError` when the product has more than ``most`` points."""
        if len(self) > most:
            raise UserError(f"{len(self):,} points are more than the {most:,} of one call", hint=hint)

    def check_layouts(self) -> None:
        """Raise :class:`UserError` with every layout that does not apply to its model."""
        faults: list[UserError] = []
        for model in self.model:
            for layout in self.attention:
                try:
                    parse_layout(layout, model)
                except UserError as error:
                    faults.append(error)
        raise_collected(faults)

    def chunks(self, points: int = CHUNK_POINTS) -> Iterator[dict[str, Any]]:
        """Columns of at most ``points`` points at a time, in order; nothing is kept between chunks.

        Raises :class:`UserError` as ``decode_step`` does.
        """
        return self.between(0, len(self), points)

    def between(self, first: int, last: int, points: int = CHUNK_POINTS) -> Iterator[dict[str, Any]]:
        """The chunks of the points ``first`` up to, not including, ``last`` of the grid's order."""
        size = prod(self.numbers)
        run = size if self.designs is None else len(self.designs)  # a chunk of designs is of one workload
        while first < last:
            group, start = divmod(first, size)
            stop = min(start + points, (start // run + 1) * run, start + last - first)
            yield self._evaluated(group, start, stop)
            first += stop - start

    def columns(self, progress: Callable[[int], object] = lambda _: None) -> dict[str, Any]:
        """All points as flat columns in the grid's order; ``progress`` is told how many are done.

        Raises :class:`UserError` with every wrong layout.
        """
        self.check_layouts()
        parts, done = [], 0
        for part in self.chunks():
            parts.append(part)
            done += len(next(iter(part.values())))
            progress(done)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}

    def _evaluated(self, group: int, start: int, stop: int) -> dict[str, Any]:
        """Points ``start`` to ``stop`` of one combination of names."""
        chip, model, dtype, layout = (int(place) for place in np.unravel_index(group, self.names))
        *where, design = np.unravel_index(np.arange(start, stop), self.numbers)
        numbers = [axis[index] for axis, index in zip(self._axes, where, strict=True)]

        def timed(hardware: HardwareProfile, count: int) -> dict[str, Any]:
            batch, kv_len, q_len = (values[:count] for values in numbers)  # of designs all are alike
            points = Points(
                hardware=hardware, model=self.model[model], batch=batch, kv_len=kv_len, q_len=q_len,
                scenario=parse_scenario(kv_dtype=self.kv_dtype[dtype], **self.scenario),
                engine=engine_named(self.engine), tp=self.tp, pp=self.pp)
            return group_columns(points, self.attention[layout], rivals=list(self.attention), chips=self.chips,
                                 baseline=self.baseline, names=self.fields)

        if self.designs is None:
            return timed(self.hardware[chip], stop - start)
        return self.designs.columns(chip, int(design[0]), int(design[-1]) + 1, timed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Points of one chip, model, KV format and layout that do not fit, and how many chips would do.

    ``batch`` and ``kv_len`` are of the smallest such point. ``chips_needed`` has one number for each point that some
    number of chips would hold; ``impossible`` counts the others. ``unknown_link`` is the parameter whose lack leaves
    the chip alone, where the profile names a link and no source gives its bandwidth. ``parts``: what of the step does
    not fit, where these chips are one of two pools.
    """

    hardware: str
    model: str
    attention: str
    kv_dtype: str
    chips: int
    max_chips: int
    batch: int
    kv_len: int
    points: int
    points_in_all: int
    chips_needed: tuple[int, ...]
    impossible: int
    unknown_link: str | None = None
    parts: str = ""

    def __str__(self) -> str:
        several = self.points_in_all > 1
        extent = f" ({self.points} of {self.points_in_all} points, this is the smallest)" if several else ""
        part = f"{self.parts} of " if self.parts else ""
        text = (f"{part}{self.model} with {self.attention} and {self.kv_dtype} cache, batch {self.batch} x "
                f"{self.kv_len} tokens, does not fit on {_chips(self.chips)} of {self.hardware}{extent}")
        nowhere = f"no number of chips of this system (at most {self.max_chips})"
        if self.unknown_link:
            return (f"{text}, and no source gives {self.unknown_link}, without which chips cannot share a model; --set "
                    f"{self.unknown_link}=... states an assumption")
        if not self.chips_needed:
            return f"{text}: {nowhere} would do"
        least, most = min(self.chips_needed), max(self.chips_needed)
        remedy = f"{_chips(least)} would do" if least == most else f"{least} to {most} chips would do"
        return f"{text}: {remedy}" + (f"; for {self.impossible} of them {nowhere}" if self.impossible else "")


def _chips(count: int) -> str:
    return f"{count} chip" if count == 1 else f"{count} chips"


def _unknown_link(hardware: HardwareProfile) -> str | None:
    """The parameter that a chip lacks for joining others; None where it has a link, or names none."""
    if hardware.scale_up is not None or hardware.scale_out is not None:
        return None
    return next((key for key in hardware.missing if key.startswith("links.")), None)


def misfits(grid: Grid, columns: Mapping[str, Any]) -> list[Misfit]:
    """What of a grid's ``columns`` does not fit, one entry a combination of names, in the grid's order."""
    kinds: Sequence[tuple[str, str, str]] = [("fits", "chips", "")]
    if grid.is_split:
        kinds = [("attention_pool_fits", "chips", "own"), ("ffn_pool_fits", "ffn_chips", "other")]
    return [one for held, chips, side in kinds for one in _misfits(grid, columns, held, chips, side)]


def _misfits(grid: Grid, columns: Mapping[str, Any], held: str, counted: str, side: str) -> Iterator[Misfit]:
    """Those of one machine, or of one of two pools: columns that say whether it fits and how many chips it has."""
    unfit = ~np.asarray(columns[held], dtype=bool).reshape(*grid.names, -1)
    for at in np.argwhere(unfit.any(axis=-1)):
        chip, model, dtype, layout = (int(place) for place in at)
        where = np.flatnonzero(unfit[tuple(at)])
        first = int(np.ravel_multi_index(tuple(at), grid.names)) * unfit.shape[-1]
        picked = {name: np.asarray(columns[name], dtype=float)[first + where]
                  for name in ("batch", "kv_len", "q_len", counted)}
        points = Points(
            hardware=grid.hardware[chip], model=grid.model[model], engine=engine_named(DEFAULT), batch=picked["batch"],
            scenario=parse_scenario(kv_dtype=grid.kv_dtype[dtype], **grid.scenario), kv_len=picked["kv_len"],
            q_len=picked["q_len"])
        if side:
            points = sides_of(points)[side == "other"]
        fitted = group_columns(points, grid.attention[layout], rivals=[], chips=FIT_EACH, baseline=False,
                               names=("fits", "chips"))
        smallest = int(np.argmin(picked["batch"] * picked["kv_len"]))
        holds = np.asarray(fitted["fits"], dtype=bool)
        yield Misfit(
            hardware=points.hardware.name, model=points.model.name, attention=grid.attention[layout],
            kv_dtype=grid.kv_dtype[dtype], chips=int(picked[counted][smallest]), max_chips=points.hardware.max_chips,
            batch=int(picked["batch"][smallest]), kv_len=int(picked["kv_len"][smallest]), points=len(where),
            points_in_all=unfit.shape[-1], chips_needed=tuple(int(n) for n in np.unique(fitted["chips"][holds])),
            impossible=int((~holds).sum()), unknown_link=_unknown_link(points.hardware),
            parts=", ".join(points.parts) if side else "")
