"""Every figure tells assumed chips from calibrated ones: hollow marks, a word in the caption, bars from low to high.

Whole steps at the study's point have their 90 % bounds instead, on every chip.
"""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.lines import Line2D
from matplotlib.text import Text

from simkit import decode_step
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.ranges import RANGE, caption
from simkit.report.drawing.style import PAPER, chip_styles, house_style
from simkit.report.figures.registry import FIGURES
from simkit.study.likely import LIKELY_FIELDS
from simkit.study.record import FIELDS
from simkit.study.stacking import stack
from simkit.study.study_file import study_from_yaml

STUDY = """
schema_version: 1
name: ranges
title: Assumed beside calibrated
question: Does every figure tell them apart?
hardware: [h100-sxm, groq-lpu, sambanova-sn40l, tpu-v5e]
models: [llama-2-70b]
layouts: [mha, gqa-8, mqa]
batch: [1, 16]
kv_len: 1k..64k*8
focus: {batch: 16, kv_len: 8k}
figures:
  - kind: roofline
  - kind: grouping_law
  - kind: separate_causes
  - kind: both_metrics
  - kind: step_breakdown
  - kind: advantage_heatmap
  - kind: bandwidth_scaling
  - kind: concurrent_users
  - kind: energy_cost
  - {kind: quality_speed, hardware: [tpu-v5e]}
  - {kind: stacking, reducers: [mha, gqa-8, kv=fp8]}
  - {kind: stall_breakdown, hardware: [h100-sxm, sambanova-sn40l]}
  - {kind: replay_against_roofline, hardware: [h100-sxm, sambanova-sn40l]}
"""
# What a bar of each figure shows, and the axis along which it lies.
BARS = {
    "roofline": (("attainable_flop_per_s",), "y"),
    "grouping_law": (("kernel_speedup_vs_mha", "speedup_vs_mha"), "y"),
    "both_metrics": (("speedup_vs_mha",), "x"),
    "bandwidth_scaling": (("attention_speedup_vs_mha", "speedup_vs_mha"), "y"),
    "energy_cost": (("cost_usd_per_mtok", "owned_usd_per_mtok", "energy_j_per_token"), "x"),
    "quality_speed": (("speedup",), "x"),
    "stacking": (("attention_speedup", "step_speedup"), "y")}
BOUNDED = ("grouping_law", "both_metrics", "quality_speed", "separate_causes", "step_breakdown")
MARKED = ("roofline", "both_metrics", "bandwidth_scaling", "energy_cost", "concurrent_users", "stacking")
TITLED = ("step_breakdown", "stall_breakdown", "advantage_heatmap", "stacking", "separate_causes", "quality_speed",
          "replay_against_roofline")


@pytest.fixture(scope="module")
def ranged():
    return study_from_yaml(parse_yaml(STUDY, file="ranges.yaml"))


@pytest.fixture(scope="module")
def styles(ranged):
    return chip_styles(ranged.hardware, ranged.labels)


@pytest.fixture(scope="module")
def drawn(ranged, styles):
    with house_style():
        return {request.kind: FIGURES[request.kind](FigureContext(request=request, styles=styles))
                for request in ranged.figures}


def bars_of(item, axis="x") -> list[tuple[float, float]]:
    lines = [line for axes in item.figure.axes for line in axes.lines
             if line.get_label() == RANGE and line.get_linestyle() == "-"]
    return [tuple(float(end) for end in (line.get_xdata() if axis == "x" else line.get_ydata())) for line in lines]


def ends_of(rows, fields) -> list[tuple[float, float]]:
    return [(row[f"{field}_low{of}"], row[f"{field}_high{of}"]) for row in rows for field in fields for of in ("", "_90")
            if row.get(f"{field}_low{of}") is not None]


