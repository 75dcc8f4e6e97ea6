"""Sentences of a page are true where layouts run on chips of their own, are many, gain nothing, or exceed the model."""

import re
from dataclasses import replace

import pytest
from matplotlib.text import Text

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.dumbbell import Row, draw_rows
from simkit.report.drawing.study_points import (
    chips_text,
    evaluate,
    inputs_text,
    machines_text,
    no_room,
    scalar,
)
from simkit.report.drawing.style import chip_styles, house_style, new_figure, times
from simkit.report.figures.registry import FIGURES
from simkit.study.study_file import study_from_yaml

STUDY = """
schema_version: 1
name: four
title: Own chips, four layouts, long contexts
question: Is every sentence true?
hardware: [h100-sxm, groq-lpu, sambanova-sn40l, l40s, tpu-v5e, dmatrix-corsair]
models: [llama-2-70b]
layouts: [mha, gqa-8, gqa-2, mqa]
batch: [1, 8, 64]
kv_len: 4k..64k*4
chips: fit-each
focus: {batch: 8, kv_len: 32k}
figures:
  - kind: roofline
  - kind: grouping_law
  - kind: separate_causes
  - kind: both_metrics
  - kind: step_breakdown
  - {kind: advantage_heatmap, hardware: [h100-sxm, groq-lpu]}
  - {kind: kv_capacity, kv_len: "1k..256k*4"}
  - kind: bandwidth_scaling
  - kind: concurrent_users
  - kind: energy_cost
  - kind: tp_replication
  - {kind: quality_speed, hardware: [h100-sxm]}
  - {kind: stacking, hardware: [h100-sxm, groq-lpu], reducers: [mha, gqa-8, kv=fp8]}
"""
OWN_CHIPS = ("step_breakdown", "concurrent_users", "energy_cost")


@pytest.fixture(scope="module")
def four():
    return study_from_yaml(parse_yaml(STUDY, file="four.yaml"))


def draw(study, kind, **changes):
    request = next(request for request in study.figures if request.kind == kind)
    with house_style():
        return FIGURES[kind](FigureContext(request=replace(request, **changes),
                                           styles=chip_styles(study.hardware, study.labels)))


@pytest.fixture(scope="module")
def drawn(four):
    return {request.kind: draw(four, request.kind) for request in four.figures}


def words_of(item) -> str:
    return " ".join([item.finding, item.how_to_read, item.inputs, item.alt, *(one.reason for one in item.omissions)])


def test_no_sentence_tells_an_unknown_number(drawn) -> None:
    for kind, item in drawn.items():
        assert not re.search(r"\b(nan|inf|None)\b", words_of(item)), kind
        assert "predicts :" not in item.finding


def test_speedups_are_on_the_same_chips_also_where_each_layout_has_its_own(four, drawn) -> None:
    for request in four.figures:
        words = drawn[request.kind].inputs
        if request.kind in OWN_CHIPS:
            assert "each layout on the chips of least cost a token on which it alone fits" in words
            assert "All layouts of a row run on the same chips" not in drawn[request.kind].how_to_read
        elif request.kind not in ("kv_capacity", "tp_replication", "roofline"):
            assert "the chips of least cost a token on which every layout fits" in words
    for row in drawn["separate_causes"].rows:
        assert row["speedup_vs_mha"] > 0.99


def test_all_rungs_of_a_stack_run_on_the_same_chips(drawn) -> None:
    rows = drawn["stacking"].rows
    for name in {row["hardware"] for row in rows}:
        assert len({row["chips"] for row in rows if row["hardware"] == name}) == 1


@pytest.mark.parametrize("kind", OWN_CHIPS)
def test_every_layout_s_own_chips_are_named_in_the_figure(drawn, kind) -> None:
    item = drawn[kind]
    texts = " ".join(text.get_text() for text in item.figure.findobj(Text))
    chips = [f"{row['chips']:,.0f}" for row in item.rows if row["hardware"] == "h100-sxm"]
    assert len(set(chips)) > 1
    assert f"{' → '.join(chips)} chips" in texts


def test_a_layout_that_does_not_fit_takes_no_chips(four) -> None:
    request = next(request for request in four.figures if request.kind == "step_breakdown")
    l40s = next(chip for chip in request.hardware if chip.name == "l40s")
    points = [evaluate(request, l40s, layout) for layout in request.layouts]
    assert machines_text(points).startswith("– → ")


