"""How chips are shared out: the machines that may be tried, by hand, and the first of them on which a need fits."""

from dataclasses import replace

import numpy as np
import pytest

import simkit
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.step.machine import Machine
from simkit.step.placement import Demand
from simkit.study.machine_search import (
    EveryCount,
    Need,
    candidates,
    fit_chips,
    split_chips,
    tensor_widths,
    worth_more,
)

H100, GROQ, SN40L = (load_hardware(name) for name in ("h100-sxm", "groq-lpu", "sambanova-sn40l"))


def limited(chip, chips):
    return replace(chip, max_chips=chips)


def test_widths_are_powers_of_two_that_divide_the_heads_within_the_fast_domain():
    assert tensor_widths(64, 8) == [1, 2, 4, 8]
    assert tensor_widths(12, 8) == [1, 2, 4]
    assert tensor_widths(71, 8) == [1]
    assert tensor_widths(8192, 10_000) == [2**k for k in range(13)]
    assert tensor_widths(64, 0) == [1]


def test_gpus_widen_within_the_fast_domain_and_then_add_stages():
    assert [*candidates(limited(H100, 33), 64, 3)] == [
        (1, 1.0, 1.0), (2, 2.0, 1.0), (4, 4.0, 1.0), (8, 8.0, 1.0), (16, 8.0, 2.0), (24, 8.0, 3.0)]
    assert candidates(limited(H100, 17), 64, 80)[-1] == (16, 8.0, 2.0)
    assert [*candidates(limited(replace(H100, scale_up=None), 24), 64, 80)[:3]] == [(1, 1.0, 1.0), (2, 1.0, 2.0), (3, 1.0, 3.0)]
    assert [*candidates(replace(H100, scale_up=None, scale_out=None), 64, 80)] == [(1, 1.0, 1.0)]


def test_a_pipelined_machine_gives_each_layer_whole_rows_of_chips():
    """Up to a chip a layer, then as many more for every layer, and all chips that there are."""
    assert [*candidates(limited(GROQ, 9), 64, 3)] == [(1, 1.0, 1), (2, 1.0, 2), (3, 1.0, 3), (6, 2.0, 3), (9, 3.0, 3)]
    assert [*candidates(limited(GROQ, 10), 64, 3)[-2:]] == [(9, 3.0, 3), (10, pytest.approx(10 / 3), 3)]
    assert [*candidates(limited(GROQ, 8), 64, 3)[-2:]] == [(6, 2.0, 3), (8, pytest.approx(8 / 3), 3)]
    assert [*candidates(limited(GROQ, 2), 64, 3)] == [(1, 1.0, 1), (2, 1.0, 2)]


def shared(weights, cache):
    """A need whose weights and cache are dealt out evenly over all chips."""
    def need(machine, where):
        chips = np.asarray(machine.tp) * machine.pp
        held = (cache[where] if np.ndim(cache) else cache) / chips
        return Demand(weight_bytes=weights / chips, kv_bytes_per_sequence=held, kv_bytes=held)
    return Need(demand=need, n_kv_heads=64)


@pytest.mark.parametrize(("total", "chips"), [(60e9, 1), (64e9, 1), (65e9, 2), (200e9, 4), (500e9, 8), (512e9, 8), (513e9, 16)])
def test_the_fewest_chips_of_64_gb_are_taken(total, chips):
    plain = replace(SN40L, memory=tuple(level for level in SN40L.memory if not level.overflow))
    found = fit_chips(plain, [shared(10e9, total - 10e9)], (1,), 64, 80)
    assert found.chips == chips
    assert found.tp * found.pp == chips
    assert not np.any(found.overflow)


@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize("most", [1, 11, 40])
def test_the_fewest_of_a_pipelined_machine_are_found_among_all_counts(most, few, monkeypatch):
    """Brute force over every count of a small machine, for many points at once and by halves."""
    monkeypatch.setattr("simkit.study.machine_search.FEW", few)
    small, layers = limited(GROQ, most), 6
    room = sum(level.usable_bytes for level in small.homes("weights"))
    weights, cache = 0.3 * room, room * np.random.default_rng(5).uniform(0.0, most, 60)
    found = fit_chips(small, [shared(weights, cache)], (60,), 64, layers, every_count=True)
    least = [next((chips for chips in range(1, most + 1) if weights + own <= chips * room), most) for own in cache]
    np.testing.assert_array_equal(np.broadcast_to(found.chips, 60), least)
    np.testing.assert_allclose(np.broadcast_to(found.tp * found.pp, 60), least)
    rows = fit_chips(small, [shared(weights, cache)], (60,), 64, layers)
    assert np.all(np.broadcast_to(rows.chips, 60) >= least)
    assert most == 1 or np.any(np.broadcast_to(rows.chips, 60) > least)


@pytest.mark.parametrize("layout", ["mha", "gqa-8"])
def test_one_chip_fewer_than_the_fewest_does_not_hold_the_model(layout):
    """2240 Groq chips were named where 2176 hold Llama 70B with MHA."""
    where = {"model": "llama-2-70b", "attention": layout, "batch": 32, "kv_len": 4096, "fields": ["chips", "fits", "tp", "pp"]}
    found = simkit.decode_step("groq-lpu", chips="fewest", **where)
    chips = int(found["chips"])
    assert found["fits"]
    assert found["tp"] * found["pp"] == pytest.approx(chips)
    assert simkit.decode_step("groq-lpu", chips=chips, **where)["fits"]
    assert not simkit.decode_step("groq-lpu", chips=chips - 1, **where)["fits"]


