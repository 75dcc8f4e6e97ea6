"""What a KV head costs, and what its copies buy: parts add up, and every point drawn fits."""

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.style import chip_styles
from simkit.report.figures import head_copies, kv_head_cost
from simkit.study.study_file import load_study

STUDY = """schema_version: 1
name: heads
title: Heads
question: What does a head cost?
hardware: [h100-sxm, groq-lpu, cerebras-wse2]
models: [llama-2-7b]
layouts: [mha, gqa-8, mqa]
batch: [4]
kv_len: [4k]
focus: {batch: 4, kv_len: 4k}
figures:
  - {kind: kv_head_cost, beside: replay}
  - {kind: head_copies}
"""


def drawn(folder, number, draw, text=STUDY):
    file = folder / "heads.yaml"
    file.write_text(text)
    study = load_study(file)
    return draw(FigureContext(request=study.figures[number], styles=chip_styles(study.hardware, {})))


def test_causes_add_up_to_what_a_head_costs_and_tiles_are_replayed(tmp_path):
    figure = drawn(tmp_path, 0, kv_head_cost.draw)
    rows = {row["hardware"]: row for row in figure.rows}
    for row in rows.values():
        parts = sum(value for name, value in row.items() if name.endswith("_time_s") and not name.startswith("kv_head"))
        assert parts == pytest.approx(row["kv_head_time_s"], rel=1e-6)
    assert {name: row["from"] for name, row in rows.items()} == {
        "h100-sxm": "roofline", "groq-lpu": "replay", "cerebras-wse2": "replay"}
    # Four sequences of 4096 tokens, K and V of 128 elements in 16 bits, 32 layers.
    assert rows["h100-sxm"]["kv_head_bytes"] == pytest.approx(4 * 4096 * 2 * 128 * 2 * 32)
    # A GPU reads a head's cache from HBM; on a wafer more heads are faster.
    read_s = rows["h100-sxm"]["kv_head_bytes"] / load_hardware("h100-sxm").main_memory.achievable_bytes_per_s
    assert read_s < rows["h100-sxm"]["cache_time_s"] < 2 * read_s
    assert rows["cerebras-wse2"]["kv_head_time_s"] < 0 < rows["h100-sxm"]["kv_head_time_s"]
    assert "where more heads are faster" in figure.finding


def test_copies_and_what_they_copy_fit_the_memory(tmp_path):
    figure = drawn(tmp_path, 1, head_copies.draw, STUDY + "engine: spatial\n")
    room = load_hardware("cerebras-wse2").main_memory.usable_bytes - 2 * 6.6e9  # beside the weights
    heads = {"mha": 32, "gqa-8": 8, "mqa": 1}
    for row in figure.rows:
        cache = row["batch"] * 4096 * 2 * 128 * 2 * 32 * heads[row["attention"]]
        assert row["head_copies"] * cache < room
    held = {name: max(row["batch"] for row in figure.rows if row["attention"] == name) for name in heads}
    assert held["mha"] < held["gqa-8"] < held["mqa"]
    few = [row["attention_s_a_layer"] for row in figure.rows if row["attention"] == "mqa"]
    assert few[-1] >= few[0]
    assert np.isfinite(few).all()
