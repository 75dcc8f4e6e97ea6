"""Quantities with units: strict reading at the edge, SI base units inside, human units on the way out.

A quantity in a file or on the command line is a string: a number, an optional space, and an exact unit
whose case matters (``3.35 TB/s``, ``50 MiB``, ``1.98 GHz``, ``989.4 TFLOP/s``). Decimal prefixes are powers
of ten, also for bytes; ``KiB, MiB, GiB, TiB`` are powers of two and only those. Unknown units are refused:
other tools have read ``T`` as 1e13 or ``GB`` as 2**30, and every memory-bound time was wrong by 7 %.
"""

from __future__ import annotations

import math
import re
from typing import Final

from simkit.foundation.errors import UserError, did_you_mean, shown

DECIMAL_PREFIXES: Final = {
    "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
}
# Micro has two code points, U+00B5 and the Greek letter U+03BC; texts carry either, and u.
SMALL_PREFIXES: Final = {"m": 1e-3, "u": 1e-6, "\u00b5": 1e-6, "\u03bc": 1e-6, "n": 1e-9, "p": 1e-12}
BINARY_PREFIXES: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}

# One name a dimension; these are the words that error messages and JSON Schema use.
BYTES: Final = "bytes"
BYTES_PER_S: Final = "bytes/s"
FLOP_PER_S: Final = "flop/s"
OPS_PER_S: Final = "op/s"
SECONDS: Final = "seconds"
HERTZ: Final = "hertz"
WATTS: Final = "watts"
J_PER_BYTE: Final = "joules/byte"
J_PER_FLOP: Final = "joules/flop"
USD: Final = "US dollars"
USD_PER_HOUR: Final = "US dollars/hour"
COUNT: Final = "a plain number"


def _with_prefixes(unit: str, *tables: dict[str, float]) -> dict[str, float]:
    return {prefix + unit: factor for table in tables for prefix, factor in table.items()}


_UNITS: Final[dict[str, dict[str, float]]] = {
    BYTES: _with_prefixes("B", DECIMAL_PREFIXES, BINARY_PREFIXES),
    BYTES_PER_S: _with_prefixes("B/s", DECIMAL_PREFIXES, BINARY_PREFIXES),
    FLOP_PER_S: {**_with_prefixes("FLOP/s", DECIMAL_PREFIXES), **_with_prefixes("OP/s", DECIMAL_PREFIXES)},
    OPS_PER_S: _with_prefixes("op/s", DECIMAL_PREFIXES),
    SECONDS: {**_with_prefixes("s", {"": 1.0}, SMALL_PREFIXES), "min": 60.0, "h": 3600.0},
    HERTZ: _with_prefixes("Hz", DECIMAL_PREFIXES),
    WATTS: _with_prefixes("W", DECIMAL_PREFIXES, {"m": 1e-3}),
    J_PER_BYTE: {
        **_with_prefixes("J/B", {"": 1.0}, SMALL_PREFIXES),
        **{unit: factor * 8 for unit, factor in _with_prefixes("J/bit", {"": 1.0}, SMALL_PREFIXES).items()},
    },
    J_PER_FLOP: _with_prefixes("J/FLOP", {"": 1.0}, SMALL_PREFIXES),
    USD: {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6},
    USD_PER_HOUR: {"USD/h": 1.0, "USD/year": 1.0 / 8760.0},
    COUNT: {"": 1.0},
}
_EXAMPLES: Final = {
    BYTES: "80 GB or 50 MiB", BYTES_PER_S: "3.35 TB/s", FLOP_PER_S: "989.4 TFLOP/s", OPS_PER_S: "4.2 Top/s",
    SECONDS: "350 ns", HERTZ: "1.98 GHz", WATTS: "700 W", J_PER_BYTE: "30 pJ/bit", J_PER_FLOP: "0.5 pJ/FLOP",
    USD: "30000 USD", USD_PER_HOUR: "2.5 USD/h", COUNT: "132",
}
# Digits only where a digit may stand: no inf, nan, underscores or signs inside, and no unbounded backtracking.
_QUANTITY: Final = re.compile(
    r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?) ?([A-Za-z\u00b5\u03bc/]*)\s*", re.ASCII)
_MAX_TEXT: Final = 64
_MAX_HINT: Final = 32  # what is longer is no slip of a comma
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+ ?[A-Za-z\u00b5\u03bc/]*")
_BITS: Final = re.compile(r"([kMGTPE]i?|)(?:b|[Bb]its?)(/s|ps)?")
_FLOPS: Final = re.compile(r"([kKMmGgTtPpEe]?)(?:flops?|ops?)(?:/s|/sec|ps)?", re.IGNORECASE)


def dimensions() -> tuple[str, ...]:
    """The names of all dimensions that :func:`parse_quantity` reads."""
    return tuple(_UNITS)


def units_of(dimension: str) -> dict[str, float]:
    """Every unit accepted for a dimension, with its factor to the SI base unit."""
    return dict(_UNITS[dimension])


def unit_ratio(unit: str, other: str, *, what: str) -> float:
    """How many of another unit one of this unit is. Raises :class:`UserError` when they measure different things.

    >>> unit_ratio("TB/s", "GB/s", what="--set")
    1000.0
    """
    for factors in _UNITS.values():
        if unit in factors and other in factors:
            return factors[unit] / factors[other]
    if unit == other:
        return 1.0  # whoever reads the quantity says what is wrong with it
    raise UserError(f"{what}: '{unit[:20]}' and '{other[:20]}' do not measure the same")


