"""Figures of served requests: axes in words that people read, a label beside every line, and the drawn data as rows."""

import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.report.drawing.style import house_style
from simkit.report.figures.serving_figures import draw_serving
from simkit.serving.ask import Load, ask
from simkit.serving.generate import generate, parse_lengths
from simkit.serving.serve import Policy


@pytest.fixture(scope="module")
def drawn():
    def more(count):
        return generate(parse_lengths("300/40"), requests_per_s=2.0, gap_cv=1.0, requests=count, seed=0)

    answers = ask([load_hardware("h100-sxm")], load_model("llama-3.1-8b"), ["mha", "gqa-8"], ["bf16"],
                  load=Load(stream=more(60), own_requests_per_s=2.0, rates_requests_per_s=(2.0, 8.0)),
                  policy=Policy(slo_tpot_s=0.05, most_running=32), page_tokens=16, scenario={}, chips=[1])
    with house_style():
        figures = draw_serving(answers)
        for _, figure, _ in figures:
            figure.draw_without_rendering()
        yield figures


def test_each_line_has_its_name_beside_it(drawn):
    assert [name for name, _, _ in drawn] == ["goodput", "kv_occupancy", "tpot_cdf"]
    for _, figure, _ in drawn:
        (axes,) = figure.axes
        assert {"MHA", "GQA-8"} <= {text.get_text() for text in axes.texts}


def test_times_per_token_are_ticked_with_units_within_the_axis(drawn):
    (axes,) = drawn[2][1].axes
    low, high = axes.get_xlim()
    ticks = [(place, text.get_text()) for place, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)]
    assert len([place for place, _ in ticks if low <= place <= high]) >= 2
    assert all(text.endswith("ms") for _, text in ticks)
    assert not [text for text in axes.get_xticklabels(minor=True) if text.get_text()]
    assert "objective" in {text.get_text() for text in axes.texts}


def test_rows_are_what_is_drawn(drawn):
    for layout in ("mha", "gqa-8"):
        shares = [row["share_of_requests"] for row in drawn[2][2] if row["attention"] == layout]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1.0)
