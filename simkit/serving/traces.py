"""Request traces from files: CSV of three kinds and Mooncake's JSONL, plain or gzip, read in bounded pieces.

=============  ==================================================  =======================================
kind           columns or keys                                     source
=============  ==================================================  =======================================
simkit         arrival_s, prompt_tokens, output_tokens
Azure          TIMESTAMP, ContextTokens, GeneratedTokens           Azure Public Dataset, LLM inference 2023
vidur          arrived_at, num_prefill_tokens, num_decode_tokens   microsoft/vidur
Mooncake       timestamp (ms), input_length, output_length         kvcache-ai/Mooncake, FAST25 traces
=============  ==================================================  =======================================

Mooncake's hash_ids, where given, number the prompt's blocks. The kind is told by the header. Arrivals count from the
first request.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from simkit.foundation.errors import Location, UserError, shorten
from simkit.foundation.input_file import open_text
from simkit.serving.requests import CHUNK_REQUESTS, Requests, Stream

_MOST_TOKENS: Final = 10**9
_LONGEST_LINE: Final = 1_000_000
_MOST_EMPTY_LINES: Final = 100_000
_KINDS: Final = {
    ("arrival_s", "prompt_tokens", "output_tokens"): "simkit",
    ("arrived_at", "num_prefill_tokens", "num_decode_tokens"): "vidur",
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): "Azure",
}
_MOONCAKE: Final = ("timestamp", "input_length", "output_length")
_EXPECTED: Final = ("expected the columns " + " or ".join(", ".join(columns) for columns in _KINDS)
                    + ", or Mooncake JSONL")

_TIMESTAMP: Final = re.compile(r"(?P<whole>[\d-]{10}[ T][\d:]{8})(?:\.(?P<digits>\d{1,12}))?(?P<zone>Z|[+-]\d\d:\d\d)?",
                              re.ASCII)

_MOST_NUMBER: Final = 2**62
# Line number, arrival in seconds, prompt tokens, output tokens, numbers of the prompt's blocks.
Row = tuple[int, float, int, int, list[int]]


def read_trace(path: Path | str) -> Stream:
    """The requests of a file; its head is read at once, the rest whenever the stream is.

    Raises :class:`UserError` with file and line for whatever is wrong, when that line is reached.
    """
    rows = _rows(str(path))
    next(rows, None)  # the header, and the first row's faults, before any work is done
    return Stream(name=Path(path).name.removesuffix(".gz"), chunks=lambda: _chunks(str(path)))


def _chunks(file: str) -> Iterator[Requests]:
    rows = _rows(file)
    first = next(rows, None)
    if first is None:
        raise UserError("holds no request", where=Location(file=file))
    rows, last = chain([first], rows), first[1]
    while held := list(islice(rows, CHUNK_REQUESTS)):
        for line, arrival_s, *_ in held:
            if arrival_s < last:
                raise UserError("requests are not in order of arrival", where=Location(file=file, line=line),
                                hint="sort the file by its first column")
            last = arrival_s
        yield _columns(held, first[1])


def _columns(rows: list[Row], first_s: float) -> Requests:
    blocks = np.array([len(row[4]) for row in rows], dtype=np.int64)
    return Requests(arrival_s=np.array([row[1] for row in rows]) - first_s,
                    prompt_tokens=np.array([row[2] for row in rows], dtype=np.int64),
                    output_tokens=np.array([row[3] for row in rows], dtype=np.int64),
                    numbers=np.array([number for row in rows for number in row[4]], dtype=np.int64),
                    first=np.cumsum(blocks) - blocks, blocks=blocks)


def _rows(file: str) -> Iterator[Row]:
    try:
        with open_text(file) as stream:
            yield from _rows_of(stream, file)
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text", where=Location(file=file)) from None
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read: {reason}", where=Location(file=shorten(file, 200))) from None


def _lines(stream: TextIO, file: str) -> Iterator[str]:
    """Lines of bounded length: a binary file without line ends must not fill memory.

    Nor may a packed one that holds nothing but line ends keep the program busy for hours.
    """
    number = empty = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        number += 1
        empty += line.isspace()
        if empty > _MOST_EMPTY_LINES:
            raise UserError(f"more than {_MOST_EMPTY_LINES:,} empty lines", where=Location(file=file, line=number))
        if len(line) > _LONGEST_LINE:
            raise UserError(f"a line longer than {_LONGEST_LINE:,} characters", where=Location(file=file, line=number))
        yield line


def _rows_of(stream: TextIO, file: str) -> Iterator[Row]:
    lines = _lines(stream, file)
    head = next(lines, None)
    if head is None:
        raise UserError("is empty", where=Location(file=file), hint=_EXPECTED)
    if head.lstrip().startswith("{"):
        yield from _mooncake(head, lines, file)
        return
    names = [name.strip() for name in next(csv.reader([head]))]
    for wanted, kind in _KINDS.items():
        if set(wanted) <= set(names):
            places = [names.index(name) for name in wanted]
            yield from _table(lines, file, kind, wanted, places)
            return
    raise UserError(f"the header is '{shorten(head.strip(), 80)}'", where=Location(file=file, line=1), hint=_EXPECTED)


def _table(lines: Iterator[str], file: str, kind: str, wanted: tuple[str, ...], places: list[int]) -> Iterator[Row]:
    reader = csv.reader(lines)
    time_of: Callable[[str, Location], float] = _timestamp_s if kind == "Azure" else _seconds
    for cells in reader:
        line = reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) <= max(places):
            raise UserError(f"{len(cells)} cells, expected {max(places) + 1}", where=Location(file=file, line=line))
        time, prompt, output = (cells[place].strip() for place in places)
        yield (line, time_of(time, Location(file=file, line=line, key=wanted[0])),
               _count(prompt, Location(file=file, line=line, key=wanted[1])),
               _count(output, Location(file=file, line=line, key=wanted[2])), [])


def _mooncake(head: str, lines: Iterator[str], file: str) -> Iterator[Row]:
    for number, text in enumerate(chain([head], lines), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):  # ValueError: a number of thousands of digits, too
            raise UserError("not JSON", where=Location(file=file, line=number)) from None
        if not isinstance(record, dict) or any(key not in record for key in _MOONCAKE):
            raise UserError("expected the keys " + ", ".join(_MOONCAKE), where=Location(file=file, line=number))
        time, prompt, output = (str(record[key]) for key in _MOONCAKE)
        yield (number, _seconds(time, Location(file=file, line=number, key=_MOONCAKE[0])) / 1000.0,
               _count(prompt, Location(file=file, line=number, key=_MOONCAKE[1])),
               _count(output, Location(file=file, line=number, key=_MOONCAKE[2])),
               _numbers(record.get("hash_ids", []), Location(file=file, line=number, key="hash_ids")))


def _numbers(found: Any, where: Location) -> list[int]:
    if not isinstance(found, list) or not all(type(one) is int and 0 <= one < _MOST_NUMBER for one in found):
        raise UserError("expected a list of whole numbers from 0, one for each 512 tokens of the prompt", where=where)
    return found


def _seconds(text: str, where: Location) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e15:
        raise UserError(f"'{shorten(text, 40)}' is not a time in seconds", where=where)
    return value


def _timestamp_s(text: str, where: Location) -> float:
    """``2023-11-16 18:15:46.6805900``: seven digits of fraction, one more than Python reads."""
    match = _TIMESTAMP.fullmatch(text)
    wrong = UserError(f"'{shorten(text, 40)}' is not a time such as 2023-11-16 18:15:46.6805900", where=where)
    if match is None:
        raise wrong
    try:
        moment = datetime.fromisoformat(match["whole"] + (match["zone"] or "+00:00").replace("Z", "+00:00"))
        return moment.timestamp() + float(f"0.{match['digits'] or 0}")
    except (ValueError, OverflowError):
        raise wrong from None


def _count(text: str, where: Location) -> int:
    value: Any = None
    if text.isascii() and text.isdigit() and len(text) < 12:
        value = int(text)
    elif text.endswith(".0") and text[:-2].isascii() and text[:-2].isdigit() and len(text) < 14:
        value = int(text[:-2])
    if value is None or not 1 <= value <= _MOST_TOKENS:
        raise UserError(f"'{shorten(text, 40)}' is not a whole number of tokens from 1", where=where)
    return int(value)
