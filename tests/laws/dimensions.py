"""Dimensional analysis by change of units: every number is scaled as the unit in its own name says.

A law of physics does not know in which units it is written: when the byte, the second or the joule becomes smaller by
a power of two, all inputs change by the powers that stand in their names (``bandwidth_bytes_per_s``: byte / second),
and so must all outputs. A time to which somebody added a bandwidth, or an energy that forgot its time, does not.
Powers of two change no digit, so that equality is exact, and records are read by the names of their fields: a name
that lies about its unit fails as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

# Exponents of base units. Tokens, heads, rows, elements, chips, users and exponentials are counts: pure numbers.
_UNITS: Mapping[str, Mapping[str, int]] = {
    "byte": {"byte": 1}, "bytes": {"byte": 1}, "bits": {"byte": 1}, "bit": {"byte": 1},
    "s": {"s": 1}, "ps": {"s": 1}, "hour": {"s": 1},
    "flop": {"flop": 1}, "flops": {"flop": 1}, "cycle": {"cycle": 1}, "cycles": {"cycle": 1},
    "hz": {"cycle": 1, "s": -1}, "j": {"joule": 1}, "w": {"joule": 1, "s": -1}, "usd": {"usd": 1},
}
# Names that are a unit by themselves, or whose unit their users know without its standing in them.
_WHOLE_NAMES: Mapping[str, Mapping[str, int]] = {
    "bytes": {"byte": 1}, "flops": {"flop": 1}, "bits": {"byte": 1},
    "arithmetic_intensity": {"flop": 1, "byte": -1},
    "clock_period_ps": {"s": 1, "cycle": -1},
    "bus_width_bits": {},  # pins: a count
}


def dimension_of(name: str) -> Mapping[str, int]:
    """Exponents of the base units that a name ends in; empty for counts, ratios and texts.

    >>> dimension_of("load_bytes_per_cycle_per_unit"), dimension_of("tdp_w"), dimension_of("achieved_fraction")
    ({'byte': 1, 'cycle': -1}, {'joule': 1, 's': -1}, {})
    """
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    above, *below = name.split("_per_")
    words = above.split("_")
    parts = [(words[-1], 1)] if len(words) > 1 or below else []
    parts += [(word, -1) for part in below for word in part.split("_")]
    found: dict[str, int] = {}
    for word, sign in parts:
        for unit, power in _UNITS.get(word, {}).items():
            found[unit] = found.get(unit, 0) + sign * power
    return found


def factor_of(name: str, factors: Mapping[str, float]) -> float:
    """What a number of that name is multiplied by when base units shrink by ``factors``."""
    return float(np.prod([factors.get(unit, 1.0) ** power for unit, power in dimension_of(name).items()]))


def scaled(record: Any, factors: Mapping[str, float], name: str = "") -> Any:
    """A record, mapping or tuple with every number in it rewritten in smaller units."""
    if isinstance(record, bool | str | None):
        return record
    if isinstance(record, int | float | np.number):
        by = factor_of(name, factors)
        return record if by == 1.0 else type(record)(record * by) if isinstance(record, np.number) else record * by
    if isinstance(record, np.ndarray):
        return record * factor_of(name, factors) if record.dtype.kind == "f" else record
    if isinstance(record, Mapping):
        # A mapping named for a unit holds that (rates by format); else its keys are the names (figures of a kernel).
        return {key: scaled(value, factors, name if dimension_of(name) else str(key)) for key, value in record.items()}
    if isinstance(record, tuple | list):
        return type(record)(scaled(value, factors, name) for value in record)
    if is_dataclass(record):
        return replace(record, **{field.name: scaled(getattr(record, field.name), factors, field.name)
                                  for field in fields(record) if field.init})
    if isinstance(record, BaseModel):
        return record.model_copy(update={name: scaled(getattr(record, name), factors, name)
                                         for name in type(record).model_fields})
    return record


def numbers_in(record: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a record with the path to it."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield from numbers_in(value, f"{name}.{key}")
    elif isinstance(record, tuple | list):
        for place, value in enumerate(record):
            yield from numbers_in(value, f"{name}[{place}]")
    elif is_dataclass(record):
        for field in fields(record):
            yield from numbers_in(getattr(record, field.name), f"{name}.{field.name}")
    elif isinstance(record, BaseModel):
        for key in type(record).model_fields:
            yield from numbers_in(getattr(record, key), f"{name}.{key}")
    elif isinstance(record, int | float | np.number) or (isinstance(record, np.ndarray) and record.dtype.kind in "fib"):
        yield name, np.asarray(record, dtype=float)


def assert_same(found: Any, expected: Any) -> None:
    """Two records with equal numbers, unknown ones included."""
    ours, theirs = dict(numbers_in(found)), dict(numbers_in(expected))
    assert ours.keys() == theirs.keys()
    assert ours
    differing = [f"{name}: {ours[name]} where the units ask for {theirs[name]}" for name in ours
                 if not np.allclose(ours[name], theirs[name], rtol=1e-12, atol=0.0, equal_nan=True)]
    assert not differing, "\n".join(differing)


def scale_constants(monkeypatch: pytest.MonkeyPatch, factors: Mapping[str, float], *places: tuple[Any, str]) -> None:
    """Rewrite figures that stand in code (widths of float32 scores, say) in smaller units as well."""
    for module, name in places:
        value = getattr(module, name)
        by = factor_of(name.lower(), factors)
        monkeypatch.setattr(module, name, {key: one * by for key, one in value.items()} if isinstance(value, Mapping)
                            else value * by)
