"""Ranges of times and ratios where parameters are assumed: brute force over corners and random points, monotonicity."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings

import simkit
from simkit.hardware.catalog import load_hardware
from simkit.hardware.parameters import with_assumed
from simkit.model.catalog import load_model
from simkit.study import ranges
from simkit.study.evaluate import evaluate_group
from simkit.study.record import FIELDS, RANGED
from tests.reference_data import shipped_chips

CHIPS = ("gaudi3", "tpu-v6e", "groq-lpu", "dmatrix-corsair", "sambanova-sn40l", "cerebras-wse3", "apple-m2-ultra")
SAMPLED = ("tpu-v5e", "gaudi3", "dmatrix-corsair", "groq-lpu", "sambanova-sn40l", "trainium2")
MODEL = "llama-3-8b"
GRID = {"attention": "gqa-8", "batch": [[1], [16], [64]], "kv_len": [256, 4096, 32768], "chips": "fit"}


def on_one_machine(chip, layout="gqa-8", *, baseline=False):
    """Estimates, and a function of a chip that times the same points on the machine of the estimates."""
    batch, kv_len = (np.ravel(values) for values in np.broadcast_arrays(GRID["batch"], GRID["kv_len"]))
    fresh = replace(load_hardware(chip))  # of which no other test has timed corners
    found = evaluate_group(fresh, load_model(MODEL), layout, rivals=[layout], batch=batch, kv_len=kv_len,
                           q_len=np.ones(9), baseline=baseline)

    def timed(corner, at=found):
        _, placement, timing = replace(found.points, hardware=corner).timed(at.layout, at.machine)
        return {name: np.where(placement.fits, getattr(timing, name), np.nan) for name in ranges.TIMES}

    return found, timed


def sampled(one, random):
    """A value within an assumed range: evenly by factors, of rows of a tile a power of two, of what starts from 0 evenly."""
    if one.key.endswith("tile_rows"):
        return float(random.choice([rows for rows in 2.0 ** np.arange(10) if one.fast <= rows <= one.slow]))
    share = random.random()
    return one.fast * (one.slow / one.fast) ** share if one.fast and one.slow else one.fast + (one.slow - one.fast) * share


# By how much a ratio within the box may lie outside its range, as ranges.py states it; else what is not combined.
STEP_SLACK = {"trainium2": 0.08, "groq-lpu": 0.08}
ATTENTION_SLACK = {"dmatrix-corsair": 0.25, "trainium2": 0.14, "groq-lpu": 0.4}


@pytest.mark.hypothesis  # python tools/check.py slow draws five times as many
@pytest.mark.parametrize("layout", ["gqa-8", "mqa"])
@pytest.mark.parametrize("chip", SAMPLED)
def test_a_random_point_of_the_assumed_box_lies_within_the_ranges(chip, layout):
    """Brute force over random machines: times are bounded, ratios up to the slack that ranges.py states."""
    found, timed = on_one_machine(chip, layout, baseline=True)
    random, columns = np.random.default_rng(17), found.columns
    for _ in range(settings.default.max_examples):
        corner = with_assumed(found.hardware, {one.key: sampled(one, random) for one in found.hardware.assumed})
        own, mha = timed(corner), timed(corner, at=found.mha)
        for name, ratio, slacks in (("step_time_s", "speedup_vs_mha", STEP_SLACK),
                                    ("attention_time_s", "attention_speedup_vs_mha", ATTENTION_SLACK)):
            assert not (columns[f"{name}_low"] > own[name] * (1 + 1e-9)).any()
            assert not (own[name] > columns[f"{name}_high"] * (1 + 1e-9)).any()
            gain, slack = mha[name] / own[name], 1 + slacks.get(chip, ranges.WORTH_COMBINING)
            assert not (columns[f"{ratio}_low"] > gain * slack).any()
            assert not (gain > columns[f"{ratio}_high"] * slack).any()


@pytest.mark.parametrize("chip", SAMPLED)
def test_both_ends_of_a_ratio_are_values_that_it_takes(chip, monkeypatch):
    """No wider than it has to be: machines within the box, timed one by one, reach both."""
    found, timed = on_one_machine(chip, "mqa", baseline=True)
    tried, timed_corners = [], ranges.timed_corners
    monkeypatch.setattr(ranges, "timed_corners", lambda *asked: tried.extend(asked[-1]) or timed_corners(*asked))
    low, high = found.columns["speedup_vs_mha_low"], found.columns["speedup_vs_mha_high"]
    boxes = {one.key: sorted((one.fast, one.slow)) for one in found.hardware.assumed}
    assert all(boxes[key][0] <= value <= boxes[key][1] for corner in tried for key, value in corner.items())
    gains = [timed(corner, at=found.mha)["step_time_s"] / timed(corner)["step_time_s"]
             for corner in (found.hardware, *(with_assumed(found.hardware, values) for values in tried))]
    np.testing.assert_allclose(np.min(gains, axis=0), low, rtol=1e-9)
    np.testing.assert_allclose(np.max(gains, axis=0), high, rtol=1e-9)


def test_the_combinations_of_a_box_stay_few():
    """All ends with all ends of the parameters that count most; a wide range is entered; never more than stated."""
    for chip in shipped_chips().values():
        few = chip.assumed[:ranges.MOST_COMBINED]
        combined = ranges.combinations(chip.assumed)
        assert len(combined) <= 3 * len(chip.assumed) + max(ranges.MOST_STEPS, 2**len(few))
        for ends in itertools.product(*((one.fast, one.slow) for one in few)):
            assert not few or dict(zip((one.key for one in few), ends, strict=True)) in combined
    lanes = [one for one in load_hardware("gaudi3").assumed if one.key == "compute.vector_peak"]
    assert len({corner[lanes[0].key] for corner in ranges.combinations(lanes)[3:]}) > 3  # of two orders of magnitude


@pytest.mark.hypothesis
@pytest.mark.parametrize("chip", [chip for chip in SAMPLED if chip != "groq-lpu"])
def test_a_parameter_moves_a_time_most_where_it_is_probed(chip):
    """What :mod:`ranges` rests on: the same move of a roof adds no more time where the other roofs are higher.

    Not on Groq: at 320 rows a tile its vector lanes multiply, and of tiles between its matrix unit does.
    """
    found, timed = on_one_machine(chip)
    random, assumed = np.random.default_rng(5), found.hardware.assumed
    for one, pair in zip(assumed, ranges.probes(found.hardware), strict=True):
        without, moved = (timed(with_assumed(found.hardware, values)) for values in pair)
        for _ in range(settings.default.max_examples // 4):
            elsewhere = {other.key: sampled(other, random) for other in assumed if other is not one}
            here, there = (timed(with_assumed(found.hardware, {**elsewhere, one.key: value}))
                           for value in (one.fast, one.slow))
            for name in ranges.TIMES:
                most = moved[name] - without[name]
                assert not (there[name] - here[name] > most + 1e-9 * here[name]).any(), one.key


@pytest.mark.parametrize("chip", CHIPS)
def test_every_corner_of_the_ranges_lies_between_the_bounds_of_the_time(chip):
    """Brute force: each assumed parameter at either end, in all combinations."""
    found, timed = on_one_machine(chip)
    hardware = found.hardware
    for ends in itertools.product(*((one.fast, one.slow) for one in hardware.assumed)):
        corner = with_assumed(hardware, dict(zip((one.key for one in hardware.assumed), ends, strict=True)))
        for name, time_s in timed(corner).items():
            assert not (found.columns[f"{name}_low"] > time_s * (1 + 1e-12)).any()
            assert not (time_s > found.columns[f"{name}_high"] * (1 + 1e-12)).any()


def steps(tile):
    """Tile sizes of which each is a multiple of the one before: of others (63 rows against 64) no order holds."""
    assert tile.central % tile.fast == tile.slow % tile.central == 0
    return tile.fast, tile.central, tile.slow


@pytest.mark.parametrize("chip", CHIPS)
def test_a_slower_value_of_an_assumed_parameter_never_shortens_a_step(chip):
    found, timed = on_one_machine(chip)
    for one in found.hardware.assumed:
        times = [timed(with_assumed(found.hardware, {one.key: value}))["step_time_s"]
                 for value in (steps(one) if one.key.endswith("tile_rows") else np.linspace(one.fast, one.slow, 7))]
        assert not any((later < earlier * (1 - 1e-12)).any() for earlier, later in itertools.pairwise(times))


def test_a_ratio_s_range_holds_each_parameter_alone_at_either_end():
    hardware, where = load_hardware("groq-lpu"), {"attention": ["mha", "gqa-4"], "batch": 64, "kv_len": 32768}
    found = simkit.decode_step(hardware, MODEL, **where)
    for one in hardware.assumed:
        for value in (one.fast, one.slow, one.central):
            corner = with_assumed(hardware, {one.key: value})
            gain = simkit.decode_step(corner, MODEL, **where,
                                      chips=int(found["chips"][0]))["attention_speedup_vs_mha"][1]
            assert found["attention_speedup_vs_mha_low"][1] <= gain * (1 + 1e-12)
            assert gain <= found["attention_speedup_vs_mha_high"][1] * (1 + 1e-12)
    # Tiles of one row, of twenty and of 320 disagree by far, and the record says so.
    assert found["attention_speedup_vs_mha_high"][1] > 3 * found["attention_speedup_vs_mha_low"][1]


@pytest.mark.parametrize("chip", ["h100-sxm", "mi300x", "gaudi3"])
def test_what_nothing_is_assumed_for_has_no_range(chip):
    found = simkit.decode_step(chip, MODEL, **GRID, assume="ideal" if chip == "gaudi3" else None)
    for name in RANGED:
        assert np.isnan(found[f"{name}_low"]).all()
        assert np.isnan(found[f"{name}_high"]).all()
    assert set(found["assumed"].flat) == {"ideal" if chip == "gaudi3" else ""}


@pytest.mark.parametrize("layout", ["mha", "gqa-8"])
def test_no_guess_beats_a_measured_sibling_by_more_than_its_range(layout):
    """A Gaudi 3 with free launches at its full bandwidth beat an MI300X as measured; its sheet does not know that."""
    where = {"model": "llama-2-70b", "attention": layout, "batch": 8, "kv_len": 4096, "chips": 8}
    ideal = simkit.decode_step("gaudi3", **where, assume="ideal")["step_time_s"]
    guess, measured = (simkit.decode_step(chip, **where) for chip in ("gaudi3", "mi300x"))
    assert guess["assumed"] != ""
    assert guess["step_time_s"] > 1.2 * ideal
    assert guess["step_time_s_high"] > 1.5 * guess["step_time_s_low"]
    assert guess["step_time_s_high"] > measured["step_time_s"]


def test_many_points_have_the_ranges_of_single_ones(monkeypatch):
    names = [f"{name}_{end}" for name in RANGED for end in ("low", "high")]
    monkeypatch.setattr(ranges, "MOST_AT_ONCE", 40)  # corners in parts
    many = simkit.decode_step("gaudi3", MODEL, **GRID, fields=names)
    monkeypatch.undo()
    for at in np.ndindex(3, 3):
        one = simkit.decode_step("gaudi3", MODEL, attention="gqa-8", batch=GRID["batch"][at[0]][0],
                                 kv_len=GRID["kv_len"][at[1]], chips=int(simkit.decode_step(
                                     "gaudi3", MODEL, **GRID, fields=["chips"])["chips"][at]), fields=names)
        for name in names:
            np.testing.assert_allclose(many[name][at], one[name], rtol=1e-12)


def test_a_replayed_time_takes_the_closed_form_s_range():
    where = {"model": MODEL, "attention": "gqa-8", "batch": 4, "kv_len": 4096, "chips": 1}
    replayed, closed = (simkit.decode_step("gaudi3", engine=engine, **where) for engine in ("replay", "roofline"))
    for end in ("low", "high"):
        assert replayed[f"step_time_s_{end}"] / replayed["step_time_s"] == pytest.approx(
            closed[f"step_time_s_{end}"] / closed["step_time_s"])


def test_columns_without_ranges_cost_no_corner(monkeypatch):
    monkeypatch.setattr(ranges, "_at_corners", None)  # would raise when called
    plain = [name for name in FIELDS if not name.endswith(("_low", "_high"))]
    simkit.decode_step("gaudi3", MODEL, **GRID, fields=plain)
    simkit.decode_step("h100-sxm", MODEL, **GRID)
