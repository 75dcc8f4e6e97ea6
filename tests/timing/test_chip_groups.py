"""Groups of a slice that deal out sequences or tokens: they tile it, and lie where their exchanges take least."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from simkit.hardware.catalog import load_hardware
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS
from simkit.step.build import build_step
from simkit.step.operators import Collective
from simkit.step.workload import DecodeWorkload
from simkit.timing.chip_slices import ChipSlice, parts_of, slice_costs, slice_of, ways_to_part
from simkit.timing.exchanges import exchange_times_s
from tests.step.machine_words import machine_words

V5E = load_hardware("tpu-v5e")
GRIDS = [((2, 4), "always"), ((4, 4), "always"), ((4, 4, 4), "always"), ((2, 4), "never"), ((4, 4), "never"),
         ((4, 4, 4), "never"), ((3, 4), "always"), ((6, 6), "never"), ((4, 10), "full-sides"), ((8, 10), "always")]
ALPHA_S, LINK_BYTES_PER_S = 1e-6, 1e9


def chip(sides, wraps):
    """A chip whose whole network is one torus of these sides."""
    link = replace(V5E.scale_up, shape=sides, wraps=wraps, max_chips=math.prod(sides), latency_s=ALPHA_S,
                   bandwidth_bytes_per_s=2 * len(sides) * LINK_BYTES_PER_S, collective_launch_s=0.0,
                   achievable_fraction=1.0)
    return replace(V5E, scale_up=link, scale_out=None)


def divisors(number):
    return [one for one in range(1, number + 1) if number % one == 0]


def group_of(cell, parts):
    return tuple(place // part for place, part in zip(cell, parts, strict=True))


def every_assignment(sides, group):
    """What each dimension gives to a group, found by dealing out all cells; groups of other sizes are left out."""
    for parts in itertools.product(*map(divisors, sides)):
        cells = list(itertools.product(*map(range, sides)))
        sizes = [len(list(found)) for _, found in itertools.groupby(sorted(cells, key=lambda cell: group_of(cell, parts)),
                                                                    key=lambda cell: group_of(cell, parts))]
        if set(sizes) == {group}:
            assert len(sizes) == len(cells) // group  # they tile the slice
            yield parts


def side_costs(part, *, ring):
    """Hops, links that bring bytes in, and the share of one chip's bytes that the middle of a side passes, by walking."""
    hops = max(min(abs(a - b), part - abs(a - b)) if ring else abs(a - b) for a in range(part) for b in range(part))
    if not ring:  # over the cut before each chip, in one direction
        return hops, 1, max((cut * (part - cut) for cut in range(part)), default=0) / part
    passed = np.zeros(part)
    for start, end in itertools.permutations(range(part), 2):
        ahead = (end - start) % part
        if 2 * ahead <= part:
            passed[[(start + step) % part for step in range(ahead)]] += 0.5 if 2 * ahead == part else 1.0
    return hops, 2, max(passed) / part


def seconds(kind, bytes_, parts, rings):
    """An exchange in parts of a slice, from its sides alone."""
    costs = [side_costs(part, ring=ring) for part, ring in zip(parts, rings, strict=True)]
    hops = sum(hops for hops, *_ in costs)
    if kind == "all_to_all":
        return hops * ALPHA_S + max(share for *_, share in costs) * bytes_ / LINK_BYTES_PER_S
    used = [(part, links) for part, (_, links, _) in zip(parts, costs, strict=True) if part > 1]
    share = max(((math.prod(part for part, _ in some) - 1) / sum(links for _, links in some)
                 for count in range(1, len(used) + 1) for some in itertools.combinations(used, count)), default=0)
    return hops * ALPHA_S + share * bytes_ / LINK_BYTES_PER_S


@pytest.mark.parametrize(("sides", "wraps"), GRIDS, ids=str)
@pytest.mark.parametrize("mixture", [("all_to_all", "all_to_all"), ("all_gather", "all_to_all"), ("all_gather",)], ids=str)
def test_no_assignment_of_dimensions_exchanges_faster(sides, wraps, mixture):
    """Brute force: each dimension whole or in parts, as a ring where it is whole and closes; all exchanges alike."""
    whole, hardware = math.prod(sides), chip(sides, wraps)
    for group in divisors(whole)[1:]:
        for size in (0.0, 1e3, 1e5, 1e8):
            bytes_ = [size * (1 + 2 * place) for place in range(len(mixture))]
            found = exchange_times_s(
                [Collective(name=str(place), kind=kind, count=1 + place, bytes=bytes_[place], chips=group, within=whole)
                 for place, kind in enumerate(mixture)], hardware, static=False)
            least = min(
                sum((1 + place) * seconds(kind, bytes_[place], parts, [
                    wraps != "never" and part == side for part, side in zip(parts, sides, strict=True)])
                    for place, kind in enumerate(mixture))
                for parts in every_assignment(sides, group))
            assert float(sum(found.values())) == pytest.approx(least, rel=1e-9), (group, size)


