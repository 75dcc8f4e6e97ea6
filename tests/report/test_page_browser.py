"""The page in a real browser: loads without errors, shows every figure, sorts, and fits a phone.

Needs Chromium (Debian and Ubuntu: apt-get install chromium) on the PATH, or its path in SIMKIT_CHROMIUM; where there is
none, conftest.py leaves this file out and the head of the run says so. CI installs it.
"""

import pytest


def test_the_page_loads_offline_without_a_word_in_the_console(opened) -> None:
    page = opened()
    assert page.said == []
    assert page.title() == "A <b>small</b> study & its title"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_visible_and_described(opened, study, scheme) -> None:
    page = opened(scheme=scheme)
    plots = page.locator("figure svg.plot").all()
    assert len(plots) == len(study.figures)
    for plot in plots:
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert plot.is_visible()
        assert box["width"] > 250
        assert box["height"] > 120
        assert plot.get_attribute("role") == "img"
        assert len(plot.get_attribute("aria-label")) > 40
    assert page.locator("img:not([alt])").count() == 0


def test_every_figure_has_ink_on_paper_in_both_schemes(opened) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page = opened(scheme=scheme)
        seen[scheme] = page.evaluate(
            "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
            " getComputedStyle(document.querySelector('#figure-roofline svg text, #figure-roofline svg path')).fill]")
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] == "rgb(20, 24, 29)"
    assert seen["light"][1] != seen["dark"][1]
    # The figure's own paper follows: the first path of Matplotlib's SVG is the background.
    assert seen["light"][2] == "rgb(255, 255, 255)"
    assert seen["dark"][2] == "rgb(20, 24, 29)"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_there_is_no_horizontal_scroll(opened, width) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_table_sorts_by_number_both_ways_with_the_unknown_last(opened) -> None:
    page = opened()
    table = page.locator("#table-results-llama-2-70b")
    heading = table.locator("thead button", has_text="step vs MHA")
    column = table.locator("thead button").all_inner_texts().index("step vs MHA")

    def values() -> list[str]:
        return [row.locator("td").nth(column).get_attribute("data-value") for row in table.locator("tbody tr").all()]

    before = values()
    heading.click()
    up = values()
    heading.click()
    down = values()
    known = [float(value) for value in up if value]
    assert sorted(before) == sorted(up) == sorted(down)
    assert "" in before  # MHA does not fit on L40S
    assert known == sorted(known)
    assert [float(value) for value in down if value] == sorted(known, reverse=True)
    assert up[-1] == down[-1] == ""
    assert table.locator("thead th").nth(column).get_attribute("aria-sort") == "descending"


def test_a_table_sorts_by_name_and_by_keyboard(opened) -> None:
    page = opened()
    table = page.locator("#table-hardware")
    table.locator("thead button").first.focus()
    page.keyboard.press("Enter")
    names = [row.locator("td").first.inner_text() for row in table.locator("tbody tr").all()]
    assert names == sorted(names, key=str.lower)


def test_every_link_of_the_contents_leads_somewhere(opened) -> None:
    page = opened()
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


def test_the_page_prints_each_chip_s_documents_in_place_of_its_folded_table(opened) -> None:
    page = opened()
    folded = page.locator("details")
    page.emulate_media(media="print")
    assert not any(item.is_visible() for item in folded.all())
    assert sum(item.is_visible() for item in page.locator(".printed").all()) == folded.count() + 1
    assert len(page.pdf()) > 50_000
    page.emulate_media(media="screen")
    assert not page.locator(".printed").first.is_visible()
