"""``simkit profile``: what it lists, shows, checks, compares and writes."""

import json
from urllib.request import urlopen

import jsonschema
import pytest
import yaml

from tests.reference_data import REPOSITORY

PROFILES = sorted((REPOSITORY / "hardware_profiles").glob("*.yaml"), key=lambda path: path.stem)


def records_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def figures_in(node, path=()):
    """Dotted keys of the leaves of a profile file that are figures."""
    if isinstance(node, dict) and "value" not in node:
        for key, value in node.items():
            yield from figures_in(value, (*path, key))
    else:
        yield ".".join(path)


def test_list_names_every_file_of_the_catalogue(cli):
    names = [record["name"] for record in records_of(cli("profile", "list", "--format", "json"))]
    assert names == [path.stem for path in PROFILES]


def test_list_gives_the_ridge_point_of_h100(cli):
    """989.4 TFLOP/s dense bf16 over 3.352 TB/s (NVIDIA datasheet and XLA's target description)."""
    record = next(r for r in records_of(cli("profile", "list", "--format", "json")) if r["name"] == "h100-sxm")
    assert record["ridge_flop_per_byte"] == pytest.approx(989.4 * 0.803 / (3.352 * 0.949), rel=1e-6)


def test_a_faulty_file_among_a_user_s_profiles_is_a_warning_and_hides_no_other(cli, tmp_path):
    (tmp_path / "broken.yaml").write_text("name: broken\n", encoding="utf-8")
    result = cli("profile", "list", "--profiles", tmp_path, "--format", "json")
    assert "h100-sxm" in [record["name"] for record in records_of(result)]
    assert "broken.yaml" in result.stderr


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_show_gives_every_figure_of_the_file_and_its_source(cli, path):
    shown = {record["key"]: record for record in records_of(cli("profile", "show", path, "--format", "json"))}
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    table = data.get("sources", {})
    for section in ("compute", "memory", "links", "system", "overheads", "power", "price", "kernel"):
        for key in figures_in(data.get(section, {}), (section,)):
            node = data
            for part in key.split("."):
                node = node[part]
            value = node["value"] if isinstance(node, dict) else node
            if value is None or value is False or key.endswith("unit_name") or value == []:
                continue  # not given, or not a figure
            assert key in shown, key
            if isinstance(node, dict) and node.get("source"):
                assert shown[key]["source"] == table.get(node["source"], node["source"])


def test_show_gives_a_ridge_point_for_each_memory_level(cli):
    shown = {record["key"]: record["value"] for record in records_of(cli("profile", "show", "h100-sxm", "--format", "json"))}
    # 128 B a clock and SM at 132 SM x 1.83 GHz is 30.9 TB/s; 989.4 TFLOP/s over it is 32 flops a byte.
    assert shown["memory.smem.ridge"] == pytest.approx(989.4e12 * 0.803 / (132 * 234e9), rel=1e-6)
    assert shown["memory.hbm.ridge"] == pytest.approx(989.4 * 0.803 / (3.352 * 0.949), rel=1e-6)


def test_show_reads_a_what_if(cli):
    shown = {r["key"]: r for r in records_of(
        cli("profile", "show", "h100-sxm", "--set", "memory.hbm.bandwidth=8TB/s", "--format", "json"))}
    assert shown["memory.hbm.bandwidth"]["value"] == 8e12
    assert shown["memory.hbm.bandwidth"]["source"] == "set on the command line"


def test_show_for_people_names_levels_values_and_sources(cli):
    text = cli("profile", "show", "h100-sxm").stdout
    for part in ("NVIDIA H100 SXM5 80GB", "3.35 TB/s", "hbm", "datasheet"):
        assert part in text


def test_the_shipped_catalogue_passes_its_own_check(cli):
    result = cli("profile", "check")
    assert result.exit_code == 0, result.stdout
    assert "0 errors" in result.stderr


def test_check_tells_every_fault_of_every_file_with_file_line_and_column(cli, tmp_path):
    text = (REPOSITORY / "hardware_profiles" / "h100-sxm.yaml").read_text(encoding="utf-8")
    faulty = text.replace("3.352 TB/s", "3.352 Tb/s").replace("kind: gpu", "kind: gpx").replace("tile_rows", "tile_row")
    (tmp_path / "a.yaml").write_text(faulty, encoding="utf-8")
    (tmp_path / "b.yaml").write_text("a: [", encoding="utf-8")
    result = cli("profile", "check", "a.yaml", "b.yaml")
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert sum(line.startswith("a.yaml:") for line in lines) == 3
    assert sum(line.startswith("b.yaml:") for line in lines) == 1
    bandwidth_line = next(n for n, line in enumerate(faulty.splitlines(), 1) if "3.352 Tb/s" in line)
    assert any(line.startswith(f"a.yaml:{bandwidth_line}:") and "divide by 8" in line for line in lines)


