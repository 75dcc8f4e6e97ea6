"""One question over many points: profile, model, layout and workload in, columns of the common vocabulary out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.catalog import load_model
from simkit.study.constant_runs import group_columns
from simkit.study.engines import DEFAULT, engine_named
from simkit.study.evaluate import FIT, Points
from simkit.study.grid import CHUNK_POINTS
from simkit.study.record import FIELDS
from simkit.study.scenario import parse_scenario

MOST_BATCH, MOST_TOKENS = 1e9, 1e10


def decode_step(hardware: Any, model: Any, *, attention: Any = "as-trained", batch: Any = 1, kv_len: Any = 4096,
                q_len: Any = 1, kv_dtype: Any = "bf16", weight_dtype: Any = "bf16", chips: Any = FIT,
                tp: int | None = None, pp: int | None = None, engine: str = DEFAULT,
                overrides: Mapping[str, str] | None = None, profiles: Path | str | None = None,
                baseline: bool = True, fields: Sequence[str] | None = None, **scenario: Any) -> dict[str, Any]:
    """Predict decode steps; arguments broadcast like NumPy arrays.

    Parameters
    ----------
    hardware: profile names, paths or :class:`HardwareProfile` objects.
    model: model names, paths or :class:`ModelArchitecture` objects.
    attention: layouts (``as-trained``, ``mha``, ``gqa-K``, ``mqa``, ``mla``).
    batch, kv_len, q_len: sequences, cached tokens a sequence, query tokens a sequence; numbers of at least 1.
    kv_dtype, weight_dtype: element formats (``bf16``, ``fp8``, ``int4``, ``int4-g128``).
    chips: a number, ``fit`` (the fewest on which every layout of this call fits) or ``fit-each``.
    tp, pp: chips that share a layer, pipeline stages; left open they follow from ``chips``.
    engine: ``roofline`` or ``replay``.
    overrides: profile values by dotted key, as after ``--set``.
    profiles: a folder whose profiles are looked up before the shipped ones.
    baseline: also time MHA on the same chips, for the ``speedup_vs_mha`` columns.
    fields: the columns that are wanted; None: all of :data:`simkit.study.record.FIELDS`. Many points take less time
        and memory with few columns.
    scenario: one value each of ``eviction, layer_budgets, page, reserve, lengths, attention_kernel,
        cache_order, attention_sharding, ep, speculation, encoder_len``, in the words of
        :func:`simkit.study.scenario.parse_scenario`.

    Returns a dict of arrays of the broadcast shape, keyed by the names in :data:`simkit.study.record.FIELDS`; those
    that only repeat the arguments cannot be written to.
    Times of points that do not fit are NaN; their bytes are not. Raises :class:`UserError` on bad input.
    """
    wanted = _wanted(fields)
    coded = [_factorise(value) for value in (hardware, model, attention, kv_dtype, weight_dtype)]
    kinds = [kind for kind, _ in coded]
    numbers = [_checked(name, value) for name, value in (("batch", batch), ("kv_len", kv_len), ("q_len", q_len))]
    shape = _shape([*(codes for _, codes in coded), *numbers])
    chip_of = [value if isinstance(value, HardwareProfile) else load_hardware(value, overrides=overrides,
                                                                              profiles=profiles) for value in kinds[0]]
    model_of = [value if isinstance(value, ModelArchitecture) else load_model(value) for value in kinds[1]]
    timer = engine_named(engine)

    count = int(np.prod(shape))
    flat = [np.broadcast_to(values, shape).reshape(-1) for values in numbers]
    # What only repeats an argument takes the argument's room.
    given = {name: np.broadcast_to(values, shape) for name, values in (
        ("hardware", np.array([*(chip.name for chip in chip_of), None], dtype=object)[coded[0][1]]),
        ("model", np.array([*(one.name for one in model_of), None], dtype=object)[coded[1][1]]),
        ("batch", numbers[0]), ("kv_len", numbers[1]))}
    computed = [name for name in wanted if name not in given]
    columns: dict[str, Any] = {}
    keys, members = _groups([codes for _, codes in coded], [len(kind) for kind in kinds], shape)
    for key, where in zip(keys, members, strict=True):
        rivals = [str(kinds[2][other]) for other in sorted({other[2] for other in keys if other[:2] == key[:2]})]
        chosen = parse_scenario(kv_dtype=str(kinds[3][key[3]]), weight_dtype=str(kinds[4][key[4]]), **scenario)
        # Chunks bound the memory of a sweep and keep the arrays of one operator in cache.
        for part in _chunks(where):
            points = Points(hardware=chip_of[key[0]], model=model_of[key[1]], scenario=chosen, engine=timer,
                            batch=flat[0][part], kv_len=flat[1][part], q_len=flat[2][part])
            found = group_columns(points, str(kinds[2][key[2]]), rivals=rivals, chips=chips, tp=tp, pp=pp,
                                  baseline=baseline, names=computed)
            for name, column in found.items():
                if name not in columns:
                    columns[name] = np.empty(count, dtype=column.dtype)
                columns[name][part] = column
    return {name: given[name] if name in given else columns[name].reshape(shape) for name in wanted if count}


def _wanted(fields: Sequence[str] | None) -> list[str]:
    for name in fields or ():
        if name not in FIELDS:
            raise UserError(f"fields: no column is called '{str(name)[:40]}'", hint=did_you_mean(str(name), FIELDS))
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
            shape: tuple[int, ...]) -> tuple[list[tuple[int, ...]], list[Any]]:
    """Points that share profile, model, layout and formats: their codes, and where they stand (a slice, or indices)."""
    count = int(np.prod(shape))
    if max(sizes) == 1 or not count:
        return [(0,) * len(sizes)] if count else [], [slice(0, count)] if count else []
    named = np.ravel_multi_index(np.broadcast_arrays(*codes), sizes)
    present, inverse = np.unique(named, return_inverse=True)
    keys = [tuple(int(part) for part in np.unravel_index(code, sizes)) for code in present]
    number = np.broadcast_to(inverse.reshape(named.shape), shape).reshape(-1)
    # A stable sort of small whole numbers takes time in proportion to their count.
    small = number.astype(np.min_scalar_type(len(keys)))
    order = np.argsort(small, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(keys)))
    members = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return keys, [slice(int(part[0]), int(part[-1]) + 1) if part[-1] - part[0] + 1 == len(part) else part
                  for part in members]


def _chunks(where: Any) -> Iterator[Any]:
    if not isinstance(where, slice):
        yield from np.split(where, range(CHUNK_POINTS, len(where), CHUNK_POINTS))
        return
    for start in range(where.start, where.stop, CHUNK_POINTS):
        yield slice(start, min(start + CHUNK_POINTS, where.stop))


def _checked(name: str, values: Any) -> Any:
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
