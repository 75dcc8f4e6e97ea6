"""Every parameter of a profile as a flat list: dotted key, SI value, dimension, and where it comes from.

What ``profile show`` prints, ``profile diff`` compares and a what-if varies. Keys are those of the file and of
``--set``; they follow from the declarations of the records (:mod:`simkit.hardware.declaration`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simkit.hardware.declaration import StatedField, stated_fields
from simkit.hardware.profile import HardwareProfile, Provenance

Put = Callable[[Any], HardwareProfile]
_UNSTATED = Provenance()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileParameter:
    """One parameter. ``value``: in SI units, text, or None where no source gives it; ``dimension``: None for text.

    ``whole``: it counts things; ``broadcasts``: :func:`with_parameter` may put an array in its place; from others
    more follows when a profile is loaded.
    """

    key: str
    value: float | str | None
    dimension: str | None
    provenance: Provenance
    whole: bool
    broadcasts: bool
    put: Put = field(repr=False, compare=False)


def profile_parameters(profile: HardwareProfile) -> list[ProfileParameter]:
    """All parameters in the order of the records; optional ones that the profile leaves out are not listed.

    A parameter that the profile names as unknown (``null``) is listed with the value None.
    """
    return [ProfileParameter(key=key, value=value, dimension=field.dimension, whole=field.whole,
                             provenance=profile.provenance.get(key, _UNSTATED),
                             broadcasts=field.broadcasts and value is not None, put=put)
            for key, value, field, put in _walk(HardwareProfile, profile, "", lambda changed: changed, profile.missing)
            if "." in key and (value is not None or key in profile.missing)]


def with_parameter(profile: HardwareProfile, key: str, value: Any) -> HardwareProfile:
    """The profile with a number, or an array of numbers, at a key that ``broadcasts``."""
    for parameter in profile_parameters(profile):
        if parameter.key == key and parameter.broadcasts:
            return parameter.put(value)
    raise ValueError(f"{key} cannot be an array")


def _walk(kind: type, record: Any, above: str, put: Put,
          missing: tuple[str, ...]) -> Iterator[tuple[str, float | str | None, StatedField, Put]]:
    """Each key of a record (None: of a section that the profile is without), and what puts another value there."""
    for stated in stated_fields(kind):
        key, value = above + ".".join(stated.path), getattr(record, stated.attribute, None)

        def put_here(new: Any, attribute: str = stated.attribute) -> HardwareProfile:
            return put(replace(record, **{attribute: new}))

        if stated.record is not None and stated.table:
            for one in value or ():
                def put_one(new: Any, old: Any = one, all_: Any = value, put: Put = put_here) -> HardwareProfile:
                    return put(tuple(new if other is old else other for other in all_))

                yield from _walk(stated.record, one, f"{key}.{one.name}.", put_one, missing)
        elif stated.record is not None:
            yield from _walk(stated.record, value, f"{key}.", put_here, missing)
        elif isinstance(value, Mapping):
            unknown = [name.removeprefix(f"{key}.") for name in missing if name.startswith(f"{key}.")]
            for name in (*value, *unknown):
                def put_entry(new: Any, name: str = name, all_: Any = value, put: Put = put_here) -> HardwareProfile:
                    return put({**all_, name: new})

                yield f"{key}.{name}", value.get(name), stated, put_entry
        else:
            yield key, _plain(value), stated, put_here


def _plain(value: Any) -> float | str | None:
    """A value as it is listed: flags where they are set."""
    if isinstance(value, bool):
        return "true" if value else None
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, tuple) else value