def test_every_count_of_a_pipelined_machine_by_hand():
    every = EveryCount(8, 3)
    assert list(every) == [(1, 1.0, 1.0), (2, 1.0, 2.0), (3, 1.0, 3.0), *((c, c / 3, 3.0) for c in range(4, 9))]
    assert every[-2:] == [(7, 7 / 3, 3.0), (8, 8 / 3, 3.0)]
    assert len(EveryCount(10**9, 80)) == 10**9


def test_the_largest_need_decides_whatever_the_order():
    plain = replace(SN40L, memory=tuple(level for level in SN40L.memory if not level.overflow))
    small, large = shared(10e9, np.array([1e9, 20e9])), shared(10e9, np.array([100e9, 300e9]))
    for needs in ([small, large], [large, small], [large, small, large]):
        assert fit_chips(plain, needs, (2,), 64, 80).chips.tolist() == [2.0, 8.0]


def test_a_tier_of_last_resort_is_opened_only_to_what_fits_nowhere_else():
    total = SN40L.max_chips * 64e9
    found = fit_chips(SN40L, [shared(1e9, np.array([50e9, 2 * total]))], (2,), 64, 80)
    assert found.overflow.tolist() == [False, True]
    assert found.chips[0] == 1
    nowhere = fit_chips(SN40L, [shared(1e9, np.array([1e30]))], (1,), 64, 80)
    assert nowhere.chips.tolist() == [max(chips for chips, *_ in candidates(SN40L, 64, 80))]


@pytest.mark.parametrize(("chips", "tp", "pp", "found"), [
    (8, None, None, (8, 1)), (8, None, 2, (4, 2)), (8, 4, None, (4, 2)), (12, None, None, (4, 3)), (1, None, None, (1, 1))])
def test_what_is_left_open_follows_from_the_chips(chips, tp, pp, found):
    assert split_chips(H100, 64, 80, chips, tp, pp) == found


def test_a_pipelined_machine_splits_any_number_of_chips():
    assert split_chips(GROQ, 64, 80, 100, None, None) == (1.25, 80)
    assert split_chips(GROQ, 64, 80, 30, None, None) == (1.0, 30)
    assert split_chips(GROQ, 64, 80, 80, None, None) == (1.0, 80)
    assert split_chips(H100, 64, 80, 80, 1, 80) == (1, 80)
    assert split_chips(GROQ, 64, 80, 100, 2.5, 40) == (2.5, 40)


@pytest.mark.parametrize(("chip", "chips", "tp", "pp", "says"), [
    (H100, 0, None, None, "have 1 to"), (H100, 10**9, None, None, "have 1 to"), (H100, 8, 3, None, "does not divide"),
    (H100, 16, 16, None, "at most 8 chips"), (H100, 8, 4, 4, "is not tp x pp"), (H100, 81, 1, 81, "has 80 layers"),
    (GROQ, 100, 2.0, 40, "is not tp x pp"), (GROQ, 100, None, 81, "has 80 layers")])
def test_splits_that_contradict_the_machine_are_refused(chip, chips, tp, pp, says):
    with pytest.raises(UserError, match=says):
        split_chips(chip, 64, 80, chips, tp, pp)


def test_the_ways_that_would_divide_the_heads_are_named():
    with pytest.raises(UserError) as caught:
        split_chips(H100, 12, 80, 8, 5, None)
    assert "tp may be 1, 2, 3, 4, 6, 12" in str(caught.value)


def test_a_chip_without_links_stays_alone():
    lonely = replace(H100, scale_up=None, scale_out=None)
    assert split_chips(lonely, 64, 80, 1, None, None) == (1, 1)
    with pytest.raises(UserError, match="no link between chips"):
        split_chips(lonely, 64, 80, 2, None, None)
    assert split_chips(replace(H100, scale_out=None), 64, 80, 2, 1, 2) == (1, 2)
    assert split_chips(replace(H100, scale_up=None), 64, 80, 2, None, None) == (1, 2)


@pytest.mark.parametrize("by_time", [False, True])
def test_a_point_s_chips_do_not_depend_on_its_neighbours_and_the_most_are_tried(by_time):
    """Machines of 1, 2, 4 ... 64 and 72 chips; the best of some points is the largest, which no doubling reaches."""
    table = [(chips, float(chips), 1.0) for chips in (1, 2, 4, 8, 16, 32, 64, 72)]
    fewest = np.array([1.0, 4.0, 8.0, 72.0])

    def alone(chips):
        start = Machine(chips=chips, tp=chips, pp=np.ones_like(chips))
        return worth_more(start, np.shape(chips), table, lambda at: 1.0 / np.asarray(at.chips) ** 2, by_time=by_time).chips

    together = alone(fewest)
    assert together.tolist() == [72.0] * 4
    assert [alone(np.array([chips]))[0] for chips in fewest] == together.tolist()
