"""A profile's fields, each declared once, as a field of the record that the engines read::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Link:
        latency_s: Latency
        '''Of one small message between neighbours, software included.'''

The YAML key is the attribute without the unit in its name (``latency``), its dimension and range stand in the type, a
default makes it optional, ``| None`` without a default makes it a number that a file may call unknown (``null``), the
docstring is its meaning. Where this does not say it, :class:`Key` in ``Annotated[...]`` does. The schema of files
(:mod:`simkit.hardware.schema`), the records (:mod:`simkit.hardware.document`) and the list of parameters with
what may vary (:mod:`simkit.hardware.parameters`) all follow from :func:`stated_fields`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from simkit.foundation.units import (
    BYTES,
    BYTES_PER_S,
    COUNT,
    FLOP_PER_S,
    HERTZ,
    J_PER_BYTE,
    J_PER_FLOP,
    OPS_PER_S,
    SECONDS,
    USD,
    USD_PER_HOUR,
    WATTS,
)
from simkit.foundation.validation import Quantity

# How attributes name the unit that the values of a file carry.
_UNITS_IN_NAMES: Final = {
    BYTES: "_bytes", BYTES_PER_S: "_bytes_per_s", FLOP_PER_S: "_flop_per_s", OPS_PER_S: "_ops_per_s", SECONDS: "_s",
    HERTZ: "_hz", WATTS: "_w", J_PER_BYTE: "_j_per_byte", J_PER_FLOP: "_j_per_flop", USD: "_usd",
    USD_PER_HOUR: "_usd_per_hour"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """The class prior of a field that files may leave out: see :mod:`simkit.hardware.priors`.

    Parameters
    ----------
    key: the parameter's name there.
    more_is_faster: whether a larger value shortens times.
    scale: what the prior is a multiple of, from the field's record, where it is not the value itself.
    """

    key: str
    more_is_faster: bool
    scale: Callable[[Any], float] = lambda _: 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """What a field's name and type do not say about its key.

    Parameters
    ----------
    path: the dotted key below the record's section; empty: the attribute without its unit.
    stated: False for what no file states: the program fills it in.
    reads: what a file may hold there, where that is not the field's own type.
    made: the field's value from the checked section, where it is not the key's as it stands.
    loaded: a borrowed kernel follows from it, so that a what-if on a profile that has one loads it for each value.
    prior: the range that stands in where a file is silent.
    """

    path: str = ""
    _: KW_ONLY
    stated: bool = True
    reads: Any = None
    made: Callable[[Any], Any] | None = None
    loaded: bool = False
    prior: Prior | None = None


NO_KEY: Final = Key(stated=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedField:
    """A field with all that follows from its declaration.

    ``reads``: the type of its value in a file; ``default``: MISSING for a key that must be there; ``record``: the
    record of a section, ``table`` when there is one for each name; ``dimension``: None for what is not a number;
    ``broadcasts``: an array may stand in its place, if ``loaded`` where no kernel is borrowed; ``optional``: the record
    may be without it.
    """

    attribute: str
    path: tuple[str, ...]
    reads: Any
    default: Any
    record: Any
    table: bool
    dimension: str | None
    whole: bool
    broadcasts: bool
    loaded: bool
    optional: bool
    made: Callable[[Any], Any] | None
    prior: Prior | None


@functools.cache
def stated_fields(record: type) -> tuple[StatedField, ...]:
    """The fields of a record that a file states, in their order."""
    hints = get_type_hints(record, include_extras=True)
    keys = {name: next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Key)), Key())
            for name, hint in hints.items()}
    return tuple(_stated(entry, hints[entry.name], keys[entry.name])
                 for entry in fields(record) if keys[entry.name].stated)


@functools.cache
def unstated_names(record: type) -> frozenset[str]:
    """The fields that the program fills in."""
    return frozenset(entry.name for entry in fields(record)) - {field.attribute for field in stated_fields(record)}


def label_keys(record: type) -> frozenset[str]:
    """Keys, of this record and those below it, that say what something is and not how much."""
    own = {field.path[-1] for field in stated_fields(record) if field.record is None and field.dimension is None}
    return frozenset(own).union(*(label_keys(field.record) for field in stated_fields(record) if field.record))


def _stated(entry: Any, hint: Any, key: Key) -> StatedField:
    reads = key.reads or hint
    parts = list(_parts(reads))
    dimension = next((part.dimension for part in parts if isinstance(part, Quantity)), None)
    if dimension is None and (float in parts or int in parts) and tuple not in parts:
        dimension = COUNT
    plain = entry.name.removesuffix(_UNITS_IN_NAMES.get(dimension or COUNT, ""))
    return StatedField(
        attribute=entry.name, path=tuple((key.path or plain).split(".")), reads=reads,
        default=None if key.made else entry.default,
        record=next((part for part in parts if isinstance(part, type) and is_dataclass(part)), None),
        table=tuple in parts, dimension=dimension, whole=int in parts, made=key.made, prior=key.prior,
        broadcasts=dimension is not None and int not in parts and key.made is None, loaded=key.loaded,
        optional=type(None) in _parts(hint))


def _parts(annotation: Any) -> Iterator[Any]:
    """All types and annotations that a type is made of, containers among them."""
    yield get_origin(annotation) or annotation
    if get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _parts(part)
