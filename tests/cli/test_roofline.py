"""``simkit roofline``: ceilings, ridges and intensities by their definitions, and the figure's file."""

import json

import pytest

from simkit.hardware.catalog import load_hardware


def records_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_each_point_is_under_its_roof(cli):
    """Williams, Waterman, Patterson 2009: P = min(peak, intensity x bandwidth)."""
    for row in records_of(cli("roofline", "-H", "h100-sxm,groq-lpu", "--format", "json")):
        roof = min(row["compute_flop_per_s"], row["level_bytes_per_s"] * row["arithmetic_intensity"])
        assert row["attainable_flop_per_s"] == pytest.approx(roof)
        assert row["ridge_flop_per_byte"] == pytest.approx(row["compute_flop_per_s"] / row["level_bytes_per_s"])


def test_every_level_of_every_chip_is_there_with_every_layout(cli):
    rows = records_of(cli("roofline", "-H", "h100-sxm,groq-lpu", "-A", "mha,mqa", "--format", "json"))
    levels = [(chip, level.name) for chip in ("h100-sxm", "groq-lpu") for level in load_hardware(chip).memory]
    assert {(row["hardware"], row["level"], row["attention"]) for row in rows} == {
        (*level, layout) for level in levels for layout in ("mha", "mqa")}


def test_intensities_are_1_8_and_64(cli):
    rows = records_of(cli("roofline", "--format", "json"))
    assert {row["attention"]: row["arithmetic_intensity"] for row in rows} == {"mha": 1.0, "gqa-8": 8.0, "mqa": 64.0}


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_figure_is_written_in_the_format_of_its_suffix_and_never_over_another(cli, tmp_path, suffix, start):
    file = tmp_path / f"roofline.{suffix}"
    assert cli("roofline", "-o", file.name).exit_code == 0
    assert file.read_bytes().startswith(start)
    assert cli("roofline", "-o", file.name).exit_code == 2
    assert list(tmp_path.iterdir()) == [file]


def test_the_text_of_a_pdf_is_in_a_font_that_publishers_take(run_cli, tmp_path):
    """TrueType, not Type 3: the other tests draw with the quicker one (tests/conftest.py)."""
    assert run_cli("roofline", "-o", "roofline.pdf").exit_code == 0
    content = (tmp_path / "roofline.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_a_figure_is_of_one_model(cli):
    assert cli("roofline", "-M", "llama-2-70b,llama-2-7b", "-o", "x.svg").exit_code == 2
    assert cli("roofline", "-M", "llama-2-70b,llama-2-7b", "--format", "csv").exit_code == 0
