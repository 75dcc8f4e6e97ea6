"""The commands on top: records by their contract's names, figures, profiles written, and wrong input refused."""

import json

import pytest

from tests.evidence.test_silicon import HEADER, ROW

CONTRACT = {"system", "profile", "engine", "regime", "rows", "mape", "median_ape", "p90_ape", "bias",
            "advantage_median_ape", "baseline_mape"}


@pytest.fixture
def kernels(tmp_path):
    path = tmp_path / "kernels.csv"
    path.write_text(f"{HEADER}\n{ROW}\n{ROW.replace('h100_sxm', 'abacus')}\n", encoding="utf-8")
    return path


def test_silicon_records_have_the_contract_s_fields(cli, kernels):
    result = cli("evidence", "silicon", "--data", kernels, "--format", "json")
    records = json.loads(result.stdout)
    assert set(records[0]) >= CONTRACT
    assert {record["regime"] for record in records if record["system"] == "h100_sxm"} == {
        "all", "serving", "beyond_cache", "in_cache"}
    assert "abacus" in result.stderr


def test_the_table_prints_per_cent_and_says_so(cli):
    result = cli("evidence", "silicon", "--sample", "30")
    assert "errors in %" in result.stdout
    assert "naive MAPE" in result.stdout


def test_both_figures_are_drawn(cli, tmp_path):
    folder = tmp_path / "figures"
    assert cli("evidence", "silicon", "--sample", "60", "--figures", folder).exit_code == 0
    for name in ("predicted_against_measured", "error_by_regime"):
        assert (folder / f"{name}.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_calibrate_writes_a_profile_and_its_residuals(cli, tmp_path):
    from importlib import resources

    table = resources.files("simkit.evidence").joinpath("data", "silicon_decode_attention.csv")
    output = tmp_path / "mine.yaml"
    # In the few shipped rows loads bind, hardly ever the matrix unit.
    result = cli("calibrate", str(table), "--profile", "h100-sxm", "-o", output, "--format", "json",
                 "--keep", "matrix_efficiency")
    assert result.exit_code == 0, result.stderr
    assert {"figure", "start", "value", "low", "high"} == set(json.loads(result.stdout)[0])
    assert (tmp_path / "mine.residuals.svg").exists()
    assert cli("profile", "show", output).exit_code == 0


def test_calibrate_without_a_file_that_exists_says_so(run_cli):
    result = run_cli("calibrate", "absent.csv", "--profile", "h100-sxm")
    assert result.exit_code == 2
    assert "absent.csv: cannot read the table" in result.stderr
