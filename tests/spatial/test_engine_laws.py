"""The spatial engine: its limit is the closed form, it is never faster, and better machines are never slower."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simkit
from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.fabric import Tile
from simkit.hardware.parameters import with_parameter
from simkit.model.catalog import load_model
from tests.reference_data import shipped_chips
from tests.spatial.machines import SLOW, even_model, on_tiles, timed

CHIPS = st.sampled_from(["cerebras-wse2", "groq-lpu", "tpu-v5e", "gaudi2", "tenstorrent-wormhole-n300"])
TOPOLOGIES = st.sampled_from(["mesh", "torus", "ring", "noc", "exchange", "stream"])
SIDES = st.sampled_from([(1, 1), (2, 2), (4, 8), (16, 16), (32, 8), (2, 1)])
LAYOUTS = st.sampled_from(["mha", "gqa-4", "mqa"])


def seconds(*args: object, **kwargs: object) -> np.ndarray:
    return np.asarray(timed(*args, **kwargs).timing.step_time_s)


@settings(max_examples=40)
@given(CHIPS, TOPOLOGIES, SIDES, LAYOUTS, st.sampled_from([1, 2, 16]), st.sampled_from([256, 4096]))
def test_without_cycles_and_with_even_tiles_it_is_the_closed_form(name, topology, sides, layout, batch, kv_len):
    """Every operator, cause and byte: 1e-9. Even tiles: powers of two divide heads, widths and tokens."""
    chip = replace(on_tiles(name, sides, topology), memory=tuple(
        replace(level, capacity_bytes=1e15) for level in on_tiles(name, sides).memory))
    own, closed = (timed(chip, even_model(), layout, engine=engine, batch=batch, kv_len=kv_len).timing
                   for engine in ("spatial", "roofline"))
    assert own.step_time_s == pytest.approx(closed.step_time_s, rel=1e-9)
    for operator, time_s in closed.operator_time_s.items():
        assert own.operator_time_s[operator] == pytest.approx(time_s, rel=1e-9, abs=1e-18), operator
    for level, moved in closed.level_bytes.items():
        assert own.level_bytes[level] == pytest.approx(moved, rel=1e-9)


@settings(max_examples=40)
@given(CHIPS, TOPOLOGIES, st.tuples(st.integers(1, 40), st.integers(1, 40)), LAYOUTS, st.integers(1, 9),
       st.integers(1, 9000), st.booleans())
def test_it_is_never_faster_than_the_roofline_and_its_account_adds_up(name, topology, sides, layout, batch, kv_len, slow):
    chip = on_tiles(name, sides, topology, **(SLOW if slow else {}))
    own = timed(chip, even_model(), layout, batch=batch, kv_len=kv_len).timing
    closed = timed(chip, even_model(), layout, engine="roofline", batch=batch, kv_len=kv_len).timing
    assert np.all(own.step_time_s >= closed.step_time_s * (1 - 1e-9))
    assert own.attention_time_s >= closed.attention_time_s * (1 - 1e-9)
    assert sum(own.operator_time_s.values()) == pytest.approx(own.step_time_s, rel=1e-9)
    assert sum(own.cause_time_s.values()) == pytest.approx(own.step_time_s, rel=1e-9)


@settings(max_examples=40)
@given(CHIPS, TOPOLOGIES, LAYOUTS, st.integers(1, 5), st.integers(1, 9000), st.floats(1, 8), st.data())
def test_better_tiles_links_and_memories_are_never_slower(name, topology, layout, batch, kv_len, factor, data):
    tile = Tile(step_cycles=8.0, port_bytes_per_cycle=24.0, shared_bytes_per_cycle=32.0, exponential_cycles=10.0,
                stationary=(64, 64), fill_bytes_per_cycle=64.0, overlaps=data.draw(st.booleans()))
    chip = on_tiles(name, (8, 16), topology, start_cycles=300.0, tile=tile, link=SLOW["link"])
    fabric, link = chip.fabric, SLOW["link"]
    better = data.draw(st.sampled_from([
        replace(fabric, start_cycles=fabric.start_cycles / factor),
        replace(fabric, tile=replace(tile, step_cycles=tile.step_cycles / factor)),
        replace(fabric, tile=replace(tile, port_bytes_per_cycle=tile.port_bytes_per_cycle * factor)),
        replace(fabric, tile=replace(tile, shared_bytes_per_cycle=tile.shared_bytes_per_cycle * factor)),
        replace(fabric, tile=replace(tile, exponential_cycles=tile.exponential_cycles / factor)),
        replace(fabric, tile=replace(tile, fill_bytes_per_cycle=tile.fill_bytes_per_cycle * factor)),
        replace(fabric, tile=replace(tile, overlaps=True)),
        replace(fabric, link=replace(link, hop_cycles=link.hop_cycles / factor)),
        replace(fabric, link=replace(link, add_cycles=link.add_cycles / factor)),
        replace(fabric, link=replace(link, bytes_per_cycle=link.bytes_per_cycle * factor)),
        replace(fabric, clock_hz=fabric.clock_hz * factor)]))
    faster = replace(chip, memory=tuple(replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * factor)
                                        if level.bandwidth_bytes_per_s else level for level in chip.memory))
    time_s = seconds(chip, even_model(), layout, batch=batch, kv_len=kv_len)
    for one in (replace(chip, fabric=better), faster):
        assert seconds(one, even_model(), layout, batch=batch, kv_len=kv_len) <= time_s * (1 + 1e-9)


@given(st.sampled_from([(8, 8), (16, 32)]), LAYOUTS, st.integers(1, 4000), st.integers(1, 4))
@settings(max_examples=20)
def test_longer_contexts_and_more_sequences_never_take_less(sides, layout, kv_len, batch):
    chip = on_tiles("cerebras-wse2", sides, **SLOW)
    time_s = seconds(chip, even_model(), layout, batch=batch, kv_len=kv_len)
    assert seconds(chip, even_model(), layout, batch=batch, kv_len=2 * kv_len) >= time_s * (1 - 1e-9)
    assert seconds(chip, even_model(), layout, batch=2 * batch, kv_len=kv_len) >= time_s * (1 - 1e-9)


def test_many_points_are_what_single_points_are():
    chip = on_tiles("cerebras-wse2", (64, 64), **SLOW)
    contexts = [1, 77, 1024, 5000]
    together = seconds(chip, even_model(), kv_len=contexts)
    for index, kv_len in enumerate(contexts):
        assert together[index] == pytest.approx(seconds(chip, even_model(), kv_len=kv_len)[0], rel=1e-12)


def test_a_fixed_region_is_a_machine_of_its_size_and_the_free_choice_is_no_slower():
    chip = on_tiles("cerebras-wse2", (512, 512), **SLOW)
    free = seconds(chip, even_model())
    for side in (32, 100, 256, 512):
        fixed = replace(chip, fabric=replace(chip.fabric, region=(side, side)))
        assert free <= seconds(fixed, even_model()) * (1 + 1e-9)


def test_kv_heads_cost_time_on_gpus_and_save_some_on_a_mesh():
    """On a wafer the bytes are nothing; a head shared by more query heads spreads wider: MHA is faster than MQA."""
    chip = on_tiles("cerebras-wse2", (757, 996), **SLOW)
    model = load_model("llama-2-7b")
    attention = {name: float(timed(chip, model, name, kv_len=2048).timing.attention_time_s[0]) for name in ("mha", "mqa")}
    assert attention["mha"] < attention["mqa"]
    closed = {name: float(timed(chip, model, name, kv_len=2048, engine="roofline").timing.attention_time_s[0])
              for name in ("mha", "mqa")}
    assert closed["mha"] >= closed["mqa"]


def test_copies_of_a_head_trade_capacity_for_time():
    """On one region MQA is faster where copies of its head have room."""
    model = load_model("llama-2-7b")
    chip = on_tiles("cerebras-wse2", (757, 996), region=(420, 420), **SLOW)
    chip = replace(chip, memory=tuple(replace(level, capacity_bytes=1e12) for level in chip.memory))
    full = replace(chip, memory=tuple(replace(level, capacity_bytes=18e9) for level in chip.memory))
    with_room, without = (float(timed(one, model, name, kv_len=4096).timing.attention_time_s[0])
                                for one, name in ((chip, "mqa"), (full, "mqa")))
    assert with_room < without


def test_a_systolic_engine_waits_for_its_fill_when_few_rows_share_a_tile():
    """Loading every element of the cache takes twelve times what 16 query rows need of the arithmetic."""
    tile = Tile(stationary=(128, 128), fill_bytes_per_cycle=256.0)
    chip = on_tiles("tpu-v5e", (4, 1), "noc", tile=tile)
    plain = replace(chip, fabric=replace(chip.fabric, tile=Tile()))
    fast = [replace(one, memory=tuple(replace(level, bandwidth_bytes_per_s=1e18) for level in one.memory))
            for one in (chip, plain)]
    filled, free = (float(timed(one, even_model(), "mqa").timing.attention_time_s[0]) for one in fast)
    # Each element is loaded once, 2 bytes at 4 x 256 bytes a cycle of 1 GHz, or multiplied by 16 rows at the peak.
    assert filled / free == pytest.approx((2 / (4 * 256e9)) / (2 * 16 / 197e12), rel=0.01)


def test_a_profile_without_a_fabric_says_what_to_do():
    with pytest.raises(UserError, match="states no fabric"):
        timed(load_hardware("h100-sxm"), even_model())


@pytest.mark.parametrize("key", ["fabric.link.hop_cycles", "fabric.link.add_cycles", "fabric.tile.step_cycles",
                                 "fabric.tile.port_bytes_per_cycle", "fabric.link.bytes_per_cycle", "fabric.start_cycles",
                                 "memory.sram.bandwidth"])
def test_a_parameter_as_an_array_is_what_its_values_are_one_by_one(key):
    chip = load_hardware("cerebras-wse2", assume="ideal")
    chip = replace(chip, fabric=replace(chip.fabric, start_cycles=100.0))
    values = np.array([3.0, 30.0, 5e9]) if not key.startswith("memory") else np.array([1e14, 1e16, 1e18])
    together = seconds(with_parameter(chip, key, values), even_model(), kv_len=[512, 512, 512])
    for index, value in enumerate(values.tolist()):
        assert together[index] == pytest.approx(seconds(with_parameter(chip, key, value), even_model(), kv_len=512)[0],
                                                rel=1e-12)


@pytest.mark.parametrize("name", [chip.name for chip in shipped_chips().values() if chip.fabric is not None])
@pytest.mark.parametrize("assume", ["priors", "ideal"])
def test_every_shipped_chip_with_tiles_is_timed_and_bounded_by_its_bytes(name, assume):
    """Dense heads, latents with an index, states: some of these chips do not know the rate of a nearer memory."""
    chip = load_hardware(name, assume=assume)
    for model in ("llama-3-8b", "deepseek-v3.2", "qwen3.5-122b-a10b"):
        found = simkit.decode_step(chip, model, attention="as-trained", batch=4, kv_len=3000, engine="spatial",
                                   baseline=False)
        if found["fits"]:
            moved = float(found["weight_read_bytes"] + found["kv_read_bytes"]) / float(found["chips"])
            assert float(found["step_time_s"]) > moved / chip.main_memory.chip_bandwidth_bytes_per_s / float(found["pp"])
