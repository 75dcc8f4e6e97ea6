"""A profile's document becomes SI records: parameters apart from sources, ``--set`` values in place, then the schema.

A parameter is either a bare quantity (``bandwidth: 3.35 TB/s``) or one with its source::

    bandwidth: {value: 3.35 TB/s, source: datasheet, confidence: datasheet, note: 5 stacks}

``source`` is free text or a key of the profile's ``sources:`` table. ``null`` says that no source gives the
parameter; what then cannot be simulated is said when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, replace
from typing import Any, Final

from simkit.foundation.errors import (
    MAX_SHOWN_ERRORS,
    Location,
    UserError,
    did_you_mean,
    raise_collected,
    shorten,
    shown,
)
from simkit.foundation.validation import check
from simkit.foundation.yaml_source import YamlSource, dotted, parse_yaml, read_scalar
from simkit.hardware.declaration import stated_fields, unstated_names
from simkit.hardware.kernel import stated_parameters
from simkit.hardware.profile import HardwareProfile, Provenance
from simkit.hardware.schema import (
    CONFIDENCES,
    SCHEMA_HISTORY,
    SCHEMA_VERSION,
    KernelFileSchema,
    ProfileSchema,
)

SET: Final = Provenance(source="set on the command line")


def profile_from_yaml(source: YamlSource, overrides: Mapping[str, str] | None = None) -> HardwareProfile:
    """Check a document and turn it into a profile; ``overrides`` are ``--set`` values by dotted key.

    A document that extends another comes from :mod:`simkit.hardware.inherit`, which merges them.
    Raises :class:`UserError` with every fault and its place.
    """
    version = source.data.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version not in SCHEMA_HISTORY:
        history = "; ".join(f"{number}: {change}" for number, change in SCHEMA_HISTORY.items())
        raise UserError(f"{shown(version)} is not a version that this simkit reads (versions: {history})",
                        where=source.locate(["schema_version"]))
    provenance: dict[str, Provenance] = {}
    faults: list[UserError] = []
    data = {key: _strip_parameters(value, (key,), source, provenance, faults) for key, value in source.data.items()}
    raise_collected(faults)
    places: dict[str, Location] = {}
    for key, text in (overrides or {}).items():
        _override(data, key, text, places)
        provenance[key] = SET
    return _to_profile(check(ProfileSchema, data, source, places), provenance, source.file)


def _strip_parameters(node: Any, path: tuple[str | int, ...], source: YamlSource,
                   provenance: dict[str, Provenance], faults: list[UserError]) -> Any:
    """The document with ``{value: ..., source: ...}`` replaced by its value; sources go to ``provenance``."""
    if isinstance(node, list):
        return [_strip_parameters(item, (*path, index), source, provenance, faults) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "value" not in node or path in (("sources",), ("memory",)):
        return {key: _strip_parameters(value, (*path, key), source, provenance, faults) for key, value in node.items()}
    known = ("value", "source", "confidence", "note")
    for key, given in node.items():
        if key not in known:
            hint = did_you_mean(key, known) if len(faults) < MAX_SHOWN_ERRORS else None  # of what is shown
            faults.append(UserError("unknown key", where=source.locate((*path, key)), hint=hint))
        elif key != "value" and given is not None and not isinstance(given, str):
            faults.append(UserError(f"{shown(given)} is not text", where=source.locate((*path, key))))
        elif key == "confidence" and given is not None and given not in CONFIDENCES:
            hint = did_you_mean(given, CONFIDENCES)
            faults.append(UserError(f"{shown(given)} is not known: expected one of {', '.join(CONFIDENCES)}",
                                    where=source.locate((*path, key)),
                                    hint=hint if hint and hint.startswith("did") else None))
    if faults:
        return node["value"]
    table, named = source.data.get("sources"), node.get("source")
    full = table.get(named, named) if isinstance(table, dict) else named
    provenance[dotted(path)] = Provenance(source=full, confidence=node.get("confidence"), note=node.get("note"))
    return node["value"]


def _override(data: dict[str, Any], key: str, text: str, places: dict[str, Location]) -> None:
    where = Location(file="--set", key=key)
    parts = key.split(".")
    if parts[0] == "extends":
        raise UserError("only a file can extend a profile", where=where, hint="name that profile instead")
    levels = data.get("memory")
    if parts[0] == "memory" and len(parts) < 3:
        named = parts[1] if len(parts) == 2 and parts[1] else next(iter(levels or ()), "hbm")
        raise UserError("name a parameter of a memory level", where=where,
                        hint=f"such as --set memory.{shorten(str(named), 64)}.bandwidth=8TB/s")
    node: Any = data
    for depth, part in enumerate(parts[:-1], start=1):
        if part not in node and (parts[0] != "memory" or depth > 2):
            node[part] = {}  # an optional section that the file leaves out; the schema still checks its keys
            places[".".join(parts[:depth])] = where
        if part not in node:
            raise UserError(f"no such key '{part[:64]}'", where=where, hint=did_you_mean(part, node))
        if not isinstance(node[part], dict):
            raise UserError(f"'{part[:64]}' has no keys below it", where=where,
                            hint=f"write --set {shorten('.'.join(parts[:depth]), 64)}={shorten(text.strip(), 40)}")
        node[part] = node = {**node[part]}  # the document itself is read again
    places[key] = where
    node[parts[-1]] = _setting(text.strip())


def _setting(text: str) -> Any:
    """A value of ``--set``: as a plain scalar of the file would be read, or a list in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return parse_yaml(f"value: {text}", file="--set").data["value"]
    return read_scalar(text)


