"""Rent, bought chips and energy side by side; what is not known is named by its key in the profile."""

from dataclasses import replace

import pytest

from simkit.report.drawing.drawn_figure import FigureContext
from simkit.report.drawing.style import chip_styles, house_style
from simkit.report.figures import energy_cost


def drawn(study, **changes):
    request = next(request for request in study.figures if request.kind == "energy_cost")
    with house_style():
        return energy_cost.draw(FigureContext(request=replace(request, **changes),
                                              styles=chip_styles(study.hardware, study.labels)))


@pytest.fixture(scope="module")
def item(study):
    return drawn(study)


def test_bought_chips_stand_beside_rented_ones_on_one_scale(item) -> None:
    titles = {axes.get_xlabel(): axes for axes in item.figure.axes}
    rented, bought = (titles[f"US dollars a million tokens, {word}"] for word in ("rented", "bought"))
    assert rented.get_xlim() == bought.get_xlim()
    assert any("Groq" in label.get_text() for label in bought.get_yticklabels())
    assert not any("Groq" in label.get_text() for label in rented.get_yticklabels())


def test_a_bought_chip_costs_its_price_over_its_hours_and_its_power(study, item) -> None:
    # 4 years of 8766 h, of which it serves 60 %; 0.1 dollars a kWh: the defaults that the caption names.
    chips = {chip.name: chip for chip in study.hardware}
    rented, bought = [], []
    for row in item.rows:
        chip = chips[row["hardware"]]
        if chip.price.purchase_usd is not None and chip.price.usd_per_hour is not None:
            per_hour = chip.price.purchase_usd / (4 * 8766 * 0.6) + chip.power.tdp_w / 1e3 * 0.1
            rented.append(row["cost_usd_per_mtok"] / chip.price.usd_per_hour)
            bought.append(row["owned_usd_per_mtok"] / per_hour)
    assert rented
    assert bought == pytest.approx(rented, rel=1e-9)
    assert "over 4 years of which they serve 60%" in item.how_to_read


def test_the_page_names_the_keys_without_which_a_cost_is_unknown(item) -> None:
    reasons = {(one.chip, one.reason) for one in item.omissions}
    assert ("groq-lpu", "no rent: no source gives price.per_hour") in reasons
    assert ("sambanova-sn40l", "no energy: no source gives power.idle and power.flop_energy") in reasons
    assert not any(chip == "h100-sxm" for chip, _ in reasons)


def test_chips_that_hold_no_mha_are_not_said_to_have_no_price(study) -> None:
    # One H100 has a price; it has no room for the model.
    item = drawn(study, chips=1, hardware=tuple(chip for chip in study.hardware if chip.name == "h100-sxm"))
    assert {one.reason for one in item.omissions} == {
        f"{layout} at batch 32 does not fit on 1 chip" for layout in ("MHA", "GQA-8", "MQA")}
    assert "0 of these chips hold both MHA and GQA-8" in item.finding


def test_a_layout_that_costs_more_is_not_said_to_save(study) -> None:
    # Told the other way round, MQA first: MHA then takes more, and the sentence is as true.
    finding = drawn(study, layouts=("mqa", "mha")).finding
    assert "MQA takes 0." in finding
    assert "divides" not in finding
