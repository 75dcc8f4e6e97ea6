"""Silicon, watts and dollars of a chip: published dies come back, more of anything takes more, and what the model misses."""

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.parameters import with_parameter
from simkit.hardware.silicon import HIGH, LOW, checked_dies, silicon_constants, silicon_model


@pytest.mark.parametrize("name", ["h100-sxm", "groq-lpu", "cerebras-wse3"])
def test_a_chip_with_a_published_die_has_its_silicon(name):
    chip = load_hardware(name)
    for end in (LOW, HIGH):
        assert silicon_model(chip).mm2(chip, end) == pytest.approx(silicon_constants()["dies"][name]["mm2"], rel=1e-9)


@pytest.mark.parametrize(("key", "value"), [
    ("memory.hbm.bandwidth", 3.352e12), ("memory.l2.capacity", 5e7), ("compute.matrix.peak.bf16", 989.4e12),
    ("links.scale_up.bandwidth", 315e9), ("memory.hbm.capacity", 8e10)])
def test_more_of_anything_never_takes_less_silicon_power_or_money(key, value):
    base = load_hardware("h100-sxm")
    model, chip = silicon_model(base), with_parameter(base, key, value * np.geomspace(0.1, 30.0, 40))
    for measure in (model.mm2, model.watts, model.made_usd):
        found = np.broadcast_to(measure(chip), 40)
        assert np.all(np.diff(found) >= -1e-9 * found[1:]), key
        assert np.all(found > 0)


def test_more_stacks_take_what_an_interface_takes():
    """HBM's PHY does not shrink and its controller does: LLMCompass, 10.45 mm2 and 552.7 M transistors a stack."""
    base = load_hardware("h100-sxm")
    model = silicon_model(base)
    twice = with_parameter(base, "memory.hbm.bandwidth", 2 * base.main_memory.bandwidth_bytes_per_s)
    assert model.mm2(twice) - model.mm2(base) == pytest.approx(5 * (10.45 + 552.7 / 138.2))


def test_a_smaller_process_takes_less_silicon():
    base = load_hardware("h100-sxm")
    areas = [silicon_model(base, node).mm2(base) for node in ("n16", "n7", "n5", "n3", "n2")]
    assert areas == sorted(areas, reverse=True)
    assert areas[2] == pytest.approx(814.0)


def test_published_dies_are_predicted_from_the_others_within_what_is_said():
    """Leave one out: the geometric mean error of silicon is 1.5, of power limits 1.7; no die is beyond a factor of 2.5."""
    records = checked_dies()
    far = np.abs(np.log([one["mm2_ratio"] for one in records]))
    assert np.exp(far.mean()) == pytest.approx(1.5, abs=0.1)
    assert np.exp(far.max()) < 2.5
    within = [one["mm2_low"] <= one["published_mm2"] <= one["mm2_high"] for one in records]
    assert sum(within) >= 10
    power = np.abs(np.log([one["power_ratio"] for one in records if one["power_ratio"]]))
    assert np.exp(np.median(power)) < 1.4


def test_a_price_is_the_chip_s_own_by_what_both_take_to_make():
    base = load_hardware("h100-sxm")
    model = silicon_model(base)
    assert model.price_usd(base) == pytest.approx(30678.0)
    more = with_parameter(base, "memory.hbm.capacity", 2 * base.main_memory.capacity_bytes)
    assert model.price_usd(more) / model.price_usd(base) == pytest.approx(model.made_usd(more) / model.made_usd(base))
    assert np.isnan(silicon_model(load_hardware("a100-sxm-80gb")).price_usd(load_hardware("a100-sxm-80gb")))


def test_a_die_that_nobody_published_asks_for_its_process():
    with pytest.raises(UserError, match="no source gives its die"):
        silicon_model(load_hardware("b200-sxm"))
    with pytest.raises(UserError, match="expected one of n16, n7"):
        silicon_model(load_hardware("b200-sxm"), "5nm")
    assert silicon_model(load_hardware("b200-sxm"), "n5").mm2(load_hardware("b200-sxm")) > 0


def test_every_figure_of_silicon_has_its_source():
    named, document = set(silicon_constants()["sources"]), silicon_constants()
    single = [document[name] for name in document if isinstance(document[name], dict) and "value" in document[name]]
    for entry in [*document["nodes"].values(), *document["dram"].values(), *document["dies"].values(), *single]:
        sources = entry["source"] if isinstance(entry["source"], list) else [entry["source"]]
        assert all(source in named or len(source) > 15 for source in sources), entry
