"""Every parameter of a profile as a flat list: dotted key, SI value, dimension, and where it comes from.

What ``profile show`` prints, ``profile diff`` compares and a what-if varies. Keys are those of the file and of
``--set``; they follow from the declarations of the records (:mod:`simkit.hardware.declaration`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, wraps
from typing import Any, Final, TypeVar

import numpy as np

from simkit.foundation.units import COUNT
from simkit.hardware.declaration import Prior, StatedField, stated_fields
from simkit.hardware.profile import HardwareProfile, Provenance

Answer = TypeVar("Answer")
Value = float | str | None
PROFILES_REMEMBERED: Final = 256  # a bound on memory: studies vary a chip in hundreds of ways
_UNSTATED = Provenance()
_PLAIN: Final = (float, int, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileParameter:
    """One parameter. ``value``: in SI units, text, or None where no source gives it; ``dimension``: None for text.

    ``whole``: it counts things; ``broadcasts``: :func:`with_parameter` may put an array in its place.
    """

    key: str
    value: Value
    dimension: str | None
    provenance: Provenance
    whole: bool
    broadcasts: bool


def profile_parameters(profile: HardwareProfile) -> list[ProfileParameter]:
    """All parameters in the order of the records; optional ones that the profile leaves out are not listed.

    A parameter that the profile names as unknown (``null``) is listed with the value None.
    """
    return [ProfileParameter(key=key, value=value, dimension=field.dimension, whole=field.whole,
                             provenance=profile.provenance.get(key, _UNSTATED),
                             broadcasts=(field.broadcasts and value is not None
                                         and not _others_follow(profile, key, field)))
            for key, value, field in _walk(type(profile), profile, "", profile.missing)
            if "." in key and (value is not None or key in profile.missing)]


def _others_follow(profile: HardwareProfile, key: str, field: StatedField) -> bool:
    """Whether a borrowed kernel is scaled by this parameter when a profile is read."""
    return bool(profile.kernel_like) and (field.loaded or key.startswith("compute.matrix.peak."))


def _walk(kind: type, record: Any, above: str, missing: tuple[str, ...]) -> Iterator[tuple[str, Value, StatedField]]:
    """Each key of a record, None for that of a section which the profile is without."""
    for stated in stated_fields(kind):
        key, value = above + ".".join(stated.path), getattr(record, stated.attribute, None)
        if stated.record is not None and stated.table:
            for one in value or ():
                yield from _walk(stated.record, one, f"{key}.{one.name}.", missing)
        elif stated.record is not None:
            yield from _walk(stated.record, value, f"{key}.", missing)
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{name}", one, stated) for name, one in value.items())
            yield from ((name, None, stated) for name in missing if name.startswith(f"{key}."))
        else:
            yield key, _plain(value), stated


def _plain(value: Any) -> Value:
    """A value as it is listed: flags where they are set."""
    if isinstance(value, bool):
        return "true" if value else None
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, tuple) else value


def with_parameter(profile: HardwareProfile, key: str, value: Any) -> HardwareProfile:
    """The profile with a number, or an array of numbers, at a key that ``broadcasts``. Raises ValueError at others.

    Class priors that are multiples of it follow.
    """
    changed: HardwareProfile = _replaced(profile, key, value)
    before, assumed = prior_fields(profile), []
    for one in profile.assumed:
        if one.key == key:
            continue
        prior, *_, old = before[one.key]
        # Under ideal values nothing follows: the ranges are only listed.
        factor = 1.0 if profile.ideal else prior.scale(prior_fields(changed)[one.key][-1]) / prior.scale(old)
        own = one.value
        if np.any(factor != 1.0) and own is not None:
            changed = _replaced(changed, one.key, own := own * factor, prior=True)
        assumed.append(replace(one, fast=one.fast * factor, slow=one.slow * factor, central=one.central * factor,
                               value=own))
    return replace(changed, assumed=tuple(assumed), varied=profile.varied or np.ndim(value) > 0,
                   unstated=tuple(one for one in changed.unstated if one != key))


def at_points(record: Any, where: Any) -> Any:
    """A profile whose parameters are arrays over points, at those that an index picks."""
    return with_arrays(record, lambda values: values[where] if values.ndim else values)


def with_arrays(record: Any, change: Callable[[Any], Any]) -> Any:
    """A record of a profile with all arrays in it changed."""
    if isinstance(record, np.ndarray):
        return change(record)
    if isinstance(record, tuple):
        return tuple(with_arrays(one, change) for one in record)
    if isinstance(record, Mapping):
        return {name: with_arrays(one, change) for name, one in record.items()}
    if is_dataclass(record) and not isinstance(record, type):
        return replace(record, **{field.name: with_arrays(getattr(record, field.name), change)
                                  for field in fields(record) if field.init})
    return record


def arrays_of(record: Any) -> list[Any]:
    """All arrays in a record of a profile or a step."""
    found, waiting = [], [record]
    while waiting:
        one = waiting.pop()
        if isinstance(one, np.ndarray):
            found.append(one)
        elif isinstance(one, tuple):
            waiting.extend(one)
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif not isinstance(one, _PLAIN):
            waiting.extend(getattr(one, name) for name in _field_names(one.__class__))
    return found


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind)) if is_dataclass(kind) else ()


def once_a_profile(answer: Callable[[HardwareProfile], Answer]) -> Callable[[HardwareProfile], Answer]:
    """A function that remembers its answers about the profiles it has been given: none of them ever changes."""
    known: dict[int, tuple[HardwareProfile, Answer]] = {}

    @wraps(answer)
    def remembered(hardware: HardwareProfile) -> Answer:
        found = known.get(id(hardware))
        if found is None:
            if len(known) >= PROFILES_REMEMBERED:
                known.clear()
            # The entry keeps the profile alive, and with it the number that names it.
            found = known[id(hardware)] = hardware, answer(hardware)
        return found[1]

    return remembered


def with_assumed(profile: HardwareProfile, values: Mapping[str, Any]) -> HardwareProfile:
    """The profile with numbers, or arrays of numbers, in place of parameters that have a class prior."""
    for key, value in values.items():
        profile = _replaced(profile, key, value, prior=True)
    return profile


def prior_fields(record: Any, above: str = "") -> dict[str, tuple[Prior, str, Any, Any]]:
    """Of each key with a class prior, in this record and below it: the prior, dimension, value and record."""
    found: dict[str, tuple[Prior, str, Any, Any]] = {}
    for stated in stated_fields(record.__class__):
        key, value = above + ".".join(stated.path), getattr(record, stated.attribute)
        if stated.prior is not None:
            found[key] = stated.prior, stated.dimension or COUNT, value, record
        elif stated.record is not None and value is not None:
            for one in value if stated.table else (value,):
                found |= prior_fields(one, f"{key}.{one.name}." if stated.table else f"{key}.")
    return found


def _replaced(record: Any, key: str, value: Any, *, prior: bool = False) -> Any:
    for stated in stated_fields(record.__class__):
        own, old = ".".join(stated.path), getattr(record, stated.attribute)
        below = key.removeprefix(f"{own}.")
        name, _, rest = below.partition(".")
        new: Any
        if key == own and (stated.prior if prior else stated.broadcasts and old is not None):
            new = value
        elif below == key or old is None:
            continue
        elif stated.table and any(one.name == name for one in old):
            new = tuple(_replaced(one, rest, value, prior=prior) if one.name == name else one for one in old)
        elif stated.record is not None and not stated.table:
            new = _replaced(old, below, value, prior=prior)
        elif stated.broadcasts and below in old:
            new = {**old, below: value}
        else:
            break
        return replace(record, **{stated.attribute: new})
    raise ValueError(f"{key} cannot be an array")
