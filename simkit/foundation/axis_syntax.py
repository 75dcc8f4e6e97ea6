"""Lists and ranges of values, read the same on every command line and in every study file.

``1,8,32`` is a list; ``1k..128k*2`` goes from 1024 to 131072 by doubling; ``0..10+1`` counts by ones; the two
forms mix (``1,4..64*2``). The suffix ``k`` means 1024 tokens or sequences and ``M`` 1024**2, because contexts
are named so (a "128k" model holds 131072 tokens).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from simkit.foundation.errors import UserError
from simkit.foundation.units import unit_ratio

_SUFFIXES: Final = {"": 1, "k": 1024, "K": 1024, "M": 1024**2}
_NUMBER: Final = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?)([kKM]?)", re.ASCII)
_RANGE: Final = re.compile(r"(.{1,40}?)\.\.(.{1,40}?)([*+])(.{1,40})", re.ASCII)
_QUANTITY: Final = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?) ?([A-Za-z\u00b5\u03bc/]*)", re.ASCII)
MAX_AXIS_VALUES: Final = 1_000_000
MAX_QUANTITIES: Final = 100_000  # each of them is read again as a quantity, and makes a chip
MAX_AXIS_VALUE: Final = 2.0**53  # beyond it a float skips whole numbers
_FORMS: Final = "expected a list or range such as '1,8,32', '1k..128k*2' or '0..10+1'"


def parse_axis(text: str, *, what: str = "value", minimum: float | None = 1, whole: bool = True,
               most_values: int = MAX_AXIS_VALUES) -> list[float]:
    """Read a list or range of numbers, in the order written, without duplicates.

    Parameters: what: the name used in messages; minimum: the least value allowed, or None; whole: refuse
    fractions. Returns ints (as int) when ``whole``. Raises :class:`UserError` on anything else, on an empty
    list, on more than ``most_values``, and on values above 2**53.

    >>> parse_axis("1,4..32*2")
    [1, 4, 8, 16, 32]
    >>> parse_axis("1k..4k*2")
    [1024, 2048, 4096]
    """
    pieces = [_piece(part.strip(), what) for part in str(text).split(",")]
    # Counted before any is made, duplicates too: the same range a thousand times over is work, and no more values.
    if sum(piece.most_values for piece in pieces) > most_values:
        raise UserError(f"{what}: more than {most_values:,} values")
    values: dict[float, None] = {}
    for piece in pieces:
        made = _expand(piece)
        least, most = made[0], made[-1]  # a range only grows
        if minimum is not None and least < minimum:
            raise UserError(f"{what} {_show(least)} is below {_show(minimum)}", hint=_FORMS)
        if max(abs(least), abs(most)) > MAX_AXIS_VALUE:
            beyond = most if abs(most) > MAX_AXIS_VALUE else least
            raise UserError(f"{what} {_show(beyond)} is above {_show(MAX_AXIS_VALUE)}", hint=_FORMS)
        if whole:
            fraction = next((value for value in made if not value.is_integer()), None)
            if fraction is not None:
                raise UserError(f"{what} {_show(fraction)} is not a whole number")
            made = [int(value) for value in made]
        values |= dict.fromkeys(made)
    return list(values)


def parse_one(text: str, *, what: str) -> int:
    """A single whole number in the words of lists, such as ``4k``. Raises :class:`UserError`."""
    values = parse_axis(text, what=what, minimum=0)
    if len(values) != 1:
        raise UserError(f"{what}: expected one value, not a list")
    return int(values[0])


def quantity_texts(text: str, *, what: str) -> list[str]:
    """Each value of a list or range of quantities, as it would stand alone; other text is one value.

    Both ends may have units of their own, and the step one where it is added. Raises :class:`UserError` as
    :func:`parse_axis` does, and for ends of different dimensions.

    >>> quantity_texts("500GB/s,1TB/s..4TB/s*2", what="--set")
    ['500GB/s', '1TB/s', '2TB/s', '4TB/s']
    >>> quantity_texts("[weights, kv]", what="--set")
    ['[weights, kv]']
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(_QUANTITY.match(part) for part in parts):
        return [text]
    if len(parts) > 1 and parts[0].isdigit() and parts[1][:1].isdigit() and parts[1][-1:].isalpha():
        raise UserError(f"{what}: '{text[:40]}' has a decimal comma",
                        hint=f"write {text[:40].replace(',', '.', 1)}; in a list each value has its unit")
    found: list[str] = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        ends = [_QUANTITY.fullmatch(match[group].strip()) for group in (1, 2, 4)] if match else [None]
        if ".." in part and None in ends:
            raise _no_range(part, what, "such as 1TB/s..40TB/s*2")
        if match is None:
            found.append(part)
            continue
        numbers, units = zip(*(end.groups() for end in ends if end), strict=True)
        unit = units[0] or units[1]
        start, stop, step = (f"{float(number) * unit_ratio(own or unit, unit, what=what):.15f}" for number, own in zip(
            numbers, (unit, units[1], units[2] if match[3] == "+" else unit), strict=True))
        found += [f"{value:.12g}{unit}" for value in parse_axis(
            f"{start}..{stop}{match[3]}{step}", what=what, minimum=None, whole=False,
            most_values=MAX_QUANTITIES)]
        if len(found) > MAX_QUANTITIES:
            raise UserError(f"{what}: more than {MAX_QUANTITIES:,} values")
    return list(dict.fromkeys(found))


