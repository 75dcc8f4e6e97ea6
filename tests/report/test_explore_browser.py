"""The part of the page that answers back, used as a person would: every control, links, the back button, print, saving."""

import csv
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from simkit.commands.main import main
from simkit.report.build import build_report
from simkit.report.explore import STATED_ERROR
from simkit.study.evaluate import evaluate_group
from simkit.study.vary import faster_memory


@pytest.fixture(scope="module")
def report(study, tmp_path_factory) -> Path:
    """A page of one figure: what is asked here needs no more."""
    folder = tmp_path_factory.mktemp("asked") / "small"
    build_report(replace(study, figures=study.figures[:1]), folder, command="simkit report small.yaml")
    return folder


def said(page) -> str:
    return page.locator("#explore-said").inner_text()


def test_between_computed_contexts_the_page_is_as_near_the_engine_as_it_says(opened, study) -> None:
    page, rng = opened(), np.random.default_rng(21)
    data = page.evaluate("explore.data")
    errors = []
    for chip, profile in enumerate(study.hardware):
        for layout, name in enumerate(one["name"] for one in data["layouts"]):
            contexts = np.exp(rng.uniform(np.log(data["contexts"][0]), np.log(data["contexts"][-1]), 60)).round()
            places = rng.integers(0, len(data["batches"]), 60), rng.integers(0, len(data["factors"]), 60)
            shown = page.evaluate("points => points.map(one => { const at = explore.at(...one);"
                                  " return [at.step, at.attention, at.context]; })",
                                  [[chip, layout, int(b), float(s), int(f)]
                                   for b, s, f in zip(places[0], contexts, places[1], strict=True)])
            step, attention, context = np.array(shown, dtype=float).T
            found = evaluate_group(
                faster_memory(profile, np.take(data["factors"], places[1])), study.models[0], name,
                rivals=study.layouts, batch=np.take(data["batches"], places[0]), kv_len=context, q_len=np.ones(60),
                chips=data["chips"][chip]["chips"], baseline=False).columns
            assert (np.isfinite(step) == found["fits"]).all()
            errors += [np.abs(step / found["step_time_s"] - 1), np.abs(attention - found["attention_time_s"]) / found["step_time_s"]]
            assert np.abs(np.log(context / contexts)).max() < 0.1  # the nearest of four nodes an octave
    every = np.concatenate(errors)
    assert np.nanmax(every) < STATED_ERROR


def test_every_control_redraws_figures_table_sentence_and_command(opened) -> None:
    page = opened()

    def state() -> tuple[str, ...]:
        return (said(page), page.locator("#explore-law").inner_html(), page.locator("#explore-body").inner_html(),
                page.locator("#explore-commands").inner_text())

    seen = [state()]

    def changed(*, by) -> None:
        by()
        now = state()
        assert [new != old for new, old in zip(now[1:], seen[-1][1:], strict=True)] == [True] * 3
        seen.append(now)

    changed(by=lambda: page.get_by_role("checkbox", name="H100").uncheck())
    changed(by=lambda: page.get_by_role("checkbox", name="MQA").uncheck())
    for name, key in (("batch", "ArrowLeft"), ("context", "ArrowRight"), ("bandwidth", "ArrowRight")):
        def press(name: str = name, key: str = key) -> None:
            page.locator(f"#explore-{name}").focus()
            page.keyboard.press(key)

        changed(by=press)
        assert page.locator(f"#explore-{name}").get_attribute("aria-valuetext")
    page.get_by_label("tokens/s, each layout").check()
    assert "each at its own batch" in said(page)
    assert page.locator("#explore-law").inner_html() != seen[-1][1]
    assert "--own-batch" in page.locator("#explore-commands").inner_text()
    page.get_by_role("checkbox", name="H100").check()  # of the others no price has a source
    page.get_by_label("dollars a million").check()
    assert "cost $" in said(page)
    assert page.locator("#explore-roofline").inner_html() != ""
    page.get_by_role("button", name="Back to the study's point").click()
    assert state() == seen[0]
    for box in page.locator("#explore-chips input").all():
        box.uncheck()
    assert said(page) == "Choose at least one chip and one layout."
    assert page.said == []


def test_the_back_button_and_a_link_keep_the_choice(opened) -> None:
    page = opened()
    first = said(page)
    page.get_by_label("step at the same batch").check()  # no change: nothing to go back to
    page.get_by_label("tokens/s, each layout").check()
    page.get_by_role("checkbox", name="H100").uncheck()
    second, link = said(page), page.url
    page.go_back()
    assert page.get_by_role("checkbox", name="H100").is_checked()
    page.go_back()
    assert said(page) == first
    page.go_forward()
    page.go_forward()
    assert said(page) == second
    other = opened()
    other.goto("about:blank")
    other.goto(link)
    assert said(other) == second
    assert not other.get_by_role("checkbox", name="H100").is_checked()


