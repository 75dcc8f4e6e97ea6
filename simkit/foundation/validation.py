"""From a YAML document to a checked pydantic record: all faults at once, each with its file:line and a hint.

Pydantic finds the faults and writes the JSON Schema; this module gives them places and people's words.
Quantity types for schemas are made here too, so that every range is stated once, beside its unit.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from simkit.foundation.errors import Location, UserError, did_you_mean, raise_collected, shown
from simkit.foundation.units import COUNT, example_of, format_quantity, parse_quantity, units_of
from simkit.foundation.yaml_source import YamlSource

Model = TypeVar("Model", bound=BaseModel)


class StrictRecord(BaseModel):
    """Base of every YAML schema: unknown keys refused, values immutable, no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)
    declared: ClassVar[tuple[type, Mapping[str, str]] | None] = None
    """Of a schema made from a record: that record, and the attribute behind each key."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON Schema with each key's docstring as its description.

        Pydantic's own ``use_attribute_docstrings`` reads the source of every class when it is made: a fifth of a
        second of each command, for words that only editors and the reference see.
        """
        found = handler(schema)
        properties = handler.resolve_ref_schema(found).get("properties", {})
        for key, meaning in key_meanings(cls).items():
            properties[key]["description"] = meaning
        return found


def record_schema(record: type, **options: Any) -> type[StrictRecord]:
    """The schema of a section whose keys are a record's fields, with their types and docstrings.

    ``options`` of pydantic's ``create_model``.
    """
    hints = get_type_hints(record, include_extras=True)
    keys: dict[str, Any] = {one.name: (hints[one.name], ... if one.default is MISSING else one.default)
                            for one in fields(record)}
    create: Callable[..., type[StrictRecord]] = create_model
    schema = create(f"{record.__name__}Schema", **{
        "__base__": StrictRecord, "__doc__": str(record.__doc__).partition("\n")[0], **options}, **keys)
    schema.declared = record, {name: name for name in keys}
    return schema


def key_meanings(schema: type[StrictRecord]) -> dict[str, str]:
    """What each key of a schema means: its ``description``, or the docstring under it where it is declared."""
    meanings: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if issubclass(base, StrictRecord) and base is not StrictRecord:
            meanings |= _docstrings(base)
    if schema.declared is not None:
        record, attributes = schema.declared
        words = _docstrings(record)
        meanings |= {key: words[attribute] for key, attribute in attributes.items() if attribute in words}
    stated = {key: info.description for key, info in schema.model_fields.items() if info.description}
    return meanings | stated


