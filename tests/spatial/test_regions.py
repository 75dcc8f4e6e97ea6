"""Layers on regions of one chip: a pipeline event by event, the way of the hidden state hop by hop, and its limits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup
from simkit.spatial.messages import sum_cycles
from tests.spatial.machines import SLOW, even_model, on_tiles, timed
from tests.spatial.test_messages import Line

ENDS = ("embedding", "lm_head", "sampling")


def chip_of(sides: tuple[int, int] = (8, 12), **fabric: object) -> HardwareProfile:
    chip = on_tiles("cerebras-wse2", sides, **(SLOW | fabric))
    return replace(chip, sharding="layer-pipelined", memory=tuple(
        replace(one, capacity_bytes=1e12) for one in chip.memory))


def model_of(layers: int) -> object:
    return replace(even_model(), layer_groups=(LayerGroup(count=layers, window=None, moe=False),))


def passes_by_hand(region: tuple[int, int], sides: tuple[int, int], used: int) -> list[float]:
    """Cycles of each crossing: up a column of regions, down the next; element after element over every link."""
    per_column, cycles = sides[1] // region[1], []
    link = SLOW["link"]

    def shift(elements: int, hops: int) -> float:
        # One line of tiles stands for all; the message itself takes its time on the last link.
        line = Line(2.0 / link.bytes_per_cycle)
        arrived = line.send([0.0] * elements, 0, hops)[-1]
        return arrived + (link.hop_cycles - 3.0) * hops  # Line's own hops take 3 cycles

    for number in range(1, used):
        up = shift(2048 // region[0], region[1])
        cycles.append(up + shift(2048 // region[1], region[0]) if number % per_column == 0 else up)
    return cycles


def period_by_hand(stage_s: list[float], ends_s: float, groups: int, rounds: int = 80) -> float:
    """Groups go round all regions and the ends, one at a time in each, in their order."""
    stations = [*stage_s, ends_s]
    free, done, ends = [0.0] * len(stations), [0.0] * groups, []
    for _ in range(rounds):
        for group in range(groups):
            for station, own_s in enumerate(stations):
                free[station] = done[group] = max(done[group], free[station]) + own_s
        ends.append(done[0])
    return (ends[-1] - ends[-9]) / 8


@settings(max_examples=60)
@given(st.sampled_from([(4, 4), (2, 4), (8, 4), (4, 2), (8, 12), (8, 2)]), st.integers(1, 13), st.integers(1, 12))
def test_a_step_is_what_happens_region_by_region(region, layers, in_flight):
    """Layers dealt out whole; a region sends on before it takes the next group; every link of every crossing."""
    sides, hz = (8, 12), 1e9
    chip = chip_of(sides, region=region, in_flight=in_flight)
    found = timed(chip, model_of(layers), batch=in_flight, kv_len=64).timing
    times = {name: float(np.ravel(one)[0]) for name, one in found.operator_time_s.items()}
    waits = ("region_hops", "pipeline_wait", "host", "layer_latency")
    norms = times["norm"] / (2 * layers + 1)  # the last stands with the ends
    ends_s = sum(times.get(name, 0.0) for name in ENDS) + norms
    layer_s = (sum(time for name, time in times.items() if name not in (*waits, *ENDS)) - norms) / layers
    most = (sides[0] // region[0]) * (sides[1] // region[1])
    held = -(-layers // most)
    used = -(-layers // held)
    crossings = passes_by_hand(region, sides, used)
    assert times.get("region_hops", 0.0) == pytest.approx(sum(crossings) / hz, rel=1e-9, abs=1e-18)
    own = [held] * (used - 1) + [layers - held * (used - 1)]
    stage_s = [count * layer_s + hop / hz for count, hop in zip(own, [*crossings, 0.0], strict=True)]
    by_hand = period_by_hand(stage_s, ends_s, in_flight) if in_flight > 1 else sum(stage_s) + ends_s
    assert float(found.step_time_s[0]) == pytest.approx(by_hand, rel=1e-9)
    mapping = found.tile_mapping
    assert (int(np.ravel(mapping.regions)[0]), int(np.ravel(mapping.in_flight)[0])) == (used, in_flight)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_one_region_is_the_sum_of_its_operators(batch):
    """No crossing and no wait, and as many in flight as one: what a machine without regions takes."""
    chip = chip_of((8, 8), region=(8, 8))
    found = timed(chip, even_model(), batch=batch).timing
    waited = [float(np.ravel(np.asarray(found.operator_time_s[name]))[0]) for name in ("region_hops", "pipeline_wait")]
    assert waited == [0.0, 0.0]
    assert found.tile_mapping.in_flight == 1


@settings(max_examples=12)
@given(st.sampled_from([(32, 32), (24, 60)]), st.integers(1, 40), st.sampled_from([64, 2048]))
def test_a_pipeline_gains_no_more_than_its_regions_and_costs_one_token_nothing(sides, batch, kv_len):
    chip = chip_of(sides)
    alone, apart = (timed(chip_of(sides, in_flight=count), model_of(8), batch=one, kv_len=kv_len).timing
                    for one, count in ((1, 1), (batch, 1)))
    free = timed(chip, model_of(8), batch=batch, kv_len=kv_len).timing
    assert free.step_time_s <= apart.step_time_s * (1 + 1e-9)
    assert free.step_time_s >= alone.step_time_s * (1 - 1e-9)
    closed = timed(chip, model_of(8), batch=batch, kv_len=kv_len, engine="roofline").timing
    assert free.step_time_s >= closed.step_time_s * (1 - 1e-9)
    regions = float(np.ravel(free.tile_mapping.in_flight)[0])
    assert batch / free.step_time_s <= max(regions, 1.0) * batch / apart.step_time_s * (1 + 1e-9)


def test_every_sequence_is_in_one_group_and_a_group_is_no_larger_than_it_must_be():
    chip = chip_of(region=(4, 4))
    for batch in (1, 2, 5, 6, 7, 13):
        workload = timed(chip, model_of(6), batch=batch).step.workload
        groups, sequences = float(np.ravel(workload.microbatches)[0]), float(np.ravel(workload.sequences)[0])
        assert groups * sequences >= batch > (groups - 1) * sequences - groups
        assert groups <= 6


@pytest.mark.parametrize("gigabytes", [2.0, 1.0, 0.75, 0.66])
def test_a_region_holds_its_layers(gigabytes):
    """The fullest has no more weights and cache than its own tiles have room for; ends lie where there is some left."""
    chip = chip_of((64, 64))
    chip = replace(chip, memory=tuple(replace(one, capacity_bytes=gigabytes * 1e9) for one in chip.memory))
    found = timed(chip, model_of(4), batch=4, kv_len=512)
    assert found.fits.all()
    mapping = found.timing.tile_mapping
    along, across, used = (float(np.ravel(one)[0]) for one in (mapping.along, mapping.across, mapping.regions))
    a_layer = (2048 * (2048 + 1024 + 2048) + 3 * 2048 * 8192) * 2 + 4 * 512 * 2 * 4 * 128 * 2
    room = gigabytes * 1e9 * (1 - chip.main_memory.reserve_fraction) * along * across / 4096
    assert np.ceil(4 / used) * a_layer <= room * (1 + 1e-3)


@pytest.mark.parametrize("region", [(4, 8), (8, 4), (2, 12), (8, 8)])
def test_products_of_the_hidden_state_sum_over_the_first_side_and_those_after_them_over_the_second(region):
    """Outputs lie where the next product needs its inputs. Width of 2048 in, 8192 between, 2048 out."""
    chip = chip_of((8, 12), region=region)
    found = timed(chip, model_of(2), "mha").timing
    first, second = region
    for name, outputs, along, across in (("qkv_projection", 3 * 2048, first, second), ("mlp_up", 16384, first, second),
                                         ("output_projection", 2048, second, first), ("mlp_down", 2048, second, first)):
        cycles = float(sum_cycles(np.ceil(outputs / across), along, 2.0, chip.fabric))
        assert float(np.ravel(found.operator_cause_s[name]["link"])[0]) == pytest.approx(2 * cycles / 1e9), name