def split_names(text: str | tuple[str, ...] | list[str]) -> list[str]:
    """Split ``a,b`` and repeated options into one list of names, in order, without duplicates or blanks."""
    parts = [text] if isinstance(text, str) else list(text)
    names = [name.strip() for part in parts for name in part.split(",")]
    return list(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """One number or range of a list; ``most_values`` is how many it may hold, rounding included."""

    start: float
    stop: float
    step: float
    geometric: bool
    most_values: int


def _piece(part: str, what: str) -> _Piece:
    if ".." not in part:
        value = _number(part, what)
        return _Piece(start=value, stop=value, step=1.0, geometric=False, most_values=1)
    match = _RANGE.fullmatch(part)
    if match is None:
        raise _no_range(part, what, _FORMS)
    start, stop, step = (_number(match[i], what) for i in (1, 2, 4))
    geometric = match[3] == "*"
    if stop < start or (geometric and (step <= 1 or start <= 0)) or (not geometric and step <= 0):
        rule = "start > 0 and a factor above 1" if geometric else "a step above 0"
        raise UserError(f"{what}: range '{part[:40]}' needs stop >= start and {rule}", hint=_FORMS)
    intervals = math.log(stop / start) / math.log(step) if geometric else (stop - start) / step
    if intervals >= MAX_AXIS_VALUES:
        raise UserError(f"{what}: range '{part[:40]}' has more than {MAX_AXIS_VALUES:,} values")
    return _Piece(start=start, stop=stop, step=step, geometric=geometric, most_values=int(intervals) + 1)


def _no_range(part: str, what: str, forms: str) -> UserError:
    """Most often the step is missing."""
    part = part[:40]
    start, _, stop = part.partition("..")
    if not (start and stop) or set(stop.removesuffix("/s")) & set("*+/"):
        return UserError(f"{what}: '{part}' is not a range", hint=forms)
    step = "1" if stop[-1].isdigit() else start
    return UserError(f"{what}: the range '{part}' has no step",
                     hint=f"such as {part}*2, which doubles, or {part}+{step}, which adds")


def _expand(piece: _Piece) -> list[float]:
    start, stop, step = piece.start, piece.stop, piece.step
    # Fractions miss their end by rounding (0..0.3+0.1 reaches 0.30000000000000004); whole numbers do not.
    slack = 0.0 if start.is_integer() and step.is_integer() else 1e-12 * max(abs(start), abs(stop))
    values: list[float] = []
    value = start
    # Beyond 2**53 a step may change nothing: the count ends it too, one above what rounding may have lost.
    while value <= stop + slack and len(values) <= piece.most_values:
        values.append(min(value, stop))
        value = start * step ** len(values) if piece.geometric else start + len(values) * step
    return values


def _number(text: str, what: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        shown = text.strip()[:40]
        raise UserError(f"{what}: '{shown}' is not a number" if shown else f"{what}: a value is missing", hint=_FORMS)
    return float(match[1]) * _SUFFIXES[match[2]]


def _show(value: float) -> str:
    return f"{value:g}"
