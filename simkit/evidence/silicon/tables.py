"""Tables of measured kernels: which kinds there are, told apart by their columns, and reading them without surprises.

The columns are those of the tables that NVIDIA AIConfigurator's measurements were reduced to; ``latency_us*`` are
microseconds of one kernel, looped alone. Anybody's own timings with the same columns read the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from simkit.foundation.csv_rows import table_rows
from simkit.foundation.errors import Location, UserError, did_you_mean
from simkit.foundation.input_file import read_text

Kind = Literal["decode_attention", "decode_mla", "decode_gemm", "decode_moe", "allreduce", "decode_sparse_attention",
               "decode_linear_attention", "prefill_attention", "prefill_gemm", "expert_dispatch"]
PROMPTS: Final[tuple[Kind, ...]] = ("prefill_attention", "prefill_gemm")
LAYERS: Final[tuple[Kind, ...]] = ("decode_sparse_attention", "decode_linear_attention", *PROMPTS)
EXCHANGES: Final[tuple[Kind, ...]] = ("expert_dispatch", "allreduce")
KINDS: Final[tuple[Kind, ...]] = (*LAYERS, "decode_attention", "decode_mla", "decode_gemm", "decode_moe", *EXCHANGES)
TARGETS: Final = ("best", "sglang", "trtllm", "vllm")
FRAMEWORKS: Final = ("sglang", "trtllm", "vllm")

_TEXTS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType({
    "decode_attention": ("system", "kv_dtype"), "decode_mla": ("system", "dtype", "kv_dtype"),
    "decode_gemm": ("system", "dtype"), "decode_moe": ("system", "dtype", "distribution"),
    "allreduce": ("system", "dtype"),
    "decode_sparse_attention": ("system", "framework", "op", "kernel", "model", "weight_dtype", "kv_dtype"),
    "decode_linear_attention": ("system", "framework", "op", "kernel"),
    "prefill_attention": ("system", "framework", "kernel", "kv_dtype"),
    "prefill_gemm": ("system", "framework", "kernel", "dtype"),
    "expert_dispatch": ("system", "mode", "exchange")})
_COUNTS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType({
    "decode_attention": ("head_dim", "n_q_heads", "n_kv_heads", "batch", "kv_len"),
    "decode_mla": ("n_q_heads", "batch", "kv_len"), "decode_gemm": ("m", "n", "k"),
    "decode_moe": ("tokens", "hidden_size", "expert_size", "top_k", "experts", "moe_tp", "moe_ep"),
    "allreduce": ("chips", "elements"), "decode_sparse_attention": ("n_q_heads", "q_len", "batch", "kv_len"),
    "decode_linear_attention": ("n_k_heads", "k_head_dim", "n_v_heads", "v_head_dim", "state_dim", "conv_width",
                                "n_groups", "batch", "q_len"),
    "prefill_attention": ("n_q_heads", "n_kv_heads", "head_dim", "window", "batch", "q_len", "kv_len_before"),
    "prefill_gemm": ("m", "n", "k"),
    "expert_dispatch": ("nodes", "tokens", "hidden_size", "top_k", "experts", "sms")})
_MAY_BE_ZERO: Final = ("window", "kv_len_before")
# What stands for a cell that a row leaves empty: groups are Mamba-2's alone, few rows are sent by no unit of the chip.
_EMPTY: Final[Mapping[str, str]] = MappingProxyType({"n_groups": "1", "sms": "1"})
# What measurements call a format, and what simkit calls it.
FORMATS: Final[Mapping[str, str]] = MappingProxyType({
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "fp8": "fp8",
    "float8": "fp8", "fp8_e4m3": "fp8", "fp8_block": "fp8", "int8": "int8", "float32": "fp32", "fp32": "fp32",
    "nvfp4": "fp4", "w4a8_mxfp4_mxfp8": "fp4", "w4a16_mxfp4": "int4", "int4_wo": "int4", "sq": "int8",
    "int8_wo": "int8"})
ELEMENT_BYTES: Final[Mapping[str, float]] = MappingProxyType({
    "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp32": 4.0, "fp4": 0.5, "int4": 0.5})
DISTRIBUTION: Final = re.compile(r"balanced|power_law_(?!1(\.0*)?$)\d(\.\d{1,6})?")  # exponent 1 has no power law
SMALLEST: Final = 1e-9  # no latency is below it, in microseconds: less would be 0 in seconds
LARGEST: Final = 1e12
# The largest table, 100,907 kernels, has 5 MB.
MOST_BYTES: Final = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTimes:
    """Rows of one kind of kernel, by column: texts, whole numbers as floats, and ``time_s`` as measured.

    ``unmeasured`` counts rows of the file that say nothing about the target. ``measured_by`` has a mask for each
    software library that the target may come from: which rows it was measured on. Without one, any may have run.
    """

    kind: Kind
    name: str
    columns: Mapping[str, Any] = field(repr=False)
    time_s: Any = field(repr=False)
    unmeasured: int = 0
    measured_by: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, where: Any) -> MeasuredTimes:
        """The rows of an index or mask."""
        return replace(self, columns={name: column[where] for name, column in self.columns.items()},
                       time_s=self.time_s[where],
                       measured_by={name: mask[where] for name, mask in self.measured_by.items()})

    def of_system(self, system: str) -> MeasuredTimes:
        """The rows of one system."""
        return self.take(self.columns["system"] == system)

    def numbers_of(self, names: Iterable[str]) -> Any:
        """A number for each row, the same where these columns are."""
        same = np.zeros(len(self), dtype=int)
        for name in names:
            values = np.unique(self.columns[name], return_inverse=True)[1]
            same = np.unique(same * (int(values.max(initial=0)) + 1) + values, return_inverse=True)[1]
        return same

    def groups(self, names: Iterable[str]) -> Iterator[Any]:
        """The row numbers of each set of rows in which these columns are the same."""
        same = self.numbers_of(names)
        yield from (np.flatnonzero(same == one) for one in range(int(same.max(initial=-1)) + 1))

    @property
    def systems(self) -> list[str]:
        """Systems in order of appearance."""
        return list(dict.fromkeys(self.columns["system"].tolist()))


def read_table(path: Path, target: str = "best") -> MeasuredTimes:
    """The rows of a CSV or CSV.GZ file that were measured for ``target``.

    Raises :class:`UserError` with file, line and column. ``target`` chooses among the framework columns of attention
    tables; the other kinds have one latency.
    """
    if target not in TARGETS:
        raise UserError(f"unknown target '{target[:40]}': expected one of {', '.join(TARGETS)}",
                        hint=did_you_mean(target, TARGETS))
    text = read_text(path, most_bytes=MOST_BYTES, unpack=True, failure="cannot read the table")
    return parse_table(text, str(path), target)


def shipped_table(name: str, target: str = "best") -> MeasuredTimes:
    """One of the compact tables that simkit carries; ``simkit/evidence/data/silicon.README.md`` says where from."""
    text = resources.files("simkit.evidence").joinpath("data", name).read_text(encoding="utf-8")
    return parse_table(text, name, target)


def parse_table(text: str, name: str, target: str = "best") -> MeasuredTimes:
    """As :func:`read_table`, from the text of a file called ``name``."""
    lines: list[int] = []
    rows: list[list[str]] = []
    for line, cells in table_rows(text, name):
        rows.append(cells)
        lines.append(line)
    if not rows:
        raise UserError("the table is empty", where=Location(file=name, line=1), hint=_expected())
    header = [cell.strip() for cell in rows[0]]
    kind = _kind(header, name, lines[0])
    if len(set(header)) != len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise UserError(f"column '{twice}' appears twice", where=Location(file=name, line=lines[0]))
    for line, cells in zip(lines[1:], rows[1:], strict=True):
        if len(cells) != len(header):
            raise UserError(f"expected {len(header)} columns, found {len(cells)}", where=Location(file=name, line=line))
    if len(rows) == 1:
        raise UserError("the table has a header but no rows", where=Location(file=name, line=lines[0]))
    texts = {column: np.array([cell.strip() for cell in cells])
             for column, cells in zip(header, zip(*rows[1:], strict=True), strict=True)}
    at = np.array(lines[1:])
    if kind == "expert_dispatch":  # two exchanges a row
        texts = {column: np.concatenate([cells, cells]) for column, cells in texts.items()}
        half, at = len(at), np.concatenate([at, at])
        texts |= {"exchange": np.repeat(["dispatch", "combine"], half),
                  "latency_us": np.concatenate([texts["dispatch_us"][:half], texts["combine_us"][half:]])}
    time_us = _latency_us(kind, texts, target, name, at)
    measured = np.isfinite(time_us)
    columns = _checked_columns(kind, texts, name, at)
    if not measured.any():
        raise UserError(f"no row was measured for '{target}'", where=Location(file=name, line=int(at[0])))
    by = _measured_by(kind, texts, target, measured)
    table = MeasuredTimes(kind=kind, name=name, columns=columns, time_s=time_us * 1e-6,
                          unmeasured=int((~measured).sum()), measured_by=by)
    return table.take(measured)


def _checked_columns(kind: Kind, texts: Mapping[str, Any], name: str, at: Any) -> dict[str, Any]:
    """The columns of the kind, but for its latencies, as texts and numbers that mean something together."""
    columns: dict[str, Any] = {column: texts[column] for column in _TEXTS[kind]}
    for column in columns:
        if column == "distribution":
            known = np.array([DISTRIBUTION.fullmatch(str(cell)) is not None for cell in texts[column]])
            _refuse(~known, "expected balanced or power_law_X, X not 1", column, texts[column], name, at)
        elif column.endswith("dtype"):
            columns[column] = _formats(texts[column], column, name, at)
    columns |= {column: _numbers(np.where(texts[column] == "", _EMPTY.get(column, ""), texts[column]), column, name, at,
                                 whole=True) for column in _COUNTS[kind]}
    if "top_k" in columns:
        _refuse(columns["top_k"] > columns["experts"], "above experts", "top_k", texts["top_k"], name, at)
    if kind == "decode_moe":
        _refuse((columns["experts"] % columns["moe_ep"]) != 0, "does not divide experts", "moe_ep", texts["moe_ep"],
                name, at)
    if "n_kv_heads" in columns:
        _refuse((columns["n_q_heads"] % columns["n_kv_heads"]) != 0, "does not divide n_q_heads", "n_kv_heads",
                texts["n_kv_heads"], name, at)
    return columns


def _measured_by(kind: Kind, texts: Mapping[str, Any], target: str, measured: Any) -> dict[str, Any]:
    """Masks of the rows that each library was measured on, of the libraries that the target is taken from.

    Rows of which a table says only the best are nobody's in particular: any library may have run.
    """
    if kind != "decode_attention":
        return {}
    if target != "best":
        return {target: measured}
    found = {name: texts[f"latency_us_{name}"] != "" for name in FRAMEWORKS if f"latency_us_{name}" in texts}
    unknown = measured & ~np.logical_or.reduce(list(found.values())) if found else measured
    return {name: mask | unknown for name, mask in found.items()} if found else {}


def _kind(header: Sequence[str], name: str, line: int) -> Kind:
    """The kind whose columns the header has; a latency column says the rest."""
    lacking = {}
    for kind in KINDS:
        needed = [column for column in (*_TEXTS[kind], *_COUNTS[kind]) if column != "exchange"]
        needed += ["dispatch_us", "combine_us"] if kind == "expert_dispatch" else []
        lacking[kind] = [column for column in needed if column not in header]
        if not lacking[kind]:
            return kind
    nearest = min(KINDS, key=lambda kind: len(lacking[kind]) / (len(_TEXTS[kind]) + len(_COUNTS[kind])))
    missing = ", ".join(f"'{column}'" for column in lacking[nearest])
    raise UserError(f"not a table of measured kernels; nearest is {nearest}, which also has {missing}",
                    where=Location(file=name, line=line), hint=_expected())


def _expected() -> str:
    return "expected a header such as " + ",".join(
        (*_TEXTS["decode_attention"], *_COUNTS["decode_attention"], "latency_us_best"))


def _latency_us(kind: Kind, texts: Mapping[str, Any], target: str, name: str, lines: Any) -> Any:
    """Microseconds of the target; NaN where the cell is empty. ``best`` without a column of its own is the least."""
    if kind != "decode_attention":
        wanted = ["latency_us"]
    elif f"latency_us_{target}" in texts:
        wanted = [f"latency_us_{target}"]
    else:
        wanted = [column for column in texts if column.startswith("latency_us")] if target == "best" else []
    wanted = [column for column in wanted if column in texts]
    if not wanted:
        column = "latency_us" if kind != "decode_attention" else f"latency_us_{target}"
        raise UserError(f"missing column '{column}'", where=Location(file=name, line=1))
    found = np.full(len(lines), np.nan)
    for column in wanted:
        cells = texts[column]
        if kind == "decode_sparse_attention":
            # Less than a microsecond: there was nothing to choose, and no kernel ran.
            cells = np.where(np.char.startswith(cells, "0"), "", cells)
        found = np.fmin(found, _numbers(cells, column, name, lines, whole=False))
    return found


def _numbers(cells: Any, column: str, name: str, lines: Any, *, whole: bool) -> Any:
    """Positive numbers; an empty cell is NaN unless a whole number is asked for."""
    filled = np.where(cells == "", "nan", cells) if not whole else cells
    try:
        values = filled.astype(float)
    except ValueError:
        values = np.array([_one_number(cell) for cell in filled])
        _refuse(np.isinf(values), "expected a number", column, cells, name, lines)
    empty = np.zeros(len(cells), dtype=bool) if whole else cells == ""
    possible = (values >= (0.0 if column in _MAY_BE_ZERO else SMALLEST)) & (values <= LARGEST)
    _refuse(~empty & ~possible, "expected a number above 0", column, cells, name, lines)
    if whole:
        _refuse(values != np.round(values), "expected a whole number", column, cells, name, lines)
    return values


def _one_number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("inf")


def _formats(cells: Any, column: str, name: str, lines: Any) -> Any:
    known = np.isin(cells, list(FORMATS))
    _refuse(~known, f"expected one of {', '.join(FORMATS)}", column, cells, name, lines)
    found, place = np.unique(cells, return_inverse=True)
    return np.array([FORMATS[str(cell)] for cell in found])[place]


def _refuse(wrong: Any, rule: str, column: str, cells: Any, name: str, lines: Any) -> None:
    if np.any(wrong):
        first = int(np.argmax(wrong))
        raise UserError(f"{rule}, found '{str(cells[first])[:40]}'",
                        where=Location(file=name, line=int(lines[first]), key=column))
