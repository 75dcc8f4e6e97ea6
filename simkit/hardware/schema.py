"""The YAML form of a profile, made from the declarations of its records. :mod:`simkit.hardware.document` reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field, create_model, model_validator

from simkit.foundation.units import COUNT
from simkit.foundation.validation import KeyName, Name, Quantity, StrictRecord, Text, rule
from simkit.hardware.declaration import StatedField, stated_fields
from simkit.hardware.kernel import LIBRARIES, PARAMETERS, SECTIONS
from simkit.hardware.profile import FLAT_SECTIONS, TENSORS, HardwareProfile, tensors_held

SCHEMA_VERSION: Final = 1
SCHEMA_HISTORY: Final = {1: "first published form"}
CONFIDENCES: Final = ("datasheet", "paper-measured", "press", "estimate", "recalled", "calibration", "derived")

KernelParameter = Annotated[float, Quantity(COUNT, 0, 1e9)]
_OptionalParameter: Any = (KernelParameter | None, None)
_MEANINGS: Final = {
    "latent": "Parameters that differ for kernels that read one latent a token (MLA).",
    "gemm": "Parameters of products of a few rows.", "moe": "Parameters of the routed experts of a layer.",
    "prefill": "Parameters of a prompt's attention.", **dict.fromkeys(LIBRARIES, (
        "Which attention kernels a software library has for this chip, and what its launches and items cost."))}


@cache
def _section_parameters(name: str, parameters: tuple[str, ...], meaning: str) -> Any:
    return create_model(name, __base__=StrictRecord, __doc__=meaning, **dict.fromkeys(parameters, _OptionalParameter))


_KERNEL_KEYS: dict[str, Any] = {"like": (Name | None, None), **dict.fromkeys(PARAMETERS, _OptionalParameter), **{
    section: (_section_parameters(("Library" if section in LIBRARIES else section.capitalize()) + "Parameters",
                                  parameters, _MEANINGS[section]) | None, None)
    for section, parameters in SECTIONS.items()}}
KernelParameters: Any = create_model(
    "KernelParameters", __base__=StrictRecord, **_KERNEL_KEYS,
    __doc__="Calibrated parameters of decode-attention kernels (simkit/hardware/kernel.py), or like: a chip to take "
            "them from.")


class KernelFileSchema(StrictRecord):
    """What kernel libraries do alike on every chip: the defaults under every profile's kernel section."""

    schema_version: Literal[1]
    name: Name
    sources: dict[Name, Text] = Field(default_factory=dict)
    kernel: KernelParameters


class ProfileHead(StrictRecord):
    """The keys of a profile that say how to read the others."""

    schema_version: Literal[1]
    """Form of this file."""
    name: Name
    extends: Text | None = None
    """Profile, by name or by path from this file, whose keys hold where this file is silent."""
    sources: dict[str, Text] = Field(default_factory=dict)
    """Short names that parameters give as their source, with the document behind each."""


def section_schema(record: type, **options: Any) -> type[StrictRecord]:
    """The schema of a section from the record that declares its fields; ``options`` of pydantic's ``create_model``.

    A dotted key opens a section of its own, which may be left out where all its keys may.
    """
    declared = [(field.path, field) for field in stated_fields(record)]
    return _schema(record.__name__, str(record.__doc__).partition("\n")[0], declared, record, options)


def _schema(name: str, meaning: str, declared: Iterable[tuple[tuple[str, ...], StatedField]], record: type,
            options: Mapping[str, Any]) -> type[StrictRecord]:
    keys: dict[str, Any] = {}
    attributes: dict[str, str] = {}
    flat: dict[str, list[tuple[tuple[str, ...], StatedField]]] = {}
    for (key, *below), field in declared:
        if key == "kernel":  # its parameters are declared in simkit/hardware/kernel.py
            keys[key] = (KernelParameters | None, None)
        elif below:
            keys[key] = None  # its place in the order
            flat.setdefault(key, []).append((tuple(below), field))
            continue
        elif field.record is None:
            keys[key] = (field.reads, ... if field.default is MISSING else field.default)
        else:
            keys[key] = _section(field)
        attributes[key] = field.attribute
    for key, inner in flat.items():
        section = _schema(key.capitalize(), FLAT_SECTIONS[key], inner, record, {})
        keys[key] = (section, _left_out(section))
    create: Callable[..., type[StrictRecord]] = create_model
    schema = create(name, **{"__base__": StrictRecord, "__doc__": meaning, **options}, **keys)
    schema.declared = (record, attributes)
    return schema


def _section(field: StatedField) -> tuple[Any, Any]:
    """Type and default of a key that opens a section of its own record, or one for each name."""
    schema: Any = section_schema(field.record)
    if field.table:
        limits = getattr(field.reads, "__metadata__", ())
        return Annotated[dict[KeyName, schema], *limits] if limits else dict[KeyName, schema], ...
    if field.optional:
        return schema | None, None
    return schema, ... if field.default is MISSING else _left_out(schema)


def _left_out(schema: Any) -> Any:
    """What stands for a section that a file leaves out."""
    return ... if any(key.is_required() for key in schema.model_fields.values()) else schema()


def _has_a_home_for_every_tensor(profile: Any) -> Any:
    for tensor in TENSORS:
        if not any(tensor in tensors_held(level) and not level.overflow for level in profile.memory.values()):
            raise rule(f"no memory level holds the {tensor}: add '{tensor}' to a level's 'holds'", "memory")
    if not any(rate is not None for rate in profile.compute.matrix.peak.values()):
        raise rule("no rate: expected at least one, such as 'bf16: 989.4 TFLOP/s'", "compute", "matrix", "peak")
    return profile


ProfileSchema: Final = section_schema(
    HardwareProfile, __base__=ProfileHead,
    __validators__={"homes": model_validator(mode="after")(_has_a_home_for_every_tensor)})
