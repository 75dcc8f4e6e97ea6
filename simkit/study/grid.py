"""The Cartesian product of axes as decode steps, and what to say of points that do not fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError, raise_collected
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.study.capacity import capacity
from simkit.study.evaluate import FIT, FIT_EACH
from simkit.study.point import decode_step
from simkit.study.scenario import parse_scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Axes in the order in which their product is listed: the first varies slowest. Profiles and models are loaded."""

    hardware: Sequence[HardwareProfile]
    model: Sequence[ModelArchitecture]
    kv_dtype: Sequence[str]
    attention: Sequence[str]
    batch: Sequence[float]
    kv_len: Sequence[float]
    q_len: Sequence[float] = (1,)

    @property
    def axes(self) -> tuple[Sequence[Any], ...]:
        """All axes, slowest first."""
        return (self.hardware, self.model, self.kv_dtype, self.attention, self.batch, self.kv_len, self.q_len)

    def check_size(self, most: int, hint: str) -> None:
        """Raise :class:`UserError` when the product has more than ``most`` points."""
        points = math.prod(len(axis) for axis in self.axes)
        if points > most:
            raise UserError(f"{points:,} points are more than the {most:,} of one call", hint=hint)


def decode_grid(grid: Grid, **options: Any) -> dict[str, Any]:
    """:func:`simkit.study.point.decode_step` at every point of the grid, as flat columns in the grid's order.

    Parameters: options: what decode_step takes besides the axes. Raises :class:`UserError` with every layout that
    does not apply to its model.
    """
    faults: list[UserError] = []
    for model in grid.model:
        for layout in grid.attention:
            try:
                parse_layout(layout, model)
            except UserError as error:
                faults.append(error)
    raise_collected(faults)
    hardware, models, kv_dtype, attention, batch, kv_len, q_len = _open_mesh(grid.axes)
    columns = decode_step(hardware, models, attention=attention, batch=batch, kv_len=kv_len, q_len=q_len,
                          kv_dtype=kv_dtype, **options)
    return {name: np.ravel(column) for name, column in columns.items()}


def _open_mesh(axes: Sequence[Sequence[Any]]) -> list[Any]:
    """Each axis as an array along its own dimension, so that together they broadcast to the product."""
    mesh = []
    for place, axis in enumerate(axes):
        array = np.array(axis, dtype=float if isinstance(axis[0], int | float) else object)
        mesh.append(array.reshape([-1 if other == place else 1 for other in range(len(axes))]))
    return mesh


def capacity_grid(grid: Grid, *, weight_dtype: str = "bf16", chips: Any = FIT, tp: int | None = None,
                  pp: int | None = None, **scenario: Any) -> tuple[dict[str, Any], list[UserError]]:
    """:func:`simkit.study.capacity.capacity` at every point of the grid, and the combinations that cannot be asked.

    Parameters: scenario: words of :func:`simkit.study.scenario.parse_scenario`. ``unlimited_context`` marks caches
    that stop growing (eviction).
    Raises the first fault when no combination is left.
    """
    batch, kv_len = np.meshgrid(np.array(grid.batch, dtype=float), np.array(grid.kv_len, dtype=float), indexing="ij")
    parts: list[dict[str, Any]] = []
    faults: list[UserError] = []
    for chip, model, kv_dtype in itertools.product(grid.hardware, grid.model, grid.kv_dtype):
        chosen = parse_scenario(kv_dtype=kv_dtype, weight_dtype=weight_dtype, **scenario)
        try:
            parts.append(capacity(chip, model, list(grid.attention), scenario=chosen, batch=batch.ravel(),
                                  kv_len=kv_len.ravel(), chips=chips, tp=tp, pp=pp))
        except UserError as error:
            faults.append(error)
    if not parts:
        raise_collected(faults)
    columns = {name: np.concatenate([part[name].ravel() for part in parts]) for name in parts[0]}
    columns["unlimited_context"] = np.isposinf(columns["max_kv_len"])
    return columns, faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Points of one chip, model, KV format and layout that do not fit, and how many chips would do.

    ``batch`` and ``kv_len`` are of the smallest such point. ``chips_needed`` has one number for each point that some
    number of chips would hold; ``impossible`` counts the others. ``unknown_link`` is the parameter whose lack leaves
    the chip alone, where the profile names a link and no source gives its bandwidth.
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

    def __str__(self) -> str:
        several = self.points_in_all > 1
        extent = f" ({self.points} of {self.points_in_all} points, this is the smallest)" if several else ""
        text = (f"{self.model} with {self.attention} and {self.kv_dtype} cache, batch {self.batch} x {self.kv_len} "
                f"tokens, does not fit on {_chips(self.chips)} of {self.hardware}{extent}")
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


def misfits(grid: Grid, columns: Mapping[str, Any], **options: Any) -> list[Misfit]:
    """What does not fit, one entry a combination of chip, model, KV format and layout, in the grid's order.

    Parameters: as for :func:`decode_grid`, whose result ``columns`` is.
    """
    unfit = ~np.asarray(columns["fits"], dtype=bool).reshape([len(axis) for axis in grid.axes])
    open_options = {**options, "chips": FIT_EACH, "tp": None, "pp": None, "baseline": False}
    found = []
    for at in np.argwhere(unfit.any(axis=(4, 5, 6))):
        hardware, model, kv_dtype, attention = (axis[i] for axis, i in zip(grid.axes, at, strict=False))
        where = np.flatnonzero(unfit[tuple(at)])
        first = int(np.ravel_multi_index(tuple(at), unfit.shape[:4])) * unfit[tuple(at)].size
        picked = {name: np.asarray(columns[name])[first + where] for name in ("batch", "kv_len", "q_len", "chips")}
        fitted = decode_step(hardware, model, attention=attention, kv_dtype=kv_dtype, batch=picked["batch"],
                             kv_len=picked["kv_len"], q_len=picked["q_len"], **open_options)
        holds = np.asarray(fitted["fits"], dtype=bool)
        smallest = int(np.argmin(picked["batch"] * picked["kv_len"]))
        found.append(Misfit(
            hardware=hardware.name, model=model.name, attention=attention, kv_dtype=kv_dtype,
            chips=int(picked["chips"][smallest]), max_chips=hardware.max_chips, batch=int(picked["batch"][smallest]),
            kv_len=int(picked["kv_len"][smallest]), points=len(where), points_in_all=unfit[tuple(at)].size,
            chips_needed=tuple(int(n) for n in np.unique(fitted["chips"][holds])), impossible=int((~holds).sum()),
            unknown_link=_unknown_link(hardware)))
    return found