@functools.cache
def _docstrings(declaring: type) -> dict[str, str]:
    """The docstring under each annotated name of a class, from its source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(declaring))).body[0]
    except OSError:  # made by create_model: no source
        return {}
    return {line.target.id: inspect.cleandoc(below.value.value)
            for line, below in pairwise(body.body if isinstance(body, ast.ClassDef) else [])
            if (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str))}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Pydantic metadata for a quantity with a unit: ``Annotated[float, Quantity(BYTES_PER_S, 1e6, 1e18)]``.

    Stored in SI base units; refused outside [least, most] (SI).
    """

    dimension: str
    least: float
    most: float

    def read(self, value: object) -> float:
        """The value in SI, or a pydantic error in people's words."""
        try:
            parsed = parse_quantity(value, self.dimension)
        except UserError as error:
            raise rule(str(error)) from None
        if not self.least <= parsed <= self.most:
            low, high = (format_quantity(edge, self.dimension) for edge in (self.least, self.most))
            text = value if isinstance(value, str) else shown(value)
            raise rule(f"{text} is out of range: expected {low} to {high}")
        return parsed

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return self.json_schema()

    def json_schema(self) -> dict[str, Any]:
        """What editors check while typing: a number and one of the units."""
        if self.dimension == COUNT:
            return {"type": "number", "minimum": self.least, "maximum": self.most}
        units = "|".join(sorted(units_of(self.dimension), key=len))
        return {"type": "string", "pattern": rf"^\s*[0-9.eE+-]+ ?({units})\s*$",
                "description": f"{self.dimension}, such as '{example_of(self.dimension)}'"}


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """Pydantic metadata for an integer within [least, most]; fractions and texts are refused."""

    least: int
    most: int

    def read(self, value: object) -> int:
        """The integer, or a pydantic error in people's words."""
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise rule(f"{shown(value)} is not a whole number: expected {self.least} to {self.most}")
        if not self.least <= value <= self.most:
            raise rule(f"{shown(value)} is out of range: expected {self.least} to {self.most}")
        return int(value)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: object, handler: object) -> dict[str, Any]:
        return self.json_schema()

    def json_schema(self) -> dict[str, Any]:
        """What editors check while typing."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most,
                "description": f"a whole number from {self.least} to {self.most}"}


# Finding the nearest name takes a tenth of a millisecond: faults beyond these are counted, for few are shown anyway.
_MOST_FAULTS: Final = 200
_NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_KEY_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_PATTERN_WORDS: Final = {
    _NAME_PATTERN: "a name of at most 64 letters, digits, '.', '_' and '-', begun by a letter or digit",
    _KEY_PATTERN: "a name of at most 64 letters, digits, '_' and '-', begun by a letter or digit",
}
Name = Annotated[str, Field(pattern=_NAME_PATTERN)]
KeyName = Annotated[str, Field(pattern=_KEY_PATTERN)]
"""A name that stands in dotted keys, and therefore has no dot."""
Text = Annotated[str, Field(min_length=1, max_length=2000)]
# Strict: pydantic would read the text "no" as false, true as 1.0 and the text "nan" as a number.
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(gt=0, le=1)]


def check(schema: type[Model], data: Mapping[str, Any], source: YamlSource,
          places: Mapping[str, Location] | None = None) -> Model:
    """Validate ``data`` against ``schema``.

    ``places`` overrides the place of single dotted keys (for values that came from ``--set``).
    Raises :class:`UserError` (or ``UserErrorGroup``) with every fault.
    """
    try:
        return schema.model_validate(dict(data))
    except ValidationError as failure:
        found = failure.errors(include_url=False)
        faults = [_fault(error, schema, source, places or {}) for error in found[:_MOST_FAULTS]]
        raise_collected(sorted(faults, key=lambda fault: (fault.where.line or 0) if fault.where else 0),
                        unlisted=len(found) - len(faults))
        raise  # unreachable: a ValidationError always has at least one fault


def _fault(error: Any, schema: type[BaseModel], source: YamlSource, places: Mapping[str, Location]) -> UserError:
    kind, context, given = error["type"], error.get("ctx") or {}, error.get("input")
    path = [part for part in error["loc"] if part != "[key]"] + list(context.get("at", ()))
    where = source.locate(path)
    for length in range(len(path), 0, -1):
        key = ".".join(str(part) for part in path[:length])
        if key in places:
            where = places[key]
            break
    owner, field = schema_at(schema, path[:-1]), str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        if given is None and ":" in field:
            return UserError("unknown key", where=where, hint="write a space after ':'")
        if given is None and field[:1].isdigit():
            return UserError("unknown key", where=where, hint="a decimal comma? write a point, as in 1.98 GHz")
        known = list(owner.model_fields) if owner else []
        return UserError("unknown key", where=where, hint=did_you_mean(field, known))
    if kind == "missing":
        return UserError(f"missing key '{field}'", where=where, hint=_expectation(owner, field))
    if kind == "literal_error":
        wanted = str(context.get("expected", ""))
        known = [word.strip("'") for word in wanted.replace(" or ", ", ").split(", ")]
        hint = did_you_mean(given, known) if isinstance(given, str) and len(known) > 1 else None
        hint = hint if hint and hint.startswith("did") else None  # the expected ones are listed already
        return UserError(f"{shown(given)} is not known: expected {wanted}", where=where, hint=hint)
    if kind == "rule":
        return UserError(str(context.get("text") or error["msg"]), where=where)
    return UserError(_in_words(kind, context, given) or str(error["msg"]), where=where)


def _in_words(kind: str, context: Mapping[str, Any], given: object) -> str | None:
    """What a kind of pydantic error means to the author of a YAML file."""
    edge = _EDGES.get(kind)
    if edge:
        return f"{shown(given)} is out of range: expected {edge[1]} {context[edge[0]]:g}"
    if kind in _TYPE_WORDS:
        return f"{shown(given)} is not {_TYPE_WORDS[kind]}"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return f"{shown(given)} is not {_PATTERN_WORDS.get(pattern, f'text of the form {pattern}')}"
    if kind == "string_too_long":
        return f"a text of {len(str(given)):,} characters: expected at most {context['max_length']:,}"
    if kind == "too_short":
        return f"no entry: expected at least {context['min_length']}"
    if kind == "too_long":
        return f"too many entries: expected at most {context['max_length']}"
    return None


_EDGES: Final = {"greater_than": ("gt", "more than"), "greater_than_equal": ("ge", "at least"),
                 "less_than": ("lt", "less than"), "less_than_equal": ("le", "at most")}
_SECTION: Final = "a section: expected 'key: value' lines below this key"
_TYPE_WORDS: Final = {
    "model_type": _SECTION, "model_attributes_type": _SECTION, "dict_type": _SECTION,
    "string_type": "text", "string_too_short": "text", "string_unicode": "text", "bool_type": "true or false",
    "list_type": "a list: expected such as [a, b]", "tuple_type": "a list: expected such as [a, b]",
    "float_type": "a number", "finite_number": "a finite number",
}


def rule(text: str, *at: str | int) -> PydanticCustomError:
    """The error that a model validator raises when fields contradict each other; ``at``: the key path to show."""
    return PydanticCustomError("rule", "{text}", {"text": text, "at": at})


def schema_at(schema: type[BaseModel], path: Sequence[Any]) -> type[BaseModel] | None:
    """The schema of the section at ``path``, through dicts, lists and optionals."""
    current: type[BaseModel] | None = schema
    index = 0
    while index < len(path) and current is not None:
        info = current.model_fields.get(str(path[index]))
        if info is None:
            return None
        annotation = info.annotation
        index += 1
        if _is_container(annotation):
            index += 1
        current = next(_schemas_in(annotation), None)
    return current


def _is_container(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (dict, list, tuple):
        return True
    return any(_is_container(part) for part in get_args(annotation)) if origin is not Literal else False


def _schemas_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _schemas_in(part)


def _expectation(owner: type[BaseModel] | None, field: str) -> str | None:
    info = owner.model_fields.get(field) if owner else None
    if info is None:
        return None
    for extra in (*info.metadata, *_metadata_in(info.annotation)):
        if isinstance(extra, Quantity | WholeNumber):
            return "expected " + str(extra.json_schema().get("description", "a number"))
    if get_origin(info.annotation) is Literal:
        return "expected " + " or ".join(str(choice) for choice in get_args(info.annotation))
    return None if next(_schemas_in(info.annotation), None) is None else "expected a section of 'key: value' lines"


def _metadata_in(annotation: Any) -> Iterator[Any]:
    """The pydantic metadata inside ``Annotated[...] | None``."""
    for part in get_args(annotation):
        yield from getattr(part, "__metadata__", ())
