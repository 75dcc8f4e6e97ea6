"""Energy of messages between tiles: every link that a message passes, and what they add to a token."""

from dataclasses import replace

import numpy as np
import pytest

import simkit
from simkit.hardware.fabric import Tile, TileLink
from simkit.hardware.profile import HardwareProfile
from simkit.spatial.messages import multicast_hop_bytes, sum_hop_bytes
from tests.spatial.machines import SLOW, even_model, on_tiles, timed
from tests.spatial.test_messages import fabric


def links_of_a_sum(tiles: int) -> int:
    """Chains of groups to their middles, the middles to the root, and back to all, link by link."""
    group = int(np.ceil(np.sqrt(tiles)))
    groups = [list(range(first, min(first + group, tiles))) for first in range(0, tiles, group)]
    middles = [own[min(group // 2, len(own) - 1)] for own in groups]
    within = sum(len(own) - 1 for own in groups)
    between = middles[-1] - middles[0]
    return within + between + tiles - 1


@pytest.mark.parametrize("tiles", [*range(1, 40), 400, 420, 757])
def test_a_sum_passes_the_links_that_its_chains_and_its_way_back_are_made_of(tiles):
    """Where the last group is short its middle is nearer: the formula counts whole groups, never fewer links."""
    said = float(sum_hop_bytes(1.0, tiles, 1.0, fabric("mesh")))
    even = tiles % int(np.ceil(np.sqrt(tiles))) == 0
    assert said == links_of_a_sum(tiles) if even else 0 <= said - links_of_a_sum(tiles) <= np.sqrt(tiles)
    assert sum_hop_bytes(3.0, tiles, 2.0, fabric("noc")) == 6.0 * 2 * (tiles - 1)
    alone = [sum(range(1, tiles + 1)) if tiles > 1 else 0, tiles if tiles > 1 else 0]
    assert [float(multicast_hop_bytes(1.0, tiles, 1.0, fabric("mesh", multicast=one))) for one in (False, True)] == alone


def with_energy(per_hop: float | None, **more: float) -> HardwareProfile:
    chip = on_tiles("cerebras-wse2", (64, 64), start_cycles=100.0, tile=Tile(step_cycles=8.0),
                    link=replace(SLOW["link"], energy_j_per_byte=per_hop))
    return replace(chip, power=replace(chip.power, idle_w=0.0, energy_j_per_flop=0.0), memory=tuple(
        replace(one, capacity_bytes=1e12, energy_j_per_byte=0.0) for one in chip.memory), **more)


@pytest.mark.parametrize("layout", ["mha", "mqa"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_tokens_energy_is_that_of_its_phases(layout, batch):
    """All else at no energy: bytes times links of every phase, each at the energy of a hop."""
    def joules(per_hop: float | None) -> float:
        found = timed(with_energy(per_hop), even_model(), layout, batch=batch)
        return float(np.ravel(found.select(("energy_j_per_token",))["energy_j_per_token"])[0])

    phases = timed(with_energy(1e-12), even_model(), layout, batch=batch).timing.hop_bytes()
    assert all(np.all(phases[name] > 0) for name in ("norm", "qkv_projection", "outputs summed", "mlp_down"))
    assert joules(1e-12) == pytest.approx(1e-12 * sum(float(np.ravel(one)[0]) for one in phases.values()) / batch)
    assert joules(2e-12) == pytest.approx(2 * joules(1e-12))
    assert np.isnan(joules(None))


def test_a_hop_without_a_source_is_named_and_takes_no_time():
    chip = on_tiles("cerebras-wse2", (8, 8), link=TileLink(energy_j_per_byte=1e-12))
    assert not chip.fabric.has_rates
    assert "fabric.link.energy" in str(simkit.decode_step("cerebras-wse2", even_model())["unknown_costs"])
