"""Sweeps of any size in bounded memory: the product of axes, evaluated chunk by chunk in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.study.constant_runs import group_columns
from simkit.study.evaluate import FIT
from simkit.study.scenario import parse_scenario

if TYPE_CHECKING:
    from simkit.study.study_file import Study

# Points a chunk: the arrays of one operator stay in the nearer caches of a core; both half and double are slower.
CHUNK_POINTS: Final = 16384


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every combination of the axes; hardware varies slowest, then model, KV format, layout, batch, context, queries.

    ``scenario`` holds further words of :func:`simkit.study.scenario.parse_scenario`.
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
    engine: str = "roofline"
    baseline: bool = True
    scenario: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[int, ...]:
        """Lengths of the axes of names: hardware, model, KV format, layout."""
        return len(self.hardware), len(self.model), len(self.kv_dtype), len(self.attention)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Lengths of the numeric axes."""
        return len(self.batch), len(self.kv_len), len(self.q_len)

    def __len__(self) -> int:
        return prod(self.names) * prod(self.numbers)

    @cached_property
    def _axes(self) -> list[Any]:
        return [np.asarray(axis, dtype=float) for axis in (self.batch, self.kv_len, self.q_len)]

    def chunks(self, points: int = CHUNK_POINTS) -> Iterator[dict[str, Any]]:
        """Columns of at most ``points`` points at a time, in order; nothing is kept between chunks.

        Raises :class:`UserError` as ``decode_step`` does.
        """
        return self.between(0, len(self), points)

    def between(self, first: int, last: int, points: int = CHUNK_POINTS) -> Iterator[dict[str, Any]]:
        """The chunks of the points ``first`` up to, not including, ``last`` of the sweep's order."""
        size = prod(self.numbers)
        while first < last:
            group, start = divmod(first, size)
            stop = min(start + points, size, start + last - first)
            yield self._evaluated(group, start, stop)
            first += stop - start

    def _evaluated(self, group: int, start: int, stop: int) -> dict[str, Any]:
        """Points ``start`` to ``stop`` of one combination of names."""
        chip, model, dtype, layout = (int(place) for place in np.unravel_index(group, self.names))
        where = np.unravel_index(np.arange(start, stop), self.numbers)
        batch, kv_len, q_len = (axis[index] for axis, index in zip(self._axes, where, strict=True))
        return group_columns(
            self.hardware[chip], self.model[model], self.attention[layout], rivals=list(self.attention), batch=batch,
            kv_len=kv_len, q_len=q_len, scenario=parse_scenario(kv_dtype=self.kv_dtype[dtype], **self.scenario),
            chips=self.chips, tp=self.tp, pp=self.pp, engine=self.engine, baseline=self.baseline)


def sweep_of(study: Study, *, engine: str | None = None) -> Sweep:
    """The points of a study: its chips, models and layouts at every batch and context; ``engine`` wins over its own."""
    return Sweep(hardware=study.hardware, model=study.models, attention=study.layouts, kv_dtype=(study.kv_dtype,),
                 batch=study.batch, kv_len=study.kv_len, chips=study.chips, engine=engine or study.engine,
                 scenario={"weight_dtype": study.weight_dtype})
