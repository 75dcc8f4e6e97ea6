"""Finding profiles by name, alias or path, and reading ``--set``: whatever was typed, a profile or a user's error."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simkit
from simkit.foundation.errors import UserError
from simkit.foundation.named_files import catalogue_files, find_file
from simkit.foundation.resources import shipped_folder
from simkit.hardware.catalog import KIND, VARIABLE, list_hardware, load_hardware, parse_overrides

OWN = """\
schema_version: 1
name: {name}
title: {title}
vendor: Somebody
kind: asic
aliases: [{alias}]
compute: {{units: 1, matrix: {{peak: {{bf16: 1 TFLOP/s}}}}}}
memory: {{hbm: {{kind: dram, capacity: 1 GB, bandwidth: 1 TB/s}}}}
"""


def write_profile(folder: Path, name: str, title: str = "My chip", alias: str = "mine") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(OWN.format(name=name, title=title, alias=alias), encoding="utf-8")
    return file


def refusal(name, **arguments):
    with pytest.raises(UserError) as caught:
        load_hardware(name, **arguments)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_every_shipped_profile_is_found_by_its_files_name_and_has_that_name():
    for name, path in catalogue_files(KIND).items():
        assert load_hardware(name).name == name == path.stem


def test_aliases_are_unique_and_find_their_profile():
    profiles = list_hardware()
    aliases = [alias for chip in profiles for alias in chip.aliases]
    assert len(aliases) == len(set(aliases))
    for chip in profiles:
        for alias in chip.aliases:
            assert alias == chip.name or alias not in {other.name for other in profiles}
            assert load_hardware(alias).name == chip.name


def test_the_package_root_offers_the_same_function():
    assert simkit.load_hardware is load_hardware


def test_a_path_wins_over_the_catalogue(tmp_path, monkeypatch):
    write_profile(tmp_path, "h100-sxm")
    assert load_hardware(tmp_path / "h100-sxm.yaml").title == "My chip"
    monkeypatch.chdir(tmp_path)
    assert load_hardware("h100-sxm.yaml").title == "My chip"
    assert load_hardware("./h100-sxm.yaml").title == "My chip"
    assert load_hardware("h100-sxm").title != "My chip"


def test_a_file_without_a_yaml_suffix_is_read_when_no_profile_has_its_name(tmp_path, monkeypatch):
    write_profile(tmp_path, "mine").rename(tmp_path / "profile.txt")
    monkeypatch.chdir(tmp_path)
    assert load_hardware("profile.txt").name == "mine"


def test_the_users_folder_wins_over_the_shipped_one_and_the_option_over_the_variable(tmp_path, monkeypatch):
    write_profile(tmp_path / "variable", "h100-sxm", title="of the variable")
    write_profile(tmp_path / "option", "h100-sxm", title="of the option")
    write_profile(tmp_path / "variable", "new-chip")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path / "variable"), ""]))
    assert load_hardware("h100-sxm").title == "of the variable"
    assert load_hardware("h100-sxm", profiles=tmp_path / "option").title == "of the option"
    assert load_hardware("new-chip", profiles=str(tmp_path / "option")).name == "new-chip"
    assert "new-chip" in {chip.name for chip in list_hardware()}


def test_a_folder_of_the_variable_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), str(tmp_path / "gone")]))
    with pytest.raises(UserError) as caught:
        load_hardware("h100-sxm")
    assert str(caught.value) == f"SIMKIT_PROFILES: '{tmp_path / 'gone'}' is not a folder"


def test_an_alias_of_the_users_folder_is_known(tmp_path):
    write_profile(tmp_path, "new-chip", alias="nc1")
    assert load_hardware("nc1", profiles=tmp_path).name == "new-chip"


def test_an_empty_folder_leaves_the_shipped_profiles(tmp_path):
    assert load_hardware("h100-sxm", profiles=tmp_path).name == "h100-sxm"


def test_an_empty_catalogue_lists_nothing_and_says_that_a_name_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("simkit.foundation.named_files.shipped_folder", lambda _: tmp_path)
    assert list_hardware() == []
    assert refusal("h100-sxm") == "unknown hardware profile 'h100-sxm'"
    monkeypatch.setattr("simkit.foundation.named_files.shipped_folder", lambda _: tmp_path / "gone")
    assert list_hardware() == []


def test_hidden_files_and_other_suffixes_are_no_profiles(tmp_path):
    for name in (".hidden.yaml", "notes.txt", "schema.json", "x.yaml~"):
        (tmp_path / name).write_text("no profile", encoding="utf-8")
    assert list(catalogue_files("x", [tmp_path])) == []


@pytest.mark.parametrize(("name", "message"), [
    ("h100", "unknown hardware profile 'h100'; did you mean 'h100-pcie' or 'h100-sxm'"),
    ("H100-SXM", "unknown hardware profile 'H100-SXM'; did you mean 'h100-sxm'"),
    ("h100-sxm.yml", "no such hardware profile file 'h100-sxm.yml'; did you mean 'h100-sxm'"),
    ("/nowhere/h100-sxm.yaml", "no such hardware profile file '/nowhere/h100-sxm.yaml'; did you mean 'h100-sxm'"),
    ("../h100-sxm", "no such hardware profile file '../h100-sxm'; did you mean 'h100-sxm'"),
    ("", "hardware profile: a name or a path is missing"),
    ("h100\0", "hardware profile: a name or a path is missing"),
    ("/", "'/' is not a file that holds a hardware profile"),
    (".", "unknown hardware profile '.'"),
    ("x" * 300, "unknown hardware profile 'xxx"),
    ("x" * 300 + ".yaml", "no such hardware profile file 'xxx"),
    ("y/" * 1500, "no such hardware profile file 'y/y/"),
    ("x" * 10_000, "hardware profile: a name or a path is missing"),
    ("a\nb\x1b[31m", r"unknown hardware profile 'a\nb\x1b[31m'"),
    ("\ud800", r"unknown hardware profile '\ud800'"),
])
def test_an_unknown_name_is_one_line_with_the_nearest_known_name(name, message):
    said = refusal(name)
    assert said.startswith(message)
    assert len(said) < 400


def test_a_folder_or_a_device_in_place_of_a_file_is_said_to_be_no_file(tmp_path):
    (tmp_path / "chip.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")  # reading one would wait for ever
    for name in ("chip.yaml", "pipe.yaml"):
        assert refusal(tmp_path / name).endswith("is not a file that holds a hardware profile")


def test_a_folder_of_profiles_that_is_no_folder_is_refused(tmp_path):
    file = write_profile(tmp_path, "chip")
    for folder in (file, tmp_path / "gone", "x" * 5000, "a\0b"):
        assert refusal("chip", profiles=folder).endswith("is not a folder")


def test_a_folder_that_cannot_be_listed_is_a_users_error(tmp_path, monkeypatch):
    def denied(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", denied)
    assert refusal("chip", profiles=tmp_path) == f"{tmp_path}: cannot list the folder: Permission denied"


def test_a_broken_profile_of_the_users_folder_is_named_by_its_file(tmp_path):
    (tmp_path / "broken.yaml").write_text("name: [\n", encoding="utf-8")
    assert refusal("broken", profiles=tmp_path).startswith(f"{tmp_path / 'broken.yaml'}:")
    with pytest.raises(UserError, match=r"broken\.yaml"):
        list_hardware(tmp_path)


@settings(max_examples=20)  # each reads every shipped profile for its aliases
@given(st.text())
def test_any_name_is_a_profile_or_a_users_error(name):
    try:
        assert load_hardware(name).name
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right


def test_settings_are_read_from_the_option_in_order():
    assert parse_overrides(["memory.hbm.bandwidth=8TB/s", " power.tdp = 700 W ", "a=b=c"]) == {
        "memory.hbm.bandwidth": "8TB/s", "power.tdp": "700 W", "a": "b=c"}
    assert parse_overrides(["power.tdp=1 W", "power.tdp=2 W"]) == {"power.tdp": "2 W"}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize("setting", ["memory.hbm.bandwidth", "=8TB/s", "memory.hbm.bandwidth=", " = ", "", "x" * 10_000, "a:b\n"])
def test_a_setting_without_key_or_value_is_refused_with_a_right_one(setting):
    with pytest.raises(UserError) as caught:
        parse_overrides([setting])
    said = str(caught.value)
    assert said.startswith("--set: '")
    assert said.endswith("is not key=value; such as --set memory.hbm.bandwidth=8TB/s")
    assert len(said) < 200


def test_a_setting_reaches_the_profile_that_is_loaded():
    chip = load_hardware("h100-sxm", overrides=parse_overrides(["memory.hbm.bandwidth=8TB/s"]))
    assert chip.level("hbm").bandwidth_bytes_per_s == 8e12


def test_a_file_is_found_the_same_way_for_every_kind(tmp_path):
    file = write_profile(tmp_path, "chip")
    assert find_file("chip", kind="x", what="thing", folders=[tmp_path]) == file
    with pytest.raises(UserError, match="unknown thing 'chop'; did you mean 'chip'"):
        find_file("chop", kind="x", what="thing", folders=[tmp_path])


def test_the_shipped_folder_lies_beside_or_inside_the_package():
    assert (shipped_folder(KIND) / "h100-sxm.yaml").is_file()


def test_an_alias_is_offered_where_no_name_is_near(tmp_path):
    write_profile(tmp_path, "quixotic", alias="z80")
    assert refusal("z80a", profiles=tmp_path).endswith("did you mean 'z80'?")


def test_a_sibling_keeps_what_its_units_compute_and_takes_its_own_memory():
    """H200: the H100's die with faster stacks; streams reach 0.943 of its peak, 0.949 of the H100's (Azure)."""
    h100, h200 = load_hardware("h100-sxm"), load_hardware("h200-sxm")
    for parameter in ("item_setup_cycles", "dequantise_elements_per_cycle", "vector_elements_per_cycle"):
        assert getattr(h200.kernel, parameter) == getattr(h100.kernel, parameter)
    assert h200.kernel.dram_achieved_fraction == pytest.approx(h100.kernel.dram_achieved_fraction * 0.943 / 0.949)
    faster = 4.8 / 3.352
    assert h200.kernel.latent["load_bytes_per_cycle_per_unit"] == pytest.approx(
        faster * h100.kernel.latent["load_bytes_per_cycle_per_unit"], rel=1e-3)


def test_a_what_if_leaves_the_next_question_alone():
    """A file is parsed once; what --set writes below a parameter of several values may not stay in it."""
    before = load_hardware("h100-sxm")
    changed = load_hardware("h100-sxm", overrides={"compute.matrix.peak.bf16": "1 TFLOP/s"})
    assert changed.compute.matrix_peak_flop_per_s["bf16"] == 1e12
    assert load_hardware("h100-sxm") == before
