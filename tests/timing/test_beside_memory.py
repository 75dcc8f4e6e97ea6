"""Attention beside the memory that holds its cache: its roofs by hand, its limits, and chips that are such memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simkit
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.study.single_kernel import attention_kernel
from tests.spatial.machines import even_model

CHIPS = st.sampled_from(["h100-sxm", "gaudi2", "tpu-v5e", "tenstorrent-wormhole-n150"])
ENGINES = st.sampled_from(["roofline", "replay"])
HEADS = np.array([32.0, 16.0, 8.0, 4.0, 2.0, 1.0])
INSIDE_RATIO = 8.0  # of the level's reads by its units over its interface


def with_units(name: str, flop_per_byte: float, dtype: str = "fp16", **more: str) -> HardwareProfile:
    """A chip whose main memory has units beside it."""
    home = load_hardware(name).main_memory
    own = f"memory.{home.name}.compute"
    return load_hardware(name, assume="ideal", overrides={
        f"{own}.bandwidth": f"{INSIDE_RATIO * home.bandwidth_bytes_per_s:.17g} B/s",
        f"{own}.flop_per_byte.{dtype}": repr(float(flop_per_byte)), **more})


def times(chip: HardwareProfile, engine: str = "roofline", **more: object) -> np.ndarray:
    return attention_kernel(chip, n_q_heads=32, **{"n_kv_heads": HEADS, "batch": 16, "kv_len": 8192, **more},
                            engine=engine)["time_s"]


def inside_s(chip: HardwareProfile, cache_bytes: object) -> np.ndarray:
    return np.asarray(cache_bytes) / (INSIDE_RATIO * chip.main_memory.achievable_bytes_per_s)


@settings(max_examples=settings.default.max_examples // 5)
@given(CHIPS, ENGINES)
def test_with_endless_arithmetic_attention_takes_its_bytes_inside_and_with_none_what_it_took(name, engine):
    """Scores of MHA are a 128th of its cache, so the interface does not bind there."""
    chip = with_units(name, 1e9)
    found = attention_kernel(chip, n_q_heads=32, n_kv_heads=32, batch=16, kv_len=4096, engine=engine)
    launch_s = chip.overheads.kernel_launch_s
    assert found["time_s"] == pytest.approx(launch_s + inside_s(chip, found["kv_cache_bytes"]), rel=1e-9)
    plain = load_hardware(name, assume="ideal")
    assert np.array_equal(times(with_units(name, 0.0), engine), times(plain, engine))
    assert np.array_equal(times(with_units(name, 1e9, dtype="fp4"), engine), times(plain, engine))  # not its format


@settings(max_examples=settings.default.max_examples // 4)
@given(CHIPS, ENGINES, st.lists(st.floats(0, 64), min_size=2, max_size=2))
def test_units_never_slow_a_chip_and_more_of_their_arithmetic_never_does(name, engine, rates):
    slow, fast = (times(with_units(name, rate), engine) for rate in sorted(rates))
    assert np.all(slow <= times(load_hardware(name, assume="ideal"), engine))
    assert np.all(fast <= slow)


def test_arithmetic_binds_beyond_the_rows_that_meet_its_roof():
    """4 flops a byte are R* = 4 query rows of 16 bits: halving the heads halves the time down to 8 of 32, no further."""
    chip = with_units("h100-sxm", 4.0, **{"overheads.kernel_launch": "0 s"})
    found = times(chip)
    assert found[:2] / found[1:3] == pytest.approx([2, 2])
    assert found[3] == pytest.approx(found[2])  # eight rows: as many multiply-adds as four rows of twice the heads


def test_grouping_gains_less_where_units_multiply_less():
    gains = [float(one[0] / one[-1]) for one in (times(with_units("gaudi2", rate)) for rate in (1.0, 4.0, 16.0, 1e9))]
    assert gains == sorted(gains)
    assert gains[0] < 0.5 * gains[-1]


def test_scores_pass_the_interface_to_be_made_probabilities():
    """By hand: 16 sequences, 32 query heads, 8192 scores of 2 bytes, out and back, and queries and outputs."""
    chip = with_units("h100-sxm", 1e9, **{"memory.hbm.compute.bandwidth": "1 PB/s", "overheads.kernel_launch": "0 s"})
    crossing = 16 * 32 * (2 * 8192 * 2 + 2 * 128 * 2)
    assert times(chip)[0] == pytest.approx(crossing / chip.main_memory.achievable_bytes_per_s, rel=1e-9)


@pytest.mark.parametrize("n_kv_heads", [32, 8])
def test_four_cubes_beside_a_chip_are_four_cubes_of_their_own(n_kv_heads):
    """HBM-PIM as a level of a chip, and as the chip that its own profile describes, with a quarter of the batch."""
    cube = load_hardware("hbm-pim", assume="ideal")
    inside = 4 * cube.main_memory.chip_bandwidth_bytes_per_s
    chip = with_units("h100-sxm", 1.2e12 / cube.main_memory.chip_bandwidth_bytes_per_s, **{
        "memory.hbm.bandwidth": f"{inside / 4:.17g} B/s", "memory.hbm.compute.bandwidth": f"{inside:.17g} B/s",
        "memory.hbm.achievable_fraction": "1", "overheads.kernel_launch": "0 s"})
    ask = {"n_kv_heads": n_kv_heads, "kv_len": 4096}
    assert times(chip, batch=16, **ask) == pytest.approx(times(cube, batch=4, **ask), rel=1e-9)


def test_energy_of_bytes_that_stay_is_unknown_until_it_is_stated():
    def joules(**more: str) -> float:
        chip = with_units("h100-sxm", 1e9, **more)
        return float(simkit.decode_step(chip, even_model(), attention="mha", batch=16, kv_len=8192,
                                        baseline=False)["energy_j_per_token"])

    plain = simkit.decode_step(load_hardware("h100-sxm", assume="ideal"), even_model(), attention="mha", batch=16,
                               kv_len=8192, baseline=False)
    assert np.isnan(joules())
    same, half = (joules(**{"memory.hbm.compute.energy": f"{one} pJ/bit"}) for one in (18.0, 9.0))
    cache_j = float(plain["kv_read_bytes"]) * 8 * 9e-12 / 16
    assert same - half == pytest.approx(cache_j, rel=1e-9)
    assert same < float(plain["energy_j_per_token"])  # the idle watts of less time