def _record(kind: type, section: Any, key: str, missing: list[str], unstated: list[str], **filled_in: Any) -> Any:
    """The record of a checked section; ``missing`` gains the keys that the file calls unknown, ``unstated`` those with
    a class prior that it leaves out.

    None where the record cannot be without one of them: a link of unknown bandwidth is none.
    """
    values = {name: filled_in[name] for name in unstated_names(kind) if name in filled_in}
    for field in stated_fields(kind):
        here = key + ".".join(field.path)
        value = section
        for part in field.path:
            above, value = value, getattr(value, part, None)
        if field.prior is not None and (value is None or field.path[-1] not in above.model_fields_set):
            unstated.append(here)
        if field.made is not None:
            value = field.made(section)
        elif field.record is not None and field.table:
            value = tuple(_record(field.record, inner, f"{here}.{name}.", missing, unstated, **filled_in, name=name)
                          for name, inner in value.items())
        elif field.record is not None and value is not None:
            value = _record(field.record, value, f"{here}.", missing, unstated, **filled_in)
        elif isinstance(value, dict):
            missing += [f"{here}.{name}" for name, given in value.items() if given is None]
            value = {name: given for name, given in value.items() if given is not None}
        elif value is None and field.default is MISSING:
            missing.append(here)
            if not field.optional:
                return None
        values[field.attribute] = value
    return kind(**values)


def _to_profile(schema: Any, provenance: Mapping[str, Provenance], file: str) -> HardwareProfile:
    missing: list[str] = []
    unstated: list[str] = []
    profile: HardwareProfile = _record(HardwareProfile, schema, "", missing, unstated, units=schema.compute.units,
                                       provenance=dict(provenance), file=file)
    return replace(profile, missing=tuple(missing), unstated=tuple(unstated))


def kernel_file_from_yaml(source: YamlSource) -> dict[str, float]:
    """The parameters of a kernel file. Raises :class:`UserError` with every fault and its place."""
    faults: list[UserError] = []
    data = _strip_parameters(source.data, (), source, {}, faults)
    raise_collected(faults)
    return stated_parameters(check(KernelFileSchema, data, source)) or {}
