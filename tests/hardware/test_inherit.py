"""``extends:``: a profile that changes another's figures, wherever it is used, and faults at the line that made them."""

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.inherit import MAX_DEPTH, load_profile_source
from simkit.hardware.json_schema import profile_json_schema
from simkit.hardware.lint import lint

WHAT_IF = "schema_version: 1\nname: h100-at-8\nextends: h100-sxm\nmemory: {hbm: {bandwidth: 8 TB/s}}\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path, **arguments):
    with pytest.raises(UserError) as caught:
        load_hardware(path, **arguments)
    return str(caught.value)


def test_a_what_if_of_three_lines_is_the_chip_with_that_figure_set(tmp_path):
    extended = load_hardware(write(tmp_path, "what-if.yaml", WHAT_IF))
    as_set = load_hardware("h100-sxm", overrides={"memory.hbm.bandwidth": "8 TB/s"})
    assert (extended.name, extended.aliases) == ("h100-at-8", ())
    assert extended.title == "h100-at-8, changed from NVIDIA H100 SXM5 80GB"
    same = {"name": "", "title": "", "aliases": (), "provenance": {}}
    assert replace(extended, **same) == replace(as_set, **same)  # the kernel section with it: tuned for 3.35 TB/s


def test_a_figure_keeps_its_source_and_a_changed_one_loses_it(tmp_path):
    extended, base = load_hardware(write(tmp_path, "what-if.yaml", WHAT_IF)), load_hardware("h100-sxm")
    assert "memory.hbm.bandwidth" not in extended.provenance
    assert {**extended.provenance, "memory.hbm.bandwidth": base.provenance["memory.hbm.bandwidth"]} == base.provenance


def test_a_source_name_that_the_upper_file_uses_otherwise_keeps_its_first_meaning_below(tmp_path):
    path = write(tmp_path, "a.yaml", WHAT_IF.replace("8 TB/s", "{value: 4 TB/s, source: aic}")
                 + "sources: {aic: my own guess}\n")
    provenance = load_hardware(path).provenance
    assert provenance["memory.hbm.bandwidth"].source == "my own guess"
    assert provenance["power.tdp"].source == load_hardware("h100-sxm").provenance["power.tdp"].source


def test_set_wins_over_the_file_and_the_file_over_what_it_extends(tmp_path):
    path = write(tmp_path, "a.yaml", WHAT_IF)
    chip = load_hardware(path, overrides={"memory.hbm.bandwidth": "9 TB/s"})
    assert chip.main_memory.bandwidth_bytes_per_s == 9e12
    assert chip.main_memory.capacity_bytes == load_hardware("h100-sxm").main_memory.capacity_bytes


def test_set_cannot_extend(tmp_path):
    assert refusal("h100-sxm", overrides={"extends": "a100-sxm-80gb"}).startswith("--set: extends: only a file can extend")


def test_lists_and_figures_are_replaced_whole_and_sections_merged(tmp_path):
    path = write(tmp_path, "a.yaml", WHAT_IF + "notes: [mine]\ncompute: {matrix: {peak: {fp8: null}}}\nlinks: {scale_out: null}\n")
    chip, base = load_hardware(path), load_hardware("h100-sxm")
    assert chip.notes == ("mine",)
    assert chip.compute.matrix_peak_flop_per_s == {
        dtype: rate for dtype, rate in base.compute.matrix_peak_flop_per_s.items() if dtype != "fp8"}
    assert "compute.matrix.peak.fp8" in chip.missing
    assert chip.scale_out is None
    assert chip.scale_up == base.scale_up


def test_a_new_level_may_be_added(tmp_path):
    path = write(tmp_path, "a.yaml", WHAT_IF + "system: {max_chips: 4}\n")
    path.write_text(path.read_text().replace("{bandwidth: 8 TB/s}", "{bandwidth: 8 TB/s}, ddr: {kind: dram, capacity: 1 TB, "
                                             "bandwidth: 100 GB/s, overflow: true}"), encoding="utf-8")
    assert [level.name for level in load_hardware(path).memory] == ["smem", "l2", "hbm", "ddr"]


def test_a_fault_is_told_at_the_file_and_line_that_made_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "base.yaml", "schema_version: 1\nname: base\nextends: h100-sxm\npower: {tdp: 700 V}\n")
    write(tmp_path, "top.yaml", "schema_version: 1\nname: top\nextends: base.yaml\nmemory:\n  hbm: {bandwidth: 8 Tb/s}\n  l2: {size: 1 MB}\n")
    said = refusal("top.yaml").splitlines()
    assert len(said) == 3
    assert any(line.startswith("base.yaml:4:9: power.tdp: unknown unit 'V'") for line in said)
    assert any(line.startswith("top.yaml:5:9: memory.hbm.bandwidth: ") and "divide by 8" in line for line in said)
    assert any(line.startswith("top.yaml:6:8: memory.l2.size: unknown key") for line in said)


def test_lint_finds_the_contradiction_at_the_line_that_changed_the_figure(tmp_path):
    source = load_profile_source(write(tmp_path, "what-if.yaml", WHAT_IF)).whole
    errors = [finding for finding in lint(load_hardware(tmp_path / "what-if.yaml"), source) if finding.severity == "error"]
    assert errors
    assert {(finding.where.file, finding.where.line) for finding in errors} == {(str(tmp_path / "what-if.yaml"), 4)}


