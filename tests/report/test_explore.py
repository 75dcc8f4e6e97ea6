"""The grid that the page looks up: what is packed is what the engine says, and texts cannot leave their script element."""

import base64
import json

import numpy as np
import pytest

from simkit.report.drawing.style import chip_styles
from simkit.report.explore import LEAST, MOST, explorer
from simkit.study.evaluate import evaluate_group
from simkit.study.vary import faster_memory

HALF_A_STEP = 0.5 * np.log(MOST / LEAST) / 65534


@pytest.fixture(scope="module")
def text(study) -> str:
    return explorer(study, chip_styles(study.hardware, study.labels), "simkit report x.yaml --set a.b='1 B/s'")


def test_a_packed_time_is_the_engines(study, text) -> None:
    data = json.loads(text)
    packed = np.frombuffer(base64.b64decode(data["times"]), dtype="<u2").reshape(
        len(data["chips"]), len(data["layouts"]), 2, len(data["batches"]), len(data["contexts"]), len(data["factors"]))
    chip, layout = 2, 1
    batch, kv_len, factor = np.meshgrid(data["batches"], data["contexts"], data["factors"], indexing="ij")
    found = evaluate_group(
        faster_memory(study.hardware[chip], factor.ravel()), study.models[0], data["layouts"][layout]["name"],
        rivals=study.layouts, batch=batch.ravel(), kv_len=kv_len.ravel(), q_len=np.ones(batch.size),
        chips=data["chips"][chip]["chips"], baseline=False)
    times = packed[chip, layout]
    shown = np.where(times > 0, LEAST * (MOST / LEAST) ** ((times.astype(float) - 1) / 65534), np.nan)
    for place, name in enumerate(("step_time_s", "attention_time_s")):
        # 1.01: the last bits of logarithms.
        assert np.log(shown[place]) == pytest.approx(
            np.log(found.columns[name].reshape(batch.shape)), abs=1.01 * HALF_A_STEP, nan_ok=True)


def test_the_parts_of_a_step_are_no_more_than_the_step(text) -> None:
    data = json.loads(text)
    shares = np.frombuffer(base64.b64decode(data["shares"]), dtype="u1").reshape(
        len(data["chips"]), len(data["layouts"]), len(data["parts"]) - 1, -1)
    # Five roundings of half a step of 1/255; the sixth part is what is left.
    assert shares.sum(axis=2, dtype=int).max() <= 255 + 3


def test_no_text_of_a_study_can_end_the_scripts_data(text) -> None:
    assert "<" not in text
    assert json.loads(text)["chips"][1]["label"] == "Groq <i>LPU</i>"


def test_what_the_report_was_asked_with_stands_in_the_pages_commands(text) -> None:
    assert json.loads(text)["options"] == "--set 'a.b=1 B/s'"


def test_a_study_without_mha_has_nothing_to_ask(study) -> None:
    from dataclasses import replace

    assert explorer(replace(study, layouts=("gqa-8", "mqa")), {}, "simkit report") is None
