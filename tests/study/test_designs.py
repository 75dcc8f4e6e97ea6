"""Hypothetical chips as arrays: the same answers as each profile loaded by itself, and what is asked of them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.parameters import profile_parameters
from simkit.model.catalog import load_model
from simkit.study.crossover import crossover
from simkit.study.design_answers import (
    Rays,
    best_designs,
    columns_at,
    elasticities,
    nearest_chips,
    undominated,
)
from simkit.study.designs import Axis, Base, DesignSpace, profiles_at, read_axis
from simkit.study.grid import Grid
from simkit.study.vary import quantity_text

MODEL = load_model("llama-2-70b")
FIELDS = ("hardware", "fits", "chips", "tp", "step_time_s", "attention_time_s", "tokens_per_s", "energy_j_per_token", "bound")
# Of each kind of machine figures that arrays take, that priors follow, and that load the profile.
FIGURES = {
    "h100-sxm": ("memory.hbm.bandwidth", "memory.hbm.capacity", "compute.matrix.peak.bf16", "compute.clock",
                 "memory.hbm.achievable_fraction", "links.scale_up.latency", "overheads.kernel_launch",
                 "compute.special_rate", "memory.l2.bandwidth", "memory.hbm.latency", "compute.units"),
    "l40s": ("memory.gddr.bandwidth", "compute.clock", "memory.gddr.capacity"),
    "gh200": ("memory.hbm.bandwidth", "memory.hbm.capacity", "overheads.kernel_launch"),
    "sambanova-sn40l": ("memory.hbm.bandwidth", "compute.matrix.peak.bf16", "memory.ddr.bandwidth", "links.scale_up.bandwidth"),
    "groq-lpu": ("memory.sram.bandwidth", "memory.sram.capacity", "compute.matrix.peak.fp16", "overheads.layer_latency"),
}


def base_of(name):
    return Base(name=name, node="n5")


def space_of(name, sample):
    known = {one.key: one for one in profile_parameters(base_of(name).load())}
    axes = []
    for key in FIGURES[name]:
        value = known[key].value
        if value is None:
            continue
        few = (value // 2, value, value * 2) if known[key].whole else ()
        axes.append(Axis(key=key, dimension=known[key].dimension, whole=known[key].whole, values=few, start=value / 6,
                         stop=min(value * 6, 1.0) if key.endswith("_fraction") else value * 6))
    return DesignSpace(bases=[base_of(name)], axes=axes, sample=sample, seed=7)


def grid_of(sets, *, name="h100-sxm", attention=("gqa-8", "mha"), sample=None, **how):
    base = base_of(name)
    axes = [read_axis(key, text, base.load()) for key, text in sets.items()]
    words = {"chips": 8, "tp": 8, "batch": (32,), "kv_len": (4096,), "baseline": False, **how}
    return Grid(hardware=[base.load()], model=[MODEL], attention=attention,
                designs=DesignSpace(bases=[base], axes=axes, sample=sample), **words)


@pytest.mark.parametrize(("name", "chips"), [("h100-sxm", 8), ("l40s", "fit"), ("gh200", "fit"),
                                             ("sambanova-sn40l", "fit"), ("groq-lpu", "fit"), ("groq-lpu", 1600)])
def test_designs_as_arrays_are_each_profile_loaded_by_itself(name, chips):
    space = space_of(name, 600)  # enough that a kernel's mappings are searched, not all tried
    grid = Grid(hardware=[space.bases[0].load()], model=[MODEL], attention=("mha", "gqa-8"), batch=(16,), kv_len=(8000,),
                chips=chips, designs=space, fields=FIELDS, baseline=False)
    together = grid.columns()
    for place in np.random.default_rng(1).integers(0, len(grid), 4).tolist():
        figures = {axis.key: quantity_text(float(together[axis.key][place]), axis.dimension, whole=axis.whole)
                   for axis in space.axes}
        alone = replace(grid, hardware=[load_hardware(name, overrides=figures)], designs=None).columns()
        for field in FIELDS:
            ours, theirs = together[field][place], alone[field][place // len(space)]
            if isinstance(ours, str):
                assert ours == theirs
            else:
                assert float(ours) == pytest.approx(float(theirs), rel=1e-9, nan_ok=True), (field, figures)
    assert len(set(together["step_time_s"][np.isfinite(together["step_time_s"])])) > 100


def test_any_part_of_a_space_is_the_same_as_that_part_of_the_whole():
    for space in (space_of("h100-sxm", 300), replace(space_of("groq-lpu", None), axes=[
            Axis(key="memory.sram.bandwidth", dimension="bytes/s", whole=False, values=(1e12, 2e12, 3e12), start=1e12, stop=3e12),
            Axis(key="memory.sram.capacity", dimension="bytes", whole=False, values=(1e9, 2e9), start=1e9, stop=2e9)])):
        whole = space.values(0, len(space))
        ends = [0, 1, len(space) // 3, len(space)]
        for key, values in whole.items():
            parts = np.concatenate([space.values(first, last)[key] for first, last in pairwise(ends)])
            assert np.array_equal(parts, values)


def test_a_lattice_holds_every_combination_once_and_a_sample_stays_within_its_ends():
    grid = grid_of({"memory.hbm.bandwidth": "1TB/s..8TB/s*2", "compute.units": "66,132"})
    space = grid.designs
    values = space.values(0, len(space))
    assert len(set(zip(*values.values(), strict=True))) == len(space) == 8
    sampled = grid_of({"memory.hbm.bandwidth": "1TB/s..64TB/s", "compute.units": "66,132"}, sample=512).designs.values(0, 512)
    assert sampled["memory.hbm.bandwidth"].min() >= 1e12
    assert sampled["memory.hbm.bandwidth"].max() <= 64e12
    assert set(sampled["compute.units"]) == {66.0, 132.0}
    # Even in the logarithm: as many designs below the geometric mean of the ends as above it.
    assert np.mean(sampled["memory.hbm.bandwidth"] < 8e12) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("key", "text", "said"), [
    ("memory.hbm.bandwith", "1TB/s,2TB/s", "h100-sxm has no such parameter"),
    ("memory.hbm.bandwidth", "8TB/s..1TB/s", "to a higher one"),
    ("memory.hbm.bandwidth", "1TB/s,2GB", "bytes/s"),
])
def test_a_range_that_is_none_says_what_it_should_be(key, text, said):
    with pytest.raises(UserError, match=said):
        read_axis(key, text, load_hardware("h100-sxm"))


def test_a_range_without_a_step_asks_for_one_or_for_a_sample():
    space = grid_of({"memory.hbm.bandwidth": "1TB/s..2TB/s"}).designs
    with pytest.raises(UserError, match="without a step"):
        space.check()


def test_figures_that_load_the_profile_are_not_loaded_a_million_times():
    values = {"compute.units": np.arange(1.0, 5001.0)}
    with pytest.raises(UserError, match=r"5,000 values of compute\.units would load h100-sxm"):
        list(profiles_at(base_of("h100-sxm"), values))


def test_the_best_designs_are_those_of_an_exhaustive_search():
    grid = grid_of({"memory.hbm.bandwidth": "1TB/s..32TB/s*2", "compute.matrix.peak.bf16": "100TFLOP/s..1600TFLOP/s*2"})
    budget = {"mm2": 900.0, "power_w": 1500.0}
    every = replace(grid, fields=("fits", "chips", "tokens_per_s")).columns()
    for layout, records in (("gqa-8", 0), ("mha", 1)):
        part = {name: column.reshape(2, -1)[records] for name, column in every.items()}
        allowed = part["fits"] & (part["mm2"] <= 900.0) & (part["power_w"] <= 1500.0)
        assert 0 < allowed.sum() < allowed.size
        for word, name in (("mm2", "mm2"), ("W", "power_w"), ("USD", "price_usd")):
            score = np.where(allowed, part["tokens_per_s"] / (part["chips"] * part[name]), 0.0)
            (best,) = [one for one in best_designs(grid, budget) if one["attention"] == layout and word in one["best_per"]]
            for key in ("memory.hbm.bandwidth", "compute.matrix.peak.bf16"):
                assert best[key] == part[key][np.argmax(score)]
            assert best["designs_within_budget"] == allowed.sum()


def test_a_front_has_what_nothing_beats_and_nothing_else():
    rng = np.random.default_rng(3)
    cost, gain = rng.random((2, 200))
    kept = set(undominated(cost, gain).tolist())
    for one in range(200):
        beaten = np.any((cost <= cost[one]) & (gain >= gain[one]) & ((cost < cost[one]) | (gain > gain[one])))
        assert (one in kept) == (not beaten)


@pytest.mark.parametrize(("budget", "said"), [
    ({"mm2": 300.0}, r"763 mm2 at least, 2\.54 times the 300 allowed"),
    ({"mm2": 780.0, "power_w": 800.0, "price_usd": 1e6}, None),
    ({"mm2": 764.0, "power_w": 450.0}, "450 allowed"),
])
def test_a_budget_that_nothing_meets_says_which_bound_fails_by_how_much(budget, said):
    grid = grid_of({"memory.hbm.bandwidth": "1TB/s..16TB/s*2"})
    if said is None:
        assert best_designs(grid, budget)
        return
    with pytest.raises(UserError, match=said):
        best_designs(grid, budget)


def test_bounds_that_only_fail_together_say_so():
    grid = grid_of({}, attention=("gqa-8",))
    # Much bandwidth takes power, many flops take silicon.
    grid = replace(grid, designs=replace(grid.designs, listed={
        "memory.hbm.bandwidth": np.array([16e12, 1e12]), "compute.matrix.peak.bf16": np.array([100e12, 1500e12])}))
    found = replace(grid, fields=("fits", "chips", "tokens_per_s")).columns()
    assert found["mm2"][0] < found["mm2"][1]
    assert found["power_w"][0] > found["power_w"][1]
    budget = {"mm2": float(found["mm2"][0]), "power_w": float(found["power_w"][1])}
    factor = min(found["power_w"][0] / found["power_w"][1], found["mm2"][1] / found["mm2"][0])
    with pytest.raises(UserError, match=f"each bound alone can be met, together they are missed by a factor of {factor:.3g}"):
        best_designs(grid, budget)


def test_a_chip_without_a_price_is_ranked_by_silicon_and_watts():
    grid = grid_of({"memory.hbm.bandwidth": "1TB/s..4TB/s*2"}, name="a100-sxm-80gb", attention=("gqa-8",))
    words = {word for record in best_designs(grid) for word in record["best_per"].split(", ")}
    assert words == {"mm2", "W"}
    with pytest.raises(UserError, match="no price of a100-sxm-80gb"):
        best_designs(grid, {"price_usd": 1e5})


def test_elasticities_are_finite_differences_of_profiles_loaded_by_themselves():
    base = Base(name="sambanova-sn40l", node="n5", assume="ideal")
    grid = replace(grid_of({}, name="sambanova-sn40l", attention=("gqa-8",)), hardware=[base.load()],
                   designs=DesignSpace(bases=[base], axes=[]))
    found = {record["key"]: record for record in elasticities(grid)}
    own = {one.key: one for one in profile_parameters(base.load())}

    def tokens_per_s(key, value):
        chip = base.load(((key, quantity_text(value, own[key].dimension, whole=False)),))
        return replace(grid, hardware=[chip], designs=None, fields=("tokens_per_s",)).columns()["tokens_per_s"][0]

    for key in ("memory.hbm.bandwidth", "links.scale_up.latency"):
        value = float(own[key].value)
        slope = np.log(tokens_per_s(key, value * 1.0005) / tokens_per_s(key, value / 1.0005)) / np.log(1.0005**2)
        assert found[key]["elasticity"] == pytest.approx(slope, rel=1e-3)
    # Twice all rates and half of all fixed times is twice as fast (Euler's theorem on homogeneous functions).
    rates = sum(one["elasticity"] for one in found.values() if one["unit"] in ("bytes/s", "flop/s", "op/s"))
    times = sum(one["elasticity"] for one in found.values() if one["unit"] == "seconds")
    assert rates - times == pytest.approx(1.0, abs=1e-4)


def test_one_figure_has_its_nearest_chip_where_crossover_has_its_crossing():
    grid = grid_of({"memory.hbm.bandwidth": "1TB/s..100TB/s"})
    (found,) = [one for one in nearest_chips(grid, 2.0) if one["kind"] == "nearest"]
    (crossing,) = crossover("h100-sxm", MODEL, attention="gqa-8", below=2.0, vary="memory.hbm.bandwidth", start="1TB/s",
                            stop="100TB/s", batch=32, kv_len=4096, chips=8, tp=8)[:1]
    assert found["memory.hbm.bandwidth"] == pytest.approx(crossing["value"], rel=1e-8)
    assert found["log_distance"] == pytest.approx(np.log(crossing["times_own"]), rel=1e-8)


def test_the_nearest_chip_in_two_figures_is_nearer_than_along_either_and_none_of_a_lattice_is_nearer():
    sets = {"memory.hbm.bandwidth": "1TB/s..100TB/s", "overheads.kernel_launch": "0.1us..100us"}
    grid = grid_of(sets)
    found = nearest_chips(grid, 1.8)
    best, *others = found
    assert best["kind"] == "nearest"
    assert best["advantage"] == pytest.approx(1.8, rel=1e-9)
    assert all(best["log_distance"] <= one["log_distance"] * (1 + 1e-12) for one in others)
    assert any(one["kind"].startswith("along") for one in others)
    # A disc of designs about the base, a thousandth of the way inside: all on the base's side.
    angle, share = (one.ravel() for one in np.meshgrid(np.linspace(0, 2 * np.pi, 120), np.linspace(0.05, 0.999, 12)))
    radius = share * best["log_distance"]
    own = {one.key: one.value for one in profile_parameters(load_hardware("h100-sxm"))}
    columns = columns_at(grid, {"memory.hbm.bandwidth": own["memory.hbm.bandwidth"] * np.exp(radius * np.cos(angle)),
                                "overheads.kernel_launch": own["overheads.kernel_launch"] * np.exp(radius * np.sin(angle))},
                         ("step_time_s",), ("gqa-8", "mha"))
    assert np.all(columns["step_time_s"][1] / columns["step_time_s"][0] > 1.8)


def test_rays_find_the_nearest_point_of_a_surface_that_is_known():
    """A plane a.x = d lies |d| / |a| away, at a d / |a|^2 (Lagrange)."""
    normal = np.array([1.0, 2.0, -0.5, 0.4])
    rays = Rays(excess=lambda x: x @ normal - 1.5, side=-1, low=np.full(4, -5.0), high=np.full(4, 5.0))
    along, surface = rays.nearest()
    assert np.linalg.norm(surface[0]) == pytest.approx(1.5 / np.linalg.norm(normal), rel=1e-4)
    assert [one[place] for place, one in enumerate(along)] == pytest.approx((1.5 / normal).tolist(), rel=1e-9)
    empty, none = Rays(excess=lambda x: x[:, 0] * 0 - 1.0, side=-1, low=np.full(2, -1.0), high=np.full(2, 1.0)).nearest()
    assert empty == [None, None]
    assert not len(none)