def test_check_finds_a_slip_that_contradicts_the_dram_s_pins(cli, tmp_path):
    text = (REPOSITORY / "hardware_profiles" / "h100-sxm.yaml").read_text(encoding="utf-8")
    (tmp_path / "slip.yaml").write_text(text.replace("3.352 TB/s", "33.52 TB/s"), encoding="utf-8")
    result = cli("profile", "check", "slip.yaml")
    assert result.exit_code == 2
    assert "memory.hbm.bandwidth: error:" in result.stdout


def test_the_schema_is_a_json_schema_that_editors_can_read(cli, tmp_path):
    schema = json.loads(cli("profile", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert cli("profile", "schema", "-o", "profile.schema.json").exit_code == 0
    assert json.loads((tmp_path / "profile.schema.json").read_text(encoding="utf-8")) == schema


def test_the_schema_that_every_profile_names_is_the_one_of_this_version(cli):
    # Their first line points an editor at it; `simkit profile schema -o hardware_profiles/profile.schema.json --force`.
    shipped = (REPOSITORY / "hardware_profiles" / "profile.schema.json").read_text(encoding="utf-8")
    assert shipped == cli("profile", "schema").stdout
    first_lines = {path.read_text(encoding="utf-8").partition("\n")[0] for path in PROFILES}
    assert first_lines == {"# yaml-language-server: $schema=./profile.schema.json"}


@pytest.fixture(scope="module")
def schema_of_this_version():
    """Checked once: that takes a second, and most of it is the schema's own check."""
    schema = json.loads((REPOSITORY / "hardware_profiles" / "profile.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_the_schema_accepts_every_shipped_profile(schema_of_this_version, path):
    schema_of_this_version.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("right", "wrong"), [
    ("3.352 TB/s", "3.352 Tb/s"), ("kind: gpu", "kind: gpx"), ("tile_rows", "tile_row"), ("confidence: press", "confidence: pres"),
])
def test_the_schema_refuses_what_simkit_refuses(cli, right, wrong):
    schema = json.loads(cli("profile", "schema").stdout)
    text = (REPOSITORY / "hardware_profiles" / "h100-sxm.yaml").read_text(encoding="utf-8").replace(right, wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema)


def test_diff_names_the_figures_that_differ_and_their_ratio(cli):
    records = {r["key"]: r for r in records_of(
        cli("profile", "diff", "h100-sxm", "h100-sxm", "--set", "memory.hbm.bandwidth=6.704TB/s", "--format", "json"))}
    figures = [key for key in records if not key.startswith("decode ")]
    assert figures == ["memory.hbm.bandwidth"]
    assert records["memory.hbm.bandwidth"]["ratio"] == pytest.approx(2.0)
    assert 0.5 < records["decode mha: step"]["ratio"] < 1.0


def test_diff_of_a_profile_with_itself_is_empty(cli):
    assert cli("profile", "diff", "h100-sxm", "h100-sxm").stdout == "no parameter differs\n"


def test_a_new_profile_tells_editors_where_its_schema_lies(cli, tmp_path):
    assert cli("profile", "new", "mine", "--like", "h100-sxm", "-o", str(tmp_path / "mine.yaml")).exit_code == 0
    line = (tmp_path / "mine.yaml").read_text(encoding="utf-8").splitlines()[0]
    with urlopen(line.removeprefix("# yaml-language-server: $schema=")) as schema:
        assert json.load(schema) == json.loads(cli("profile", "schema").stdout)


def test_a_new_profile_keeps_comments_and_passes_the_check(cli, tmp_path):
    result = cli("profile", "new", "my-chip", "--like", "h100-sxm", "-o", "my-chip.yaml")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "my-chip.yaml").read_text(encoding="utf-8")
    assert "name: my-chip" in text
    assert "# - 989 TFLOP/s is dense bf16" in text  # the original's comments
    assert "aliases" not in text
    assert cli("profile", "check", "my-chip.yaml").exit_code == 0
    assert cli("profile", "new", "my-chip", "--like", "h100-sxm", "-o", "my-chip.yaml").exit_code == 2


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_can_be_the_start_of_a_new_one(cli, path):
    assert cli("profile", "new", "my-chip", "--like", path.stem).exit_code == 0
    assert cli("profile", "show", "my-chip.yaml").exit_code == 0


def test_show_marks_what_is_assumed_with_its_range_and_source(cli):
    found = {record["key"]: record for record in records_of(cli("profile", "show", "gaudi3", "--format", "json"))}
    bandwidth = found["memory.hbm.achievable_fraction"]
    assert bandwidth["confidence"] == "assumed"
    assert bandwidth["note"] == "range 0.445 to 0.965"
    assert "systolic-hbm" in bandwidth["source"]
    assert "tpu" in bandwidth["source"]  # a machine of its class
    assert found["compute.matrix.achievable_fraction"]["confidence"] == "paper-measured"
    ideal = records_of(cli("profile", "show", "gaudi3", "--assume", "ideal", "--format", "json"))
    assert not any(record["confidence"] == "assumed" for record in ideal)
