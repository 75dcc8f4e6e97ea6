"""One parameter of a profile, its whole memory, or one number of the workload, as a variable: name, range, values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from simkit.foundation.axis_syntax import parse_axis
from simkit.foundation.errors import UserError, did_you_mean
from simkit.foundation.units import COUNT, parse_quantity, units_of
from simkit.hardware.parameters import profile_parameters, with_parameter
from simkit.hardware.profile import HardwareProfile

# Values of the workload that may vary, and their ranges when none is given.
WORKLOAD_RANGES: Final = {"batch": (1.0, 4096.0), "kv_len": (128.0, 1_048_576.0), "q_len": (1.0, 128.0)}
MEMORY: Final = "memory"  # the bandwidths of all levels together, as a factor on what they are
_NEARER: Final = 0.75  # of the way in logarithms: 100, 32, 13, 7 times, ...
_LEAST_FACTOR: Final = 1.05
DEFAULT_FACTOR: Final = 100.0  # a profile's parameter varies from a hundredth to a hundred times its value
Load = Callable[[Mapping[str, str]], HardwareProfile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A quantity that varies from ``start`` to ``stop`` (SI units of ``dimension``).

    ``own_value`` is what the profile or the workload has it at, None where that is unknown; ``whole``: only whole
    numbers make sense; ``broadcasts``: a profile may hold all its values at once.
    """

    key: str
    dimension: str
    own_value: float | None
    start: float
    stop: float
    whole: bool
    broadcasts: bool

    @property
    def of_workload(self) -> bool:
        """True for batch, kv_len and q_len."""
        return self.key in WORKLOAD_RANGES

    def points(self, count: int) -> Any:
        """At most ``count`` values from start to stop, evenly spaced in their logarithm."""
        values = np.geomspace(self.start, self.stop, count)
        values[0], values[-1] = self.start, self.stop
        return np.unique(np.round(values)) if self.whole else values

    def on(self, profile: HardwareProfile, values: Any) -> HardwareProfile:
        """The profile with values, one or an array, of what ``broadcasts`` in it."""
        return faster_memory(profile, values) if self.key == MEMORY else with_parameter(profile, self.key, values)

    def text(self, value: float) -> str:
        """A value as it would stand after ``--set``, exact to its last bit."""
        return quantity_text(value, self.dimension, whole=self.whole)


def quantity_text(value: float, dimension: str, *, whole: bool) -> str:
    """A value as it would stand after ``--set``, exact to its last bit."""
    if whole:
        return str(int(value))
    unit = next(unit for unit, factor in units_of(dimension).items() if factor == 1.0)
    return f"{float(value)!r} {unit}".rstrip()


def faster_memory(profile: HardwareProfile, factors: Any) -> HardwareProfile:
    """The chip with every level's bandwidth multiplied, by a number or an array of them, and all else as it is.

    The load paths of measured kernels are written for the memory and grow with it
    (:func:`simkit.timing.kernel_cost.chip_kernel`).
    """
    levels = tuple(level if level.bandwidth_bytes_per_s is None else
                   replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * factors)
                   for level in profile.memory)
    return replace(profile, memory=levels, varied=np.ndim(factors) > 0)


def variable(key: str, profile: HardwareProfile, workload: Mapping[str, float], *, start: str | float | None = None,
             stop: str | float | None = None, load: Load | None = None) -> Variable:
    """The variable of that name.

    Parameters
    ----------
    key: a dotted key of the profile, as after ``--set``, ``memory`` for all its bandwidths together, or ``batch``,
        ``kv_len``, ``q_len``.
    profile, workload: where its own value stands.
    start, stop: the range, as text with a unit or in SI units; left open, a hundredth to a hundred times its value.
    load: loads the profile with other values; an open end comes nearer until the profile may have such a value.

    Raises :class:`UserError` when there is no such parameter, it is not a number, or the range is empty.
    """
    if key in WORKLOAD_RANGES:
        lowest, highest = WORKLOAD_RANGES[key]
        found = Variable(key=key, dimension=COUNT, own_value=workload[key], start=lowest, stop=highest, whole=True,
                         broadcasts=True)
    elif key == MEMORY:
        found = Variable(key=key, dimension=COUNT, own_value=1.0, start=1.0 / DEFAULT_FACTOR, stop=DEFAULT_FACTOR,
                         whole=False, broadcasts=True)
    else:
        found = _parameter(key, profile)
    low, high = (_edge(found, edge, name) for edge, name in ((start, "--from"), (stop, "--to")))
    low, high = (found.start if low is None else low), (found.stop if high is None else high)
    if not 0 < low < high:
        reason = "is not a range" if found.own_value else "has no value in this profile that could give a range"
        shown = f" ({found.text(low)} to {found.text(high)})" if found.own_value or start or stop else ""
        raise UserError(f"{key}{shown} {reason}", hint="give --from and --to with 0 < from < to")
    if load is not None and found.own_value and not (found.of_workload or found.broadcasts):
        low = _allowed(found, low, load) if start is None else low
        high = _allowed(found, high, load) if stop is None else high
    return replace(found, start=low, stop=high)


def _allowed(found: Variable, edge: float, load: Load) -> float:
    """The edge of a default range, brought nearer to the profile's own value until the schema takes it."""
    own = found.own_value or edge
    while abs(np.log(edge / own)) > np.log(_LEAST_FACTOR):
        try:
            load({found.key: found.text(edge)})
        except UserError:  # out of range: what the next, nearer value is tried for
            edge = own * (edge / own) ** _NEARER
            edge = float(np.round(edge)) if found.whole else edge
        else:
            return edge
    return own


def _parameter(key: str, profile: HardwareProfile) -> Variable:
    parameters = {parameter.key: parameter for parameter in profile_parameters(profile)}
    if key not in parameters:
        numeric = [name for name, parameter in parameters.items() if parameter.dimension is not None]
        raise UserError(f"--vary '{key[:80]}': {profile.name} has no such parameter",
                        hint=did_you_mean(key, [MEMORY, *WORKLOAD_RANGES, *numeric]))
    parameter = parameters[key]
    if parameter.dimension is None:
        raise UserError(f"--vary {key}: not a number that could vary")
    value = None if parameter.value is None else float(parameter.value)
    low, high = (0.0, 0.0) if not value else (value / DEFAULT_FACTOR, value * DEFAULT_FACTOR)
    if key.endswith("_fraction"):
        high = min(high, 1.0)
    if parameter.whole:
        low = max(1.0, np.ceil(low))
    return Variable(key=key, dimension=parameter.dimension, own_value=value, start=low, stop=high,
                    whole=parameter.whole, broadcasts=parameter.broadcasts)


def _edge(found: Variable, text: str | float | None, option: str) -> float | None:
    if text is None or not isinstance(text, str):
        return text
    if found.of_workload:
        values = parse_axis(text, what=option)
        if len(values) != 1:
            raise UserError(f"{option}: expected one value, not a list")
        return float(values[0])
    try:
        value = parse_quantity(text, found.dimension)
    except UserError as error:
        raise UserError(f"{option}: {error.message}", hint=error.hint) from None
    if found.whole and value != int(value):
        raise UserError(f"{option} {text}: {found.key} is a whole number")
    return value
