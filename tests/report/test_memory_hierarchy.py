"""The diagram of a profile's memory: every level with its figures, on paper and in plain text, for every shipped chip."""

import sys

import pytest
from matplotlib.text import Text

from simkit.commands.console import stacked_boxes
from simkit.hardware.catalog import load_hardware
from simkit.hardware.hierarchy import level_words, link_words
from simkit.report.drawing.style import house_style
from simkit.report.figures.memory_hierarchy import draw_hierarchy
from tests.reference_data import shipped_chips

CATALOGUE = shipped_chips()


def words_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_h100_has_three_levels_each_with_capacity_bandwidth_latency_and_ridge():
    """989.4 TFLOP/s, 80.3 % achieved, over 50 MiB of L2 at 5.5 TB/s: ridge 144; over 94.9 % of HBM3's 3.352 TB/s: 250."""
    chip = load_hardware("h100-sxm")
    smem, l2, hbm = (level_words(chip, level) for level in chip.memory)
    assert (smem.size, smem.path) == ("132 × 262 kB = 34.6 MB", "132 × 234 GB/s = 30.9 TB/s, 16.2 ns")
    assert smem.heading.endswith("one for each SM")
    assert (l2.size, l2.path, l2.ridge) == ("52.4 MB", "5.5 TB/s, 142 ns", "ridge 144 flop/byte")
    assert (hbm.heading, hbm.path, hbm.ridge) == (
        "hbm, HBM3", "3.35 TB/s, 3.18 TB/s reached, 345 ns", "ridge 250 flop/byte")


def test_what_no_source_gives_is_not_known_and_has_no_ridge():
    chip = load_hardware("tpu-v4")
    words = level_words(chip, chip.level("cmem"))
    assert (words.path, words.ridge) == ("not known", "ridge not known")


def test_a_last_resort_is_called_one():
    chip = load_hardware("sambanova-sn40l")
    assert level_words(chip, chip.level("ddr")).holds.endswith("as overflow")


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_word_of_every_shipped_chip_stands_inside_the_figure_and_its_box(name):
    chip = CATALOGUE[name]
    with house_style():
        drawn = draw_hierarchy(chip)
        drawn.figure.draw_without_rendering()
    texts = words_of(drawn.figure)
    for level in chip.memory:
        words = level_words(chip, level)
        assert {words.heading, words.size, f"holds {words.holds}", words.path, words.ridge} <= set(texts)
    assert any(text.startswith("other chips") for text in texts) == (link_words(chip) is not None)
    page = drawn.figure.bbox
    boxes = [patch.get_window_extent() for patch in drawn.figure.axes[0].patches]
    for text in drawn.figure.findobj(Text):
        if not text.get_text():
            continue
        extent = text.get_window_extent()
        assert page.x0 <= extent.x0 < extent.x1 <= page.x1, text.get_text()
        assert page.y0 <= extent.y0 < extent.y1 <= page.y1, text.get_text()
        for box in boxes:
            if box.width > 0.3 * page.width and box.y0 < (extent.y0 + extent.y1) / 2 < box.y1:
                assert box.x0 <= extent.x0 < extent.x1 <= box.x1, text.get_text()


def test_rows_behind_the_figure_are_those_of_the_profile():
    with house_style():
        rows = draw_hierarchy(load_hardware("h100-sxm")).rows
    assert [row["level"] for row in rows] == ["smem", "l2", "hbm"]
    assert rows[2]["ridge_flop_per_byte"] == pytest.approx(989.4 * 0.803 / (3.352 * 0.949))


def test_show_draws_boxes_on_a_terminal_and_a_file_when_named(cli, tmp_path):
    text = cli("profile", "show", "h100-sxm").stdout
    assert "│ hbm, HBM3" in text
    assert "3.35 TB/s, 3.18 TB/s reached, 345 ns; ridge 250 flop/byte" in text
    for form, opening in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert cli("profile", "show", "h100-sxm", "-o", f"h.{form}").stdout == f"h.{form}\n"
        assert (tmp_path / f"h.{form}").read_bytes().startswith(opening)
    assert cli("profile", "show", "h100-sxm", "-o", "h.svg").exit_code == 2  # exists
    refused = cli("profile", "show", "h100-sxm", "-o", "g.svg", "--format", "csv")
    assert refused.exit_code == 2
    assert "a figure is not a list of records" in refused.stderr


def test_boxes_line_up_and_fall_back_to_ascii(monkeypatch, capsys):
    text = stacked_boxes([["a"], ["bb", "c"]], ["1 B/s"], foot="out")
    assert text.splitlines()[-1] == "   └ out"
    frames = [line for line in text.splitlines() if line[0] in "┌│└"]
    assert len({len(line) for line in frames}) == 1

    class Latin:
        encoding = "ascii"

    from simkit.commands import console
    monkeypatch.setattr(sys, "stdout", Latin())
    assert console._showable(text).isascii()
    assert console._showable("3 µs × 2") == "3 us x 2"
