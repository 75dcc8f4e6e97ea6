"""Messages between tiles against a brute-force oracle: every tile, every hop, every element of a message by itself."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simkit.hardware.fabric import Fabric, TileLink
from simkit.spatial.messages import sum_cycles
from tests.spatial.machines import multicast_cycles

HOP, ADD, RATE, BYTES, START = 3.0, 11.0, 4.0, 2.0, 50.0


def fabric(topology: str, *, hop=HOP, add=ADD, rate=RATE, start=START, multicast=True) -> Fabric:
    return Fabric(tiles=(64, 1), topology=topology, start_cycles=start,
                  link=TileLink(bytes_per_cycle=rate, hop_cycles=hop, add_cycles=add, multicast=multicast))


class Line:
    """A line of tiles. A message is a list of times at which its elements leave; a link passes one after another."""

    def __init__(self, element_cycles: float) -> None:
        self.element_cycles = element_cycles
        self.free: dict[tuple[int, int], float] = {}

    def send(self, leaves: list[float], start: int, end: int) -> list[float]:
        """When each element arrives, link by link, behind what else is on the link; the last link takes it in."""
        step = 1 if end > start else -1
        times = list(leaves)
        for tile in range(start, end, step):
            link = (tile, tile + step)
            for index, ready in enumerate(times):
                begins = max(ready, self.free.get(link, 0.0))
                self.free[link] = begins + self.element_cycles
                times[index] = begins + HOP
        return [one + self.element_cycles for one in times]


def summed_by_hand(tiles: int, elements: int) -> float:
    """The two-level sum, tile by tile and element by element: when the last tile knows the last element.

    A phase takes a message in whole before it passes the sum on; inside a chain elements follow one another.
    """
    line = Line(BYTES / RATE)
    group = int(np.ceil(np.sqrt(tiles)))

    def chain(stations: list[int], known: dict[int, list[float]]) -> list[float]:
        """Along stations to the last, adding at each; elements are not taken in before the chain ends."""
        times = known[stations[0]]
        for before, after in itertools.pairwise(stations):
            arrived = line.send(times, before, after)
            # Added as it comes: an element goes on without waiting for those behind it.
            times = [max(one - line.element_cycles, mine) + ADD for one, mine in zip(arrived, known[after], strict=True)]
        return [one + line.element_cycles for one in times] if len(stations) > 1 else times

    zero = {tile: [0.0] * elements for tile in range(tiles)}
    middles: list[int] = []
    known: dict[int, list[float]] = {}
    for first in range(0, tiles, group):
        own = list(range(first, min(first + group, tiles)))
        middle = own[min(group // 2, len(own) - 1)]
        left, right = own[:own.index(middle) + 1], own[own.index(middle):][::-1]
        whole = max(chain(left, zero)[-1], chain(right, zero)[-1])
        known[middle] = [whole] * elements  # taken in whole, then passed on
        middles.append(middle)
    root = middles[len(middles) // 2]
    at = middles.index(root)
    done = max(chain(middles[:at + 1], known)[-1], chain(middles[at:][::-1], known)[-1])
    back = Line(BYTES / RATE)
    arrive = [back.send([done] * elements, root, end)[-1] for end in (0, tiles - 1) if end != root]
    return START + max(arrive, default=done)


@pytest.mark.parametrize("elements", [1, 2, 7, 40])
@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_a_sum_over_a_line_is_what_happens_hop_by_hop(side, elements):
    """Even groups, whose chains are as long as the formula's: equal. ``start`` alone is not simulated."""
    tiles = side * side
    assert sum_cycles(elements, tiles, BYTES, fabric("mesh")) == pytest.approx(summed_by_hand(tiles, elements), rel=1e-9)


@pytest.mark.parametrize("elements", [1, 5])
@pytest.mark.parametrize("tiles", range(2, 60))
def test_any_line_is_bounded_by_the_formula_and_near_it(tiles, elements):
    """Uneven groups end sooner, never later."""
    said, happens = sum_cycles(elements, tiles, BYTES, fabric("mesh")), summed_by_hand(tiles, elements)
    assert happens <= said * (1 + 1e-9)
    assert said - happens <= (np.sqrt(tiles) + 3) * (HOP + ADD) + elements * BYTES / RATE


@pytest.mark.parametrize("tiles", range(2, 40))
def test_a_sum_on_a_network_on_chip_is_a_binary_tree_level_by_level(tiles):
    waiting, time, length = tiles, START, 10 * BYTES / RATE
    while waiting > 1:
        waiting = (waiting + 1) // 2
        time += HOP + length + ADD
    assert sum_cycles(10, tiles, BYTES, fabric("noc")) == pytest.approx(time + HOP + length, rel=1e-12)


@pytest.mark.parametrize("tiles", [2, 3, 8, 16])
def test_an_exchange_scatters_and_gathers_every_byte_once(tiles):
    """Each tile takes in the parts of its share from all others, then every other share."""
    share = 48 / tiles
    taken_in = sum(share for other in range(tiles) if other) * BYTES / RATE
    assert sum_cycles(48, tiles, BYTES, fabric("exchange")) == pytest.approx(2 * (START + HOP + taken_in) + ADD)


TOPOLOGIES = st.sampled_from(["mesh", "torus", "ring", "noc", "exchange", "stream"])


@given(TOPOLOGIES, st.integers(1, 5000), st.floats(0, 1e5), st.floats(1, 10))
def test_fewer_hops_wider_links_and_fewer_elements_never_take_longer(topology, tiles, elements, factor):
    base = fabric(topology)
    time = sum_cycles(elements, tiles, BYTES, base)
    assert time >= 0
    assert sum_cycles(0, 1, BYTES, base) == 0
    for better in (replace(base.link, hop_cycles=HOP / factor), replace(base.link, add_cycles=ADD / factor),
                   replace(base.link, bytes_per_cycle=RATE * factor)):
        assert sum_cycles(elements, tiles, BYTES, replace(base, link=better)) <= time
        assert (multicast_cycles(elements, tiles, BYTES, replace(base, link=better))
                <= multicast_cycles(elements, tiles, BYTES, base))
    assert sum_cycles(elements / factor, tiles, BYTES, base) <= time
    assert sum_cycles(elements, tiles, BYTES, fabric("torus")) <= sum_cycles(elements, tiles, BYTES, fabric("mesh"))
    assert multicast_cycles(elements, tiles, BYTES, base) <= multicast_cycles(
        elements, tiles, BYTES, replace(base, link=replace(base.link, multicast=False)))
