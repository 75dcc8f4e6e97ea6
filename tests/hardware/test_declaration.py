"""One declaration a field: whatever is declared can be read, set, listed and varied under one key."""

import json
import math
from dataclasses import MISSING, dataclass, replace
from typing import Annotated, Any

import pytest

from simkit.foundation.errors import UserError
from simkit.foundation.units import FLOP_PER_S, WATTS, units_of
from simkit.foundation.validation import Quantity, WholeNumber, key_meanings, schema_at
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.declaration import Key, stated_fields
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.json_schema import complete_profile_schema
from simkit.hardware.parameters import profile_parameters, with_parameter
from simkit.hardware.profile import FLAT_SECTIONS, Compute, HardwareProfile, Latency, Link, MemoryLevel
from simkit.hardware.schema import ProfileHead, ProfileSchema, section_schema
from simkit.study.vary import variable
from tools.docs.reference_tables import profile_keys

TABLES = ("peak", "flop_per_byte")  # a number for each format
TEXTS = {"kind": "dram", "topology": "ring", "type": "HBM3"}


def example(record: type) -> dict[str, Any]:
    """A section with a value for every key of a record."""
    document: dict[str, Any] = {}
    for field in stated_fields(record):
        if field.path == ("kernel",):
            continue  # calibrated parameters, declared in simkit/hardware/kernel.py
        *above, key = field.path
        section = document
        for name in above:
            section = section.setdefault(name, {})
        if field.record is not None:
            inner = example(field.record)
            section[key] = {"near": inner, "far": inner} if field.table else inner
        elif field.default is not MISSING and field.dimension is None:
            continue  # a label at its default
        elif field.dimension is None:
            section[key] = "asic" if record is HardwareProfile and key == "kind" else TEXTS.get(key, "words")
            section[key] = [4, 4] if key == "tiles" else section[key]
        else:
            section[key] = amount(field, 0.5)
            section[key] = {"bf16": section[key]} if field.path[-1] in TABLES else section[key]
    return document


def amount(field: Any, position: float) -> Any:
    """A value at a place within the field's range, as a file would write it."""
    ranged = next((part for part in _metadata(field.reads) if isinstance(part, Quantity | WholeNumber)), None)
    if isinstance(ranged, Quantity):
        low = max(ranged.least, ranged.most * 1e-6)
        unit = next(unit for unit, factor in units_of(ranged.dimension).items() if factor == 1.0)
        return f"{low * (ranged.most / low) ** position!r} {unit}"
    return round(ranged.least + (ranged.most - ranged.least) * position) if ranged else 0.2 + position / 2


def _metadata(annotation: Any) -> Any:
    yield from getattr(annotation, "__metadata__", ())
    for part in getattr(annotation, "__args__", ()):
        yield from _metadata(part)


def read(document: dict[str, Any], overrides: dict[str, str] | None = None) -> Any:
    return profile_from_yaml(parse_yaml(json.dumps(document), file="chip.yaml"), overrides)


def numeric_keys(record: type, above: str = "") -> dict[str, Any]:
    found = {}
    for field in stated_fields(record):
        key = above + ".".join(field.path)
        for name in ("near", "far") if field.table else ("",):
            if field.record is not None:
                found |= numeric_keys(field.record, f"{key}.{name}.".replace("..", "."))
            elif field.dimension is not None and field.path not in {("kernel",), ("year",)}:
                found[key + ".bf16" * (field.path[-1] in TABLES)] = field
    return found


FULL = {"schema_version": 1, **example(HardwareProfile)}
NUMBERS = numeric_keys(HardwareProfile)


def test_the_example_states_every_number_of_every_section():
    sections = {key.split(".")[0] for key in NUMBERS}
    assert sections == {"compute", "memory", "fabric", "links", "system", "overheads", "power", "price"}
    assert len(NUMBERS) > 50


def test_every_number_is_listed_once_under_the_key_of_the_file_with_its_value_and_dimension():
    listed = [parameter for parameter in profile_parameters(read(FULL)) if parameter.dimension is not None]
    assert [parameter.key for parameter in listed] == list(NUMBERS)
    for parameter in listed:
        field = NUMBERS[parameter.key]
        written = amount(field, 0.5)
        assert parameter.dimension == field.dimension
        assert parameter.value == pytest.approx(float(str(written).split()[0]), rel=1e-12), parameter.key


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_can_be_set_and_varied_under_its_key(key):
    field, profile = NUMBERS[key], read(FULL)
    text = str(amount(field, 0.4))
    by_set = read(FULL, {key: text})
    changed = {one.key: one.value for one in profile_parameters(by_set)}
    before = {one.key: one.value for one in profile_parameters(profile)}
    assert {name for name in before if before[name] != changed[name]} == {key}
    varied = variable(key, profile, {}, start=changed[key], stop=changed[key] * 2)
    assert read(FULL, {key: varied.text(changed[key])}) == by_set
    if varied.broadcasts:
        assert replace(with_parameter(profile, key, changed[key]), provenance=by_set.provenance) == by_set
    else:
        assert varied.whole or key in {"compute.clock", "memory.near.achievable_fraction", "memory.far.achievable_fraction"}
        with pytest.raises(ValueError, match="cannot be an array"):
            with_parameter(profile, key, 1.0)


