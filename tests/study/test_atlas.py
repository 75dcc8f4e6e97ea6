"""The atlas of attention: laws of where a kind pays, and the shipped table's rows against the engines."""

import csv
from pathlib import Path

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.study.atlas import CONTEXTS, atlas, kinds, pays_from, plain, stops_at
from simkit.study.study_file import load_study

SHIPPED = Path(__file__).parents[2] / "docs" / "figures" / "attention_atlas.csv"
POINT = {"batch": 32.0, "kv_len": 32768.0, "kv_dtype": "bf16", "weight_dtype": "fp8"}


def row(name, chip="groq-lpu", **changes):
    asked = next(kind for kind in kinds() if kind["kind"] == name) | changes
    return atlas([load_hardware(chip)], asked=[asked], **POINT)[0]


def test_a_kind_pays_from_where_it_goes_on_paying_and_stops_where_it_first_does_not():
    values, nan, inf = np.array([1.0, 2.0, 4.0, 8.0]), np.nan, np.inf
    for advantage, since in (([2, 2, 2, 2], 1), ([1, 2, 1, 2], 8), ([2, 2, 2, 1], inf), ([1, 2, 2, nan], 2), ([1, inf, nan, nan], 2)):
        assert pays_from(values, np.array(advantage, float)) == since
    for advantage, until in (([2, 2, 1, 2], 4), ([2, 2, 2, nan], inf), ([1, 1, 1, 1], 1)):
        assert stops_at(values, np.array(advantage, float)) == until
    assert np.isnan(pays_from(values, np.full(4, nan)))
    assert np.isnan(stops_at(values, np.full(4, nan)))


def test_the_plain_model_keeps_what_gqa_8_keeps_in_every_layer_that_attends():
    for name in ("kimi-k3", "nemotron-3-ultra", "deepseek-v4-pro"):
        model = load_model(name)
        layers = [(group.count, group.shape) for group in plain(model).layer_groups if group.attends]
        assert sum(count for count, _ in layers) == sum(group.count for group in model.attending_groups)
        assert {(shape.n_kv_heads, shape.head_dim, shape.state, shape.mla, shape.indexer) for _, shape in layers} == {
            (8, 128, None, None, None)}


def test_gqa_8_of_128_is_no_better_than_itself_and_mha_never_pays():
    same, mha, mqa = (row("MQA", layout=layout) for layout in ("gqa-8", "mha", "mqa"))
    assert same["advantage"] == pytest.approx(1.0, rel=1e-9)
    assert same["pays_from_kv_len"] == mha["pays_from_kv_len"] == np.inf
    assert mqa["advantage"] > 1.1 >= 1.0 / mqa["advantage"]
    assert mqa["stored_bytes_per_token"] * 8 == same["stored_bytes_per_token"]


def test_a_state_reads_no_more_of_a_longer_context_but_in_its_layers_with_heads():
    found = row("Mamba-2")
    grows = found["reads"] - found["reads"][0]
    assert grows[1:] / (CONTEXTS[1:] - CONTEXTS[0]) == pytest.approx(found["stored_bytes_per_token"], rel=1e-9)


def test_a_chip_without_room_says_what_it_would_need_and_times_attention_alone():
    """The HBM-PIM board of 96 GB; Mistral-class MQA reads an eighth of GQA-8, where the arithmetic is the memory's own."""
    pim, card = row("MQA", "hbm-pim"), row("MQA", "apple-m3-max")
    for found in (pim, card):
        assert np.isnan(found["advantage"])
        assert "Llama 3.1 405B needs" in found["without_step"]
        assert "a system has 1" in found["without_step"]
        assert np.isnan(found["chips"])
    assert pim["attention_advantage"] < 1.1 < card["attention_advantage"] <= 8.0


def test_every_chip_of_the_catalogue_is_in_the_atlas_by_itself(tmp_path):
    mine = (Path(__file__).parents[2] / "hardware_profiles" / "groq-lpu.yaml").read_text(encoding="utf-8")
    (tmp_path / "my-chip.yaml").write_text(mine.replace("name: groq-lpu", "name: my-chip"), encoding="utf-8")
    figure = load_study("attention_atlas", profiles=tmp_path).figures[0]
    names = [chip.name for chip in figure.hardware]
    shipped = {file.stem for file in (Path(__file__).parents[2] / "hardware_profiles").glob("*.yaml")}
    assert len(names) == len(set(names))
    assert set(names) == shipped | {"my-chip"}


@pytest.mark.parametrize(("kind", "chip"), [("NSA", "groq-lpu"), ("DSA", "h100-sxm")])
def test_the_shipped_table_has_the_engines_numbers(kind, chip):
    rows = list(csv.DictReader(SHIPPED.read_text(encoding="utf-8").splitlines()))
    shipped = next(one for one in rows if (one["kind"], one["hardware"]) == (kind, chip))
    for name, value in row(kind, chip).items():
        if isinstance(value, float) and name in shipped:
            assert shipped[name] == "never" if np.isinf(value) else float(shipped[name] or "nan") == pytest.approx(
                value, rel=1e-10, nan_ok=True), name