@pytest.mark.parametrize("kind", BARS)
def test_bars_end_at_the_low_and_high_of_the_figure_s_data(drawn, kind) -> None:
    fields, axis = BARS[kind]
    item, bars = drawn[kind], bars_of(drawn[kind], axis)
    rows = [row for row in item.rows if row.get("holds_cache", True)]
    if kind == "grouping_law":  # the lower panel has the first layout's bounds alone
        rows = [row if row["attention"] == "gqa-8" else row | {"speedup_vs_mha_low_90": None} for row in rows]
    known = ends_of(rows, fields)
    assert known
    assert {row["hardware"] for row in item.rows if row.get(f"{fields[0]}_low") is not None} <= {
        "groq-lpu", "sambanova-sn40l", "tpu-v5e"}
    if kind == "bandwidth_scaling":  # bars stand at some of the factors
        assert len(bars) == 2 * 3 * 3
        assert set(bars) <= set(known)
    else:
        assert sorted(bars) == pytest.approx(np.array(sorted(known)), rel=1e-12)


@pytest.mark.parametrize(("kind", "field"), [("step_breakdown", "step_time_s"), ("stall_breakdown", "kernel_time_s")])
def test_lines_behind_stacked_bars_end_where_the_time_may(drawn, kind, field) -> None:
    item = drawn[kind]
    known = ends_of(item.rows, (field,))
    assert known
    for (low, high), (low_s, high_s) in zip(bars_of(item), known, strict=True):
        # Beyond the panel an arrow stands in place of the end, and words say it.
        assert high / low == pytest.approx(high_s / low_s) or (high < low * high_s / low_s and high == 1.12)


def test_the_ends_are_those_of_the_records(ranged, drawn) -> None:
    for chip in ("groq-lpu", "sambanova-sn40l", "tpu-v5e", "h100-sxm"):
        record = decode_step(chip, "llama-2-70b", attention="gqa-8", batch=16, kv_len=8192,
                             chips=next(int(row["chips"]) for row in drawn["separate_causes"].rows
                                        if row["hardware"] == chip), fields=[*FIELDS, *LIKELY_FIELDS])
        for kind, fields in {"separate_causes": ("speedup_vs_mha",), "both_metrics": ("speedup_vs_mha",),
                             "grouping_law": ("speedup_vs_mha",), "step_breakdown": ("step_time_s",),
                             "energy_cost": ("cost_usd_per_mtok", "owned_usd_per_mtok")}.items():
            rows = [row for row in drawn[kind].rows if row["hardware"] == chip and row["attention"] == "gqa-8"
                    and row.get("speedup_vs_mha", 0.0) is not None and row.get("from") != "measured"]
            assert rows
            of = "_90" if kind in BOUNDED else ""
            for name in (f"{field}_{end}{of}" for field in fields for end in ("low", "high")):
                expected = float(np.ravel(record[name])[0])
                for row in rows:
                    if row[name] is None or np.isnan(expected):
                        assert row[name] is None
                        assert np.isnan(expected)
                    else:
                        assert row[name] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", MARKED)
def test_marks_of_a_calibrated_chip_are_filled_and_those_of_an_assumed_one_hollow(drawn, styles, kind) -> None:
    seen = set()
    for chip, style in styles.items():
        marks = [line for axes in drawn[kind].figure.axes for line in axes.lines
                 if line.get_color() == style.colour and line.get_label() != RANGE
                 and line.get_marker() in ("o", "s", "^", "v", "D", style.marker)]
        for mark in marks:
            seen.add(chip)
            assert (mark.get_markerfacecolor() in (PAPER, "none")) == (chip != "h100-sxm"), (chip, mark)
            assert style.assumed == (chip != "h100-sxm")
    assert {"h100-sxm", "tpu-v5e"} <= seen


@pytest.mark.parametrize("kind", TITLED)
def test_titles_carry_the_mark_of_their_chip(ranged, drawn, styles, kind) -> None:
    words = "\n".join(text.get_text() for text in drawn[kind].figure.findobj(Text))
    request = next(request for request in ranged.figures if request.kind == kind)
    for chip in request.hardware:
        assert styles[chip.name].marked_label in words
        assert styles[chip.name].marked_label.startswith("●" if chip.name == "h100-sxm" else "○")


