"""Stacked reducers: bytes multiply all the way, time only while headroom to the ridge is left."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.foundation.errors import UserError
from simkit.hardware.catalog import load_hardware
from simkit.hardware.profile import HardwareProfile
from simkit.model.catalog import load_model
from simkit.study.stacking import DEFAULT_STACK, parse_stack, stack
from tests.laws import strategies as draw

LLAMA = load_model("llama-2-70b")
LADDER = ["mha", "gqa-16", "gqa-8", "kv=fp8", "kv=int4", "evict=streaming:4+1020"]


def without_overheads(name: str) -> HardwareProfile:
    """A chip of roofs alone: no launch, no calibrated kernel, activations for nothing and room for everything."""
    chip = draw.unbounded(load_hardware(name, overrides={"overheads.kernel_launch": "0 s"}))
    return replace(chip, kernel=None, memory=tuple(replace(level, bandwidth_bytes_per_s=1e18) if level.kind == "cache" else level
                                      for level in chip.memory))


@settings(max_examples=40)
@given(draw.hardware, st.lists(st.sampled_from(LADDER), min_size=2, max_size=6, unique=True), st.integers(1, 64),
       st.integers(1024, 100_000))
def test_more_reducers_never_read_more_and_headroom_never_falls_below_one(chip, chosen, batch, kv_len):
    reducers = sorted(chosen, key=LADDER.index)
    columns = stack(draw.unbounded(chip), LLAMA, reducers, batch=batch, kv_len=kv_len, chips=1)
    saved = columns["cache_saved"]
    assert saved[0] == 1
    # Begun groups of short rows cost scales: a reducer that adds them still stores less than the one before.
    assert np.all(np.diff(saved) >= -1e-12 * saved[:-1])
    assert np.all(columns["headroom"] >= 1)
    assert np.all((columns["attention_share"] > 0) & (columns["attention_share"] <= 1))


@pytest.mark.parametrize("name", ["h100-sxm", "b200-sxm", "mi300x", "tpu-v5p"])
def test_time_follows_bytes_as_long_as_headroom_is_left(name):
    columns = stack(without_overheads(name), LLAMA, ["mha", "gqa-16", "gqa-8", "kv=fp8"], batch=64, kv_len=32768, chips=1)
    assert columns["cache_saved"].tolist() == [1, 4, 8, 16]
    left = columns["headroom"] > 1
    assert left[:2].all()
    # Appended tokens are not part of the attention operator; activations pass for nothing.
    np.testing.assert_allclose(columns["attention_speedup"][left], columns["cache_saved"][left], rtol=1e-3)


def test_time_stops_following_bytes_where_headroom_ends():
    # An H100 whose matrix unit is a hundredth: its ridge is near 3 flops a byte, GQA-16's 4 are beyond it.
    chip = without_overheads("h100-sxm")
    peaks = {name: rate / 100 for name, rate in chip.compute.matrix_peak_flop_per_s.items()}
    slow = replace(chip, compute=replace(chip.compute, matrix_peak_flop_per_s=peaks, vector_peak_flop_per_s=None, matrix_tile_rows=1))
    columns = stack(slow, LLAMA, ["mha", "gqa-16", "gqa-8", "kv=fp8"], batch=64, kv_len=32768, chips=1)
    assert columns["headroom"][0] > 1
    assert columns["headroom"][1:].tolist() == [1, 1, 1]
    # From the ridge on, bytes still multiply and time stands still: S = headroom of the first rung.
    np.testing.assert_allclose(columns["attention_speedup"][1:], columns["headroom"][0], rtol=1e-3)
    assert columns["cache_saved"].tolist() == [1, 4, 8, 16]


def test_headroom_is_the_ridge_over_the_intensity():
    chip = without_overheads("h100-sxm")
    one = replace(chip, compute=replace(chip.compute, matrix_tile_rows=1, vector_peak_flop_per_s=None, special_ops_per_s=None))
    columns = stack(one, LLAMA, ["mha", "gqa-8"], batch=8, kv_len=32768, chips=1)
    ridge = one.compute.matrix_achievable_flop_per_s("bf16") / one.level("hbm").achievable_bytes_per_s
    np.testing.assert_allclose(columns["headroom"], ridge / np.array([1.0, 8.0]), rtol=1e-3)


def test_a_rung_that_verifies_drafts_is_counted_by_token():
    chip = without_overheads("h100-sxm")
    columns = stack(chip, LLAMA, ["gqa-8", "speculate=medusa=4;acceptance=1"], batch=4, kv_len=32768, chips=1)
    # All of 4 proposals are accepted: a cache read serves 5 tokens.
    assert columns["cache_saved"].tolist() == pytest.approx([1, 5])
    assert columns["attention_speedup"][1] == pytest.approx(5, rel=0.01)
    assert 3 < columns["step_speedup"][1] < 5
    assert columns["q_len"].tolist() == [1, 5]


def test_all_rungs_run_on_the_chips_that_the_largest_needs():
    columns = stack(load_hardware("h100-sxm"), LLAMA, list(DEFAULT_STACK), batch=64, kv_len=8192)
    assert len(set(columns["chips"].tolist())) == 1
    assert columns["fits"].all()


def test_words_stay_in_force_until_they_are_replaced():
    stages = parse_stack(["gqa-8", "kv=fp8", "evict=h2o:512+512", "kv=int4"])
    assert [stage.attention for stage in stages] == ["gqa-8"] * 4
    assert dict(stages[2].words) == {"kv_dtype": "fp8", "eviction": "h2o:512+512"}
    assert dict(stages[3].words) == {"kv_dtype": "int4", "eviction": "h2o:512+512"}
    assert stages[3].scenario.kv_dtype == "int4"


@pytest.mark.parametrize(("reducers", "says"), [([], "the stack is empty"), (["kw=fp8"], "unknown reducer 'kw=fp8'"),
                                                (["gqa-7"], "7 KV heads do not divide"), (["kv=bf8"], "unknown KV dtype")])
def test_a_stack_that_makes_no_sense_is_refused_in_words(reducers, says):
    with pytest.raises(UserError, match=says):
        stack(load_hardware("h100-sxm"), LLAMA, reducers, batch=1, kv_len=4096)
