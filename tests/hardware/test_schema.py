"""Profiles from YAML: what they become, and that nothing but a :class:`UserError` comes of a wrong one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import load_yaml, parse_yaml
from simkit.hardware.catalog import list_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.schema import SCHEMA_HISTORY, SCHEMA_VERSION, ProfileSchema
from tests.bad_files import JARGON, assert_tells_every_fault, bad_files

PROFILE = """\
schema_version: 1
name: chip
title: A chip
vendor: Somebody
kind: gpu
sources: {leaflet: "Somebody's leaflet, 2024, page 3"}
compute:
  units: 132
  clock: 1.83 GHz
  matrix:
    peak: {bf16: 989 TFLOP/s, fp8: null}
    achievable_fraction: 0.8
memory:
  smem: {kind: sram, scope: unit, capacity: 256 KiB, bandwidth: null, latency: 16 ns}
  l2: {kind: cache, capacity: 50 MiB, bandwidth: 5.5 TB/s}
  hbm:
    kind: dram
    capacity: 80 GB
    bandwidth: {value: 3.35 TB/s, source: leaflet, confidence: datasheet, note: 5 stacks}
    reserve_fraction: 0.1
    energy: 4 pJ/bit
    dram: {type: HBM3, stacks: 5, data_rate: 5.2 GHz}
links:
  scale_up: {name: NVLink, topology: switch, bandwidth: 450 GB/s, latency: 2 us, max_chips: 8}
