"""Parts of a sweep as bytes, Parquet or CSV, and parts joined to one file. The same points give the same bytes.

Parquet: text columns are dictionary-encoded strings, counts 64-bit integers, the rest float64; what cannot be known
is null. CSV is what ``simkit simulate --format csv`` writes. Parts are what a resumed run keeps, so nothing in them
may depend on time, place, or on which worker made them.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.output import csv_text
from simkit.study.record import WHOLE, to_records

Form = Literal["parquet", "csv"]
FORMS: Final[tuple[Form, ...]] = ("parquet", "csv")
# Rows of a row group: a part of the closed-form engine's is one. Smaller parts are gathered until they make one.
ROW_GROUP_POINTS: Final = 131_072
_INTEGERS: Final = frozenset({"chips", "n_q_heads", "n_kv_heads", "batch", "kv_len", "q_len"})
# A chunk is of one chip, model, format, layout and engine.
_NAMES: Final = frozenset({"hardware", "model", "attention", "kv_dtype", "weight_dtype", "engine"})
# Columns of few values: a dictionary of them is smaller, and others would only try one in vain.
_REPEATING: Final = frozenset({*_INTEGERS, "tp", "pp", "kv_copies", "weight_read_bytes", "arithmetic_intensity",
                               "max_batch"})
# Least and most of a row group, by which readers skip it, of what is asked for: they cost as much as packing a column.
_ASKED_BY: Final = (*sorted(_NAMES), *sorted(_INTEGERS))
_CODEC: Final[dict[str, Any]] = {"compression": "zstd", "compression_level": 1}


def form_of(output: Path) -> Form:
    """The form that a file's name asks for. Raises :class:`UserError` for another, or when its extra is missing."""
    suffix = output.suffix.lstrip(".").lower()
    for form in FORMS:
        if suffix == form:
            if form == "parquet" and find_spec("pyarrow") is None:
                raise UserError(f"{output}: Parquet needs pyarrow: pip install 'simkit[parquet]'",
                                hint="or name a .csv file")
            return form
    raise UserError(f"{str(output)[:200]}: expected a .parquet or .csv file", hint=did_you_mean(suffix, FORMS))


def encode(chunks: Iterable[dict[str, Any]], form: Form) -> bytes:
    """The bytes of one part."""
    if form == "csv":
        lines: list[str] = []
        for columns in chunks:
            shown = {name: column if column.ndim == 1 else np.ravel(column)  # a copy would not know that it is constant
                     for name, column in columns.items() if not name.startswith("_")}
            lines = lines or [",".join(shown)]
            lines += map(",".join, zip(*(_cells(name, column) for name, column in shown.items()), strict=True))
        return "\n".join([*lines, ""]).encode()
    import pyarrow as pa

    table = pa.Table.from_batches([_batch(columns) for columns in chunks]).unify_dictionaries().combine_chunks()
    sink = io.BytesIO()
    with _parquet_writer(sink, table.schema, statistics=()) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_POINTS)
    return sink.getvalue()


def _cells(name: str, column: Any) -> list[str]:
    """What :func:`simkit.foundation.output.csv_text` writes of a column of records, a column at a time."""
    def text_of(value: Any) -> str:
        ((_, plain),) = to_records({name: np.array([value], dtype=column.dtype)})[0].items()
        return csv_text([{name: plain, "": None}]).split("\n", 1)[1][:-2]

    if column.strides == (0,):
        return [text_of(column[0])] * len(column)
    if column.dtype.kind != "f":
        known = {value: text_of(value) for value in dict.fromkeys(column.tolist())}
        return [known[value] for value in column.tolist()]
    finite = np.isfinite(column)
    filled = column if finite.all() else np.where(finite, column, 0.0)
    whole = (filled == np.trunc(filled)) & (name in WHOLE)
    if whole.all() and (np.abs(filled) < 2.0**62).all():
        texts = list(map(str, filled.astype(np.int64).tolist()))
    elif whole.any():
        texts = [str(int(value)) if one else repr(value) for value, one in zip(
            filled.tolist(), whole.tolist(), strict=True)]
    else:
        texts = list(map(repr, filled.tolist()))
    for place in np.flatnonzero(~finite).tolist():
        texts[place] = ""
    return texts


def join(parts: Iterable[Path], target: Path, form: Form) -> None:
    """Write one file from parts in their order, as they come."""
    if form == "csv":
        with target.open("wb") as stream:
            for place, part in enumerate(parts):
                with part.open("rb") as piece:
                    if place:
                        piece.readline()  # the header stands once
                    shutil.copyfileobj(piece, stream, 1 << 20)
        return
    writer: Any = None
    try:
        for table in _row_groups(_tables(parts)):
            if writer is None:
                writer = _parquet_writer(str(target), table.schema)
            writer.write_table(table, row_group_size=ROW_GROUP_POINTS)
    finally:
        if writer is not None:
            writer.close()


def _parquet_writer(sink: Any, schema: Any, *, statistics: tuple[str, ...] = _ASKED_BY) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeating = [field.name for field in schema if pa.types.is_dictionary(field.type) or field.name in _REPEATING]
    # Without Arrow's own schema a reader sees plain strings, as any other writer of Parquet would have left them.
    return pq.ParquetWriter(sink, schema, use_dictionary=repeating, store_schema=False,
                            write_statistics=list(statistics) or False, **_CODEC)


def _batch(columns: dict[str, Any]) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_pydict({name: _array(name, column if column.ndim == 1 else np.ravel(column))
                                      for name, column in columns.items()})


def _array(name: str, column: Any) -> Any:
    """One column in its fixed type; the type never depends on the values."""
    import pyarrow as pa

    if column.dtype.kind in "OU":
        if name in _NAMES:
            return pa.DictionaryArray.from_arrays(np.zeros(len(column), dtype=np.int32), pa.array([column[0]]))
        texts = np.where(column == "", None, column.astype(object))
        return pa.array(texts, type=pa.string()).dictionary_encode()
    if column.dtype.kind == "b":
        return pa.array(column)
    known = np.isfinite(column)
    mask = None if known.all() else ~known
    if name in _INTEGERS:
        return pa.array(np.where(known, column, 0).astype(np.int64), mask=mask)
    return pa.array(np.asarray(column, dtype=np.float64), mask=mask)


def _tables(parts: Iterable[Path]) -> Iterator[Any]:
    """Each part as a table, the next one read while the last is written."""
    def read(path: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            texts = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            return file.read(use_threads=False)

    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for part in parts:
            last, ahead = ahead, reader.submit(read, part)
            if last is not None:
                yield last.result()
        if ahead is not None:
            yield ahead.result()


def _row_groups(tables: Iterator[Any]) -> Iterator[Any]:
    """Tables gathered to whole row groups, so that small parts leave no trace in the file."""
    import pyarrow as pa

    waiting: list[Any] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= ROW_GROUP_POINTS:
            gathered = pa.concat_tables(waiting)
            yield gathered.slice(0, ROW_GROUP_POINTS).unify_dictionaries().combine_chunks()
            rest = gathered.slice(ROW_GROUP_POINTS)
            waiting, rows = ([rest] if rest.num_rows else []), rest.num_rows
    if rows:
        yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
