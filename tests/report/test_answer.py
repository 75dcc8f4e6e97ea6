"""The answer at the head of a page: its numbers are the records', its verdicts follow from them, its links lead somewhere."""

import csv
import re
from dataclasses import replace

import pytest

from simkit.report.answer import PAYS, answer
from simkit.report.drawing.style import times


@pytest.fixture(scope="module")
def records(report):
    def value(text):
        try:
            return float(text)
        except ValueError:
            return {"": None, "true": True, "false": False}.get(text, text)

    with (report / "data" / "records.csv").open(encoding="utf-8", newline="") as stream:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(stream)]


def test_it_says_what_the_records_at_the_study_s_point_say(study, records, report):
    bounds = {"h100-sxm": (1.2, 2.6), "groq-lpu": (0.8, 1.05)}
    said = [one.text for one in answer(study, records, lambda chip, _: bounds.get(chip, (0.9, 1.3)))]
    point = {row["hardware"]: row for row in records
             if (row["attention"], row["batch"], row["kv_len"]) == ("gqa-8", 32, 4096) and row["speedup_vs_mha"]}
    paying = [row["speedup_vs_mha"] for row in point.values() if row["speedup_vs_mha"] >= PAYS]
    assert f"on {len(paying)} of {len(point)} chips" in said[0]
    assert "GQA-8 surely pays (10 % or more) on H100 (1.20× to 2.6×)" in said[2]
    assert "surely does not on Groq <i>LPU</i> (0.80× to 1.05×); either answer is within the bounds on " in said[2]
    for gain in (min(paying), max(paying)):
        assert times(gain) in said[0]
    assert "l40s cannot hold MHA" in said[3]
    page = (report / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="#(figure-[\w-]+)">Figure (\d+)</a>', page)
    assert len(links) == len(said) == 5
    assert all(f'id="{name}"' in page and study.figures[int(number) - 1].name == name.removeprefix("figure-")
               for name, number in links)


@pytest.mark.parametrize(("gain", "first", "last"), [
    (3.0, "on 1 of 1 chips, by 3.0× (H100)", "changes on H100 (1.05× at batch 1, 1,024 tokens, where MHA's attention waits for hbm)"),
    (1.01, "nowhere makes the whole step a tenth faster", "At no other batch and context")])
def test_the_verdict_turns_with_the_gain(study, gain, first, last):
    def row(layout, batch, kv_len, gain):
        return {"model": "llama-2-70b", "hardware": "h100-sxm", "attention": layout, "batch": batch, "kv_len": kv_len, "fits": True,
                "speedup_vs_mha": gain, "attention_time_s": 1.0, "step_time_s": 2.0, "bound": "hbm", "attention_bound": "hbm", "max_batch": 8.0}

    made = [row(layout, *at) for layout in ("mha", "gqa-8") for at in ((32, 4096, gain), (1, 1024, 1.05))]
    said = answer(study, made, lambda *_: None)
    assert first in said[0].text
    assert last in said[-1].text
    assert not answer(replace(study, layouts=("mha",)), made, lambda *_: None)