@pytest.mark.parametrize("fragment", [
    "#ask&chips=<img src=x onerror=alert(1)>&layouts=<b>&batch=<script>&context=1e9&bandwidth=-1&metric=__proto__",
    "#ask&chips=%3Cimg%20src=x%20onerror=alert(1)%3E", "#ask&context=NaN&batch=Infinity", "#ask&%", "#figure-roofline"])
def test_a_made_up_address_changes_nothing_and_injects_nothing(opened, fragment) -> None:
    page = opened()
    images, first = page.locator("img").count(), page.locator("#explore-context-text").inner_text()
    page.goto(page.url + fragment)
    page.reload()
    assert page.locator("img").count() == images
    assert page.locator("#explore-context-text").inner_text() == first
    assert page.said == []


def test_texts_of_a_study_stay_texts(opened) -> None:
    page = opened()
    assert page.locator("#explore i, #explore u").count() == 0
    assert "Groq <i>LPU</i>" in page.locator("#explore-chips").inner_text()


@pytest.mark.parametrize(("bandwidth", "metric"), [(1, "same"), (4, "same"), (1, "own")])
def test_the_command_gives_the_numbers_of_the_table(opened, bandwidth, metric) -> None:
    page = opened()
    page.goto(f"{page.url}#ask&chips=h100-sxm,groq-lpu,sambanova-sn40l&layouts=gqa-8&batch=32&context=4096"
              f"&bandwidth={bandwidth}&metric={metric}")
    page.reload()
    rows = {(row["hardware"], row["attention"]): row
            for row in csv.DictReader(io.StringIO(page.evaluate("explore.csvText(explore.read(location.hash))")))}
    commands = page.locator("#explore-commands").inner_text().splitlines()
    assert len(commands) == 3
    assert ("memory.ddr.capacity" in commands[2]) == (metric == "own")  # an overflow tier is no room for a batch
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "simkit"
        found = json.loads(CliRunner().invoke(main, [*words[1:], "--format", "json"], standalone_mode=False).stdout)
        for record in found:
            shown = rows[record["hardware"], record["attention"]]
            names = ("step_time_s", "speedup_vs_mha") if metric == "same" else ("own_batch", "own_batch_tokens_per_s")
            for name in names:
                assert float(shown[name]) == pytest.approx(record[name], rel=STATED_ERROR)


def test_table_and_figures_are_saved(opened) -> None:
    page = opened()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    text = download.value.path().read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == page.locator("#explore-body tr").count()
    assert {row["model"] for row in rows} == {"llama-2-70b"}
    buttons = page.locator("#explore-figures button")
    assert buttons.count() == 3
    for button in buttons.all():
        with page.expect_download() as download:
            button.click()
        drawn = download.value.path().read_text(encoding="utf-8")
        assert "var(" not in drawn
        assert ET.fromstring(drawn).tag.endswith("svg")


def test_the_part_is_named_for_who_does_not_see_it(opened) -> None:
    page = opened()
    for svg in page.locator("#explore-figures svg").all():
        assert svg.get_attribute("role") == "img"
        assert len(svg.get_attribute("aria-label")) > 40
    assert page.locator("#explore-said").get_attribute("aria-live") == "polite"
    for control in page.locator("#explore-form input").all():
        assert control.evaluate("one => one.labels.length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_runs_out_of_the_page(opened, scheme) -> None:
    page = opened(360, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator("#explore-form input[type=range]").all():
        assert control.bounding_box()["height"] >= 24  # the least target of WCAG 2.2, criterion 2.5.8


def test_no_label_of_a_figure_lies_on_another(opened) -> None:
    page = opened()
    boxes = page.evaluate("[...document.querySelectorAll('#explore-figures svg')].map(svg => [...svg.querySelectorAll("
                          "'text')].map(text => { const box = text.getBBox(); return [box.x, box.y, box.width,"
                          " box.height, text.textContent]; }))")
    for figure in boxes:
        for number, (x, y, width, height, text) in enumerate(figure):
            for other_x, other_y, other_width, other_height, other in figure[number + 1:]:
                # Boxes are a font's height, some points more than its letters.
                apart = (x + width <= other_x or other_x + other_width <= x
                         or abs(y + height / 2 - other_y - other_height / 2) > 0.6 * min(height, other_height))
                assert apart, (text, other)


def test_print_shows_the_choice_without_its_controls(opened) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator("#explore-form").is_visible()
    assert page.locator("#explore-law svg").is_visible()
    assert page.locator("#explore-body tr").count() > 0
