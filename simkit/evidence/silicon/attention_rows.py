"""Measured attention kernels as the engines' operators: rows of one shape share a step, and each engine times it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from simkit.evidence.silicon.tables import MeasuredTimes
from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup, ModelArchitecture
from simkit.model.attention import parse_layout
from simkit.model.kinds.widths import Mla
from simkit.model.kv_cache import parse_format
from simkit.step.build import build_step
from simkit.step.operators import Operator
from simkit.step.workload import DecodeWorkload
from simkit.study.engines import DEFAULT, ENGINES, engine_named
from simkit.timing.engine import Alone

LibraryOperator = tuple[Any, Operator, Any]  # row numbers, their operator, and each row's library by number, or None
_MLA: Final = Mla(kv_lora_rank=512, q_lora_rank=1536, nope_head_dim=128, rope_head_dim=64, v_head_dim=128)


def attention_times_s(rows: MeasuredTimes, hardware: HardwareProfile, engine: str) -> Any:
    """Predicted seconds of each row: the kernel looped alone, its cache warm, its whole floor included."""
    return fastest_s(library_operators(rows, hardware), hardware, len(rows), engine_named(engine).alone_s)


def library_operators(rows: MeasuredTimes, hardware: HardwareProfile) -> tuple[LibraryOperator, ...]:
    """The rows' operators, a row as often as software libraries were measured on it.

    Libraries differ in which kernels they have (:class:`simkit.hardware.kernel.LibraryKernels`); a row's best time is
    the least over those that were measured. Rows of unknown libraries may have been run by any.
    """
    libraries = hardware.kernel.libraries if hardware.kernel is not None else {}
    if rows.kind != "decode_attention" or not libraries:
        return tuple((where, operator, None) for where, operator in attention_operators(rows))
    anybody = np.ones(len(rows), dtype=bool)
    known = {name: mask for name, mask in rows.measured_by.items() if name in libraries}
    ran = [known.get(name, ~anybody) if known else anybody for name in libraries]
    number, which = (np.concatenate(parts) for parts in zip(
        *((np.flatnonzero(mask), np.full(int(mask.sum()), library)) for library, mask in enumerate(ran)), strict=True))
    return tuple((number[where], operator, which[where])
                 for where, operator in attention_operators(rows.take(number)))


def fastest_s(operators: Iterable[LibraryOperator], hardware: HardwareProfile, count: int,
              alone_s: Alone = ENGINES[DEFAULT].alone_s) -> Any:
    """The least time of each of ``count`` rows over the libraries that were measured on it."""
    times = np.full(count, np.inf)
    for where, operator, which in operators:
        np.minimum.at(times, where, alone_s(operator, hardware, which))
    return times


def attention_operators(rows: MeasuredTimes) -> Iterator[tuple[Any, Operator]]:
    """Row numbers and their attention operator, arrays over the rows: one for each format and head dim."""
    found: dict[tuple[str, int], list[tuple[Any, Operator]]] = {}
    for where, operator in _by_head_count(rows):
        assert operator.attention is not None  # noqa: S101  # _by_head_count gives nothing else
        shape = (str(rows.columns["kv_dtype"][where[0]]), operator.attention.key_dim)
        found.setdefault(shape, []).append((where, operator))
    for parts in found.values():
        yield np.concatenate([where for where, _ in parts]), joined(parts)


def joined(parts: list[tuple[Any, Operator]]) -> Operator:
    """One operator of all rows of several that differ in numbers only."""
    def columns(records: list[Any]) -> dict[str, Any]:
        found = {}
        for name in (entry.name for entry in fields(records[0])):
            values = [getattr(record, name) for record in records]
            numbers = all(isinstance(value, int | float | np.ndarray | np.number) for value in values)
            if numbers and (any(np.ndim(value) for value in values) or any(value != values[0] for value in values)):
                found[name] = np.concatenate([np.broadcast_to(np.asarray(value, dtype=float), len(where))
                                              for value, (where, _) in zip(values, parts, strict=True)])
        return found

    operators = [operator for _, operator in parts]
    first = replace(operators[0], **columns(operators))
    if first.attention is not None:
        first = replace(first, attention=replace(first.attention, **columns([one.attention for one in operators])))
    if first.product is not None:
        first = replace(first, product=replace(first.product, **columns([one.product for one in operators])))
    return first


def _by_head_count(rows: MeasuredTimes) -> Iterator[tuple[Any, Operator]]:
    columns = rows.columns
    mla = rows.kind == "decode_mla"
    for where in rows.groups(("kv_dtype", "n_q_heads") if mla else ("kv_dtype", "head_dim", "n_q_heads")):
        first = where[0]
        heads = int(columns["n_q_heads"][first])
        model = one_layer(heads, _MLA.latent_dim if mla else int(columns["head_dim"][first]), _MLA if mla else None)
        layout = parse_layout("mla" if mla else "mha", model)
        workload = DecodeWorkload(
            model=model, layout=layout, n_kv_heads=np.ones(len(where)) if mla else columns["n_kv_heads"][where],
            batch=columns["batch"][where], kv_len=columns["kv_len"][where], q_len=1.0,
            kv_format=parse_format(str(columns["kv_dtype"][first])), weight_format=parse_format("bf16"))
        yield where, build_step(workload).attention_operators[0]


def one_layer(n_q_heads: int, head_dim: int, mla: Mla | None = None, window: int | None = None) -> ModelArchitecture:
    """A model of one layer of attention and nothing else."""
    return ModelArchitecture(
        name="attention", title="one attention layer", hidden_size=n_q_heads * head_dim, n_q_heads=n_q_heads,
        n_kv_heads=n_q_heads, head_dim=head_dim, layer_groups=(LayerGroup(count=1, window=window, moe=False),),
        mlp=None, moe=None, mla=mla, vocab_size=1, tied_embeddings=True)
