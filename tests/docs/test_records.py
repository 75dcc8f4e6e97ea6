"""What ``--format json`` promises to programs: keys and types of every command's records, under a number of its own."""

import json
import re
from collections.abc import Iterator

import click
import jsonschema
import pytest

import simkit
from simkit.commands.main import main
from simkit.study.likely import LIKELY_FIELDS
from simkit.study.record import FIELDS
from tests.reference_data import REPOSITORY
from tools.docs.build_records import NOT_RUN, RUNS, SCHEMA, differing, records_schema, renewed_text

STATED = json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_records_are_those_of_the_version_that_is_stated(tmp_path):
    """If this fails, a program that reads simkit's records may fail: the message says what to do."""
    today = records_schema(tmp_path)
    if differing(STATED, today):
        renewed_text(STATED, today)  # raises with what to do while the number is the old one
        pytest.fail("RECORDS_VERSION is raised: python -m tools.docs.build_records writes the schema anew")
    assert today == STATED


def test_the_version_is_told_to_python_and_in_the_changelog():
    assert STATED["version"] == simkit.RECORDS_VERSION
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"\bRecords version {simkit.RECORDS_VERSION}\b", changelog)


def commands(group: click.Group = main, *path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        elif command is not None:
            yield " ".join((*path, name)), command


def test_every_command_that_gives_records_is_pinned():
    # A file of kernels after `calibrate` is no subcommand, so click does not list it.
    giving = {name for name, command in commands() if any("--format" in option.opts for option in command.params)}
    assert giving | {"calibrate"} == set(RUNS) | set(NOT_RUN)


def test_steps_have_every_field_of_the_vocabulary_and_no_other():
    assert {*FIELDS, *LIKELY_FIELDS} == set(STATED["$defs"]["simulate"]["items"]["properties"])


def test_the_schema_refuses_a_key_that_is_missing_unknown_or_of_another_type(cli):
    schema = {**STATED, "$ref": "#/$defs/simulate"}
    jsonschema.Draft202012Validator.check_schema(schema)
    (record,) = json.loads(cli("simulate", "-A", "gqa-8", "--format", "json").stdout)
    jsonschema.validate([record], schema)
    without = {key: value for key, value in record.items() if key != "batch"}
    for wrong in (without, record | {"new": 1}, record | {"batch": "32"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate([wrong], schema)


@pytest.mark.parametrize("change", ["key", "type", "command"])
def test_a_change_is_written_only_under_a_new_number(change):
    changed = json.loads(json.dumps(STATED))
    properties = changed["$defs"]["claims"]["items"]["properties"]
    if change == "key":
        properties["added"] = {"type": "string"}
    elif change == "type":
        properties["id"] = {"type": "integer"}
    else:
        del changed["$defs"]["claims"]
    with pytest.raises(RuntimeError, match="raise RECORDS_VERSION") as told:
        renewed_text(STATED, changed)
    assert str(told.value).endswith(": claims")
    changed["version"] += 1
    assert json.loads(renewed_text(STATED, changed)) == changed
