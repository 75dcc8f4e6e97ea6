"""Figures are drawn without a window or global state, and their words and marks are right."""

import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from simkit.foundation.errors import UserError
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.export import figure_bytes
from simkit.report.drawing.labels import spread
from simkit.report.drawing.style import COLUMN_WIDTH_INCHES, DARK, PAPER, chip_styles, house_style
from simkit.report.figures.grouping_law import law_speedup
from simkit.report.figures.registry import FIGURES
from simkit.study.study_file import FIGURE_KINDS

# Drawn from tables that name their own models.
OF_MEASUREMENTS = ("predicted_against_measured", "advantage_against_measured", "error_by_regime", "published_figures",
                   "attention_atlas", "scattered_rows")
NAMES = [*(kind for kind in FIGURE_KINDS if kind != "kv_capacity"), "capacity"]


def test_every_kind_that_a_study_may_name_can_be_drawn() -> None:
    assert set(FIGURES) == set(FIGURE_KINDS)
    for kind in FIGURE_KINDS:
        assert callable(import_module(f"simkit.report.figures.{kind}").draw)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_one_column_wide_with_words_and_data(drawn, name) -> None:
    item = drawn[name]
    assert isinstance(item.figure, Figure)
    assert item.figure.get_figwidth() == COLUMN_WIDTH_INCHES
    assert any(character.isdigit() for character in item.finding)
    assert item.rows
    assert "Llama 2 70B" in item.inputs or name in OF_MEASUREMENTS


@pytest.mark.parametrize("name", NAMES)
def test_no_text_leaves_the_figure_or_covers_another(drawn, name) -> None:
    figure = drawn[name].figure
    with house_style():
        figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text, text.get_window_extent(renderer)) for text in texts]
    shown = [(text, box) for text, box in boxes if box.width > 0 and text.get_rotation() in (0.0, 90.0)]
    # A pixel of slack: extents include the white around letters.
    for text, box in shown:
        assert box.x0 > -2, text
        assert box.x1 < figure.bbox.x1 + 2, text
    for index, (first, box) in enumerate(shown):
        for second, other in shown[index + 1:]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert width < 2 or height < 3, f"{first.get_text()!r} on {second.get_text()!r}"


def test_the_study_of_these_tests_draws_every_kind(drawn) -> None:
    assert set(drawn) == set(NAMES)


def test_pyplot_is_never_loaded(drawn) -> None:
    assert "matplotlib.pyplot" not in sys.modules


def test_a_chip_has_one_colour_through_the_whole_page(study) -> None:
    styles = chip_styles(study.hardware, study.labels)
    assert len({style.colour for style in styles.values()}) == len(styles)
    assert len({style.marker for style in styles.values()}) == len(styles)
    assert styles["h100-sxm"].line != styles["groq-lpu"].line


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_chip_colours_can_be_read_on_light_and_dark_paper() -> None:
    # WCAG 2 asks 3:1 of graphics; labels are in these colours too, so 4:1 is asked here.
    for colour in [style for style in DARK if style not in (PAPER, "#dde1e6")]:
        assert contrast(colour, PAPER) > 3.6, colour
        assert contrast(DARK[colour], DARK[PAPER]) > 4.5, colour


def test_the_law_pays_in_full_only_above_the_ridge() -> None:
    # model.md section 3: a machine of ridge 2.35 flop/byte gains 2.35 from any g above it; one of 0.75 gains nothing.
    assert law_speedup(2.35, 8, 1.0) == pytest.approx(2.35)
    assert law_speedup(2.35, 64, 1.0) == pytest.approx(2.35)
    assert law_speedup(0.75, 8, 1.0) == 1.0
    assert law_speedup(295.0, 8, 1.0) == 8.0


def test_labels_are_spread_in_order_and_apart() -> None:
    placed = np.array(spread([5.0, 5.1, 5.2, 1.0, 9.9], 1.0, 0.0, 10.0))
    assert np.all(np.diff(np.sort(placed)) >= 1.0 - 1e-9)
    assert placed.min() >= 0.0
    assert placed.max() <= 10.0
    assert placed[0] < placed[1] < placed[2]


def test_a_figure_with_nothing_to_draw_says_so_and_what_to_do(study) -> None:
    # 4096 MQA caches of 4M tokens are 700 TB: no system of these chips holds them, whatever the layout.
    styles = chip_styles(study.hardware, study.labels)
    for request in study.figures:
        if request.kind in {"separate_causes", "step_breakdown", "bandwidth_scaling", "concurrent_users"}:
            huge = replace(request, focus_batch=4096, focus_kv_len=2**22)
            with house_style(), pytest.raises(UserError, match=rf"figure '{request.name}' has nothing to draw.*smaller"):
                FIGURES[request.kind](FigureContext(request=huge, styles=styles))


def test_dollars_in_a_name_are_no_formula(study) -> None:
    styles = chip_styles(study.hardware, {"h100-sxm": "$x^ chip"})
    with house_style():
        item = FIGURES["roofline"](FigureContext(request=study.figures[0], styles=styles))
        item.figure.draw_without_rendering()
    assert any("$x^ chip" in text.get_text() for text in item.figure.findobj(Text))


def test_a_figure_drawn_again_and_again_has_the_same_svg(study) -> None:
    # Three panels: the layout solver's last digits differ from run to run, and named the clip paths.
    styles = chip_styles(study.hardware, study.labels)
    request = next(request for request in study.figures if request.kind == "energy_cost")
    with house_style():
        found = {figure_bytes(FIGURES["energy_cost"](FigureContext(request=request, styles=styles)).figure, "svg")
                 for _ in range(3)}
    assert len(found) == 1
    assert b"url(#p1)" in found.pop()