def test_the_shipped_chips_unused_sources_are_no_fault_of_a_file_that_replaces_their_figures(tmp_path):
    path = write(tmp_path, "a.yaml", "schema_version: 1\nname: a\nextends: h100-sxm\nkernel: null\nprice: {per_hour: 2 USD/h}\n")
    findings = lint(load_hardware(path), load_profile_source(path).whole)
    assert [str(finding) for finding in findings if "no figure uses" in finding.message] == []


def test_a_path_is_read_from_the_files_own_folder_and_a_name_from_there_first(tmp_path, monkeypatch):
    write(tmp_path / "chips", "base.yaml", "schema_version: 1\nname: base\nextends: h100-sxm\npower: {tdp: 600 W}\n")
    for number, words in enumerate(("base.yaml", "./base.yaml", "base", "../chips/base.yaml")):
        path = write(tmp_path / "chips", f"top{number}.yaml", f"schema_version: 1\nname: top\nextends: {words}\n")
        monkeypatch.chdir("/")
        assert load_hardware(path).power.tdp_w == 600


def test_a_file_may_extend_the_shipped_chip_whose_name_it_has(tmp_path):
    write(tmp_path, "h100-sxm.yaml", "schema_version: 1\nname: h100-sxm\nextends: h100-sxm\npower: {tdp: 500 W}\n")
    chip = load_hardware("h100-sxm", profiles=tmp_path)
    assert chip.power.tdp_w == 500
    assert chip.main_memory == load_hardware(Path(load_hardware("a100-sxm-80gb").file).with_name("h100-sxm.yaml")).main_memory


def test_an_alias_may_be_extended(tmp_path):
    assert load_hardware(write(tmp_path, "a.yaml", WHAT_IF.replace("h100-sxm", "h100_sxm"))).kind == "gpu"


@pytest.mark.parametrize(("text", "message"), [
    ("schema_version: 1\nextends: h100-sxm\n", "a.yaml:1:1: name: missing key 'name'; a profile that extends another"),
    ("schema_version: 1\nname: a\nextends: h100\n", "a.yaml:3:1: extends: unknown hardware profile 'h100'; did you mean 'h100-pcie' or 'h100-sxm'"),
    ("schema_version: 1\nname: a\nextends: no.yaml\n", "a.yaml:3:1: extends: no such hardware profile file"),
    ("schema_version: 1\nname: a\nextends:\n", "a.yaml:3:1: extends: an empty value is not the name"),
    ("schema_version: 1\nname: a\nextends: [h100-sxm]\n", "a.yaml:3:1: extends: a list is not the name"),
    ("schema_version: 1\nname: a\nextends: 5\n", "a.yaml:3:1: extends: 5 is not the name"),
    ("schema_version: 1\nname: a\nextends: a.yaml\n", "a.yaml:3:1: extends: 'a.yaml' leads back to a.yaml"),
    ("schema_version: 1\nname: a\nextends: " + "x" * 300 + "\n", "a.yaml:3:1: extends: "),
    ("schema_version: 7\nname: a\nextends: h100-sxm\n", "a.yaml:1:1: schema_version: 7 is not a version"),
])
def test_what_cannot_be_extended_is_told_at_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.yaml", text)
    said = refusal("a.yaml")
    assert said.startswith(message)
    assert "\n" not in said


def test_a_circle_is_refused(tmp_path):
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f"{one}.yaml", f"schema_version: 1\nname: {one}\nextends: {other}\n")
    assert "in a circle" in refusal(tmp_path / "a.yaml")
    (tmp_path / "d.yaml").symlink_to(tmp_path / "a.yaml")
    write(tmp_path, "b.yaml", "schema_version: 1\nname: b\nextends: d\n")
    assert "in a circle" in refusal(tmp_path / "a.yaml")


def test_eight_files_may_stand_below_a_profile_and_no_more(tmp_path):
    write(tmp_path, "p0.yaml", "schema_version: 1\nname: p0\nextends: h100-sxm\n")
    for number in range(1, MAX_DEPTH + 1):
        write(tmp_path, f"p{number}.yaml", f"schema_version: 1\nname: p{number}\nextends: p{number - 1}\n")
    assert load_hardware(tmp_path / f"p{MAX_DEPTH - 1}.yaml").kind == "gpu"
    assert f"more than {MAX_DEPTH} profiles" in refusal(tmp_path / f"p{MAX_DEPTH}.yaml")


def test_kernels_are_as_built_by_the_file_that_states_them(tmp_path):
    own = write(tmp_path, "own.yaml", WHAT_IF + "kernel: {like: h100-sxm}\n")
    inherited = write(tmp_path, "inherited.yaml", WHAT_IF)
    assert load_hardware(own).kernel.tuned_for_bytes_per_s == 8e12
    assert load_hardware(inherited).kernel.tuned_for_bytes_per_s == 3.352e12


def test_editors_ask_of_a_file_that_extends_only_what_it_states():
    validator = jsonschema.Draft202012Validator(profile_json_schema())
    whole = {"schema_version": 1, "name": "a", "memory": {"hbm": {"kind": "dram"}}}
    assert list(validator.iter_errors(yaml.safe_load(WHAT_IF))) == []
    assert {"title", "compute", "capacity"} <= {
        error.message.split("'")[1] for error in validator.iter_errors(whole) if error.validator == "required"}
    assert [error.validator for error in validator.iter_errors(
        {**whole, "extends": "b", "memory": {"hbm": {"bandwith": "1 TB/s"}}})] == ["additionalProperties"]
