"""One question over many points: profile, model, layout and workload in, columns of the common vocabulary out.

Where batch, queries and machine stay the same over a run of points they are plain numbers: most of a step does not
depend on the context, and that part is computed once a run instead of once a point; the results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.step.machine import Machine
from simkit.study.columns import ASKED_FOR
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, Points, compared, on_machine
from simkit.study.pools import PooledPoints
from simkit.study.record import FIELDS, Columns
from simkit.study.scenario import parse_scenario

# Points a chunk: the arrays of one operator stay in the nearer caches of a core; both half and double are slower.
CHUNK_POINTS: Final = 16384
MOST_BATCH, MOST_TOKENS = 1e9, 1e10
LONG_RUN: Final = 4096
"""Points from which a run is worth calls of its own: by calls of 1300 points a sweep took twice the time."""


def group_columns(points: Points, attention: str, *, rivals: Sequence[str], chips: Any, baseline: bool,
                  names: Sequence[str] = tuple(FIELDS)) -> dict[str, Any]:
    """Columns of one layout over one-dimensional arrays of points.

    Parameters: points, attention, rivals, chips, baseline: as of
    :func:`simkit.study.evaluate.evaluate_group`; names: the columns that are wanted.
    """
    layout = parse_layout(attention, points.model)
    count = points.shape[0]
    if points.scenario.pools is not None and points.proposes is None:
        return PooledPoints.of(points, compared(layout, rivals, points.model, chips), chips).shortest(
            layout, baseline=baseline).select(names)
    if count == 1:
        points = replace(points, batch=points.batch.item(), kv_len=points.kv_len.item(), q_len=points.q_len.item())
    machine = points.chips_for(compared(layout, rivals, points.model, chips), chips)
    runs = [(points, machine, 1)] if count == 1 else _runs(points, machine)
    parts = [on_machine(piece, layout, shared, baseline=baseline, shape=(length,)).select(names)
             for piece, shared, length in runs]
    return parts[0] if len(parts) == 1 else {name: _joined([part[name] for part in parts]) for name in names}


def _joined(parts: list[Any]) -> Any:
    """One column of several; of equal constants a constant, which takes the room of one value."""
    first = parts[0][0]
    unknown = first != first  # noqa: PLR0124 - NaN is not itself
    if all(part.strides == (0,) and (part[0] == first or (unknown and part[0] != part[0])) for part in parts):
        return np.broadcast_to(parts[0][:1], sum(len(part) for part in parts))
    return np.concatenate(parts)


def _runs(points: Points, machine: Machine) -> Iterator[tuple[Points, Machine, int]]:
    """Long runs of equal numbers with these as numbers, and what lies between them as arrays."""
    count = points.shape[0]
    numbers = [np.broadcast_to(np.asarray(values, dtype=float), count) for values in (
        points.batch, points.q_len, machine.chips, machine.tp, machine.pp, machine.overflow)]
    changes: Any = np.zeros(max(count - 1, 0), dtype=bool)
    for values in numbers:
        if values.strides != (0,):
            changes = changes | (values[1:] != values[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.concatenate([starts[1:], [count]])
    done = 0
    long_enough = np.flatnonzero(ends - starts >= LONG_RUN)
    for start, end in zip(starts[long_enough].tolist(), ends[long_enough].tolist(), strict=True):
        if done < start:
            yield _between(points, machine, done, start)
        batch, q_len, chips, tp, pp, overflow = (float(values[start]) for values in numbers)
        yield (replace(points.take(slice(start, end)), batch=batch, q_len=q_len),
               replace(machine, chips=chips, tp=tp, pp=pp, overflow=bool(overflow)), end - start)
        done = end
    if done < count:
        yield _between(points, machine, done, count)


def _between(points: Points, machine: Machine, start: int, end: int) -> tuple[Points, Machine, int]:
    def cut(values: Any) -> Any:
        return values[start:end] if np.ndim(values) else values

    return points.take(slice(start, end)), replace(
        machine, chips=cut(machine.chips), tp=cut(machine.tp), pp=cut(machine.pp),
        overflow=cut(machine.overflow)), end - start


def decode_step(hardware: Any, model: Any, *, attention: Any = "as-trained", batch: Any = 1, kv_len: Any = 4096,
                q_len: Any = 1, kv_dtype: Any = "bf16", weight_dtype: Any = "bf16", chips: Any = FIT,
                tp: int | None = None, pp: int | None = None, engine: str = DEFAULT,
                overrides: Mapping[str, str] | None = None, profiles: Path | str | None = None,
                assume: str | None = None, baseline: bool = True, fields: Sequence[str] | None = None,
                **scenario: Any) -> Columns:
    """Predict decode steps; arguments broadcast like NumPy arrays.

    Parameters
    ----------
    hardware: profile names, paths or :class:`HardwareProfile` objects.
    model: model names, paths or :class:`ModelArchitecture` objects.
    attention: layouts (``as-trained``, ``mha``, ``gqa-K``, ``mqa``, ``mla``, ``gta-K``, ``gla-K``).
    batch, kv_len, q_len: sequences, cached tokens a sequence, query tokens a sequence; numbers of at least 1.
    kv_dtype, weight_dtype: element formats (``bf16``, ``fp8``, ``int4``, ``int4-g128``).
    chips: a number; ``fit``: those of least cost of a token on which every layout of this call fits; ``fit-each``: for
        each layout alone; ``fewest``; ``up-to-N``: the fastest of at most N.
    tp, pp: chips that share a layer, pipeline stages; left open they follow from ``chips``.
    engine: ``roofline`` or ``replay``.
    overrides: profile values by dotted key, as after ``--set``.
    profiles: a folder whose profiles are looked up before the shipped ones.
    assume: what stands for parameters that a profile does not state: ``priors`` of its class, or ``ideal``. A profile
        that is given loaded has been told so by :func:`simkit.load_hardware`.
    baseline: also time MHA on the same chips, for the ``speedup_vs_mha`` columns.
    fields: the columns that are wanted; None: all of :data:`simkit.study.record.FIELDS`. Those of
        :data:`simkit.study.causes.CAUSE_FIELDS` and :data:`simkit.study.own_batch.OWN_BATCH_FIELDS` are given when
        they are named. Many points take less time and memory
        with few columns.
    scenario: one value each of ``eviction, layer_budgets, page, reserve, lengths, attention_kernel,
        cache_order, attention_sharding, ep, expert_load, speculation, encoder_len, comparison, owned``, and of a second
        pool of chips ``ffn, between, with_attention, micro_batches``, in the words of
        :func:`simkit.study.scenario.parse_scenario`.

    Returns arrays of the broadcast shape, a dict keyed by the names in :data:`simkit.study.record.FIELDS`; those
    that only repeat the arguments cannot be written to.
    Times of points that do not fit are NaN; their bytes are not. Raises :class:`UserError` on bad input.
    """
    wanted = _wanted(fields)
    coded = [_factorise(value) for value in (hardware, model, attention, kv_dtype, weight_dtype)]
    kinds = [kind for kind, _ in coded]
    numbers = [checked_numbers(name, value) for name, value in (("batch", batch), ("kv_len", kv_len), ("q_len", q_len))]
    shape = _shape([*(codes for _, codes in coded), *numbers])
    if assume is not None and any(isinstance(value, HardwareProfile) for value in kinds[0]):
        raise UserError("assume goes with a profile's name; a loaded one was told: load_hardware(..., assume=...)")
    chip_of = [value if isinstance(value, HardwareProfile) else load_hardware(
        value, overrides=overrides, profiles=profiles, assume=assume) for value in kinds[0]]
    model_of = [value if isinstance(value, ModelArchitecture) else load_model(value) for value in kinds[1]]
    timer = engine_named(engine)

    count = int(np.prod(shape))
    flat = [np.broadcast_to(values, shape).reshape(-1) for values in numbers]
    keys, members, key_of = _groups([codes for _, codes in coded], [len(kind) for kind in kinds], shape)
    columns = {name: _Column(count) for name in wanted}
    for number, (key, where) in enumerate(zip(keys, members, strict=True)):
        rivals = [str(kinds[2][other]) for other in sorted({other[2] for other in keys if other[:2] == key[:2]})]
        chosen = parse_scenario(kv_dtype=str(kinds[3][key[3]]), weight_dtype=str(kinds[4][key[4]]), **scenario)
        # Chunks bound the memory of a sweep and keep the arrays of one operator in cache.
        for part in _chunks(where):
            points = Points(hardware=chip_of[key[0]], model=model_of[key[1]], scenario=chosen, engine=timer,
                            batch=flat[0][part], kv_len=flat[1][part], q_len=flat[2][part], tp=tp, pp=pp)
            found = group_columns(points, str(kinds[2][key[2]]), rivals=rivals, chips=chips,
                                  baseline=baseline, names=wanted)
            if len(points.batch) == count:
                return Columns({name: column.reshape(shape) for name, column in found.items()})
            for name, column in found.items():
                columns[name].put(number, part, column)
    return Columns({name: column.whole(key_of, shape) for name, column in columns.items() if count})


def checked_numbers(name: str, values: Any) -> Any:
    """Whole or fractional numbers of at least 1 and of this world's size."""
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected numbers of at least 1") from None
    most = MOST_BATCH if name == "batch" else MOST_TOKENS
    least, largest = (numbers.min(), numbers.max()) if numbers.size else (1.0, 1.0)
    if not (least >= 1 and largest < np.inf):
        raise UserError(f"{name}: expected numbers of at least 1")
    if largest > most:
        raise UserError(f"{name}: {largest:g} is beyond {most:g}")
    return numbers


