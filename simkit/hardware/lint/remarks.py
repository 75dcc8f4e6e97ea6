"""What a rule says of a parameter: how grave, where, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from simkit.foundation.units import BYTES_PER_S, format_quantity
from simkit.hardware.profile import HardwareProfile

Severity = Literal["warning", "error"]
Path = tuple[str, ...]
Remark = tuple[Severity, Path, str]
Rule = Callable[[HardwareProfile], Iterator[Remark]]
Range = tuple[float, float]


def outside(value: float, least: float, most: float, slip_ratio: float,
            above_ratio: float | None = None) -> Severity | None:
    """None inside [least, most]; a warning outside; an error when even ``slip_ratio`` times beyond.

    ``above_ratio`` stands for it above ``most``.
    """
    if least <= value <= most:
        return None
    above = slip_ratio if above_ratio is None else above_ratio
    return "error" if value < least / slip_ratio or value > most * above else "warning"


def unless_within(value: float, least: float, most: float, slip_ratio: float, path: Path, words: str, *,
                  above_ratio: float | None = None) -> Iterator[Remark]:
    """The remark of a parameter that :func:`outside` finds fault with."""
    severity = outside(value, least, most, slip_ratio, above_ratio)
    if severity:
        yield severity, path, words


def rate_words(bytes_per_s: float) -> str:
    """A bandwidth with its unit."""
    return format_quantity(bytes_per_s, BYTES_PER_S)
