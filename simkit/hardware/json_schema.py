"""The JSON Schema of a profile file, for editors that complete and check while typing.

Pydantic knows the parameters after their sources are stripped; a file may write each of them bare or as
``{value: ..., source: ..., confidence: ..., note: ...}``, so both forms are allowed here. A profile that extends
another states only what it changes: keys are required of the others alone.
"""

from __future__ import annotations

from typing import Any, Final

from simkit.hardware.schema import CONFIDENCES, ProfileSchema

_ANNOTATIONS: Final = ("description", "title", "default")


def profile_json_schema() -> dict[str, Any]:
    """The schema that ``profile schema`` writes (JSON Schema draft 2020-12)."""
    schema = complete_profile_schema()
    required = _requirements(schema, schema["$defs"])
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    return {**schema, "required": ["schema_version", "name"], "if": {"required": ["extends"]}, "else": required}


def _requirements(node: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """What of a schema says which keys must be there, through sections and optional sections."""
    forms = [form for form in (node, *node.get("anyOf", ())) if "$ref" in form]
    if forms:
        return _requirements(sections[forms[0]["$ref"].rpartition("/")[2]], sections)
    kept: dict[str, Any] = {"required": node["required"]} if "required" in node else {}
    for part in ("properties", "patternProperties"):
        inner = {key: _requirements(value, sections) for key, value in node.get(part, {}).items()}
        if any(inner.values()):
            kept[part] = {key: value for key, value in inner.items() if value}
    return kept


def complete_profile_schema() -> dict[str, Any]:
    """The schema of a profile that extends no other, with the keys that it must state."""
    schema = ProfileSchema.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "simkit hardware profile"
    schema["description"] = "One chip and the system it is sold in; each parameter bare or with its source."
    for section in schema["$defs"].values():
        section["properties"] = {key: _parameter(value) for key, value in section["properties"].items()}
        section.pop("title", None)
    return schema


def _parameter(value: dict[str, Any]) -> dict[str, Any]:
    """A property in both forms; sections and tables of parameters keep theirs."""
    if _is_section(value):
        return value
    if isinstance(value.get("additionalProperties"), dict):  # a table of parameters, such as the peaks by data type
        return {**value, "additionalProperties": _parameter(value["additionalProperties"])}
    bare = {key: part for key, part in value.items() if key not in _ANNOTATIONS}
    words = {key: part for key, part in value.items() if key in _ANNOTATIONS and key != "title"}
    forms = bare["anyOf"] if set(bare) == {"anyOf"} else [bare]
    sourced = {
        "type": "object", "additionalProperties": False, "required": ["value"],
        "properties": {
            "value": bare, "source": {"type": "string", "description": "a key of 'sources', or a citation"},
            "confidence": {"enum": list(CONFIDENCES)}, "note": {"type": "string"},
        },
    }
    return {**words, "anyOf": [*forms, sourced]}


def _is_section(value: dict[str, Any]) -> bool:
    return "$ref" in value or any("$ref" in form for form in value.get("anyOf", ()))
