"""Each layout at its own largest batch: brute force over mappings, limits, and what a bought chip costs."""

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.model.attention import parse_layout
from simkit.step.machine import Machine
from simkit.step.sharding import ATTENTION_SHARDINGS
from simkit.study.engines import engine_named
from simkit.study.evaluate import Points
from simkit.study.own_batch import OWN_BATCH_FIELDS
from simkit.study.scenario import parse_scenario

CHIPS = ("h100-sxm", "groq-lpu", "cerebras-wse3", "sambanova-sn40l", "tpu-v6e")
NAMES = [*OWN_BATCH_FIELDS, "fits", "chips", "batch", "max_batch", "tokens_per_s", "step_time_s", "cost_usd_per_mtok"]


def step(chip, **words):
    return simkit.decode_step(chip, "llama-2-70b", **{"batch": 32, "kv_len": 4096, "fields": NAMES, **words})


# Whoever names SN40L's chips opens its overflow tier, which a fit leaves shut.
@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip != "sambanova-sn40l"])
@pytest.mark.parametrize("layout", ["mha", "gqa-8", "mqa"])
def test_the_own_batch_fits_and_no_mapping_holds_one_more(chip, layout):
    found = step(chip, attention=["mha", layout])
    chips, most = int(found["chips"][1]), float(found["own_batch"][1])
    full = step(chip, attention=layout, batch=most, chips=chips)
    assert full["fits"]
    np.testing.assert_allclose(full["step_time_s"], found["own_batch_step_time_s"][1], rtol=1e-12)
    np.testing.assert_allclose(full["tokens_per_s"], found["own_batch_tokens_per_s"][1], rtol=1e-12)
    assert not step(chip, attention=layout, batch=most + 1, chips=chips)["fits"]


@pytest.mark.parametrize("chip", ["sambanova-sn40l", "h100-sxm", "tpu-v6e"])
def test_both_metrics_are_of_the_largest_batches_that_pinned_mappings_hold(chip):
    """Brute force by halves over batches, in every mapping, the tiers that a fit leaves shut shut here too."""
    found = step(chip, attention=["mha", "gqa-8"])
    scenario, hardware, llama = parse_scenario(), simkit.load_hardware(chip), simkit.load_model("llama-2-70b")
    chips, rates = float(found["chips"][1]), []
    for row, name in enumerate(("mha", "gqa-8")):
        layout, best = parse_layout(name, llama), (0.0, np.inf)
        machines = [Machine(chips=chips, tp=tp, pp=chips / tp, mapping=mapping, overflow=False)
                    for tp in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0) if chips % tp == 0 and tp <= hardware.scale_up.max_chips
                    for mapping in ATTENTION_SHARDINGS]
        placed = {}

        def timed(batch, machine, layout=layout, placed=placed):
            if (batch, machine) not in placed:
                points = Points(hardware=hardware, model=llama, scenario=scenario, batch=batch, kv_len=4096.0, q_len=1.0,
                                engine=engine_named("roofline"))
                _, placement, timing = points.timed(layout, machine)
                placed[batch, machine] = float(timing.step_time_s) if placement.fits else np.inf
            return placed[batch, machine]

        for machine in machines:
            low, high = 0.0, 1.0
            while timed(high, machine) < np.inf:
                low, high = high, 2 * high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if timed(middle, machine) < np.inf else (low, middle)
            best = max(best, (low, 0.0), key=lambda one: one[0])
        most = best[0]
        rates.append(most / min(timed(most, machine) for machine in machines))
        assert found["own_batch"][row] == most > 0
    np.testing.assert_allclose(found["own_batch_tokens_per_s"], rates, rtol=1e-9)
    np.testing.assert_allclose(found["own_batch_tokens_per_s_vs_mha"][1], rates[1] / rates[0], rtol=1e-9)


def test_where_the_step_hardly_shortens_the_sequences_still_multiply():
    """The order of chips by the one metric is not that by the other."""
    gains = {chip: step(chip, attention=["mha", "gqa-8"], fields=["speedup_vs_mha", "own_batch_tokens_per_s_vs_mha"])
             for chip in ("h100-sxm", "groq-lpu")}
    same, own = ({chip: float(found[name][1]) for chip, found in gains.items()}
                 for name in ("speedup_vs_mha", "own_batch_tokens_per_s_vs_mha"))
    assert same["h100-sxm"] > 2
    assert same["groq-lpu"] < 1.03
    assert own["groq-lpu"] > own["h100-sxm"] > 6


def test_what_does_not_fit_has_no_own_batch():
    found = step("h100-sxm", attention=["mha"], chips=1, baseline=True)
    assert not found["fits"][0]
    assert found["own_batch"][0] == 0
    assert np.isnan(found["own_batch_tokens_per_s"][0])


def test_a_bought_chip_costs_its_price_over_its_hours_and_its_power():
    """30 678 dollars over 4 years at 60 %, and 700 W at 0.10 dollars a kWh, by hand: 1.458 + 0.07 dollars an hour."""
    found = simkit.decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=32, kv_len=4096, chips=8)
    per_hour = 30678 / (4 * 8766 * 0.6) + 0.7 * 0.1
    assert float(found["owned_usd_per_mtok"]) == pytest.approx(8 * per_hour / 3600 / float(found["tokens_per_s"]) * 1e6)
    assert str(found["unknown_costs"]) == ""
    longer = simkit.decode_step("h100-sxm", "llama-2-70b", attention="gqa-8", batch=32, kv_len=4096, chips=8,
                                owned="years=8,power=0")
    ratio = float(longer["owned_usd_per_mtok"] / found["owned_usd_per_mtok"])
    assert ratio == pytest.approx(30678 / (8 * 8766 * 0.6) / per_hour)


def test_a_cost_that_no_source_gives_is_unknown_and_says_which_keys_lack():
    found = simkit.decode_step("sambanova-sn40l", "llama-2-70b", attention="gqa-8", batch=1, kv_len=4096)
    assert np.isnan(found["owned_usd_per_mtok"])
    assert str(found["unknown_costs"]) == "price.per_hour; price.purchase; power.idle; power.flop_energy"


@pytest.mark.parametrize(("text", "says"), [
    ("years=0", "years 0: expected a number from 0.1 to 30"), ("month=3", "expected years=4"), ("years", "expected years=4"),
    ("power=cheap", "power cheap: expected a number"), ("years=2,years=3", "expected years=4")])
def test_mistakes_of_ownership_are_told(text, says):
    with pytest.raises(UserError, match=says):
        parse_scenario(owned=text)
