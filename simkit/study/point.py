"""One question over many points: profile, model, layout and workload in, columns of the common vocabulary out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import ModelArchitecture
from simkit.model.catalog import load_model
from simkit.study.evaluate import ENGINES, FIT, FIT_EACH, Evaluated, evaluate_group
from simkit.study.scenario import parse_scenario

__all__ = ["ENGINES", "FIT", "FIT_EACH", "Evaluated", "decode_step", "evaluate_group"]

MOST_BATCH, MOST_TOKENS = 1e9, 1e10
CHUNK_POINTS: Final = 8192


def decode_step(hardware: Any, model: Any, *, attention: Any = "as-trained", batch: Any = 1, kv_len: Any = 4096,
                q_len: Any = 1, kv_dtype: Any = "bf16", weight_dtype: Any = "bf16", chips: Any = FIT,
                tp: int | None = None, pp: int | None = None, engine: str = "roofline",
                overrides: Mapping[str, str] | None = None, profiles: Path | str | None = None,
                baseline: bool = True, **scenario: Any) -> dict[str, Any]:
    """Predict decode steps; arguments broadcast like NumPy arrays.

    Parameters
    ----------
    hardware: profile names, paths or :class:`HardwareProfile` objects.
    model: model names, paths or :class:`ModelArchitecture` objects.
    attention: layouts (``as-trained``, ``mha``, ``gqa-K``, ``mqa``, ``mla``, ``gta-K``, ``gla-K``).
    batch, kv_len, q_len: sequences, cached tokens a sequence, query tokens a sequence; numbers of at least 1.
    kv_dtype, weight_dtype: element formats (``bf16``, ``fp8``, ``int4``, ``int4-g128``).
    chips: a number, ``fit`` (the fewest on which every layout of this call fits) or ``fit-each``.
    tp, pp: chips that share a layer, pipeline stages; left open they follow from ``chips``.
    engine: ``roofline``.
    overrides: profile values by dotted key, as after ``--set``.
    profiles: a folder whose profiles are looked up before the shipped ones.
    baseline: also time MHA on the same chips, for the ``speedup_vs_mha`` columns.
    scenario: one value each of ``eviction, layer_budgets, page, reserve, lengths, attention_kernel,
        cache_order, attention_sharding, ep, speculation, encoder_len``, in the words of
        :func:`simkit.study.scenario.parse_scenario`.

    Returns a dict of arrays of the broadcast shape, keyed by the names in :data:`simkit.study.record.FIELDS`.
    Times of points that do not fit are NaN; their bytes are not. Raises :class:`UserError` on bad input.
    """
    named = {"hardware": hardware, "model": model, "attention": attention, "kv_dtype": kv_dtype,
             "weight_dtype": weight_dtype}
    numbers = {"batch": batch, "kv_len": kv_len, "q_len": q_len}
    coded = {name: _factorise(value) for name, value in named.items()}
    arrays = _broadcast([codes for _, codes in coded.values()] + [np.asarray(value) for value in numbers.values()])
    shape = arrays[0].shape
    values = {name: _checked(name, array.ravel()) for name, array in zip(numbers, arrays[5:], strict=True)}
    kinds = {name: kind for name, (kind, _) in coded.items()}
    hardware_of = [_hardware(name, overrides, profiles) for name in kinds["hardware"]]
    model_of = [_model(name) for name in kinds["model"]]

    columns: dict[str, Any] = {}
    keys, members_of = _groups(arrays[:5], [len(kind) for kind in kinds.values()])
    for key, members in zip(keys, members_of, strict=True):
        chip, shape_of_model = hardware_of[key[0]], model_of[key[1]]
        rivals = sorted({other[2] for other in keys if other[:2] == key[:2]})
        chosen = parse_scenario(kv_dtype=str(kinds["kv_dtype"][key[3]]),
                                weight_dtype=str(kinds["weight_dtype"][key[4]]), **scenario)
        # Chunks bound the memory of a sweep and keep the arrays of one operator in cache.
        for where in np.split(members, range(CHUNK_POINTS, len(members), CHUNK_POINTS)):
            group = evaluate_group(
                chip, shape_of_model, str(kinds["attention"][key[2]]),
                rivals=[str(kinds["attention"][rival]) for rival in rivals],
                scenario=chosen,
                batch=values["batch"][where], kv_len=values["kv_len"][where], q_len=values["q_len"][where],
                chips=chips, tp=tp, pp=pp, engine=engine, baseline=baseline)
            for name, column in group.columns.items():
                if name not in columns:
                    columns[name] = np.empty(len(values["batch"]), dtype=column.dtype)
                columns[name][where] = column
    return {name: column.reshape(shape) for name, column in columns.items()}


def _factorise(value: Any) -> tuple[list[Any], Any]:
    """Distinct values in order of appearance, and an array of each one's index among them."""
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


def _broadcast(arrays: list[Any]) -> list[Any]:
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays if array.shape)
        raise UserError(f"the arguments' shapes {shapes} do not broadcast together") from None


def _groups(codes: list[Any], sizes: list[int]) -> tuple[list[tuple[int, ...]], list[Any]]:
    """Points that share profile, model, layout and formats: their codes, and where they stand."""
    flat = np.ravel_multi_index([array.ravel() for array in codes], sizes) if max(sizes, default=1) > 1 else None
    if flat is None:
        return [(0,) * len(sizes)], [np.arange(codes[0].size)] if codes[0].size else []
    present, inverse = np.unique(flat, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    keys = [tuple(int(part) for part in np.unravel_index(code, sizes)) for code in present]
    return keys, members


def _hardware(value: Any, overrides: Mapping[str, str] | None, profiles: Path | str | None) -> HardwareProfile:
    return value if isinstance(value, HardwareProfile) else load_hardware(value, overrides=overrides, profiles=profiles)


def _model(value: Any) -> ModelArchitecture:
    return value if isinstance(value, ModelArchitecture) else load_model(value)


def _checked(name: str, values: Any) -> Any:
    """Whole or fractional numbers of at least 1 and of this world's size."""
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected numbers of at least 1") from None
    most = MOST_BATCH if name == "batch" else MOST_TOKENS
    if not (np.all(np.isfinite(numbers)) and np.all(numbers >= 1)):
        raise UserError(f"{name}: expected numbers of at least 1")
    if np.any(numbers > most):
        raise UserError(f"{name}: {np.max(numbers):g} is beyond {most:g}")
    return numbers