def test_four_layouts_have_four_marks_and_a_seventh_is_refused(study) -> None:
    style = next(iter(chip_styles(study.hardware, study.labels).values()))
    names = [f"gqa-{2**power}" for power in range(7)]
    with house_style():
        axes = new_figure(2.0).add_subplot()
        draw_rows(axes, [Row(style=style, under="", values={name: i + 1.0 for i, name in enumerate(names[:6])})],
                  names[:6], {})
        assert len({line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1}) == 6
        with pytest.raises(UserError, match=r"7 layouts.*fewer 'layouts'"):
            draw_rows(axes, [], names, {})


def test_a_ratio_below_one_is_not_called_a_gain(drawn) -> None:
    # On 128 of its chips Corsair holds fewer GQA-8 sequences than MHA does on 512.
    assert "over MHA's: GQA-8 0.0" in drawn["concurrent_users"].finding
    assert "hold more" not in drawn["concurrent_users"].finding
    assert "gain" not in drawn["concurrent_users"].finding


def test_the_same_chips_hold_at_least_as_many_sequences_of_a_smaller_cache(four) -> None:
    # The fastest mapping may copy KV heads and hold fewer; what fits is a matter of the roomiest.
    rows = draw(four, "concurrent_users", chips="fit").rows
    for name in {row["hardware"] for row in rows}:
        most = [row["own_batch"] for row in rows if row["hardware"] == name]
        assert most == sorted(most)


def test_attention_s_share_counts_the_arithmetic_that_holds_it_up(four, drawn) -> None:
    # Groq's MQA computes: none of its time is the cache's reading, and 0.0 % of the step would be false.
    finding = drawn["step_breakdown"].finding
    share = re.search(r"On groq-lpu .*? and ([\d.]+)% of MQA's [\d.]+ ms \(held up by arithmetic\)", finding)
    request = next(request for request in four.figures if request.kind == "step_breakdown")
    point = evaluate(request, next(chip for chip in request.hardware if chip.name == "groq-lpu"), "mqa")
    assert float(share[1]) / 100 == pytest.approx(
        scalar(point, "attention_time_s") / scalar(point, "step_time_s"), abs=6e-4)


def test_a_context_beyond_the_model_s_is_said_to_be_one(four, drawn, study) -> None:
    for kind, item in drawn.items():
        assert ("takes contexts of up to 4,096 tokens" in item.inputs) == (kind != "tp_replication"), kind
    assert "takes contexts" not in inputs_text(study.figures[0])


def test_chips_are_named_as_they_were_asked_for(four) -> None:
    request = four.figures[0]
    assert chips_text(replace(request, chips="fewest")) == "the fewest chips on which every layout fits"
    assert chips_text(replace(request, chips="fit")) == "the chips of least cost a token on which every layout fits"
    assert "at most 16," in chips_text(replace(request, chips="up-to-16"))
    assert chips_text(replace(request, chips=1)) == "1 chip"
    assert no_room(replace(request, chips=8)) == "MHA at batch 8 does not fit on 8 chips"
    assert no_room(replace(request, chips="up-to-16")) == "MHA at batch 8 does not fit on 16 chips or fewer"


@pytest.mark.parametrize("word", ["fewest", "up-to-64"])
def test_a_study_may_ask_for_the_fewest_chips_or_give_a_budget(word) -> None:
    found = study_from_yaml(parse_yaml(STUDY.replace("fit-each", word), file="four.yaml"))
    assert {request.chips for request in found.figures} == {word}
    chips = [row["chips"] for row in draw(found, "both_metrics").rows]
    assert max(chips) <= 64 or word == "fewest"


def test_ratios_far_below_one_keep_their_digits() -> None:
    assert times(0.0031) == "0.0031×"
    assert times(0.94) == "0.94×"


def test_the_law_holds_in_every_place_above_the_ridge_that_the_caption_names(drawn) -> None:
    ridge = float(re.search(r"in all with a ridge of ([\d,]+) flop", drawn["grouping_law"].finding)[1].replace(",", ""))
    places = [row for row in drawn["grouping_law"].rows if row["attention"] == "gqa-8" and row["from"] == "roofline"]
    assert places
    for row in places:
        if row["ridge_flop_per_byte"] >= ridge:
            assert row["kernel_speedup_vs_mha"] >= 0.8 * 8


def test_faster_memory_changes_no_number_of_chips(four, drawn) -> None:
    # Corsair has two memories for its cache: which chips cost least would change with their speed.
    rows = [row for row in drawn["bandwidth_scaling"].rows if row["hardware"] == "dmatrix-corsair"]
    assert len(rows) == 41
    assert rows[0]["speedup_vs_mha"] == pytest.approx(next(
        row["speedup_vs_mha"] for row in drawn["separate_causes"].rows if row["hardware"] == "dmatrix-corsair"))