class _Column:
    """One column, put together part by part; where a group is constant, it takes the room of one value."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._constants: dict[int, Any] = {}
        self._parts: list[tuple[int, Any]] = []
        self._values: Any = None

    def put(self, group: int, where: Any, values: Any) -> None:
        """The values of some points of a group."""
        if self._values is None and values.strides == (0,):
            value = self._constants.setdefault(group, values[0])
            if value == values[0] or (value != value and values[0] != values[0]):  # noqa: PLR0124 - NaN is not itself
                self._parts.append((group, where))
                return
        if self._values is None:
            self._values = np.empty(self._count, dtype=values.dtype)
            for earlier, place in self._parts:
                self._values[place] = self._constants[earlier]
        self._values[where] = values

    def whole(self, group_of: Any, shape: tuple[int, ...]) -> Any:
        """All points; ``group_of`` broadcasts to their groups."""
        if self._values is not None:
            return self._values.reshape(shape)
        constants = [self._constants[group] for group in range(len(self._constants))]
        text = any(isinstance(value, str) for value in constants)
        return np.broadcast_to(np.array(constants, dtype=object if text else None)[group_of], shape)


def _wanted(fields: Sequence[str] | None) -> list[str]:
    if isinstance(fields, str):
        raise UserError(f"fields: '{fields[:40]}' is one name: give a list of names")
    for name in fields or ():
        if name not in ASKED_FOR:
            raise UserError(f"fields: no column is called '{str(name)[:40]}'", hint=did_you_mean(str(name), ASKED_FOR))
    return list(FIELDS if fields is None else fields)


def _factorise(value: Any) -> tuple[list[Any], Any]:
    """Distinct values in order of appearance, and an array of each one's index among them."""
    if isinstance(value, str | HardwareProfile | ModelArchitecture):
        return [value], np.zeros((), dtype=np.int64)
    array = np.asarray(value, dtype=object)
    # Profiles hold tables of rates and have no hash: an object is told apart by being itself.
    seen: dict[Any, int] = {}
    kinds: list[Any] = []
    codes = np.empty(array.size, dtype=np.int64)
    for place, item in enumerate(array.ravel().tolist()):
        code = seen.setdefault(item if isinstance(item, str) else id(item), len(kinds))
        if code == len(kinds):
            kinds.append(item)
        codes[place] = code
    return kinds, codes.reshape(array.shape)


