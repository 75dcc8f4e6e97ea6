"""Both fair comparisons in one figure: what it shows is what simulate answers, and its caption follows from it."""

import math
from dataclasses import replace

import pytest

from simkit.foundation.errors import UserError
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.study_points import evaluate, scalar
from simkit.report.drawing.style import PAPER, chip_styles, house_style
from simkit.report.figures import both_metrics
from simkit.report.figures.both_metrics import STEP, TOKENS_PER_J, TOKENS_PER_S


@pytest.fixture(scope="module")
def request_(study):
    return next(request for request in study.figures if request.kind == "both_metrics")


def drawn(study, request):
    with house_style():
        return both_metrics.draw(FigureContext(request=request, styles=chip_styles(study.hardware, study.labels)))


@pytest.fixture(scope="module")
def item(study, request_):
    return drawn(study, request_)


def test_the_gains_are_those_of_two_evaluations_at_the_batches_that_the_figure_names(request_, item) -> None:
    for row in item.rows:
        chip = next(chip for chip in request_.hardware if chip.name == row["hardware"])
        same, own = ([evaluate(request_, chip, layout, batch=batch, chips=int(row["chips"]))
                      for layout, batch in zip(("mha", "gqa-8"), batches, strict=True)]
                     for batches in ((32, 32), (row["mha_own_batch"], row["own_batch"])))
        assert row[STEP] == pytest.approx(scalar(same[0], "step_time_s") / scalar(same[1], "step_time_s"), rel=1e-9)
        # At its largest batch only one mapping may hold a layout: the fastest that does is the one timed.
        assert row[TOKENS_PER_S] == pytest.approx(scalar(own[1], "tokens_per_s") / scalar(own[0], "tokens_per_s"),
                                                  rel=0.02)


def test_neither_layout_holds_another_sequence(request_, item) -> None:
    for row in item.rows:
        chip = next(chip for chip in request_.hardware if chip.name == row["hardware"])
        for layout, batch in (("mha", row["mha_own_batch"]), ("gqa-8", row["own_batch"])):
            fitting = [bool(evaluate(request_, chip, layout, batch=batch + more, chips=int(row["chips"])).fits)
                       for more in (0, 1)]
            # Chips of a given number may spill into an overflow tier, which fit does not use.
            assert fitting[0]
            assert not fitting[1] or any(level.overflow for level in chip.memory)


def test_the_order_that_the_caption_speaks_of_is_that_of_the_rows(item) -> None:
    steps, tokens = ([row[measure] for row in item.rows] for measure in (STEP, TOKENS_PER_S))
    assert steps == sorted(steps)
    pairs = [(math.log(steps[j] / steps[i]), math.log(tokens[j] / tokens[i]))
             for i in range(len(steps)) for j in range(i + 1, len(steps))]
    told = [pair for pair in pairs if min(map(abs, pair)) >= 0.01]
    turned = sum(step * rate < 0 for step, rate in told)
    assert ("The order of the chips inverts" in item.finding) == (2 * turned > len(told))
    assert f"{turned} of {len(told)} pairs" in item.finding


def test_groq_stands_last_by_the_step_and_first_by_tokens(item) -> None:
    # comparison.md, rule 9: Groq's step hardly waits for its cache, and its SRAM is what limits its batch.
    assert item.rows[0]["hardware"] == "groq-lpu"
    assert max(item.rows, key=lambda row: row[TOKENS_PER_S])["hardware"] == "groq-lpu"


def test_one_order_is_not_called_inverted(study, request_) -> None:
    chips = tuple(chip for chip in request_.hardware if chip.name == "h100-sxm")
    finding = drawn(study, replace(request_, hardware=chips)).finding
    assert "order" not in finding
    assert " to " not in finding


def test_marks_of_chips_with_assumed_parameters_are_hollow_and_all_have_bounds(request_, item) -> None:
    axes = item.figure.axes[0]
    for place, row in enumerate(item.rows):
        chip = next(chip for chip in request_.hardware if chip.name == row["hardware"])
        marks = [line for line in axes.lines if line.get_marker() in ("o", "D") and line.get_ydata()[0] == place]
        assert len(marks) == 2
        assert {mark.get_markerfacecolor() == PAPER for mark in marks} == {bool(chip.assumed)}
        assert row[f"{STEP}_low_90"] <= row[STEP] <= row[f"{STEP}_high_90"]


def test_tokens_a_joule_stand_only_where_the_energies_are_known(request_, item) -> None:
    for row in item.rows:
        power = next(chip for chip in request_.hardware if chip.name == row["hardware"]).power
        if power.energy_j_per_flop is None or power.idle_w is None:
            assert row[TOKENS_PER_J] is None
    assert any(row[TOKENS_PER_J] for row in item.rows)


def test_a_study_too_large_for_all_chips_is_refused(study, request_) -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        drawn(study, replace(request_, focus_batch=4096, focus_kv_len=131072))