def example_of(dimension: str) -> str:
    """A right way to write a quantity of this dimension, for messages and the schema."""
    return _EXAMPLES[dimension]


def parse_quantity(text: object, dimension: str) -> float:
    """Read one quantity and return it in the SI base unit of its dimension.

    Raises :class:`UserError` when the text is not ``number unit``, the unit is unknown or of another
    dimension, or the value is not finite. A bare number is accepted for plain numbers only.

    >>> parse_quantity("3.35 TB/s", BYTES_PER_S)
    3350000000000.0
    >>> parse_quantity("50 MiB", BYTES)
    52428800.0
    """
    expected = f"expected {dimension}, such as '{example_of(dimension)}'"
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UserError(f"{shown(text)} is not a quantity: {expected}")
    if not isinstance(text, str):
        if dimension != COUNT:
            raise UserError(f"{shown(text)} has no unit: {expected}")
        try:
            value = float(text)
        except OverflowError:
            value = math.inf
    else:
        match = _QUANTITY.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if match is None:
            form = "a number" if dimension == COUNT else "a number with a unit"
            comma = _DECIMAL_COMMA.fullmatch(text) if len(text) <= _MAX_HINT else None
            raise UserError(f"{shown(text)} is not {form}: {expected}",
                            hint=f"a decimal comma? write {text.replace(',', '.')}" if comma else None)
        number, unit = match.groups()
        factors = _UNITS[dimension]
        if unit not in factors:
            raise UserError(_unknown_unit(unit, dimension), hint=_unit_hint(unit, dimension))
        # Multiplying by 1e12 rounds once more than writing 3.35e12; dividing by the inverse keeps 1 us == 1e-6.
        factor = factors[unit]
        value = float(number) * factor if factor >= 1 else float(number) / round(1 / factor)
    if not math.isfinite(value):
        raise UserError(f"{shown(text)} is not a finite number: {expected}")
    return value


def _unknown_unit(unit: str, dimension: str) -> str:
    if not unit:
        return f"a unit is missing: expected {dimension}, such as '{example_of(dimension)}'"
    for other, factors in _UNITS.items():
        if unit in factors:
            return f"'{unit}' is a unit of {other}: expected {dimension}, such as '{example_of(dimension)}'"
    return f"unknown unit '{unit[:20]}': expected {dimension}, such as '{example_of(dimension)}'"


def _unit_hint(unit: str, dimension: str) -> str | None:
    if not unit or dimension == COUNT:
        return None
    known = _UNITS[dimension]
    bits = _BITS.fullmatch(unit)
    if bits and dimension in (BYTES, BYTES_PER_S):
        # "did you mean GB/s?" for Gb/s would be wrong by a factor of 8.
        right = bits[1] + ("B/s" if dimension == BYTES_PER_S else "B")
        return f"a small b is bits: divide by 8 and write '{right}'"
    same_letters = [name for name in known if name.lower() == unit.lower()]
    if same_letters:
        return f"case matters: did you mean '{same_letters[-1]}'?"
    flops = _FLOPS.fullmatch(unit)
    if flops and dimension in (FLOP_PER_S, OPS_PER_S):
        prefix = flops[1].upper().replace("K", "k")
        return f"write '{prefix}{'FLOP/s' if dimension == FLOP_PER_S else 'op/s'}'"
    if unit.endswith("ps") and unit.removesuffix("ps") + "/s" in known:
        return f"did you mean '{unit.removesuffix('ps')}/s'?"
    hint = did_you_mean(unit, known)
    return hint if hint and hint.startswith("did") else None


_HUMAN: Final = {
    BYTES: "B", BYTES_PER_S: "B/s", FLOP_PER_S: "FLOP/s", OPS_PER_S: "op/s", HERTZ: "Hz", SECONDS: "s",
    WATTS: "W", J_PER_BYTE: "J/B", J_PER_FLOP: "J/FLOP", USD: "USD", USD_PER_HOUR: "USD/h", COUNT: "",
}


def format_quantity(value: float, dimension: str, *, digits: int = 3) -> str:
    """Write an SI value in human units with decimal prefixes and about ``digits`` significant digits.

    :func:`parse_quantity` reads every finite result back, within the digits shown.

    >>> format_quantity(3.35e12, BYTES_PER_S)
    '3.35 TB/s'
    >>> format_quantity(4.2e-6, SECONDS)
    '4.2 µs'
    """
    unit = _HUMAN[dimension]
    if value == 0 or not math.isfinite(value) or dimension in (USD, USD_PER_HOUR, COUNT):
        return f"{_digits(value, digits)} {unit}".rstrip()
    prefixes = {"p": 1e-12, "n": 1e-9, "\u00b5": 1e-6, "m": 1e-3, **DECIMAL_PREFIXES}
    # Only what parse_quantity reads: half a byte is 0.5 B and not 500 mB.
    sizes = sorted((size, name) for name, size in prefixes.items() if name + unit in _UNITS[dimension])
    factor, prefix = sizes[0]
    for size, name in sizes:
        # 999.7 rounds to 1000 at three digits: compare what will be printed, not what is stored.
        if abs(value) >= size * (1 - 0.5 * 10.0**-digits):
            factor, prefix = size, name
    return f"{_digits(value / factor, digits)} {prefix}{unit}"


def _digits(number: float, digits: int) -> str:
    """``number`` to ``digits`` significant digits; whole thousands in full rather than as 1e+03."""
    text = f"{number:.{digits}g}"
    return f"{number:.0f}" if "e+" in text and abs(number) < 1e15 else text