def test_every_key_of_the_records_has_a_meaning_and_stands_in_the_json_schema_and_the_reference():
    schema, table = complete_profile_schema(), profile_keys()
    for key in NUMBERS:
        path = key.removesuffix(".bf16").split(".")
        name = ".".join(path).replace(".near", ".NAME").replace(".far", ".NAME").replace("scale_out", "scale_up")
        assert f"`{name}`" in table
        owner = schema_at(ProfileSchema, path[:-1])
        assert key_meanings(owner)[path[-1]], key
        described = schema["$defs"][owner.__name__]["properties"][path[-1]]
        assert described["description"] == key_meanings(owner)[path[-1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelThatComputes(MemoryLevel):
    """A level with arithmetic of its own."""

    assist: Compute | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Of one tile."""

    ports: Annotated[int, WholeNumber(1, 64)] = 5
    """Neighbours and the tile itself."""
    hop_s: Latency | None
    """From a router to the next."""
    idle_w: Annotated[Annotated[float, Quantity(WATTS, 0, 10)], Key("power.idle")] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledLink(Link):
    """A link that knows its cables."""

    cables: tuple[Annotated[int, WholeNumber(1, 4096)], ...] = ()
    """Lanes of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended(HardwareProfile):
    """A profile with a section, a list and a section within a level that no other file knows."""

    memory: tuple[LevelThatComputes, ...]
    scale_up: Annotated[BundledLink | None, Key("links.scale_up")] = None
    router: Router | None = None


@pytest.fixture
def extended(monkeypatch):
    monkeypatch.setitem(FLAT_SECTIONS, "power", "Of a router.")
    monkeypatch.setattr("simkit.hardware.document.HardwareProfile", Extended)
    monkeypatch.setattr("simkit.hardware.document.ProfileSchema", section_schema(Extended, __base__=ProfileHead))
    document = json.loads(json.dumps(FULL))
    document["router"] = {"hop": "9 ns", "power": {"idle": "2 W"}}
    document["links"]["scale_up"]["cables"] = [16, 4, 4]
    document["memory"]["far"]["assist"] = {"units": 64, "matrix": {"peak": {"bf16": {
        "value": "1.2 TFLOP/s", "source": "a talk"}, "fp8": None}}}
    return document


def test_a_field_that_is_declared_is_read_set_listed_and_varied(extended):
    profile = read(extended, {"router.ports": "7"})
    assert profile.router == Router(ports=7, hop_s=9e-9, idle_w=2.0)
    assert profile.scale_up.cables == (16, 4, 4)
    near, far = profile.memory
    assert near.assist is None
    assert (far.assist.units, far.assist.matrix_peak_flop_per_s) == (64, {"bf16": 1.2e12})
    assert profile.missing == ("memory.far.assist.matrix.peak.fp8",)
    listed = {parameter.key: parameter for parameter in profile_parameters(profile)}
    assert listed["links.scale_up.cables"].value == "16, 4, 4"
    assert (listed["router.hop"].value, listed["router.ports"].value, listed["router.power.idle"].value) == (9e-9, 7, 2.0)
    peak = listed["memory.far.assist.matrix.peak.bf16"]
    assert (peak.value, peak.dimension, peak.provenance.source) == (1.2e12, FLOP_PER_S, "a talk")
    assert variable("router.hop", profile, {}).broadcasts
    assert not variable("router.ports", profile, {}).broadcasts
    faster = with_parameter(with_parameter(profile, peak.key, math.tau), "router.power.idle", 3.0)
    assert (faster.memory[1].assist.matrix_peak_flop_per_s["bf16"], faster.router.idle_w) == (math.tau, 3.0)
    assert read(extended, {"links.scale_up.cables": "[8, 8]"}).scale_up.cables == (8, 8)


@pytest.mark.parametrize(("where", "value", "said"), [
    ("router.hop", "9", "router.hop: 9 has no unit"), ("router.ports", "65", "65 is out of range: expected 1 to 64"),
    ("router.hops", "9 ns", "did you mean 'hop'?"), ("memory.far.assist.units", "0", "0 is out of range"),
    ("links.scale_up.cables", "[4, 0]", "0 is out of range: expected 1 to 4096")])
def test_a_declared_field_has_the_messages_of_all_others(extended, where, value, said):
    with pytest.raises(UserError) as caught:
        read(extended, {where: value})
    assert said in str(caught.value)


def test_a_section_whose_needed_number_is_left_out_says_so(extended):
    del extended["router"]["hop"]
    with pytest.raises(UserError, match="missing key 'hop'"):
        read(extended)