@pytest.mark.parametrize(("chips", "group", "shape", "wraps", "parts"), [
    (12, 4, (16, 16), "full-sides", [(1, 4)]),  # 2x2, the most square four, do not tile 3x4
    (128, 64, (16, 16, 16), "blocks-of-4", [(2, 4, 8), (4, 2, 8), (4, 4, 4)]),  # 4x4 of rings; half of a ring of 8 is a line
    (16, 4, (4, 4), "always", [(1, 4), (2, 2), (4, 1)])])
def test_a_group_is_a_part_of_its_slice_and_less_than_a_side_is_a_line(chips, group, shape, wraps, parts):
    whole = slice_of(chips, shape, wraps)
    (found,) = parts_of(group, whole)
    assert found.sides in parts
    for part, side, closed in zip(found.sides, whole.sides, found.wraps, strict=True):
        assert side % part == 0
        assert not closed or part == side
    assert slice_of(group, shape, wraps) != found


@pytest.mark.parametrize("name", ["tpu-v2", "tpu-v3", "tpu-v4", "tpu-v5e", "tpu-v5p", "trainium1", "trainium2",
                                  "tenstorrent-blackhole-p150", "v100-sxm2-32gb"])
def test_of_widths_that_a_search_tries_one_way_is_best_whatever_the_bytes(name):
    """Up to 256 chips, twice the query heads of the largest model: the search pays for one way to cut each slice."""
    link = load_hardware(name).scale_up
    assert ways_to_part([2.0 ** power for power in range(9) if 2 ** power <= min(link.max_chips, 256)], link) == 1
    assert ways_to_part(80, chip((8, 10), "always").scale_up) == 2


def test_a_slice_that_was_rounded_up_gives_groups_of_the_next_size():
    """34 chips are laid out as 35: groups of 17 take all of them, and two of a group five."""
    link = chip((16, 16), "full-sides").scale_up
    assert slice_of(34, link.shape, "full-sides").sides == (5, 7)
    assert parts_of(17, slice_of(34, link.shape, "full-sides"))[0].sides == (5, 7)
    assert parts_of(2, slice_of(34, link.shape, "full-sides"))[0].sides == (5, 1)
    assert parts_of(99, ChipSlice((2, 2), (False, False)))[0].sides == (2, 2)


def test_many_groups_cost_what_single_ones_do():
    link = chip((8, 10), "always").scale_up
    within = np.array([8, 16, 40, 80, 80, 1])
    chips = np.array([[4, 2, 20, 40, 20, 1], [1, 16, 5, 10, 80, 1]])
    for way in (0, 1):
        together = np.array(slice_costs(chips, link, within, way))
        assert together.shape == (4, 2, 6)
        for at in np.ndindex(2, 6):
            np.testing.assert_array_equal(together[(slice(None), *at)],
                                          np.array(slice_costs(chips[at], link, within[at[1]], way)).ravel())


@pytest.mark.parametrize("mapping", ["batch", "context"])
def test_a_step_exchanges_within_groups_of_the_chips_that_share_its_layers(mapping):
    model = load_model("llama-2-70b")
    layout = parse_layout("gqa-4", model)
    step = build_step(DecodeWorkload(
        model=model, layout=layout, n_kv_heads=4, batch=32.0, kv_len=4096.0, q_len=1.0, kv_format=FORMATS["bf16"],
        weight_format=FORMATS["bf16"], **machine_words({"tp": 32.0, "sharding": mapping})))
    grouped = [one for one in step.collectives if one.within is not None]
    assert [(one.chips, one.within) for one in grouped] == [(8.0, 32.0)] * 2
    assert all(one.within is None for one in step.collectives if one.name in ("all_reduce", "gather_logits", "stage_hop"))