def test_the_bounds_of_the_whole_step_stand_in_its_cell(drawn) -> None:
    words = {text.get_text() for text in drawn["separate_causes"].figure.findobj(Text)}
    row = next(row for row in drawn["separate_causes"].rows if row["hardware"] == "tpu-v5e")
    assert f"{row['speedup_vs_mha_low_90']:.2f}"[:3] in {word[:3] for word in words if "–" in word}


def test_a_ringed_cell_is_one_whose_range_holds_ten_per_cent(ranged, drawn) -> None:
    item, request = drawn["advantage_heatmap"], next(one for one in ranged.figures if one.kind == "advantage_heatmap")
    rings = 0
    for chip, axes in zip(request.hardware, item.figure.axes, strict=False):
        ring, = (line for line in axes.lines if line.get_label() == RANGE)
        found = {(request.batch[int(y)], request.kv_len[int(x)]) for x, y in zip(*ring.get_data(), strict=True)}
        rows = [row for row in item.rows if row["hardware"] == chip.name]
        assert found == {(row["batch"], row["kv_len"]) for row in rows if row["speedup_vs_mha_low"] is not None
                         and row["speedup_vs_mha_low"] < 1.1 <= row["speedup_vs_mha_high"]}
        rings += len(found)
    assert rings
    assert "what is assumed decides" in item.finding


def test_the_roofs_of_an_assumed_chip_have_a_band(drawn) -> None:
    bands = [patch for patch in drawn["roofline"].figure.axes[0].collections if patch.get_label() == RANGE]
    assert len(bands) == 3


@pytest.mark.parametrize("kind", [*dict.fromkeys((*BARS, *MARKED, *TITLED))])
def test_captions_have_a_word_for_hollow_only_where_something_is_assumed(ranged, drawn, styles, kind) -> None:
    assert "○ some parameters are assumed" in drawn[kind].how_to_read
    request = next(request for request in ranged.figures if request.kind == kind)
    calibrated = replace(request, hardware=(load_hardware("h100-sxm"),))
    with house_style():
        item = FIGURES[kind](FigureContext(request=calibrated, styles=styles))
    assert "are assumed" not in item.how_to_read
    assert ("90 % bounds" in item.how_to_read) == (kind in BOUNDED)
    if kind in BOUNDED:
        assert kind == "separate_causes" or bars_of(item)  # which has its bounds in words
        return
    assert not bars_of(item)
    assert not any(line.get_label() == RANGE and len(line.get_xdata()) for line in item.figure.findobj(Line2D))


def test_ideal_values_have_no_range_and_are_hollow() -> None:
    chip = load_hardware("groq-lpu", assume="ideal")
    assert chip_styles([chip], {})["groq-lpu"].mark(3.0)["markerfacecolor"] == PAPER
    assert "ideal values" in caption([chip], "bars")


def test_a_stack_s_factors_have_the_range_of_their_times(drawn) -> None:
    chip = load_hardware("sambanova-sn40l")
    rows = [row for row in drawn["stacking"].rows if row["hardware"] == chip.name]
    for row in rows:
        assert row["step_speedup_low"] <= row["step_speedup"] <= row["step_speedup_high"]
        assert row["attention_speedup_low"] <= row["attention_speedup"] <= row["attention_speedup_high"]
    assert rows[0]["step_speedup_low"] == rows[0]["step_speedup_high"] == 1.0
    assert rows[2]["attention_speedup_low"] < 0.9 * rows[2]["attention_speedup"]
    # The second rung changes the layout alone: its factor is the record's speedup over MHA.
    record = decode_step(chip.name, "llama-2-70b", attention="gqa-8", batch=16, kv_len=8192, chips=int(rows[1]["chips"]))
    for end in ("low", "high"):
        assert rows[1][f"step_speedup_{end}"] == pytest.approx(float(np.ravel(record[f"speedup_vs_mha_{end}"])[0]))
    calibrated = stack(load_hardware("h100-sxm"), load_model("llama-2-70b"), ["mha", "gqa-8"], batch=1, kv_len=4096)
    assert np.isnan(calibrated["step_speedup_low"]).all()