power: {tdp: 700 W}
price: {per_hour: 2.5 USD/h}
"""


def profile(text: str = PROFILE, **overrides: str):
    return profile_from_yaml(parse_yaml(text, file="chip.yaml"), overrides)


def fault(text: str = PROFILE, overrides: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        profile_from_yaml(parse_yaml(text, file="chip.yaml"), overrides)
    return str(caught.value)


def test_every_quantity_becomes_si():
    chip = profile()
    hbm = chip.level("hbm")
    assert chip.compute.clock_hz == 1.83e9
    assert chip.compute.matrix_peak_flop_per_s == {"bf16": 989e12}
    assert hbm.capacity_bytes == 80 * 10**9
    assert hbm.bandwidth_bytes_per_s == 3.35e12
    assert hbm.energy_j_per_byte == pytest.approx(32e-12, rel=1e-15)  # 4 pJ a bit, 8 bits a byte
    assert hbm.usable_bytes == pytest.approx(72e9, rel=1e-12)
    assert chip.level("l2").capacity_bytes == 50 * 2**20
    assert chip.level("smem").latency_s == 16e-9
    assert chip.scale_up is not None
    assert chip.scale_up.latency_s == 2e-6
    assert chip.power.tdp_w == 700
    assert chip.price.usd_per_hour == 2.5


def test_a_level_of_unit_scope_counts_once_for_every_unit():
    assert profile().level("smem").chip_capacity_bytes == 132 * 256 * 2**10


def test_the_ridge_point_is_what_arithmetic_reaches_over_what_reads_reach():
    # Williams, Waterman, Patterson 2009: pi / beta = 989e12 / 3.35e12 flops per byte at vendor peaks.
    chip = profile()
    reached = chip.compute.matrix_achievable_fraction / chip.level("hbm").achievable_fraction
    assert chip.ridge_point_flop_per_byte() == pytest.approx(295.2238806 * reached, rel=1e-9)


def test_memory_keeps_the_order_of_the_file():
    assert [level.name for level in profile().memory] == ["smem", "l2", "hbm"]


def test_dram_holds_everything_and_caches_and_unit_memories_hold_nothing_unless_told():
    chip = profile()
    assert chip.level("hbm").holds == ("weights", "kv", "activations")
    assert chip.level("l2").holds == chip.level("smem").holds == ()
    assert chip.main_memory.name == "hbm"


def test_a_source_is_looked_up_in_the_table_of_sources_and_else_is_its_own_text():
    given = profile().provenance["memory.hbm.bandwidth"]
    assert given.source == "Somebody's leaflet, 2024, page 3"
    assert (given.confidence, given.note) == ("datasheet", "5 stacks")
    free = profile(PROFILE.replace("source: leaflet", "source: a talk"))
    assert free.provenance["memory.hbm.bandwidth"].source == "a talk"


def test_what_no_source_gives_is_listed_and_is_none():
    chip = profile()
    assert set(chip.missing) == {"compute.matrix.peak.fp8", "memory.smem.bandwidth"}
    assert chip.level("smem").bandwidth_bytes_per_s is None
    assert chip.level("smem").chip_bandwidth_bytes_per_s is None


def test_an_unknown_memory_level_names_the_nearest():
    with pytest.raises(UserError, match="chip has no memory level 'hmb'; did you mean 'hbm'"):
        profile().level("hmb")


def test_windows_line_endings_and_a_byte_order_mark_change_nothing(tmp_path):
    file = tmp_path / "chip.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + PROFILE.replace("\n", "\r\n").encode())
    assert profile_from_yaml(load_yaml(file)) == profile()


def test_every_schema_version_up_to_the_present_one_has_its_history():
    assert list(SCHEMA_HISTORY) == list(range(1, SCHEMA_VERSION + 1))


def test_the_json_schema_can_be_made_and_refuses_unknown_keys():
    schema = ProfileSchema.model_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"schema_version", "name", "title", "vendor", "kind", "compute", "memory"}


def test_every_shipped_profile_loads():
    assert list_hardware()


# --- wrong files ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", bad_files("bad_profiles"), ids=lambda path: path.stem)
def test_a_wrong_profile_is_refused_at_its_line_and_key_with_what_was_expected(path):
    assert_tells_every_fault(path, lambda file: profile_from_yaml(load_yaml(file)))


def test_twenty_faults_are_told_and_the_rest_are_counted():
    lines = fault(PROFILE + "".join(f"unknown{i}: 1\n" for i in range(60))).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 40 more"


def test_a_file_full_of_unknown_keys_is_refused_within_seconds():
    lines = fault(PROFILE + "".join(f"k{i}: 1\n" for i in range(4_000))).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 3,980 more"


# --- --set ------------------------------------------------------------------------------------------------------

def test_a_setting_replaces_a_figure_and_says_so_in_its_source():
    chip = profile(**{"memory.hbm.bandwidth": "8TB/s"})
    assert chip.level("hbm").bandwidth_bytes_per_s == 8e12
    assert chip.provenance["memory.hbm.bandwidth"].source == "set on the command line"


def test_a_setting_may_open_a_section_that_the_file_leaves_out():
    assert profile(**{"overheads.kernel_launch": "3 us"}).overheads.kernel_launch_s == 3e-6


def test_settings_read_numbers_words_and_lists_as_the_file_would():
    chip = profile(**{"compute.units": "7", "memory.hbm.overflow": "false", "memory.hbm.reserve_fraction": "0.25",
                      "memory.l2.holds": "[kv, weights]", "links.scale_up.in_network_reduction": "true"})
    assert chip.compute.units == 7
    assert chip.level("hbm").reserve_fraction == 0.25
    assert chip.level("l2").holds == ("kv", "weights")
    assert chip.scale_up is not None
    assert chip.scale_up.in_network_reduction is True


def test_settings_leave_the_document_as_it_was():
    source = parse_yaml(PROFILE, file="chip.yaml")
    profile_from_yaml(source, {"memory.hbm.bandwidth": "8 TB/s"})
    assert profile_from_yaml(source).level("hbm").bandwidth_bytes_per_s == 3.35e12


@pytest.mark.parametrize(("key", "value", "message"), [
    ("memory.hbm.bandwith", "8TB/s", "--set: memory.hbm.bandwith: unknown key; did you mean 'bandwidth'?"),
    ("memory.hbn.bandwidth", "8TB/s", "--set: memory.hbn.bandwidth: no such key 'hbn'; did you mean 'hbm'?"),
    ("memory.l3.capacity", "8 MB", "--set: memory.l3.capacity: no such key 'l3'; known: hbm, l2, smem"),
    ("memory.hbm.bandwidth", "8", "--set: memory.hbm.bandwidth: 8 has no unit: expected bytes/s, such as '3.35 TB/s'"),
    ("memory.hbm.bandwidth", "8 TB",
     "--set: memory.hbm.bandwidth: 'TB' is a unit of bytes: expected bytes/s, such as '3.35 TB/s'; did you mean 'TB/s'"),
    ("memory.hbm.bandwidth.value", "8TB/s",
     "--set: memory.hbm.bandwidth.value: 'bandwidth' has no keys below it; write --set memory.hbm.bandwidth=8TB/s"),
    ("memory.hbm", "8TB/s",
     "--set: memory.hbm: name a parameter of a memory level; such as --set memory.hbm.bandwidth=8TB/s"),
    ("memory", "8TB/s", "--set: memory: name a parameter of a memory level; such as --set memory.smem.bandwidth=8TB/s"),
    ("memory.", "8TB/s", "--set: memory.: name a parameter of a memory level; such as --set memory.smem.bandwidth=8TB/s"),
    ("power.tpd", "700 W", "--set: power.tpd: unknown key; did you mean 'tdp'?"),
    ("pwer.tdp", "700 W", "--set: pwer.tdp: unknown key; did you mean 'power'?"),
    ("", "1", "--set: unknown key"),
    ("a..b", "1", "--set: a..b: unknown key"),
    ("kind", "tpuu", "--set: kind: 'tpuu' is not known: expected 'gpu', 'asic', 'tpu' or 'cpu'; did you mean 'tpu'?"),
    ("compute.units", "1.5", "--set: compute.units: 1.5 is not a whole number: expected 1 to 10000000"),
    ("compute.units", "null", "--set: compute.units: an empty value is not a whole number: expected 1 to 10000000"),
    ("memory.hbm.capacity", "-4 GB", "--set: memory.hbm.capacity: -4 GB is out of range: expected 1 B to 1 EB"),
    ("memory.hbm.holds", "[kv, wieghts]", "--set: memory.hbm.holds: 'wieghts' is not known"),
    ("memory.hbm.holds", "[kv, [[", "--set: memory.hbm.holds: '[kv, [[' is not a list"),
    ("notes.0", "x", "--set: notes.0: a section of keys is not a list"),
    ("schema_version", "7", "--set: schema_version: 7 is not known: expected 1"),
    (".".join("a" * 3000), "1", "--set: a.a.a."),
    ("x" * 3000, "1", "--set: xxx"),
    ("x\n\x1b[31m", "1", r"--set: x\n\x1b[31m: unknown key"),
])
def test_a_wrong_setting_is_told_in_one_line_at_the_option(key, value, message):
    said = fault(overrides={key: value})
    assert said.startswith(message)
    assert "\n" not in said
    assert len(said) < 400
    assert not JARGON.search(said)


# --- anything at all --------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 10**18, 10**40, 0.5, -0.0, 1e308, 5e-324, "", " ", "~", "nan", ".nan",
                     "inf", "-.inf", "1e999", "1e999 TB/s", "0x10", "1_000", "12:30", "no", "yes", "8 TB/s", "-8 TB/s",
                     "8 tb/s", "8 Gbit/s", "8 GB", "80 GiB", "700 W", "3 ns", "kv", "dram", "gpu", "[kv]", "{a: 1}",
                     "*a", "&a b", "!!int 5", "x" * 5000, "\x00", "\x1b[31m", "\ud800", "\u2028", "٣", "=1+1"]),
    st.integers(), st.floats(), st.text(max_size=20))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["value", "source", "kind", "capacity", "a", "", "1", "a.b"]) | st.text(max_size=5), inner,
    max_size=3), max_leaves=6)


def every_path(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [deeper for key, value in inner for deeper in every_path(value, (*path, key))]


VALID = yaml.safe_load(PROFILE)
PATHS = every_path(VALID)


def mutated(data: st.DataObject) -> dict[str, Any]:
    document = yaml.safe_load(PROFILE)
    for _ in range(data.draw(st.integers(1, 3), label="slips")):
        path = data.draw(st.sampled_from(PATHS), label="where")
        node: Any = document
        for part in path[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            continue
        slip = data.draw(st.sampled_from(["delete", "replace", "rename", "swap"]), label="slip")
        if slip == "delete":
            node.pop(path[-1], None)
        elif slip == "replace":
            node[path[-1]] = data.draw(VALUES, label="value")
        elif slip == "rename":
            node[data.draw(st.text(max_size=8), label="name")] = node.pop(path[-1], None)
        else:
            other = data.draw(st.sampled_from(PATHS), label="other")
            there: Any = VALID
            for part in other:
                there = there[part]
            node[path[-1]] = copy.deepcopy(there)
    return document


def assert_only_a_users_error(text: str, overrides: dict[str, str] | None = None) -> None:
    try:
        profile_from_yaml(parse_yaml(text, file="chip.yaml"), overrides)
    except UserError as error:
        for line in str(error).splitlines():
            if line.startswith("... and"):
                continue
            assert line.startswith(("chip.yaml:", "--set:")), line
            assert line.isprintable()
            assert len(line) < 700, line
            # Keys and values are the user's own words and may be any; only ours are judged.
            ours = line.split(": ", 2)[-1].split("'")[::2]
            assert not JARGON.search(" ".join(ours)), line


@given(data=st.data())
def test_a_valid_profile_with_slips_loads_or_is_a_users_error_with_file_and_line(data):
    document = mutated(data)
    assert_only_a_users_error(yaml.safe_dump(document, allow_unicode=True))


@given(data=st.data())
def test_a_profile_with_characters_changed_loads_or_is_a_users_error(data):
    text = list(PROFILE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at:at + data.draw(st.integers(0, 3))] = data.draw(
            st.text(max_size=3) | st.sampled_from(["\t", "\0", "{", "}", "[", "]", ": ", "- ", "'", '"', "&a", "*a", "!!x",
                                                    "\r", "#", "|", ">", "%", "@", "? ", "\n", "---\n", "\ufeff"]))
    assert_only_a_users_error("".join(text))


@given(key=st.lists(st.sampled_from(["memory", "hbm", "smem", "bandwidth", "value", "power", "tdp", "notes", "0", ""])
                    | st.text(max_size=5), max_size=5).map(".".join),
       value=st.text(max_size=30) | SCALARS.filter(lambda value: isinstance(value, str)))
def test_any_setting_is_taken_or_is_a_users_error(key, value):
    assert_only_a_users_error(PROFILE, {key: value})


@settings(max_examples=20)
@given(text=st.text())
def test_any_text_in_place_of_a_profile_is_a_users_error(text):
    with pytest.raises(UserError):
        profile_from_yaml(parse_yaml(text, file="chip.yaml"))


def test_the_bad_profiles_are_found():
    assert len(bad_files("bad_profiles")) > 100
    assert all(isinstance(path, Path) for path in bad_files("bad_profiles"))