def _shape(arrays: list[Any]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays if array.shape)
        raise UserError(f"the arguments' shapes {shapes} do not broadcast together") from None


def _groups(codes: list[Any], sizes: list[int],
            shape: tuple[int, ...]) -> tuple[list[tuple[int, ...]], list[Any], Any]:
    """Points that share profile, model, layout and formats: the codes of each group, where its points stand (a slice,
    or indices), and an array that broadcasts to each point's group.
    """
    count = int(np.prod(shape))
    if max(sizes) == 1 or not count:
        return ([(0,) * len(sizes)], [slice(0, count)], np.zeros((), dtype=np.int64)) if count else ([], [], None)
    named = np.ravel_multi_index(np.broadcast_arrays(*codes), sizes)
    present, inverse = np.unique(named, return_inverse=True)
    keys = [tuple(int(part) for part in np.unravel_index(code, sizes)) for code in present]
    key_of = inverse.reshape(named.shape)
    # A stable sort of small whole numbers takes time in proportion to their count.
    number = np.broadcast_to(key_of.astype(np.min_scalar_type(len(keys))), shape).reshape(-1)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(keys)))
    members = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return keys, [slice(int(part[0]), int(part[-1]) + 1) if part[-1] - part[0] + 1 == len(part) else part
                  for part in members], key_of


def _chunks(where: Any) -> Iterator[Any]:
    if not isinstance(where, slice):
        yield from np.split(where, range(CHUNK_POINTS, len(where), CHUNK_POINTS))
        return
    for start in range(where.start, where.stop, CHUNK_POINTS):
        yield slice(start, min(start + CHUNK_POINTS, where.stop))
