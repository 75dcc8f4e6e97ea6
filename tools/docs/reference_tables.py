"""What docs/reference.md and the tables of other pages show, written from the program itself.

Commands come from click, keys of files from the pydantic schemas that check them, fields from the records' vocabulary.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import click

from simkit.commands.main import main as simkit
from simkit.commands.options import Renamed
from simkit.foundation.units import COUNT, dimensions, units_of
from simkit.foundation.validation import Quantity
from simkit.hardware.json_schema import complete_profile_schema
from simkit.model.schema import ModelSchema
from simkit.serving.plan_record import PLAN_FIELDS
from simkit.serving.record import APART_FIELDS, SERVING_FIELDS
from simkit.study.pool_fields import POOL_FIELDS
from simkit.study.record import FIELDS, Field
from simkit.study.single_kernel import KERNEL_FIELDS
from simkit.study.study_values import StudySchema
from simkit.study.workload_file import WorkloadSchema

_DEFAULT: Final = re.compile(r" *\[default: ([^]]*)\]$")
_LISTED: Final = {"string": "names or texts", "integer": "whole numbers", "['string', 'number']": "them"}
SHARED_BY: Final = 4  # commands from which on an option is described once for all of them
# A quantity's pattern names its units; a description of its own may stand in the place of their words.
_QUANTITIES: Final = {
    schema["pattern"]: schema["description"].replace(", such as", ":").replace("'", "`")
    for schema in (Quantity(dimension, 0, 1).json_schema() for dimension in dimensions()) if "pattern" in schema}
# Units that tables print as plain numbers.
_COMPOUND_UNITS: Final = {
    "tokens_per_s": "tokens/s", "tokens_per_s_per_user": "tokens/s", "flops": "flops", "fits": "true or false",
    "arithmetic_intensity": "flops/byte", "energy_j_per_token": "joules/token", "cost_usd_per_mtok": "US dollars/Mtok",
    "kv_len": "tokens", "q_len": "tokens",
}


def markdown_table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; bars inside cells are escaped."""
    lines = [list(heading), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def unit_table() -> str:
    """Every unit that a quantity may be written in."""
    return markdown_table(["quantity", "units"], (
        [dimension, ", ".join(f"`{unit}`" for unit in units_of(dimension))] for dimension in dimensions()
        if dimension != COUNT))


def record_fields() -> str:
    """Every name in a record of ``simkit simulate``, its unit and its meaning."""
    return _field_table(FIELDS)


def pool_fields() -> str:
    """Columns of points on two pools of chips."""
    return _field_table(POOL_FIELDS)


def serving_fields() -> str:
    """Every name in a record of ``simkit serve`` that a decode step's record has not."""
    return _field_table({name: field for name, field in {**SERVING_FIELDS, **APART_FIELDS}.items()
                         if name not in FIELDS})


def plan_fields() -> str:
    """Every name in a record of ``simkit plan`` that the records of a served stream and of a decode step have not."""
    return _field_table({name: field for name, field in PLAN_FIELDS.items()
                         if name not in FIELDS and name not in SERVING_FIELDS})


def kernel_fields() -> str:
    """The names that only ``simkit attention`` adds."""
    return _field_table({name: field for name, field in KERNEL_FIELDS.items() if name not in FIELDS})


def _field_table(fields: Mapping[str, Field]) -> str:
    return markdown_table(["name", "unit", "meaning"], (
        [f"`{field.name}`", _unit(field), field.meaning] for field in fields.values()))


def _unit(field: Field) -> str:
    if field.dimension is None:
        return "text"
    name = field.name.removesuffix("_low").removesuffix("_high")
    return _COMPOUND_UNITS.get(name, "-") if field.dimension == COUNT else field.dimension


def profile_keys() -> str:
    """Every key of a profile with what it takes, from the schema that checks profiles."""
    schema = complete_profile_schema()
    return markdown_table(["key", "takes", "meaning"], _keys(schema, schema["$defs"], ()))


def _keys(section: Mapping[str, Any], sections: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[list[str]]:
    required = section.get("required", ())
    for name, key in section["properties"].items():
        if name == "scale_out":  # the same keys as scale_up, which the page says
            continue
        inner = _inner_section(key)
        if inner is not None and inner[1] == "KernelParameters":
            yield [f"`{'.'.join((*path, name))}`", "a section", _one_line(key.get("description", ""))]
        elif inner is not None:
            yield from _keys(sections[inner[1]], sections, (*path, name, *inner[0]))
        else:
            text = f"`{'.'.join((*path, name))}`" + (" *" if name in required else "")
            takes, meaning = _takes(key), _one_line(key.get("description", ""))
            yield [text, takes, meaning]


def _inner_section(key: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """The section that a key opens, and the wildcard between them: ``memory.NAME.capacity``, ``figures.N.kind``."""
    forms = (key, *key.get("anyOf", ()))
    for between, inner in (((), forms), (("NAME",), key.get("patternProperties", {}).values()),
                           (("N",), [form["items"] for form in forms if "items" in form])):
        for form in inner:
            if "$ref" in form:
                return between, form["$ref"].rpartition("/")[2]
    return None


def _takes(key: Mapping[str, Any]) -> str:
    """What may be written for a key, in words."""
    if "additionalProperties" in key and isinstance(key["additionalProperties"], dict):
        names = key.get("propertyNames", {}).get("enum")
        inside = _takes(key["additionalProperties"])
        return (f"for each of {', '.join(names)}: " if names else "names with ") + inside
    forms = [part for form in key.get("anyOf", [key]) for part in form.get("oneOf", [form])]
    bare = [form for form in forms if form.get("type") not in ("object", "null")] or [key]
    kinds = list(dict.fromkeys(map(_kind, bare)))
    null = any(form.get("type") == "null" for form in forms) and "default" not in key
    words = ", ".join(kinds[:-1]) + " or " * (len(kinds) > 1) + kinds[-1]
    return words + " or null" * null


def _kind(form: Mapping[str, Any]) -> str:
    """What one form of a value takes."""
    if "const" in form:
        return str(form["const"])
    if "enum" in form:
        return ", ".join(map(str, form["enum"]))
    if form.get("type") == "array":
        return f"a list of {', '.join(form['items'].get('enum', [_LISTED[str(form['items'].get('type'))]]))}"
    if form.get("type") == "integer":
        return f"a whole number, {form['minimum']} to {form['maximum']}" if "minimum" in form else "a whole number"
    kinds = {"boolean": "true or false", "number": _between(form), "string": "text",
             "['string', 'number']": "text, a number"}
    return _QUANTITIES.get(str(form.get("pattern"))) or kinds[str(form["type"])]


def _between(form: Mapping[str, Any]) -> str:
    low = form.get("minimum", form.get("exclusiveMinimum"))
    high = form.get("maximum", form.get("exclusiveMaximum"))
    return "a number" if low is None or high is None else f"a number, {low:g} to {high:g}"


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def study_keys() -> str:
    """Every key of a study."""
    return _schema_keys(StudySchema.model_json_schema())


def workload_keys() -> str:
    """Every key of a workload file."""
    return _schema_keys(WorkloadSchema.model_json_schema())


def model_keys() -> str:
    """Every key of a model file."""
    return _schema_keys(ModelSchema.model_json_schema())


def _schema_keys(schema: Mapping[str, Any]) -> str:
    return markdown_table(["key", "takes", "meaning"], _keys(schema, schema.get("$defs", {}), ()))


def commands_of(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command with its path, and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from commands_of(inner, (*path, name))


def _options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option) and not option.hidden]


def _option_row(option: click.Option) -> tuple[str, str, str, str]:
    """Flags, what they take, what they mean, and the default where it is said."""
    opts = option.opts[-1:] if isinstance(option, Renamed) else option.opts
    names = ", ".join(sorted((*opts, *option.secondary_opts), key=len))
    default = option.show_default if isinstance(option.show_default, str) else ""
    if option.show_default is True and option.default is not None:
        values = option.default if isinstance(option.default, tuple | list) else [option.default]
        default = ",".join(map(str, values))
    words = _one_line(option.help or "")
    said = _DEFAULT.search(words)
    return names, _option_takes(option), _DEFAULT.sub("", words), said[1] if said else default


def _option_takes(option: click.Option) -> str:
    kind = option.type
    if option.is_flag:
        return "-"
    if isinstance(kind, click.Choice):
        return ", ".join(map(str, kind.choices))
    if isinstance(kind, click.IntRange | click.FloatRange):
        least = f" above {kind.min}" if kind.min_open else f" from {kind.min}" if kind.min is not None else ""
        most = f" below {kind.max}" if kind.max_open else f" to {kind.max}" if kind.max is not None else ""
        return ("a whole number" if isinstance(kind, click.IntRange) else "a number") + least + most
    return option.metavar or {"integer": "a whole number", "float": "a number"}.get(kind.name, "text")


def shared_options() -> str:
    """Options that mean the same in many commands, described once."""
    return markdown_table(["option", "takes", "meaning"],
                          ([f"`{names}`", takes, meaning] for names, takes, meaning in _shared()))


def _shared() -> list[tuple[str, str, str]]:
    """Flags, what they take and their meaning, of options that many commands have with the same words."""
    seen = Counter(_option_row(option)[:3] for _, command in commands_of(simkit, ("simkit",))
                   for option in _options(command))
    return [row for row, number in seen.items() if number >= SHARED_BY]


def commands() -> str:
    """Every command: its use, what it does, its examples and its options."""
    shared = set(_shared())
    return "\n".join(_command(path, command, shared) for path, command in commands_of(simkit, ("simkit",)) if path[1:])


def _command(path: tuple[str, ...], command: click.Command, shared: set[tuple[str, str, str]]) -> str:
    """One command in Markdown."""
    name = " ".join(path)
    usage = click.Context(command, info_name=name).get_usage() if not isinstance(command, click.Group) else ""
    words, examples = help_words(command.help or "")
    lines = [f"### {name}", "", *words]
    if usage:
        lines += ["", f"`{' '.join(usage.removeprefix('Usage: ').split())}`"]
    if examples:
        lines += ["", "```text", *examples, "```"]
    rows = [_option_row(option) for option in _options(command)]
    own = [[f"`{names}`", takes, meaning, default] for names, takes, meaning, default in rows
           if (names, takes, meaning) not in shared]
    if own:
        lines += ["", markdown_table(["option", "takes", "meaning", "default"], own).rstrip("\n")]
    also = [f"`{names.split(',')[0]}`" + (f" ({default})" if default else "") for names, takes, meaning, default in rows
            if (names, takes, meaning) in shared]
    if also:
        lines += ["", "Shared options: " + ", ".join(also) + "."]
    return "\n".join(lines) + "\n"


def help_words(text: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a command's help, each on one line, and its examples as they stand."""
    paragraphs, examples = [], []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.lstrip().startswith("\b"):
            examples += [line.strip() for line in paragraph.replace("\b", "").splitlines() if line.strip()]
        else:
            paragraphs += [_one_line(paragraph), ""]
    return paragraphs[:-1], examples


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "record-fields": record_fields, "kernel-fields": kernel_fields, "pool-fields": pool_fields,
    "serving-fields": serving_fields, "plan-fields": plan_fields,
    "profile-keys": profile_keys, "study-keys": study_keys, "workload-keys": workload_keys, "model-keys": model_keys,
    "units": unit_table, "shared-options": shared_options, "commands": commands}
